"""How much the last output still depends on each input."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.validation import State

from . import decay
from .runs import Run, below, own_time

_UNITS_AT_ONCE = 64


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found. Index t of an array is step t in the direction's own time, the last one its last.

    lags            (T,) T-1 .. 0: k of x_{T-k}
    norms           (T,) |dh_T/dx_t|, Frobenius, float64: the root of the sum of all derivatives' squares
    features        (T, I) the same for each input feature alone
    decay_per_step  exp of the slope of a straight line fitted to log(norms) by lag, by least squares, where not 0
    half_life       steps in which that rate halves it
    title           the layer, its input, and which row and direction this is
    """

    lags: np.ndarray
    norms: np.ndarray
    features: np.ndarray
    decay_per_step: float
    half_life: float
    title: str

    def __str__(self) -> str:
        return "\n".join(
            [
                self.title,
                "",
                *self._lines(),
            ]
        )

    def _lines(self) -> list[str]:
        last = f"|dh_T/dx_t|: {self.norms[-1]:.3g} of the last input"
        if len(self.lags) == 1:
            return [f"{last}; there is no earlier step."]
        lines = [f"{last}, {self.norms[0]:.3g} of the first, {self.lags[0]} steps before."]
        if not math.isnan(self.decay_per_step):
            lines.append(f"Fitted: {self.decay_per_step:.4g}-fold a step, half-life {self.half_life:.3g} steps.")
        return lines


def sensitivity(layer: Any, x: np.ndarray, state: State = None, *, row: int = 0, direction: int = 0) -> Sensitivity:
    """How far the last layer's h after its last step, h_T, depends on each x_{T-k}, for one row of the batch.

    layer, x, state  as in `gradient_flow`
    row              of the batch
    direction        whose h_T: for direction 1 the last step is the first of x

    Exact: a row of dh_T/dx for each unit of h, which takes as many backward passes, side by side as a batch. ValueError
    or TypeError for a wrong argument.
    """
    run = Run(layer, x, state, row=row)
    direction = below("direction", direction, run.layer.num_directions)
    R = run.layer._network.layout.widths[0]
    squares = np.zeros((run.steps, run.layer.input_size))
    with np.errstate(all="ignore"):
        for first in range(0, R, _UNITS_AT_ONCE):
            units = np.arange(first, min(first + _UNITS_AT_ONCE, R))
            squares += own_time(_squares(run.repeated(len(units)), units, direction), direction)
        norms = np.sqrt(squares.sum(axis=1))
        rate = decay.fitted(np.log(norms[::-1]))
    return Sensitivity(
        run.lags,
        norms,
        np.sqrt(squares),
        rate,
        decay.half_life(rate),
        f"{run.title}, row {row}{', reverse' * direction}",
    )


def _squares(run: Run, units: np.ndarray, direction: int) -> np.ndarray:
    """(T, I): the sum of (dh_T[u]/dx)² over these units, each in a row of the batch."""
    layout, D = run.layer._network.layout, run.layer.num_directions
    dh_n = np.zeros((layout.rows, len(units), layout.widths[0]), layout.dtype)
    dh_n[layout.rows - D + direction, np.arange(len(units)), units] = 1
    dx = run.backward_to(0, None, (dh_n, *[None] * (len(layout.widths) - 1))).dx
    return np.sum(dx.astype(np.float64) ** 2, axis=1)
