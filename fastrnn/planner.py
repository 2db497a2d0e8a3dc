"""Lays out the argument blocks of the passes over a layer: where each plane, matrix and table lies, in words."""

import numpy as np

from .kernels import block as b
from .kernels import compiled, weight_gradient
from .kernels.cells import Stage
from .kernels.locks import new_lock
from .kernels.planes import backward_planes, forward_planes
from .kernels.stage import SCRATCH_BYTES, recipe
from .kernels.tile import abreast
from .matrices import MatrixLayout
from .memory import CACHE_LINE, up
from .parameters import ParameterLayout
from .passes import CONTINUED_NUMBERS, NUMBERS, BackwardArrays, ForwardArrays, PassKind
from .plans import Plan
from .sharing import Sharing
from .templates import At, Description, Plane, Table, Template, Word
from .weights import Weights

# the sums W x of a chunk of steps should stay in the second-level cache
_X_SUMS_BYTES = 256 * 1024
# how many plans a layer keeps, and bytes of scratch memory, of one workspace each; but two, as the passes forward and
# backward of a loop of training need, whatever they take
_MOST_PLANS = 16
_MOST_BYTES = 64 << 20

NEVER = 1 << 62  # so many rows


def recipe_of(formula: str, sums: int, multiplied: int, dtype: np.dtype) -> tuple[int, ...]:
    """The recipe (see `kernels/stage.py`) of a stage with the formula of that name."""
    formula_kernel = compiled.kernel(f"{formula} {dtype.name}")
    tile = compiled.kernel(f"tile {abreast(multiplied)} {dtype.name}")
    return recipe(formula_kernel, tile, sums, multiplied, dtype.itemsize)


