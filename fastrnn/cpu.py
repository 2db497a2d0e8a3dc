"""The CPU backend of one layer: allocates, and runs the kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import threads
from .copying import states_before
from .kept_memory import KeptMemory, Memory
from .kernels.target import vector_unit
from .lengths import PackedRows
from .matrices import Matrices, MatrixLayout
from .memory import address, empty, keep_what_is_freed
from .parameters import PARAMETERS_CHANGED, Directions, LayerParameters, ParameterLayout
from .passes import (
    FORWARD_KIND,
    SAVING_KIND,
    BackwardArrays,
    ForwardArrays,
    PassKind,
    Where,
    backward_kind,
    for_both,
)
from .planner import Planner
from .plans import Plan, Workspace
from .sharing import Sharing
from .watching import NOTHING
from .weights import Weights

keep_what_is_freed()


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass. The backward kernel overwrites `gates`.

    In the shapes, (T, B) stands for (N,) when `rows` is given.
    """

    x: np.ndarray  # (T, B, I)
    states: tuple[np.ndarray, ...]
    rows: PackedRows | None
    y: np.ndarray  # (T, B, D*R)
    gates: np.ndarray  # (D, T, B, saved planes * H)
    cells: np.ndarray  # (D, T, B, H); empty for a cell without a cell state
    memory: Memory | None  # where they lie, for a later pass
    checksums: bytes = b""  # of the weights


