"""A layer on a GPU as `fastrnn.check` sees it: beside a reference on the host, with NumPy arrays in and out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.gradients import Gradients
from fastrnn.validation import Lengths, State

from .arrays import Arrays
from .kinds import kind_of

if TYPE_CHECKING:
    from fastrnn.layers import Recurrent


def reference_twin(layer: Recurrent) -> Recurrent:
    """A layer of the NumPy reference with the same parameters, in float32 or, for float64, float64."""
    options = layer._constructor_options() | {"dtype": "float64" if layer.dtype == np.float64 else "float32"}
    twin = type(layer)(**options, seed=0, backend="reference")
    twin.load_state_dict({name: array.astype(twin.dtype) for name, array in layer.state_dict().items()})
    twin.training, twin._generator = layer.training, copy.deepcopy(layer._generator)
    return twin


class OnHost:
    """A layer on a GPU that takes and returns NumPy arrays, of the reference twin's type."""

    def __init__(self, layer: Recurrent, twin: Recurrent, arrays: Arrays | None = None) -> None:
        """arrays: the library whose arrays the layer is given; by default that of its parameters."""
        self.layer = layer
        self._arrays = arrays or layer._network.arrays
        self.dtype = twin.dtype
        self.sequences = twin.sequences
        self.cell, self.input_size = layer.cell, layer.input_size
        self.hidden_size, self.proj_size = layer.hidden_size, layer.proj_size
        self._generator = layer._generator

    def __call__(self, x: np.ndarray, state: State, lengths: Lengths = None) -> tuple[np.ndarray, State]:
        y, state_n = self.layer(self._up(x), self._up_state(state), lengths)
        return self._down(y), self._down_state(state_n)

    def vjp(self, x: np.ndarray, state: State, lengths: Lengths = None, *, recompute: bool = False) -> Any:
        (y, state_n), backward = self.layer.vjp(self._up(x), self._up_state(state), lengths, recompute=recompute)
        return (self._down(y), self._down_state(state_n)), lambda *upstream: self._backward(backward, *upstream)

    def _backward(self, backward: Callable[..., Gradients], dy: np.ndarray, dstate: State) -> Gradients:
        found = backward(self._up(dy), self._up_state(dstate))
        parameters = {name: self._down(gradient) for name, gradient in found.parameters.items()}
        return Gradients(self._down(found.x), self._down_state(found.state), parameters)

    def __repr__(self) -> str:
        return repr(self.layer)

    def _up(self, array: np.ndarray) -> Any:
        return self._arrays.from_host_as(array, self.layer.dtype.name)

    def _down(self, array: Any) -> np.ndarray:
        return on_host(array).astype(self.dtype, copy=False)

    def _up_state(self, state: State) -> State:
        return tuple(map(self._up, state)) if isinstance(state, tuple | list) else self._up(state)

    def _down_state(self, state: State) -> State:
        return tuple(map(self._down, state)) if isinstance(state, tuple) else self._down(state)


def on_host(array: Any) -> np.ndarray:
    """A NumPy copy of any array on a GPU; float32 of bfloat16."""
    kind = kind_of("x", array)
    return kind.arrays.to_host(kind.taken(array))
