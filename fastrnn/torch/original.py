"""PyTorch's own implementation of one layer: it can be differentiated twice, or mapped, and the kernels cannot."""

import copy
from collections.abc import Sequence as Tensors
from typing import Any

import torch
from torch import _VF, Tensor

from fastrnn.lengths import PackedRows

from .layer import Layer


def as_torch_nn(module: torch.nn.Module) -> torch.nn.Module:
    """One of torch.nn's modules with the same parameters, buffers, hooks and options as one of ours.

    A subclass with a `forward` of its own is returned as it is.
    """
    if not type(module).forward.__module__.startswith(__package__ + "."):
        return module
    original = copy.copy(module)
    original.__class__ = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
    return original


def differentiable_gradients(
    layer: Layer,
    rows: PackedRows | None,
    x: Tensor,
    states: Tensors[Tensor],  # none for zeros
    weights: Tensors[Tensor],
    doutputs: tuple[Tensor | None, ...],  # of y and the final states
    wanted: tuple[bool, ...],  # of x, the states and the weights
) -> tuple[Tensor | None, ...]:
    """The gradients of x, the states and the weights, by PyTorch's operators; if it records them, parts of a graph.

    The layer is run again by PyTorch's operators, step by step. Shapes as in `fastrnn.torch.autograd`.
    """
    given: Any = (x, *states, *weights)
    with torch.enable_grad():
        # aliases: a tensor that is given twice has a gradient in each place
        inputs: Any = [t.view_as(t) if needed else t for t, needed in zip(given, wanted, strict=True)]
        number = 1 + len(states)
        outputs = _run(layer, rows, inputs[0], inputs[1:number], inputs[number:])
    reached = [(output, d) for output, d in zip(outputs, doutputs, strict=True) if d is not None]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in reached],
            [tensor for tensor, needed in zip(inputs, wanted, strict=True) if needed],
            [d for _, d in reached],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    )
    return tuple([next(found) if needed else None for needed in wanted])


def _run(
    layer: Layer, rows: PackedRows | None, x: Tensor, states: Tensors[Tensor], weights: Tensors[Tensor]
) -> tuple[Tensor, ...]:
    """y and the final states."""
    step = rows is None and x.dim() == 2
    if step:
        x = x[None]
    batch = x.shape[1] if rows is None else rows.batch
    if not states:
        states = [x.new_zeros((layer.directions, batch, width)) for width in layer.layout.state_widths]
    elif step:
        states = [s[None] for s in states]
    each = len(weights) // layer.directions
    options: tuple[Any, ...] = (list(weights), each >= 4, 1, 0.0, False, layer.directions == 2)
    hx: Any = tuple(states) if len(states) == 2 else states[0]
    function = getattr(_VF, layer.layout.name)
    if rows is not None:
        outputs = function(x, torch.from_numpy(rows.batch_sizes), hx, *options)
    elif len(states) == 1:
        outputs = function(x, hx, *options, False)
    else:  # as if packed: else oneDNN may do it, whose LSTM has no second derivatives
        y, *states_n = function(x.flatten(0, 1), torch.full((len(x),), batch), hx, *options)
        outputs = (y.unflatten(0, x.shape[:2]), *states_n)
    return tuple([output[0] for output in outputs]) if step else outputs
