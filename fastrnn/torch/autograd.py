"""One layer as PyTorch runs it eagerly: tensors in, tensors out, and a node in the graph where a gradient is wanted.

A *sequence* is x (T, B, I), or (N, I) with `rows`; a *step* is x (B, I), and then states have no first dimension.
States are as many tensors as the cell has, or () for zeros.
"""

from collections.abc import Sequence as Tensors
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrnn.lengths import PackedRows
from fastrnn.memory import address
from fastrnn.parameters import Directions
from fastrnn.validation import contiguous

from .layer import Layer
from .modes import graph_is_recorded, is_mapped
from .original import differentiable_gradients

OptionalTensors = tuple[Tensor | None, ...]


# what a call takes beside tensors: the kernels, the weights as they take them, where rows lie if they are packed,
# whether it is a step, whether y is to be (B, T, R), and how many states are given, 0 for zeros
Call = tuple[Layer, Directions, PackedRows | None, bool, bool, int]

# x and the states as the kernels take them
Inputs = tuple[np.ndarray, tuple[np.ndarray, ...]]


def run(
    bound: tuple[Layer, Directions],  # the kernels, and `weights` as they take them
    x: Tensor,
    states: Tensors[Tensor],
    weights: Tensors[Tensor],
    rows: PackedRows | None = None,
    turned: bool = False,
) -> tuple[Tensor, ...]:
    """Return y and the final states; of a step, only the states. y is (T, B, R), or `turned` (B, T, R).

    (Turned here, and not afterwards, it is no view: those may not be changed in place everywhere.)
    """
    layer, arrays = bound
    step = rows is None and x.dim() == 2
    call = (layer, arrays, rows, step, turned, len(states))
    if graph_is_recorded() and wants_gradient(x, states, weights):
        given: Tensors[Tensor] = (x, *states)
        # no graph may keep inference_mode's memory; nor does torch.nn, where no matrix is trained
        if any([t.is_inference() for t in given]) and not any([w.requires_grad for w in weights if w.dim() == 2]):
            given = [t.clone() if t.is_inference() else t for t in given]
        return _apply(call, *given, *weights)
    y, states_n, _ = layer.forward(*_inputs(call, x, states), False, rows, arrays)
    return _outputs(step, turned, y, states_n)


def wants_gradient(x: Tensor, states: Tensors[Tensor], weights: Tensors[Tensor]) -> bool:
    if x.requires_grad:
        return True
    for tensor in (*weights, *states):  # noqa: SIM110 - a generator takes a microsecond
        if tensor.requires_grad:
            return True
    return False


