"""Backward passes that keep few states, and compute the steps between them again.

`vjp` keeps gates and cell states of all T steps. Here a sequence is cut into segments of about sqrt(T) steps. The pass
forward keeps the states before each of them, and of the last one all that `vjp` keeps. The pass backward goes from the
last segment to the first, and runs each but the last forward again from its states. So kept are sqrt(T) states and what
the gradients of sqrt(T) steps need, for about one forward pass more.

The layers of one direction go through each segment together: what lies between two of them is never there for more
than a segment. A layer of two directions needs all steps of the one below it, whose y is therefore kept.

All results have the bits that they have without recomputing (see `segments.py`). In the shapes: `T` steps, `B` batch,
`N` rows of all steps, `L` layers, `D` directions.
"""

from collections.abc import Sequence as Several
from math import isqrt
from typing import Any

import numpy as np

from .dropout import Dropout, Mask, MaskOfRows
from .lengths import PackedRows
from .segments import Segment, SegmentedLayer, Segments, first_rows, halves
from .sequence import OptionalStates, Sequence, States

# segments of fewer rows would take more time for their calls than for their steps
_LEAST_ROWS = 512

Gradients = list[dict[str, np.ndarray]]  # for each direction {short name: gradient}


def forward(
    sequences: Several[Sequence],  # of all layers
    x: np.ndarray,  # (T, B, I), or (N, I) with `rows`, C-contiguous; not empty
    states: States,  # (L*D, B, ·), C-contiguous
    rows: PackedRows | None,
    dropout: Dropout | None,  # its masks are the same as without recomputing
) -> tuple[np.ndarray, States, "Recomputing"]:
    """Return y, the final states, and what the backward pass needs: as `Sequence.forward`, through all layers."""
    total = x.size // x.shape[-1]
    batch = states[0].shape[1]
    directions = sequences[0].layout.num_directions
    segments = _cut(total // batch if rows is None else rows.steps, total, batch, rows, directions)
    masks = []
    if dropout is not None:
        masks = [MaskOfRows(dropout.generator, total, s.output_size, dropout.probability) for s in sequences[:-1]]
    if directions == 1:
        stacks = [_Stack(segments, batch, masks)]
        masks = []
    else:
        stacks = [_Stack(segments, batch, []) for _ in sequences]
    y = x.reshape(total, -1)
    finals = []
    for n, stack in enumerate(stacks):
        if n and masks:
            y = masks[n - 1].part(0, total)(y)
        y, final = stack.forward(_part(sequences, n, len(stacks)), y, _states_of(states, n, len(stacks)))
        finals.append(final)
    states_n = tuple([np.concatenate(s) for s in zip(*finals, strict=True)])
    return y.reshape(*x.shape[:-1], -1), states_n, Recomputing(x.shape, stacks, masks)


class Recomputing:
    """The backward pass of a run, once, and what it needs: x, and the states before each segment."""

    def __init__(self, shape: tuple[int, ...], stacks: list["_Stack"], masks: list[MaskOfRows]) -> None:
        self._shape = shape
        self._stacks = stacks
        self._masks = masks  # between the stacks; empty without dropout

    def backward(
        self, sequences: Several[Sequence], dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[Gradients]]:
        """As `Sequence.backward`, through all layers, with dstates (L*D, B, ·); the gradients are those of each."""
        number, total = len(self._stacks), len(self._stacks[0].x)
        gradients: list[Gradients] = []
        initials = []
        dx: Any = None if dy is None else dy.reshape(total, -1)
        for n in range(number - 1, -1, -1):
            stack = self._stacks.pop()
            dx, initial, own = stack.backward(_part(sequences, n, number), dx, _states_of(dstates, n, number))
            initials.append(initial)
            gradients = own + gradients
            if n and self._masks:
                dx = self._masks[n - 1].part(0, total)(dx)
        dstates_0 = tuple([np.concatenate(s) for s in zip(*initials[::-1], strict=True)])
        return dx.reshape(self._shape), dstates_0, gradients


class _Stack:
    """Layers that go through each segment together. They are given anew to each pass: a copy may be of other layers."""

    def __init__(self, segments: list[Segments], batch: int, masks: list[MaskOfRows]) -> None:
        self._segments = segments
        self._batch = batch
        self._most_rows = max(segment.number for together in segments for segment in together)
        self._masks = masks  # between the layers; empty without dropout

    def forward(self, sequences: Several[Sequence], x: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """From x (N, I) to y (N, D*R). Keeps x, the states before each segment, and all that the last one needs."""
        layers = [SegmentedLayer(s.kernels(), self._batch, self._most_rows) for s in sequences]
        self.x = x
        self._outputs = [self._room(s.output_size, x.dtype) for s in sequences]
        y = np.empty((len(x), sequences[-1].output_size), x.dtype)
        now = tuple([s.copy() for s in states])
        self._before = tuple([np.empty((len(self._segments), *s.shape), s.dtype) for s in states])
        last = len(self._segments) - 1
        for j, segments in enumerate(self._segments):
            for before, s in zip(self._before, now, strict=True):
                before[j] = s
            masks = self._masks_of(segments)
            if j < last:
                self._run(layers, segments, masks, now, y, save=False)
            else:  # what is kept of it must not keep all of y
                self._run(layers, segments, masks, now, None, save=True)
                own = first_rows(segments, self._outputs[-1])
                for half, values in zip(halves(_rows(segments, y)), halves(own), strict=True):
                    half[...] = values
        self._kept = [layer.kept for layer in layers]
        return y, now

    def backward(
        self, sequences: Several[Sequence], dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[Gradients]]:
        """From dy (N, D*R) to dx (N, I), the gradients of the initial states, and those of each layer's parameters."""
        layers = [
            SegmentedLayer(s.kernels(), self._batch, self._most_rows, kept)
            for s, kept in zip(sequences, self._kept, strict=True)
        ]
        number = len(layers)
        now = tuple(
            [np.zeros_like(s[0]) if ds is None else ds.copy() for s, ds in zip(self._before, dstates, strict=True)]
        )
        two = len(self._segments[0]) == 2
        dx = np.full_like(self.x, -0.0) if two else np.empty_like(self.x)  # -0: a + -0 is a, for any a
        # for gradients of what layers read; the first one's go to dx at once, unless two are to be added
        rooms = [self._room(s.layout.input_size, dx.dtype) if n or two else None for n, s in enumerate(sequences)]
        for layer in layers:
            layer.begin_backward()
        last = len(self._segments) - 1
        for j in range(last, -1, -1):
            segments = self._segments[j]
            masks = self._masks_of(segments)
            if j < last:
                self._run(layers, segments, masks, tuple([s[j] for s in self._before]), None, save=True)
            above: Any = None if dy is None else _rows(segments, dy)
            for n in range(number - 1, -1, -1):
                room = rooms[n]
                below = _rows(segments, dx) if room is None else first_rows(segments, room)
                layers[n].backward(segments, above, below, _states_of(now, n, number), more=j > 0)
                above = [masks[n - 1](below[0])] if n and masks else below
            if two:
                with np.errstate(all="ignore"):
                    for total, own in zip(_rows(segments, dx), above, strict=True):
                        total += own
        return dx, now, [layer.gradients() for layer in layers]

    def _run(
        self,
        layers: list[SegmentedLayer],
        segments: Segments,
        masks: list[Mask],
        states: States,
        y: np.ndarray | None,
        *,
        save: bool,
    ) -> None:
        """Run a segment forward from `states`, which become those behind it; `y`: where the last layer's output goes,
        if not into the stack's own memory."""
        below = _rows(segments, self.x)
        for n, layer in enumerate(layers):
            if n and masks:
                below = [masks[n - 1](below[0])]
            last = n == len(layers) - 1
            above = _rows(segments, y) if last and y is not None else first_rows(segments, self._outputs[n])
            run = layer.forward_saving if save else layer.forward
            run(segments, below, above, _states_of(states, n, len(layers)))
            below = above

    def _room(self, width: int, dtype: np.dtype) -> np.ndarray:
        """For a segment of each direction."""
        return np.empty((len(self._segments[0]), self._most_rows, width), dtype)

    def _masks_of(self, segments: Segments) -> list[Mask]:
        return [mask.part(segments[0].start, segments[0].stop) for mask in self._masks]


def _rows(segments: Segments, sequence: np.ndarray) -> list[np.ndarray]:
    """Those of each direction's segment in (N, width)."""
    return [sequence[segment.start : segment.stop] for segment in segments]


def _cut(steps: int, total: int, batch: int, rows: PackedRows | None, directions: int) -> list[Segments]:
    """All segments, in the order in which each direction comes to them.

    They have as many steps as there are segments, or more where their rows would be too few.
    """
    each = max(isqrt(steps - 1) + 1, -(-_LEAST_ROWS * steps // total))
    segments: list[Segments] = []
    for first in range(0, steps, each):
        last = min(first + each, steps)
        cuts = [(first, last), (steps - last, steps - first)]
        segments.append(tuple([_segment(*cut, batch, rows) for cut in cuts[:directions]]))
    return segments


def _segment(first: int, last: int, batch: int, rows: PackedRows | None) -> Segment:
    """The steps first .. last - 1."""
    if rows is None:
        return Segment(last - first, first * batch, last * batch, None)
    start, stop = (int(rows.starts[step + 1]) for step in (first, last))
    return Segment(last - first, start, stop, PackedRows(rows.batch_sizes[first:last], batch))


def _part(all_of: Any, n: int, number: int) -> Any:
    """Part n of so many, all equal."""
    return all_of[n * len(all_of) // number : (n + 1) * len(all_of) // number]


def _states_of(states: OptionalStates, n: int, number: int) -> tuple[Any, ...]:
    """What layer, or stack, n of so many has of the states (L*D, B, ·)."""
    return tuple([None if s is None else _part(s, n, number) for s in states])
