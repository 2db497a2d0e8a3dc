"""The oracle: one layer, one direction of every cell, forward and backward, in plain NumPy.

It is written to be read beside the papers and to judge the kernels, so it shares no code with them. Every operation
runs in the dtype of `x` (float32 or float64) and follows IEEE: NaN and inf go where the arithmetic takes them, without
warnings.

Shapes: `T` steps, `B` batch, `I` inputs, `H` hidden units, `P` projection size, `G` gates (RNN 1, GRU 3, LSTM 4), and
`R`, the width of h: `P` with projection, else `H`. In the step functions a prime marks the previous step's value
(h' is `h_prev`), `a` is a gate's input before its activation, and `d` stands for the loss's gradient: `dc` is ∂loss/∂c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

CELLS = ("lstm", "gru", "gru_reset_before", "rnn_tanh", "rnn_relu")

Array = np.ndarray
State = tuple[Array, ...]  # (h,), each (B, R); for the LSTM (h, c), with c (B, H)
Gradients = dict[str, Array]


@dataclass(frozen=True)
class Weights:
    """One layer and direction, with PyTorch's names, shapes and gate orders (LSTM i f g o, GRU r z n)."""

    weight_ih: Array  # (G*H, I)
    weight_hh: Array  # (G*H, R)
    bias_ih: Array | None = None  # (G*H,)
    bias_hh: Array | None = None  # (G*H,)
    weight_hr: Array | None = None  # (P, H), the projected LSTM's only


@dataclass(frozen=True)
class Saved:
    """What `backward` needs from `forward`. All copies: the caller may change its arrays in between."""

    cell: str
    weights: Weights
    names: tuple[str, ...]  # the keys of the mapping that `forward` was given
    shape: tuple[int, int, int, int]  # T, B, I, R
    state_shapes: tuple[tuple[int, int], ...]
    dtype: np.dtype
    steps: tuple[tuple[int, State], ...]  # (t, the values its step kept), in the order they ran


def forward(
    cell: str, x: Array, state: State, weights: Mapping[str, Array | None], *, reverse: bool = False
) -> tuple[Array, State, Saved]:
    """Run one layer in one direction.

    x        (T, B, I)
    state    (h_0,), or (h_0, c_0) for the LSTM: h_0 (B, R), c_0 (B, H)
    weights  weight_ih (G*H, I), weight_hh (G*H, R), bias_ih and bias_hh (G*H,) or None; projected: weight_hr (P, H)
    reverse  go from t = T-1 down to 0; y[t] is still the output at t, and state_n the state after t = 0

    Returns y (T, B, R), state_n (shaped as `state`) and what `backward` takes. All are new arrays.
    """
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
    dtype = x.dtype
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"x: expected float32 or float64, got {dtype}")
    if x.ndim != 3:
        raise ValueError(f"x: expected 3 dimensions (T, B, I), got {x.shape}")
    T, B, I = x.shape
    x = _checked("x", x, x.shape, dtype)
    w = _checked_weights(cell, weights, I, dtype)
    state_shapes = _state_shapes(cell, w, B)
    state = _checked_state(("h_0", "c_0"), state, state_shapes, dtype)
    step, _ = STEPS[cell]

    R = state_shapes[0][1]
    y = np.empty((T, B, R), dtype)
    steps = []
    with np.errstate(all="ignore"):
        for t in reversed(range(T)) if reverse else range(T):
            state, kept = step(x[t], state, w)
            y[t] = state[0]
            steps.append((t, kept))
    saved = Saved(cell, w, tuple(weights), (T, B, I, R), state_shapes, dtype, tuple(steps))
    return y, tuple(s.copy() for s in state), saved


