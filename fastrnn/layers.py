"""LSTM, GRU and RNN: the layers as NumPy functions with state, under PyTorch's names, shapes and orders.

In the shapes: `T` steps, `B` batch, `I` input features, `H` hidden units, `P` projection size, `L` layers,
`D` directions, and `R`, the width of h: `P` with projection, else `H`.
"""

import copy
import math
import os
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from . import files, validation
from .dropout import Mask
from .gradients import Gradients
from .lengths import Packed, Padded
from .parameters import LayerParameters, ParameterLayout
from .sequence import OptionalStates, Sequence, States
from .validation import Layout, Lengths, State

if TYPE_CHECKING:
    from .cuda.network import DeviceBackward, Network
    from .cuda.stream import DeviceStream
    from .recompute import Recomputing
    from .stream import Stream

_Layer = TypeVar("_Layer", bound="_Recurrent")

# what a layer is made for; `batch_first`, `dropout` and `training` may be changed
_FIXED = frozenset((
    "cell", "input_size", "hidden_size", "num_layers", "bias", "bidirectional", "num_directions", "proj_size", "device",
    "dtype", "backend", "reset_after", "nonlinearity", "forget_bias",
))  # fmt: skip
_BACKENDS = {"cpu": ("cpu", "reference"), "cuda": ("plain", "persistent", "auto")}  # of each device, the default first


