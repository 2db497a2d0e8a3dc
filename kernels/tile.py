"""The register tile: the one place where numbers are multiplied and added in bulk.

A tile holds rows x groups x sums vectors in registers and runs along the depth k:

    sums[row, group, j] += operand[row, k] * packed[group, k, j]          (j-th sum of the group's units)

Each vector is a group of adjacent units, so each element of the result is one chain of fused multiply-adds over
increasing k that starts from what is in `sums`. Tile shapes decide only what is computed side by side, never the
order within a chain: results have the same bits for any of them.

The tiles are written as LLVM functions, one for each shape, behind one switch; letting LLVM inline them would multiply
the compile time for nothing.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .calls import arguments_at, load_arguments
from .simd import CACHE_LINE, I64, Vector, call_fma, lanes_of, pointer, prefetch, splat
from .target import vector_unit

# the tallest tiles, (rows, groups), for units of 1 to 4 sums: by how many vector registers there are. Besides the
# accumulators, registers hold a row of packed vectors and a broadcast element.
_TALLEST = {32: {1: (6, 4), 2: (6, 2), 3: (8, 1), 4: (6, 1)}, 16: {1: (6, 2), 2: (6, 1), 3: (4, 1)}}
# Tiles of so few rows are done with what is packed faster than it comes from the second-level cache; with 16 registers
# each brings it into the first level, so many bytes ahead. (Zen 3: a row of an LSTM 1.05 to 1.25 times as fast. Not for
# single sums, whose blocks pass by in too small pieces; nor with 32 registers and AVX-512, where it gave 0.93 to 1.02.)
_ROWS_AHEAD = {32: 0, 16: 2}
_BYTES_AHEAD = 512
# at most so many vectors abreast in the low tiles: enough independent chains to hide the multiply-add's latency
_VECTORS_ABREAST = 8


def abreast(sums: int) -> int:
    """How many of a unit's sums one tile takes; they are divided where too few rows would fit beside all of them.

    With 16 registers and 4 sums these would be 2 rows: what is packed was then read from the second-level cache faster
    than that can give it, and the product ran at 0.65 of the speed of 2 sums and 6 rows.
    """
    return sums if sums in _TALLEST[vector_unit().registers] else sums // 2


def tallest(sums: int) -> int:
    """The most rows of a tile whose units have `sums` sums each."""
    return _TALLEST[vector_unit().registers][sums][0]


def widest(sums: int, rows: int) -> int:
    """The most groups, a power of two, abreast in a tile of that many rows."""
    registers = vector_unit().registers
    most_rows, most_groups = _TALLEST[registers][sums]
    accumulators = most_rows * most_groups * sums
    groups = 1
    while True:
        vectors_abreast = 2 * groups * sums
        held = vectors_abreast if rows > 1 else 1  # what meets one row only is multiplied from memory
        needed = rows * vectors_abreast + held + 1
        if vectors_abreast > _VECTORS_ABREAST or rows * vectors_abreast > accumulators or needed > registers:
            return groups
        groups *= 2


def shapes(sums: int) -> list[tuple[int, int]]:
    """All (rows, groups) for which there is a tile."""
    return [(rows, 1 << log) for rows in range(1, tallest(sums) + 1) for log in range(widest(sums, rows).bit_length())]


def _define_tile(module, name, vector, rows, groups, sums):
    """void tile(arguments): the tile for that many rows and groups, of a call with the arguments below."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    size = vector.element.itemsize
    vector_bytes = vector.lanes * size
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    entry = builder.block
    given = load_arguments(builder, function.args[0], 12)
    _, _, accumulators, row_step, step, operand, operand_stride, packed, group_stride, depth, soon, pace = given
    loop = function.append_basic_block("loop")
    done = function.append_basic_block("done")

    def access(kind, address):
        return pointer(builder, address, kind)

    def accumulator(index):
        row, group = divmod(index // sums, groups)
        line = builder.add(accumulators, builder.mul(row_step, ir.Constant(I64, row)))
        unit = builder.add(line, builder.mul(step, ir.Constant(I64, group)))
        return access(vector.llvm, builder.add(unit, ir.Constant(I64, index % sums * vector_bytes)))

    begin = []
    for index in range(rows * groups * sums):
        value = builder.load(accumulator(index))
        value.align = size
        begin.append(value)
    row_pointers = [
        access(vector.element.llvm, builder.add(operand, builder.mul(operand_stride, ir.Constant(I64, row))))
        for row in range(rows)
    ]
    group_pointers = [
        access(vector.llvm, builder.add(packed, builder.mul(group_stride, ir.Constant(I64, group))))
        for group in range(groups)
    ]
    builder.branch(loop)

    builder.position_at_end(loop)
    k = builder.phi(I64)
    k.add_incoming(ir.Constant(I64, 0), entry)
    sums_before = []
    for value in begin:
        phi = builder.phi(vector.llvm)
        phi.add_incoming(value, entry)
        sums_before.append(phi)
    weights = []
    first_vector = builder.mul(k, ir.Constant(I64, sums))
    streams = sums > 1 and rows <= _ROWS_AHEAD[vector_unit().registers]
    if not streams:
        prefetch(builder, builder.add(soon, builder.mul(k, pace)))
    for group in range(groups):
        if streams:
            here = builder.ptrtoint(builder.gep(group_pointers[group], [first_vector], source_etype=vector.llvm), I64)
            for offset in range(0, sums * vector_bytes, CACHE_LINE):
                prefetch(builder, builder.add(here, ir.Constant(I64, _BYTES_AHEAD + offset)), level=1)
        for index in range(sums):
            place = builder.gep(
                group_pointers[group],
                [builder.add(first_vector, ir.Constant(I64, index))],
                source_etype=vector.llvm,
            )
            value = builder.load(place, typ=vector.llvm)
            value.align = size
            weights.append(value)
    sums_after = []
    for row in range(rows):
        place = builder.gep(row_pointers[row], [k], source_etype=vector.element.llvm)
        element = splat(builder, builder.load(place, typ=vector.element.llvm), vector.lanes)
        for index, weight in enumerate(weights):
            sums_after.append(call_fma(builder, weight, element, sums_before[row * groups * sums + index]))
    for before, after in zip(sums_before, sums_after, strict=True):
        before.add_incoming(after, loop)
    k_next = builder.add(k, ir.Constant(I64, 1))
    k.add_incoming(k_next, loop)
    builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)

    builder.position_at_end(done)
    for index, value in enumerate(sums_after):
        builder.store(value, accumulator(index)).align = size
    builder.ret_void()
    return function


