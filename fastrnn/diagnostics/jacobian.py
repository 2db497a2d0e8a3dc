"""The recurrent Jacobian of every step, and what its product over the steps does to a gradient.

The spectral radius of a Jacobian is the simple story: were the matrix J the same at every step, J^k would in the long
run shrink or grow like the k-th power of that number. It misleads in two ways. The Jacobian changes with t, and a
product of matrices whose powers all vanish can grow: (0 4; 0 0) and (0 0; 4 0) both have spectral radius 0, their
product 16. And it is not normal, so that before the long run comes a power may be far from what the eigenvalues say: a
single step may stretch by the largest singular value, which may be far larger. That number errs the other way: what
one step stretches the next need not. The product itself is measured by its Lyapunov exponents: the logarithms of its
singular values, divided by the number of steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.blas import one_thread
from fastrnn.validation import State

from .runs import Run, as_layer, one_direction

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Jacobians:
    """What `jacobians` found, in float64. Index t of an array is step t in the direction's own time.

    matrices                (T, S, S) d(state after step t)/d(state before it). The state is h, S = H; for the LSTM h
                            and c side by side, S = R + H.
    spectral_radius         (T,) the largest magnitude of an eigenvalue
    largest_singular_value  (T,) how much the step can stretch a vector
    lyapunov_exponents      (S,) in nats per step, decreasing: log(singular values of J_T ... J_1) / T; -inf where a
                            step leaves nothing of a direction, or less than the rounding of others. The first is that
                            of the gradient that decays least.
    title                   the layer, its input, and which row, layer and direction this is
    """

    matrices: np.ndarray
    spectral_radius: np.ndarray
    largest_singular_value: np.ndarray
    lyapunov_exponents: np.ndarray
    title: str

    def __str__(self) -> str:
        steps, size, _ = self.matrices.shape
        rows: list[tuple[str, ...]] = [("at each step", "least", "mean", "largest")]
        for name, values in (
            ("spectral radius", self.spectral_radius),
            ("largest singular value", self.largest_singular_value),
        ):
            rows.append((name, *(f"{number:.4g}" for number in (values.min(), values.mean(), values.max()))))
        with np.errstate(over="ignore"):
            factor = np.exp(self.lyapunov_exponents[0])
        product = f"The product of all {steps} of them" if steps > 1 else "It"
        return "\n".join(
            [
                self.title,
                "",
                *(f"{row[0]:22}  {row[1]:>10}  {row[2]:>10}  {row[3]:>10}" for row in rows),
                "",
                f"{product}, {size} x {size}, stretches by up to {factor:.4g} a step",
                f"(its largest Lyapunov exponent: {self.lyapunov_exponents[0]:.4g} nats a step).",
            ]
        )


def jacobians(
    layer: Any, x: np.ndarray, state: State = None, *, row: int = 0, layer_index: int = 0, direction: int = 0
) -> Jacobians:
    """The recurrent Jacobian of one layer and direction at every step of one row of the batch.

    layer, x, state         as in `gradient_flow`
    row                     of the batch
    layer_index, direction  which of the layers, and which of its directions

    The matrices are made from the cell's equations and the gates that the layer computes, in float64. Memory: T*S*S
    numbers. ValueError or TypeError for a wrong argument, ValueError if a Jacobian is not finite (see `first_nan`).
    """
    layer = as_layer(layer)
    layer_index, direction = one_direction(layer, layer_index, direction)
    run = Run(layer, x, state, row=row, layers=layer_index + 1)
    matrices = step_jacobians(run, layer_index, direction)[:, 0]
    finite = np.isfinite(matrices).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"x: its Jacobian is not finite at step {np.flatnonzero(~finite)[0]}: see first_nan")
    with one_thread(), np.errstate(all="ignore"):
        radius = np.abs(np.linalg.eigvals(matrices)).max(axis=1)
        singular = np.linalg.norm(matrices, 2, axis=(1, 2))
        exponents = lyapunov_exponents(matrices)
    title = f"{run.title}, row {row}, layer {layer_index}{' reverse' * direction}"
    return Jacobians(matrices, radius, singular, exponents, title)


def step_jacobians(run: Run, layer_index: int, direction: int) -> np.ndarray:
    """(T, B, S, S) of one layer and direction, float64."""
    layer_run = run.layers[layer_index]
    cell = layer_run.sequence.layout.name
    values = layer_run.values(direction)
    values["h_prev"] = layer_run.previous(direction)
    if cell == "lstm":
        values["c_prev"] = layer_run.previous(direction, 1)
    weights = layer_run.sequence.parameters.directions[direction]
    wide = [{name: array.astype(np.float64) for name, array in each.items()} for each in (values, weights)]
    with np.errstate(all="ignore"):
        return _JACOBIANS[cell](*wide)


# The Jacobian of one step of each cell, for values (..., H) and weights of one direction. A prime marks the step
# before; derivatives of activations are taken from what came out.


def rows(factors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """diag(factors) @ matrix, for (..., H) and (H, n) -> (..., H, n)."""
    return factors[..., None] * matrix


def diagonal(values: np.ndarray) -> np.ndarray:
    """(..., H) -> (..., H, H)."""
    return values[..., None] * np.eye(values.shape[-1])


def lstm(v: Values, w: Values) -> np.ndarray:
    """c = f c' + i g, m = o tanh(c), and h = m or W_hr m; the state is (h, c)."""
    i, f, g, o, t = v["i"], v["f"], v["g"], v["o"], np.tanh(v["c"])
    R_i, R_f, R_g, R_o = np.split(w["weight_hh"], 4)
    c_h = rows(v["c_prev"] * f * (1 - f), R_f) + rows(g * i * (1 - i), R_i) + rows(i * (1 - g * g), R_g)
    c_c = diagonal(f)
    by_c = o * (1 - t * t)
    m_h = rows(by_c, c_h) + rows(t * o * (1 - o), R_o)
    m_c = diagonal(by_c * f)
    if "weight_hr" in w:
        m_h, m_c = w["weight_hr"] @ m_h, w["weight_hr"] @ m_c
    return np.block([[m_h, m_c], [c_h, c_c]])


