"""One layer over a whole sequence, in one or two directions: picks the backend and gives it its arrays."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import reference
from .kernels.interrupts import interrupts_wait
from .lengths import PackedRows, Padded
from .parameters import PARAMETERS_CHANGED, LayerParameters, ParameterLayout

if TYPE_CHECKING:
    from .cpu import CpuLayer

States = tuple[np.ndarray, ...]
OptionalStates = tuple[np.ndarray | None, ...]


class Sequence:
    """One layer, D directions. Shapes and dtypes are the caller's to check (see `layers.py`).

    In all methods `states` and the like are (h,) or, for the LSTM, (h, c), with h (D, B, R) and c (D, B, H).
    Arguments may be read-only and are never written to.
    """

    def __init__(self, layout: ParameterLayout, parameters: LayerParameters, dtype: np.dtype, backend: str) -> None:
        self.layout = layout
        self.parameters = parameters
        self.dtype = dtype
        self.backend = backend
        self._cpu: CpuLayer | None = None
        self.output_size = layout.num_directions * layout.output_size

    def forward(
        self,
        x: np.ndarray,  # (T, B, I), C-contiguous
        states: States,  # C-contiguous
        *,
        save: bool,
        rows: PackedRows | None = None,
    ) -> tuple[np.ndarray, States, Any]:
        """Return y (T, B, D*R), the final states, and what `backward` needs: None unless `save`.

        rows  of sequences of different lengths; then x is (N, I), y (N, D*R), and states are in the order of `rows`
        """
        if x.size == 0:
            y = np.empty((*x.shape[:-1], self.output_size), self.dtype)
            return y, tuple(s.copy() for s in states), _Empty(x, states) if save else None
        if self.backend == "reference":
            return self._forward_reference(x, states, save, rows)
        return (self._cpu or self.kernels()).forward(x, states, save, rows, None)

    def backward(
        self,
        saved: Any,
        dy: np.ndarray | None,  # (T, B, D*R), C-contiguous; None = zeros
        dstates: OptionalStates,  # C-contiguous; None = zeros
    ) -> tuple[np.ndarray, States, list[dict[str, np.ndarray]]]:
        """Return dx (T, B, I), the gradients of the initial states, and of each direction's parameters.

        `saved` is used up: it may be overwritten. With `rows` of `forward`, x, y, dx and dy have N rows.
        RuntimeError if the parameters have changed since `forward`.
        """
        if isinstance(saved, _Empty):
            return self._backward_empty(saved, dstates)
        if self.backend == "reference":
            return self._backward_reference(saved, dy, dstates)
        return self.kernels().backward(saved, dy, dstates, None)

    def pack(self, padded: Padded, sequence: np.ndarray) -> np.ndarray:
        """As `Padded.pack`, on the backend."""
        if self.backend == "reference":
            return padded.pack(sequence)
        self.kernels()
        from . import copying  # and Numba, which that has imported

        return copying.pack(padded, sequence)

    def unpack(self, padded: Padded, rows: np.ndarray) -> np.ndarray:
        """As `Padded.unpack`, on the backend."""
        if self.backend == "reference":
            return padded.unpack(rows)
        from . import copying

        return copying.unpack(padded, rows)

    def kernels(self) -> "CpuLayer":
        """The CPU backend, made at the first call. Numba is not imported before, and by this first."""
        if self._cpu is None:
            with interrupts_wait():
                from .cpu import CpuLayer

            self._cpu = CpuLayer(self.layout, self.parameters, self.dtype)
        return self._cpu

    def _forward_reference(
        self, x: np.ndarray, states: States, save: bool, rows: PackedRows | None
    ) -> tuple[np.ndarray, States, Any]:
        """Sequences of different lengths are run one by one, each as a batch of its own."""
        y = np.empty((*x.shape[:-1], self.output_size), self.dtype)
        states_n = tuple(s.copy() for s in states)
        width = self.layout.output_size
        runs = []
        for d, direction in enumerate(self.parameters.directions):
            for where, batch in _blocks(rows):
                initial = tuple(s[d, batch] for s in states)
                y_d, final, saved = reference.forward(self.layout.name, x[where], initial, direction, reverse=d == 1)
                y[..., d * width : (d + 1) * width][where] = y_d
                for s, s_n in zip(states_n, final, strict=True):
                    s[d, batch] = s_n
                runs.append((d, where, batch, saved))
        if not save:
            return y, states_n, None
        return y, states_n, _ReferenceRuns(x, states, runs, self.parameters.flat.tobytes())

    def _backward_reference(
        self, saved: "_ReferenceRuns", dy: np.ndarray | None, dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[dict[str, np.ndarray]]]:
        if saved.parameters != self.parameters.flat.tobytes():
            raise RuntimeError(PARAMETERS_CHANGED)
        if dy is None:
            dy = np.zeros((*saved.x.shape[:-1], self.output_size), self.dtype)
        dx = np.zeros_like(saved.x)
        dstates_0 = tuple(s.copy() for s in _zeros_for_none(dstates, saved.states))
        dweights = self._zero_gradients()
        width = self.layout.output_size
        for d, where, batch, saved_run in saved.runs:
            final = tuple(s[d, batch] for s in dstates_0)
            dy_d = dy[..., d * width : (d + 1) * width][where]
            dx_d, dinitial, dweights_d = reference.backward(saved_run, dy_d, final)
            for s, s_0 in zip(dstates_0, dinitial, strict=True):
                s[d, batch] = s_0
            with np.errstate(all="ignore"):
                dx[where] += dx_d
                for short, total in dweights[d].items():
                    total += dweights_d[short]
        return dx, dstates_0, dweights

    def _backward_empty(
        self, saved: "_Empty", dstates: OptionalStates
    ) -> tuple[np.ndarray, States, list[dict[str, np.ndarray]]]:
        dstates_0 = tuple(s.copy() for s in _zeros_for_none(dstates, saved.states))
        return np.zeros_like(saved.x), dstates_0, self._zero_gradients()

    def _zero_gradients(self) -> list[dict[str, np.ndarray]]:
        return self.layout.views(np.zeros(self.layout.size, self.dtype))


class _ReferenceRuns(NamedTuple):
    """What the reference keeps for the backward pass."""

    x: np.ndarray
    states: States
    runs: list[tuple[int, Any, Any, Any]]  # direction, places in x, rows of the states, what `reference.forward` saved
    parameters: bytes  # as they were


class _Empty(NamedTuple):
    """A sequence of no steps, or a batch of no rows: no backend is asked, the states pass through."""

    x: np.ndarray
    states: States


def _blocks(rows: PackedRows | None) -> list[tuple[Any, Any]]:
    """What the reference runs at once, as places in x and rows of the states: all, or each sequence for itself."""
    if rows is None:
        return [(..., slice(None))]
    return [(rows.places(row)[:, None], slice(row, row + 1)) for row in range(rows.batch) if rows.lengths[row]]


def _zeros_for_none(dstates: OptionalStates, states: States) -> States:
    return tuple(np.zeros_like(s) if ds is None else ds for ds, s in zip(dstates, states, strict=True))
