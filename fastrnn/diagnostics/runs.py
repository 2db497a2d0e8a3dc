"""A layer run so that what happens inside it can be read: gates and states at every step, and their gradients.

The kernels' own passes are used, on the layer itself if it runs on them, else on a copy that does. Dropout does not
act. Everything handed out is in a direction's own time: index 0 is the step that it computes first, so for direction 1
time runs from the end of x to its beginning.
"""

import copy
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn import validation
from fastrnn.checking import twin
from fastrnn.interchange.torch import from_torch
from fastrnn.layers import Recurrent
from fastrnn.sequence import OptionalStates, Sequence, States
from fastrnn.validation import State

ALL_ROWS = object()  # None would let a wrong `row=None` pass


@dataclass(frozen=True)
class LayerRun:
    """One layer of a run, with all its directions.

    x       (T, B, in)
    states  the initial ones: h (D, B, R), for the LSTM also c (D, B, H)
    y       (T, B, D*R)
    """

    sequence: Sequence
    x: np.ndarray
    states: States
    y: np.ndarray
    saved: Any

    def values(self, direction: int) -> dict[str, np.ndarray]:
        """{name: view (T, B, n)} of what one direction kept: gates, `h`, and for the LSTM `c`.

        Gates under the names of `kernels/cells.py`. They are gone once a backward pass has run.
        """
        values = self.sequence.kernels().saved_values(self.saved)[direction]
        values["h"] = np.split(self.y, len(self.states[0]), axis=2)[direction]
        return {name: own_time(value, direction) for name, value in values.items()}

    def previous(self, direction: int, state: int = 0) -> np.ndarray:
        """h before every step, (T, B, R), or with state=1 c, (T, B, H)."""
        now = self.values(direction)["hc"[state]]
        return np.concatenate([self.states[state][direction][None], now[:-1]])

    def kept(self) -> np.ndarray:
        """A copy of what a backward pass overwrites, for `keep`."""
        return self.saved.gates.copy()

    def keep(self, kept: np.ndarray) -> None:
        """Have it again, for another backward pass."""
        self.saved.gates[...] = kept

    def release(self) -> None:
        """Give the memory of what was kept back: nothing here is read afterwards."""
        self.sequence.kernels().release(self.saved)


@dataclass(frozen=True)
class LayerGradients:
    """The gradients of one layer of a run, from dy and those of its final states.

    dy       (T, B, D*R), what the loss, or the layer above, puts in at each step; None for zeros
    dstates  what it puts in at the final states, each (D, B, n) or None
    carried  (D, T, B, R): what arrives at h_t through later steps; at the last step of a direction dstates[0] instead
    cell     (D, T, B, H): dL/dc_t, all of it; None without a cell state
    dx       (T, B, in)
    """

    run: LayerRun
    dy: np.ndarray | None
    dstates: OptionalStates
    carried: np.ndarray
    cell: np.ndarray | None
    dx: np.ndarray

    def gates(self, direction: int) -> dict[str, np.ndarray]:
        """{name: view (T, B, H)}: the gradients of the gates' inputs, under the names of `kernels/cells.py`."""
        planes = self.run.sequence.kernels().saved_values(self.run.saved)[direction]
        return {name: own_time(plane, direction) for name, plane in planes.items()}

    def injected(self, direction: int) -> np.ndarray | None:
        """(T, B, R): dy of one direction; None for zeros."""
        return None if self.dy is None else own_time(np.split(self.dy, len(self.carried), axis=2)[direction], direction)


