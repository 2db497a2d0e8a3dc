"""One stage of a step: a product or two, and the formula on their sums while they are in the first-level cache.

Every large product of this package runs through here, those without a formula too (W x, dL/dx): their `finish` returns
the sums themselves.
"""

from functools import cache

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .block import WORK_WORDS
from .cells import CELLS, plus_direct, same
from .options import INNER
from .planes import backward_planes, forward_planes, plane_numbers
from .simd import CACHE_LINE, I64, Vector, load_counted, pointer, prefetch, store_counted, vectors
from .target import vector_unit
from .tile import abreast, tallest, widest
from .workers import arguments_at, call, quotient, rounded_up

# packed blocks of more bytes than this are read part by part, each for several tiles
_PART_BYTES = 256 * 1024
TILES_AT_ONCE = 8
_TILES_OF_BLOCK = 2 * TILES_AT_ONCE
# accumulators of that many tiles, at most 32 vectors of 64 bytes each
SCRATCH_BYTES = TILES_AT_ONCE * 32 * 64


def _plane_address(builder, table, index, row, offset):
    """Address of the number `offset` bytes into row `row` of the plane at `index` of a work table."""
    address, stride = (
        builder.load(pointer(builder, builder.add(table, ir.Constant(I64, 8 * (WORK_WORDS * index + word))), I64))
        for word in (0, 1)
    )
    return builder.add(builder.add(address, builder.mul(row, stride)), offset)


@cache
def plane_reader(dtype: str, lanes: int, indexes: tuple[int, ...]):
    """An intrinsic that reads one vector from each of these planes, as a tuple."""
    vector = Vector(dtype, lanes)

    @intrinsic
    def read(typing, table, row, offset, count):
        result = types.UniTuple(vector, len(indexes))

        def lower(context, builder, sig, args):
            table, row, offset, count = args
            values = [
                load_counted(builder, vector, _plane_address(builder, table, index, row, offset), count)
                for index in indexes
            ]
            return context.make_tuple(builder, result, values)

        return result(types.int64, types.int64, types.int64, types.int64), lower

    return read


@cache
def plane_writer(dtype: str, lanes: int, indexes: tuple[int, ...]):
    """An intrinsic that writes the first vectors of a tuple, one to each of these planes."""
    vector = Vector(dtype, lanes)

    @intrinsic
    def write(typing, table, row, offset, count, values):
        def lower(context, builder, sig, args):
            table, row, offset, count, values = args
            for position, index in enumerate(indexes):
                value = builder.extract_value(values, position)
                store_counted(builder, vector, _plane_address(builder, table, index, row, offset), count, value)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64, values), lower

    return write


@cache
def plane_fetcher(indexes: tuple[int, ...]):
    """An intrinsic that brings the places of one vector in each of these planes into the second-level cache.

    Called before a product, for what is read and written after it. (Into the first level would be too near: what is
    multiplied passes through it in between, and was measured to be slowed down.)
    """

    @intrinsic
    def fetch(typing, table, row, offset):
        def lower(context, builder, sig, args):
            table, row, offset = args
            for index in indexes:
                prefetch(builder, _plane_address(builder, table, index, row, offset))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), lower

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


def make_stage(direction: str, cell: str, number: str, dtype: str):
    """Stage `number` of a cell: `direction` is "forward", "forward_saving", "backward" or "backward_keeping"."""
    description = CELLS[cell]
    backward, keeping = direction.startswith("backward"), direction == "backward_keeping"
    if backward:
        planes, stage = backward_planes(description, keeping), description.backward[int(number)]
        writes = stage.writes + stage.keeps if keeping else stage.writes
    else:
        planes, stage = forward_planes(description), description.forward[int(number)]
        writes = stage.writes if direction == "forward_saving" else stage.writes[: stage.always]
    return _make(
        dtype,
        plane_numbers(planes, stage.begins),
        stage.start,
        stage.activate,
        plane_numbers(planes, stage.reads),
        stage.finish,
        plane_numbers(planes, writes),
        multiplied=1 if backward else len(stage.gates),
    )


def make_product(sums: str, dtype: str):
    """A stage without a formula: planes 0 .. sums-1 are what the sums begin with, the next are where they go."""
    number = int(sums)
    return _make(dtype, tuple(range(number)), same, same, (), same, tuple(range(number, 2 * number)), multiplied=number)


def make_added_product(dtype: str):
    """A sum that begins with plane 0; plane 1 is added to it, and it goes to plane 2."""
    return _make(dtype, (0,), same, same, (1,), plus_direct, (2,), multiplied=1)


