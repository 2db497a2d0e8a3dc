"""Memory for what a forward pass keeps for the backward pass, handed on from one to the next.

The system hands large arrays out page by page: a training loop would spend a tenth of its time on that.
"""

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from .memory import empty

# kept memory may be so many times as large as what a pass needs of it
_MOST_ROOM = 4
# it is let go after so many passes in a row that need none
_MOST_WITHOUT = 100


class Memory(NamedTuple):
    """For gates and cell states of all steps, and the flat arrays that they are at the beginning of."""

    lead: tuple[int, ...]  # (T, B) or (N,)
    flats: list[np.ndarray]
    gates: np.ndarray
    cells: np.ndarray


class KeptMemory:
    """What the last backward pass of a layer has used up serves the next forward pass, if it fits.

    widths  of gates and cell states, for each row of each direction; 0: there are none
    """

    def __init__(self, directions: int, widths: tuple[int, int], dtype: np.dtype) -> None:
        self._directions = directions
        self._widths = widths
        self._dtype = dtype
        self._idle: deque[Memory] = deque(maxlen=1)
        self._without = 0  # so many passes have not asked for it since the last one that did

    def take(self, lead: tuple[int, ...]) -> Memory:
        """For (T, B) or (N,) rows: gates (D, T, B, width) and cell states; these are (0,) where there are none."""
        self._without = 0
        try:
            idle = self._idle.pop()
        except IndexError:
            flats = None
        else:
            if idle.lead == lead:
                return idle
            flats = idle.flats
        shapes = [(self._directions, *lead, width) if width else (0,) for width in self._widths]
        sizes = [math.prod(each) for each in shapes]
        if flats is None or not all(n <= len(m) <= _MOST_ROOM * n for n, m in zip(sizes, flats, strict=True)):
            flats = [empty((n,), self._dtype) for n in sizes]
        return Memory(lead, flats, *(m[:n].reshape(each) for m, n, each in zip(flats, sizes, shapes, strict=True)))

    def give_back(self, memory: Memory) -> None:
        """Nobody reads it any more."""
        self._idle.append(memory)

    def not_needed(self) -> None:
        """A pass keeps nothing."""
        self._without += 1
        if self._without >= _MOST_WITHOUT:
            self._idle.clear()
