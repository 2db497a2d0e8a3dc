"""One layer as operators that torch.compile puts into its graphs whole.

`fastrnn::forward` and `fastrnn::backward` take and return tensors only. So what the forward pass keeps for the backward
pass are tensors too, y among them, and the backward pass copies what it overwrites or keeps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastrnn.kernels.cells import CELLS, cell_of
from fastrnn.parameters import Directions, state_widths

from .autograd import as_array, gradient_array, wants_gradient
from .layer import DTYPES, Layer


def run(
    kind: tuple[str, int],  # the cell, and how many directions
    x: Tensor,
    states: tuple[Tensor, ...],
    weights: list[Tensor],
    rows: None = None,
    turned: bool = False,
) -> tuple[Tensor, ...]:
    """As `fastrnn.torch.autograd.run`, without `rows`."""
    cell, directions = kind
    step = x.dim() == 2
    if step:
        x, states = x.unsqueeze(0), tuple([s.unsqueeze(0) for s in states])
    if not states:
        widths = state_widths(cell, weights[0].shape[0] // CELLS[cell].gates, weights[1].shape[1])
        states = tuple([x.new_zeros((directions, x.shape[1], n)) for n in widths])
    save = torch.is_grad_enabled() and wants_gradient(x, states, weights)
    y, *others = torch.ops.fastrnn.forward(cell, directions, x, list(states), weights, save)
    states_n = others[: len(states)]
    if step:
        return tuple([s.squeeze(0) for s in states_n])
    return (y.transpose(0, 1) if turned else y, *states_n)


@torch.library.custom_op("fastrnn::copy", mutates_args=())
def copy(y: Tensor) -> Tensor:
    """y for the caller, who may change it in place, where `fastrnn::backward` needs the other.

    `clone` would not do: inductor takes that away.
    """
    return y.clone()


copy.register_fake(torch.empty_like)
copy.register_autograd(lambda ctx, dy: dy)


@torch.library.custom_op("fastrnn::forward", mutates_args=())
def _forward(
    cell: str, directions: int, x: Tensor, states: list[Tensor], weights: list[Tensor], save: bool
) -> list[Tensor]:
    """y and the final states, and with `save` what `fastrnn::backward` needs beside them."""
    with _bound(cell, directions, weights) as (layer, arrays):
        y, states_n, saved = layer.forward(as_array(x), tuple([as_array(s) for s in states]), save, None, arrays)
    kept = () if saved is None else (saved.gates if _keeps_gates(cell) else np.empty(0, layer.dtype), saved.cells)
    return [torch.from_numpy(array) for array in (y, *states_n, *kept)]


@_forward.register_fake
def _(cell: str, directions: int, x: Tensor, states: list[Tensor], weights: list[Tensor], save: bool) -> list[Tensor]:
    T, B, _ = x.shape
    h = states[0]
    H, R = weights[0].shape[0] // CELLS[cell].gates, h.shape[-1]
    outputs = [x.new_empty((T, B, directions * R)), *[s.new_empty(s.shape) for s in states]]
    if save:
        planes = len(cell_of(cell, projected=R != H).saved)
        gates = (directions, T, B, planes * H) if _keeps_gates(cell) else (0,)
        cells = (directions, T, B, H) if len(states) == 2 else (0,)
        outputs += [x.new_empty(gates), x.new_empty(cells)]
    return outputs


@torch.library.custom_op("fastrnn::backward", mutates_args=())
def _backward(
    cell: str,
    directions: int,
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    y: Tensor,
    kept: list[Tensor],
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
) -> list[Tensor]:
    """The gradients of x, the states and the weights."""
    from fastrnn.cpu import Saved

    gates, cells = [as_array(k).copy() for k in kept]  # they are overwritten
    if not _keeps_gates(cell):
        gates = np.empty((directions, *x.shape[:2], weights[0].shape[0]), DTYPES[x.dtype])
    saved = Saved(as_array(x), tuple([as_array(s) for s in states]), None, as_array(y), gates, cells, None)
    dstates = tuple(map(gradient_array, (dh_n, dc_n)[: len(states)]))
    with _bound(cell, directions, weights) as (layer, arrays):
        dx, dstates_0, dweights = layer.backward(saved, gradient_array(dy), dstates, arrays)
    gradients = (dx, *dstates_0, *(gradient for direction in dweights for gradient in direction.values()))
    return [torch.from_numpy(gradient) for gradient in gradients]


@_backward.register_fake
def _(
    cell: str,
    directions: int,
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    y: Tensor,
    kept: list[Tensor],
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (x, *states, *weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    cell, directions, x, states, weights, _ = inputs
    ctx.cell, ctx.directions, ctx.number = cell, directions, len(states)
    ctx.save_for_backward(x, *states, *weights, output[0], *output[1 + len(states) :])


def _differentiate(ctx: Any, doutputs: list[Tensor | None]) -> tuple[Any, ...]:
    x, *tensors = ctx.saved_tensors
    number = ctx.number
    states, weights, y, kept = tensors[:number], tensors[number:-3], tensors[-3], tensors[-2:]
    dy, dh_n, dc_n, *_ = doutputs
    dx, *gradients = torch.ops.fastrnn.backward(
        ctx.cell, ctx.directions, x, states, weights, y, kept, dy, dh_n, dc_n if number == 2 else None
    )
    return None, None, dx, gradients[:number], gradients[number:], None


torch.library.register_autograd("fastrnn::forward", _differentiate, setup_context=_keep)


def _keeps_gates(cell: str) -> bool:
    """The forward pass of a plain RNN has nothing to keep but h: what is called gates is memory for gradients."""
    return CELLS[cell].gates > 1


_of_parameters: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@contextmanager
def _bound(cell: str, directions: int, weights: list[Tensor]) -> Iterator[tuple[Layer, Directions]]:
    """The kernels for these weights, and the weights as they take them.

    Operators know no modules: kernels, which keep weights packed while they do not change, belong to the first weight.
    One that is no parameter is new at each call; then all weights of the same shapes share theirs.
    """
    first = weights[0]
    owned = type(first) is torch.nn.Parameter
    kind = (cell, directions, first.dtype, *[w.shape for w in weights])
    layer = _of_parameters.get(first) if owned else _of_shapes(*kind)
    arrays = layer.bind(weights) if layer is not None and layer.is_for(cell, directions) else None
    if owned and arrays is None:
        layer = Layer.of(cell, directions, weights)
        if layer is not None:
            arrays = layer.bind(weights)
            _of_parameters[first] = layer
    if layer is None or arrays is None:
        raise ValueError(f"weights: not those of one {cell} layer, contiguous, on the CPU: {kind}")
    try:
        yield layer, arrays
    finally:
        if not owned:
            layer.release()


@lru_cache(maxsize=8)
def _of_shapes(cell: str, directions: int, dtype: torch.dtype, *shapes: torch.Size) -> Layer | None:
    return Layer.of(cell, directions, [torch.empty(shape, dtype=dtype) for shape in shapes])
