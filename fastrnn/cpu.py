"""The CPU backend of one layer: allocates, decides how threads share the work, and runs the kernels."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from . import threads
from .kernels.cells import CELLS, Cell
from .kernels.target import vector_unit
from .lengths import Packed
from .memory import address, empty
from .packed import Weights
from .parameters import Directions, LayerParameters
from .plans import Plan, Planner, Workspace

# multiply-adds of a call that pay for waking a second thread, and of a step that pay for meeting it
_ENOUGH_FOR_CALL = 1 << 19
_ENOUGH_FOR_STEP = 1 << 16


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass. The backward kernel overwrites `gates`.

    In the shapes, (T, B) stands for (N,) when `rows` is given.
    """

    x: np.ndarray  # (T, B, I)
    states: tuple[np.ndarray, ...]
    rows: Packed | None
    y: np.ndarray  # (T, B, D*R)
    gates: np.ndarray  # (D, T, B, saved planes * H)
    cells: np.ndarray  # (D, T, B, H); empty for a cell without a cell state


class CpuLayer:
    """One layer, one or two directions, on the CPU kernels. Arguments as in `Sequence`."""

    def __init__(self, cell: str, sizes: tuple[int, int, int], parameters: LayerParameters, dtype: np.dtype) -> None:
        self.input_size, self.hidden_size, projection = sizes
        self.output_size = projection or self.hidden_size
        self.cell: Cell = CELLS["lstm_projected" if projection else cell]
        self.parameters = parameters
        self.dtype = dtype
        self.directions = len(parameters.directions)
        self.weights = Weights(self.cell, parameters, dtype, vector_unit().lanes(dtype.itemsize))
        self._planner = Planner(self.cell, sizes, parameters, dtype, self.weights)
        self._idle: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=1)

    def forward(
        self,
        x: np.ndarray,
        states: tuple[np.ndarray, ...],
        save: bool,
        rows: Packed | None,
        weights: Directions | None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], Saved | None]:
        """As `Sequence.forward`."""
        D, H, R = self.directions, self.hidden_size, self.output_size
        packed = self.weights.current(self.weights.forward, weights)  # held until the kernels have read it
        lead = x.shape[:-1]
        h_0 = states[0]
        batch = h_0.shape[1]
        y = np.empty((*lead, D * R), self.dtype)
        h_n = np.empty((D, batch, R), self.dtype)
        states_n: tuple[np.ndarray, ...] = (h_n,)
        saved, gates, cells, c_0, c_n = None, None, None, None, None
        if self.cell.has_cell_state:
            # without saving, the kernel keeps the cell state here, step after step
            c_0, c_n = states[1], np.empty((D, batch, H), self.dtype) if save else states[1].copy()
            states_n = (h_n, c_n)
        if save:
            gates, cells = self._memory_to_save(lead)
            saved = Saved(x, states, rows, y, gates, cells)
        workers, by_units, where = self._share(lead, batch, rows)
        plan = self._planner.plan("forward saving" if save else "forward", batch, workers, by_units)
        plan.run(*where, address(packed), address(x), address(y), *self._each(h_0, c_0, c_n, gates, cells))
        for d in range(D):
            if rows is not None:
                h_n[d] = rows.final(h_0[d], y[:, d * R : (d + 1) * R], d == 1)
                if saved is not None and c_n is not None:
                    c_n[d] = rows.final(states[1][d], saved.cells[d], d == 1)
            else:
                last = 0 if d else -1
                h_n[d] = y[last, :, d * R : (d + 1) * R]
                if saved is not None and c_n is not None:
                    c_n[d] = saved.cells[d, last]
        return y, states_n, saved

    def backward(
        self,
        saved: Saved,
        dy: np.ndarray | None,
        dstates: tuple[np.ndarray | None, ...],
        weights: Directions | None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], list[dict[str, np.ndarray]]]:
        """As `Sequence.backward`."""
        D, R = self.directions, self.output_size
        x, states, rows, y = saved.x, saved.states, saved.rows, saved.y
        packed = self.weights.current(self.weights.backward, weights)
        lead = x.shape[:-1]
        batch = states[0].shape[1]
        # the kernel hands these back from step to step
        dstates_0 = tuple(np.zeros_like(s) if ds is None else ds.copy() for ds, s in zip(dstates, states, strict=True))
        c_0, dc_0 = (states[1], dstates_0[1]) if self.cell.has_cell_state else (None, None)
        dh = empty((D, *lead, R), self.dtype) if self.cell.name == "lstm_projected" else None
        dx = np.empty((D, *x.shape), self.dtype)
        dflat = np.zeros(self.parameters.size, self.dtype)
        kind, h_prev = "backward", None
        if rows is not None:
            kind += " packed"
            h_prev = np.empty((D, *lead, R), self.dtype)
            for d in range(D):
                h_prev[d] = rows.before(states[0][d], y[:, d * R : (d + 1) * R], d == 1)
        if dy is None:
            kind += " without dy"
        workers, by_units, where = self._share(lead, batch, rows)
        plan = self._planner.plan(kind, batch, workers, by_units)
        plan.run(
            *where, address(packed), address(x), address(y), 0 if dy is None else address(dy), address(dflat),
            *self._each(states[0], c_0, saved.gates, saved.cells, h_prev, dstates_0[0], dc_0, dh, dx),
        )  # fmt: skip
        self._idle.append((saved.gates, saved.cells))
        gradients = [
            {name: value for name, value in direction.items() if value is not None}
            for direction in self.parameters.views(dflat)
        ]
        for direction in gradients:
            self._copy_shared_biases(direction)
        return (dx[0] if D == 1 else np.add(dx[0], dx[1], out=dx[0])), dstates_0, gradients

    def bind_step(self, block: np.ndarray, x: np.ndarray, h: np.ndarray, y: np.ndarray, c: np.ndarray | None) -> list:
        """Fill `block` for a single step from x (B, I) and h (B, R) to y (B, R), c (B, H) updated in place.

        Returns what must outlive the block: the packed weights, as they are now, and the kernels' workspace.
        """
        plan = self.step_plan(len(x))
        packed = self.weights.current(self.weights.forward)
        workspace = Workspace(plan.template, plan.work_bytes, block)
        where = (1, len(x), 0, 0)
        workspace.fill((*where, address(packed), address(x), address(y), *self._each(h, c, c, None, None)))
        return [packed, workspace]

    def step_plan(self, batch: int) -> Plan:
        """The plan of a single step."""
        return self._planner.plan("forward", batch, *self.share_work(batch, batch))

    def share_work(self, rows: int, batch: int) -> tuple[int, bool]:
        """How many threads a call of so many rows, of all steps, uses, and whether they share each step by hidden
        units (else by the batch's rows)."""
        number = threads.available()
        row = self.cell.gates * self.hidden_size * (self.input_size + self.output_size)
        if number == 1 or rows * row * self.directions < _ENOUGH_FOR_CALL:
            return 1, False
        team = number // self.directions
        if team > 1 and 4 * team > batch:
            if batch * row >= _ENOUGH_FOR_STEP:
                return team * self.directions, True
            team = 1
        return max(1, team * self.directions) if number >= self.directions else 1, False

    def _share(
        self, lead: tuple[int, ...], batch: int, rows: Packed | None
    ) -> tuple[int, bool, tuple[int, int, int, int]]:
        """Threads, as `share_work` says, and the values of a plan's steps, rows, starts and shares."""
        if rows is None:
            steps, number, starts, shares = lead[0], lead[0] * batch, 0, 0
            workers, by_units = self.share_work(number, batch)
        else:
            steps, number, starts, shares = rows.steps, rows.total, address(rows.starts), 0
            workers, by_units = self.share_work(number, batch)
            team = workers // self.directions
            if team > 1 and not by_units:
                shares = address(rows.shares(team))
        return workers, by_units, (steps, number, starts, shares)

    def _each(self, *arrays: np.ndarray | None) -> list[int]:
        """For each direction, where its part of these arrays begins; 0 for None."""
        if self.directions == 1:
            return [0 if array is None else address(array) for array in arrays]
        return [0 if array is None else address(array) + d * (array.nbytes // 2) for d in range(2) for array in arrays]

    def _memory_to_save(self, lead: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Gates and cell states of all steps. What the last backward pass has used up serves again if it fits.

        The system hands large arrays out page by page: a training loop would spend a tenth of its time on that.
        """
        shape = (self.directions, *lead, len(self.cell.saved) * self.hidden_size)
        try:
            idle = self._idle.pop()
        except IndexError:
            pass
        else:
            if idle[0].shape == shape:
                return idle
        cells = (*shape[:-1], self.hidden_size) if self.cell.has_cell_state else (0,)
        return empty(shape, self.dtype), empty(cells, self.dtype)

    def _copy_shared_biases(self, gradients: dict[str, np.ndarray]) -> None:
        """A sum that is the gradient of two biases was computed for the first."""
        H = self.hidden_size
        for entry in self.cell.weight_gradients:
            if len(entry.biases) == 2 and entry.biases[0] in gradients:
                rows = slice(entry.gate * H, (entry.gate + len(entry.planes)) * H)
                gradients[entry.biases[1]][rows] = gradients[entry.biases[0]][rows]
