"""All layers of an LSTM, GRU or RNN on a GPU: the caller's arrays in, the caller's kind of arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastrnn.dropout import Mask
from fastrnn.gradients import Gradients
from fastrnn.kernels.cuda.launch import current_device, wait_for_device
from fastrnn.kernels.cuda.planes import wide
from fastrnn.network import USED_UP
from fastrnn.validation import Lengths, State

from .arrays import Array, Arrays
from .kinds import Kind, kind_of, own_library
from .layer import CudaLayer, Saved
from .layout import DeviceLayout
from .parameters import DeviceParameters

if TYPE_CHECKING:
    from fastrnn.layers import Recurrent

    from .stream import DeviceStream


class DeviceNetwork:
    """What a layer with device="cuda" hands its work to, as `fastrnn.network.Network`."""

    def __init__(self, owner: Recurrent) -> None:
        if owner.backend == "persistent" and owner.dtype.name != "float32":
            raise ValueError(f'backend: "persistent" is for dtype float32, got {owner.dtype}')
        self._directions = owner.num_directions
        self.dtype, self.batch_first = owner.dtype, owner.batch_first
        self.arrays = own_library()
        self.layers: list[CudaLayer] = []
        named: dict[str, Array] = {}
        for number, layout in enumerate(owner._parameter_layouts()):
            parameters = DeviceParameters(layout, self.arrays, owner.dtype.name)
            self.layers.append(CudaLayer(layout, parameters, owner.dtype.name, owner.backend))
            named |= layout.named(number, parameters.directions)
        self.parameters: Mapping[str, Array] = MappingProxyType(named)
        self.device_number = self.arrays.device_number(self.layers[0].parameters.flat)
        self.check_device(self.arrays)

    def set_batch_first(self, value: bool) -> None:
        """Of the runs to come."""
        self.batch_first = value

    def check_device(self, arrays: Arrays) -> None:
        """RuntimeError if the array library, or Numba, is about to work on another GPU."""
        for name, number in ((arrays.name, arrays.current_device()), ("numba", current_device())):
            if number != self.device_number:
                raise RuntimeError(
                    f"device: the layer is on cuda:{self.device_number}, and the current GPU of {name} is "
                    f"cuda:{number}; all layers of a thread work on one GPU"
                )

    def run(self, owner: Recurrent, x: Any, state: State, lengths: Lengths) -> tuple[Any, State]:
        """As calling the layer."""
        refuse(lengths)
        kind = kind_of("x", x)
        layout = DeviceLayout(self, kind)
        x, states, batched = layout.inputs(x, state)
        y, states_n, _ = self._forward(owner, kind.arrays, x, states, save=False)
        return _given(kind, layout, y, states_n, batched)

    def vjp(
        self, owner: Recurrent, x: Any, state: State, lengths: Lengths, recompute: bool
    ) -> tuple[tuple[Any, State], DeviceBackward]:
        """As the layer's `vjp`, which refuses `recompute`."""
        refuse(lengths)
        kind = kind_of("x", x)
        layout = DeviceLayout(self, kind)
        x, states, batched = layout.inputs(x, state)
        y, states_n, saved = self._forward(owner, kind.arrays, x, states, save=True)
        backward = DeviceBackward(self, kind, layout, saved, (x.shape[0], x.shape[1]), batched)
        return _given(kind, layout, y, states_n, batched), backward

    def stream(self, owner: Recurrent, batch_size: int) -> DeviceStream:
        """As the layer's `stream`."""
        from .stream import DeviceStream

        return DeviceStream(owner, batch_size)

    def set_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Copy NumPy arrays into the parameters; the layer has checked them."""
        wait_for_device()  # as in `DeviceParameters.set`
        for name, value in values.items():
            self.parameters[name][...] = self.arrays.from_host_as(value, self.dtype.name)
        wait_for_device()

    def parameters_on_host(self) -> dict[str, np.ndarray]:
        """NumPy copies, in the layer's dtype."""
        wait_for_device()
        return {
            name: self.arrays.to_host(array).astype(self.dtype, copy=False) for name, array in self.parameters.items()
        }

    def _forward(
        self, owner: Recurrent, arrays: Arrays, x: Array, states: tuple[Array, ...], save: bool
    ) -> tuple[Array, tuple[Array, ...], _SavedLayers]:
        """x (T, B, I) and states (L*D, B, n), C-contiguous, through all layers."""
        dropout = owner.dropout if owner.training and owner.num_layers > 1 else 0.0
        before = owner._generator.bit_generator.state
        try:
            return self._forward_layers(arrays, x, states, save, dropout, owner._generator)
        except arrays.out_of_memory() as error:
            owner._generator.bit_generator.state = before
            T, B, _ = x.shape
            raise MemoryError(f"x: {T} steps of {B} rows do not fit into the GPU's memory: {error}") from error
        except BaseException:
            owner._generator.bit_generator.state = before
            raise

    def _forward_layers(
        self,
        arrays: Arrays,
        y: Array,
        states: tuple[Array, ...],
        save: bool,
        dropout: float,
        generator: np.random.Generator,
    ) -> tuple[Array, tuple[Array, ...], _SavedLayers]:
        D = self._directions
        states_n = tuple([arrays.empty(s.shape, self.dtype.name) for s in states])
        kept = _SavedLayers([], [])
        for number, layer in enumerate(self.layers):
            if dropout and number:
                # drawn on the host: the same seed gives the same masks on every device
                factors = Mask(generator, tuple(y.shape), dropout).factors(np.dtype(wide(self.dtype.name)))
                mask = arrays.from_host_as(factors, self.dtype.name)
                y = y * mask
                if save:
                    kept.masks.append(mask)
            rows = slice(number * D, (number + 1) * D)
            y, layer_states, saved = layer.forward(arrays, y, tuple(s[rows] for s in states), save)
            for whole, part in zip(states_n, layer_states, strict=True):
                whole[rows] = part
            kept.layers.append(saved)
        return y, states_n, kept

    def _backward(
        self, kept: _SavedLayers, dy: Array | None, dstates: tuple[Array | None, ...]
    ) -> tuple[Array, tuple[Array, ...], dict[str, Array]]:
        D = self._directions
        all_dstates: list[tuple[Array, ...]] = []
        all_gradients: list[list[dict[str, Array]]] = []
        for number in reversed(range(len(self.layers))):
            rows = slice(number * D, (number + 1) * D)
            layer_dstates = tuple(None if s is None else s[rows] for s in dstates)
            saved = kept.layers[number]
            dx, dstates_0, gradients = self.layers[number].backward(saved, dy, layer_dstates)
            kept.layers[number] = None  # its memory is free for the layers below
            all_dstates.insert(0, dstates_0)
            all_gradients.insert(0, gradients)
            dy = dx * kept.masks[number - 1] if number and kept.masks else dx
        named: dict[str, Array] = {}
        for number, (layer, gradients) in enumerate(zip(self.layers, all_gradients, strict=True)):
            named |= layer.layout.named(number, gradients)
        arrays = saved.arrays
        return dx, tuple(arrays.joined(s, 0) for s in zip(*all_dstates, strict=True)), named


