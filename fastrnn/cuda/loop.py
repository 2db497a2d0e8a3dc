"""The time loop of the plain path: for each step and stage one matrix product and one gate kernel.

What the loop's products read and write lies in memory that stays, and the kernels find everything else through a table
in device memory. So one captured CUDA graph serves every later call of the same shape, wherever its arrays lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrnn.kernels.cuda.gate import gate_grid, gate_kernel
from fastrnn.kernels.cuda.launch import launch
from fastrnn.kernels.cuda.planes import ITEMSIZE, PLANE_WORDS, Pass, Place

from .arrays import Array, Arrays

# a graph is captured after so many runs of one length in a row, the first of which compile and warm up, and from so
# many launches on: capturing takes longer than some runs without
_RUNS_BEFORE_CAPTURE = 2
_LAUNCHES_WORTH_CAPTURE = 32
# of different lengths
_MOST_LAUNCHES_OF_GRAPH = 1 << 14  # each is a node, with memory of its own; a longer loop launches one by one
_MOST_GRAPHS = 4


@dataclass(frozen=True)
class StageMatrix:
    """What stage n multiplies with: operand (B, depth) @ matrix (depth, sums * units)."""

    matrix: Array
    units: int


class Loop:
    """One pass of one cell in one direction, for one batch size, on one stream."""

    def __init__(
        self,
        arrays: Arrays,
        run: Pass,
        matrices: list[StageMatrix],
        batch: int,
        dtype: str,
        saving: bool,
        has_bias: bool,
    ) -> None:
        self._arrays = arrays
        self._run = run
        self._matrices = matrices
        self._batch = batch
        self._dtype = dtype
        self._operands = [arrays.empty((batch, stage.matrix.shape[0]), dtype) for stage in matrices]
        self._sums = [arrays.empty((batch, stage.matrix.shape[1]), dtype) for stage in matrices]
        self._table = arrays.empty((len(run.planes), PLANE_WORDS), "int64")
        self._gates = [
            gate_kernel(run.cell.name, run.forward, number, dtype, saving, has_bias) for number in range(len(matrices))
        ]
        self._last = self._in_a_row = 0  # steps of the last run, and how many runs before it had as many
        self._graphs: dict[int, Any] = {}

    def begin(self, h_0: Array) -> None:
        """Give the forward pass its initial h (B, R)."""
        self._operands[0][...] = h_0

    def execute(self, steps: int, planes: dict[str, Place]) -> None:
        """Run all steps. `planes`: of the cell; operands and sums are the loop's own.

        Backward, the first step has no later one, and its product is left out.
        """
        self._arrays.set_words(self._table, self._run.table(planes | self._own_planes()))
        if not self._run.forward:
            self._sums[0][...] = 0
        self._in_a_row = self._in_a_row + 1 if steps == self._last else 0
        self._last = steps
        graph = self._graphs.get(steps)
        if graph is None and self._worth_capture(steps):
            while len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            graph = self._graphs[steps] = self._arrays.capture(lambda: self._launch_all(steps))
        if graph is not None:
            graph.replay()
        else:
            self._launch_all(steps)

    def back(self, out: Array) -> None:
        """What comes back through the matrix after the last step of a backward pass, (B, R)."""
        self._product(0, out)

    def _product(self, number: int, out: Array) -> None:
        self._arrays.product(self._operands[number], self._matrices[number].matrix, out)

    def _worth_capture(self, steps: int) -> bool:
        if not self._arrays.can_capture or self._in_a_row < _RUNS_BEFORE_CAPTURE:
            return False
        return _LAUNCHES_WORTH_CAPTURE <= 2 * steps * len(self._matrices) <= _MOST_LAUNCHES_OF_GRAPH

    def _launch_all(self, steps: int) -> None:
        stream, table = self._arrays.stream(), self._arrays.address(self._table)
        grids = [gate_grid(self._batch, stage.units) for stage in self._matrices]
        for step in range(steps):
            for number, gate in enumerate(self._gates):
                if self._run.forward or step or number:
                    self._product(number, self._sums[number])
                launch(gate, *grids[number], stream, (table, step, self._matrices[number].units))

    def _own_planes(self) -> dict[str, Place]:
        """Where sums and operands lie."""
        size = ITEMSIZE[self._dtype]
        found = {}
        for number, (stage, described) in enumerate(zip(self._run.stages, self._matrices, strict=True)):
            sums, operand = self._sums[number], self._operands[number]
            for g in range(self._run.sums(number)):
                place = self._arrays.address(sums) + g * described.units * size
                found[f"sums {number} {g}"] = Place(place, 0, sums.shape[1] * size)
            width = operand.shape[1] // len(stage.operand)
            for position, name in enumerate(stage.operand):
                place = self._arrays.address(operand) + position * width * size
                found[f"operand {number} {name}"] = Place(place, 0, operand.shape[1] * size)
        return found
