"""The argument block of a packing call, laid out once for all calls (see `kernels/packing.py`)."""

import itertools
from typing import NamedTuple

import numpy as np

from .kernels import packing
from .memory import address
from .parameters import Directions


class Source(NamedTuple):
    direction: int
    name: str  # short, of a parameter
    offset: int  # bytes from its beginning


class Job(NamedTuple):
    """What packs a matrix, or a part of its depth."""

    source: Source
    how: tuple[int, ...]  # the words between the addresses
    target: int  # offset in the buffer

    def words(self) -> tuple[int, ...]:
        return (self.source.offset, *self.how, self.target)


class Row(NamedTuple):
    """What makes a row, the sum of at most two others."""

    sources: list[Source]
    numbers: int
    length: int
    target: int

    def words(self) -> tuple[int, ...]:
        first, second = ([source.offset for source in self.sources] + [0, 0])[:2]
        return (first, second, self.numbers, self.length, self.target)


class PackingBlock:
    """Jobs and rows; addresses are offsets until those of the parameters and of the buffer are added for a call."""

    def __init__(self, jobs: list[Job], rows: list[Row]) -> None:
        job_places = [packing.HEADER_WORDS + n * packing.JOB_WORDS for n in range(len(jobs))]
        row_table = packing.HEADER_WORDS + len(jobs) * packing.JOB_WORDS
        row_places = [row_table + n * packing.ROW_WORDS for n in range(len(rows))]
        self._tables = packing.HEADER_WORDS, row_table
        header = [0] * packing.HEADER_WORDS
        header[packing.JOBS], header[packing.ROWS] = len(jobs), len(rows)
        tables = itertools.chain(*[job.words() for job in jobs], *[row.words() for row in rows])
        self._words = np.array([*header, *tables], np.int64)
        targets = [n + packing.TARGET for n in job_places] + [n + packing.ROW_TARGET for n in row_places]
        sources = [(n + packing.SOURCE, job.source) for n, job in zip(job_places, jobs, strict=True)]
        for n, row in zip(row_places, rows, strict=True):
            sources += [(n + place, source) for place, source in zip(packing.ROW_SOURCES, row.sources, strict=False)]
        self._targets = np.array(targets)
        self._sources = np.array([place for place, _ in sources])
        self._parameters = list(dict.fromkeys((source.direction, source.name) for _, source in sources))
        self._which = np.array([self._parameters.index((source.direction, source.name)) for _, source in sources])

    def filled(self, directions: Directions, target: int) -> np.ndarray:
        """A block for these parameters, and a buffer at that address."""
        words = self._words.copy()
        addresses = np.array([address(directions[d][name]) for d, name in self._parameters])
        words[self._sources] += addresses[self._which]
        words[self._targets] += target
        start = address(words)
        words[packing.JOB_TABLE], words[packing.ROW_TABLE] = [start + 8 * n for n in self._tables]
        return words
