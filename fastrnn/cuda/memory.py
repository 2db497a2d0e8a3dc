"""The memory that one direction of a layer fills over a sequence, and where its planes lie in it."""

from __future__ import annotations

from fastrnn.kernels.cells import Cell
from fastrnn.kernels.cuda.planes import ITEMSIZE, Place, bias_plane, wide

from .arrays import Array, Arrays


class DirectionMemory:
    """Buffers of one direction, in the order of time whatever the direction: slot t belongs to time step t.

    hidden   (T+1, B, R): h at every step and the initial state before the first, so that all h and all previous h are
             each one contiguous matrix; the reverse direction's initial state is the last slot
    gates    (T, B, G*H): the saved planes that become the gradients towards x, in the order of the weight's rows
    others   {plane: (T, B, H)}: the other saved planes
    cells    (T+1, B, H) as `hidden`, in the wide type; None for a cell without cell state

    Without `save` gates, others and cells have room for one step, which is overwritten by the next.
    """

    def __init__(
        self, arrays: Arrays, cell: Cell, shape: tuple[int, int, int, int], dtype: str, reverse: bool, save: bool
    ) -> None:
        T, B, H, R = shape
        kept = T if save else 1
        self._arrays = arrays
        self._T, self._B, self._H = T, B, H
        self.reverse = reverse
        self.save = save
        self.hidden = arrays.empty((T + 1, B, R), dtype)
        planes, gates = cell.input_gradient
        self.order = tuple(plane for _, plane in sorted(zip(gates, planes, strict=True)))
        self.gates = arrays.empty((kept, B, cell.gates * H), dtype)
        self.others = {name: arrays.empty((kept, B, H), dtype) for name in cell.saved if name not in self.order}
        self.cells: Array | None = (
            arrays.empty((kept + 1 if save else 1, B, H), wide(dtype)) if cell.has_cell_state else None
        )

    @property
    def outputs(self) -> Array:
        """h at every step, (T, B, R)."""
        return self.hidden[:-1] if self.reverse else self.hidden[1:]

    @property
    def last(self) -> int:
        """The time step that the loop comes to last."""
        return 0 if self.reverse else self._T - 1

    def begin(self, states: tuple[Array, ...]) -> None:
        """Write the initial states, (B, R) and (B, H)."""
        slot = -1 if self.reverse else 0
        self.hidden[slot] = states[0]
        if self.cells is not None:
            self.cells[slot] = states[1]

    def final_cells(self) -> Array:
        assert self.cells is not None
        return self.cells[(0 if self.reverse else -1) if self.save else 0]

    def matrix(self, planes: tuple[str, ...]) -> Array:
        """Saved planes, side by side, as a matrix with a row for each step and row of the batch."""
        if planes[0] not in self.order:
            return self.others[planes[0]].reshape(self._T * self._B, -1)
        first = self.order.index(planes[0])
        rows = self.gates.reshape(self._T * self._B, -1)
        whole = len(planes) == len(self.order)
        return rows if whole else rows[:, first * self._H : (first + len(planes)) * self._H]

    def previous_hidden(self) -> Array:
        """The h before every step, as such a matrix."""
        before = self.hidden[1:] if self.reverse else self.hidden[:-1]
        return before.reshape(self._T * self._B, -1)

    def planes(self) -> dict[str, Place]:
        """The planes of this memory, in the order of time."""
        before, after = (self.hidden[1:], self.hidden[:-1]) if self.reverse else (self.hidden[:-1], self.hidden[1:])
        found = {"h_prev": self.plane(before), "h": self.plane(after)}
        found |= {name: self.plane(self.gates, n * self._H, self.save) for n, name in enumerate(self.order)}
        found |= {name: self.plane(array, 0, self.save) for name, array in self.others.items()}
        if self.cells is not None and self.save:
            before, after = (self.cells[1:], self.cells[:-1]) if self.reverse else (self.cells[:-1], self.cells[1:])
            found |= {"c_prev": self.plane(before), "c": self.plane(after)}
        elif self.cells is not None:
            found |= {"c_prev": self.plane(self.cells, 0, False), "c": self.plane(self.cells, 0, False)}
        return found

    def plane(self, sequence: Array, column: int = 0, moves: bool = True) -> Place:
        """Columns from `column` on of a contiguous sequence (T, B, n)."""
        _, rows, width = sequence.shape
        size = ITEMSIZE[self._arrays.dtype_name(sequence)]
        start = self._arrays.address(sequence) + column * size
        return Place(start, rows * width * size if moves else 0, width * size)

    def in_loop_order(self, planes: dict[str, Place], forward: bool) -> dict[str, Place]:
        """Planes in the order of time as a pass meets them."""
        backwards = self.reverse if forward else not self.reverse
        return {name: plane.backwards(self._T) if backwards else plane for name, plane in planes.items()}


def bias_planes(arrays: Arrays, cell: Cell, weights: dict[str, Array], hidden_size: int) -> dict[str, Place]:
    """The biases: the same at every step and row."""
    if "bias_ih" not in weights:
        return {}
    size = ITEMSIZE[arrays.dtype_name(weights["bias_ih"])]
    return {
        bias_plane(bias, name): Place(arrays.address(weights[name]) + bias.gate * hidden_size * size, 0, 0)
        for bias in cell.biases
        for name in bias.parameters
    }