def make_tile(sums: str, dtype: str):
    """Make the tiles for units of that many sums, behind one switch.

    tile(rows, groups, accumulators, row_step, step, operand, operand_stride, packed, group_stride, depth, soon, pace)
        rows, groups: one of `shapes(sums)`
        accumulators: [row][group] places, `row_step` and `step` bytes apart, of [sum] vectors, read and written
        operand: [row] lines, `operand_stride` bytes apart, of `depth` numbers; depth is positive
        packed: [group] blocks, `group_stride` bytes apart, of [k][sum] vectors
        soon: what lies from here on will be needed soon, and is brought nearer, `pace` bytes for each of `depth`
    """
    number = int(sums)
    vector = Vector(dtype, lanes_of(dtype))

    @intrinsic
    def choose(typing, shape, arguments):
        def lower(context, builder, sig, args):
            shape, arguments = args
            done = builder.append_basic_block("multiplied")
            unreachable = builder.append_basic_block("no_such_tile")
            switch = builder.switch(shape, unreachable)
            for rows, groups in shapes(number):
                name = f"tile_{rows}x{groups}"
                tile = _define_tile(builder.module, name, vector, rows, groups, number)
                case = builder.append_basic_block(name)
                switch.add_case(ir.Constant(I64, (rows << 8) + groups), case)
                with builder.goto_block(case):
                    builder.call(tile, [arguments])
                    builder.branch(done)
            builder.position_at_end(unreachable)
            builder.unreachable()
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), lower

    def tile(arguments):
        rows, groups = arguments_at(arguments, 2)
        choose((rows << 8) + groups, arguments)

    return tile
