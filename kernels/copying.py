"""The rows of a batch copied from one layout to another, step by step.

A layout is packed, where a table of starts says how many rows the steps before each have (see `block.py`), or has
the whole batch at every step.
"""

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .options import INNER
from .simd import I8, pointer
from .words import larger, load_word, smaller
from .workers import share

# of the argument block of a copying call (the header's first words are the workers' as everywhere)
STEPS = 8  # of the target
BATCH = 9
ROW_BYTES = 10
TARGET = 11  # address of its rows, one behind the other; they overlap nothing that is read
TARGET_STARTS = 12  # address of its starts, or 0 for the whole batch at every step
ORDER = 13  # address of (BATCH,): row b of the target's step is row ORDER[b] of the source's; 0 where that is b
SHIFT = 14  # step t of the target is step t + SHIFT of the source
SOURCE = 15
SOURCE_ROW = 16  # bytes from row to row
SOURCE_STARTS = 17
SOURCE_STEPS = 18
OTHER = 19  # where row ORDER[b] is taken from if the source's step has no such row
OTHER_ROW = 20


@intrinsic
def _copy(typing, target, source, size):
    """So many bytes, of any contents."""

    def lower(context, builder, sig, args):
        target, source = (pointer(builder, address, I8) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), lower


@njit(**INNER)
def rows_before(starts, batch, step):
    """How many rows the steps before `step` have; starts 0: the whole batch each."""
    return step * batch if starts == 0 else load_word(starts, step + 1)


def make_copying():
    """copy(thread, threads, block): the threads share the target's rows."""

    def copy(thread, threads, block):
        steps = load_word(block, STEPS)
        batch = load_word(block, BATCH)
        size = load_word(block, ROW_BYTES)
        starts = load_word(block, TARGET_STARTS)
        order = load_word(block, ORDER)
        source_row = load_word(block, SOURCE_ROW)
        source_starts = load_word(block, SOURCE_STARTS)
        source_steps = load_word(block, SOURCE_STEPS)
        first, last = share(rows_before(starts, batch, steps), thread, threads)
        for step in range(steps):
            begin = rows_before(starts, batch, step)
            end = rows_before(starts, batch, step + 1)
            step_there = step + load_word(block, SHIFT)
            source = load_word(block, SOURCE)
            there = 0
            if 0 <= step_there < source_steps:
                before = rows_before(source_starts, batch, step_there)
                there = rows_before(source_starts, batch, step_there + 1) - before
                source += before * source_row
            for number in range(larger(first, begin), smaller(last, end)):
                row = number - begin
                if order != 0:
                    row = load_word(order, row)
                if row < there:
                    place = source + row * source_row
                else:
                    place = load_word(block, OTHER) + row * load_word(block, OTHER_ROW)
                _copy(load_word(block, TARGET) + number * size, place, size)

    return copy
