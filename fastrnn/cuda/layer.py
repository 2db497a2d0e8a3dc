"""The plain path of one layer on a GPU: large products by the array library, the recurrence by `Loop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fastrnn.kernels.cells import Stage
from fastrnn.kernels.cuda.launch import device_limits, patches
from fastrnn.kernels.cuda.plan import Plan, best_plan, faster_persistent
from fastrnn.kernels.cuda.planes import Pass, Place, passes, wide
from fastrnn.kernels.locks import new_lock
from fastrnn.parameters import ParameterLayout

from .arrays import Array, Arrays
from .loop import Loop, StageMatrix
from .memory import DirectionMemory, bias_planes
from .parameters import DeviceParameters
from .persistent import PersistentLoop
from .requirements import DoesNotFit

_MOST_LOOPS = 16  # kept: each direction, forward, saving and backward, for two sizes of batch are 12
_FEW = 8  # steps, for which "auto" does not load the recurrent matrix into the multiprocessors, and then wait

States = tuple[Array, ...]


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass, which overwrites the gates."""

    arrays: Arrays
    x: Array  # (T, B, I)
    directions: list[DirectionMemory]


class _Key(NamedTuple):
    """What a loop can be used again for."""

    library: str
    stream: int
    forward: bool
    direction: int
    batch: int
    short: bool  # whether it has few steps
    saving: bool


