"""The weights of one layer as the kernels read them, packed again when a parameter has changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .kernels import checksum, packing
from .kernels.locks import new_lock
from .kernels.tile import abreast
from .memory import CACHE_LINE, address, empty, up
from .parameters import Directions, LayerParameters, ParameterLayout
from .prepared import Prepared
from .templates import At, Word

# packing fewer numbers is faster done alone
_ENOUGH_TO_SHARE = 1 << 17
# bytes of one checksum, at most, and of all that are faster taken together
_PIECE_BYTES = 1 << 18
_ENOUGH_TO_CHECK_TOGETHER = 1 << 21
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

    parameter: str  # by its short name
    direction: int
    source: int  # bytes from its beginning
    source_row: int
    words: tuple[int, ...]  # HOW to SUM
    target: int  # bytes from the beginning of what is packed

    def of(self, directions: Directions, start: int) -> tuple[Word, ...]:
        """The words for these parameters, packed from `start` bytes on."""
        source = address(directions[self.direction][self.parameter]) + self.source
        return source, self.source_row, *self.words, At("given", start + self.target)


class Matrices(NamedTuple):
    """Packed, as the kernels read them; `numbers` is to be held until they have."""

    numbers: np.ndarray
    address: int
    checksums: bytes  # of the parameters that they are made of

    def are_of(self, checksums: bytes | None) -> bool:
        """Whether of parameters that had these checksums; of any if they are not known."""
        return checksums is None or self.checksums == checksums


class Pieces(NamedTuple):
    """Memory, and the checksums that it had; not to be written to."""

    table: np.ndarray  # (number * PIECE_WORDS,) int64, as `kernels/checksum.py` has it
    number: int
    address: int  # of the table
    checksums: bytes


NOTHING = Pieces(np.zeros(0, np.int64), 0, 0, b"")


class PackedWeights:
    """How the matrices of one pass, forward or backward, of all directions lie in memory, one behind the other.

    numbers         of memory, whole cache lines
    offsets[d][n]   where matrix n of direction d begins, in bytes: W, then those of the stages
    depths[n]       of its units
    biases[d]       where the planes of biases begin (forward), `padded` numbers apart
    zeros           where a row of zeros begins, as long as any operand
    rows            in numbers: biases and zeros, which are behind all matrices and 0 before they are packed
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
        self.rows = slice(rows // size, self.numbers)
        self.jobs = [
            job
            for d in directions
            for matrix, start in zip(self._matrices, self.offsets[d], strict=True)
            for job in matrix.jobs(d, shapes[matrix.weight][1] * size, start)
        ]
        # a row is a matrix of units along one column: depth 1, of all depth from 0 to 1, and one sum abreast, number 0
        of_row = (packing.ADDED, hidden, 1, 0, 1, 1, 1, 0)
        self.jobs += [
            _Job(name, d, bias.gate * hidden * size, 0, of_row, self.biases[d] + n * bias_bytes)
            for d in directions
            for n, bias in enumerate(biases)
            for name in bias.parameters
            if name in shapes
        ]


class Packing:
    """Packs certain parameters for these passes, as they are at each run."""

    def __init__(self, directions: Directions, passes: Sequence[PackedWeights], dtype: np.dtype) -> None:
        self._dtype = dtype
        self._passes = passes
        jobs: list[Word] = []
        start = 0
        for each in passes:
            for job in each.jobs:
                jobs += job.of(directions, start * dtype.itemsize)
            start += each.numbers
        self._numbers = start
        number = sum(len(each.jobs) for each in passes)
        words = [number, At("words", _WORD * packing.BLOCK_WORDS), *jobs]
        self._prepared = Prepared(f"packing {dtype.name}", words)

    def run(self, checksums: bytes, number: int) -> dict[PackedWeights, Matrices]:
        """Pack into new memory, on up to so many threads. `checksums`: of the parameters."""
        buffer = empty((self._numbers,), self._dtype)
        packed = {}
        own = buffer
        for each in self._passes:
            own[each.rows] = 0
            packed[each] = Matrices(buffer, address(own), checksums)
            own = own[each.numbers :]
        self._prepared.run(number if buffer.size > _ENOUGH_TO_SHARE else 1, address(buffer))
        return packed


class Watched:
    """The memory of some C-contiguous arrays, piece by piece."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        table = [
            word
            for array in arrays
            for start in range(0, array.nbytes, _PIECE_BYTES)
            for word in (address(array) + start, min(_PIECE_BYTES, array.nbytes - start), 0, 0)
        ]
        self._number = len(table) // checksum.PIECE_WORDS
        words: list[Word] = [checksum.NOT_KNOWN, self._number, At("words", _WORD * checksum.BLOCK_WORDS), *table]
        self._look = Prepared(checksum.kernel_name(), words)
        # whether all threads take them
        self.together = sum(array.nbytes for array in arrays) >= _ENOUGH_TO_CHECK_TOGETHER

    def pieces(self, number: int) -> Pieces:
        """The pieces and their checksums as they are now, taken by so many threads."""
        table = self._look.run(number)[checksum.BLOCK_WORDS :]
        checksums = table.reshape(self._number, checksum.PIECE_WORDS)[:, checksum.CHECKSUM :]
        return Pieces(table, self._number, address(table), checksums.tobytes())


class _Source:
    """Parameters in certain arrays: what looks whether they have changed, and what packs them."""

    def __init__(self, directions: Directions, arrays: Sequence[np.ndarray]) -> None:
        self.directions = directions
        self.watched = Watched(arrays)
        self.packing: dict[tuple[PackedWeights, ...], Packing] = {}


class _Known(NamedTuple):
    """Weights as they were when last looked at. Never changed, only replaced: calls look at it without the lock."""

    source: _Source | None  # None if the arrays may have gone
    pieces: Pieces
    packed: dict[PackedWeights, Matrices]  # the passes for which they have been packed


class Weights:
    """The packed weights of both passes, kept as long as no parameter changes.

    Changes are found by checksums of all parameters: a change of one number always shows, changes of several, unless
    they are made for it, are missed with a chance of about 2⁻⁶⁴.

    lanes  units of a group
    own    the parameters that are meant where a call names no other `source`; None if every call does
    available  says how many threads may be used
    """

    def __init__(
        self,
        layout: ParameterLayout,
        own: LayerParameters | None,
        dtype: np.dtype,
        lanes: int,
        available: Callable[[], int],
    ) -> None:
        self.lanes = lanes
        self._dtype = dtype
        self._available = available
        self.forward = PackedWeights(layout, dtype, lanes, backward=False)
        self.backward = PackedWeights(layout, dtype, lanes, backward=True)
        self._own = own
        self._known = _Known(None, NOTHING, {})
        self._changing = False  # whether they had changed when they were last looked at, and so may do at each call
        self._lock = new_lock()

    def expected(
        self,
        weights: PackedWeights,
        source: Directions | None = None,
        also: PackedWeights | None = None,
        checksums: bytes | None = None,
    ) -> tuple[Matrices, Pieces]:
        """The matrices of `forward` or `backward` as they were packed last, and what must not have changed since.

        Arguments as in `current`; and `checksums` that the parameters had a moment ago, if that is known. `current`
        ones where there are none, or they keep changing but for that moment, or more is to be read than one thread
        should.
        """
        directions = self._directions(source)
        known = self._known
        matrices = known.packed.get(weights)
        held = known.source
        same = held is not None and held.directions is directions and not held.watched.together
        if matrices is None or not same or (self._changing and matrices.checksums != checksums):
            return self.current(weights, source, also), NOTHING
        return matrices, known.pieces

    def current(
        self, weights: PackedWeights, source: Directions | None = None, also: PackedWeights | None = None
    ) -> Matrices:
        """The matrices of `forward` or `backward`, packed from the parameters as they are now.

        source  arrays to take in place of the layer's parameters, C-contiguous and with their shapes and dtype
        also    those that will be wanted next, to be packed together with these if these have to be
        """
        directions = self._directions(source)
        known = self._known
        held = known.source
        if held is None or held.directions is not directions:
            held = _Source(directions, self._arrays(directions))
        pieces = held.watched.pieces(self._available() if held.watched.together else 1)
        matrices = known.packed.get(weights)
        if matrices is not None and known.source is held and pieces.checksums == known.pieces.checksums:
            self._changing = False
            return matrices
        with self._lock:
            known = self._known  # another call may have packed them meanwhile
            packed = known.packed
            if pieces.checksums != known.pieces.checksums:
                packed, self._changing = {}, known.pieces is not NOTHING
            matrices = packed.get(weights)
            if matrices is None:
                passes = (weights,) if also is None or also in packed else (weights, also)
                packs = held.packing.get(passes)
                if packs is None:
                    packs = held.packing[passes] = Packing(directions, passes, self._dtype)
                # in new memory: a call in another thread may still read the old
                packed = packed | packs.run(pieces.checksums, self._available())
                matrices = packed[weights]
            self._known = _Known(held, pieces, packed)
            return matrices

    def release(self) -> None:
        """Keep no array of `source`, only what was packed from it."""
        with self._lock:
            self._known = self._known._replace(source=None)

    def _directions(self, source: Directions | None) -> Directions:
        if source is None:
            assert self._own is not None
            return self._own.directions
        return source

    def _arrays(self, directions: Directions) -> list[np.ndarray]:
        """The memory that these parameters are in."""
        if self._own is not None and directions is self._own.directions:
            return [self._own.flat]
        return [array for direction in directions for array in direction.values()]