class _Recurrent:
    """What the three layers share: everything but the cell."""

    _options: ClassVar[tuple[str, ...]] = ("bias", "batch_first", "dropout", "bidirectional")  # as in the constructor

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: str,
        dtype: Any,
        seed: int | None,
        backend: str | None,
    ) -> None:
        self.cell = cell
        self.input_size = validation.size("input_size", input_size, least=1)
        self.hidden_size = validation.size("hidden_size", hidden_size, least=1)
        self.num_layers = validation.size("num_layers", num_layers, least=1)
        self.bias = validation.flag("bias", bias)
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = validation.flag("bidirectional", bidirectional)
        self.num_directions = 2 if self.bidirectional else 1
        self.proj_size = validation.size("proj_size", proj_size, least=0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size: expected less than hidden_size = {hidden_size}, got {proj_size}")
        self.device = validation.choice("device", device, tuple(_BACKENDS))
        backends = _BACKENDS[self.device]
        self.dtype = validation.float_dtype(dtype, validation.dtypes(self.device))
        self.backend = backends[0] if backend is None else validation.choice("backend", backend, backends)
        if seed is not None:
            validation.size("seed", seed, least=0)
        self.training = True
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout acts between layers: dropout={dropout} has no effect with num_layers=1", stacklevel=3
            )
        initial_seed, dropout_seed = np.random.SeedSequence(seed).spawn(2)
        self._generator = np.random.default_rng(dropout_seed)
        self._allocate()
        generator = np.random.default_rng(initial_seed)
        for sequence in self.sequences:
            sequence.parameters.set(sequence.layout.drawn(generator))

    _layout: Layout

    def __setattr__(self, name: str, value: Any) -> None:
        """Options that can be changed are checked as in the constructor; AttributeError for the others."""
        if name == "dropout":
            value = validation.probability(name, value)
        elif name in ("batch_first", "training"):
            value = validation.flag(name, value)
            if name == "batch_first" and "_layout" in self.__dict__:  # a new one: a `Backward` keeps that of its run
                self._layout = copy.copy(self._layout)
                self._layout.batch_first = value
        elif name in _FIXED and name in self.__dict__:
            raise AttributeError(f"{name}: fixed when the layer is made, as {getattr(self, name)!r}; got {value!r}")
        super().__setattr__(name, value)

    def _allocate(self) -> None:
        """Make `sequences`, one for each layer, and the parameters they use, all zero."""
        self._network: Network | None = None
        if self.device == "cuda":
            from .cuda import make_network

            self._network = make_network(self)
            self.sequences: list[Any] = self._network.layers
            self._parameters = self._network.parameters
            return
        layouts = self._parameter_layouts()
        self._layout = Layout(layouts, self.batch_first, self.dtype)
        self.sequences = []
        arrays: dict[str, np.ndarray] = {}
        for number, layout in enumerate(layouts):
            parameters = LayerParameters(layout, self.dtype)
            self.sequences.append(Sequence(layout, parameters, self.dtype, self.backend))
            arrays |= layout.named(number, parameters.directions)
        self._parameters = MappingProxyType(arrays)

    def _parameter_layouts(self) -> list[ParameterLayout]:
        """Of each layer. Those above the first read the outputs of the one below."""
        D, H, P = self.num_directions, self.hidden_size, self.proj_size
        widths = [self.input_size] + [D * (P or H)] * (self.num_layers - 1)
        return [ParameterLayout(self.cell, width, H, P, bias=self.bias, num_directions=D) for width in widths]

    def __call__(self, x: np.ndarray, state: State = None, lengths: Lengths = None) -> tuple[np.ndarray, State]:
        """Run the layers over a sequence.

        x        (T, B, I); (B, T, I) with batch_first; or (T, I), one sequence without a batch dimension
        state    the initial state, zeros if omitted: h_0 (L*D, B, R), without B if x has none; for the LSTM the tuple
                 (h_0, c_0) with c_0 (L*D, B, H). Never batch-first; index layer * D + direction.
        lengths  (B,) integers from 0 to T, in any order: how many steps each sequence of the batch has, if not all
                 have T. What x holds behind a sequence's end is never read, y is 0 there, and no work is spent on it.
                 The final state is that of a sequence's own last step, the initial state for length 0; the second
                 direction begins at its last step.

        Returns y, the last layer's h at every step, (T, B, D*R), with batch and time as in x, and the final state,
        shaped as the initial one. With batch_first, y is a transposed view of a time-major array.

        Arrays are NumPy arrays of the layer's dtype in any memory layout; they are never written to. Time-major
        contiguous arrays are not copied. TypeError for another type or dtype, ValueError for a wrong shape.
        """
        if self._network is not None:
            return self._network.run(x, state, lengths)
        layout = self._layout
        x, states, batched = layout.inputs(x, state)
        padded = None if lengths is None else layout.padded(lengths, x, batched)
        y, states_n, _ = self._run(x, states, padded, save=False)
        return layout.given_sequence(y, batched), layout.given_state(states_n, batched)

    def vjp(
        self, x: np.ndarray, state: State = None, lengths: Lengths = None, *, recompute: bool = False
    ) -> tuple[tuple[np.ndarray, State], "Backward | DeviceBackward"]:
        """As calling the layer, and also return the function that computes its gradients (see `Backward`).

        `x`, `state`, `y` and the parameters must keep their values until that function has been called: it
        reads them instead of copies.

        recompute  keep less memory and take more time: instead of gates and cell states of all T steps, the states
                   before every k-th, with k about sqrt(T); the backward pass computes those k steps again before it
                   goes through them. Results and gradients have the same bits. Beside x, y and their gradients, and
                   the packed copies that `lengths` needs of them, memory is of order sqrt(T); but between
                   bidirectional layers y of the lower ones and its gradient are kept at all T steps. For the CPU
                   kernels only: else ValueError.
        """
        recompute = self._recompute(recompute)
        if self._network is not None:
            return self._network.vjp(x, state, lengths)
        layout = self._layout
        x, states, batched = layout.inputs(x, state)
        padded = layout.padded(lengths, x, batched)
        y, states_n, saved = self._run(x, states, padded, save=True, recompute=recompute)
        result = layout.given_sequence(y, batched), layout.given_state(states_n, batched)
        return result, Backward(self, layout, saved, x.shape[0], x.shape[1], batched, padded)

    def _recompute(self, value: bool) -> bool:
        """The argument of that name, checked."""
        if validation.flag("recompute", value) and self.backend != "cpu":
            raise ValueError(f"recompute: expected False with backend={self.backend!r}, where every step is kept")
        return value

    def stream(self, batch_size: int = 1) -> "Stream | DeviceStream":
        """Run frame by frame with a snapshot of the present parameters (see `fastrnn.stream.Stream`)."""
        if self._network is not None:
            from .cuda.stream import DeviceStream

            return DeviceStream(self, batch_size)
        from .stream import Stream

        return Stream(self, batch_size)

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The parameters in PyTorch's order and under its names. The arrays are live: write to them in place."""
        return self._parameters

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(math.prod(array.shape) for array in self._parameters.values())

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Turn dropout on, or off with `mode=False`. Returns the layer."""
        self.training = validation.flag("mode", mode)
        return self

    def eval(self: _Layer) -> _Layer:
        """Turn dropout off. Returns the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters, NumPy arrays whatever the device."""
        if self._network is not None:
            return self._network.parameters_on_host()
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Copy the values of NumPy arrays or PyTorch tensors into the parameters.

        Names, shapes and dtypes must be those of `parameters`. One error lists all that is wrong, and then nothing
        is loaded: ValueError, or TypeError if only types and dtypes are wrong.
        """
        values = validation.parameter_values(mapping, self._parameters, self.dtype)
        if self._network is not None:
            self._network.set_parameters(values)
            return
        for name, value in values.items():
            self._parameters[name][...] = value

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the layer's class, options and parameters to an .npz file at exactly `path`.

        Not kept: the training flag, the dropout generator, device and backend.
        """
        files.write(self, path)

    @classmethod
    def load(
        cls: type[_Layer],
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        seed: int | None = None,
        backend: str | None = None,
    ) -> _Layer:
        """Make a layer from a file that `save` wrote. `seed` is then that of dropout.

        ValueError if it is another kind of file, or holds a layer of another class.
        """
        return files.read(path, cls, device=device, seed=seed, backend=backend)

    @classmethod
    def _names_of_options(cls) -> tuple[str, ...]:
        return ("input_size", "hidden_size", "num_layers", *cls._options, "dtype")

    def _constructor_options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names_of_options()} | {"dtype": self.dtype.name}

    def __repr__(self) -> str:
        parts = [str(self.input_size), str(self.hidden_size)]
        if self.num_layers != 1:
            parts.append(f"num_layers={self.num_layers}")
        defaults = {"bias": True, "dropout": 0.0, "reset_after": True, "nonlinearity": "tanh", "forget_bias": None}
        for name in self._options:
            value = getattr(self, name)
            if value != defaults.get(name, False):
                parts.append(f"{name}={value!r}")
        parts += [f"dtype={self.dtype}", f"device={self.device}"]
        if self.backend != self.device:
            parts.append(f"backend={self.backend}")
        return f"{type(self).__name__}({', '.join(parts)}, num_parameters={self.num_parameters:,})"

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: what `_allocate` makes is left out, but for the values of the parameters."""
        state = self.__dict__.copy()
        del state["_parameters"], state["sequences"], state["_network"]
        state.pop("_layout", None)
        state["_generator"] = copy.deepcopy(self._generator)  # a shallow copy draws its own masks too
        return state | {"flats": [sequence.parameters.get() for sequence in self.sequences]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = state.copy()
        flats = state.pop("flats")
        self.__dict__.update(state)
        self._allocate()
        for sequence, flat in zip(self.sequences, flats, strict=True):
            sequence.parameters.set(flat)

    def _run(
        self, x: np.ndarray, states: States, padded: Padded | None, *, save: bool, recompute: bool = False
    ) -> tuple[np.ndarray, States, Any]:
        """x (T, B, I) and states (L*D, B, n), C-contiguous, through all layers; packed in between if `padded`.

        With `save`, also return the `_Saved` or `Recomputing` that `_backward` takes.
        """
        rows = None
        if padded is not None:
            x, states, rows = self.sequences[0].pack(padded, x), padded.sort(states), padded.packed
        if self.num_layers > 1 or recompute:
            y, states_n, saved = self._forward(x, states, rows, save, recompute and x.size > 0)
        else:
            y, states_n, saved = self.sequences[0].forward(x, states, save=save, rows=rows)
            if save:
                saved = _Saved([saved], [])
        if padded is not None:
            y, states_n = self.sequences[-1].unpack(padded, y), padded.unsort(states_n)
        return y, states_n, saved

    def _forward(
        self, x: np.ndarray, states: States, rows: Packed | None, save: bool, recompute: bool
    ) -> tuple[np.ndarray, States, "_Saved | Recomputing"]:
        """As `Sequence.forward`, through all layers, with states (L*D, B, n)."""
        if not (self.training and self.dropout):
            return self._forward_layers(x, states, rows, save, recompute, 0.0)
        generator_state = self._generator.bit_generator.state
        try:
            return self._forward_layers(x, states, rows, save, recompute, self.dropout)
        except BaseException:
            self._generator.bit_generator.state = generator_state
            raise

    def _forward_layers(
        self, y: np.ndarray, states: States, rows: Packed | None, save: bool, recompute: bool, dropout: float
    ) -> tuple[np.ndarray, States, "_Saved | Recomputing"]:
        if recompute:
            from . import recompute as recomputing  # which imports Numba

            return recomputing.forward(self.sequences, y, states, rows, dropout, self._generator)
        D = self.num_directions
        all_states_n, all_saved = [], []
        masks: list[Mask] = []
        for layer, sequence in enumerate(self.sequences):
            if dropout and layer:
                mask = Mask(self._generator, y.shape, dropout)
                y = mask(y)
                if save:
                    masks.append(mask)
            layer_states = tuple(s[layer * D : (layer + 1) * D] for s in states)
            y, states_n, saved = sequence.forward(y, layer_states, save=save, rows=rows)
            all_states_n.append(states_n)
            all_saved.append(saved)
        return y, _stacked(all_states_n), _Saved(all_saved, masks)

    def _backward(
        self, saved: "_Saved | Recomputing", dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, dict[str, np.ndarray]]:
        if isinstance(saved, _Saved):
            dx, dstates_0, all_dweights = self._backward_layers(saved, dy, dstates)
        else:
            dx, dstates_0, all_dweights = saved.backward(self.sequences, dy, dstates)
        dparameters: dict[str, np.ndarray] = {}
        for layer, (sequence, dweights) in enumerate(zip(self.sequences, all_dweights, strict=True)):
            dparameters |= sequence.layout.named(layer, dweights)
        return dx, dstates_0, dparameters

    def _backward_layers(
        self, saved: "_Saved", dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[list[dict[str, np.ndarray]]]]:
        D = self.num_directions
        all_dstates_0, all_dweights = [], []
        for layer in reversed(range(self.num_layers)):
            layer_dstates = tuple(None if s is None else s[layer * D : (layer + 1) * D] for s in dstates)
            dx, dstates_0, dweights = self.sequences[layer].backward(saved.layers[layer], dy, layer_dstates)
            saved.layers[layer] = None  # its memory is free for the layers below
            all_dstates_0.append(dstates_0)
            all_dweights.append(dweights)
            dy = saved.masks[layer - 1](dx) if layer and saved.masks else dx
        return dx, _stacked(all_dstates_0[::-1]), all_dweights[::-1]


class LSTM(_Recurrent):
    """Long short-term memory, optionally with a projection of h.

        i, f, o = σ(W x + b_ih + R h' + b_hh), each with its own rows, and g likewise with tanh
        c = f ⊙ c' + i ⊙ g
        h = o ⊙ tanh(c), or W_hr (o ⊙ tanh(c)) with proj_size

    input_size     I, the features of x
    hidden_size    H
    num_layers     L; each layer above the first reads the y of the one below, D*R wide
    bias           whether there are b_ih and b_hh
    batch_first    x and y are (B, T, ·) instead of (T, B, ·); states are not affected
    dropout        probability with which, in training, each element of the y of every layer but the last is zeroed
                   (the others are scaled by 1 / (1 - dropout))
    bidirectional  a second direction reads x backwards; y holds both, side by side
    proj_size      P, the width of h; 0 for no projection. Less than H.
    device         "cpu", or "cuda": the GPU that is current now, on arrays that lie there (see docs/gpu.md)
    dtype          "float32" or "float64", also as NumPy type or dtype; with "cuda" also "float16" and "bfloat16"
    seed           of the initial parameters and, independently, of dropout; None for a different one each time
    backend        on the CPU "cpu", the compiled kernels, which is the default; or "reference", the NumPy oracle.
                   With "cuda" "plain", which is the default; or, experimental, "persistent", kernels that keep R on the
                   chip, or "auto", whichever should be faster
    forget_bias    None: forget gates start like every other parameter, as in PyTorch. A number: what the sum of their
                   two biases starts at, in every layer and direction; the rows of f are set to it in bias_ih and to 0
                   in bias_hh, all other parameters are what the seed makes them. 1 is what Jozefowicz et al. (2015)
                   advise: gates that start open remember from the first step of training on. ValueError without bias.
                   It is about the start only: what is trained or loaded afterwards stands. The layer, its copies and
                   its files keep the number as the attribute `forget_bias`.

    The arguments are attributes as well. `batch_first` and `dropout` may be set later on, as `train` and `eval` set
    `training`; the others stay.

    TypeError or ValueError for an argument of a wrong type or value. With device="cuda", RuntimeError if the GPU, its
    driver or a package is missing, saying which.
    """

    _options: ClassVar[tuple[str, ...]] = (*_Recurrent._options, "proj_size", "forget_bias")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        device: str = "cpu",
        dtype: Any = "float32",
        seed: int | None = None,
        backend: str | None = None,
        forget_bias: float | None = None,
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__("lstm", *shape, device, dtype, seed, backend)
        self.forget_bias = None if forget_bias is None else validation.finite("forget_bias", forget_bias, self.dtype)
        if self.forget_bias is not None:
            self._start_forget_gates(self.forget_bias)

    def _start_forget_gates(self, total: float) -> None:
        """Set the forget gates' biases so that their sum is `total`."""
        if not self.bias:
            raise ValueError(f"forget_bias: expected None with bias=False, got {total}")
        rows = slice(self.hidden_size, 2 * self.hidden_size)
        for sequence in self.sequences:
            flat = sequence.parameters.get()
            for weights in sequence.layout.views(flat):
                weights["bias_ih"][rows] = total
                weights["bias_hh"][rows] = 0
            sequence.parameters.set(flat)


class GRU(_Recurrent):
    """Gated recurrent unit.

        r, z = σ(W x + b_ih + R h' + b_hh), each with its own rows
        n = tanh(W_n x + b_in + r ⊙ (R_n h' + b_hn)), or, with reset_after=False,
        n = tanh(W_n x + b_in + R_n (r ⊙ h') + b_hn)
        h = (1 - z) ⊙ n + z ⊙ h'

    reset_after  True: as in PyTorch and cuDNN. False: as published by Cho et al. (2014), and ONNX's default.
    The other arguments are those of `LSTM`, but for `proj_size` and `forget_bias`.
    """

    _options: ClassVar[tuple[str, ...]] = (*_Recurrent._options, "reset_after")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str = "cpu",
        dtype: Any = "float32",
        seed: int | None = None,
        backend: str | None = None,
        reset_after: bool = True,
    ) -> None:
        self.reset_after = validation.flag("reset_after", reset_after)
        cell = "gru" if self.reset_after else "gru_reset_before"
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        super().__init__(cell, *shape, device, dtype, seed, backend)