def gru(v: Values, w: Values) -> np.ndarray:
    """n = tanh(x_n + r k), k = R_n h' + b; h = (1 - z) n + z h'."""
    r, z, n, k, h_prev = v["r"], v["z"], v["n"], v["hn"], v["h_prev"]
    R_r, R_z, R_n = np.split(w["weight_hh"], 3)
    inner = rows(r, R_n) + rows(k * r * (1 - r), R_r)
    return diagonal(z) + rows((h_prev - n) * z * (1 - z), R_z) + rows((1 - z) * (1 - n * n), inner)


def gru_reset_before(v: Values, w: Values) -> np.ndarray:
    """n = tanh(x_n + R_n (r h') + b); h = (1 - z) n + z h'."""
    r, z, n, h_prev = v["r"], v["z"], v["n"], v["h_prev"]
    R_r, R_z, R_n = np.split(w["weight_hh"], 3)
    inner = R_n @ (diagonal(r) + rows(h_prev * r * (1 - r), R_r))
    return diagonal(z) + rows((h_prev - n) * z * (1 - z), R_z) + rows((1 - z) * (1 - n * n), inner)


def rnn_tanh(v: Values, w: Values) -> np.ndarray:
    return rows(1 - v["h"] ** 2, w["weight_hh"])


def rnn_relu(v: Values, w: Values) -> np.ndarray:
    """relu's derivative is taken as 0 at 0; NaN stays NaN."""
    h = v["h"]
    return rows(np.where(np.isnan(h), h, h > 0), w["weight_hh"])


_JACOBIANS: dict[str, Callable[[Values, Values], np.ndarray]] = {
    "lstm": lstm,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
}


def lyapunov_exponents(matrices: np.ndarray) -> np.ndarray:
    """log(singular values of J_T ... J_1) / T, (T, S, S) -> (S,), decreasing.

    The product itself would lose all but its largest directions to rounding. QR decompositions keep them apart: with
    J_t Q = Q' R at every step, the logarithms of |diag R| add up (Benettin et al. 1980). They add up to those of the
    singular values if Q begins as the right singular vectors of the product. So sweeps through the matrices and back
    through their transposes take turns, each beginning where the last one ended (subspace iteration), until two of them
    agree, or three are done and many decompositions. Exponents less than about 1/T apart may then still be mixed, an
    error smaller than their distance.
    """
    q = np.linalg.qr(np.random.default_rng(0).standard_normal(matrices.shape[1:]))[0]
    exponents = np.full(len(q), np.nan)
    for sweep in range(max(3, _ENOUGH_DECOMPOSITIONS // len(matrices))):
        q, total = _sweep(matrices[::-1].transpose(0, 2, 1) if sweep % 2 else matrices, q)
        before, exponents = exponents, np.sort(total / len(matrices))[::-1]
        if np.allclose(exponents, before, rtol=0, atol=_SETTLED):
            break
    return exponents


_ENOUGH_DECOMPOSITIONS = 600
_SETTLED = 1e-6  # nats per step


def _sweep(matrices: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last Q, and the sums of log |diag R|; -inf for a direction of which a step leaves nothing but rounding."""
    total = np.zeros(len(q))
    lost = len(q) * np.finfo(np.float64).eps
    for matrix in matrices:
        q, r = np.linalg.qr(matrix @ q)
        sizes = np.abs(np.diag(r))
        total += np.log(np.where(sizes > lost * sizes.max(), sizes, 0.0))
    return q, total
