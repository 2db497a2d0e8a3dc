"""Several threads on one kernel: how they start, and how they wait for each other.

`prange` on Numba's thread pool starts the workers (about 2 µs); within a kernel they meet at a counter in the argument
block. It only ever grows: the k-th meeting of n workers is over when it reaches k·n.
"""

import os

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .options import OPTIONS
from .simd import I64, declare, pointer
from .words import quotient, smaller


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
def _give_way(typing):
    """Let another thread have this core, where the system has a call for it."""

    def lower(context, builder, sig, args):
        if os.name == "posix":
            builder.call(declare(builder, "sched_yield", ir.IntType(32), []), [])
        return context.get_dummy_value()

    return types.void(), lower


# A step is far shorter than this many looks; whoever waits longer shares its core with the one it waits for.
_LOOKS = 2000
# At the start of a call the others may be waiting for this very core: give way sooner, and after so many times, about a
# second in all where nobody else wants the core, take them not to come.
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
