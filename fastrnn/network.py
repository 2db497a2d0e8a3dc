"""All layers of an LSTM, GRU or RNN on the CPU: arrays in and out in the caller's layout, dropout in between."""

import copy
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .dropout import Dropout, Mask
from .gradients import Gradients
from .layout import Layout
from .lengths import PackedRows, Padded
from .parameters import LayerParameters
from .sequence import OptionalStates, Sequence, States
from .validation import Lengths, State

if TYPE_CHECKING:
    from .layers import Recurrent
    from .recompute import Recomputing
    from .stream import Stream

USED_UP = "backward: already called, and it uses up what was saved; call vjp again"


class Network:
    """What a layer with device="cpu" hands its work to; it passes itself, `owner`, for it keeps the options.

    layers      for each of them a `Sequence`
    parameters  of all of them, under PyTorch's names
    layout      of the caller's arrays
    """

    def __init__(self, owner: "Recurrent") -> None:
        layouts = owner._parameter_layouts()
        self.layout = Layout(layouts, owner.batch_first, owner.dtype)
        self.layers: list[Sequence] = []
        named: dict[str, np.ndarray] = {}
        for number, layout in enumerate(layouts):
            parameters = LayerParameters(layout, owner.dtype)
            self.layers.append(Sequence(layout, parameters, owner.dtype, owner.backend))
            named |= layout.named(number, parameters.directions)
        self.parameters: Mapping[str, np.ndarray] = MappingProxyType(named)
        self._directions = owner.num_directions

    def set_batch_first(self, value: bool) -> None:
        """Of the layout of the runs to come; a `Backward` keeps that of its own."""
        self.layout = copy.copy(self.layout)
        self.layout.batch_first = value

    def run(self, owner: "Recurrent", x: Any, state: State, lengths: Lengths) -> tuple[np.ndarray, State]:
        """As calling the layer."""
        layout = self.layout
        x, states, batched = layout.inputs(x, state)
        padded = None if lengths is None else layout.padded(lengths, x, batched)
        y, states_n, _ = self._forward(owner, x, states, padded, save=False)
        return layout.given_sequence(y, batched), layout.given_state(states_n, batched)

    def vjp(
        self, owner: "Recurrent", x: Any, state: State, lengths: Lengths, recompute: bool
    ) -> tuple[tuple[np.ndarray, State], "Backward"]:
        """As the layer's `vjp`."""
        layout = self.layout
        x, states, batched = layout.inputs(x, state)
        padded = layout.padded(lengths, x, batched)
        y, states_n, saved = self._forward(owner, x, states, padded, save=True, recompute=recompute)
        y = layout.given_sequence(y, batched)
        backward = Backward(owner, layout, saved, y, x.shape[0], x.shape[1], batched, padded)
        return (y, layout.given_state(states_n, batched)), backward

    def stream(self, owner: "Recurrent", batch_size: int) -> "Stream":
        """As the layer's `stream`."""
        from .stream import Stream

        return Stream(owner, batch_size)

    def set_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Copy these arrays into the parameters; the layer has checked them."""
        read_only = [name for name in values if not self.parameters[name].flags.writeable]
        if read_only:
            raise ValueError(f"{', '.join(read_only)}: expected to be written to, got an array made read-only")
        for name, value in values.items():
            self.parameters[name][...] = value

    def parameters_on_host(self) -> dict[str, np.ndarray]:
        """Copies."""
        return {name: array.copy() for name, array in self.parameters.items()}

    def _forward(
        self,
        owner: "Recurrent",
        x: np.ndarray,
        states: States,
        padded: Padded | None,
        *,
        save: bool,
        recompute: bool = False,
    ) -> tuple[np.ndarray, States, Any]:
        """x (T, B, I) and states (L*D, B, n), C-contiguous, through all layers.

        An error leaves the dropout to come as it was (masks that another thread draws meanwhile may come again).
        With `save`, also return the `_SavedLayers` or `Recomputing` that `backward` takes.
        """
        if len(self.layers) == 1 and padded is None and not recompute:  # the same as below, for calls of microseconds
            y, states_n, saved = self.layers[0].forward(x, states, save=save)
            return y, states_n, _SavedLayers([saved], []) if save else None
        if not (owner.dropout and owner.training and len(self.layers) > 1):
            return self._through(x, states, padded, save, recompute, None)
        bits = owner._generator.bit_generator
        before = bits.state
        try:
            return self._through(x, states, padded, save, recompute, Dropout(owner._generator, owner.dropout))
        except BaseException:
            bits.state = before
            raise

    def _through(
        self,
        x: np.ndarray,
        states: States,
        padded: Padded | None,
        save: bool,
        recompute: bool,
        dropout: Dropout | None,
    ) -> tuple[np.ndarray, States, Any]:
        """Packed in between if `padded`."""
        rows = None
        if padded is not None:
            x, states, rows = self.layers[0].pack(padded, x), padded.sort(states), padded.rows
        saved: Any
        if recompute and x.size:
            self.layers[0].kernels()
            from . import recompute as recomputing  # and Numba, which that has imported

            y, states_n, saved = recomputing.forward(self.layers, x, states, rows, dropout)
        else:
            y, states_n, saved = self._layer_by_layer(x, states, rows, save, dropout)
        if padded is not None:
            y, states_n = self.layers[-1].unpack(padded, y), padded.unsort(states_n)
        return y, states_n, saved

    def _layer_by_layer(
        self, y: np.ndarray, states: States, rows: PackedRows | None, save: bool, dropout: Dropout | None
    ) -> tuple[np.ndarray, States, "_SavedLayers"]:
        D = self._directions
        all_states_n, all_saved = [], []
        masks: list[Mask] = []
        for number, layer in enumerate(self.layers):
            if dropout is not None and number:
                mask = Mask(dropout.generator, y.shape, dropout.probability)
                y = mask(y)
                if save:
                    masks.append(mask)
            layer_states = tuple(s[number * D : (number + 1) * D] for s in states)
            y, states_n, saved = layer.forward(y, layer_states, save=save, rows=rows)
            all_states_n.append(states_n)
            all_saved.append(saved)
        return y, _stacked(all_states_n), _SavedLayers(all_saved, masks)

    def backward(
        self, saved: "_SavedLayers | Recomputing", padded: Padded | None, dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, dict[str, np.ndarray]]:
        """The gradients of x, of the initial states and of the parameters, from those of y and of the final states."""
        if padded is not None:
            dy = None if dy is None else self.layers[-1].pack(padded, dy)
            dstates = padded.sort(dstates)
        if not isinstance(saved, _SavedLayers):
            dx, dstates_0, all_dweights = saved.backward(self.layers, dy, dstates)
        elif len(self.layers) == 1:
            dx, dstates_0, dweights = self.layers[0].backward(saved.layers.pop(), dy, dstates)
            all_dweights = [dweights]
        else:
            dx, dstates_0, all_dweights = self._layer_by_layer_back(saved, dy, dstates)
        named: dict[str, np.ndarray] = {}
        for number, dweights in enumerate(all_dweights):
            named |= self.layers[number].layout.named(number, dweights)
        if padded is not None:
            dx, dstates_0 = self.layers[0].unpack(padded, dx), padded.unsort(dstates_0)
        return dx, dstates_0, named

    def _layer_by_layer_back(
        self, saved: "_SavedLayers", dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[list[dict[str, np.ndarray]]]]:
        D = self._directions
        all_dstates_0, all_dweights = [], []
        for number in reversed(range(len(self.layers))):
            layer_dstates = tuple(None if s is None else s[number * D : (number + 1) * D] for s in dstates)
            dx, dstates_0, dweights = self.layers[number].backward(saved.layers[number], dy, layer_dstates)
            saved.layers[number] = None  # its memory is free for the layers below
            all_dstates_0.append(dstates_0)
            all_dweights.append(dweights)
            dy = saved.masks[number - 1](dx) if number and saved.masks else dx
        return dx, _stacked(all_dstates_0[::-1]), all_dweights[::-1]


class Backward:
    """The gradients of one run of a layer. Callable once: what the run saved is used up.

    It reads the run's `y`, which cannot be written to meanwhile, as `y -= target` would; afterwards, or once this has
    gone, it can. (A view taken meanwhile stays read-only.)
    """

    _y: "weakref.ref[np.ndarray] | None" = None  # the caller's, where this reads it

    def __init__(
        self,
        layer: "Recurrent",
        layout: Layout,
        saved: "_SavedLayers | Recomputing",
        y: np.ndarray,
        steps: int,
        batch: int,
        batched: bool,
        padded: Padded | None,
    ) -> None:
        self._layer = layer
        self._layout = layout
        self._saved: list[_SavedLayers | Recomputing] = [saved]  # whoever pops it may use it up
        if padded is None:
            self._y = weakref.ref(y)
            y.setflags(write=False)
        self._steps = steps
        self._batch = batch
        self._batched = batched
        self._padded = padded

    def _give_back(self) -> None:
        y = None if self._y is None else self._y()
        self._y = None
        if y is not None:
            try:  # noqa: SIM105 - a context manager takes half a microsecond
                y.setflags(write=True)
            except ValueError:  # the caller may have made its base read-only
                pass

    def __del__(self) -> None:
        self._give_back()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_y": None}

    def __copy__(self) -> "Backward":
        raise TypeError("backward: a shallow copy would share what is used up; use copy.deepcopy")

    def __call__(self, dy: np.ndarray | None, dstate: State = None) -> Gradients:
        """From the gradients of y and of the final state to those of x, the initial state and the parameters.

        dy      shaped as y; None for zeros
        dstate  shaped as the final state; None for zeros, and so for either of the LSTM's (dh_n, dc_n)

        With `lengths`, what dy holds behind a sequence's end is never read, and dx is 0 there.

        Arrays are NumPy arrays of the layer's dtype in any memory layout; they are never written to. TypeError for
        another type or dtype, ValueError for a wrong shape: it can be called again then. RuntimeError if called a
        second time (after any other error too), or after the parameters have changed.
        """
        layout, batched = self._layout, self._batched
        if self._saved:
            dy, dstates = layout.gradients(dy, dstate, self._steps, self._batch, batched)
        try:
            saved = self._saved.pop()
        except IndexError:
            raise RuntimeError(USED_UP) from None
        try:
            dx, dstates_0, dparameters = self._layer._network.backward(saved, self._padded, dy, dstates)
        finally:
            self._give_back()
        return Gradients(layout.given_sequence(dx, batched), layout.given_state(dstates_0, batched), dparameters)


class _SavedLayers(NamedTuple):
    layers: list[Any]  # what each layer's `Sequence.forward` saved
    masks: list[Mask]  # of the y of each layer but the last; empty without dropout


def _stacked(layers: list[States]) -> States:
    """The states of all layers, (L*D, B, n), from each layer's (D, B, n)."""
    return tuple([np.concatenate(s) for s in zip(*layers, strict=True)])
