"""One layer on the CPU kernels, segment by segment of its sequence, with the bits of a single call.

A segment is a call of its own on some consecutive steps. Outputs, and gradients of inputs and states, do not depend on
how a sequence is cut; the weight gradients' sums go on from segment to segment (see `kernels/weight_gradient.py`).
Each direction has its own segments, in its own order of time, so that both are at work at once. In the shapes: `n` rows
of a segment, `B` batch, `D` directions, `R` width of h.
"""

from typing import Any, NamedTuple

import numpy as np

from .copying import states_before
from .cpu import CpuLayer
from .kernels.weight_gradient import BLOCK_ROWS
from .lengths import PackedRows
from .memory import address, empty
from .parameters import PARAMETERS_CHANGED
from .passes import FORWARD_KIND, SAVING_KIND, BackwardArrays, ForwardArrays, PassKind, Where, backward_kind
from .sequence import States
from .watching import NOTHING

Arrays = list[np.ndarray]  # one for each direction
_Values = tuple[tuple[int, ...], ForwardArrays | BackwardArrays]  # of a plan for one direction: numbers, arrays


class Segment(NamedTuple):
    """Consecutive steps: the rows start .. stop - 1 of the sequence."""

    steps: int
    start: int
    stop: int
    rows: PackedRows | None  # where they lie, if sequences have different lengths

    @property
    def number(self) -> int:
        """n, of its rows."""
        return self.stop - self.start

    def behind(self, before: np.ndarray, values: np.ndarray, d: int) -> np.ndarray:
        """The state (B, width) behind it, from the one before it and the values (n, width) of all its steps."""
        if self.rows is not None:
            return self.rows.final(before, values, d == 1)
        return values[: len(before)] if d else values[-len(before) :]


Segments = tuple[Segment, ...]  # those that the directions run at once


class Kept(NamedTuple):
    """What a segment's backward pass needs. The next segment's may have its memory."""

    x: Arrays
    y: Arrays
    states: States  # before it
    gates: np.ndarray  # (D, most rows of any segment, saved planes * H)
    cells: np.ndarray  # (D, most rows, H); empty for a cell without a cell state
    checksums: bytes  # of the weights


