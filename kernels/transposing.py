"""Blocks of numbers transposed in vector registers."""

from functools import cache

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .simd import I32, I64, Vector, load_counted, pointer


@cache
def transpose(dtype: str, lanes: int):
    """An intrinsic that transposes a block of up to lanes x lanes numbers, and adds its rows up.

    target[column][row] = source[row][column] for row < rows, column < columns; zeros fill rows .. lanes - 1 of each
    line of the target, which is `lanes` numbers long. Strides in bytes. Returns the vector `sums` plus row after row.
    """
    vector = Vector(dtype, lanes)

    @intrinsic
    def run(typing, source, source_stride, rows, columns, target, target_stride, sums):
        def lower(context, builder, sig, args):
            source, source_stride, rows, columns, target, target_stride, sums = args
            zero = ir.Constant(I64, 0)
            lines = []
            for row in range(lanes):
                # a row that is not there is read nowhere: its count is 0
                there = builder.icmp_signed("<", ir.Constant(I64, row), rows)
                count = builder.select(there, columns, zero)
                offset = builder.mul(source_stride, ir.Constant(I64, row))
                lines.append(load_counted(builder, vector, builder.add(source, offset), count))
                sums = builder.fadd(sums, lines[-1])
            # log2(lanes) rounds; in each, lines half a block apart are interleaved
            half = lanes // 2
            index = ir.VectorType(I32, lanes)
            low = ir.Constant(index, [i // 2 + (lanes if i % 2 else 0) for i in range(lanes)])
            high = ir.Constant(index, [lanes // 2 + i // 2 + (lanes if i % 2 else 0) for i in range(lanes)])
            for _ in range(lanes.bit_length() - 1):
                woven = []
                for i in range(half):
                    woven.append(builder.shuffle_vector(lines[i], lines[i + half], low))
                    woven.append(builder.shuffle_vector(lines[i], lines[i + half], high))
                lines = woven
            for column, line in enumerate(lines):
                with builder.if_then(builder.icmp_signed("<", ir.Constant(I64, column), columns), likely=True):
                    offset = builder.mul(target_stride, ir.Constant(I64, column))
                    place = pointer(builder, builder.add(target, offset), vector.llvm)
                    builder.store(line, place).align = vector.element.itemsize
            return sums

        return vector(*[types.int64] * 6, vector), lower

    return run
