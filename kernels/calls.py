"""How kernels call each other: by address, with int64 arguments, addresses most of them."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I64, pointer

# of a call's arguments, by the calling convention of x86-64 and Linux
MOST_IN_REGISTERS = 6


@intrinsic
def call(typing, kernel, arguments):
    """Call the kernel at an address with a tuple of int64; it returns nothing.

    More than MOST_IN_REGISTERS are handed over in memory, and the kernel is given their address: it finds them by
    `arguments_at`.
    """
    if not isinstance(arguments, types.UniTuple):
        return None

    def lower(context, builder, sig, args):
        values = cgutils.unpack_tuple(builder, args[1], arguments.count)
        if len(values) > MOST_IN_REGISTERS:
            words = cgutils.alloca_once(builder, ir.ArrayType(I64, len(values)))
            for place, value in enumerate(values):
                builder.store(value, cgutils.gep_inbounds(builder, words, 0, place))
            values = [builder.ptrtoint(words, I64)]
        kind = ir.FunctionType(ir.VoidType(), [I64] * len(values))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, arguments.count)), lower


def load_arguments(builder, address, number):
    """The first arguments of a call that handed them over in memory.

    One by one, which atomic loads see to: several copied at once as a vector would wait until the caller's stores of
    single words have left the processor's store buffer, and those wait for all the arithmetic before them. (Numba's
    entry points copy what does not fit into registers so: a call of a tile took three times as long, Zen 3.)
    """
    places = [builder.add(address, ir.Constant(I64, 8 * place)) for place in range(number)]
    return [builder.load_atomic(pointer(builder, place, I64), "monotonic", 8) for place in places]


@intrinsic(prefer_literal=True)
def arguments_at(typing, address, number):
    """`load_arguments`, as a tuple."""
    if not isinstance(number, types.IntegerLiteral):
        return None
    count = number.literal_value

    def lower(context, builder, sig, args):
        return context.make_tuple(builder, sig.return_type, load_arguments(builder, args[0], count))

    return types.UniTuple(types.int64, count)(types.int64, number), lower
