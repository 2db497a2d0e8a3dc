"""`fastrnn.check` of a layer on a GPU: it runs there, its inputs and results are compared on the host."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from ..check_report import Report
from ..validation import Lengths, State
from .kinds import kind_of
from .network import DeviceBackward, refuse

if TYPE_CHECKING:
    from ..layers import Gradients, _Recurrent


def check(layer: _Recurrent, x: Any, state: State, lengths: Lengths, seed: int) -> Report:
    """As `fastrnn.check`. Half-precision layers are held to the bounds that `BOUNDS` has for their type."""
    refuse(lengths)
    if state is not None:
        state = tuple(map(_on_host, state)) if isinstance(state, tuple | list) else _on_host(state)
    return check_from_host(layer, _on_host(x), state, seed)


def check_from_host(layer: _Recurrent, x: np.ndarray, state: State = None, seed: int = 0) -> Report:
    """The same from NumPy arrays, float32 or float64 as the reference has them."""
    from ..checking import BOUNDS, expected_of, inputs_of, judge

    twin = reference_twin(layer)
    inputs = inputs_of(twin, x.astype(twin.dtype), state, seed)
    # numbers that the layer's type has: rounding its inputs is no error of the layer
    inputs = inputs.mapped(lambda array: array.astype(layer.dtype).astype(twin.dtype))
    return judge(OnHost(layer, twin), expected_of(twin, inputs), BOUNDS[layer.dtype.name])


def reference_twin(layer: _Recurrent) -> _Recurrent:
    """A layer of the NumPy reference with the same parameters, in float32 or, for float64, float64."""
    options = layer._constructor_options() | {"dtype": "float64" if layer.dtype == np.float64 else "float32"}
    twin = type(layer)(**options, seed=0, backend="reference")
    twin.load_state_dict({name: array.astype(twin.dtype) for name, array in layer.state_dict().items()})
    twin.training, twin._generator = layer.training, copy.deepcopy(layer._generator)
    return twin


class OnHost:
    """A layer on a GPU that takes and returns NumPy arrays, of the reference twin's type."""

    def __init__(self, layer: _Recurrent, twin: _Recurrent) -> None:
        self.layer = layer
        self.dtype = twin.dtype
        self.sequences = twin.sequences
        self.cell, self.input_size = layer.cell, layer.input_size
        self.hidden_size, self.proj_size = layer.hidden_size, layer.proj_size
        self._generator = layer._generator

    def __call__(self, x: np.ndarray, state: State, lengths: Lengths = None) -> tuple[np.ndarray, State]:
        y, state_n = self.layer(self._up(x), self._up_state(state), lengths)
        return self._down(y), self._down_state(state_n)

    def vjp(self, x: np.ndarray, state: State, lengths: Lengths = None) -> Any:
        (y, state_n), backward = self.layer.vjp(self._up(x), self._up_state(state), lengths)
        return (self._down(y), self._down_state(state_n)), lambda *upstream: self._backward(backward, *upstream)

    def _backward(self, backward: DeviceBackward, dy: np.ndarray, dstate: State) -> Gradients:
        from ..layers import Gradients

        found = backward(self._up(dy), self._up_state(dstate))
        parameters = {name: self._down(gradient) for name, gradient in found.parameters.items()}
        return Gradients(self._down(found.x), self._down_state(found.state), parameters)

    def __repr__(self) -> str:
        return repr(self.layer)

    def _up(self, array: np.ndarray) -> Any:
        return self.layer._network.arrays.from_host_as(array, self.layer.dtype.name)

    def _down(self, array: Any) -> np.ndarray:
        return _on_host(array).astype(self.dtype, copy=False)

    def _up_state(self, state: State) -> State:
        return tuple(map(self._up, state)) if isinstance(state, tuple | list) else self._up(state)

    def _down_state(self, state: State) -> State:
        return tuple(map(self._down, state)) if isinstance(state, tuple) else self._down(state)


def _on_host(array: Any) -> np.ndarray:
    kind = kind_of("x", array)
    return kind.arrays.to_host(kind.taken(array))