class RNN(_Recurrent):
    """The plain (Elman) recurrent layer: h = tanh(W x + b_ih + R h' + b_hh).

    nonlinearity  "tanh", or "relu" in its place
    The other arguments are those of `LSTM`, but for `proj_size` and `forget_bias`.
    """

    _options: ClassVar[tuple[str, ...]] = (*_Recurrent._options, "nonlinearity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str = "cpu",
        dtype: Any = "float32",
        seed: int | None = None,
        backend: str | None = None,
        nonlinearity: str = "tanh",
    ) -> None:
        self.nonlinearity = validation.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        super().__init__(f"rnn_{nonlinearity}", *shape, device, dtype, seed, backend)


class Backward:
    """The gradients of one run of a layer. Callable once: what the run saved is used up."""

    def __init__(
        self,
        layer: _Recurrent,
        layout: Layout,
        saved: "_Saved | Recomputing",
        steps: int,
        batch: int,
        batched: bool,
        padded: Padded | None,
    ) -> None:
        self._layer = layer
        self._layout = layout
        self._saved: list[_Saved | Recomputing] = [saved]  # whoever pops it may use it up
        self._steps = steps
        self._batch = batch
        self._batched = batched
        self._padded = padded

    def __copy__(self) -> "Backward":
        raise TypeError("backward: a shallow copy would share what is used up; use copy.deepcopy")

    def __call__(self, dy: np.ndarray | None, dstate: State = None) -> Gradients:
        """From the gradients of y and of the final state to those of x, the initial state and the parameters.

        dy      shaped as y; None for zeros
        dstate  shaped as the final state; None for zeros, and so for either of the LSTM's (dh_n, dc_n)

        With `lengths`, what dy holds behind a sequence's end is never read, and dx is 0 there.

        Arrays are NumPy arrays of the layer's dtype in any memory layout; they are never written to. TypeError for
        another type or dtype, ValueError for a wrong shape, RuntimeError if called a second time.
        """
        layout, batched = self._layout, self._batched
        if self._saved:
            dy, dstates = layout.gradients(dy, dstate, self._steps, self._batch, batched)
        try:
            saved = self._saved.pop()
        except IndexError:
            used_up = "backward: already called, and it uses up what was saved; call vjp again"
            raise RuntimeError(used_up) from None
        padded = self._padded
        if padded is not None:
            dy = None if dy is None else self._layer.sequences[-1].pack(padded, dy)
            dstates = padded.sort(dstates)
        dx, dstates_0, dparameters = self._layer._backward(saved, dy, dstates)
        if padded is not None:
            dx, dstates_0 = self._layer.sequences[0].unpack(padded, dx), padded.unsort(dstates_0)
        return Gradients(layout.given_sequence(dx, batched), layout.given_state(dstates_0, batched), dparameters)


class _Saved(NamedTuple):
    layers: list[Any]  # what each layer's `Sequence.forward` saved
    masks: list[Mask]  # of the y of each layer but the last; empty without dropout


def _stacked(layers: list[States]) -> States:
    """The states of all layers, (L*D, B, n), from each layer's (D, B, n)."""
    return layers[0] if len(layers) == 1 else tuple([np.concatenate(s) for s in zip(*layers, strict=True)])
