"""What the gates of a layer do: how open they are, how often they saturate, and how long they let a value be kept."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.validation import State

from .flow import MEMORY_GATES
from .runs import Run, as_layer, one_direction

# A gate counts as saturated in the outer tenths of its range (Karpathy et al. 2015): outside these limits.
_LIMITS = {"sigmoid": (0.1, 0.9), "tanh": (-0.8, 0.8)}
_RANGES = {
    "lstm": {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid"},
    "gru": {"r": "sigmoid", "z": "sigmoid", "n": "tanh"},
    "gru_reset_before": {"r": "sigmoid", "z": "sigmoid", "n": "tanh"},
    "rnn_tanh": {"h": "tanh"},
    "rnn_relu": {"h": "relu"},
}


@dataclass(frozen=True)
class GateStatistics:
    """What `gate_statistics` found. Index t of an array is step t in the direction's own time.

    gates            {name: (T, B, H)} values after the activation: LSTM i f g o, GRU r z n, RNN h
    mean             {name: float} over steps, batch and units
    saturated_low    {name: float} the share in the lowest tenth of the range: below 0.1 for i f o r z, below -0.8 for
                     what comes out of tanh; for relu the share that is 0
    saturated_high   {name: float} the share in the highest tenth: above 0.9, or 0.8; 0 for relu, which has no upper end
    unit_half_life   (H,) for each unit, the steps in which its forget (LSTM) or update (GRU) gate alone halves what is
                     kept: ln 2 / -(mean of ln f over steps and batch); infinite where the gate is 1. None for RNN.
    half_life        the median over units of unit_half_life; None for RNN
    direct_path      (T,) the mean over units and batch of f_{t+1} ... f_{T-1} (GRU: z): what the path without matrices
                     keeps of the value of step t until the end, 1 at the last step. None for RNN. `gradient_flow` has
                     the same, for the gradient, beside the full one.
    title            the layer, its input, and which layer and direction this is
    """

    gates: dict[str, np.ndarray]
    mean: dict[str, float]
    saturated_low: dict[str, float]
    saturated_high: dict[str, float]
    unit_half_life: np.ndarray | None
    half_life: float | None
    direct_path: np.ndarray | None
    title: str

    def __str__(self) -> str:
        lines = [self.title, "", f"{'gate':4}  {'mean':>7}  {'low':>6}  {'high':>6}"]
        lines += [
            f"{name:4}  {self.mean[name]:7.3f}  {self.saturated_low[name]:6.1%}  {self.saturated_high[name]:6.1%}"
            for name in self.gates
        ]
        if self.unit_half_life is not None and self.direct_path is not None:
            lines += [
                "",
                f"Half-life of what a unit keeps, in steps: median {self.half_life:.3g}, "
                f"{self.unit_half_life.min():.3g} to {self.unit_half_life.max():.3g}.",
                f"Of the first step's value {self.direct_path[0]:.2g} is kept until the end.",
            ]
        return "\n".join(lines)


def gate_statistics(
    layer: Any, x: np.ndarray, state: State = None, *, layer_index: int = 0, direction: int = 0
) -> GateStatistics:
    """Run a layer and look at the gates of one of its layers and directions.

    layer, x, state         as in `gradient_flow`
    layer_index, direction  which of the layers, and which of its directions

    ValueError or TypeError for a wrong argument.
    """
    layer = as_layer(layer)
    layer_index, direction = one_direction(layer, layer_index, direction)
    run = Run(layer, x, state, layers=layer_index + 1)
    cell = run.layer.cell
    values = run.layers[layer_index].values(direction)
    gates = {name: values[name].copy() for name in _RANGES[cell]}
    shares = {name: _saturated(gates[name], kind) for name, kind in _RANGES[cell].items()}
    half_lives = path = None
    if cell in MEMORY_GATES:
        memory = gates[MEMORY_GATES[cell]].astype(np.float64)
        with np.errstate(all="ignore"):
            half_lives, path = _half_lives(memory), _direct_path(memory)
    return GateStatistics(
        gates,
        {name: float(gate.mean(dtype=np.float64)) for name, gate in gates.items()},
        {name: low for name, (low, _) in shares.items()},
        {name: high for name, (_, high) in shares.items()},
        half_lives,
        None if half_lives is None else float(np.median(half_lives)),
        path,
        f"{run.title}, layer {layer_index}{' reverse' * direction}",
    )


def _saturated(gate: np.ndarray, kind: str) -> tuple[float, float]:
    """The shares at the lower and at the upper end."""
    if kind == "relu":
        return float(np.mean(gate <= 0)), 0.0
    low, high = _LIMITS[kind]
    return float(np.mean(gate < low)), float(np.mean(gate > high))


def _half_lives(memory: np.ndarray) -> np.ndarray:
    """A gate of 0 forgets at once, one of 1 never."""
    return math.log(2) / np.abs(np.log(memory).mean(axis=(0, 1)))


def _direct_path(memory: np.ndarray) -> np.ndarray:
    later = np.concatenate([memory[1:], np.ones_like(memory[:1])])
    return np.cumprod(later[::-1], axis=0)[::-1].mean(axis=(1, 2))
