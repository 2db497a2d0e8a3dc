"""The CPU backend of one layer: lays out what the kernels work on, and runs them."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from . import threads
from .kernels import block as b
from .kernels import compiled, weight_gradient
from .kernels.cells import CELLS, Cell, Stage
from .kernels.planes import backward_planes, forward_planes
from .kernels.stage import SCRATCH_BYTES
from .kernels.target import vector_unit
from .memory import CACHE_LINE, address, empty, up
from .packed import PackedWeights, Weights
from .parameters import LayerParameters
from .templates import At, Description, Plane, Table, Template, Word

# the sums W x of a chunk of steps should stay in the second-level cache
_X_SUMS_BYTES = 256 * 1024
# multiply-adds of a call that pay for waking a second thread, and of a step that pay for meeting it
_ENOUGH_FOR_CALL = 1 << 19
_ENOUGH_FOR_STEP = 1 << 16
# how many plans and idle workspaces a layer keeps
_MOST_PLANS = 16
_MOST_IDLE = 2

_BYTES = np.dtype(np.uint8)


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass. The backward kernel overwrites `gates`."""

    x: np.ndarray  # (T, B, I)
    states: tuple[np.ndarray, ...]
    y: np.ndarray  # (T, B, D*R)
    gates: np.ndarray  # (D, T, B, saved planes * H)
    cells: np.ndarray  # (D, T, B, H); empty for a cell without a cell state


class Plan:
    """One pass for one shape: the template of its argument blocks, and workspaces to run it in.

    As many workspaces exist as calls run at once.
    """

    def __init__(self, kernel: str, template: Template, work_bytes: int, workers: int) -> None:
        self.kernel = compiled.kernel(kernel)
        self.template = template
        self.work_bytes = work_bytes
        self.workers = workers
        self._idle: list[_Workspace] = []

    def run(self, *addresses: int) -> None:
        """Run with these addresses of the template's buffers, but for the last, `work`, which is the plan's own."""
        template = self.template
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = _Workspace(template, self.work_bytes)
        template.fill(workspace.block, (*addresses, workspace.work_address, 0))
        threads.run(self.kernel, workspace.block_address, self.workers, template.block_bytes, template.number)
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(workspace)


class _Workspace:
    """A block of argument blocks, and the kernels' scratch memory."""

    def __init__(self, template: Template, work_bytes: int) -> None:
        self.block = empty((template.words,), np.dtype(np.int64))
        template.write(self.block)
        self.block_address = address(self.block)
        self.work = empty((work_bytes,), _BYTES)
        self.work_address = address(self.work)


