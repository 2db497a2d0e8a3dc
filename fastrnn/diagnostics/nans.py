"""Where a NaN comes from: the first step, gate and unit that has one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn import validation
from fastrnn.validation import State

from .runs import LayerRun, Run

# what a step computes, in this order
_ORDER = {
    "lstm": ("i", "f", "g", "o", "c", "h"),
    "gru": ("r", "z", "hn", "n", "h"),
    "gru_reset_before": ("r", "z", "n", "h"),
    "rnn_tanh": ("h",),
    "rnn_relu": ("h",),
}


@dataclass(frozen=True)
class FirstNaN:
    """Where the first NaN (or infinity, if asked for) appears.

    layer_index, direction  whose: a layer runs over the whole sequence before the one above begins
    step                    index into x: for direction 1 the first step it computes is the last of x
    row                     of the batch
    gate                    the first in the order in which a step computes them: LSTM "i", "f", "g", "o", "c", "h"; GRU
                            "r", "z", "n", "h", with reset_after "hn" before n, R_n h' + b_hn that r multiplies; RNN "h"
    unit                    the first one of that gate
    share                   of that gate's values at that step, all rows and units, how many have one
    given                   what was passed in with one: "x", "x at this step and row", "h_0", "c_0", names of
                            parameters. Empty: it comes from the arithmetic, out of numbers too large.
    value                   the value itself
    """

    layer_index: int
    direction: int
    step: int
    row: int
    gate: str
    unit: int
    share: float
    given: tuple[str, ...]
    value: float

    def __str__(self) -> str:
        whence = f"passed in: {', '.join(self.given)}" if self.given else "nothing passed in has one"
        return (
            f"{self.value} first in layer {self.layer_index}{' reverse' * self.direction} at step {self.step}, gate "
            f"{self.gate}, row {self.row}, unit {self.unit} ({self.share:.0%} of that gate at that step); {whence}"
        )


def first_nan(layer: Any, x: np.ndarray, state: State = None, *, infinity: bool = False) -> FirstNaN | None:
    """Find where the first NaN of a forward pass appears; None if there is none.

    layer, x, state  as in `gradient_flow`
    infinity         look for infinities as well, which NaNs often begin as

    ValueError or TypeError for a wrong argument.
    """
    wrong = _not_finite if validation.flag("infinity", infinity) else np.isnan
    run = Run(layer, x, state)
    for index, layer_run in enumerate(run.layers):
        found = [one for d in range(run.layer.num_directions) for one in _first(layer_run, d, wrong)]
        if found:
            own_step, direction, gate = min(found)
            values = layer_run.values(direction)[gate][own_step]
            where = wrong(values)
            row, unit = (int(n) for n in np.argwhere(where)[0])
            step = run.steps - 1 - own_step if direction else own_step
            return FirstNaN(
                index, direction, step, row, gate, unit, float(where.mean()),
                tuple(_given(run, step, row, wrong)), float(values[row, unit]),
            )  # fmt: skip
    return None


def _not_finite(values: np.ndarray) -> np.ndarray:
    return ~np.isfinite(values)


def _first(run: LayerRun, direction: int, wrong: Any) -> Iterator[tuple[int, int, str]]:
    """(step in its own time, direction, gate) of the first of one direction, if there is one."""
    values = run.values(direction)
    steps = {gate: wrong(values[gate]).any(axis=(1, 2)) for gate in _ORDER[run.sequence.layout.name]}
    first = [int(np.argmax(has)) for has in steps.values() if has.any()]
    if first:
        step = min(first)
        yield step, direction, next(gate for gate, has in steps.items() if has[step])


def _given(run: Run, step: int, row: int, wrong: Any) -> Iterator[str]:
    bottom = run.layers[0]
    if wrong(bottom.x[step, row]).any():
        yield "x at this step and row"
    elif wrong(bottom.x).any():
        yield "x"
    for position, name in enumerate(run.layer._network.layout.state_names):
        if any(wrong(layer_run.states[position]).any() for layer_run in run.layers):
            yield name
    for name, parameter in run.layer.parameters.items():
        if wrong(parameter).any():
            yield name
