"""The parameters of one layer: what PyTorch calls them, where they lie in memory, and how they start."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .kernels.cells import Cell, cell_of
from .memory import empty

# for each direction {short name: array}
Directions = Sequence[Mapping[str, Any]]

PARAMETERS_CHANGED = (
    "backward: the parameters have changed since vjp, and the gradients would be those of neither; "
    "what was saved is used up: call vjp again"
)


class ParameterLayout:
    """One layer's sizes, and where its parameters lie in a flat array. No memory.

    name          what the cell is called for users, without regard to its projection
    cell          what the kernels know of it
    output_size   R, the width of h: P with projection, else H
    state_widths  (R,), or (R, H) for the LSTM
    shapes        {short name: shape} of one direction, without absent biases, in PyTorch's order:
                  weight_ih (G*H, I), weight_hh (G*H, R), bias_ih and bias_hh (G*H,), weight_hr (P, H)
    offsets       for each of the D directions {short name: where in the flat array it begins}
    size          how many numbers the flat array has; the parameters follow each other without gaps
    """

    def __init__(
        self,
        name: str,
        input_size: int,
        hidden_size: int,
        proj_size: int,
        *,
        bias: bool,
        num_directions: int,
    ) -> None:
        self.name = name
        self.cell: Cell = cell_of(name, projected=proj_size > 0)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.proj_size = proj_size
        self.num_directions = num_directions
        self.output_size = proj_size or hidden_size
        self.state_widths = state_widths(name, hidden_size, proj_size)
        rows = self.cell.gates * hidden_size
        self.shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, self.output_size),
        }
        if bias:
            self.shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if proj_size:
            self.shapes["weight_hr"] = (proj_size, hidden_size)
        numbers = [math.prod(shape) for shape in self.shapes.values()]
        starts = dict(zip(self.shapes, itertools.accumulate(numbers, initial=0), strict=False))
        each = range(num_directions)
        self.offsets = [{short: start + d * sum(numbers) for short, start in starts.items()} for d in each]
        self.size = num_directions * sum(numbers)
        self._names: dict[int, list[list[tuple[str, str]]]] = {}  # by layer, of each direction, PyTorch's and short
        self._spans = [
            [(short, slice(start, start + math.prod(self.shapes[short])), self.shapes[short]) for short, start in own]
            for own in map(dict.items, self.offsets)
        ]

    def views(self, flat: Any) -> list[dict[str, Any]]:
        """For each direction {short name: view} into `flat`, `size` numbers in an array of any library."""
        return [
            {short: flat[span] if len(shape) == 1 else flat[span].reshape(shape) for short, span, shape in own}
            for own in self._spans
        ]

    def named(self, layer: int, directions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Under PyTorch's names for layer number `layer`, in order, what each direction has under the short names."""
        names = self._names.get(layer)
        if names is None:
            suffixes = ("", "_reverse")[: self.num_directions]
            names = [[(f"{short}_l{layer}{suffix}", short) for short in self.shapes] for suffix in suffixes]
            self._names[layer] = names
        return {name: values[short] for own, values in zip(names, directions, strict=False) for name, short in own}

    def drawn(self, generator: np.random.Generator) -> np.ndarray:
        """Numbers for all parameters, drawn uniformly from ±1/sqrt(H), as PyTorch does, in PyTorch's order.

        They are float64 whatever the layer's dtype, so that one seed means the same weights in all.
        """
        bound = 1.0 / math.sqrt(self.hidden_size)
        return generator.uniform(-bound, bound, self.size)


class LayerParameters:
    """The parameters of one layer in memory, all its directions, as views into one flat array.

    One buffer means that a kernel can tell with one pass whether any weight changed since it packed them, and that
    an optimiser can update the whole layer in place.

    flat        1-D, contiguous, 64-byte aligned, as `layout` says
    directions  `views` of it
    """

    def __init__(self, layout: ParameterLayout, dtype: np.dtype) -> None:
        self.flat = empty((layout.size,), dtype)
        self.flat[:] = 0
        self.directions = layout.views(self.flat)

    def get(self) -> np.ndarray:
        """All parameters as `flat` has them."""
        return self.flat

    def set(self, values: np.ndarray) -> None:
        """Copy them from such an array."""
        self.flat[:] = values


def state_widths(name: str, hidden_size: int, proj_size: int) -> tuple[int, ...]:
    """The widths of the states of a cell: (R,), or (R, H) for the LSTM."""
    output_size = proj_size or hidden_size
    return (output_size, hidden_size) if cell_of(name, projected=False).has_cell_state else (output_size,)
