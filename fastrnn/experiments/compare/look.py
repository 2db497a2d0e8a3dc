"""What `fastrnn.diagnostics` says of one layer, in the form of `results.Look`."""

from typing import Any

import numpy as np

from fastrnn.diagnostics import GradientFlow, gate_statistics, gradient_flow, jacobians

from .sequence_model import Layer

_POINTS = 34  # lags that are kept
_UNITS = 32  # whose gates are kept
_MARK = 1  # the adding problem's input that marks a number

_GATED = ("lstm", "gru")
_CANDIDATES = ("g", "n")  # no gates, but what they let in


def look(layer: Layer, x: np.ndarray, closely: bool) -> dict[str, Any]:
    """Gradients, Jacobians and gates on the sequences `x` (T, B, I), the loss being at the last step only.

    closely  look also at the Jacobians and the gates of the first sequence, which takes longer and is more to keep
    """
    dy = np.zeros((*x.shape[:2], layer.hidden_size), layer.dtype)
    dy[-1] = np.random.default_rng(0).standard_normal(dy.shape[1:])
    flow = gradient_flow(layer, x, dy=dy)
    lags, norms = by_lag(flow)
    half_life = float(flow.half_life[0])
    seen: dict[str, Any] = {
        "lags": lags,
        "norms": norms,
        "decay": flow.decay_per_step[0],
        "half_life": half_life,
    }
    if layer.cell in _GATED:
        gates = gate_statistics(layer, x)
        seen |= {
            "gates": {
                gate: {"mean": mean, "low": gates.saturated_low[gate], "high": gates.saturated_high[gate]}
                for gate, mean in gates.mean.items()
                if gate not in _CANDIDATES
            },
            "memory": gates.half_life,
            "direct": gates.direct_path[::-1][lags],
        }
        if closely:
            seen |= {
                "traces": {
                    gate: _trace(values[:, 0]) for gate, values in gates.gates.items() if gate not in _CANDIDATES
                },
                "marks": np.flatnonzero(x[:, 0, _MARK]) if x.shape[2] == 2 else None,
            }
    else:
        R = layer.parameters["weight_hh_l0"]
        seen["matrix"] = np.abs(np.linalg.eigvals(R)).max()
    if closely:
        steps = jacobians(layer, x)
        halfway = steps.matrices[len(x) // 2]
        seen["lyapunov"] = np.exp(steps.lyapunov_exponents.max())
        seen["eigenvalues"] = {"jacobian": _complex(np.linalg.eigvals(halfway))}
        if layer.cell not in _GATED:
            seen["eigenvalues"]["matrix"] = _complex(np.linalg.eigvals(R))
    return seen


def by_lag(flow: GradientFlow) -> tuple[np.ndarray, np.ndarray]:
    """Some lags, and the norm of dL/d(h, c) there relative to that at the last step."""
    squares = flow.hidden[0] ** 2
    if flow.cell is not None:
        squares = squares + flow.cell[0] ** 2
    order = np.argsort(flow.lags)
    kept = order[np.unique(np.linspace(0, len(order) - 1, _POINTS).round().astype(int))]
    norms = np.sqrt(squares)
    return flow.lags[kept], norms[kept] / norms[order[0]]


def _trace(gate: np.ndarray) -> np.ndarray:
    """Of a gate (T, H) some units, in percent, the most open first: (units, T)."""
    order = np.argsort(-gate.mean(axis=0))
    kept = order[np.linspace(0, len(order) - 1, min(_UNITS, len(order))).round().astype(int)]
    return np.round(100 * gate.T[kept]).astype(int)


def _complex(values: np.ndarray) -> np.ndarray:
    """(N, 2): real and imaginary parts, as float64."""
    return np.stack([values.real, values.imag], axis=1).astype(np.float64)
