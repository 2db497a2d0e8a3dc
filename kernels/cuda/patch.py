"""The part of the recurrent matrix that a thread keeps in registers, and its products: what is compiled.

A patch is a tuple of numbers, row by row. Tuples are values to the compiler, so they stay in registers, and the
products are written out in full: the compiler is not asked to unroll a loop. `simulated.py` has the same names.
"""

from functools import cache

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from .memory import load_stored, real
from .real import I64, call_fma


def _element(context, builder, kind, array, index):
    """A number of a one-dimensional array in shared memory, at an int64 index."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


@cache
def patch_loader(dtype: str, rows: int, columns: int, sums: int):
    """load(address, first_row, rows_end, unit_bytes, sum_bytes, column_bytes, columns_left): a patch.

    Row r is sum r % sums of unit r // sums; rows from `rows_end` on, and columns that are not left, are 0.
    """
    number = real(dtype)
    tuple_type = types.UniTuple(number, rows * columns)

    @intrinsic
    def load(typing, address, first_row, rows_end, unit_bytes, sum_bytes, column_bytes, columns_left):
        def lower(context, builder, sig, args):
            address, first_row, rows_end, unit_bytes, sum_bytes, column_bytes, columns_left = args
            values = []
            for row in range(rows):
                r = builder.add(first_row, ir.Constant(I64, row))
                unit = builder.udiv(r, ir.Constant(I64, sums))
                start = builder.add(address, builder.mul(unit, unit_bytes))
                start = builder.add(start, builder.mul(builder.urem(r, ir.Constant(I64, sums)), sum_bytes))
                for column in range(columns):
                    there = builder.and_(
                        builder.icmp_signed("<", r, rows_end),
                        builder.icmp_signed("<", ir.Constant(I64, column), columns_left),
                    )
                    value = cgutils.alloca_once_value(builder, ir.Constant(number.llvm, 0.0))
                    with builder.if_then(there):
                        place = builder.add(start, builder.mul(ir.Constant(I64, column), column_bytes))
                        builder.store(load_stored(builder, dtype, place), value)
                    values.append(builder.load(value))
            return context.make_tuple(builder, tuple_type, values)

        return tuple_type(*[types.int64] * 7), lower

    return load


@cache
def zeros(dtype: str, count: int):
    """zeros(): that many sums."""
    number = real(dtype)
    tuple_type = types.UniTuple(number, count)

    @intrinsic
    def make(typing):
        def lower(context, builder, sig, args):
            return context.make_tuple(builder, tuple_type, [ir.Constant(number.llvm, 0.0)] * count)

        return tuple_type(), lower

    return make


@cache
def multiplier(dtype: str, rows: int, columns: int, batch: int):
    """multiply(sums, patch, shared, start, column_step, row_step): the sums with a patch's products added.

    sums   (batch, rows) in a tuple
    start  where the operand's first number lies in `shared`; its columns are column_step apart, its rows row_step
    """
    number = real(dtype)
    sums_type = types.UniTuple(number, batch * rows)

    @intrinsic
    def multiply(typing, sums, patch, shared, start, column_step, row_step):
        def lower(context, builder, sig, args):
            sums, patch, shared_value, start, column_step, row_step = args
            totals = cgutils.unpack_tuple(builder, sums, batch * rows)
            weights = cgutils.unpack_tuple(builder, patch, rows * columns)
            for column in range(columns):
                for b in range(batch):
                    index = builder.add(
                        builder.add(start, builder.mul(ir.Constant(I64, column), column_step)),
                        builder.mul(ir.Constant(I64, b), row_step),
                    )
                    value = builder.load(_element(context, builder, shared, shared_value, index))
                    for row in range(rows):
                        place = b * rows + row
                        weight = weights[row * columns + column]
                        totals[place] = call_fma(builder, number, weight, value, totals[place])
            return context.make_tuple(builder, sums_type, totals)

        return sums_type(sums, patch, shared, types.int64, types.int64, types.int64), lower

    return multiply


@cache
def column_multiplier(dtype: str, rows: int, batch: int):
    """multiply(sums, shared, weights, weight_step, start, row_step): as above for one column, whose weights lie in
    `shared` too, weight_step apart.
    """
    number = real(dtype)
    sums_type = types.UniTuple(number, batch * rows)

    @intrinsic
    def multiply(typing, sums, shared, weights, weight_step, start, row_step):
        def lower(context, builder, sig, args):
            sums, shared_value, weights, weight_step, start, row_step = args
            totals = cgutils.unpack_tuple(builder, sums, batch * rows)

            def at(first, number_of_steps, step):
                index = builder.add(first, builder.mul(ir.Constant(I64, number_of_steps), step))
                return builder.load(_element(context, builder, shared, shared_value, index))

            values = [at(start, b, row_step) for b in range(batch)]
            for row in range(rows):
                weight = at(weights, row, weight_step)
                for b in range(batch):
                    place = b * rows + row
                    totals[place] = call_fma(builder, number, weight, values[b], totals[place])
            return context.make_tuple(builder, sums_type, totals)

        return sums_type(sums, shared, *[types.int64] * 4), lower

    return multiply


@cache
def spreader(dtype: str, rows: int, batch: int):
    """spread(sums, shared, start, row_step, batch_step): put sums (batch, rows) into shared memory."""

    @intrinsic
    def spread(typing, sums, shared, start, row_step, batch_step):
        def lower(context, builder, sig, args):
            sums, shared_value, start, row_step, batch_step = args
            for place, total in enumerate(cgutils.unpack_tuple(builder, sums, batch * rows)):
                b, row = divmod(place, rows)
                index = builder.add(
                    builder.add(start, builder.mul(ir.Constant(I64, row), row_step)),
                    builder.mul(ir.Constant(I64, b), batch_step),
                )
                builder.store(total, _element(context, builder, shared, shared_value, index))
            return context.get_dummy_value()

        return types.void(sums, shared, *[types.int64] * 3), lower

    return spread


@cache
def gatherer(dtype: str, count: int):
    """gather(shared, start): a tuple of `count` neighbours in shared memory."""
    number = real(dtype)
    tuple_type = types.UniTuple(number, count)

    @intrinsic
    def gather(typing, shared, start):
        def lower(context, builder, sig, args):
            shared_value, start = args
            values = [
                builder.load(_element(context, builder, shared, shared_value, builder.add(start, ir.Constant(I64, n))))
                for n in range(count)
            ]
            return context.make_tuple(builder, tuple_type, values)

        return tuple_type(shared, types.int64), lower

    return gather
