"""One layer of a module: its kernels, and the memory of the tensors that are its weights."""

import weakref
from collections.abc import Sequence as Tensors
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch

from fastrnn import threads
from fastrnn.kernels.cells import CELLS
from fastrnn.kernels.interrupts import interrupts_wait
from fastrnn.parameters import Directions, ParameterLayout
from fastrnn.zeros import ZeroStates

DTYPES: dict[torch.dtype, np.dtype] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
PLAIN = (torch.Tensor, torch.nn.Parameter)  # other types may be anything but numbers in memory


class Bound(NamedTuple):
    """Weights as the kernels take them, without copies.

    key     of each tensor, which is contiguous, what would change if its numbers lay elsewhere or otherwise
    arrays  keep that memory, so that no other tensor can get the same address
    """

    key: list[tuple[int, torch.Size, torch.dtype]]
    arrays: Directions


class Layer:
    """The kernels for weights of certain shapes and one dtype, and the weights they last ran with.

    A call holds what `bind` returned, so that others, in other threads too, may bind other tensors meanwhile.

    forward, backward  those of `CpuLayer`, which take what `bind` returned as `weights`
    """

    def __init__(self, layout: ParameterLayout, dtype: np.dtype) -> None:
        with interrupts_wait():
            from fastrnn.cpu import CpuLayer  # which imports Numba

        self.layout = layout
        self.dtype = dtype
        self.directions = layout.num_directions
        self._cpu = CpuLayer(layout, None, dtype, _available)
        self.forward, self.backward = self._cpu.forward, self._cpu.backward
        self._shapes = list(layout.shapes.values()) * layout.num_directions
        self._bound = Bound([], [])
        # the initial states of so many rows if none are given, not to be written to
        self.zeros = ZeroStates(layout.num_directions, layout.state_widths, dtype)

    @classmethod
    def of(cls, cell: str, directions: int, weights: Tensors[Any]) -> "Layer | None":
        """For weights in PyTorch's order, of all directions; None if the kernels cannot do these."""
        first = weights[0]
        if type(first) not in PLAIN or first.dtype not in DTYPES or first.dim() != 2:
            return None
        each = len(weights) // directions
        bias, projected = each >= 4, each % 2 == 1
        gate_rows, input_size = first.shape
        hidden_size = gate_rows // CELLS[cell].gates
        proj_size = weights[each - 1].shape[0] if projected else 0
        layout = ParameterLayout(cell, input_size, hidden_size, proj_size, bias=bias, num_directions=directions)
        layer = cls(layout, DTYPES[first.dtype])
        return layer if layer.bind(weights) else None

    def is_for(self, cell: str, directions: int) -> bool:
        return self.layout.name == cell and self.directions == directions

    def bind(self, weights: Tensors[torch.Tensor]) -> Directions | None:
        """The memory of contiguous weights as arrays; None if they are not such as the layer was made for."""
        key = [(w.data_ptr(), w.shape, w.dtype) for w in weights]
        bound = self._bound
        if bound.key == key:
            return bound.arrays
        if len(weights) != len(self._shapes) or not all(map(self._fits, weights, self._shapes)):
            return None
        numbers = iter([w.detach().numpy() for w in weights])
        arrays = [{short: next(numbers) for short in self.layout.shapes} for _ in range(self.directions)]
        self._bound = Bound(key, arrays)
        return arrays

    def release(self) -> None:
        """Keep the memory of no weights."""
        self._bound = Bound([], [])
        self._cpu.weights.release()

    def _fits(self, weight: torch.Tensor, shape: tuple[int, ...]) -> bool:
        return (
            type(weight) in PLAIN
            and weight.shape == shape
            and weight.dtype in DTYPES  # to NumPy, None would be float64
            and DTYPES[weight.dtype] == self.dtype
            and weight.is_cpu
            and weight.is_contiguous()
            and not weight.is_neg()
        )