class CudaLayer:
    """One layer, one or two directions. Arrays are of one library, C-contiguous, checked by the caller."""

    def __init__(self, layout: ParameterLayout, parameters: DeviceParameters, dtype: str, path: str) -> None:
        self.layout = layout
        self.cell = layout.cell
        self.hidden_size = layout.hidden_size
        self.output_size = layout.output_size
        self.directions = layout.num_directions
        self.parameters = parameters
        self.dtype = dtype
        self.path = path
        self._forward, self._backward = passes(self.cell.name)
        self._idle: dict[_Key, Loop | PersistentLoop] = {}
        self._lock = new_lock()  # held by who changes them

    def forward(self, arrays: Arrays, x: Array, states: States, save: bool) -> tuple[Array, States, Saved | None]:
        """y (T, B, D*R), the final states (D, B, R) and (D, B, H), and what `backward` needs if `save`."""
        T, B, _ = x.shape
        H, R, G, D = self.hidden_size, self.output_size, self.cell.gates, self.directions
        if T * B == 0:  # the states pass through
            y, states_n = (
                arrays.empty((T, B, D * R), self.dtype),
                tuple(arrays.converted(s, self.dtype) for s in states),
            )
            return y, states_n, Saved(arrays, x, []) if save else None
        # all memory first: what does not fit is an error before any launch
        memories = [DirectionMemory(arrays, self.cell, (T, B, H, R), self.dtype, d == 1, save) for d in range(D)]
        x_sums = [arrays.empty((T, B, G * H), self.dtype) for _ in range(D)]
        states_n = tuple([arrays.empty(s.shape, self.dtype) for s in states])
        y = arrays.empty((T, B, D * R), self.dtype) if D == 2 else memories[0].outputs
        loops = [self._take(arrays, _Key(arrays.name, arrays.stream(), True, d, B, T < _FEW, save)) for d in range(D)]
        for d, (memory, (key, loop)) in enumerate(zip(memories, loops, strict=True)):
            weights = self.parameters.seen_by(arrays)[d]
            arrays.product(x.reshape(T * B, -1), weights["weight_ih"].T, x_sums[d].reshape(T * B, -1))
            memory.begin(tuple(s[d] for s in states))
            loop.begin(states[0][d])
            planes = memory.planes()
            inputs = zip(self.cell.inputs, self.cell.input_gates, strict=True)
            planes |= {name: memory.plane(x_sums[d], gate * H) for name, gate in inputs}
            planes |= bias_planes(arrays, self.cell, weights, H)
            loop.execute(T, memory.in_loop_order(planes, forward=True))
            self._give_back(key, loop)
            states_n[0][d] = memory.outputs[memory.last]
            if self.cell.has_cell_state:
                states_n[1][d] = memory.final_cells()
            if D == 2:
                y[:, :, d * R : (d + 1) * R] = memory.outputs
        return y, states_n, Saved(arrays, x, memories) if save else None

    def backward(
        self, saved: Saved, dy: Array | None, dstates: tuple[Array | None, ...]
    ) -> tuple[Array, States, list[dict[str, Array]]]:
        """dx (T, B, I), the gradients of the initial states, and of each direction's parameters by short name."""
        arrays, x = saved.arrays, saved.x
        T, B, input_size = x.shape
        H, R, D = self.hidden_size, self.output_size, self.directions
        wide_dtype = wide(self.dtype)
        gradients = self.parameters.layout.views(arrays.zeros(self.parameters.flat.shape, self.dtype))
        if T * B == 0:
            return arrays.zeros(x.shape, self.dtype), self._gradients_passed_through(arrays, B, dstates), gradients
        dx = [arrays.empty((T * B, input_size), self.dtype) for _ in range(D)]
        dh = [arrays.zeros((1, B, R), wide_dtype) for _ in range(D)]
        dc = [arrays.zeros((1, B, H), wide_dtype) for _ in range(D)] if self.cell.has_cell_state else []
        zeros = arrays.zeros((1, 1, max(H, R)), wide_dtype)
        projected = [arrays.empty((T, B, R), self.dtype) for _ in range(D if "weight_hr" in gradients[0] else 0)]
        back = arrays.empty((B, R), self.dtype)
        dstates_0 = [arrays.empty((D, B, R), self.dtype)] + [arrays.empty((D, B, H), self.dtype) for _ in dc[:1]]
        loops = [self._take(arrays, _Key(arrays.name, arrays.stream(), False, d, B, T < _FEW, True)) for d in range(D)]
        for d, (memory, (key, loop)) in enumerate(zip(saved.directions, loops, strict=True)):
            nothing = Place(arrays.address(zeros), 0, 0)
            planes = memory.planes() | {"dy": nothing, "dh_next": memory.plane(dh[d], 0, False)}
            if dy is not None:
                planes["dy"] = memory.plane(dy, d * R)
            for held, given in ((dh, dstates[0]), (dc, dstates[-1])):
                if held and given is not None:
                    held[d][0] = given[d]
            if not self.cell.carries_hidden:  # the gradient of the final state, at the loop's first step only
                final = planes["dh_next"]
                planes["dh_next"] = Place(nothing.address, 0, 0, memory.last, final.address, final.row)
            if dc:
                planes["dc_next"] = memory.plane(dc[d], 0, False)
            if projected:
                planes["dh"] = memory.plane(projected[d])
                memory.others["dh"] = projected[d]
            loop.execute(T, memory.in_loop_order(planes, forward=False))
            loop.back(back)
            self._give_back(key, loop)
            dstates_0[0][d] = dh[d][0] + back if self.cell.carries_hidden else back
            if dc:
                dstates_0[1][d] = dc[d][0]
            self._products_over_all_steps(arrays, x, memory, d, dx[d], gradients[d])
        total = dx[0] if D == 1 else dx[0] + dx[1]
        return total.reshape(T, B, input_size), tuple(dstates_0), gradients

    def _gradients_passed_through(self, arrays: Arrays, B: int, dstates: tuple[Array | None, ...]) -> States:
        """Those of the initial states, where there are no steps."""
        shapes = [(self.directions, B, width) for width in self.layout.state_widths]
        return tuple(
            arrays.zeros(shape, self.dtype) if given is None else arrays.converted(given, self.dtype)
            for shape, given in zip(shapes, dstates, strict=True)
        )

    def _products_over_all_steps(
        self, arrays: Arrays, x: Array, memory: DirectionMemory, d: int, dx: Array, gradients: dict[str, Array]
    ) -> None:
        """The gradients of x and of the parameters, from the gates' gradients that the loop left."""
        H = self.hidden_size
        towards_x = memory.matrix(memory.order)
        arrays.product(towards_x, self.parameters.seen_by(arrays)[d]["weight_ih"], dx)
        operands = {"x": x.reshape(towards_x.shape[0], -1), "h_prev": memory.previous_hidden()}
        for entry in self.cell.weight_gradients:
            matrix = memory.matrix(entry.planes)
            height = matrix.shape[1]
            rows = slice(entry.gate * H, entry.gate * H + height)
            for weight, operand in entry.products:
                values = operands[operand] if operand in operands else memory.matrix((operand,))
                arrays.product(matrix.T, values, gradients[weight][rows])
            for bias in entry.biases:
                if bias in gradients:
                    arrays.column_sums(matrix, gradients[bias][rows])

    def _take(self, arrays: Arrays, key: _Key) -> tuple[_Key, Loop | PersistentLoop]:
        """A loop that no call uses: an idle one, or a new one."""
        with self._lock:
            loop = self._idle.pop(key, None)
        if loop is None:
            run = self._forward if key.forward else self._backward
            weights = self.parameters.seen_by(arrays)[key.direction]
            matrices = [self._matrix(run, stage, weights) for stage in run.stages]
            options = (arrays, run, matrices, key.batch, self.dtype, key.saving, "bias_ih" in weights)
            plan = self._plan(run, key.batch, key.short)
            loop = Loop(*options) if plan is None else PersistentLoop(*options, plan)
        return key, loop

    def _give_back(self, key: _Key, loop: Loop | PersistentLoop) -> None:
        """For another call; beside it stay those that were given back last."""
        with self._lock:
            self._idle.pop(key, None)
            while len(self._idle) >= _MOST_LOOPS:
                self._idle.pop(next(iter(self._idle)))
            self._idle[key] = loop

    def _plan(self, run: Pass, batch: int, short: bool) -> Plan | None:
        """How the persistent path divides the work; None for the plain path."""
        if self.path == "plain" or (self.path == "auto" and (self.dtype != "float32" or short)):
            return None
        choose = best_plan if self.path == "persistent" else faster_persistent
        plan = choose(run, self.hidden_size, self.output_size, batch, device_limits(), patches())
        if plan is None and self.path == "persistent":
            raise DoesNotFit(
                f'backend: hidden_size = {self.hidden_size} does not fit on this GPU for "persistent"; use "plain"'
            )
        return plan

    def _matrix(self, run: Pass, stage: Stage, weights: dict[str, Array]) -> StageMatrix:
        units = self.output_size if stage.units == "output" else self.hidden_size
        height = self.output_size if stage.weight == "weight_hr" else self.hidden_size
        rows = weights[stage.weight][stage.gates[0] * height : (stage.gates[-1] + 1) * height]
        return StageMatrix(rows.T if run.forward else rows, units)
