"""On which processors the threads of a team run: each on its own.

The system may wake a thread on the processor of the one that waits for it. The others then stand idle until the next
tick of its clock looks for a better place, 4 ms later: longer than many a call. So a thread that finds another of its
team on its processor leaves it, by asking for the free ones only; afterwards it may use the same set as before.

Linux only; elsewhere nothing is done.
"""

import sys

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .options import OPTIONS
from .simd import I32, I64, declare, pointer
from .words import load_word, store_word

_LINUX = sys.platform.startswith("linux")
_SET_WORDS = 16  # 1024 processors, as many as the C library's own sets hold
_SET_BYTES = 8 * _SET_WORDS


@intrinsic
def _processor(typing):
    """The number of the processor that this thread runs on; negative where that cannot be known."""

    def lower(context, builder, sig, args):
        if not _LINUX:
            return ir.Constant(I64, -1)
        return builder.sext(builder.call(declare(builder, "sched_getcpu", I32, []), []), I64)

    return types.int64(), lower


def _affinity(name):
    """An intrinsic that reads or sets, at an address, which processors this thread may use; whether it succeeded."""

    @intrinsic
    def function(typing, address):
        def lower(context, builder, sig, args):
            if not _LINUX:
                return ir.Constant(ir.IntType(1), 0)
            place = pointer(builder, args[0], I64)
            called = declare(builder, name, I32, [I32, I64, place.type])
            this_thread = ir.Constant(I32, 0)
            result = builder.call(called, [this_thread, ir.Constant(I64, _SET_BYTES), place])
            return builder.icmp_signed("==", result, ir.Constant(I32, 0))

        return types.boolean(types.int64), lower

    return function


_get_affinity = _affinity("sched_getaffinity")
_set_affinity = _affinity("sched_setaffinity")


@intrinsic
def _room_for_sets(typing):
    """The address of room on the stack for two sets of processors."""

    def lower(context, builder, sig, args):
        return builder.ptrtoint(cgutils.alloca_once(builder, I64, 2 * _SET_WORDS), I64)

    return types.int64(), lower


@intrinsic
def _set_bits(typing, address, bits):
    """Set these bits of the int64 at an address, atomically; what was there before."""

    def lower(context, builder, sig, args):
        return builder.atomic_rmw("or", pointer(builder, args[0], I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), lower


@njit(**OPTIONS)
def part_company(taken):
    """Leave this processor if another thread of the team has come to it before.

    taken  address of an int64 of the team's, 0 before the first one comes: bit p says that one is on processor p, or on
           one of the same number modulo 64
    """
    here = _processor()
    if here < 0:
        return
    bit = 1 << (here & 63)
    before = _set_bits(taken, bit)
    if before & bit == 0:
        return
    allowed = _room_for_sets()
    free = allowed + _SET_BYTES
    if not _get_affinity(allowed):
        return
    some = 0
    for number in range(_SET_WORDS):
        word = load_word(allowed, number) & ~before
        store_word(free, number, word)
        some |= word
    if some != 0 and _set_affinity(free):
        _set_affinity(allowed)
        _set_bits(taken, 1 << (_processor() & 63))