def _available() -> int:
    """How many threads a call may use: no more than PyTorch does, whose workers that load data have one."""
    return min(threads.available(), torch.get_num_threads())


Kernels = list[tuple[Layer, Directions]]  # of each layer of a module, and its weights as they take them
Kind = tuple[str, int, int, int, int]  # of a module: its cell, directions, input_size, hidden_size and proj_size


class _Run(NamedTuple):
    """What a module ran with: the kernels, and how the contiguous weights that it has under these names looked.

    The kernels' arrays keep the weights' memory, so that no other tensor can get the same address.
    """

    kind: Kind
    kernels: Kernels
    names: itemgetter
    looks: list[tuple[Any, int, torch.Size, torch.dtype] | None]  # type, address, shape and dtype of each; None: None
    some_absent: bool


_of_modules: "weakref.WeakKeyDictionary[torch.nn.Module, list[Layer | None]]" = weakref.WeakKeyDictionary()
_last_runs: "weakref.WeakKeyDictionary[torch.nn.Module, _Run]" = weakref.WeakKeyDictionary()


def layers_of(
    module: torch.nn.Module, names: Tensors[str], kind: Kind, weights: list[Tensors[torch.Tensor]]
) -> Kernels | None:
    """For each layer of a module its kernels, and its weights as they take them; None if they cannot.

    names: of all weights, also of those that are None.

    They are not attributes of the module, so that it is copied, pickled and replicated as torch.nn's.
    """
    cell, directions, *_ = kind
    layers = _of_modules.get(module)
    if layers is None:
        layers = _of_modules[module] = [None] * len(weights)
    bound = []
    for k, own in enumerate(weights):
        layer = layers[k]
        arrays = None
        if layer is not None and layer.is_for(cell, directions):
            arrays = layer.bind(own)
        if layer is None or arrays is None:
            layer = Layer.of(cell, directions, own)
            arrays = None if layer is None else layer.bind(own)
            if layer is None or arrays is None:
                forget(module)
                return None
            layers[k] = layer
        bound.append((layer, arrays))
    parameters = module._parameters
    present = iter([(type(w), w.data_ptr(), w.shape, w.dtype) for own in weights for w in own])
    # a computed one is not among them
    looks = [None if name in parameters and parameters[name] is None else next(present) for name in names]
    _last_runs[module] = _Run(kind, bound, itemgetter(*names), looks, None in looks)
    return bound


def forget(module: torch.nn.Module) -> None:
    """Let go of the memory of the weights that a module had, and of what was packed from them."""
    _of_modules.pop(module, None)
    _last_runs.pop(module, None)


def layers_as_before(
    module: torch.nn.Module, kind: Kind, number: int
) -> tuple[list[Tensors[torch.Tensor]], Kernels] | None:
    """The weights of each of so many layers, and what `layers_of` returned last, if they look as they did then."""
    last = _last_runs.get(module)
    if last is None or last.kind != kind or len(last.kernels) != number:
        return None
    try:
        weights: tuple[Any, ...] = last.names(module._parameters)
    except KeyError:  # it is computed, or was taken away
        return None
    for weight, look in zip(weights, last.looks, strict=True):
        if look is None or weight is None:
            if look is not weight:
                return None
            continue
        tensor_type, place, shape, dtype = look
        if (
            type(weight) is not tensor_type
            or weight.layout is not torch.strided
            or weight.data_ptr() != place
            or weight.shape != shape
            or weight.dtype is not dtype
            or not weight.is_contiguous()
            or weight.is_neg()
        ):
            return None
    if last.some_absent:
        weights = tuple([weight for weight in weights if weight is not None])
    return split(weights, number), last.kernels


def split(weights: Tensors[torch.Tensor], number: int) -> list[Tensors[torch.Tensor]]:
    """Of each of so many layers."""
    if number == 1:
        return [weights]
    each = len(weights) // number
    return [weights[k * each : (k + 1) * each] for k in range(number)]
