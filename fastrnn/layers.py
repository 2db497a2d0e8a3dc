"""LSTM, GRU and RNN: the layers as NumPy functions with state, under PyTorch's names, shapes and orders.

In the shapes: `T` steps, `B` batch, `I` input features, `H` hidden units, `P` projection size, `L` layers,
`D` directions, and `R`, the width of h: `P` with projection, else `H`.
"""

import copy
import math
import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from . import files, validation
from .dropout import forkable
from .network import Backward, Network
from .parameters import ParameterLayout
from .validation import Lengths, State

if TYPE_CHECKING:
    from .cuda.network import DeviceBackward
    from .cuda.stream import DeviceStream
    from .stream import Stream

_Layer = TypeVar("_Layer", bound="Recurrent")

# what a layer is made for; `batch_first`, `dropout` and `training` may be changed
_FIXED = frozenset((
    "cell", "input_size", "hidden_size", "num_layers", "bias", "bidirectional", "num_directions", "proj_size", "device",
    "dtype", "backend", "reset_after", "nonlinearity", "forget_bias",
))  # fmt: skip
_BACKENDS = {"cpu": ("cpu", "reference"), "cuda": ("plain", "persistent", "auto")}  # of each device, the default first


class Recurrent:
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
        self._generator = forkable(np.random.Generator(np.random.PCG64(dropout_seed)))
        first, above = self._layouts()
        numbers = first.size + (self.num_layers - 1) * above.size
        try:
            if numbers * self.dtype.itemsize > sys.maxsize:
                raise MemoryError("more than any array can have")
            if self.device == "cpu":
                np.empty(numbers, self.dtype)  # layer by layer, the system might refuse late, or end the process
            self._allocate()
            generator = np.random.default_rng(initial_seed)
            for sequence in self.sequences:
                sequence.parameters.set(sequence.layout.drawn(generator))
        except MemoryError as error:
            sizes = f"input_size = {input_size}, hidden_size = {hidden_size}, num_layers = {num_layers}"
            raise MemoryError(f"{sizes}: {numbers:,} parameters do not fit into memory: {error}") from error

    def __setattr__(self, name: str, value: Any) -> None:
        """Options that can be changed are checked as in the constructor; the others and parameters: AttributeError."""
        if name == "dropout":
            value = validation.probability(name, value)
        elif name in ("batch_first", "training"):
            value = validation.flag(name, value)
            if name == "batch_first" and "_network" in self.__dict__:
                self._network.set_batch_first(value)
        elif name in _FIXED and name in self.__dict__:
            raise AttributeError(f"{name}: fixed when the layer is made, as {getattr(self, name)!r}; got {value!r}")
        elif "_network" in self.__dict__ and name in self.parameters:
            raise AttributeError(f"{name}: a parameter, which can be written to in place: parameters[{name!r}][...] =")
        super().__setattr__(name, value)

    def _allocate(self) -> None:
        """Make what does the work, with parameters of zeros."""
        if self.device == "cuda":
            from .cuda import make_network

            self._network: Any = make_network(self)
        else:
            self._network = Network(self)
        self.sequences: list[Any] = self._network.layers

    def _layouts(self) -> tuple[ParameterLayout, ParameterLayout]:
        """How the parameters of the first layer lie in memory, and those of any above, which reads the one below."""
        D, H, P = self.num_directions, self.hidden_size, self.proj_size
        first, above = (
            ParameterLayout(self.cell, width, H, P, bias=self.bias, num_directions=D)
            for width in (self.input_size, D * (P or H))
        )
        return first, above

    def _parameter_layouts(self) -> list[ParameterLayout]:
        """Those of each layer."""
        first, above = self._layouts()
        return [first, *[above] * (self.num_layers - 1)]

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
        return self._network.run(self, x, state, lengths)

    def vjp(
        self, x: np.ndarray, state: State = None, lengths: Lengths = None, *, recompute: bool = False
    ) -> tuple[tuple[np.ndarray, State], "Backward | DeviceBackward"]:
        """As calling the layer, and also return the function that computes its gradients (see `Backward`).

        `x`, `state`, `y` and the parameters must keep their values until that function has been called: it
        reads them instead of copies. On the CPU `y` is read-only until then, and what is a view of it stays so, and
        changed parameters are a RuntimeError there.

        recompute  keep less memory and take more time: instead of gates and cell states of all T steps, the states
                   before every k-th, with k about sqrt(T); the backward pass computes those k steps again before it
                   goes through them. Results and gradients have the same bits. Beside x, y and their gradients, and
                   the packed copies that `lengths` needs of them, memory is of order sqrt(T); but between
                   bidirectional layers y of the lower ones and its gradient are kept at all T steps. For the CPU
                   kernels only: else ValueError.
        """
        return self._network.vjp(self, x, state, lengths, self._checked_recompute(recompute))

    def _checked_recompute(self, value: bool) -> bool:
        """The argument of that name, checked."""
        if validation.flag("recompute", value) and self.backend != "cpu":
            raise ValueError(f"recompute: expected False with backend={self.backend!r}, where every step is kept")
        return value

    def stream(self, batch_size: int = 1) -> "Stream | DeviceStream":
        """Run frame by frame with a snapshot of the present parameters (see `fastrnn.stream.Stream`).

        ValueError for a bidirectional layer or a `batch_size` below 1, TypeError unless that is an integer, MemoryError
        if it is more than fits into memory.
        """
        return self._network.stream(self, batch_size)

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The parameters in PyTorch's order and under its names. The arrays are live: write to them in place.

        But not while another thread is in a call, which packs them for the kernels: what it packed of other values than
        it began with would be used again, also by later calls, if the first ones came back.
        """
        return self._network.parameters

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(math.prod(array.shape) for array in self.parameters.values())

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Turn dropout on, or off with `mode=False`. Returns the layer. TypeError unless `mode` is True or False."""
        self.training = validation.flag("mode", mode)
        return self

    def eval(self: _Layer) -> _Layer:
        """Turn dropout off. Returns the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters, NumPy arrays whatever the device."""
        return self._network.parameters_on_host()

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Copy the values of NumPy arrays or PyTorch tensors into the parameters.

        Names, shapes and dtypes must be those of `parameters`. One error lists all that is wrong, and then nothing
        is loaded: ValueError, or TypeError if only types and dtypes are wrong.
        """
        self._network.set_parameters(validation.parameter_values(mapping, self.parameters, self.dtype))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the layer's class, options and parameters to an .npz file at exactly `path`.

        Not kept: the training flag, the dropout generator, device and backend. The file appears, or replaces an older
        one, only when all is written. OSError, as `open` raises it, if it cannot be; TypeError or ValueError if `path`
        is no name of a file.
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

        ValueError if it is another kind of file, or holds a layer of another class; OSError, as `open` raises it, if
        it cannot be read. Wrong arguments are errors as in making a layer.
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
        del state["sequences"], state["_network"]
        state["_generator"] = copy.deepcopy(self._generator)  # a shallow copy draws its own masks too
        return state | {"flats": [sequence.parameters.get() for sequence in self.sequences]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = state.copy()
        flats = state.pop("flats")
        self.__dict__.update(state)
        forkable(self._generator)
        self._allocate()
        for sequence, flat in zip(self.sequences, flats, strict=True):
            sequence.parameters.set(flat)


class LSTM(Recurrent):
    """Long short-term memory, optionally with a projection of h.

        i, f, o = σ(W_ih x + b_ih + W_hh h' + b_hh), each with its own rows, and g likewise with tanh
        c = f ⊙ c' + i ⊙ g
        h = o ⊙ tanh(c), or W_hr (o ⊙ tanh(c)) with proj_size

    where h' and c' are those of the step before. In shapes, T is the number of steps, B of sequences, D of directions,
    and R the width of h: proj_size, or H without a projection.

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

    _options: ClassVar[tuple[str, ...]] = (*Recurrent._options, "proj_size", "forget_bias")

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


class GRU(Recurrent):
    """Gated recurrent unit.

        r, z = σ(W_ih x + b_ih + W_hh h' + b_hh), each with its own rows
        n = tanh(W_in x + b_in + r ⊙ (W_hn h' + b_hn)), or, with reset_after=False,
        n = tanh(W_in x + b_in + W_hn (r ⊙ h') + b_hn)
        h = (1 - z) ⊙ n + z ⊙ h'

    where h' is that of the step before.

    reset_after  True: as in PyTorch and cuDNN. False: as in Cho et al. (EMNLP 2014), and ONNX's default.
    The other arguments are those of `LSTM`, but for `proj_size` and `forget_bias`.
    """

    _options: ClassVar[tuple[str, ...]] = (*Recurrent._options, "reset_after")

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


class RNN(Recurrent):
    """The plain (Elman) recurrent layer: h = tanh(W_ih x + b_ih + W_hh h' + b_hh), where h' is that of the step before.

    nonlinearity  "tanh", or "relu" in its place; the fourth argument, as in PyTorch
    The other arguments are those of `LSTM`, but for `proj_size` and `forget_bias`.
    """

    _options: ClassVar[tuple[str, ...]] = (*Recurrent._options, "nonlinearity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str = "cpu",
        dtype: Any = "float32",
        seed: int | None = None,
        backend: str | None = None,
    ) -> None:
        self.nonlinearity = validation.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0)
        super().__init__(f"rnn_{nonlinearity}", *shape, device, dtype, seed, backend)
