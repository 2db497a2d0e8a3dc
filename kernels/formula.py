"""Formulas on sums: what comes before and after the products of a stage (see `stage.py`).

The sums of a few rows and groups of units lie in scratch memory, [row][group] places of [sum] vectors. One call of a
formula puts there what they begin with; another, when the products have been added, works on them and writes what
comes of them to the planes.
"""

from functools import cache

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .block import WORK_WORDS
from .calls import arguments_at
from .cells import CELLS, plus_direct, same
from .options import INNER
from .planes import backward_planes, forward_planes, plane_numbers
from .simd import ELEMENTS, I64, Vector, lanes_of, load_counted, pointer, prefetch, store_counted

BEGIN, FINISH = 0, 1  # what a call of a formula does


@cache
def row_places(indexes: tuple[int, ...]):
    """An intrinsic: the addresses of one row of each of these planes of a work table, as a tuple."""

    @intrinsic
    def places(typing, table, row):
        result = types.UniTuple(types.int64, len(indexes))

        def lower(context, builder, sig, args):
            table, row = args

            def word(index, number):
                place = builder.add(table, ir.Constant(I64, 8 * (WORK_WORDS * index + number)))
                return builder.load(pointer(builder, place, I64), typ=I64)

            values = [builder.add(word(index, 0), builder.mul(row, word(index, 1))) for index in indexes]
            return context.make_tuple(builder, result, values)

        return result(types.int64, types.int64), lower

    return places


@cache
def plane_access(dtype: str, lanes: int, number: int):
    """Two intrinsics for one vector at the same offset in each of `number` planes' rows: read a tuple, and write one.

    Of a tuple with more vectors the first are written.
    """
    vector = Vector(dtype, lanes)
    rows = types.UniTuple(types.int64, number)

    def addresses(builder, places, offset):
        return [builder.add(place, offset) for place in cgutils.unpack_tuple(builder, places, number)]

    @intrinsic
    def read(typing, places, offset, count):
        result = types.UniTuple(vector, number)

        def lower(context, builder, sig, args):
            places, offset, count = args
            values = [load_counted(builder, vector, place, count) for place in addresses(builder, places, offset)]
            return context.make_tuple(builder, result, values)

        return result(rows, types.int64, types.int64), lower

    @intrinsic
    def write(typing, places, offset, count, values):
        def lower(context, builder, sig, args):
            places, offset, count, values = args
            for position, place in enumerate(addresses(builder, places, offset)):
                store_counted(builder, vector, place, count, builder.extract_value(values, position))
            return context.get_dummy_value()

        return types.void(rows, types.int64, types.int64, values), lower

    return read, write


@cache
def plane_fetcher(number: int):
    """An intrinsic that brings the places of one vector in each of `number` planes' rows into the second-level cache.

    Called before a product, for what is read and written after it. (Into the first level would be too near: what is
    multiplied passes through it in between, and was measured to be slowed down.)
    """

    @intrinsic
    def fetch(typing, places, offset):
        def lower(context, builder, sig, args):
            for place in cgutils.unpack_tuple(builder, args[0], number):
                prefetch(builder, builder.add(place, args[1]))
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, number), types.int64), lower

    return fetch


@cache
def scratch_access(dtype: str, lanes: int, number: int):
    """Two intrinsics: store a tuple of `number` vectors at an address, and load it again."""
    vector = Vector(dtype, lanes)
    tuple_type = types.UniTuple(vector, number)

    def place(builder, address, position):
        offset = ir.Constant(I64, position * lanes * vector.element.itemsize)
        return pointer(builder, builder.add(address, offset), vector.llvm)

    @intrinsic
    def put(typing, address, values):
        def lower(context, builder, sig, args):
            for position, value in enumerate(cgutils.unpack_tuple(builder, args[1], number)):
                builder.store(value, place(builder, args[0], position)).align = vector.element.itemsize
            return context.get_dummy_value()

        return types.void(types.int64, tuple_type), lower

    @intrinsic
    def get(typing, address):
        def lower(context, builder, sig, args):
            values = []
            for position in range(number):
                value = builder.load(place(builder, args[0], position), typ=vector.llvm)
                value.align = vector.element.itemsize
                values.append(value)
            return context.make_tuple(builder, tuple_type, values)

        return tuple_type(types.int64), lower

    return put, get


