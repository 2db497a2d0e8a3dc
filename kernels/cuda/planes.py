"""Where the numbers of a pass lie in a GPU's memory: the planes of `kernels/cells.py`, and what CUDA adds to them.

A table in device memory has a row for each plane, PLANE_WORDS int64 words, all in bytes:

    address   of unit 0 of row 0 at step 0 of the loop
    step      from one step to the next
    row       from one row of the batch to the next
    edge      a step that lies elsewhere (the first one, which follows the initial state), or -1
    edge_address, edge_row   where that is

Beside the cell's own planes there are, for each stage n, "sums n g", what its product gave for gate g, and
"operand n NAME", where what stage n multiplies is put together; and for each bias "PLANE PARAMETER".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from .. import planes as cell_planes
from ..cells import CELLS, Bias, Cell, Stage

PLANE_WORDS = 6
WORD = 8  # bytes
# kept in the wide type: what is handed from step to step, and would lose digits at each
WIDE = frozenset({"c", "c_prev", "dc_next", "dh_next"})


@dataclass(frozen=True)
class Place:
    """A row of the table: where a plane lies. Described in the order of time; `backwards` is how a loop that runs from
    the last step to the first meets it.
    """

    address: int
    step: int
    row: int
    edge: int = -1
    edge_address: int = 0
    edge_row: int = 0

    def words(self) -> tuple[int, ...]:
        return (self.address, self.step, self.row, self.edge, self.edge_address, self.edge_row)

    def backwards(self, steps: int) -> "Place":
        """The same memory in a loop that runs from the last of so many steps to the first."""
        edge = steps - 1 - self.edge if self.edge >= 0 else -1
        return Place(
            self.address + (steps - 1) * self.step, -self.step, self.row, edge, self.edge_address, self.edge_row
        )


@dataclass(frozen=True)
class Pass:
    """One direction of time through a cell: its stages, and its planes in the order of the table."""

    cell: Cell
    forward: bool

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.cell.forward if self.forward else self.cell.backward

    @property
    def biases(self) -> tuple[Bias, ...]:
        return self.cell.biases if self.forward else ()

    def sums(self, number: int) -> int:
        """Sums of a unit in stage `number`: forward one for each gate, backward one."""
        return len(self.stages[number].gates) if self.forward else 1

    @property
    def planes(self) -> tuple[str, ...]:
        own = (cell_planes.forward_planes if self.forward else cell_planes.backward_planes)(self.cell)
        biases = {bias.plane for bias in self.biases}
        names = [name for name in own if name not in biases]
        names += [bias_plane(bias, parameter) for bias in self.biases for parameter in bias.parameters]
        for number, stage in enumerate(self.stages):
            names += [f"sums {number} {g}" for g in range(self.sums(number))]
            names += [f"operand {number} {name}" for name in stage.operand]
        return tuple(names)

    def table(self, places: Mapping[str, Place]) -> np.ndarray:
        """The table's words, (planes, PLANE_WORDS); zeros for planes that are nowhere, which no kernel touches."""
        nowhere = Place(0, 0, 0)
        return np.array([places.get(name, nowhere).words() for name in self.planes], np.int64)

    def operand_of(self, written: str) -> tuple[str, ...]:
        """The operand planes that a written plane is also put into."""
        name = "h_prev" if self.forward and written == "h" else written
        return tuple(f"operand {n} {name}" for n, stage in enumerate(self.stages) if name in stage.operand)

    def writes(self, number: int, saving: bool) -> tuple[str, ...]:
        """What stage `number` writes; less if no backward pass will follow."""
        stage = self.stages[number]
        return stage.writes if saving else stage.writes[: stage.always]


def bias_plane(bias: Bias, parameter: str) -> str:
    return f"{bias.plane} {parameter}"


@cache
def passes(cell: str) -> tuple[Pass, Pass]:
    """Forward and backward."""
    return Pass(CELLS[cell], True), Pass(CELLS[cell], False)


def wide(dtype: str) -> str:
    """The type of sums and of WIDE planes."""
    return "float64" if dtype == "float64" else "float32"


def stored(plane: str, dtype: str) -> str:
    """The type of a plane's numbers in memory."""
    return wide(dtype) if plane in WIDE else dtype


ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
