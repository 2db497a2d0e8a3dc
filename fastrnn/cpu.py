"""The CPU backend of one layer: packs weights, allocates, fills the argument blocks and runs the kernels."""

import threading
from dataclasses import dataclass, field

import numpy as np

from . import threads
from .kernels import block as b
from .kernels import checksum, compiled, packing, weight_gradient
from .kernels.cells import CELLS, Cell
from .kernels.planes import backward_planes, forward_planes
from .kernels.target import vector_unit
from .kernels.tile import tallest
from .parameters import LayerParameters

_CACHE_LINE = 64
_WORDS_OF_LINE = _CACHE_LINE // 8
# the sums W x of a chunk of steps should stay in the second-level cache
_X_SUMS_BYTES = 256 * 1024


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that starts at a cache line."""
    size = dtype.itemsize
    for n in shape:
        size *= n
    raw = np.empty(size + _CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)


@dataclass
class Plane:
    """Where a slab of numbers lies at each step of the loop (see `kernels/block.py`), in bytes."""

    rest: int
    step: int
    row: int
    edge: int = -1
    edge_address: int = 0
    edge_row: int = 0

    def words(self) -> tuple[int, ...]:
        return (self.rest, self.step, self.row, self.edge, self.edge_address, self.edge_row)


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass. The backward kernel overwrites `gates`."""

    x: np.ndarray  # (T, B, I)
    states: tuple[np.ndarray, ...]
    y: np.ndarray  # (T, B, D*R)
    gates: np.ndarray  # (D, T, B, planes * H)
    cell_states: np.ndarray | None  # (D, T, B, H)


@dataclass
class _Packed:
    """Packed matrices of one direction, by pass: W, the stages' matrices; and the biases."""

    forward: list[np.ndarray] = field(default_factory=list)
    backward: list[np.ndarray] = field(default_factory=list)
    biases: np.ndarray | None = None