class Planner:
    """Lays out the plans of one layer, and keeps them."""

    def __init__(self, layout: ParameterLayout, dtype: np.dtype, weights: Weights, sharing: Sharing) -> None:
        self.layout = layout
        self.cell = layout.cell
        self.input_size = layout.input_size
        self.hidden_size = layout.hidden_size
        self.output_size = layout.output_size
        self.directions = layout.num_directions
        self._dtype = dtype
        self._lanes = weights.lanes
        self._weights = weights
        self._sharing = sharing
        self._planes = {
            "forward": forward_planes(self.cell),
            "backward": backward_planes(self.cell),
            "backward_keeping": backward_planes(self.cell, keeping=True),
        }
        self._plans: dict[tuple[PassKind, int, int, bool], Plan] = {}
        self._lock = new_lock()  # held by who adds to the plans; who looks one up needs none

    def plan(self, kind: PassKind, batch: int, workers: int, by_units: bool) -> Plan:
        """The plan for batches of so many rows, divided among so many threads by units, or by rows."""
        key = (kind, batch, workers, by_units)
        plan = self._plans.get(key)
        if plan is not None:
            plan.used = True
            return plan
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                make = self._forward if kind.forward else self._backward
                plan = make(kind, batch, workers, by_units)
                self._make_room(plan.work_bytes)
                self._plans[key] = plan
            return plan

    def _make_room(self, needed: int) -> None:
        """For one more plan that needs so many bytes: the oldest go, but for those used since room was made last.

        One is kept beside it whatever both need.
        """
        plans = self._plans
        while len(plans) > 1 and (
            len(plans) >= _MOST_PLANS or needed + sum(plan.work_bytes for plan in plans.values()) > _MOST_BYTES
        ):
            key = next(iter(plans))
            plan = plans.pop(key)
            if plan.used:
                plan.used = False
                plans[key] = plan

    def _forward(self, kind: PassKind, batch: int, workers: int, by_units: bool) -> Plan:
        cell, weights, save = self.cell, self._weights.forward_layout, kind.saving
        D, H, G, S = self.directions, self.hidden_size, cell.gates, len(cell.saved)
        size, team = self._dtype.itemsize, max(1, workers // D)
        sums_row = G * weights.padded * size
        # at least two steps for threads that share rows: one that has few left, when others have ended, would spend its
        # time on reading W and R in turns
        chunk = max(batch * min(team, 2), _X_SUMS_BYTES // sums_row)  # rows
        sums_bytes = up(chunk * sums_row, CACHE_LINE)
        kept_bytes = up(0 if save else batch * S * H * size, CACHE_LINE)  # of a step, when none is kept for later
        direction_bytes = team * SCRATCH_BYTES + sums_bytes + kept_bytes
        descriptions = []
        for d in range(D):
            scratch = At("work", d * direction_bytes)
            sums = scratch + team * SCRATCH_BYTES
            kept = sums + sums_bytes
            planes = self._state_planes(d, save, b.BEGINNING)
            if not save:
                planes |= {plane: Plane(kept + n * H * size, S * H * size) for n, plane in enumerate(cell.saved)}
            for n, bias in enumerate(cell.biases):
                planes[bias.plane] = Plane(At(f"weights {d}", weights.biases[d] + n * weights.padded * size), 0)
            for n, plane in enumerate(cell.inputs):
                planes[plane] = Plane(sums + n * weights.padded * size, sums_row)
            header: dict[int, Word] = self._header(d, d == 1, batch, by_units, scratch, SCRATCH_BYTES) | {
                b.X_UNITS: H,
                b.X_MATRIX: At(f"weights {d}", weights.offsets[d][0]),
                b.X_DEPTH: self.input_size,
                b.X_CHUNK: chunk,
                b.X_WITHIN: self._sharing.rows_for_sums_within(team if by_units else 1) if cell.takes_x else NEVER,
                b.X_OPERAND: At(f"x {d}"),
                b.X_OPERAND_ROW: self.input_size * size,
                b.X_SUMS: sums,
                b.X_SUMS_ROW: sums_row,
                b.X_SUMS_GATE: weights.padded * size,
            }
            header |= self._recipe(b.X_RECIPE, f"sums {G}", G, G)
            header |= self._stages(d, "forward_saving" if save else "forward", cell.forward, weights)
            tables: dict[int, Table] = {b.X_TABLE: [[0] * (2 * G * b.WORK_WORDS)] * team}
            descriptions.append(Description(header, planes, tables))
        template = self._template(descriptions, "forward", team, NUMBERS, ForwardArrays._fields)
        return Plan("loop forward", template, D * direction_bytes, workers)

    def _backward(self, kind: PassKind, batch: int, workers: int, by_units: bool) -> Plan:
        cell, weights = self.cell, self._weights.backward_layout
        direction = "backward_keeping" if kind.keeping else "backward"
        D, H, R, S = self.directions, self.hidden_size, self.output_size, len(cell.saved)
        size, team = self._dtype.itemsize, max(1, workers // D)
        name = self._dtype.name
        gradient_bytes = weight_gradient.scratch_numbers(self.input_size + H, self._lanes) * size
        scratch_bytes = up(max(SCRATCH_BYTES, gradient_bytes), CACHE_LINE)
        direction_bytes = team * scratch_bytes
        descriptions = []
        for d in range(D):
            zeros = At(f"weights {d}", weights.zeros)
            scratch = At("work", d * direction_bytes)
            h_row, dh_0 = R * size, At(f"dh_0 {d}")
            planes = self._state_planes(d, True, b.ENDING)
            planes["zero"] = Plane(zeros, 0)
            planes["dy"] = planes["zero"]
            if not kind.without_dy:
                planes["dy"] = Plane(At(f"dy {d}", d * h_row), D * h_row, b.THIS_STEP)
            planes["dh"] = Plane(At(f"dh {d}"), h_row, b.THIS_STEP)
            if kind.keeping:
                planes["carried"] = Plane(At(f"carried {d}"), h_row, b.THIS_STEP)
                planes["dc_t"] = Plane(At(f"dc_t {d}"), H * size, b.THIS_STEP)
            if cell.carries_hidden:
                planes["dh_next"] = Plane(dh_0, h_row)
            else:  # only the gradient of the final state, of rows that begin in this loop
                planes["dh_next"] = Plane(zeros, 0, b.FIXED, b.BEGINNING, dh_0, h_row)
            planes["dc_next"] = Plane(At(f"dc_0 {d}"), H * size)
            towards_x = cell.saved.index(cell.input_gradient[0][0])
            gradients = [] if kind.keeping else self._gradients(d, batch, kind)
            header: dict[int, Word] = self._header(d, d == 0, batch, by_units, scratch, scratch_bytes) | {
                b.DX_UNITS: self.input_size,
                b.DX_OPERAND: At(f"gates {d}", towards_x * H * size),
                b.DX_OPERAND_ROW: S * H * size,
                b.DX_MATRIX: At(f"weights {d}", weights.offsets[d][0]),
                b.DX_DEPTH: weights.depths[0],
                b.GRADIENT_KERNEL: compiled.kernel(f"weight_gradient {name}"),
                b.GRADIENT_TILE: compiled.kernel(f"tile 1 {name}"),
                b.GRADIENTS: len(gradients),
            }
            header |= self._recipe(b.DH_0_RECIPE, "added_sum", 1, 1)
            header |= self._recipe(b.DX_RECIPE, "sums 1", 1, 1)
            header |= self._stages(d, direction, cell.backward, weights)
            dh_next = (dh_0, h_row) if cell.carries_hidden else (zeros, 0)
            tables: dict[int, Table] = {
                b.DH_0_TABLE: [(zeros, 0, *dh_next, dh_0, h_row)],
                b.DX_TABLE: [(zeros, 0, At(f"dx {d}"), self.input_size * size)],
                b.GRADIENT_TABLE: gradients,
            }
            descriptions.append(Description(header, planes, tables))
        numbers = CONTINUED_NUMBERS if kind.continued else NUMBERS
        template = self._template(descriptions, direction, team, numbers, BackwardArrays._fields)
        return Plan("loop backward", template, D * direction_bytes, workers)

    def _template(
        self,
        descriptions: list[Description],
        direction: str,
        team: int,
        numbers: tuple[str, ...],
        arrays: tuple[str, ...],
    ) -> Template:
        """`numbers` and `arrays`: of each direction."""
        named = [[f"{name} {d}" for d in range(self.directions) for name in each] for each in (numbers, arrays)]
        return Template(descriptions, self._planes[direction], team, *named)

    def _header(
        self, d: int, downwards: bool, batch: int, by_units: bool, scratch: At, scratch_bytes: int
    ) -> dict[int, Word]:
        return {
            b.STEPS: At(f"steps {d}"),
            b.BATCH: batch,
            b.ROWS: At(f"rows {d}"),
            b.STARTS: At(f"starts {d}"),
            b.FIRST: At(f"steps {d}", -1) if downwards else 0,
            b.SIGN: -1 if downwards else 1,
            b.BY_UNITS: int(by_units),
            b.SHARES: At(f"shares {d}"),
            b.LANES: self._lanes,
            b.SCRATCH: scratch,
            b.SCRATCH_BYTES: scratch_bytes,
        }

    def _stages(self, d: int, direction: str, stages: tuple[Stage, ...], weights: MatrixLayout) -> dict[int, Word]:
        """The header's words for the stages; matrix 0 is W, the stages' follow."""
        words: dict[int, Word] = {b.STAGE_KERNEL: compiled.kernel("stage"), b.STAGES: len(stages)}
        planes = self._planes[direction.removesuffix("_saving")]
        for number, stage in enumerate(stages):
            start = b.STAGE_TABLE + number * b.STAGE_WORDS
            formula = f"formula {direction} {self.cell.name} {number}"
            multiplied = len(stage.gates) if direction.startswith("forward") else 1
            words |= self._recipe(start, formula, len(stage.begins), multiplied)
            words |= {
                start + b.STAGE_UNITS: self.output_size if stage.units == "output" else self.hidden_size,
                start + b.STAGE_OPERAND: planes.index(stage.operand[0]),
                start + b.STAGE_MATRIX: At(f"weights {d}", weights.offsets[d][number + 1]),
                start + b.STAGE_DEPTH: weights.depths[number + 1],
            }
        return words

    def _recipe(self, start: int, formula: str, sums: int, multiplied: int) -> dict[int, Word]:
        """The words of `recipe_of` from `start` on."""
        return dict(enumerate(recipe_of(formula, sums, multiplied, self._dtype), start))

    def _state_planes(self, d: int, save: bool, begins: int) -> dict[str, Plane]:
        """Where a loop finds and leaves states, and what is saved; `begins`: BEGINNING, or ENDING in a loop that goes
        backwards in direction d's time: where sequences have their initial state."""
        D, H, R, S = self.directions, self.hidden_size, self.output_size, len(self.cell.saved)
        size = self._dtype.itemsize
        earlier = b.STEP_BEFORE if d == 0 else b.STEP_AFTER
        row, y_row = H * size, D * R * size
        y = At(f"y {d}", d * R * size)
        planes = {
            "h": Plane(y, y_row, b.THIS_STEP),
            "h_prev": Plane(y, y_row, earlier, begins, At(f"h_0 {d}"), R * size),
        }
        if save:
            cells = At(f"cells {d}")
            planes["c"] = Plane(cells, row, b.THIS_STEP)
            planes["c_prev"] = Plane(cells, row, earlier, begins, At(f"c_0 {d}"), row)
            for n, plane in enumerate(self.cell.saved):
                planes[plane] = Plane(At(f"gates {d}", n * row), S * row, b.THIS_STEP)
        else:
            planes["c"] = Plane(At(f"c_n {d}"), row)
            planes["c_prev"] = Plane(At(f"c_n {d}"), row, b.FIXED, begins, At(f"c_0 {d}"), row)
        planes["zero"] = Plane(At(f"weights {d}", self._weights.forward_layout.zeros), 0)
        return planes

    def _gradients(self, d: int, batch: int, kind: PassKind) -> list[tuple[Word, ...]]:
        """The products of the weight gradients, as words (see `kernels/weight_gradient.py`)."""
        D, H, R, S = self.directions, self.hidden_size, self.output_size, len(self.cell.saved)
        size = self._dtype.itemsize
        offsets = {name: offset * size for name, offset in self.layout.offsets[d].items()}

        def plane(name: str) -> At:
            return At(f"gates {d}", self.cell.saved.index(name) * H * size)

        def product(weight: str, operand: str, gate: int) -> tuple[Word, ...]:
            units = self.layout.shapes[weight][1]
            out = At(f"dflat {d}", offsets[weight] + gate * H * units * size)
            if operand == "x":
                return (At(f"x {d}"), self.input_size * size, units, out, 0, 0, 0)
            if operand == "h_prev" and kind.packed_rows:
                return (At(f"h_prev {d}"), R * size, units, out, 0, 0, 0)
            if operand == "h_prev":
                # the gradients of a step meet h of the step before it, in the direction's order; at first h_0
                row = D * R * size
                start = At(f"y {d}", d * R * size + (2 * d - 1) * batch * row)
                return (start, row, units, out, batch, At(f"h_0 {d}"), R * size)
            return (plane(operand), S * H * size, units, out, 0, 0, 0)

        sign = 1 if d else -1  # as the loop goes
        cut: tuple[Word, ...] = (At(f"before {d}"), At(f"more {d}"), At(f"open {d}")) if kind.continued else (0, 0, 0)
        jobs: list[tuple[Word, ...]] = []
        for entry in self.cell.weight_gradients:
            if entry.planes == ("dh",):
                gate, gate_row, width = At(f"dh {d}"), R * size, R
            else:
                gate, gate_row, width = plane(entry.planes[0]), S * H * size, len(entry.planes) * H
            bias: Word = 0
            if entry.biases and entry.biases[0] in offsets:
                bias = At(f"dflat {d}", offsets[entry.biases[0]] + entry.gate * H * size)
            rows = At(f"rows {d}")
            adds = int(kind.continued)
            words: tuple[Word, ...] = (gate, gate_row, width, rows, bias, sign, *cut, adds, len(entry.products))
            for weight, operand in entry.products:
                words += product(weight, operand, entry.gate)
            jobs.append(words + (0,) * (weight_gradient.JOB_WORDS - len(words)))
        return jobs
