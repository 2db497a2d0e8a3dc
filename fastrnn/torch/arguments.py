"""What the modules look at before they run: their weights as they are now, and whether the kernels can do it."""

from collections.abc import Sequence as Tensors
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn.kernels.cells import CELLS
from fastrnn.lengths import PackedRows

from .layer import DTYPES, PLAIN, Kind, forget, split


def present_weights(
    module: torch.nn.Module, names: Tensors[str], kind: Kind, layers: int, compiling: bool
) -> list[Tensors[Tensor]] | None:
    """The weights of these names, contiguous, without those that are None, of each of so many layers.

    None if the kernels cannot take them, or a module of that kind has none such; the memory of those that it had before
    is then let go.
    """
    weights = _present(module, names, compiling)
    own = [] if weights is None or len(weights) % layers else split(weights, layers)
    if not own or not all([_of_kind(weights, kind, k) for k, weights in enumerate(own)]):
        if not compiling:
            forget(module)
        return None
    return own


def _of_kind(weights: Tensors[Tensor], kind: Kind, k: int) -> bool:
    """Whether layer k of such a module has as many weights, and the first two of each direction these shapes.

    That the others have the shapes that belong to them, the kernels see to.
    """
    cell, directions, input_size, hidden_size, proj_size = kind
    each = len(weights) // directions
    if len(weights) != each * directions or each not in ((3, 5) if proj_size else (2, 4)):
        return False
    rows = CELLS[cell].gates * hidden_size
    output_size = proj_size or hidden_size
    width = directions * output_size if k else input_size
    return all(
        [
            weights[d * each].shape == (rows, width) and weights[d * each + 1].shape == (rows, output_size)
            for d in range(directions)
        ]
    )


def _present(module: torch.nn.Module, names: Tensors[str], compiling: bool) -> list[Tensor] | None:
    parameters = module._parameters
    weights = []
    for name in names:
        # a parametrised weight is an attribute, and so is one that weight_norm computes
        weight = getattr(module, name, module) if compiling or name not in parameters else parameters[name]
        if weight is not None:  # it is the module where there is none: torch.nn may remember one
            if type(weight) not in PLAIN or not weight.is_cpu or weight.layout is not torch.strided:
                return None
            if not compiling and weight.is_neg():  # a view that changes the sign
                weight = weight.resolve_neg()
            weights.append(weight if weight.is_contiguous() else weight.contiguous())
    return weights if weights and weights[0].dtype in DTYPES else None


def packed_rows(sequence: PackedSequence) -> PackedRows | None:
    """Where the rows of each step lie; None if batch_sizes and data do not fit, as what is made by hand may not."""
    data, sizes = sequence.data, sequence.batch_sizes
    if data.dim() != 2 or not _plain(sizes, torch.int64) or sizes.dim() != 1:
        return None
    steps, rows = sizes.numpy(), len(data)
    # the first bounds the others, so that no sum can overflow
    if not (0 < len(steps) <= rows and steps[-1] > 0 and steps[0] <= rows and (steps[1:] <= steps[:-1]).all()):
        return None
    return PackedRows(steps, int(steps[0])) if steps.sum() == rows else None


def fit(
    x: Any,
    states: Any,  # None for zeros
    shapes: Tensors[tuple[int, ...]],  # of the states
    dtype: torch.dtype | None,  # of all; None: any
) -> bool:
    """Whether x and states are dense numbers on the CPU of that dtype, and the states of those shapes."""
    if not _plain(x, dtype) or x.numel() == 0:  # torch.nn has its rules for what is empty
        return False
    if states is None:
        return True
    if type(states) not in (tuple, list) or len(states) != len(shapes):
        return False
    for state, shape in zip(states, shapes, strict=True):
        if not _plain(state, dtype) or state.shape != shape:
            return False
    return True


def _plain(tensor: Any, dtype: torch.dtype | None) -> bool:
    return (
        type(tensor) in PLAIN
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and (dtype is None or tensor.dtype == dtype)
    )
