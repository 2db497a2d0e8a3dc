"""Frame by frame on a GPU."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from fastrnn.stream import FrameByFrame
from fastrnn.validation import State

from .kinds import Kind, kind_of
from .layout import DeviceLayout

if TYPE_CHECKING:
    from fastrnn.layers import Recurrent


class DeviceStream(FrameByFrame):
    """As `fastrnn.stream.Stream`, of arrays on a GPU. A step allocates its results, from the library's pool."""

    def __init__(self, layer: Recurrent, batch_size: int) -> None:
        super().__init__(layer, batch_size)
        self._layer = copy.deepcopy(layer).eval()
        self._layer.batch_first = False
        self._network = self._layer._network
        self._state: State = None
        self._own_kind = Kind(self._network.arrays, _same, _same)
        self._kind = self._own_kind  # of the state

    def step(self, x: Any, out: Any = None) -> Any:
        """Take one frame, x (B, I), or (I,) if B is 1, and return the last layer's h, (B, R) or (R,), or write it to
        `out`. TypeError and ValueError as in calling the layer; the state is then unchanged.
        """
        B, shape = self.batch_size, tuple(getattr(x, "shape", ()))
        kind = kind_of("x", x)
        flat = B == 1 and len(shape) == 1
        width = self._network.layers[-1].output_size
        layout = DeviceLayout(self._network, kind)
        frame = layout.frame("x", x, (self._layer.input_size,) if flat else (B, self._layer.input_size))
        result = (width,) if flat else (B, width)
        target = None if out is None else layout.frame("out", out, result)
        y, self._state = self._layer(frame.reshape((1, B, -1)), self._state)
        self._kind = kind
        y = y.reshape(result)
        if target is None:
            return kind.given(y)
        target[...] = y
        return out

    @property
    def state(self) -> State:
        """A copy of the state: h (L, B, R), for the LSTM (h, c); in the kind of the last frame or of the state given
        to `reset`, else of the layer's arrays."""
        if self._state is None:
            self.reset()
        if isinstance(self._state, tuple):
            return tuple(map(self._copy, self._state))
        return self._copy(self._state)

    def reset(self, state: State = None) -> None:
        """Go back to a state of zeros, or to the one given, shaped as `state`."""
        first = state[0] if isinstance(state, tuple | list) and state else state
        kind = self._own_kind if state is None else kind_of("state", first)
        layout = DeviceLayout(self._network, kind)
        no_steps = kind.arrays.zeros((0, self.batch_size, self._layer.input_size), self.dtype.name)
        _, states, batched = layout.inputs(no_steps, state)
        # copies: the caller may go on to change what was given
        states = tuple([kind.arrays.converted(array, self.dtype.name) for array in states])
        self._state = layout.given_state(states, batched)
        self._kind = kind

    def _copy(self, array: Any) -> Any:
        return self._kind.given(self._kind.arrays.converted(array, self.dtype.name))


def _same(array: Any) -> Any:
    return array
