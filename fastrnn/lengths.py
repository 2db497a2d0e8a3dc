"""Sequences of different lengths in one batch: the rows of all steps behind each other, without padding.

*Packed*, a batch is sorted by decreasing length, and step t has one row for each sequence that is longer than t: the
layout of PyTorch's PackedSequence. So at each step the first rows of the batch are at work, and nothing is spent on
padding. In the shapes: `T` steps, `B` batch, `N` rows of all steps (the sum of the lengths), `n` any width.
"""

from typing import Any

import numpy as np


class PackedRows:
    """Where the rows of a packed batch lie.

    batch_sizes  (T,) integers: how many rows each step has; at least 1, never more than the step before
    batch        B, at least as many as the first step has: the rows beyond have length 0
    """

    def __init__(self, batch_sizes: np.ndarray, batch: int, lengths: np.ndarray | None = None) -> None:
        """`lengths`: those of the rows, if they are known, (B,) int64."""
        self.steps = len(batch_sizes)
        self.batch = batch
        # of the steps before step t at t + 1, with one more entry on either side (see `kernels/block.py`)
        self.starts = np.zeros(self.steps + 3, np.int64)
        np.add.accumulate(batch_sizes, out=self.starts[2:-1])
        self.starts[-1] = self.starts[-2]
        self.total = int(self.starts[-1])
        self.batch_sizes = np.asarray(batch_sizes, np.int64)
        self._shares: dict[int, np.ndarray] = {}
        if lengths is None:  # row b is there as long as more than b rows are
            lengths = self.steps - self.batch_sizes[::-1].searchsorted(np.arange(batch), side="right")
        self.lengths = lengths

    def shares(self, number: int) -> np.ndarray:
        """(number + 1,) int64: where to cut the batch, so that each part has about as many rows of all steps."""
        cuts = self._shares.get(number)
        if cuts is None:
            before = np.zeros(self.batch + 1, np.int64)
            np.cumsum(self.lengths, out=before[1:])
            even = self.total * np.arange(number + 1) / number
            cuts = np.searchsorted(before, even)
            below = np.maximum(cuts - 1, 0)
            cuts = np.where(even - before[below] < before[cuts] - even, below, cuts)
            cuts[-1] = self.batch
            cuts = self._shares.setdefault(number, cuts)  # kernels may read another thread's
        return cuts

    def places(self, row: int) -> np.ndarray:
        """Where the rows of one sequence are, (its length,)."""
        return self.starts[1 : self.lengths[row] + 1] + row

    def final(self, initial: np.ndarray, states: np.ndarray, reverse: bool) -> np.ndarray:
        """The final states (B, n) from the initial ones (B, n) and those after each step (N, n)."""
        working = int(self.starts[2])
        result = initial.copy()
        last = states if reverse else states[self.starts[self.lengths[:working]] + np.arange(working)]
        result[:working] = last[:working]
        return result


class Padded:
    """A batch of sequences of the given lengths, (B,) int64 from 0 to `steps`, and how to pack it.

    rows    where they lie when packed
    order   (B,) which row of the caller's batch each row of the packed batch is
    rank    (B,) the other way round
    """

    def __init__(self, lengths: np.ndarray, steps: int) -> None:
        batch = len(lengths)
        self.steps = steps
        self.order = (-lengths).argsort(kind="stable")
        self.rank = self.order.argsort()
        longest_first = lengths[self.order]
        step = np.arange(longest_first[0] if batch else 0)
        sizes = batch - longest_first[::-1].searchsorted(step, side="right")
        self.rows = PackedRows(sizes, batch, longest_first)

    def pack(self, sequence: np.ndarray) -> np.ndarray:
        """(T, B, n), C-contiguous, to (N, n). `copying.pack` does the same on the kernels."""
        kept = np.arange(self.steps)[:, None] < self.rows.lengths
        return sequence[:, self.order][kept]

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """(N, n), C-contiguous, to (T, B, n), with zeros where a sequence has ended; as `copying.unpack`."""
        kept = np.arange(self.steps)[:, None] < self.rows.lengths
        longest_first = np.zeros((*kept.shape, rows.shape[-1]), rows.dtype)
        longest_first[kept] = rows
        return longest_first[:, self.rank]

    def sort(self, states: tuple[np.ndarray | None, ...]) -> tuple[Any, ...]:
        """States (·, B, n) in the order of the packed batch; None stays None."""
        return tuple([None if s is None else s.take(self.order, axis=1) for s in states])

    def unsort(self, states: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """States (·, B, n) in the order of the caller's batch."""
        return tuple([s.take(self.rank, axis=1) for s in states])
