"""One layer as PyTorch runs it eagerly: tensors in, tensors out, and a node in the graph where a gradient is wanted.

A *sequence* is x (T, B, I), or (N, I) with `rows`; a *step* is x (B, I), and then states have no first dimension.
States are a tuple of as many tensors as the cell has, or of None for zeros.
"""

from collections.abc import Sequence as Tensors
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrnn.lengths import Packed
from fastrnn.parameters import Directions
from fastrnn.validation import contiguous

from .layer import Layer
from .modes import is_mapped
from .original import differentiable_gradients

OptionalTensors = tuple[Tensor | None, ...]


def run(
    bound: tuple[Layer, Directions],  # the kernels, and `weights` as they take them
    x: Tensor,
    states: OptionalTensors,
    weights: Tensors[Tensor],
    rows: Packed | None = None,
) -> tuple[Tensor, ...]:
    """Return y and the final states; of a step, only the states."""
    layer, arrays = bound
    if torch.is_grad_enabled() and wants_gradient(x, states, weights):
        return _LayerFunction.apply(layer, arrays, rows, len(states), x, *states, *weights)
    y, states_n, _ = _forward(layer, arrays, rows, x, states, save=False)
    return _outputs(x, rows, y, states_n)


def wants_gradient(x: Tensor, states: OptionalTensors, weights: Tensors[Tensor]) -> bool:
    return x.requires_grad or any([t.requires_grad for t in (*weights, *states) if t is not None])


class _LayerFunction(torch.autograd.Function):
    """What the backward pass needs beside tensors is kept in `ctx.kept`, and used up by it.

    When the graph was retained, or y was changed in place since, the forward pass is run again.
    """

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, arrays: Directions, rows: Packed | None, number: int, x: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        # under hooks (activation checkpoints, offloading), all that lasts must be tensors that they can take away
        keep = torch._C._autograd._top_saved_tensors_default_hooks(True) is None
        y, states_n, saved = _forward(layer, arrays, rows, x, tensors[:number], save=keep)
        outputs = _outputs(x, rows, y, states_n)
        ctx.layer, ctx.arrays, ctx.rows, ctx.number = layer, arrays, rows, number
        ctx.y = None if _is_step(x, rows) else outputs[0].detach()  # an alias counts changes, and makes no circle
        ctx.kept = [saved] if keep else []
        ctx.save_for_backward(x, *tensors)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *doutputs: Tensor | None) -> tuple[Any, ...]:
        x, *tensors = ctx.saved_tensors
        number, rows = ctx.number, ctx.rows
        states, weights = tuple(tensors[:number]), tensors[number:]
        dy, dstates = (None, doutputs) if _is_step(x, rows) else (doutputs[0], doutputs[1:])
        wanted = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled() or is_mapped():  # for second derivatives, or of many gradients at once
            gradients = differentiable_gradients(ctx.layer, rows, x, states, weights, (dy, *dstates), wanted)
        else:
            gradients = _gradients(ctx, x, states, dy, dstates)
        return None, None, None, None, *(g if needed else None for g, needed in zip(gradients, wanted, strict=True))


def _gradients(
    ctx: Any, x: Tensor, states: OptionalTensors, dy: Tensor | None, dstates: OptionalTensors
) -> tuple[Tensor, ...]:
    """Of x, the states and the weights."""
    layer, arrays, rows = ctx.layer, ctx.arrays, ctx.rows
    try:
        saved = ctx.kept.pop()
    except IndexError:
        saved = None
    if saved is None or (ctx.y is not None and ctx.y._version):
        _, _, saved = _forward(layer, arrays, rows, x, states, save=True)
    step = _is_step(x, rows)
    dx, dstates_0, dweights = layer.backward(
        saved,
        arrays,
        None if dy is None else as_array(dy),
        tuple([None if d is None else as_array(d)[None] if step else as_array(d) for d in dstates]),
    )
    if step:
        dx, dstates_0 = dx[0], tuple([d[0] for d in dstates_0])
    dtensors = (dx, *dstates_0, *(gradient for direction in dweights for gradient in direction.values()))
    return tuple([torch.from_numpy(gradient) for gradient in dtensors])


def _forward(
    layer: Layer, arrays: Directions, rows: Packed | None, x: Tensor, states: OptionalTensors, *, save: bool
) -> tuple[np.ndarray, tuple[np.ndarray, ...], Any]:
    step = _is_step(x, rows)
    x_array = as_array(x)
    if states[0] is None:
        batch = rows.batch if rows is not None else x_array.shape[-2]
        state_arrays = tuple([np.zeros((layer.directions, batch, n), layer.dtype) for n in layer.widths])
    else:
        state_arrays = tuple([as_array(s)[None] if step else as_array(s) for s in states])  # type: ignore[arg-type]
    return layer.forward(arrays, x_array[None] if step else x_array, state_arrays, rows, save)


def _is_step(x: Tensor, rows: Packed | None) -> bool:
    return rows is None and x.dim() == 2


def _outputs(x: Tensor, rows: Packed | None, y: np.ndarray, states_n: tuple[np.ndarray, ...]) -> tuple[Tensor, ...]:
    if _is_step(x, rows):
        return tuple([torch.from_numpy(s[0]) for s in states_n])
    return torch.from_numpy(y), *[torch.from_numpy(s) for s in states_n]


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, or a copy if that is not contiguous."""
    if tensor.is_neg():  # a view that changes the sign, such as the imaginary part of a conjugate
        tensor = tensor.resolve_neg()
    return contiguous((tensor.detach() if tensor.requires_grad else tensor).numpy())