def make_formula(direction: str, cell: str, number: str, dtype: str):
    """That of a cell's stage `number`: `direction` is "forward", "forward_saving", "backward" or "backward_keeping"."""
    description = CELLS[cell]
    backward, keeping = direction.startswith("backward"), direction == "backward_keeping"
    if backward:
        planes, stage = backward_planes(description, keeping), description.backward[int(number)]
        writes = stage.writes + stage.keeps if keeping else stage.writes
    else:
        planes, stage = forward_planes(description), description.forward[int(number)]
        writes = stage.writes if direction == "forward_saving" else stage.writes[: stage.always]
    numbers = (plane_numbers(planes, names) for names in (stage.begins, stage.reads, writes))
    return _make(dtype, *numbers, stage.activate, stage.finish)


def make_sums(sums: str, dtype: str):
    """None: planes 0 .. sums-1 are what the sums begin with, the next are where they go."""
    number = int(sums)
    return _make(dtype, tuple(range(number)), (), tuple(range(number, 2 * number)), same, same)


def make_added_sum(dtype: str):
    """Of a sum that begins with plane 0: plane 1 is added to it, and it goes to plane 2."""
    return _make(dtype, (0,), (1,), (2,), same, plus_direct)


@cache
def _inlined(function):
    """Compiled once for all formulas that it is part of."""
    return njit(**INNER)(function)


def _make(dtype, begins, reads, writes, activate, finish):
    """A formula that reads and writes these plane numbers of the work table, and has a sum for each of `begins`.

    formula(part, table, first_row, last_row, first_group, last_group, units, place)
        part: BEGIN or FINISH, on the sums of these rows and groups
        table: address of the work table, (planes, 2): address of row 0 at this step, bytes from row to row
        place: address of the sums
    """
    size, lanes = ELEMENTS[dtype].itemsize, lanes_of(dtype)
    unit_bytes = len(begins) * lanes * size
    begin_places, read_places, write_places = map(row_places, (begins, reads, writes))
    read_begins, _ = plane_access(dtype, lanes, len(begins))
    read, _ = plane_access(dtype, lanes, len(reads))
    _, write = plane_access(dtype, lanes, len(writes))
    needed = tuple(dict.fromkeys(reads + writes))
    needed_places, fetch = row_places(needed), plane_fetcher(len(needed))
    put, get = scratch_access(dtype, lanes, len(begins))
    activate_sums, finish_sums = _inlined(activate), _inlined(finish)
    activates = activate is not same

    def formula(arguments):
        part, table, first_row, last_row, first_group, last_group, units, place = arguments_at(arguments, 8)
        if part == BEGIN:
            for row in range(first_row, last_row):
                begin_rows, needed_rows = begin_places(table, row), needed_places(table, row)
                for group in range(first_group, last_group):
                    unit = group * lanes
                    put(place, read_begins(begin_rows, unit * size, units - unit))
                    fetch(needed_rows, unit * size)
                    place += unit_bytes
            return
        if activates:  # on their own: no vector waits for another
            sums = place
            for _ in range((last_row - first_row) * (last_group - first_group)):
                put(sums, activate_sums(*get(sums)))
                sums += unit_bytes
        for row in range(first_row, last_row):
            read_rows, write_rows = read_places(table, row), write_places(table, row)
            for group in range(first_group, last_group):
                unit = group * lanes
                values = get(place) + read(read_rows, unit * size, units - unit)
                write(write_rows, unit * size, units - unit, finish_sums(*values))
                place += unit_bytes

    return formula
