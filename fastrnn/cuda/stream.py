"""Frame by frame on a GPU."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from fastrnn.stream import FrameByFrame
from fastrnn.validation import State

from .kinds import Kind, kind_of
from .layout import DeviceLayout

if TYPE_CHECKING:
    from fastrnn.layers import _Recurrent


class DeviceStream(FrameByFrame):
    """As `fastrnn.stream.Stream`, of arrays on a GPU. A step allocates its results, from the library's pool."""

    def __init__(self, layer: _Recurrent, batch_size: int) -> None:
        super().__init__(layer, batch_size)
        self._layer = copy.deepcopy(layer).eval()
        self._layer.batch_first = False
        assert self._layer._network is not None
        self._network = self._layer._network
        self._state: State = None
        self._kind: Kind | None = None

    def step(self, x: Any, out: Any = None) -> Any:
        """Take one frame, x (B, I), or (I,) if B is 1, and return the last layer's h, (B, R) or (R,), or write it to
        `out`. TypeError and ValueError as in calling the layer; the state is then unchanged.
        """
        B, shape = self.batch_size, tuple(getattr(x, "shape", ()))
        kind = kind_of("x", x)
        flat = B == 1 and len(shape) == 1
        width = self._layer.proj_size or self._layer.hidden_size
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
        """The state: h (L, B, R), for the LSTM (h, c); in the kind of the last frame, of the layer's before any."""
        if self._state is None:
            self.reset()
        given = self._kind.given if self._kind else _same
        return tuple(map(given, self._state)) if isinstance(self._state, tuple) else given(self._state)

    def reset(self, state: State = None) -> None:
        """Go back to a state of zeros, or to the one given, shaped as `state`."""
        arrays = self._network.arrays
        first = state[0] if isinstance(state, tuple | list) and state else state
        kind = Kind(arrays, _same, _same) if state is None else kind_of("state", first)
        layout = DeviceLayout(self._network, kind)
        no_steps = kind.arrays.zeros((0, self.batch_size, self._layer.input_size), self.dtype.name)
        _, states, batched = layout.inputs(no_steps, state)
        self._state = layout.given_state(states, batched)


def _same(array: Any) -> Any:
    return array
