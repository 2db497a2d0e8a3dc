"""The parameters of one layer: where they lie in memory, what PyTorch calls them, and how they start."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .memory import empty

GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3, "rnn_tanh": 1, "rnn_relu": 1}

# for each direction {short name: array}; biases may be None
Directions = Sequence[Mapping[str, Any]]


class LayerParameters:
    """The parameters of one layer, all its directions, as views into one flat array.

    One buffer means that a kernel can tell with one pass whether any weight changed since it packed them, and that
    an optimiser can update the whole layer in place.

    flat        1-D, contiguous, 64-byte aligned; the parameters in PyTorch's order, without gaps
    size        how many numbers they are
    offsets     for each of the D directions {short name: where in flat it begins}, without absent biases
    directions  for each of the D directions {short name: view into flat}:
                weight_ih (G*H, I), weight_hh (G*H, R), bias_ih and bias_hh (G*H,) or None without bias,
                and, with projection only, weight_hr (P, H); R is P with projection, else H
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        proj_size: int,
        *,
        bias: bool,
        directions: int,
        dtype: np.dtype,
    ) -> None:
        self.hidden_size = hidden_size
        self.shapes = _shapes(GATES[cell], input_size, hidden_size, proj_size, bias)
        numbers = [math.prod(shape) for shape in self.shapes.values()]
        starts = dict(zip(self.shapes, itertools.accumulate(numbers, initial=0), strict=False))
        self.offsets = [{name: start + d * sum(numbers) for name, start in starts.items()} for d in range(directions)]
        self.size = directions * sum(numbers)
        self._spans = [
            [
                (name, slice(start, start + math.prod(self.shapes[name])), self.shapes[name])
                for name, start in each.items()
            ]
            for each in self.offsets
        ]
        self._absent: dict[str, Any] = {} if bias else {"bias_ih": None, "bias_hh": None}
        self.flat = empty((self.size,), dtype)
        self.flat[:] = 0
        self.directions = self.views(self.flat)

    def views(self, flat: Any) -> list[dict[str, Any]]:
        """For each direction {short name: view into `flat`}, an array of any library laid out as `self.flat` is."""
        return [self._absent | {name: flat[span].reshape(shape) for name, span, shape in each} for each in self._spans]

    def named(self, layer: int, directions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Under PyTorch's names for layer number `layer`, in order, what each direction has under the short names."""
        return {
            f"{short}_l{layer}{'_reverse' if d else ''}": values[short]
            for d, values in enumerate(directions)
            for short in self.shapes
        }

    def get(self) -> np.ndarray:
        """All parameters as `flat` has them."""
        return self.flat

    def set(self, values: np.ndarray) -> None:
        """Copy them from such an array."""
        self.flat[:] = values

    def initialise(self, generator: np.random.Generator) -> None:
        """Draw every parameter uniformly from ±1/sqrt(H), as PyTorch does, in PyTorch's order.

        The draws are float64 whatever the layer's dtype, so that one seed means the same weights in both.
        """
        bound = 1.0 / math.sqrt(self.hidden_size)
        self.flat[:] = generator.uniform(-bound, bound, self.flat.size)


def _shapes(gates: int, input_size: int, hidden_size: int, proj_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """{short name: shape} of one direction, in PyTorch's order."""
    rows = gates * hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, proj_size or hidden_size),
    }
    if bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    if proj_size:
        shapes["weight_hr"] = (proj_size, hidden_size)
    return shapes


def present(direction: Mapping[str, Any]) -> dict[str, Any]:
    """What one direction has under the short names, without the biases that are None."""
    return {short: values for short, values in direction.items() if values is not None}