def backward(saved: Saved, dy: Array, dstate: State) -> tuple[Array, State, dict[str, Array | None]]:
    """Backpropagate through the run of `forward` that returned `saved`.

    dy      (T, B, R), the gradient of y
    dstate  the gradients of the final states, shaped as state_n

    Returns dx (T, B, I), the gradients of the initial states, and those of the weights under the names given to
    `forward` (None where the weight was None).
    """
    T, B, I, R = saved.shape
    dy = _checked("dy", dy, (T, B, R), saved.dtype)
    dstate = _checked_state(("dh_n", "dc_n"), dstate, saved.state_shapes, saved.dtype)
    _, step_backward = STEPS[saved.cell]

    dx = np.empty((T, B, I), saved.dtype)
    arrays = {name: getattr(saved.weights, name) for name in saved.names}
    dweights = {name: None if array is None else np.zeros_like(array) for name, array in arrays.items()}
    with np.errstate(all="ignore"):
        for t, kept in reversed(saved.steps):
            dstate = (dstate[0] + dy[t], *dstate[1:])
            dx[t], dstate, dw = step_backward(kept, dstate, saved.weights)
            for name, total in dweights.items():
                if total is not None:
                    total += dw[name]
    return dx, dstate, dweights


# Activations. Their derivatives take the output: tanh'(a) = 1 - tanh(a)².


def sigmoid(a: Array) -> Array:
    """σ(a) = 1 / (1 + exp(-a)), arranged so that exp cannot overflow: exact limits, full accuracy in both tails."""
    e = np.exp(-np.abs(a))
    return np.where(a < 0, e, np.ones_like(e)) / (1 + e)


def dsigmoid(s: Array) -> Array:
    return s * (1 - s)


def dtanh(t: Array) -> Array:
    return 1 - t * t


def relu(a: Array) -> Array:
    """max(a, 0); relu(NaN) = NaN."""
    return np.maximum(a, np.zeros_like(a))


def tanh_backward(t: Array, dt: Array) -> Array:
    return dt * dtanh(t)


def relu_backward(r: Array, dr: Array) -> Array:
    """Zero where relu's output r is 0, else dr. A NaN output passes dr on, as in PyTorch."""
    return np.where(r <= 0, np.zeros_like(dr), dr)


# The linear map in every cell.


def affine(weight: Array, u: Array, bias: Array | None) -> Array:
    """W u + b for each row: weight (N, K), u (B, K), bias (N,) or None -> (B, N)."""
    a = u @ weight.T
    return a if bias is None else a + bias


def affine_backward(weight: Array, u: Array, da: Array) -> tuple[Array, Array, Array]:
    """From da (B, N): du (B, K), dweight (N, K), dbias (N,)."""
    return da @ weight, da.T @ u, da.sum(axis=0)


# One step of each cell: x (B, I) and the previous state in; the new state and the values kept for backward out.
# Backward: those values and the gradients of the new state in; out come dx (B, I), the gradients of the previous state,
# and this step's part of each weight's gradient. Each numbered comment there is the forward step it inverts.


def lstm_step(x: Array, state: State, w: Weights) -> tuple[State, State]:
    """Hochreiter & Schmidhuber (1997), with Gers's forget gate (2000) and, given W_hr, the projection of Sak (2014)."""
    h_prev, c_prev = state
    # 1: a = W x + b_ih + R h' + b_hh
    a = affine(w.weight_ih, x, w.bias_ih) + affine(w.weight_hh, h_prev, w.bias_hh)
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    # 2: the gates
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    # 3: the cell
    c = f * c_prev + i * g
    # 4: the output
    tanh_c = np.tanh(c)
    m = o * tanh_c
    # 5: the projection, if there is one
    h = m if w.weight_hr is None else affine(w.weight_hr, m, None)
    return (h, c), (x, h_prev, c_prev, i, f, g, o, tanh_c, m)


