"""What `fastrnn.diagnostics` says of one layer, in the form of `results.Look`."""

from typing import Any

import numpy as np

from fastrnn.diagnostics import gate_statistics, gradient_flow, jacobians

from .sequence_model import Layer
from .tasks import Adding

_POINTS = 34  # lags that are kept
_UNITS = 32  # whose gates are kept
_MARK = 1  # the adding problem's input that marks a number

_CANDIDATES = ("g", "n")  # no gates, but what they let in


def look(layer: Layer, x: np.ndarray, closely: bool) -> dict[str, Any]:
    """Gradients, gates and Jacobians on the sequences `x` (T, B, I), the loss being at the last step only.

    closely  look also at the Jacobians and the gates of the first sequence, which takes longer and is more to keep
    """
    dy = np.zeros((*x.shape[:2], layer.hidden_size), layer.dtype)
    dy[-1] = np.random.default_rng(0).standard_normal(dy.shape[1:])
    flow = gradient_flow(layer, x, dy=dy)
    gates = gate_statistics(layer, x)
    lags, norms = by_lag(flow.lags, flow.transmitted[0])
    seen: dict[str, Any] = {
        "lags": lags,
        "norms": norms,
        "decay": flow.decay_per_step[0],
        "half_life": flow.half_life[0],
        # of dL/dh_T, as `transmitted` is, though an LSTM's path begins at c_T
        "direct": None if flow.direct is None else by_lag(flow.lags, flow.direct[0] / flow.hidden[0, -1])[1],
        "gates": {
            gate: {"mean": mean, "low": gates.saturated_low[gate], "high": gates.saturated_high[gate]}
            for gate, mean in gates.mean.items()
            if gate not in _CANDIDATES
        },
        "memory": gates.half_life,
    }
    matrix = layer.parameters["weight_hh_l0"] if layer.cell == "rnn_tanh" else None
    if matrix is not None:
        seen["matrix"] = spectral_radius(matrix)
    if closely:
        steps = jacobians(layer, x)
        seen["lyapunov"] = np.exp(steps.lyapunov_exponents[0])
        seen["eigenvalues"] = {"jacobian": _complex(np.linalg.eigvals(steps.matrices[len(x) // 2]))}
        if matrix is not None:
            seen["eigenvalues"]["matrix"] = _complex(np.linalg.eigvals(matrix))
        seen["traces"] = {gate: _trace(gates.gates[gate][:, 0]) for gate in seen["gates"] if gate != "h"}
        seen["marks"] = np.flatnonzero(x[:, 0, _MARK]) if x.shape[2] == Adding.inputs else None
    return seen


def by_lag(lags: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the lags (T,), increasing, that of half the steps among them, and the values there."""
    order = np.argsort(lags)
    chosen = np.linspace(0, len(order) - 1, _POINTS).round().astype(int)
    kept = order[np.unique(np.append(chosen, len(order) // 2))]
    return lags[kept], values[kept]


def spectral_radius(matrix: np.ndarray) -> float:
    """The largest magnitude of an eigenvalue."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _trace(gate: np.ndarray) -> np.ndarray:
    """Of a gate (T, H) some units, in percent, the most open first: (units, T)."""
    order = np.argsort(-gate.mean(axis=0))
    kept = order[np.linspace(0, len(order) - 1, min(_UNITS, len(order))).round().astype(int)]
    return np.round(100 * gate.T[kept]).astype(int)


def _complex(values: np.ndarray) -> np.ndarray:
    """(N, 2): real and imaginary parts, as float64."""
    return np.stack([values.real, values.imag], axis=1).astype(np.float64)
