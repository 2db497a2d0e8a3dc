"""Weights in the order in which the kernels read them: where each matrix lies, and what packs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .kernels import packing
from .kernels.tile import abreast
from .memory import CACHE_LINE, address, empty, up
from .parameters import Directions, ParameterLayout
from .prepared import Prepared
from .templates import At, Word
from .watching import may_be_same

# packing fewer numbers is faster done alone
_ENOUGH_TO_SHARE = 1 << 17
_WORD = 8


@dataclass(frozen=True)
class _Matrix:
    """What a packed matrix is made of: `gates` of a weight, as sums of its rows or along its rows."""

    weight: str
    gates: tuple[int, ...]
    turned: bool  # True: a unit is a row of the weight and has a sum for each gate; False: a unit is a column
    height: int  # rows of a gate
    units: int
    depth: int
    offset: int  # bytes from the start of the direction

    @property
    def sums(self) -> int:
        return len(self.gates) if self.turned else 1

    @property
    def abreast(self) -> int:
        return abreast(self.sums)

    def jobs(self, direction: int, row: int, start: int) -> list["_Job"]:
        """What packs it. `row`: bytes from row to row of the weight; `start`: where the direction's matrix begins."""
        jobs = []
        for n, gate in enumerate(self.gates):
            if self.turned:
                filled = (packing.ROWS, self.units, self.depth, 0, self.depth, self.sums, self.abreast, n)
            else:
                filled = (packing.COLUMNS, self.units, self.height, n * self.height, self.depth, 1, 1, 0)
            jobs.append(_Job(self.weight, direction, gate * self.height * row, row, filled, start))
        return jobs


class _Job(NamedTuple):
    """Packs a part of a parameter, as words of `kernels/packing.py`."""

    parameter: str | None  # by its short name; None for zeros
    direction: int
    source: int  # bytes from its beginning
    source_row: int
    words: tuple[int, ...]  # HOW to SUM
    target: int  # bytes from the beginning of what is packed

    def of(self, directions: Directions, start: int) -> tuple[Word, ...]:
        """The words for these parameters, packed from `start` bytes on."""
        source = 0
        if self.parameter is not None:
            source = address(directions[self.direction][self.parameter]) + self.source
        return source, self.source_row, *self.words, start + self.target


class Matrices(NamedTuple):
    """Packed, as the kernels read them; `numbers` is to be held until they have."""

    numbers: np.ndarray
    address: int
    checksums: bytes  # of the parameters that they are made of

    def are_of(self, checksums: bytes | None) -> bool:
        """Whether of parameters that had these checksums; of any if they are not known."""
        return checksums is None or may_be_same(self.checksums, checksums)


class MatrixLayout:
    """How the matrices of one pass, forward or backward, of all directions lie in memory, one behind the other.

    numbers         of memory, whole cache lines
    offsets[d][n]   where matrix n of direction d begins, in bytes: W, then those of the stages
    depths[n]       of its units
    biases[d]       where the planes of biases begin (forward), `padded` numbers apart
    zeros           where a row of zeros begins, as long as any operand
    jobs            what packs them
    """

    def __init__(self, layout: ParameterLayout, dtype: np.dtype, lanes: int, backward: bool) -> None:
        size = dtype.itemsize
        cell, shapes, hidden = layout.cell, layout.shapes, layout.hidden_size
        wanted: list[tuple[str, tuple[int, ...]]] = []
        if backward:
            wanted.append(("weight_ih", cell.input_gradient[1]))
            wanted += [(stage.weight, stage.gates) for stage in cell.backward]
        else:
            wanted.append(("weight_ih", cell.input_gates))
            wanted += [(stage.weight, stage.gates) for stage in cell.forward]
        self._matrices: list[_Matrix] = []
        offset = 0
        for weight, gates in wanted:
            width, columns = shapes[weight]
            height = width if weight == "weight_hr" else width // cell.gates
            units, depth = (columns, len(gates) * height) if backward else (height, columns)
            matrix = _Matrix(weight, gates, not backward, height, units, depth, offset)
            self._matrices.append(matrix)
            offset = up(offset + up(units, lanes) * depth * matrix.sums * size, CACHE_LINE)
        self.padded = up(hidden, CACHE_LINE // size)
        biases = () if backward else cell.biases
        directions = range(layout.num_directions)
        self.offsets = [[d * offset + m.offset for m in self._matrices] for d in directions]
        self.depths = [m.depth for m in self._matrices]
        rows = len(directions) * offset
        bias_bytes = self.padded * size
        self.biases = [rows + d * len(biases) * bias_bytes for d in directions]
        self.zeros = rows + len(directions) * len(biases) * bias_bytes
        longest = max(max(shape) for shape in shapes.values())
        self.numbers = (self.zeros + up(longest * size, CACHE_LINE)) // size
        self.jobs = [
            job
            for d in directions
            for matrix, start in zip(self._matrices, self.offsets[d], strict=True)
            for job in matrix.jobs(d, shapes[matrix.weight][1] * size, start)
        ]

        def row(how: int, units: int) -> tuple[int, ...]:
            """A matrix of units along one column: depth 1, of all depth from 0 to 1, and one sum abreast, number 0."""
            return how, units, 1, 0, 1, 1, 1, 0

        for d in directions:
            for n, bias in enumerate(biases):
                place = self.biases[d] + n * bias_bytes
                start, added = bias.gate * hidden * size, row(packing.ADDED, hidden)
                self.jobs.append(_Job(None, d, 0, 0, row(packing.ZEROS, hidden), place))
                self.jobs += [_Job(name, d, start, 0, added, place) for name in bias.parameters if name in shapes]
        self.jobs.append(_Job(None, 0, 0, 0, row(packing.ZEROS, longest), self.zeros))


class Packing:
    """Packs certain parameters for these passes, as they are at each run."""

    def __init__(self, directions: Directions, passes: Sequence[MatrixLayout], dtype: np.dtype) -> None:
        self._dtype = dtype
        self._starts: dict[MatrixLayout, int] = {}  # in bytes
        jobs: list[Word] = []
        numbers = 0
        for each in passes:
            self._starts[each] = start = numbers * dtype.itemsize
            for job in each.jobs:
                jobs += job.of(directions, start)
            numbers += each.numbers
        self._numbers = numbers
        number = sum(len(each.jobs) for each in passes)
        words = [number, At("words", _WORD * packing.BLOCK_WORDS), At("given"), *jobs]
        self._prepared = Prepared(f"packing {dtype.name}", words)

    def run(self, checksums: bytes, number: int) -> dict[MatrixLayout, Matrices]:
        """Pack into new memory, on up to so many threads. `checksums`: of the parameters."""
        buffer = empty((self._numbers,), self._dtype)
        begin = address(buffer)
        self._prepared.run(number if self._numbers > _ENOUGH_TO_SHARE else 1, begin)
        return {each: Matrices(buffer, begin + start, checksums) for each, start in self._starts.items()}