class SegmentedLayer:
    """Runs one layer, forward or backward.

    States and their gradients are tuples of (D, B, ·), as in `Sequence`. A method that takes them before a segment
    makes them those behind it, in the order in which it runs.
    """

    def __init__(self, layer: CpuLayer, batch: int, most_rows: int, kept: Kept | None = None) -> None:
        self._layer = layer
        self._batch = batch
        self._most_rows = most_rows  # of any segment
        self._forward_weights = layer.weights.current(layer.weights.forward_layout, also=layer.weights.backward_layout)
        self.kept = kept  # of the segment that `forward_saving` was called with last

    def forward(self, segments: Segments, x: Arrays, y: Arrays, states: States) -> None:
        """From x (n, I) fill each direction's half of its y (n, D*R). Nothing is kept."""
        h, c = _split(states)
        weights = (self._forward_weights.address,)
        each: list[_Values] = [
            (weights, ForwardArrays(x[d], y[d], h[d], c[d], c[d], None, None)) for d in range(len(segments))
        ]
        self._run(FORWARD_KIND, segments, each)
        self._move_on(segments, h, halves(y))

    def forward_saving(self, segments: Segments, x: Arrays, y: Arrays, states: States) -> None:
        """As `forward`, and keep what `backward` needs, the arrays among it."""
        layer = self._layer
        if self.kept is None:
            widths = (len(layer.cell.saved) * layer.hidden_size, layer.hidden_size if layer.cell.has_cell_state else 0)
            gates_room, cells_room = (
                empty((layer.directions, self._most_rows, width), layer.dtype) for width in widths
            )
        else:
            gates_room, cells_room = self.kept.gates, self.kept.cells
        before = tuple([s.copy() for s in states])
        self.kept = Kept(x, y, before, gates_room, cells_room, self._forward_weights.checksums)
        gates, cells = first_rows(segments, gates_room), first_rows(segments, cells_room)
        h, c = _split(states)
        weights = (self._forward_weights.address,)
        each: list[_Values] = [
            (weights, ForwardArrays(x[d], y[d], h[d], c[d], None, gates[d], cells[d])) for d in range(len(segments))
        ]
        self._run(SAVING_KIND, segments, each)
        self._move_on(segments, h, halves(y))
        if layer.cell.has_cell_state:
            self._move_on(segments, c, cells)

    def begin_backward(self) -> None:
        """Begin the sums of the weight gradients. RuntimeError if the weights have changed since `kept` was."""
        layer = self._layer
        self._backward_weights = layer.weights.current(layer.weights.backward_layout)
        assert self.kept is not None
        if not self._backward_weights.are_of(self.kept.checksums):
            raise RuntimeError(PARAMETERS_CHANGED)
        self._dflat, self._open = np.zeros((2, layer.layout.size), layer.dtype)
        self._taken = [0] * layer.directions  # rows that are in these sums

    def backward(self, segments: Segments, dy: Arrays | None, dx: Arrays, dstates: States, more: bool) -> None:
        """Fill dx (n, I) from dy (n, D*R), for the segments that `kept` is of.

        more  whether others will follow
        """
        assert self.kept is not None
        x, y = self.kept.x, self.kept.y
        gates, cells = first_rows(segments, self.kept.gates), first_rows(segments, self.kept.cells)
        (h, c), (dh_0, dc_0) = _split(self.kept.states), _split(dstates)
        keeps_dh, width = self._layer.cell.keeps_dh, self._layer.output_size
        to_open = address(self._open) - address(self._dflat)
        each: list[_Values] = []
        for d, (segment, half) in enumerate(zip(segments, halves(y), strict=True)):
            h_prev = None
            if segment.rows is not None:
                h_prev = np.empty((segment.number, width), half.dtype)
                states_before(segment.rows, h[d], half, d == 1, h_prev)
            dh = empty((len(half), width), half.dtype) if keeps_dh else None
            before = self._taken[d] % BLOCK_ROWS
            numbers = (self._backward_weights.address, to_open, before, int(more))
            arrays = BackwardArrays(
                x[d], y[d], None if dy is None else dy[d], self._dflat, h[d], c[d], gates[d], cells[d], h_prev,
                dh_0[d], dc_0[d], dh, dx[d],
            )  # fmt: skip
            each.append((numbers, arrays))
            self._taken[d] += segment.number
        kind = backward_kind(segments[0].rows is not None, dy is None, False, True)
        self._run(kind, segments, each)

    def gradients(self) -> list[dict[str, np.ndarray]]:
        """For each direction {short name: gradient}, when all segments have been run."""
        return self._layer.named_gradients(self._dflat)

    def _run(self, kind: PassKind, segments: Segments, each: list[_Values]) -> None:
        """`each`: what the plan takes, numbers from the weights on."""
        layer = self._layer
        most = max(s.number for s in segments)
        packed_rows = segments[0].rows is not None
        workers, by_units = layer.sharing.share(most, self._batch, forward=kind.forward, packed_rows=packed_rows)
        numbers: list[int] = []
        arrays: tuple[Any, ...] = ()
        for segment, (own_numbers, own_arrays) in zip(segments, each, strict=True):
            if segment.rows is None:
                numbers += Where(segment.steps, segment.number, 0, 0)
            else:
                numbers += layer.where(segment.rows, workers, by_units)
            numbers += own_numbers
            arrays += own_arrays
        layer.plan(kind, self._batch, workers, by_units).run(NOTHING, numbers, arrays)

    def _move_on(self, segments: Segments, state: np.ndarray, values: Arrays) -> None:
        for d, (segment, own) in enumerate(zip(segments, values, strict=True)):
            state[d] = segment.behind(state[d], own, d)


def first_rows(segments: Segments, room: np.ndarray) -> Arrays:
    """For each direction as many rows of its room, in (D, most rows, width), as its segment has."""
    return [own[: segment.number] for own, segment in zip(room, segments, strict=True)]


def _split(states: States) -> tuple[np.ndarray, Any]:
    """h and c, which is None for each direction of a cell without."""
    return (states[0], states[1]) if len(states) == 2 else (states[0], [None] * len(states[0]))


def halves(y: Arrays) -> Arrays:
    """What belongs to each direction of its y (n, D*R)."""
    width = y[0].shape[-1] // len(y)
    return [own[:, d * width : (d + 1) * width] for d, own in enumerate(y)]
