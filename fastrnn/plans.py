"""A pass ready to run: argument blocks that were laid out once, and the memory to run them in.

A plan serves calls of any length: how many steps and rows there are is filled in with the addresses.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import threads
from .kernels import checksum, compiled
from .kernels import record as r
from .memory import address, empty
from .templates import Template
from .watching import Pieces

_MOST_IDLE = 2  # workspaces of a plan, besides those in use

_BYTES = np.dtype(np.uint8)


class Plan:
    """One pass: the template of its argument blocks, and workspaces to run it in.

    As many workspaces exist as calls run at once, and a few that wait for the next ones.
    """

    def __init__(self, kernel: str, template: Template, work_bytes: int, workers: int) -> None:
        self.template = template
        self.work_bytes = work_bytes
        self.workers = workers
        self.kernel = compiled.kernel(kernel)
        self.used = False  # again, since the planner made it or last looked at it
        self._alone = threads.runs_alone(workers, template.number)
        self._idle: list[Workspace] = []

    def run(self, pieces: Pieces, numbers: Sequence[int], arrays: tuple[Any, ...]) -> bool:
        """Run, and return whether it was done: only if the memory still has the checksums that `pieces` say.

        numbers, arrays  of all directions, in the template's order; None is an array that the kernels do not look at
        """
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace(self.template, self.work_bytes, self.kernel if self._alone else 0)
        done = workspace.run(pieces, numbers, arrays)
        if done and not self._alone:
            template = self.template
            threads.run(self.kernel, workspace.block_address, self.workers, template.block_bytes, template.number)
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(workspace)
        return done


class Workspace:
    """A block of argument blocks, here or in the array `block`, and the kernels' scratch memory. One call at a time.

    kernel  what `run` runs, on one thread; 0: nothing, it only fills the block in
    """

    def __init__(self, template: Template, work_bytes: int, kernel: int, block: np.ndarray | None = None) -> None:
        self.block = empty((template.words,), np.dtype(np.int64)) if block is None else block
        template.write(self.block)
        self.block_address = address(self.block)
        self._work = empty((work_bytes,), _BYTES)
        record = template.record(self.block, address(self._work), kernel, compiled.kernel(checksum.kernel_name()))
        self._alive = template, record
        self._record, self._record_address = record.data, address(record)
        self._pack = struct.Struct(f"{r.VALUES - r.PIECES + template.numbers}q").pack_into

    def run(self, pieces: Pieces, numbers: Sequence[int], arrays: tuple[Any, ...]) -> bool:
        """As `Plan.run`."""
        # the words from PIECES to TUPLE, and VALUES
        self._pack(self._record, 8 * r.PIECES, pieces.number, pieces.address, id(arrays), *numbers)
        return compiled.run_record(self._record_address)
