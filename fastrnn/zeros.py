"""Initial states of zeros, made once."""

import numpy as np


class ZeroStates:
    """The states (rows, B, width), one for each width, read-only. Those of the batch asked for last are kept."""

    def __init__(self, rows: int, widths: tuple[int, ...], dtype: np.dtype) -> None:
        self._rows, self._widths, self._dtype = rows, widths, dtype
        self._kept = self._new(0)

    def __call__(self, batch: int) -> tuple[np.ndarray, ...]:
        kept = self._kept  # one look: another thread may replace it
        if kept[0].shape[1] != batch:
            self._kept = kept = self._new(batch)
        return kept

    def _new(self, batch: int) -> tuple[np.ndarray, ...]:
        states = tuple([np.zeros((self._rows, batch, width), self._dtype) for width in self._widths])
        for state in states:
            state.flags.writeable = False
        return states
