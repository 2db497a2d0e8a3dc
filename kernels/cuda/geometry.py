"""The words of int64 that tell a persistent kernel its sizes and addresses; the same code serves every size."""

from enum import IntEnum
from typing import NamedTuple

from .plan import Plan

# of the whole kernel
STEPS, BATCH, BLOCKS, COUNTER, STATUS, PATIENCE, DELAY, PARTIAL, SUMS = range(9)
FIRST_STAGE = 9
STAGE_WORDS = 17


class Stage(IntEnum):
    """Of one stage, from FIRST_STAGE + number * STAGE_WORDS on. Bytes for global memory, numbers for shared."""

    MATRIX = 0  # address of the matrix's element for sum 0 of unit 0, at depth 0
    SUM_BYTES = 1  # from sum to sum of a unit
    UNIT_BYTES = 2  # from unit to unit
    DEPTH_BYTES = 3
    UNITS = 4
    BLOCK_UNITS = 5
    DEPTH = 6
    GROUPS = 7
    SLICES = 8
    COLUMNS_NEEDED = 9
    PADDED = 10
    ROWS = 11
    WEIGHTS = 12  # where in shared memory the columns beyond the registers begin
    EXCHANGE = 13  # address of the operand's two buffers, each (B, depth)
    WIDTH = 14  # of each plane in the operand
    TEAM = 15  # threads that add up the parts of one sum
    SHARE = 16  # of each of them


class Matrix(NamedTuple):
    """Where a stage's matrix lies."""

    address: int
    sum_bytes: int
    unit_bytes: int
    depth_bytes: int


def words(
    plan: Plan,
    steps: int,
    batch: int,
    matrices: list[Matrix],
    exchanges: list[int],
    widths: list[int],
    counter: int,
    status: int,
    patience: int,
    delay: int,
) -> list[int]:
    """All words for one launch.

    exchanges  addresses of the operands' buffers
    widths     numbers of one plane in each operand
    counter, status  addresses of one int64 each, both 0
    patience   how often a block asks whether the others have arrived before it gives up
    delay      0; or, for tests of the barrier, blocks wait up to so many polls more, a different number at each step
    """
    partial = plan.operand_floats
    sums = partial + plan.partial_floats
    weights = sums + plan.sum_floats
    found = [steps, batch, plan.blocks, counter, status, patience, delay, partial, sums]
    for stage, matrix, exchange, width in zip(plan.stages, matrices, exchanges, widths, strict=True):
        row = [0] * STAGE_WORDS
        row[Stage.MATRIX : Stage.UNITS] = matrix
        row[Stage.UNITS] = stage.units
        row[Stage.BLOCK_UNITS] = stage.block_units
        row[Stage.DEPTH] = stage.depth
        row[Stage.GROUPS] = stage.groups
        row[Stage.SLICES] = stage.slices
        row[Stage.COLUMNS_NEEDED] = stage.columns_needed
        row[Stage.PADDED] = stage.padded
        row[Stage.ROWS] = stage.rows
        row[Stage.WEIGHTS] = weights
        row[Stage.EXCHANGE] = exchange
        row[Stage.WIDTH] = width
        row[Stage.TEAM] = stage.team
        row[Stage.SHARE] = stage.share
        found += row
        weights += stage.matrix_floats
    return found
