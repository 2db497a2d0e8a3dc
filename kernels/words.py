"""int64 words, of which all that kernels are told consists: in memory, and arithmetic on them."""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .options import INNER
from .simd import I64, pointer


def _place_of_word(builder, address, number):
    return pointer(builder, builder.add(address, builder.mul(number, ir.Constant(I64, 8))), I64)


@intrinsic
def load_word(typing, address, number):
    """The int64 that is the `number`th at a byte address."""

    def lower(context, builder, sig, args):
        return builder.load(_place_of_word(builder, *args), typ=I64)

    return types.int64(types.int64, types.int64), lower


@intrinsic
def store_word(typing, address, number, value):
    """Write the int64 that is the `number`th at a byte address."""

    def lower(context, builder, sig, args):
        builder.store(args[2], _place_of_word(builder, *args[:2]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), lower


@intrinsic
def quotient(typing, number, divisor):
    """number / divisor rounded down, neither of them negative: `//` would ask for signs, with more instructions."""

    def lower(context, builder, sig, args):
        return builder.udiv(*args)

    return types.int64(types.int64, types.int64), lower


def _choice(ordering):
    @intrinsic
    def choose(typing, a, b):
        def lower(context, builder, sig, args):
            return builder.select(builder.icmp_signed(ordering, *args), *args)

        return types.int64(types.int64, types.int64), lower

    return choose


# of two int64; `min` and `max` Numba would compile as functions, once for each kind of arguments
smaller, larger = _choice("<"), _choice(">")


@njit(**INNER)
def rounded_up(number, divisor):
    """number / divisor, rounded up; at least 1 where the divisor is not 1.

    What is at hand is often 1, and a division is slow beside a small tile.
    """
    if divisor == 1:
        return number
    if number <= divisor:
        return 1
    return quotient(number + divisor - 1, divisor)
