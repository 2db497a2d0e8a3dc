"""Sequences of different lengths in one batch: the rows of all steps behind each other, without padding.

*Packed*, a batch is sorted by decreasing length, and step t has one row for each sequence that is longer than t: the
layout of PyTorch's PackedSequence. So at each step the first rows of the batch are at work, and nothing is spent on
padding. In the shapes: `T` steps, `B` batch, `N` rows of all steps (the sum of the lengths), `n` any width.
"""

from itertools import pairwise
from typing import Any

import numpy as np


class Packed:
    """Where the rows of a packed batch lie.

    batch_sizes  (T,) integers: how many rows each step has; at least 1, never more than the step before
    batch        B, at least as many as the first step has: the rows beyond have length 0
    """

    def __init__(self, batch_sizes: np.ndarray, batch: int) -> None:
        self.steps = len(batch_sizes)
        self.batch = batch
        # of the steps before step t at t + 1, with one more entry on either side (see `kernels/block.py`)
        self.starts = np.zeros(self.steps + 3, np.int64)
        np.cumsum(batch_sizes, out=self.starts[2:-1])
        self.starts[-1] = self.starts[-2]
        self.total = int(self.starts[-1])
        self.batch_sizes = np.asarray(batch_sizes, np.int64)
        self._shares: dict[int, np.ndarray] = {}
        # row b is there as long as more than b rows are
        self.lengths = self.steps - np.searchsorted(self.batch_sizes[::-1], np.arange(batch), side="right")

    def shares(self, number: int) -> np.ndarray:
        """(number + 1,) int64: where to cut the batch, so that each part has about as many rows of all steps."""
        cuts = self._shares.get(number)
        if cuts is None:
            before = np.cumsum(self.lengths)
            cuts = np.zeros(number + 1, np.int64)
            cuts[1:-1] = np.searchsorted(before, self.total * np.arange(1, number) / number)
            cuts[-1] = self.batch
            self._shares[number] = cuts
        return cuts

    def places(self, row: int) -> np.ndarray:
        """Where the rows of one sequence are, (its length,)."""
        return self.starts[1 : self.lengths[row] + 1] + row

    def final(self, initial: np.ndarray, states: np.ndarray, reverse: bool) -> np.ndarray:
        """The final states (B, n) from the initial ones (B, n) and those after each step (N, n)."""
        result = initial.copy()
        working = int(self.starts[2])
        if reverse:
            result[:working] = states[:working]
        else:
            result[:working] = states[self.starts[self.lengths[:working]] + np.arange(working)]
        return result

    def before(self, initial: np.ndarray, states: np.ndarray, reverse: bool, out: np.ndarray) -> None:
        """The states before each step into `out` (N, n), from the initial ones (B, n) and those after each step (N, n).

        Steps of equally many rows are one run, and all its rows but those of one step move together.
        """
        sizes = [*self.batch_sizes.tolist(), 0]
        starts = self.starts[1:-1].tolist()
        changes = (np.flatnonzero(np.diff(self.batch_sizes)) + 1).tolist()
        for first, last in pairwise([0, *changes, self.steps]):  # the steps first .. last - 1
            size, begin, end = sizes[first], starts[first], starts[last]
            if reverse:
                edge, others = end - size, sizes[last]
                out[begin:edge] = states[begin + size : end]
                out[edge : edge + others] = states[end : end + others]
                out[edge + others : end] = initial[others:size]
            else:
                edge = begin + size
                out[begin:edge] = initial[:size] if first == 0 else states[starts[first - 1] :][:size]
                out[edge:end] = states[begin : end - size]


class Padded:
    """A batch of sequences of the given lengths, (B,) integers from 0 to `steps`, and how to pack it.

    packed   where its rows lie when packed
    """

    def __init__(self, lengths: np.ndarray, steps: int) -> None:
        batch = len(lengths)
        self._shape = (steps, batch)
        self._order = np.argsort(-lengths, kind="stable")
        self._rank = np.empty(batch, np.intp)
        self._rank[self._order] = np.arange(batch)
        longest = int(lengths.max(initial=0))
        sorted_lengths = lengths[self._order]
        sizes = batch - np.searchsorted(sorted_lengths[::-1], np.arange(longest), side="right")
        self.packed = Packed(sizes, batch)
        step = np.repeat(np.arange(longest), sizes)
        row = np.arange(self.packed.total) - np.repeat(self.packed.starts[1:-2], sizes)
        self._places = step * batch + self._order[row]
        padding = np.ones(steps * batch, bool)
        padding[self._places] = False
        self._padding = np.flatnonzero(padding)

    def pack(self, sequence: np.ndarray) -> np.ndarray:
        """(T, B, n), C-contiguous, to (N, n)."""
        return np.take(sequence.reshape(-1, sequence.shape[-1]), self._places, axis=0)

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """(N, n) to (T, B, n), with zeros where a sequence has ended."""
        sequence = np.empty((self._shape[0] * self._shape[1], rows.shape[-1]), rows.dtype)
        sequence[self._places] = rows
        sequence[self._padding] = 0
        return sequence.reshape(*self._shape, rows.shape[-1])

    def sort(self, states: tuple[np.ndarray | None, ...]) -> tuple[Any, ...]:
        """States (·, B, n) in the order of the packed batch; None stays None."""
        return tuple([None if s is None else np.take(s, self._order, axis=1) for s in states])

    def unsort(self, states: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """States (·, B, n) in the order of the caller's batch."""
        return tuple([np.take(s, self._rank, axis=1) for s in states])
