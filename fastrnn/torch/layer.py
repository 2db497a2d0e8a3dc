"""One layer of a module: its kernels, and the memory of the tensors that are its weights."""

import weakref
from collections.abc import Sequence as Tensors
from typing import Any, NamedTuple

import numpy as np
import torch

from fastrnn.lengths import Packed
from fastrnn.parameters import GATES, Directions, LayerParameters
from fastrnn.sequence import OptionalStates, Sequence, States

DTYPES: dict[torch.dtype, np.dtype] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_dtype = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]
PLAIN = (torch.Tensor, torch.nn.Parameter)  # other types may be anything but numbers in memory


class Bound(NamedTuple):
    """Weights as the kernels take them, without copies.

    types, dtypes, aliases   of the tensors; the aliases keep their memory, so that no others can get the same address
    arrays                   the same memory
    """

    types: list[type]
    dtypes: list[torch.dtype]
    aliases: list[torch.Tensor]
    arrays: Directions


class Layer:
    """The kernels for weights of certain shapes and one dtype, and the weights they last ran with.

    A call holds what `bind` returned, so that others, in other threads too, may bind other tensors meanwhile.
    """

    def __init__(self, sequence: Sequence, shapes: list[tuple[int, ...]]) -> None:
        self.sequence = sequence
        self.directions = len(sequence.parameters.directions)
        output_size = sequence.output_size // self.directions
        # of the states: (R,), or (R, H) for the LSTM
        self.widths = (output_size, sequence.hidden_size) if sequence.cell == "lstm" else (output_size,)
        self._shapes = shapes
        self._bound = Bound([], [], [], [])
        self._zeros = self._new_zeros(0)

    @classmethod
    def of(cls, cell: str, directions: int, weights: Tensors[Any]) -> "Layer | None":
        """For weights in PyTorch's order, of all directions; None if the kernels cannot do these."""
        first = weights[0]
        if type(first) not in PLAIN or first.dtype not in DTYPES or first.dim() != 2:
            return None
        each = len(weights) // directions
        bias, projected = each >= 4, each % 2 == 1
        gate_rows, input_size = first.shape
        hidden_size = gate_rows // GATES[cell]
        proj_size = weights[each - 1].shape[0] if projected else 0
        dtype = DTYPES[first.dtype]
        sizes = (cell, input_size, hidden_size, proj_size)
        parameters = LayerParameters(*sizes, bias=bias, directions=directions, dtype=dtype)
        layer = cls(Sequence(*sizes, parameters, dtype, "cpu"), list(parameters.shapes.values()) * directions)
        return layer if layer.bind(weights) else None

    @property
    def dtype(self) -> np.dtype:
        return self.sequence.dtype

    @property
    def input_size(self) -> int:
        return self.sequence.input_size

    def zeros(self, batch: int) -> States:
        """The initial states of so many rows if none are given, not to be written to."""
        zeros = self._zeros
        if zeros[0].shape[1] != batch:
            self._zeros = zeros = self._new_zeros(batch)
        return zeros

    def _new_zeros(self, batch: int) -> States:
        return tuple([np.zeros((self.directions, batch, width), self.dtype) for width in self.widths])

    def bound_to(self, weights: Tensors[Any]) -> Directions | None:
        """What `bind` returned last, if it was for the same memory, of the same shapes and dtypes; else None."""
        types, dtypes, aliases, arrays = self._bound
        if (
            [*map(type, weights)] == types
            and [*map(_dtype, weights)] == dtypes
            and all(map(torch.Tensor.is_set_to, weights, aliases))
        ):
            return arrays
        return None

    def bind(self, weights: Tensors[torch.Tensor]) -> Directions | None:
        """The memory of contiguous weights as arrays; None if they are not such as the layer was made for."""
        before = self.bound_to(weights)
        if before is not None:
            return before
        if not all(map(self._fits, weights, self._shapes)):
            return None
        aliases = [w.detach() for w in weights]
        numbers = iter([alias.numpy() for alias in aliases])
        shorts = self.sequence.parameters.shapes
        bias = {} if "bias_ih" in shorts else {"bias_ih": None, "bias_hh": None}
        arrays = [bias | {short: next(numbers) for short in shorts} for _ in range(self.directions)]
        self._bound = Bound([*map(type, weights)], [*map(_dtype, weights)], aliases, arrays)
        return arrays

    def _fits(self, weight: torch.Tensor, shape: tuple[int, ...]) -> bool:
        return (
            type(weight) in PLAIN
            and weight.shape == shape
            and DTYPES.get(weight.dtype) == self.dtype
            and weight.is_cpu
            and weight.is_contiguous()
        )

    def forward(
        self, arrays: Directions, x: np.ndarray, states: States, rows: Packed | None, save: bool
    ) -> tuple[np.ndarray, States, Any]:
        """As `Sequence.forward`, with what `bind` returned."""
        return self.sequence.forward(x, states, save=save, rows=rows, weights=arrays)

    def backward(
        self, saved: Any, arrays: Directions, dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[dict[str, np.ndarray]]]:
        """As `Sequence.backward`, with the arrays of the forward pass."""
        return self.sequence.backward(saved, dy, dstates, weights=arrays)


_of_modules: "weakref.WeakKeyDictionary[torch.nn.Module, list[Layer | None]]" = weakref.WeakKeyDictionary()
Kernels = list[tuple[Layer, Directions]]  # of each layer of a module, and its weights as they take them


def layers_as_before(module: torch.nn.Module, weights: list[list[Any]]) -> Kernels | None:
    """As `layers_of`, where the module last ran with these weights, which may be anything; else None."""
    layers = _of_modules.get(module)
    if layers is None or len(layers) != len(weights):
        return None
    bound = []
    for layer, own in zip(layers, weights, strict=True):
        arrays = None if layer is None else layer.bound_to(own)
        if layer is None or arrays is None:
            return None
        bound.append((layer, arrays))
    return bound


def layers_of(
    module: torch.nn.Module, cell: str, directions: int, weights: list[list[torch.Tensor]]
) -> Kernels | None:
    """For each layer of a module its kernels, and its weights as they take them; None if they cannot.

    They are not attributes of the module, so that it is copied, pickled and replicated as torch.nn's.
    """
    layers = _of_modules.get(module)
    if layers is None:
        layers = _of_modules[module] = [None] * len(weights)
    bound = []
    for k, own in enumerate(weights):
        layer = layers[k]
        arrays = None if layer is None else layer.bind(own)
        if layer is None or arrays is None:
            layer = Layer.of(cell, directions, own)
            arrays = None if layer is None else layer.bind(own)
            if layer is None or arrays is None:
                return None
            layers[k] = layer
        bound.append((layer, arrays))
    return bound