class CpuLayer:
    """One layer, one or two directions, on the CPU kernels. Arguments as in `Sequence`."""

    def __init__(self, cell: str, sizes: tuple[int, int, int], parameters: LayerParameters, dtype: np.dtype) -> None:
        self.input_size, self.hidden_size, self.proj_size = sizes
        self.output = self.proj_size or self.hidden_size
        self.cell: Cell = CELLS["lstm_projected" if self.proj_size else cell]
        self.parameters = parameters
        self.dtype = dtype
        self.itemsize = dtype.itemsize
        self.lanes = vector_unit().lanes(dtype.itemsize)
        self.padded = _up(self.hidden_size, _CACHE_LINE // dtype.itemsize)
        self.directions = len(parameters.directions)
        self.zero = np.zeros(max(self.input_size, self.hidden_size) + _CACHE_LINE, dtype)
        self._forward_planes = forward_planes(self.cell)
        self._backward_planes = backward_planes(self.cell)
        self._lock = threading.Lock()
        self._checksum: int | None = None
        self._packed: list[_Packed] = []

    # --- weights ---------------------------------------------------------------------------------------------

    def _weights(self, backward: bool) -> list[_Packed]:
        """The packed weights of each direction, packed again if any parameter has changed."""
        with self._lock:
            now = self._checksum_now()
            if now != self._checksum:
                # new arrays: a call in another thread may still be reading the old ones
                self._packed = [_Packed() for _ in self.parameters.directions]
                self._checksum = now
            for packed, weights in zip(self._packed, self.parameters.directions, strict=True):
                if backward and not packed.backward:
                    packed.backward = self._pack_backward(weights)
                elif not backward and not packed.forward:
                    packed.forward = self._pack_forward(weights)
                    packed.biases = self._pack_biases(weights)
            return self._packed

    def _checksum_now(self) -> int:
        flat = self.parameters.flat
        block = np.zeros(16, np.int64)
        block[checksum.ADDRESS] = _address(flat)
        block[checksum.BYTES] = flat.nbytes
        threads.run(compiled.kernel("checksum"), _address(block), 1)
        return int(block[checksum.RESULT])

    def _gate_rows(self, weights, weight, gates):
        """Address of a gate's first row, bytes of a row, bytes of a gate: of the consecutive gates given."""
        array = weights[weight]
        row = array.shape[1] * self.itemsize
        height = self.proj_size if weight == "weight_hr" else self.hidden_size
        return _address(array) + gates[0] * height * row, row, height

    def _pack_forward(self, weights) -> list[np.ndarray]:
        jobs, matrices = [], []
        wanted = [("weight_ih", tuple(range(self.cell.gates)), self.input_size)]
        wanted += [(stage.weight, stage.gates, weights[stage.weight].shape[1]) for stage in self.cell.forward]
        for weight, gates, depth in wanted:
            address, row, height = self._gate_rows(weights, weight, gates)
            sums = len(gates)
            matrix = _empty((-(-height // self.lanes), depth, sums, self.lanes), self.dtype)
            jobs.append((address, row, 1, height, depth, 0, depth, sums, height * row, _address(matrix)))
            matrices.append(matrix)
        self._run_packing(jobs)
        return matrices

    def _pack_backward(self, weights) -> list[np.ndarray]:
        jobs, matrices = [], []
        wanted = [("weight_ih", self.cell.input_gradient[1])]
        wanted += [(stage.weight, stage.gates) for stage in self.cell.backward]
        for weight, gates in wanted:
            _, _, height = self._gate_rows(weights, weight, gates)
            units = weights[weight].shape[1]
            depth = len(gates) * height
            matrix = _empty((-(-units // self.lanes), depth, 1, self.lanes), self.dtype)
            for position, gate in enumerate(gates):
                address, row, _ = self._gate_rows(weights, weight, (gate,))
                jobs.append((address, row, 0, units, height, position * height, depth, 1, 0, _address(matrix)))
            matrices.append(matrix)
        self._run_packing(jobs)
        return matrices

    def _run_packing(self, jobs) -> None:
        table = np.array(jobs, np.int64)
        block = np.zeros(16, np.int64)
        block[packing.JOBS] = len(jobs)
        block[packing.JOB_TABLE] = _address(table)
        work = sum(job[packing.UNITS] * job[packing.DEPTH] * job[packing.SUMS] for job in jobs)
        number = threads.available() if work > 1 << 17 else 1
        threads.run(compiled.kernel(f"packing {self.dtype.name}"), _address(block), number)

    def _pack_biases(self, weights) -> np.ndarray:
        H = self.hidden_size
        biases = np.zeros((len(self.cell.biases), self.padded), self.dtype)
        for place, bias in zip(biases, self.cell.biases, strict=True):
            for name in bias.parameters:
                if weights[name] is not None:
                    place[:H] += weights[name][bias.gate * H : (bias.gate + 1) * H]
        return biases

    # --- how the work is shared --------------------------------------------------------------------------------

    def _threads(self, T: int, B: int) -> tuple[int, bool]:
        """How many threads a call uses, and whether they share each step by units (else by rows)."""
        number = threads.available()
        if number == 1:
            return 1, False
        products = B * self.cell.gates * self.hidden_size * (self.input_size + self.output)
        if self.directions > 1 and number >= 2:
            team = number // self.directions
            enough = T * products * 2 > 1 << 19
        else:
            team, enough = number, T * products > 1 << 19
        if not enough:
            return 1, False
        if team > 1 and B < 4 * team:
            # by units: each step must be long enough to pay for meeting
            return (number, True) if products > 1 << 16 else (self.directions, False)
        return number, False

    # --- forward -----------------------------------------------------------------------------------------------

    def forward(self, x, states, save: bool):
        """As `Sequence.forward`."""
        T, B, input_size = x.shape
        D, H, R, S = self.directions, self.hidden_size, self.output, len(self.cell.saved)
        size = self.itemsize
        packed = self._weights(backward=False)
        y = np.empty((T, B, D * R), self.dtype)
        states_n = tuple(np.empty_like(s) if save or n == 0 else s.copy() for n, s in enumerate(states))
        kept = T if save else 1
        gates = _empty((D, kept, B, S * H), self.dtype)
        cells = _empty((D, T, B, H), self.dtype) if save and self.cell.has_cell_state else None

        G, padded = self.cell.gates, self.padded
        sums_step = B * G * padded * size
        chunk = max(1, min(T, _X_SUMS_BYTES // sums_step))
        x_sums = _empty((D, chunk, B, G * padded), self.dtype)
        number, by_units = self._threads(T, B)
        team = max(1, number // D)
        scratch_bytes = _up((tallest(1) * 8 + 24) * self.lanes * size, 4096)
        scratch = _empty((D, team, scratch_bytes), np.dtype(np.uint8))

        blocks = []
        for d in range(D):
            planes = self._state_planes(d, T, B, y, states[0], gates if save else None)
            planes["zero"] = Plane(_address(self.zero), 0, 0)
            if self.cell.has_cell_state:
                self._cell_planes(planes, d, T, B, cells, states[1], states_n[1])
            if not save:
                for n, name in enumerate(self.cell.saved):
                    planes[name] = Plane(_address(gates[d]) + n * H * size, 0, S * H * size)
            for n, bias in enumerate(self.cell.biases):
                planes[bias.plane] = Plane(_address(packed[d].biases[n]), 0, 0)
            for n, name in enumerate(self.cell.inputs):
                planes[name] = Plane(_address(x_sums[d]) + n * padded * size, sums_step, G * padded * size)

            header = self._header(T, B, by_units, scratch[d], scratch_bytes)
            kind = "forward_saving" if save else "forward"
            self._stage_words(header, kind, self.cell.forward, self._forward_planes, packed[d].forward[1:])
            header[b.X_KERNEL] = compiled.kernel(f"product {G} {self.dtype.name}")
            header[b.X_TILE] = compiled.kernel(f"tile {G} {self.dtype.name}")
            header[b.X_GATES] = G
            header[b.X_UNITS] = H
            header[b.X_MATRIX] = _address(packed[d].forward[0])
            header[b.X_DEPTH] = input_size
            header[b.X_CHUNK] = chunk
            step = B * input_size * size
            header[b.X_OPERAND] = _address(x) + (T - 1) * step * d
            header[b.X_OPERAND_STEP] = step * (1 - 2 * d)
            header[b.X_OPERAND_ROW] = input_size * size
            header[b.X_SUMS] = _address(x_sums[d])
            header[b.X_SUMS_STEP] = sums_step
            header[b.X_SUMS_ROW] = G * padded * size
            header[b.X_SUMS_GATE] = padded * size
            tables = {b.X_TABLE: np.zeros((team, 2 * G, b.WORK_WORDS), np.int64)}
            blocks.append((header, planes, tables))
        self._run("loop forward", blocks, self._forward_planes, number, team)

        last = (T - 1, 0)
        for d in range(D):
            states_n[0][d] = y[last[d], :, d * R : (d + 1) * R]
            if cells is not None:
                states_n[1][d] = cells[d, last[d]]
        return y, states_n, Saved(x, states, y, gates, cells) if save else None

    def _state_planes(self, d, T, B, y, h_0, gates):
        """h and h_prev at the steps in the order of the forward loop, and what is kept of each step."""
        R, H, S, size = self.output, self.hidden_size, len(self.cell.saved), self.itemsize
        row = self.directions * R * size
        step = B * row
        start = _address(y) + d * R * size + (T - 1) * step * d
        step *= 1 - 2 * d
        planes = {
            "h": Plane(start, step, row),
            "h_prev": Plane(start - step, step, row, 0, _address(h_0[d]), R * size),
        }
        if gates is not None:
            row = S * H * size
            step = B * row
            for n, name in enumerate(self.cell.saved):
                start = _address(gates[d]) + n * H * size + (T - 1) * step * d
                planes[name] = Plane(start, step * (1 - 2 * d), row)
        return planes

    def _cell_planes(self, planes, d, T, B, cells, c_0, c_n):
        H, size = self.hidden_size, self.itemsize
        row = H * size
        if cells is None:  # one slab, which c_0 has been copied into, is updated in place
            planes["c"] = planes["c_prev"] = Plane(_address(c_n[d]), 0, row)
            return
        step = B * row
        start = _address(cells[d]) + (T - 1) * step * d
        step *= 1 - 2 * d
        planes["c"] = Plane(start, step, row)
        planes["c_prev"] = Plane(start - step, step, row, 0, _address(c_0[d]), row)

    # --- backward ----------------------------------------------------------------------------------------------

    def backward(self, saved: Saved, dy, dstates):
        """As `Sequence.backward`."""
        x, y = saved.x, saved.y
        T, B, input_size = x.shape
        D, H, R, S = self.directions, self.hidden_size, self.output, len(self.cell.saved)
        size = self.itemsize
        packed = self._weights(backward=True)
        dstates_0 = tuple(
            np.zeros_like(s) if ds is None else ds.copy() for ds, s in zip(dstates, saved.states, strict=True)
        )
        dxs = np.empty((D, T, B, input_size), self.dtype)
        dweights = [
            {name: np.zeros_like(value) for name, value in weights.items() if value is not None}
            for weights in self.parameters.directions
        ]
        projected = _empty((D, T, B, R), self.dtype) if self.proj_size else None
        number, by_units = self._threads(T, B)
        team = max(1, number // D)
        widest_operand = max(input_size, R, H)
        scratch_numbers = weight_gradient.scratch_numbers(widest_operand, self.lanes, 32)
        scratch_bytes = _up(scratch_numbers * size, 4096)
        scratch = _empty((D, team, scratch_bytes), np.dtype(np.uint8))
        zero = _address(self.zero)

        blocks = []
        for d in range(D):
            planes = self._state_planes(d, T, B, y, saved.states[0], saved.gates)
            if self.cell.has_cell_state:
                self._cell_planes(planes, d, T, B, saved.cell_states, saved.states[1], None)
            planes = {name: _backwards(plane, T) for name, plane in planes.items()}
            planes["zero"] = Plane(zero, 0, 0)
            if dy is None:
                planes["dy"] = planes["zero"]
            else:
                row = D * R * size
                start = _address(dy) + d * R * size + (T - 1) * B * row * (1 - d)
                planes["dy"] = Plane(start, B * row * (2 * d - 1), row)
            dh_0 = _address(dstates_0[0][d])
            if self.cell.carries_hidden:
                planes["dh_next"] = Plane(dh_0, 0, R * size)
            else:  # only the gradient of the final state, at the first step of the loop
                planes["dh_next"] = Plane(zero, 0, 0, 0, dh_0, R * size)
            if self.cell.has_cell_state:
                planes["dc_next"] = Plane(_address(dstates_0[1][d]), 0, H * size)
            if projected is not None:
                row = R * size
                start = _address(projected[d]) + (T - 1) * B * row * (1 - d)
                planes["dh"] = Plane(start, B * row * (2 * d - 1), row)

            header = self._header(T, B, by_units, scratch[d], scratch_bytes)
            self._stage_words(header, "backward", self.cell.backward, self._backward_planes, packed[d].backward[1:])
            header[b.DH_NEXT] = self._backward_planes.index("dh_next")
            header[b.DH_0_KERNEL] = compiled.kernel(f"added_product {self.dtype.name}")
            names, _ = self.cell.input_gradient
            header[b.DX_KERNEL] = compiled.kernel(f"product 1 {self.dtype.name}")
            header[b.DX_TILE] = compiled.kernel(f"tile 1 {self.dtype.name}")
            header[b.DX_UNITS] = input_size
            header[b.DX_OPERAND] = _address(saved.gates[d]) + self.cell.saved.index(names[0]) * H * size
            header[b.DX_OPERAND_ROW] = S * H * size
            header[b.DX_MATRIX] = _address(packed[d].backward[0])
            header[b.DX_DEPTH] = len(names) * H
            header[b.GRADIENT_KERNEL] = compiled.kernel(f"weight_gradient {self.dtype.name}")
            finish = np.zeros((team, 3, b.WORK_WORDS), np.int64)
            finish[:, 0] = zero, 0
            finish[:, 2] = dh_0, R * size
            dx_table = np.array([[zero, 0], [_address(dxs[d]), input_size * size]], np.int64)
            jobs = np.array(self._jobs(d, saved, projected, dweights[d]), np.int64)
            header[b.GRADIENTS] = len(jobs)
            tables = {b.DH_0_TABLE: finish, b.DX_TABLE: dx_table, b.GRADIENT_TABLE: jobs}
            blocks.append((header, planes, tables))
        self._run("loop backward", blocks, self._backward_planes, number, team)

        for gradients in dweights:
            self._copy_shared_biases(gradients)
        dx = dxs[0] if D == 1 else np.add(dxs[0], dxs[1], out=dxs[0])
        return dx, dstates_0, dweights

    def _jobs(self, d, saved, projected, gradients):
        """The weight gradients' products, as words (see `kernels/weight_gradient.py`)."""
        x, y, h_0 = saved.x, saved.y, saved.states[0]
        T, B, input_size = x.shape
        D, H, R, S, size = self.directions, self.hidden_size, self.output, len(self.cell.saved), self.itemsize
        jobs = []
        for entry in self.cell.weight_gradients:
            if entry.planes[0] == "dh":
                gate, gate_row, width, height = _address(projected[d]), R * size, R, R
            else:
                gate = _address(saved.gates[d]) + self.cell.saved.index(entry.planes[0]) * H * size
                gate_row, width, height = S * H * size, len(entry.planes) * H, H
            gradient = gradients[entry.weight]
            units = gradient.shape[1]
            out = _address(gradient) + entry.gate * height * units * size
            bias = 0
            if entry.biases and entry.biases[0] in gradients:
                bias = _address(gradients[entry.biases[0]]) + entry.gate * height * size

            def job(gate_step, operand, operand_row, steps):
                return (
                    gate + gate_step * B * gate_row, gate_row, width, operand, operand_row, units, steps * B, out, bias,
                )  # fmt: skip

            if entry.operand == "x":
                jobs.append(job(0, _address(x), input_size * size, T))
            elif entry.operand == "h_prev":
                row = D * R * size
                # gradients of a step meet h of the step before it in the direction's order
                jobs.append(job(1 - d, _address(y) + d * R * size + d * B * row, row, T - 1))
                jobs.append(job((T - 1) * d, _address(h_0[d]), R * size, 1))
            else:
                operand = _address(saved.gates[d]) + self.cell.saved.index(entry.operand) * H * size
                jobs.append(job(0, operand, S * H * size, T))
        return jobs

    def _copy_shared_biases(self, gradients) -> None:
        """A sum that is the gradient of two biases was computed for the first."""
        H = self.hidden_size
        for entry in self.cell.weight_gradients:
            if len(entry.biases) == 2 and entry.biases[0] in gradients:
                rows = slice(entry.gate * H, (entry.gate + len(entry.planes)) * H)
                gradients[entry.biases[1]][rows] = gradients[entry.biases[0]][rows]

    # --- blocks ------------------------------------------------------------------------------------------------

    def _header(self, T, B, by_units, scratch, scratch_bytes):
        header = np.zeros(b.HEADER_WORDS, np.int64)
        header[b.STEPS] = T
        header[b.BATCH] = B
        header[b.BY_UNITS] = by_units
        header[b.SCRATCH] = _address(scratch)
        header[b.SCRATCH_BYTES] = scratch_bytes
        header[b.LANES] = self.lanes
        return header

    def _stage_words(self, header, direction, stages, planes, matrices):
        header[b.STAGES] = len(stages)
        for number, (stage, matrix) in enumerate(zip(stages, matrices, strict=True)):
            words = header[b.STAGE_TABLE + number * b.STAGE_WORDS :]
            _, depth, sums, _ = matrix.shape
            words[b.STAGE_KERNEL] = compiled.kernel(f"stage {direction} {self.cell.name} {number} {self.dtype.name}")
            words[b.STAGE_TILE] = compiled.kernel(f"tile {sums} {self.dtype.name}")
            words[b.STAGE_UNITS] = self.output if stage.units == "output" else self.hidden_size
            words[b.STAGE_OPERAND] = planes.index(stage.operand[0])
            words[b.STAGE_MATRIX] = _address(matrix)
            words[b.STAGE_DEPTH] = depth

    def _run(self, kernel, descriptions, names, number, team) -> None:
        """Lay out one block for each direction, with its tables behind it, and run the loop on them."""
        planes = _up(len(names), 4)  # a thread's work table fills whole cache lines
        unused = Plane(0, 0, 0).words()
        together = None
        for d, (header, where, tables) in enumerate(descriptions):
            rows = [where[name].words() for name in names] + [unused] * (planes - len(names))
            header[b.PLANES] = planes
            work = np.zeros(team * planes * b.WORK_WORDS, np.int64)
            tables = {b.PLANE_TABLE: np.array(rows, np.int64), b.WORK_TABLE: work, **tables}
            starts, words = {}, b.HEADER_WORDS
            for slot, table in tables.items():
                starts[slot] = words
                words = _up(words + table.size, _WORDS_OF_LINE)
            if together is None:
                together = _empty((len(descriptions), words), np.dtype(np.int64))
            block = together[d]
            address = _address(block)
            for slot, table in tables.items():
                header[slot] = address + 8 * starts[slot]
                block[starts[slot] : starts[slot] + table.size] = table.ravel()
            block[: b.HEADER_WORDS] = header
        threads.run(compiled.kernel(kernel), _address(together), number, together.strides[0], len(descriptions))


def _backwards(plane: Plane, T: int) -> Plane:
    """The same plane when the loop runs from its last step to its first."""
    edge = T - 1 - plane.edge if plane.edge >= 0 else -1
    return Plane(plane.rest + (T - 1) * plane.step, -plane.step, plane.row, edge, plane.edge_address, plane.edge_row)
