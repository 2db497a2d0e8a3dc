"""How a persistent kernel divides a cell among a GPU's multiprocessors, what that needs, and which path is faster.

No Numba here, and no GPU: a device is the few figures of `DeviceLimits`.

Every block keeps the rows of the recurrent matrix that belong to its units, for all steps: each thread a patch of
`patch.rows` x `patch.columns` in registers, and the columns that do not fit there in shared memory. Threads that share
rows differ in the columns they sum over; their partial sums meet in shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .planes import Pass


class Patch(NamedTuple):
    """What is compiled into a persistent kernel: threads of a block, rows and columns of the matrix that each keeps in
    registers for one stage, and rows of the batch that are multiplied at once.
    """

    threads: int
    rows: int
    columns: int
    batch: int


# columns are those of all stages together
PATCHES = tuple(Patch(256, 8, columns, batch) for columns in (4, 12) for batch in (1, 4))
# what the compiled kernels may use; the tests hold ptxas to it
REGISTERS_A_THREAD = 255
_FLOAT = 4  # bytes

# In clock cycles, from published figures, not measured: `python -m bench --device cuda` would tell.
_BARRIER = 1100  # arriving at a counter in the second-level cache and seeing the others' arrival
_EXCHANGE = 900  # a round trip to that cache
_BLOCK_SYNC = 40
_PART = 20  # from one part of a sum in shared memory to the next, as the compiled loop has it
_LAUNCH = 4500  # one kernel of a replayed graph after the other
_MULTIPLY_ADDS = 128  # a multiprocessor, in one cycle
_CACHE_BYTES = 32  # from the second-level cache to one multiprocessor, in one cycle
_SHARED_BYTES = 128  # from shared memory, in one cycle


@dataclass(frozen=True)
class DeviceLimits:
    """What the paths depend on."""

    multiprocessors: int
    shared_bytes: int  # that one block may have, when it asks for more than the usual 48 KB
    registers: int  # of a multiprocessor, 32 bits each


@dataclass(frozen=True)
class StagePlan:
    """One stage of a step on one block. Row u * sums + s of a block is sum s of its unit u."""

    sums: int
    units: int  # of the stage
    depth: int  # of its sums
    block_units: int
    patch: Patch

    @property
    def rows(self) -> int:
        """Rows of the matrix that a block has, filled up to whole patches."""
        return -(-self.block_units * self.sums // self.patch.rows) * self.patch.rows

    @property
    def groups(self) -> int:
        return self.rows // self.patch.rows

    @property
    def slices(self) -> int:
        """Threads that share the columns of one row."""
        return self.patch.threads // self.groups

    @property
    def share(self) -> int:
        """How many parts of a sum, one from each slice, one thread adds up: as few as threads allow."""
        team = max(1, min(self.patch.threads // self.sum_floats, self.slices))
        return -(-self.slices // team)

    @property
    def team(self) -> int:
        """How many threads do that for one sum."""
        return -(-self.slices // self.share)

    @property
    def columns_needed(self) -> int:
        return -(-self.depth // self.slices)

    @property
    def shared_columns(self) -> int:
        return max(0, self.columns_needed - self.patch.columns)

    @property
    def padded(self) -> int:
        """Length of an operand's row in shared memory: what patches read beyond its end is 0."""
        return self.slices * max(self.patch.columns, self.columns_needed)

    @property
    def matrix_floats(self) -> int:
        return self.shared_columns * self.patch.rows * self.patch.threads

    @property
    def operand_floats(self) -> int:
        return self.patch.batch * self.padded

    @property
    def partial_floats(self) -> int:
        return self.patch.batch * self.rows * (self.slices | 1)  # from row to row in it an odd number of banks

    @property
    def sum_floats(self) -> int:
        return self.patch.batch * self.rows


