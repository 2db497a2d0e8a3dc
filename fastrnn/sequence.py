"""One layer over a whole sequence, in one or two directions: picks the backend and gives it its arrays."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import reference
from .parameters import LayerParameters

if TYPE_CHECKING:
    from .cpu import CpuLayer

States = tuple[np.ndarray, ...]
OptionalStates = tuple[np.ndarray | None, ...]


class Sequence:
    """One layer, D directions. Shapes and dtypes are the caller's to check (see `layers.py`).

    In all methods `states` and the like are (h,) or, for the LSTM, (h, c), with h (D, B, R) and c (D, B, H).
    Arguments may be read-only and are never written to.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        proj_size: int,
        parameters: LayerParameters,
        dtype: np.dtype,
        backend: str,
    ) -> None:
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.proj_size = proj_size
        self.parameters = parameters
        self.dtype = dtype
        self.backend = backend
        self._cpu: CpuLayer | None = None
        self.output_size = len(parameters.directions) * (proj_size or hidden_size)

    def forward(
        self,
        x: np.ndarray,  # (T, B, I), C-contiguous
        states: States,  # C-contiguous
        *,
        save: bool,
    ) -> tuple[np.ndarray, States, Any]:
        """Return y (T, B, D*R), the final states, and what `backward` needs: None unless `save`."""
        if x.size == 0:
            y = np.empty((*x.shape[:2], self.output_size), self.dtype)
            return y, tuple(s.copy() for s in states), _Empty(x, states) if save else None
        if self.backend == "reference":
            return self._forward_reference(x, states, save)
        return self.kernels().forward(x, states, save)

    def backward(
        self,
        saved: Any,
        dy: np.ndarray | None,  # (T, B, D*R), C-contiguous; None = zeros
        dstates: OptionalStates,  # C-contiguous; None = zeros
    ) -> tuple[np.ndarray, States, list[dict[str, np.ndarray]]]:
        """Return dx (T, B, I), the gradients of the initial states, and of each direction's parameters.

        `saved` is used up: it may be overwritten.
        """
        if isinstance(saved, _Empty):
            return self._backward_empty(saved, dstates)
        if self.backend == "reference":
            return self._backward_reference(saved, dy, dstates)
        return self.kernels().backward(saved, dy, dstates)

    def kernels(self) -> "CpuLayer":
        """The CPU backend, made at the first call: Numba is not imported before."""
        if self._cpu is None:
            from .cpu import CpuLayer

            sizes = (self.input_size, self.hidden_size, self.proj_size)
            self._cpu = CpuLayer(self.cell, sizes, self.parameters, self.dtype)
        return self._cpu

    def _forward_reference(self, x: np.ndarray, states: States, save: bool) -> tuple[np.ndarray, States, Any]:
        runs = [
            reference.forward(self.cell, x, tuple(s[d] for s in states), weights, reverse=d == 1)
            for d, weights in enumerate(self.parameters.directions)
        ]
        y = np.concatenate([y_d for y_d, _, _ in runs], axis=2)
        states_n = tuple(np.stack(s) for s in zip(*(state_n for _, state_n, _ in runs), strict=True))
        return y, states_n, _Saved(x, states, [saved for _, _, saved in runs]) if save else None

    def _backward_reference(
        self, saved: "_Saved", dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[dict[str, np.ndarray]]]:
        if dy is None:
            dy = np.zeros((*saved.x.shape[:2], self.output_size), self.dtype)
        filled = _zeros_for_none(dstates, saved.states)
        dy_directions = np.split(dy, len(saved.directions), axis=2)
        runs = [
            reference.backward(saved_d, dy_directions[d], tuple(s[d] for s in filled))
            for d, saved_d in enumerate(saved.directions)
        ]
        dx = np.sum([dx_d for dx_d, _, _ in runs], axis=0, dtype=self.dtype)
        dstates_0 = tuple(np.stack(s) for s in zip(*(dstate_0 for _, dstate_0, _ in runs), strict=True))
        return dx, dstates_0, [_present(dweights) for _, _, dweights in runs]

    def _backward_empty(
        self, saved: "_Empty", dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[dict[str, np.ndarray]]]:
        dweights = [_present(weights) for weights in self.parameters.directions]
        zeros = [{short: np.zeros_like(weight) for short, weight in d.items()} for d in dweights]
        return np.zeros_like(saved.x), tuple(s.copy() for s in _zeros_for_none(dstates, saved.states)), zeros


class _Saved(NamedTuple):
    """What the reference keeps for the backward pass."""

    x: np.ndarray
    states: States
    directions: list[Any]  # what `reference.forward` saved for each direction


class _Empty(NamedTuple):
    """A sequence of no steps, or a batch of no rows: no backend is asked, the states pass through."""

    x: np.ndarray
    states: States


def _zeros_for_none(dstates: OptionalStates, states: States) -> States:
    return tuple(np.zeros_like(s) if ds is None else ds for ds, s in zip(dstates, states, strict=True))


def _present(weights: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    """Without the biases that are None."""
    return {short: weight for short, weight in weights.items() if weight is not None}
