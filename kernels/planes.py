"""Which planes the loops of a cell use, in the order of the block's table."""

from .cells import Cell, Stage


def _names(first: tuple[str, ...], stages: tuple[Stage, ...], keeping: bool = False) -> tuple[str, ...]:
    names = dict.fromkeys(first)
    for stage in stages:
        names.update(dict.fromkeys(stage.begins + stage.reads + stage.writes + stage.operand))
        if keeping:
            names.update(dict.fromkeys(stage.keeps))
    return tuple(names)


def forward_planes(cell: Cell) -> tuple[str, ...]:
    """The sums W x come first, they count from the start of their chunk; then the biases they begin with."""
    return _names(cell.inputs + tuple(bias.plane for bias in cell.biases), cell.forward)


def backward_planes(cell: Cell, keeping: bool = False) -> tuple[str, ...]:
    """All planes of the backward loop, or of the one that keeps the gradients of each step."""
    return _names(("dy", "dh_next"), cell.backward, keeping)


def plane_numbers(planes: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """Where these planes stand in the table."""
    return tuple(planes.index(name) for name in names)