@dataclass(frozen=True)
class Plan:
    """A persistent kernel for one pass."""

    blocks: int
    patch: Patch
    stages: tuple[StagePlan, ...]

    @property
    def operand_floats(self) -> int:
        return max(stage.operand_floats for stage in self.stages)

    @property
    def partial_floats(self) -> int:
        return max(stage.partial_floats for stage in self.stages)

    @property
    def sum_floats(self) -> int:
        return max(stage.sum_floats for stage in self.stages)

    @property
    def shared_bytes(self) -> int:
        matrices = sum(stage.matrix_floats for stage in self.stages)
        return _FLOAT * (self.operand_floats + self.partial_floats + self.sum_floats + matrices)

    def fits(self, device: DeviceLimits) -> bool:
        """Whether all blocks can be on the device at once, one on each multiprocessor."""
        return (
            self.blocks <= device.multiprocessors
            and all(stage.groups <= self.patch.threads for stage in self.stages)
            and self.shared_bytes <= device.shared_bytes
            and self.patch.threads * (REGISTERS_A_THREAD + 1) <= device.registers
        )

    def step_cycles(self, batch: int) -> float:
        """An estimate of one step."""
        tiles = -(-batch // self.patch.batch)
        cycles = 0.0
        for stage in self.stages:
            weights = self.patch.rows * self.patch.threads  # of one column of all threads
            column = weights * self.patch.batch / _MULTIPLY_ADDS
            shared_column = max(column, weights * _FLOAT / _SHARED_BYTES)
            multiply = self.patch.columns * column + stage.shared_columns * shared_column
            load = self.patch.batch * stage.depth * _FLOAT / _CACHE_BYTES
            parts = stage.share + stage.team if stage.sum_floats <= self.patch.threads else stage.slices
            reduce = -(-stage.sum_floats // self.patch.threads) * parts * _PART
            cycles += _EXCHANGE + tiles * (multiply + load + reduce + 4 * _BLOCK_SYNC)
            cycles += _BARRIER if self.blocks > 1 else _BLOCK_SYNC
        return cycles


def stage_sizes(run: Pass, hidden: int, output: int) -> list[tuple[int, int, int]]:
    """(sums, units, depth) of each stage of a pass."""
    sizes = []
    for number, stage in enumerate(run.stages):
        units = output if stage.units == "output" else hidden
        width = output if stage.operand[0] in ("h_prev", "dh") else hidden
        sizes.append((run.sums(number), units, len(stage.operand) * width))
    return sizes


def best_plan(
    run: Pass, hidden: int, output: int, batch: int, device: DeviceLimits, patches: Sequence[Patch] = PATCHES
) -> Plan | None:
    """The plan with the shortest estimated step; None if the matrices do not fit on the device."""
    sizes = stage_sizes(run, hidden, output)
    most = min(device.multiprocessors, max(units for _, units, _ in sizes))
    counts = sorted({most, *(2**n for n in range(most.bit_length()) if 2**n <= most)})
    each = [patch._replace(columns=patch.columns // len(sizes)) for patch in patches]
    plans = [plan for n in counts for patch in each if (plan := divide(sizes, n, patch)).fits(device)]
    return min(plans, key=lambda plan: plan.step_cycles(batch), default=None)


def divide(sizes: list[tuple[int, int, int]], blocks: int, patch: Patch) -> Plan:
    """The plan for at most so many blocks: rounding the units of a block up may leave the last ones without any."""
    stages = tuple(StagePlan(sums, units, depth, -(-units // blocks), patch) for sums, units, depth in sizes)
    return Plan(max(-(-stage.units // stage.block_units) for stage in stages), patch, stages)


def plain_step_cycles(run: Pass, hidden: int, output: int, batch: int, device: DeviceLimits) -> float:
    """An estimate of one step of the plain path: two launches a stage, and the product at the device's best."""
    cycles = 0.0
    for sums, units, depth in stage_sizes(run, hidden, output):
        multiply = batch * sums * units * depth / (_MULTIPLY_ADDS * device.multiprocessors)
        read = _FLOAT * sums * units * depth / (_CACHE_BYTES * device.multiprocessors)
        cycles += 2 * _LAUNCH + max(multiply, read)
    return cycles


def faster_persistent(
    run: Pass, hidden: int, output: int, batch: int, device: DeviceLimits, patches: Sequence[Patch] = PATCHES
) -> Plan | None:
    """The best persistent plan if it should be faster than the plain path, else None."""
    plan = best_plan(run, hidden, output, batch, device, patches)
    if plan is None:
        return None
    return plan if plan.step_cycles(batch) < plain_step_cycles(run, hidden, output, batch, device) else None
