"""Sequences packed and unpacked on the kernels, by all threads."""

import numpy as np

from . import threads
from .lengths import PackedRows, Padded
from .memory import address

# copying fewer bytes is faster done alone
_ENOUGH_TO_SHARE = 1 << 20


def pack(padded: Padded, sequence: np.ndarray) -> np.ndarray:
    """As `Padded.pack`."""
    packed, width = padded.rows, sequence.shape[-1]
    rows = np.empty((packed.total, width), sequence.dtype)
    layout = (packed.steps, packed.batch, address(packed.starts), address(padded.order), 0)
    _copy(rows, layout, sequence, width * sequence.itemsize, 0, padded.steps)
    return rows


def unpack(padded: Padded, rows: np.ndarray) -> np.ndarray:
    """As `Padded.unpack`."""
    packed, width = padded.rows, rows.shape[-1]
    sequence = np.empty((padded.steps, packed.batch, width), rows.dtype)
    zeros = np.zeros((1, width), rows.dtype)
    layout = (padded.steps, packed.batch, 0, address(padded.rank), 0)
    _copy(sequence, layout, rows, rows.strides[0], address(packed.starts), packed.steps, zeros, 0)
    return sequence


def states_before(packed: PackedRows, initial: np.ndarray, states: np.ndarray, reverse: bool, out: np.ndarray) -> None:
    """The states before each step into `out` (N, n), from the initial ones (B, n) and those after each step (N, n).

    `states` may have a distance from row to row; the others are C-contiguous.
    """
    starts = address(packed.starts)
    layout = (packed.steps, packed.batch, starts, 0, 1 if reverse else -1)
    _copy(out, layout, states, states.strides[0], starts, packed.steps, initial, initial.strides[0])


def _copy(
    target: np.ndarray,
    layout: tuple[int, int, int, int, int],
    source: np.ndarray,
    source_row: int,
    source_starts: int,
    source_steps: int,
    other: np.ndarray | None = None,
    other_row: int = 0,
) -> None:
    """Run the kernel. `layout`: steps, batch, the target's starts, order and shift (see `kernels/copying.py`)."""
    if target.size == 0:
        return
    steps, batch, starts, order, shift = layout
    words = (
        steps, batch, target.shape[-1] * target.itemsize, address(target), starts, order, shift,
        address(source), source_row, source_starts, source_steps, 0 if other is None else address(other), other_row,
    )  # fmt: skip
    threads.run_words("copying", words, threads.available() if target.nbytes >= _ENOUGH_TO_SHARE else 1)