class Run:
    """A forward pass through a layer, or the first `layers` of its layers, and what is needed to go back.

    layer, x, state  as `gradient_flow` takes them
    row              run this row of the batch alone; TypeError or ValueError if it is none of them

    title  says of a result what was run: the layer and the shape of x as it was given
    """

    def __init__(
        self, layer: Any, x: Any, state: State = None, *, row: Any = ALL_ROWS, layers: int | None = None
    ) -> None:
        self.layer = as_layer(layer)
        given = as_array(x)
        x, states, self.batched = self.layer._network.layout.inputs(given, _as_state(state))
        self.title = f"{self.layer!r}, x {given.shape}"
        if 0 in x.shape[:2]:
            raise ValueError(f"x: expected at least one step and one row, got {x.shape[0]} and {x.shape[1]}")
        if row is not ALL_ROWS:
            row = below("row", row, x.shape[1])
            x, states = x[:, row : row + 1], tuple(s[:, row : row + 1] for s in states)
        self._run(x, states, layers)

    def _run(self, x: np.ndarray, states: States, layers: int | None) -> None:
        self.steps, self.batch = x.shape[:2]
        self._states = states
        self.layers: list[LayerRun] = []
        D = self.layer.num_directions
        for index, sequence in enumerate(self.layer.sequences[:layers]):
            x = np.ascontiguousarray(x)
            own = tuple(np.ascontiguousarray(s[index * D : (index + 1) * D]) for s in states)
            y, _, saved = sequence.forward(x, own, save=True)
            self.layers.append(LayerRun(sequence, x, own, y, saved))
            x = y

    def repeated(self, number: int) -> "Run":
        """Run the first row of the batch so many times, side by side."""
        other = copy.copy(self)
        x, *states = (np.repeat(values[:, :1], number, axis=1) for values in (self.layers[0].x, *self._states))
        other._run(x, tuple(states), len(self.layers))
        return other

    @property
    def lags(self) -> np.ndarray:
        """(T,): how many steps each step is before a direction's last one."""
        return np.arange(self.steps)[::-1]

    def loss(self, dy: Any, dstate: State, length: float = 1.0) -> tuple[np.ndarray | None, OptionalStates]:
        """The gradients of the loss as used inside.

        Both None: a random vector of that length towards the last layer's h after its last step, for each direction.
        """
        layout, D = self.layer._network.layout, self.layer.num_directions
        if dy is not None or dstate is not None:
            return layout.gradients(as_array(dy), _as_state(dstate), self.steps, self.batch, self.batched)
        towards = np.random.default_rng(0).standard_normal((D, self.batch, layout.widths[0]))
        towards *= length / np.sqrt(np.sum(towards**2, axis=(1, 2), keepdims=True))
        dh_n = np.zeros((layout.rows, *towards.shape[1:]), layout.dtype)
        dh_n[-D:] = towards
        return None, (dh_n, *[None] * (len(layout.widths) - 1))

    def backward(self, index: int, dy: np.ndarray | None, dstates: OptionalStates) -> LayerGradients:
        """Go back through layer number `index`; dstates are those of all layers.

        What the layer kept is overwritten: see `LayerRun.values`.
        """
        D, run = self.layer.num_directions, self.layers[index]
        own = tuple(None if s is None else s[index * D : (index + 1) * D] for s in dstates)
        dx, carried, cell = run.sequence.kernels().gradients_in_time(run.saved, dy, own)
        return LayerGradients(run, dy, own, carried, cell, dx)

    def backward_to(self, index: int, dy: np.ndarray | None, dstates: OptionalStates) -> LayerGradients:
        """Go back from the last layer through layer number `index`, whose gradients are returned."""
        for each in range(len(self.layers) - 1, index, -1):
            dy = self.backward(each, dy, dstates).dx
        return self.backward(index, dy, dstates)


def as_layer(layer: Any) -> Recurrent:
    """The layer itself if it runs on the CPU kernels, else a copy that does; also of a torch.nn.LSTM, GRU or RNN."""
    if isinstance(layer, Recurrent):
        if layer.device != "cpu":
            raise ValueError(f'layer: expected device="cpu", got device="{layer.device}"')
        return layer if layer.backend == "cpu" else twin(layer, layer.dtype, "cpu")
    torch = sys.modules.get("torch")  # who has a module has imported it
    if torch is not None and isinstance(layer, torch.nn.RNNBase):
        return from_torch(layer)
    raise TypeError(f"layer: expected a fastrnn or torch.nn LSTM, GRU or RNN, got {validation.full_name(layer)}")


def as_array(value: Any) -> Any:
    """A torch tensor as a NumPy array; anything else as it is, to be checked by others."""
    return value.detach().cpu().resolve_neg().numpy() if hasattr(value, "detach") else value


def _as_state(state: Any) -> Any:
    return tuple(map(as_array, state)) if isinstance(state, tuple | list) else as_array(state)


def own_time(values: np.ndarray, direction: int) -> np.ndarray:
    """A view of (T, ...) in the order in which a direction computes."""
    return values[::-1] if direction else values


def below(name: str, value: Any, number: int) -> int:
    """An integer from 0 to `number` - 1."""
    value = validation.size(name, value, least=0)
    if value >= number:
        raise ValueError(f"{name}: expected an integer below {number}, got {value}")
    return value


def one_direction(layer: Recurrent, layer_index: Any, direction: Any) -> tuple[int, int]:
    """Both, checked."""
    return below("layer_index", layer_index, layer.num_layers), below("direction", direction, layer.num_directions)