class _LayerFunction(torch.autograd.Function):
    """What the backward pass needs beside tensors is kept in `ctx.kept`, and used up by it.

    When the graph was retained, or y was changed in place since, the forward pass is run again; and also where the
    memory that it read is gone, for `share_memory_` copies the numbers and frees it. Tensors that only have other
    memory now, as `tensor.data = other` gives them, do not matter: the gradients are those of the numbers it read.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        layer, arrays, rows, step, turned, number = call
        # under hooks (activation checkpoints, offloading), all that lasts must be tensors that they can take away
        keep = torch._C._autograd._top_saved_tensors_default_hooks(True) is None
        inputs = _inputs(call, x, tensors[:number])
        y, states_n, saved = layer.forward(*inputs, keep, rows, arrays)
        outputs = _outputs(step, turned, y, states_n)
        ctx.call = call
        ctx.inputs = inputs if keep else None
        ctx.hooked = not keep
        ctx.places = _places((x, *tensors))
        # an alias counts changes, and makes no circle
        ctx.y = outputs[0].detach() if keep and not step else None
        ctx.kept = [saved] if keep else []
        ctx.save_for_backward(x, *tensors)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *doutputs: Tensor | None) -> tuple[Any, ...]:
        return (go_back_outside_graph if torch.compiler.is_compiling() else go_back)(ctx, doutputs)


def go_back(ctx: Any, doutputs: OptionalTensors) -> tuple[Any, ...]:
    """The backward pass of `_LayerFunction`."""
    x, *tensors = ctx.saved_tensors
    layer, arrays, rows, step, turned, number = ctx.call
    states, weights = tensors[:number], tensors[number:]
    if all([d is None for d in doutputs]):  # a later node has stopped the gradient, and so does torch.nn
        _let_go(ctx)
        return None, None, *[None] * len(tensors)
    inputs = ctx.inputs  # another thread may let go of them
    if _places((x, *tensors)) != ctx.places:
        if ctx.hooked or not _are_there([array for direction in arrays for array in direction.values()]):
            arrays = layer.bind(weights)
            _let_go(ctx)
        if inputs is not None and not _are_there([inputs[0], *inputs[1]]):
            inputs = None
            _let_go(ctx)
    dy, dstates = (None, doutputs) if step else (doutputs[0], doutputs[1:])
    if turned and dy is not None:
        dy = dy.transpose(0, 1)
    wanted = ctx.needs_input_grad[1:]
    if not step and layer.layout.proj_size and dy is None and dstates[0] is None and _is_one_step(rows, x):
        # c_n alone, and no later step, does not depend on the projection
        each = [name != "weight_hr" for name in layer.layout.shapes] * layer.directions
        wanted = [w and uses for w, uses in zip(wanted, [True] * (1 + number) + each, strict=True)]
    # for second derivatives, or of many gradients at once, or of what hooks have put in the weights' place
    if torch.is_grad_enabled() or is_mapped(doutputs) or arrays is None:
        _let_go(ctx)
        return None, *differentiable_gradients(layer, rows, x, states, weights, (dy, *dstates), wanted)
    if inputs is None:
        inputs = _inputs(ctx.call, x, states)
    gradients = _gradients(ctx, arrays, inputs, dy, dstates)
    return None, *[torch.from_numpy(g) if needed else None for g, needed in zip(gradients, wanted, strict=True)]


go_back_outside_graph = go_back  # for compiled autograd; `dynamo.py` says more


# `apply` of a Function looks for torch.func first; the modules, that call `run`, have done that (see `modes`)
_apply = super(torch.autograd.Function, _LayerFunction).apply


def _is_one_step(rows: PackedRows | None, x: Tensor) -> bool:
    return (len(x) if rows is None else rows.steps) == 1


def _let_go(ctx: Any) -> None:
    """Of all that is only for the first backward pass: a node may live much longer, as a loss does that is kept."""
    ctx.kept.clear()
    ctx.y = ctx.inputs = None


def _places(tensors: Tensors[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _are_there(arrays: list[np.ndarray]) -> bool:
    """Whether their memory is still that of the tensors that they were made of, which they keep."""
    for array in arrays:
        owner: Any = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, Tensor) and owner.data_ptr() != address(array):
            return False
    return True


def _gradients(
    ctx: Any,
    arrays: Directions,  # the weights
    inputs: Inputs,
    dy: Tensor | None,
    dstates: OptionalTensors,
) -> list[np.ndarray]:
    """Of x, the states that were given, and the weights."""
    layer, _, rows, step, _, number = ctx.call
    y = ctx.y  # another thread may let go of it
    try:
        saved = ctx.kept.pop()
    except IndexError:
        saved = None
    _let_go(ctx)
    if saved is None or (y is not None and y._version):
        _, _, saved = layer.forward(*inputs, True, rows, arrays)
    dstate_arrays = list(map(gradient_array, dstates))
    if step:
        dstate_arrays = [None if d is None else d[None] for d in dstate_arrays]
    dx, dstates_0, dweights = layer.backward(saved, gradient_array(dy), tuple(dstate_arrays), arrays)
    gradients = [dx, *dstates_0[:number]]
    if step:
        gradients = [gradient[0] for gradient in gradients]
    for direction in dweights:
        gradients += direction.values()
    return gradients


def _inputs(call: Call, x: Tensor, states: Tensors[Tensor]) -> Inputs:
    layer, _, rows, step, _, _ = call
    x_array = as_array(x)
    if step:
        x_array = x_array[None]
    if not states:
        state_arrays = layer.zeros(rows.batch if rows is not None else x_array.shape[1])
    else:
        state_arrays = tuple([as_array(s)[None] if step else as_array(s) for s in states])
    return x_array, state_arrays


def _outputs(step: bool, turned: bool, y: np.ndarray, states_n: tuple[np.ndarray, ...]) -> tuple[Tensor, ...]:
    if step:
        return tuple([torch.from_numpy(s[0]) for s in states_n])
    return tuple(map(torch.from_numpy, (y.swapaxes(0, 1) if turned else y, *states_n)))


def gradient_array(gradient: Tensor | None) -> np.ndarray | None:
    """An upstream gradient, which may be None and sparse, as `as_array` makes it."""
    if gradient is None:
        return None
    return as_array(gradient if gradient.layout is torch.strided else gradient.to_dense())


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, or a copy if that is not contiguous."""
    try:  # force: without the graph; a view that changes the sign, as an imaginary part may be, is copied
        array = tensor.numpy(force=True)
    except RuntimeError:  # zeros that have no memory
        array = tensor.clone().numpy(force=True)
    return array if array.flags.carray else contiguous(array)