class CpuLayer:
    """One layer, one or two directions, on the CPU kernels. Arguments as in `Sequence`."""

    def __init__(self, cell: str, sizes: tuple[int, int, int], parameters: LayerParameters, dtype: np.dtype) -> None:
        self.input_size, self.hidden_size, projection = sizes
        self.output_size = projection or self.hidden_size
        self.cell: Cell = CELLS["lstm_projected" if projection else cell]
        self.parameters = parameters
        self.dtype = dtype
        self.lanes = vector_unit().lanes(dtype.itemsize)
        self.directions = len(parameters.directions)
        self.weights = Weights(self.cell, parameters, dtype, self.lanes)
        self._planes = {
            "forward": forward_planes(self.cell),
            "backward": backward_planes(self.cell),
            "backward_keeping": backward_planes(self.cell, keeping=True),
        }
        self._plans: dict[tuple, Plan] = {}
        self._idle: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=1)

    # --- running -------------------------------------------------------------------------------------------------

    def forward(
        self, x: np.ndarray, states: tuple[np.ndarray, ...], save: bool
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], Saved | None]:
        """As `Sequence.forward`."""
        T, B, _ = x.shape
        D, H, R = self.directions, self.hidden_size, self.output_size
        weights = self.weights.current(self.weights.forward)  # held until the kernels have read it
        y = np.empty((T, B, D * R), self.dtype)
        h_n = np.empty((D, B, R), self.dtype)
        states_n: tuple[np.ndarray, ...] = (h_n,)
        saved, gates, cells, c_0, c_n = None, 0, 0, 0, 0
        if self.cell.has_cell_state:
            # without saving, the kernel keeps the cell state here, step after step
            states_n = (h_n, np.empty((D, B, H), self.dtype) if save else states[1].copy())
            c_0, c_n = address(states[1]), address(states_n[1])
        if save:
            saved = Saved(x, states, y, *self._memory_to_save(T, B))
            gates, cells = address(saved.gates), address(saved.cells)
        plan = self._plan("forward_saving" if save else "forward", T, B)
        plan.run(address(x), address(states[0]), c_0, address(y), c_n, gates, cells, address(weights))
        h_n[0] = y[-1, :, :R]
        if D == 2:
            h_n[1] = y[0, :, R:]
        if saved is not None and self.cell.has_cell_state:
            for d in range(D):
                states_n[1][d] = saved.cells[d, -1 if d == 0 else 0]
        return y, states_n, saved

    def backward(
        self, saved: Saved, dy: np.ndarray | None, dstates: tuple[np.ndarray | None, ...]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], list[dict[str, np.ndarray]]]:
        """As `Sequence.backward`."""
        dflat = np.zeros(self.parameters.flat.size, self.dtype)
        dx, dstates_0 = self._run_backward("backward", saved, dy, dstates, address(dflat))
        self._idle.append((saved.gates, saved.cells))
        gradients = [
            {name: value for name, value in direction.items() if value is not None}
            for direction in self.parameters.views(dflat)
        ]
        for direction in gradients:
            self._copy_shared_biases(direction)
        return dx, dstates_0, gradients

    def gradients_in_time(
        self, saved: Saved, dy: np.ndarray | None, dstates: tuple[np.ndarray | None, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Instead of `backward`: no gradients of weights, but those of the states at every step.

        Returns dx (T, B, I); what arrives at each h from the steps after it, (D, T, B, R), which is dh without dy;
        and for a cell with a cell state dc (D, T, B, H). `saved.gates` then hold what their names say of `Cell.saved`.
        """
        T, B, _ = saved.x.shape
        carried = np.empty((self.directions, T, B, self.output_size), self.dtype)
        dc = np.empty((self.directions, T, B, self.hidden_size), self.dtype) if self.cell.has_cell_state else None
        kept = address(carried), 0 if dc is None else address(dc)
        dx, _ = self._run_backward("backward_keeping", saved, dy, dstates, *kept)
        return dx, carried, dc

    def saved_values(self, saved: Saved) -> list[dict[str, np.ndarray]]:
        """For each direction {plane of `Cell.saved`: view (T, B, H)}, and `c`, if the cell has a cell state.

        A backward pass puts gradients in the place of some of them (see `kernels/cells.py`).
        """
        T, B, _ = saved.x.shape
        planes = saved.gates.reshape(self.directions, T, B, len(self.cell.saved), self.hidden_size)
        cells = [{"c": cells} for cells in saved.cells] if self.cell.has_cell_state else [{}] * self.directions
        return [
            {name: planes[d, :, :, n] for n, name in enumerate(self.cell.saved)} | cells[d]
            for d in range(self.directions)
        ]

    def _run_backward(
        self, kind: str, saved: Saved, dy: np.ndarray | None, dstates: tuple[np.ndarray | None, ...], *results: int
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Run a backward plan; `results` are the addresses of what it computes beside dx and dstates_0."""
        x, states = saved.x, saved.states
        T, B, input_size = x.shape
        weights = self.weights.current(self.weights.backward)
        # the kernel hands these back from step to step
        dstates_0 = tuple(np.zeros_like(s) if ds is None else ds.copy() for ds, s in zip(dstates, states, strict=True))
        c_0, dc_0 = (address(states[1]), address(dstates_0[1])) if self.cell.has_cell_state else (0, 0)
        dx = np.empty((self.directions, T, B, input_size), self.dtype)
        plan = self._plan(kind if dy is not None else f"{kind}_without_dy", T, B)
        plan.run(
            address(x), address(states[0]), c_0, address(saved.y), address(saved.gates), address(saved.cells),
            address(dy) if dy is not None else 0, address(dstates_0[0]), dc_0, address(dx), *results,
            address(weights),
        )  # fmt: skip
        return (dx[0] if self.directions == 1 else np.add(dx[0], dx[1], out=dx[0])), dstates_0

    def _memory_to_save(self, T: int, B: int) -> tuple[np.ndarray, np.ndarray]:
        """Gates and cell states of all steps. What the last backward pass has used up serves again if it fits.

        The system hands large arrays out page by page: a training loop would spend a tenth of its time on that.
        """
        shape = (self.directions, T, B, len(self.cell.saved) * self.hidden_size)
        try:
            idle = self._idle.pop()
        except IndexError:
            pass
        else:
            if idle[0].shape == shape:
                return idle
        cells = (*shape[:3], self.hidden_size) if self.cell.has_cell_state else (0,)
        return empty(shape, self.dtype), empty(cells, self.dtype)

    def _copy_shared_biases(self, gradients: dict[str, np.ndarray]) -> None:
        """A sum that is the gradient of two biases was computed for the first."""
        H = self.hidden_size
        for entry in self.cell.weight_gradients:
            if len(entry.biases) == 2 and entry.biases[0] in gradients:
                rows = slice(entry.gate * H, (entry.gate + len(entry.planes)) * H)
                gradients[entry.biases[1]][rows] = gradients[entry.biases[0]][rows]

    def bind_step(self, block: np.ndarray, x: np.ndarray, h: np.ndarray, y: np.ndarray, c: np.ndarray | None) -> list:
        """Fill `block` for a single step from x (B, I) and h (B, R) to y (B, R), c (B, H) updated in place.

        Returns what must outlive the block: the packed weights, as they are now, and the kernels' workspace.
        """
        plan = self.step_plan(len(x))
        weights, work = self.weights.current(self.weights.forward), empty((plan.work_bytes,), _BYTES)
        cell_state = 0 if c is None else address(c)
        plan.template.write(block)
        arrays = (address(x), address(h), cell_state, address(y), cell_state, 0, 0, address(weights), address(work), 0)
        plan.template.fill(block, arrays)
        return [weights, work]

    def step_plan(self, B: int) -> Plan:
        """The plan of a single step."""
        return self._plan("forward", 1, B)

    # --- planning ------------------------------------------------------------------------------------------------

    def _plan(self, kind: str, T: int, B: int) -> Plan:
        workers, by_units = self.share_work(T, B)
        key = (kind, T, B, workers, by_units)
        plan = self._plans.get(key)
        if plan is None:
            while len(self._plans) >= _MOST_PLANS:
                self._plans.pop(next(iter(self._plans)), None)
            if kind.startswith("forward"):
                plan = self._plan_forward(T, B, workers, by_units, save=kind == "forward_saving")
            else:
                keeping, has_dy = kind.startswith("backward_keeping"), not kind.endswith("without_dy")
                plan = self._plan_backward(T, B, workers, by_units, has_dy, keeping)
            self._plans[key] = plan
        return plan

    def share_work(self, T: int, B: int) -> tuple[int, bool]:
        """How many threads a call uses, and whether they share each step by hidden units (else by the batch's rows)."""
        number = threads.available()
        step = B * self.cell.gates * self.hidden_size * (self.input_size + self.output_size)
        if number == 1 or T * step * self.directions < _ENOUGH_FOR_CALL:
            return 1, False
        team = number // self.directions
        if team > 1 and 4 * team > B:
            if step >= _ENOUGH_FOR_STEP:
                return team * self.directions, True
            team = 1
        return max(1, team * self.directions) if number >= self.directions else 1, False

    def _plan_forward(self, T: int, B: int, workers: int, by_units: bool, save: bool) -> Plan:
        cell, packed = self.cell, self.weights.forward
        D, H, G, S = self.directions, self.hidden_size, cell.gates, len(cell.saved)
        size, team = self.dtype.itemsize, max(1, workers // D)
        sums_row = G * packed.padded * size
        sums_step = B * sums_row
        chunk = max(1, min(T, _X_SUMS_BYTES // sums_step))
        kept_bytes = up(0 if save else B * S * H * size, CACHE_LINE)  # of a step, when none is kept for later
        direction_bytes = team * SCRATCH_BYTES + up(chunk * sums_step, CACHE_LINE) + kept_bytes
        name = self.dtype.name
        descriptions = []
        for d in range(D):
            scratch = At("work", d * direction_bytes)
            sums = scratch + team * SCRATCH_BYTES
            kept = sums + up(chunk * sums_step, CACHE_LINE)
            planes = self._state_planes(d, T, B, save)
            if not save:
                planes |= {plane: Plane(kept + n * H * size, 0, S * H * size) for n, plane in enumerate(cell.saved)}
            for n, bias in enumerate(cell.biases):
                planes[bias.plane] = Plane(At("weights", packed.biases[d] + n * packed.padded * size), 0, 0)
            for n, plane in enumerate(cell.inputs):
                planes[plane] = Plane(sums + n * packed.padded * size, sums_step, sums_row)
            x_row = self.input_size * size
            x_step = B * x_row
            header: dict[int, Word] = self._header(T, B, by_units, scratch, SCRATCH_BYTES) | {
                b.X_KERNEL: compiled.kernel(f"product {G} {name}"),
                b.X_TILE: compiled.kernel(f"tile {G} {name}"),
                b.X_GATES: G,
                b.X_UNITS: H,
                b.X_MATRIX: At("weights", packed.offsets[d][0]),
                b.X_DEPTH: self.input_size,
                b.X_CHUNK: chunk,
                b.X_OPERAND: At("x", (T - 1) * x_step * d),
                b.X_OPERAND_STEP: x_step * (1 - 2 * d),
                b.X_OPERAND_ROW: x_row,
                b.X_SUMS: sums,
                b.X_SUMS_STEP: sums_step,
                b.X_SUMS_ROW: sums_row,
                b.X_SUMS_GATE: packed.padded * size,
            }
            header |= self._stages(d, "forward_saving" if save else "forward", cell.forward, packed)
            tables: dict[int, Table] = {b.X_TABLE: [[0] * (2 * G * b.WORK_WORDS)] * team}
            descriptions.append(Description(header, planes, tables))
        buffers = ("x", "h_0", "c_0", "y", "c_n", "gates", "cells", "weights", "work")
        template = Template(descriptions, self._planes["forward"], team, buffers)
        return Plan("loop forward", template, D * direction_bytes, workers)

    def _plan_backward(self, T: int, B: int, workers: int, by_units: bool, has_dy: bool, keeping: bool) -> Plan:
        cell, packed = self.cell, self.weights.backward
        direction = "backward_keeping" if keeping else "backward"
        D, H, R, S = self.directions, self.hidden_size, self.output_size, len(cell.saved)
        size, team = self.dtype.itemsize, max(1, workers // D)
        name = self.dtype.name
        gradient_bytes = weight_gradient.scratch_numbers(self.input_size + H, self.lanes) * size
        scratch_bytes = up(max(SCRATCH_BYTES, gradient_bytes), CACHE_LINE)
        projected_bytes = up(T * B * R * size if cell.name == "lstm_projected" else 0, CACHE_LINE)
        direction_bytes = team * scratch_bytes + projected_bytes
        zeros = At("weights", packed.zeros)
        descriptions = []
        for d in range(D):
            scratch = At("work", d * direction_bytes)
            projected = scratch + team * scratch_bytes
            y_row, h_row = D * R * size, R * size
            dh_0, dx = At("dh_0", d * B * h_row), At("dx", d * T * B * self.input_size * size)
            planes = self._state_planes(d, T, B, save=True)
            planes["dy"] = self._in_time(At("dy", d * h_row), T, B, y_row, d) if has_dy else Plane(zeros, 0, 0)
            planes["dh"] = self._in_time(projected, T, B, h_row, d)
            if keeping:
                planes["carried"] = self._in_time(At("carried", d * T * B * h_row), T, B, h_row, d)
                planes["dc_t"] = self._in_time(At("dc", d * T * B * H * size), T, B, H * size, d)
            planes = {plane: where.backwards(T) for plane, where in planes.items()}
            if cell.carries_hidden:
                planes["dh_next"] = Plane(dh_0, 0, h_row)
            else:  # only the gradient of the final state, at the first step of the loop
                planes["dh_next"] = Plane(zeros, 0, 0, 0, dh_0, h_row)
            planes["dc_next"] = Plane(At("dc_0", d * B * H * size), 0, H * size)
            planes["zero"] = Plane(zeros, 0, 0)
            towards_x = cell.saved.index(cell.input_gradient[0][0])
            gradients = [] if keeping else self._gradients(d, T, B, projected)
            header: dict[int, Word] = self._header(T, B, by_units, scratch, scratch_bytes) | {
                b.DH_NEXT: self._planes[direction].index("dh_next"),
                b.DH_0_KERNEL: compiled.kernel(f"added_product {name}"),
                b.DX_KERNEL: compiled.kernel(f"product 1 {name}"),
                b.DX_TILE: compiled.kernel(f"tile 1 {name}"),
                b.DX_UNITS: self.input_size,
                b.DX_OPERAND: At("gates", (d * T * B * S + towards_x) * H * size),
                b.DX_OPERAND_ROW: S * H * size,
                b.DX_MATRIX: At("weights", packed.offsets[d][0]),
                b.DX_DEPTH: packed.depths[0],
                b.GRADIENT_KERNEL: compiled.kernel(f"weight_gradient {name}"),
                b.GRADIENTS: len(gradients),
            }
            header |= self._stages(d, direction, cell.backward, packed)
            tables: dict[int, Table] = {
                b.DH_0_TABLE: [(zeros, 0, 0, 0, dh_0, h_row)] * team,
                b.DX_TABLE: [(zeros, 0, dx, self.input_size * size)],
                b.GRADIENT_TABLE: gradients,
            }
            descriptions.append(Description(header, planes, tables))
        results = ("carried", "dc") if keeping else ("dflat",)
        buffers = ("x", "h_0", "c_0", "y", "gates", "cells", "dy", "dh_0", "dc_0", "dx", *results, "weights", "work")
        template = Template(descriptions, self._planes[direction], team, buffers)
        return Plan("loop backward", template, D * direction_bytes, workers)

    def _header(self, T: int, B: int, by_units: bool, scratch: At, scratch_bytes: int) -> dict[int, Word]:
        return {
            b.STEPS: T,
            b.BATCH: B,
            b.BY_UNITS: int(by_units),
            b.LANES: self.lanes,
            b.SCRATCH: scratch,
            b.SCRATCH_BYTES: scratch_bytes,
        }

    def _stages(self, d: int, direction: str, stages: tuple[Stage, ...], packed: PackedWeights) -> dict[int, Word]:
        """The header's words for the stages; matrix 0 is W, the stages' follow."""
        words: dict[int, Word] = {b.STAGES: len(stages)}
        planes = self._planes[direction.removesuffix("_saving")]
        for number, stage in enumerate(stages):
            start = b.STAGE_TABLE + number * b.STAGE_WORDS
            kernel = f"stage {direction} {self.cell.name} {number} {self.dtype.name}"
            words |= {
                start + b.STAGE_KERNEL: compiled.kernel(kernel),
                start + b.STAGE_TILE: compiled.kernel(f"tile {packed.sums[number + 1]} {self.dtype.name}"),
                start + b.STAGE_UNITS: self.output_size if stage.units == "output" else self.hidden_size,
                start + b.STAGE_OPERAND: planes.index(stage.operand[0]),
                start + b.STAGE_MATRIX: At("weights", packed.offsets[d][number + 1]),
                start + b.STAGE_DEPTH: packed.depths[number + 1],
            }
        return words

    @staticmethod
    def _in_time(start: At, T: int, B: int, row: int, d: int) -> Plane:
        """A plane of memory (T, B, row bytes) in the order in which direction d computes its steps."""
        step = B * row
        return Plane(start, step, row) if d == 0 else Plane(start + (T - 1) * step, -step, row)

    def _state_planes(self, d: int, T: int, B: int, save: bool) -> dict[str, Plane]:
        """Where the forward loop finds and leaves states, and what it saves."""
        D, H, R, S, size = (
            self.directions,
            self.hidden_size,
            self.output_size,
            len(self.cell.saved),
            self.dtype.itemsize,
        )

        def before(plane: Plane, initial: At, row: int) -> Plane:
            """The same a step earlier: at first, the initial state."""
            return Plane(plane.rest + -plane.step, plane.step, plane.row, 0, initial, row)

        h = self._in_time(At("y", d * R * size), T, B, D * R * size, d)
        planes = {"h": h, "h_prev": before(h, At("h_0", d * B * R * size), R * size)}
        row = H * size
        if save:
            cells = self._in_time(At("cells", d * T * B * row), T, B, row, d)
            planes |= {"c": cells, "c_prev": before(cells, At("c_0", d * B * row), row)}
            start = d * T * B * S * row
            for n, plane in enumerate(self.cell.saved):
                planes[plane] = self._in_time(At("gates", start + n * row), T, B, S * row, d)
        else:
            planes["c"] = planes["c_prev"] = Plane(At("c_n", d * B * row), 0, row)
        planes["zero"] = Plane(At("weights", self.weights.forward.zeros), 0, 0)
        return planes

    def _gradients(self, d: int, T: int, B: int, projected: At) -> list[tuple[Word, ...]]:
        """The products of the weight gradients, as words (see `kernels/weight_gradient.py`)."""
        D, H, R, S, size = (
            self.directions,
            self.hidden_size,
            self.output_size,
            len(self.cell.saved),
            self.dtype.itemsize,
        )
        offsets = self._parameter_offsets(d)
        saved = d * T * B * S * H * size

        def plane(name: str) -> At:
            return At("gates", saved + self.cell.saved.index(name) * H * size)

        def product(weight: str, operand: str, gate: int) -> tuple[Word, ...]:
            units = self.parameters.shapes[weight][1]
            out = At("dflat", offsets[weight] + gate * H * units * size)
            if operand == "x":
                return (At("x"), self.input_size * size, units, out, 0, 0, 0, 0)
            if operand == "h_prev":
                # the gradients of a step meet h of the step before it, in the direction's order; at first h_0
                row = D * R * size
                start = At("y", d * R * size + (2 * d - 1) * B * row)
                return (start, row, units, out, (T - 1) * B * d, B, At("h_0", d * B * R * size), R * size)
            return (plane(operand), S * H * size, units, out, 0, 0, 0, 0)

        jobs: list[tuple[Word, ...]] = []
        for entry in self.cell.weight_gradients:
            if entry.planes == ("dh",):
                gate, gate_row, width = projected, R * size, R
            else:
                gate, gate_row, width = plane(entry.planes[0]), S * H * size, len(entry.planes) * H
            bias: Word = 0
            if entry.biases and entry.biases[0] in offsets:
                bias = At("dflat", offsets[entry.biases[0]] + entry.gate * H * size)
            words: tuple[Word, ...] = (gate, gate_row, width, T * B, bias, len(entry.products))
            for weight, operand in entry.products:
                words += product(weight, operand, entry.gate)
            jobs.append(words + (0,) * (weight_gradient.JOB_WORDS - len(words)))
        return jobs

    def _parameter_offsets(self, d: int) -> dict[str, int]:
        """Where a direction's parameters lie in the flat array, in bytes."""
        start = address(self.parameters.flat)
        return {
            name: address(value.reshape(-1)) - start
            for name, value in self.parameters.directions[d].items()
            if value is not None
        }