def lstm_step_backward(kept: State, dstate: State, w: Weights) -> tuple[Array, State, Gradients]:
    x, h_prev, c_prev, i, f, g, o, tanh_c, m = kept
    dh, dc = dstate
    dw = {}
    # 5: h = W_hr m
    dm = dh
    if w.weight_hr is not None:
        dm, dw["weight_hr"], _ = affine_backward(w.weight_hr, m, dh)
    # 4: m = o * tanh(c)
    do = dm * tanh_c
    dc = dc + dm * o * dtanh(tanh_c)
    # 3: c = f * c' + i * g
    df = dc * c_prev
    dc_prev = dc * f
    di = dc * g
    dg = dc * i
    # 2: i, f, g, o = σ(a_i), σ(a_f), tanh(a_g), σ(a_o)
    da = np.concatenate((di * dsigmoid(i), df * dsigmoid(f), dg * dtanh(g), do * dsigmoid(o)), axis=1)
    # 1: a = W x + b_ih + R h' + b_hh
    dx, dw["weight_ih"], dw["bias_ih"] = affine_backward(w.weight_ih, x, da)
    dh_prev, dw["weight_hh"], dw["bias_hh"] = affine_backward(w.weight_hh, h_prev, da)
    return dx, (dh_prev, dc_prev), dw


def gru_step(reset_after: bool, x: Array, state: State, w: Weights) -> tuple[State, State]:
    """Cho (2014), where r scales h' itself, as ONNX does by default; with `reset_after`, as PyTorch and cuDNN, r scales
    the product R_n h' + b_hn.
    """
    (h_prev,) = state
    R_rz, R_n, b_rz, b_n = _split_recurrent(w)
    # 1: the gates r, z = σ(W x + b_ih + R h' + b_hh)
    a_r, a_z, a_n = np.split(affine(w.weight_ih, x, w.bias_ih), 3, axis=1)
    q_r, q_z = np.split(affine(R_rz, h_prev, b_rz), 2, axis=1)
    r, z = sigmoid(a_r + q_r), sigmoid(a_z + q_z)
    # 2: the candidate
    q_n = affine(R_n, h_prev if reset_after else r * h_prev, b_n)
    n = np.tanh(a_n + (r * q_n if reset_after else q_n))
    # 3: the output
    h = (1 - z) * n + z * h_prev
    return (h,), (x, h_prev, r, z, n, q_n)


def gru_step_backward(reset_after: bool, kept: State, dstate: State, w: Weights) -> tuple[Array, State, Gradients]:
    x, h_prev, r, z, n, q_n = kept
    (dh,) = dstate
    R_rz, R_n, _, _ = _split_recurrent(w)
    dw = {}
    # 3: h = (1 - z) * n + z * h'
    dn = dh * (1 - z)
    dz = dh * (h_prev - n)
    dh_prev = dh * z
    da_n = dn * dtanh(n)
    if reset_after:
        # 2: n = tanh(a_n + r * q_n), q_n = R_n h' + b_hn
        dr = da_n * q_n
        dh_from_n, dR_n, db_n = affine_backward(R_n, h_prev, da_n * r)
    else:
        # 2: n = tanh(a_n + q_n), q_n = R_n (r * h') + b_hn
        drh, dR_n, db_n = affine_backward(R_n, r * h_prev, da_n)
        dr = drh * h_prev
        dh_from_n = drh * r
    # 1: r, z = σ(W x + b_ih + R h' + b_hh)
    da_rz = np.concatenate((dr * dsigmoid(r), dz * dsigmoid(z)), axis=1)
    dh_from_rz, dR_rz, db_rz = affine_backward(R_rz, h_prev, da_rz)
    dx, dw["weight_ih"], dw["bias_ih"] = affine_backward(w.weight_ih, x, np.concatenate((da_rz, da_n), axis=1))
    dw["weight_hh"], dw["bias_hh"] = np.concatenate((dR_rz, dR_n)), np.concatenate((db_rz, db_n))
    return dx, (dh_prev + dh_from_n + dh_from_rz,), dw