class _SavedLayers:
    """What each layer saved, and the dropout masks of the y of each but the last."""

    def __init__(self, layers: list[Saved | None], masks: list[Array]) -> None:
        self.layers: list[Any] = layers
        self.masks = masks


class DeviceBackward:
    """The gradients of one run, as `layers.Backward` on a GPU. Callable once."""

    def __init__(
        self,
        network: DeviceNetwork,
        kind: Kind,
        layout: DeviceLayout,
        saved: _SavedLayers,
        shape: tuple[int, int],
        batched: bool,
    ) -> None:
        self._network = network
        self._kind = kind
        self._layout = layout
        self._saved = [saved]  # whoever pops it may use it up
        self._shape = shape
        self._batched = batched

    def __reduce__(self) -> NoReturn:
        raise TypeError("backward: can be neither copied nor pickled on a GPU; call vjp again")

    def __call__(self, dy: Any, dstate: State = None) -> Gradients:
        """As `layers.Backward`; MemoryError if the gradients do not fit, which leaves the layer as it was."""
        if self._saved:
            self._network.check_device(self._kind.arrays)
            dy, dstates = self._layout.gradients(dy, dstate, *self._shape, self._batched)
        try:
            saved = self._saved.pop()
        except IndexError:
            raise RuntimeError(USED_UP) from None
        try:
            dx, dstates_0, named = self._network._backward(saved, dy, dstates)
        except self._kind.arrays.out_of_memory() as error:
            T, B = self._shape
            raise MemoryError(
                f"backward: the gradients of {T} steps of {B} rows do not fit into the GPU's memory, and what was "
                f"saved is used up; call vjp again: {error}"
            ) from error
        dx, dstate_0 = _given(self._kind, self._layout, dx, dstates_0, self._batched)
        return Gradients(dx, dstate_0, {name: self._kind.given(array) for name, array in named.items()})


def _given(
    kind: Kind, layout: DeviceLayout, sequence: Array, states: tuple[Array, ...], batched: bool
) -> tuple[Any, State]:
    """Results in the caller's layout and kind."""
    state = layout.given_state(states, batched)
    given = tuple(map(kind.given, state)) if isinstance(state, tuple) else kind.given(state)
    return kind.given(layout.given_sequence(sequence, batched)), given


def refuse(lengths: Lengths) -> None:
    """NotImplementedError for any."""
    if lengths is not None:
        raise NotImplementedError('lengths: not built for device="cuda": expected None')
