"""Several threads on one kernel: how they start, and how they wait for each other.

`prange` on Numba's thread pool starts the workers (about 2 µs); within a kernel they meet at a counter in the argument
block. It only ever grows: the k-th meeting of n workers is over when it reaches k·n.
"""

import os

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .options import INNER, OPTIONS
from .simd import I64, declare, pointer

# of a call's arguments, by the calling convention of x86-64 and Linux
MOST_IN_REGISTERS = 6


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
    """number / divisor, rounded up. What is at hand is often 1, and a division is slow beside a small tile."""
    if divisor == 1:
        return number
    if number <= divisor:
        return 1
    return quotient(number + divisor - 1, divisor)


@intrinsic
def _add(typing, address, value):
    def lower(context, builder, sig, args):
        return builder.atomic_rmw("add", pointer(builder, args[0], I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), lower


@intrinsic
def _look(typing, address):
    def lower(context, builder, sig, args):
        return builder.load_atomic(pointer(builder, args[0], I64), "acquire", 8, typ=I64)

    return types.int64(types.int64), lower


@intrinsic
def _replace(typing, address, expected, value):
    """Write `value` if `expected` is there; say whether it was."""

    def lower(context, builder, sig, args):
        place = pointer(builder, args[0], I64)
        result = builder.cmpxchg(place, args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), lower


@intrinsic
def _pause(typing):
    """Tell the processor that this is a spin loop."""

    def lower(context, builder, sig, args):
        triple = builder.module.triple
        if triple.startswith(("x86", "i386", "i686")):
            builder.call(declare(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif triple.startswith(("aarch64", "arm64")):
            hint = declare(builder, "llvm.aarch64.hint", ir.VoidType(), [ir.IntType(32)])
            builder.call(hint, [ir.Constant(ir.IntType(32), 1)])  # yield
        return context.get_dummy_value()

    return types.void(), lower


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


@intrinsic
def _give_way(typing):
    """Let another thread have this core, where the system has a call for it."""

    def lower(context, builder, sig, args):
        if os.name == "posix":
            builder.call(declare(builder, "sched_yield", ir.IntType(32), []), [])
        return context.get_dummy_value()

    return types.void(), lower


# A step is far shorter than this many looks; whoever waits longer shares its core with the one it waits for.
_LOOKS = 2000
# At the start of a call the others may be waiting for this very core: give way sooner, and after about a second in all
# take them not to come.
_LOOKS_AT_START = 200
_PATIENCE = 200000
_ABANDONED = -(2**40)


@njit(**OPTIONS)
def meet(counter, target):
    """Wait until the workers of this kernel have been here `target` times in all."""
    _add(counter, 1)
    looks = 0
    while _look(counter) < target:
        _pause()
        looks += 1
        if looks >= _LOOKS:
            _give_way()
            looks = 0


@njit(**OPTIONS)
def gather(counter, threads):
    """Whether all threads have come; if one does not, none works."""
    if _add(counter, 1) < 0:
        return False
    looks = 0
    rounds = 0
    while True:
        here = _look(counter)
        if here < 0:
            return False
        if here >= threads:
            return True
        _pause()
        looks += 1
        if looks >= _LOOKS_AT_START:
            _give_way()
            looks = 0
            rounds += 1
            if rounds >= _PATIENCE and _replace(counter, here, _ABANDONED):
                return False


@njit(**OPTIONS)
def share(number, thread, threads):
    """The part [first, last) of `number` things that this thread takes; parts differ by one at most."""
    each = quotient(number, threads)
    more = number - each * threads
    first = thread * each + smaller(thread, more)
    return first, first + each + (1 if thread < more else 0)
