"""The argument block of a packing call, laid out once for all calls (see `kernels/packing.py`)."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from .kernels import packing
from .memory import address
from .parameters import Directions
from .templates import At, Word, relocations

_WORD = 8


def of_parameter(name: str, direction: int, offset: int) -> At:
    """A place in a parameter, by its short name."""
    return At(f"{name} {direction}", offset)


def of_packed(offset: int) -> At:
    """A place in what is packed."""
    return At("packed", offset)


class PackingBlock:
    """Jobs, as words, of one call; `filled` adds the addresses."""

    def __init__(self, jobs: Sequence[Sequence[Word]]) -> None:
        header: list[Word] = [0] * packing.HEADER_WORDS
        header[packing.JOBS] = len(jobs)
        header[packing.JOB_TABLE] = At("block", _WORD * packing.HEADER_WORDS)
        words, places = relocations([*header, *chain(*jobs)])
        self._words = np.array(words, np.int64)
        self._places = np.array([place for place, _ in places])
        parameters = dict.fromkeys(buffer for _, buffer in places if buffer not in ("block", "packed"))
        buffers = ["block", "packed", *parameters]
        self._which = np.array([buffers.index(buffer) for _, buffer in places])
        self._parameters = [(name, int(direction)) for name, direction in map(str.split, parameters)]

    def filled(self, directions: Directions, packed: int) -> np.ndarray:
        """A block for these parameters, and a buffer at that address."""
        words = self._words.copy()
        parameters = [address(directions[direction][name]) for name, direction in self._parameters]
        words[self._places] += np.array([address(words), packed, *parameters])[self._which]
        return words
