"""Argument blocks that are laid out once for a shape, and only told addresses at each call.

While a block is laid out, memory is `At(buffer, offset)`. The template keeps the offsets and, for each buffer, the
words that its address is to be added to: what a linker calls relocations. Numbers that differ from call to call, as
the number of steps, are filled in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .kernels import block as b
from .kernels import record as r
from .memory import CACHE_LINE, address, up

_WORD = 8


class At(NamedTuple):
    """A place in a buffer: its name, and bytes from its beginning."""

    buffer: str
    offset: int = 0

    def __add__(self, offset: int) -> "At":  # type: ignore[override]
        return At(self.buffer, self.offset + offset)


Word = int | At


def relocations(words: Sequence[Word]) -> tuple[list[int], list[tuple[int, str]]]:
    """The words with offsets in the place of addresses; and which of them are in which buffer."""
    offsets = [word.offset if isinstance(word, At) else word for word in words]
    return offsets, [(i, word.buffer) for i, word in enumerate(words) if isinstance(word, At)]


@dataclass(frozen=True)
class Plane:
    """Where a slab of numbers lies at each step of the loop (see `kernels/block.py`); rows in bytes."""

    rest: At
    row: int
    moves: int = b.FIXED
    edge: int = b.NOWHERE
    edge_address: Word = 0
    edge_row: int = 0

    def words(self) -> tuple[Word, ...]:
        return (self.rest, self.moves, self.row, self.edge, self.edge_address, self.edge_row)


Table = Sequence[Sequence[Word]]


class Description(NamedTuple):
    """One direction's block while it is laid out."""

    header: Mapping[int, Word]  # by slot
    planes: Mapping[str, Plane]  # by name
    tables: Mapping[int, Table]  # others, by slot


class Template:
    """The blocks of all directions, one behind the other in `words`, and what is to be filled in.

    A call gives `numbers` and `arrays` of these names; and there is the buffer "work", which stays where it is.
    """

    def __init__(
        self,
        descriptions: Sequence[Description],
        planes: Sequence[str],
        workers: int,
        numbers: Sequence[str],
        arrays: Sequence[str],
    ) -> None:
        number = up(len(planes), CACHE_LINE // (_WORD * b.WORK_WORDS))  # a worker's table fills whole cache lines
        unused = (0,) * b.PLANE_WORDS
        flat: list[Word] = []
        for description in descriptions:
            start = len(flat)
            rows = [description.planes[name].words() for name in planes] + [unused] * (number - len(planes))
            tables: dict[int, Table] = {
                b.PLANE_TABLE: rows,
                b.WORK_TABLE: [[0] * (number * b.WORK_WORDS)] * workers,
                **description.tables,
            }
            block: list[Word] = [0] * b.HEADER_WORDS
            for slot, word in description.header.items():
                block[slot] = word
            block[b.PLANES] = number
            for slot, table in tables.items():
                block += [0] * (-len(block) % (CACHE_LINE // _WORD))
                block[slot] = At("block", _WORD * (start + len(block)))
                block += [word for row in table for word in row]
            flat += block + [0] * (-len(block) % (CACHE_LINE // _WORD))
        self.block_bytes = _WORD * (len(flat) // len(descriptions))
        self.number = len(descriptions)
        self._words, places = relocations(flat)
        self._own = np.array([i for i, buffer in places if buffer == "block"])
        self.numbers, self._arrays = len(numbers), len(arrays)
        words = {"work": r.WORK} | {name: r.VALUES + n for n, name in enumerate((*numbers, *arrays))}
        # the counters are set to 0 at every call
        starts = range(0, len(flat), self.block_bytes // _WORD)
        counters = [(start + word, r.ZERO) for start in starts for word in (b.COUNTER, b.PROCESSORS)]
        others = [(i, words[buffer]) for i, buffer in places if buffer != "block"] + counters
        self._table = np.array([(_WORD * i, _WORD * word, self._words[i]) for i, word in others], np.int64)

    @property
    def words(self) -> int:
        """The length of a block."""
        return len(self._words)

    def write(self, block: np.ndarray) -> None:
        """Make a block, complete but for the buffers' addresses, in this array of `words` int64 at a cache line."""
        block[:] = self._words
        block[self._own] += address(block)

    def record(self, block: np.ndarray, work: int, kernel: int, checksum_kernel: int) -> np.ndarray:
        """The record of calls on this block (see `kernels/record.py`), with scratch memory at `work`.

        kernel  what each call runs on one thread; 0: nothing, the block is only filled in
        checksum_kernel  what looks whether memory has changed before
        """
        array_words = r.VALUES + self.numbers
        record = np.zeros(array_words + self._arrays, np.int64)
        record[[r.BLOCK, r.FILLS, r.FILL_TABLE]] = address(block), len(self._table), address(self._table)
        record[[r.KERNEL, r.TEAMS, r.BLOCK_BYTES]] = kernel, self.number if kernel else 0, self.block_bytes
        record[r.CHECKSUM] = checksum_kernel
        record[[r.NONE, r.ARRAYS, r.ARRAY_WORDS, r.WORK]] = id(None), self._arrays, array_words, work
        return record