def _final(rows: PackedRows | None, initial: np.ndarray, steps: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The states (D, B, n) after the last step. `steps` has those of each direction at all steps, (T, B, n)."""
    if rows is None and len(steps) == 1:
        return steps[0][-1:].copy()
    final = np.empty_like(initial, order="C")
    for d, states in enumerate(steps):
        final[d] = states[0 if d else -1] if rows is None else rows.final(initial[d], states, d == 1)
    return final


class CpuLayer:
    """One layer, one or two directions, on the CPU kernels. Arguments as in `Sequence`.

    own        the parameters that are meant where a call names no others; None if every call does
    available  says how many threads a call may use
    """

    def __init__(
        self,
        layout: ParameterLayout,
        own: LayerParameters | None,
        dtype: np.dtype,
        available: Callable[[], int] = threads.available,
    ) -> None:
        self.layout = layout
        self.cell = layout.cell
        self.hidden_size = layout.hidden_size
        self.output_size = layout.output_size
        self.directions = layout.num_directions
        self.dtype = dtype
        lanes = vector_unit().lanes(dtype.itemsize)
        self.weights = Weights(layout, own, dtype, lanes, available)
        self.sharing = Sharing(layout, dtype.itemsize, lanes, available)
        self._planner = Planner(layout, dtype, self.weights, self.sharing)
        # a sum that is the gradient of two biases, in these rows, is computed for the first
        H = self.hidden_size
        self._shared_biases = [
            (*entry.biases, slice(entry.gate * H, (entry.gate + len(entry.planes)) * H))
            for entry in layout.cell.weight_gradients
            if len(entry.biases) == 2 and entry.biases[0] in layout.shapes
        ]
        widths = (len(self.cell.saved) * H, H if self.cell.has_cell_state else 0)
        self._memory = KeptMemory(self.directions, widths, dtype)

    def forward(
        self,
        x: np.ndarray,
        states: tuple[np.ndarray, ...],
        save: bool,
        rows: PackedRows | None,
        weights: Directions | None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], Saved | None]:
        """As `Sequence.forward`.

        weights  arrays to use in place of the layer's own parameters, C-contiguous, with their shapes and dtype
        """
        D, R = self.directions, self.output_size
        lead = x.shape[:-1]
        h_0 = states[0]
        y = np.empty((*lead, D * R), self.dtype)
        memory, gates, cells, c_0, c_n = None, None, None, None, None
        if self.cell.has_cell_state:
            c_0 = states[1]
        if save:
            kind, also = SAVING_KIND, self.weights.backward_layout
            memory = self._memory.take(lead)
            gates = memory.gates
            if c_0 is not None:
                cells = memory.cells
        else:
            kind, also = FORWARD_KIND, None
            self._memory.not_needed()
            if c_0 is not None:
                c_n = c_0.copy()  # which is that of rows without steps, and as quick as an empty array
        plan, where = self._plan(kind, lead, rows)
        arrays: Any = (x, y, h_0, c_0, c_n, gates, cells)  # making `ForwardArrays` of them takes 0.3 µs more
        if D == 2:
            arrays = for_both(ForwardArrays(*arrays))
        matrices = self._run(plan, where, arrays, self.weights.forward_layout, weights, also, None)
        h_n = _final(rows, h_0, (y,) if D == 1 else (y[..., :R], y[..., R:]))
        if cells is not None:
            assert c_0 is not None
            c_n = _final(rows, c_0, cells)
        saved = None
        if memory is not None:
            saved = Saved(x, states, rows, y, memory.gates, memory.cells, memory, matrices.checksums)
        return y, (h_n,) if c_n is None else (h_n, c_n), saved

    def backward(
        self,
        saved: Saved,
        dy: np.ndarray | None,
        dstates: tuple[np.ndarray | None, ...],
        weights: Directions | None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], list[dict[str, np.ndarray]]]:
        """As `Sequence.backward`; `weights` are those of `forward`, and whoever brings them answers for changes."""
        dflat = np.empty(self.layout.size, self.dtype)
        dx, dstates_0 = self._run_backward(saved, dy, dstates, weights, dflat)
        self.release(saved)
        return dx, dstates_0, self.named_gradients(dflat)

    def named_gradients(self, dflat: np.ndarray) -> list[dict[str, np.ndarray]]:
        """For each direction {short name: gradient}, views into what the backward kernel has summed up."""
        gradients = self.layout.views(dflat)
        for direction in gradients:
            for first, second, rows in self._shared_biases:
                direction[second][rows] = direction[first][rows]
        return gradients

    def gradients_in_time(
        self, saved: Saved, dy: np.ndarray | None, dstates: tuple[np.ndarray | None, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Instead of `backward`: no gradients of weights, but those of the states at every step.

        Returns dx (T, B, I); what arrives at each h from the steps after it, (D, T, B, R), which is dh without dy;
        and for a cell with a cell state dc (D, T, B, H). `saved.gates` then hold what their names say of `Cell.saved`.
        For sequences of one length, with the layer's own weights.
        """
        lead = saved.x.shape[:-1]
        carried = np.empty((self.directions, *lead, self.output_size), self.dtype)
        dc = np.empty((self.directions, *lead, self.hidden_size), self.dtype) if self.cell.has_cell_state else None
        dx, _ = self._run_backward(saved, dy, dstates, None, None, carried, dc)
        return dx, carried, dc

    def release(self, saved: Saved) -> None:
        """Let the next forward pass have the memory of what this one kept, which nobody reads any more."""
        if saved.memory is not None:
            self._memory.give_back(saved.memory)

    def saved_values(self, saved: Saved) -> list[dict[str, np.ndarray]]:
        """For each direction {plane of `Cell.saved`: view (T, B, H)}, and `c`, if the cell has a cell state.

        A backward pass puts gradients in the place of some of them (see `kernels/cells.py`).
        """
        planes = saved.gates.reshape(*saved.gates.shape[:-1], len(self.cell.saved), self.hidden_size)
        values = [{name: planes[d, ..., n, :] for n, name in enumerate(self.cell.saved)} for d in range(len(planes))]
        if self.cell.has_cell_state:
            for direction, cells in zip(values, saved.cells, strict=True):
                direction["c"] = cells
        return values

    def _run_backward(
        self,
        saved: Saved,
        dy: np.ndarray | None,
        dstates: tuple[np.ndarray | None, ...],
        weights: Directions | None,
        dflat: np.ndarray | None,
        *kept: np.ndarray | None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Run the kernel into `dflat` or `kept`, and return dx and the gradients of the initial states."""
        D, R = self.directions, self.output_size
        x, states, rows, y = saved.x, saved.states, saved.rows, saved.y
        lead = x.shape[:-1]
        # the kernel hands these back from step to step
        dstates_0 = tuple(
            [np.zeros(s.shape, s.dtype) if ds is None else ds.copy() for ds, s in zip(dstates, states, strict=True)]
        )
        c_0, cells, dc_0 = None, None, None
        if self.cell.has_cell_state:
            c_0, cells, dc_0 = states[1], saved.cells, dstates_0[1]
        dh = empty((D, *lead, R), self.dtype) if self.cell.keeps_dh else None
        # of two directions, not one array: the sum would keep both alive
        dx: Any = np.empty(x.shape, self.dtype) if D == 1 else [np.empty(x.shape, self.dtype) for _ in range(D)]
        h_prev = None
        if rows is not None:
            h_prev = np.empty((D, *lead, R), self.dtype)
            for d in range(D):
                states_before(rows, states[0][d], y[:, d * R : (d + 1) * R], d == 1, h_prev[d])
        kind = backward_kind(rows is not None, dy is None, bool(kept), False)
        plan, where = self._plan(kind, lead, rows)
        arrays: Any = (x, y, dy, dflat, states[0], c_0, saved.gates, cells, h_prev, dstates_0[0], dc_0, dh, dx)
        arrays += kept or (None, None)  # as `BackwardArrays`
        if D == 2:
            arrays = for_both(BackwardArrays(*arrays))
        self._run(plan, where, arrays, self.weights.backward_layout, weights, None, saved.checksums)
        if D == 1:
            return dx, dstates_0
        with np.errstate(all="ignore"):
            np.add(dx[0], dx[1], out=dx[0])
        return dx[0], dstates_0

    def _plan(self, kind: PassKind, lead: tuple[int, ...], rows: PackedRows | None) -> tuple[Plan, tuple[int, ...]]:
        """The plan of that kind for `lead` rows, (T, B) or (N,), and the numbers of `Where` that it is given."""
        where: tuple[int, ...]
        if rows is None:
            steps, batch = lead
            where = (steps, steps * batch, 0, 0)
            workers, by_units = self.sharing.share(steps * batch, batch, forward=kind.forward)
        else:
            batch = rows.batch
            workers, by_units = self.sharing.share(rows.total, batch, forward=kind.forward, packed_rows=True)
            where = self.where(rows, workers, by_units)
        return self._planner.plan(kind, batch, workers, by_units), where

    def _run(
        self,
        plan: Plan,
        where: tuple[int, ...],
        arrays: tuple[Any, ...],
        layout: MatrixLayout,
        source: Directions | None,
        also: MatrixLayout | None,
        checksums: bytes | None,
    ) -> Matrices:
        """Run a plan on these arrays of all directions, and return the matrices that it has read.

        layout, source, also  as in `Weights.current`
        checksums  of the weights in the forward pass, on the way back; RuntimeError if the layer's own have others now
        """
        D, weights = self.directions, self.weights
        needed = checksums if source is None else None  # who brings other arrays answers for them
        # held until the kernels have read them
        matrices, pieces = weights.expected(layout, source, also, checksums)
        if not (matrices.are_of(needed) and plan.run(pieces, (*where, matrices.address) * D, arrays)):
            matrices = weights.current(layout, source, also)
            if not matrices.are_of(needed):
                raise RuntimeError(PARAMETERS_CHANGED)
            plan.run(NOTHING, (*where, matrices.address) * D, arrays)
        return matrices

    def bind_step(
        self,
        plan: Plan,
        block: np.ndarray,
        x: np.ndarray,
        before: Sequence[np.ndarray],
        after: Sequence[np.ndarray],
    ) -> list:
        """Fill `block` for a single step from x (B, I) and one state to another: h (B, R) and, with a cell state,
        c (B, H).

        plan  what `step_plan` gave for B rows
        Returns what must outlive the block: the packed weights, as they are now, and the kernels' workspace.
        """
        matrices = self.weights.current(self.weights.forward_layout)
        workspace = Workspace(plan.template, plan.work_bytes, 0, block)
        c_0, c_n = (before[1], after[1]) if self.cell.has_cell_state else (None, None)
        arrays = ForwardArrays(x, after[0], before[0], c_0, c_n, None, None)
        workspace.run(NOTHING, (*Where(1, len(x), 0, 0), matrices.address), arrays)
        return [matrices, workspace]

    def plan(self, kind: PassKind, batch: int, workers: int, by_units: bool) -> Plan:
        """As `Planner.plan`."""
        return self._planner.plan(kind, batch, workers, by_units)

    def step_plan(self, batch: int) -> Plan:
        """The plan of a single step."""
        return self._planner.plan(FORWARD_KIND, batch, *self.sharing.share(batch, batch, forward=True))

    def where(self, rows: PackedRows, workers: int, by_units: bool) -> Where:
        """For sequences of different lengths."""
        team = workers // self.directions
        shares = address(rows.shares(team)) if team > 1 and not by_units else 0
        return Where(rows.steps, rows.total, address(rows.starts), shares)
