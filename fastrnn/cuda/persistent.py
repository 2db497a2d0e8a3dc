"""The time loop of the persistent path: one launch for all steps (see `kernels/cuda/persistent.py`)."""

from __future__ import annotations

import numpy as np

from fastrnn.kernels.cuda import geometry, launch
from fastrnn.kernels.cuda.persistent import persistent_kernel
from fastrnn.kernels.cuda.plan import Plan
from fastrnn.kernels.cuda.planes import ITEMSIZE, PLANE_WORDS, Pass, Place

from .arrays import Array, Arrays
from .loop import StageMatrix

# polls of a barrier before it counts as hung; a poll takes about a microsecond, a step far less than a second
PATIENCE = 5_000_000


class PersistentLoop:
    """As `Loop`, whose methods these are. It waits for the kernel, to see whether a barrier gave up."""

    def __init__(
        self,
        arrays: Arrays,
        run: Pass,
        matrices: list[StageMatrix],
        batch: int,
        dtype: str,
        saving: bool,
        has_bias: bool,
        plan: Plan,
        *,
        patience: int = PATIENCE,
        delay: int = 0,
    ) -> None:
        self._arrays = arrays
        self._run = run
        self._matrices = matrices
        self._batch = batch
        self._dtype = dtype
        self._plan = plan
        self._waiting = patience, delay
        self._kernel = persistent_kernel(run.cell.name, run.forward, dtype, saving, has_bias, plan.patch)
        launch.make_room(self._kernel, plan)
        self._exchanges = [arrays.zeros((2, batch, stage.matrix.shape[0]), dtype) for stage in matrices]
        self._table = arrays.empty((len(run.planes), PLANE_WORDS), "int64")
        words = geometry.FIRST_STAGE + geometry.STAGE_WORDS * len(matrices)
        self._geometry = arrays.empty((words,), "int64")
        self._meeting = arrays.empty((2,), "int64")  # the counter and the status
        self._steps = 0

    def begin(self, h_0: Array) -> None:
        """Give the forward pass its initial h (B, R)."""
        self._exchanges[0][0] = h_0

    def execute(self, steps: int, planes: dict[str, Place]) -> None:
        """As `Loop.execute`. RuntimeError if the blocks did not meet, and the results are not valid then."""
        arrays = self._arrays
        if not self._run.forward:
            self._exchanges[0][0] = 0  # the first step has no later one
        self._meeting[...] = 0
        self._steps = steps
        arrays.set_words(self._table, self._run.table(planes))
        arrays.set_words(self._geometry, np.array(self._words(steps), np.int64))
        launch.launch(
            self._kernel,
            self._plan.blocks,
            self._plan.patch.threads,
            arrays.stream(),
            (arrays.address(self._table), arrays.address(self._geometry)),
            self._plan.shared_bytes,
        )
        if arrays.to_host(self._meeting)[1]:
            raise RuntimeError(
                f"the persistent kernel's {self._plan.blocks} blocks did not meet within {self._waiting[0]} polls; "
                'use backend="plain"'
            )

    def back(self, out: Array) -> None:
        """What comes back through the matrix after the last step of a backward pass, (B, R)."""
        self._arrays.product(self._exchanges[0][self._steps % 2], self._matrices[0].matrix, out)

    def _words(self, steps: int) -> list[int]:
        arrays, size = self._arrays, ITEMSIZE[self._dtype]
        matrices, widths = [], []
        for stage, described in zip(self._run.stages, self._matrices, strict=True):
            matrix = described.matrix  # (depth, sums * units); forward a transposed view
            address, row_bytes = arrays.address(matrix), matrix.shape[0 if self._run.forward else 1] * size
            if self._run.forward:
                matrices.append(geometry.Matrix(address, described.units * row_bytes, row_bytes, size))
            else:
                matrices.append(geometry.Matrix(address, 0, size, row_bytes))
            widths.append(matrix.shape[0] // len(stage.operand))
        patience, delay = self._waiting
        counter = arrays.address(self._meeting)
        exchanges = [arrays.address(exchange) for exchange in self._exchanges]
        return geometry.words(
            self._plan, steps, self._batch, matrices, exchanges, widths, counter, counter + 8, patience, delay
        )