def _split_recurrent(w: Weights) -> tuple[Array, Array, Array | None, Array | None]:
    """The GRU's recurrent weights and biases: of the gates r z, (2H, H) and (2H,), and of n, (H, H) and (H,)."""
    R, b, H = w.weight_hh, w.bias_hh, w.weight_hh.shape[1]
    return R[: 2 * H], R[2 * H :], None if b is None else b[: 2 * H], None if b is None else b[2 * H :]


def rnn_step(activation: Callable[[Array], Array], x: Array, state: State, w: Weights) -> tuple[State, State]:
    """Elman (1990): h = activation(W x + b_ih + R h' + b_hh)."""
    (h_prev,) = state
    h = activation(affine(w.weight_ih, x, w.bias_ih) + affine(w.weight_hh, h_prev, w.bias_hh))
    return (h,), (x, h_prev, h)


def rnn_step_backward(
    activation_backward: Callable[[Array, Array], Array], kept: State, dstate: State, w: Weights
) -> tuple[Array, State, Gradients]:
    x, h_prev, h = kept
    (dh,) = dstate
    dw = {}
    # h = activation(a), a = W x + b_ih + R h' + b_hh
    da = activation_backward(h, dh)
    dx, dw["weight_ih"], dw["bias_ih"] = affine_backward(w.weight_ih, x, da)
    dh_prev, dw["weight_hh"], dw["bias_hh"] = affine_backward(w.weight_hh, h_prev, da)
    return dx, (dh_prev,), dw


Step = Callable[[Array, State, Weights], tuple[State, State]]
StepBackward = Callable[[State, State, Weights], tuple[Array, State, Gradients]]
STEPS: dict[str, tuple[Step, StepBackward]] = {
    "lstm": (lstm_step, lstm_step_backward),
    "gru": (partial(gru_step, True), partial(gru_step_backward, True)),
    "gru_reset_before": (partial(gru_step, False), partial(gru_step_backward, False)),
    "rnn_tanh": (partial(rnn_step, np.tanh), partial(rnn_step_backward, tanh_backward)),
    "rnn_relu": (partial(rnn_step, relu), partial(rnn_step_backward, relu_backward)),
}
GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _checked(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """A copy of `array`, once its dtype and shape are what they must be: NumPy would cast and broadcast silently."""
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {array.shape}")
    return array.copy()


def _checked_weights(cell: str, weights: Mapping[str, Array | None], I: int, dtype: np.dtype) -> Weights:
    weight_ih, weight_hr = weights["weight_ih"], weights.get("weight_hr")
    if weight_ih is None or weights["weight_hh"] is None:
        raise ValueError("weight_ih and weight_hh: expected arrays, got None")
    if weight_hr is not None and cell != "lstm":
        raise ValueError(f"weight_hr: only the LSTM has a projection, got one for {cell}")
    G = GATES[cell]
    H = weight_ih.shape[0] // G
    R = H if weight_hr is None else weight_hr.shape[0]
    shapes = {
        "weight_ih": (G * H, I),
        "weight_hh": (G * H, R),
        "bias_ih": (G * H,),
        "bias_hh": (G * H,),
        "weight_hr": (R, H),
    }
    if unknown := set(weights) - set(shapes):
        raise ValueError(f"weights: expected names among {', '.join(shapes)}, got {', '.join(sorted(unknown))}")
    return Weights(**{name: _checked(name, w, shapes[name], dtype) for name, w in weights.items() if w is not None})


def _state_shapes(cell: str, w: Weights, B: int) -> tuple[tuple[int, int], ...]:
    h = (B, w.weight_hh.shape[1])
    return (h, (B, w.weight_hh.shape[0] // GATES[cell])) if cell == "lstm" else (h,)


def _checked_state(names: tuple[str, ...], state: State, shapes: tuple[tuple[int, int], ...], dtype: np.dtype) -> State:
    names = names[: len(shapes)]
    if len(state) != len(shapes):
        raise ValueError(f"({', '.join(names)}): expected {len(shapes)} arrays, got {len(state)}")
    return tuple(_checked(*named, dtype) for named in zip(names, state, shapes, strict=True))