def _make(dtype, begins, start, activate, reads, finish, writes, *, multiplied):
    """A stage that reads and writes these plane numbers of the work table, and has a sum for each of `begins`.

    stage(tile, table, first_row, rows, units, first_group, last_group,
          x, x_stride, x_packed, x_depth, operand, operand_stride, packed, depth, scratch)
    works on the given rows and groups of units. There are two products, each for `multiplied` of the sums: x times its
    matrix is added to the first of them, then the operand times its to the last.
        tile: address of the tile for units of `abreast(multiplied)` sums
        table: address of the work table, (planes, 2): address of row 0 at this step, bytes from row to row
        first_group, last_group: groups from the first up to before the last; or, if the first is larger, downwards from
            before the first to the last
        x, operand: addresses of row 0 of what is multiplied, (rows, depth); depth 0 leaves a product out
        x_packed, packed: addresses of packed matrices (see `packing.py`), of `multiplied` sums
        scratch: address of room for SCRATCH_BYTES of accumulators
    """
    size = vectors(dtype, 1).itemsize
    lanes = vector_unit().lanes(size)
    sums = len(begins)
    # where a tile does not take all sums of a unit, it takes each part of them for a group of its own
    each = abreast(multiplied)
    parts_of_unit = multiplied // each
    most_rows = tallest(each)
    tile_limits = tuple(widest(each, rows) for rows in range(1, most_rows + 1))
    vector_bytes = lanes * size
    unit_bytes = sums * vector_bytes
    part_of_unit_bytes = unit_bytes // parts_of_unit
    line_bytes = each * vector_bytes  # of a tile's group in a packed block, for each k
    unit_line_bytes = multiplied * vector_bytes  # of a group of units
    if parts_of_unit > 1 and sums != multiplied:
        raise ValueError(f"multiplied: tiles that take {each} of {multiplied} sums need all {sums} of them in a row")
    second = (sums - multiplied) * vector_bytes
    read_begins = plane_reader(dtype, lanes, begins)
    read = plane_reader(dtype, lanes, reads)
    write = plane_writer(dtype, lanes, writes)
    fetch = plane_fetcher(tuple(dict.fromkeys(reads + writes)))
    put, get = scratch_access(dtype, lanes, sums)
    start = njit(**INNER)(start)
    activate_sums = njit(**INNER)(activate)
    finish = njit(**INNER)(finish)
    # no Python integers: Numba would compile what is called with them once for each
    part_bytes, tiles_at_once = np.int64(_PART_BYTES), np.int64(TILES_AT_ONCE)
    most_places = max(rows * max(1, tile_limits[rows - 1] // parts_of_unit) for rows in range(1, most_rows + 1))
    if TILES_AT_ONCE * most_places * unit_bytes > SCRATCH_BYTES:
        raise ValueError(f"multiplied: tiles of {multiplied} of {sums} sums need more than {SCRATCH_BYTES} bytes")

    @njit(**INNER)
    def begin(table, first_row, last_row, first_group, last_group, units, place):
        """What the sums of these rows and groups begin with into the scratch memory."""
        for row in range(first_row, last_row):
            for group in range(first_group, last_group):
                unit = group * lanes
                put(place, start(*read_begins(table, row, unit * size, units - unit)))
                fetch(table, row, unit * size)
                place += unit_bytes

    if activate is same:

        @njit(**INNER)
        def activate_all(number, place):
            """Leave the sums as they are."""

    else:

        @njit(**INNER)
        def activate_all(number, place):
            """Activate the sums of `number` units' vectors. On their own: no vector waits for another."""
            for _ in range(number):
                put(place, activate_sums(*get(place)))
                place += unit_bytes

    @njit(**INNER)
    def conclude(table, first_row, last_row, first_group, last_group, units, place):
        """The formula on the sums in the scratch memory."""
        for row in range(first_row, last_row):
            for group in range(first_group, last_group):
                unit = group * lanes
                count = units - unit
                values = get(place) + read(table, row, unit * size, count)
                write(table, row, unit * size, count, finish(*values))
                place += unit_bytes

    @njit(**INNER)
    def multiply(
        tile, first, last, low, taller, line, stride, length, block, rounds, tile_groups, log_groups, part, place,
        following, following_step, piece, turn,
    ):  # fmt: skip
        """Add a product to the sums of 2^log_groups groups in the scratch memory, part by part of its depth.

        first, last, low, taller: for tiles number `first` up to before `last`, of `low` rows or, the first `taller` of
            all, one more
        line, stride, length: the operand's first line, bytes from row to row, and how many numbers a row has
        block: the packed block of the first group
        rounds, tile_groups: a tile takes so many of its groups at a time, and so often for all sums of a unit
        place: of the first sum
        following, following_step: the blocks that are multiplied after this product, and bytes from one to the next.
            Meanwhile each tile fetches a `piece` of what comes next; the first the `turn`th
        """
        groups = 1 << log_groups
        group_bytes = length * line_bytes
        step = unit_bytes if rounds > 1 else part_of_unit_bytes
        pace = min(CACHE_LINE, rounded_up(piece, part))
        for turn_of_unit in range(rounds):
            k = 0
            while k < length:
                depth = min(part, length - k)
                here, block = block, block + depth * line_bytes
                k += depth
                soon, soon_step = block, length * unit_line_bytes
                if k == length and turn_of_unit == rounds - 1:
                    soon, soon_step = following, following_step
                above, row_place = line + (k - depth) * size, place
                for number in range(first, last):
                    rows = low + 1 if number < taller else low
                    nth = turn + number - first
                    fetched = soon + (nth & (groups - 1)) * soon_step + (nth >> log_groups) * piece
                    call(
                        tile,
                        (rows, tile_groups, row_place, step, above, stride, here, group_bytes, depth, fetched, pace),
                    )
                    above += rows * stride
                    row_place += rows * groups * unit_bytes
            place += part_of_unit_bytes

    def stage(key, arguments):
        given = arguments_at(arguments, 16)
        tile, table, first_row, rows, units, first_group, last_group = given[:7]
        x, x_stride, x_packed, x_depth, operand, operand_stride, packed, depth, scratch = given[7:]
        tiles = quotient(rows + most_rows - 1, most_rows)
        if tiles == 0:
            return
        low = quotient(rows, tiles)
        taller = rows - low * tiles  # so many tiles have one row more
        widest_tile = tile_limits[low if taller else low - 1]
        most_groups = max(widest_tile // parts_of_unit, 1)
        deepest = max(x_depth, depth) * unit_line_bytes  # bytes of a group's packed block
        downwards = first_group > last_group
        number_of_groups = first_group - last_group if downwards else last_group - first_group
        # the operands' rows of one block stay in the second-level cache while the groups of units pass by
        for first_of_block in range(0, tiles, _TILES_OF_BLOCK):
            last_of_block = min(first_of_block + _TILES_OF_BLOCK, tiles)
            done = 0
            while done < number_of_groups:
                groups = most_groups
                while groups > number_of_groups - done:
                    groups >>= 1
                group = first_group - done - groups if downwards else first_group + done
                done += groups
                log_groups = (groups > 1) + (groups > 2) + (groups > 4)
                tile_groups = min(groups * parts_of_unit, widest_tile)
                rounds = 1 if tile_groups > 1 else parts_of_unit  # as many as the groups need of such tiles
                # where the packed blocks of these groups outgrow the cache, several tiles share each part of them; and
                # where there are two products, each block
                parts = rounded_up(groups * deepest, part_bytes * rounds)
                sharing = last_of_block - first_of_block
                at_once = 1
                if parts > 1 or (x_depth > 0 and depth > 0):
                    sharing = at_once = rounded_up(sharing, rounded_up(sharing, tiles_at_once))
                piece = rounded_up(rounded_up(deepest, parts * rounds), ((sharing - 1) >> log_groups) + 1)
                next_group = group
                if done < number_of_groups:
                    next_group += -min(groups, number_of_groups - done) if downwards else groups
                first_tile = first_of_block
                while first_tile < last_of_block:  # a `range` with a step divides to count its turns
                    last_tile = min(first_tile + at_once, last_of_block)
                    turn = first_tile - first_of_block if at_once == 1 else 0
                    start_row = first_row + first_tile * low + min(first_tile, taller)
                    end_row = first_row + last_tile * low + min(last_tile, taller)
                    begin(table, start_row, end_row, group, group + groups, units, scratch)
                    for product in range(0 if x_depth > 0 else 1, 2):
                        line, stride, block, length, place = x, x_stride, x_packed, x_depth, scratch
                        other_block, other_length = packed, depth
                        if product == 1:
                            line, stride, block, length, place = operand, operand_stride, packed, depth, place + second
                            other_block, other_length = x_packed, x_depth
                        if other_length == 0:
                            other_block, other_length = block, length
                        step, other_step = length * unit_line_bytes, other_length * unit_line_bytes
                        following = group
                        if (product == 1 or depth == 0) and (at_once == 1 or last_tile == last_of_block):
                            following = next_group
                        multiply(
                            tile, first_tile, last_tile, low, taller, line + start_row * stride, stride, length,
                            block + group * step, rounds, tile_groups, log_groups,
                            max(rounded_up(length, parts), 1), place,
                            other_block + following * other_step, other_step, piece, turn,
                        )  # fmt: skip
                    activate_all((end_row - start_row) * groups, scratch)
                    conclude(table, start_row, end_row, group, group + groups, units, scratch)
                    first_tile = last_tile

    return stage
