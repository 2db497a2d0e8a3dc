"""The gate mathematics of every cell, forward and backward, each formula written once.

The formulas are plain Python over values: they run on Python floats, on SIMD vectors (the CPU kernels) and on CUDA
threads. A cell is a few *stages* a step. A stage multiplies one operand by one packed matrix, and hands every unit
its sums together with whatever else the formula reads at that unit:

    sums = begin values + operand @ matrix
    outputs = finish(*activate(*sums), *values read)

Everything read or written is a *plane*, a (B, units) slab for each step, named in the table at the end. `h_prev` and
`c_prev` are the states before the step; in the backward pass time runs the other way, `dh_next` and `dc_next` are the
gradients handed from the later step to this one, `back` what comes back through the matrix; derivatives are taken from
outputs: σ' = s (1 - s) and tanh' = 1 - t².

Backward formulas also return gradients that only a pass that keeps those of each step writes down: `dc_t`, all that
arrives at the cell state, and `carried`, what arrives at h from the steps after it (`dh_next + back`, without dy).

Sums begin with what is small beside them, biases or 0: each addition rounds at the size of the sum so far, so `dh_next`
and the direct gradient dy, often the largest terms, are added last, and dy behind `carried`: that is what a call hands
to the call on the steps before, so a sequence cut into several has the same gradients.

Sources: LSTM: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; its projection: Sak et al.
2014; GRU: Cho et al. 2014, and the variant of cuDNN and PyTorch that resets after the product; RNN: Elman 1990.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .functions import relu, relu_gradient, sigmoid, tanh

# --- LSTM ------------------------------------------------------------------------------------------------------


def lstm_gates(i, f, g, o):
    return sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)


def lstm(i, f, g, o, c_prev):
    c = f * c_prev + i * g
    h = o * tanh(c)
    return h, c, i, f, g, o


def lstm_backward(back, dy, dh_next, i, f, g, o, c, c_prev, dc_next):
    carried = dh_next + back
    dh = dy + carried
    # h = o * tanh(c)
    t = tanh(c)
    do = dh * t
    dc = dc_next + dh * o * (1.0 - t * t)
    # c = f * c_prev + i * g
    di = dc * g
    df = dc * c_prev
    dg = dc * i
    # the four activations
    di = di * i * (1.0 - i)
    df = df * f * (1.0 - f)
    dg = dg * (1.0 - g * g)
    do = do * o * (1.0 - o)
    return dc * f, di, df, dg, do, dc, carried


# --- GRU, reset after the product (PyTorch, cuDNN) ---------------------------------------------------------------


def gru_gates(xn, r, z, hn):
    return xn, sigmoid(r), sigmoid(z), hn


def gru(xn, r, z, hn, h_prev):
    n = tanh(xn + r * hn)
    h = (1.0 - z) * n + z * h_prev
    return h, n, r, z, hn


def gru_backward(back, dy, dh_next, n, r, z, hn, h_prev):
    carried = dh_next + back
    dh = dy + carried
    # h = (1 - z) * n + z * h_prev
    dn = dh * (1.0 - z)
    dz = dh * (h_prev - n)
    # n = tanh(xn + r * hn)
    dn = dn * (1.0 - n * n)
    dr = dn * hn
    # r, z = sigmoid(...)
    return dh * z, dn, dr * r * (1.0 - r), dz * z * (1.0 - z), dn * r, carried


# --- GRU, reset before the product (Cho et al. 2014) -------------------------------------------------------------


def gru_reset_gates(r, z):
    return sigmoid(r), sigmoid(z)


def gru_reset(r, z, h_prev):
    return r * h_prev, z, r


def gru_candidate(n, z, h_prev):
    n = tanh(n)
    return (1.0 - z) * n + z * h_prev, n


def gru_candidate_backward(back, dy, dh_next, z, n, h_prev):
    carried = dh_next + back
    dh = dy + carried
    # h = (1 - z) * n + z * h_prev
    dz = dh * (h_prev - n)
    # n = tanh(...), z = sigmoid(...)
    return dh * z, dz * z * (1.0 - z), dh * (1.0 - z) * (1.0 - n * n), carried


def gru_reset_backward(dq, r, h_prev, dh_direct):
    # q = r * h_prev, r = sigmoid(...)
    return dh_direct + dq * r, dq * h_prev * r * (1.0 - r)


# --- plain RNN ---------------------------------------------------------------------------------------------------


def rnn_tanh(a):
    return (tanh(a),)


def rnn_tanh_backward(back, dy, dh_next, h):
    carried = dh_next + back
    dh = dy + carried
    return dh * (1.0 - h * h), carried


def rnn_relu(a):
    return (relu(a),)


def rnn_relu_backward(back, dy, dh_next, h):
    carried = dh_next + back
    dh = dy + carried
    return relu_gradient(h, dh), carried


# --- how sums begin, and stages with nothing to do after the product ----------------------------------------------


def same(*values):
    return values


def plus_direct(back, direct):
    return (direct + back,)


def hidden_gradient(back, dy, dh_next):
    carried = dh_next + back
    return dy + carried, carried


# --- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One product and the formula on its sums.

    The matrix is made of the rows of `weight` that belong to `gates`. Forward, each gate is one sum of a unit, and the
    product adds to the last sums, one for each gate. Backward, the gates lie one behind the other along the sum, beside
    the operand's planes, and a unit has one sum.
    `activate` returns as many values as it takes, each of one sum. On CPUs all units of a tile go through it before any
    goes on to `finish`: what is slow in it then waits for nothing.
    The first `always` of `writes` are written in any case, the rest only when a backward pass will follow.
    `finish` returns what goes to `writes`, and then, backward, what goes to `keeps` in a pass that keeps the gradients
    of each step.
    """

    operand: tuple[str, ...]  # planes multiplied, side by side in memory
    weight: str
    gates: tuple[int, ...]
    begins: tuple[str, ...]  # planes that the sums begin with
    reads: tuple[str, ...]
    finish: Callable
    writes: tuple[str, ...]
    always: int
    units: str = "hidden"  # or "output": how many units it has
    keeps: tuple[str, ...] = ()
    activate: Callable = same

    def outputs(self, sums: Sequence, values: Sequence) -> tuple:
        """What the stage makes of a unit's sums and of the values read."""
        return self.finish(*self.activate(*sums), *values)


@dataclass(frozen=True)
class WeightGradient:
    """Gradients of weights, for their rows from gate number `gate` on: (planes, side by side)ᵀ @ operand, summed over
    all steps and the batch, for each of `products` (weight, operand). `biases`: those whose gradients are the sums of
    the planes alone.
    """

    planes: tuple[str, ...]
    gate: int
    products: tuple[tuple[str, str], ...]
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bias:
    """A plane of biases: the sum of the named parameters' rows of one gate."""

    plane: str
    parameters: tuple[str, ...]
    gate: int


@dataclass(frozen=True)
class Cell:
    """One row of the table: everything the loops need to know of a cell."""

    name: str
    gates: int
    has_cell_state: bool
    biases: tuple[Bias, ...]  # the first `gates` of them begin the sums W x, whose gates are theirs
    inputs: tuple[str, ...]  # those sums
    forward: tuple[Stage, ...]
    backward: tuple[Stage, ...]  # the first one's operand comes from the later step
    carries_hidden: bool  # part of dL/dh goes to the earlier step beside the matrix: the stages write `dh_next`
    saved: tuple[str, ...]  # planes of a step's memory, side by side in this order; gradients overwrite values
    input_gradient: tuple[tuple[str, ...], tuple[int, ...]]  # planes towards x, and their gates
    weight_gradients: tuple[WeightGradient, ...]

    @property
    def input_gates(self) -> tuple[int, ...]:
        """The gates that the sums W x belong to."""
        return tuple(bias.gate for bias in self.biases[: self.gates])

    @property
    def keeps_dh(self) -> bool:
        """Whether dL/dh of all steps is kept, in an array of its own: a weight's gradient is made of it at the end."""
        return any(entry.planes == ("dh",) for entry in self.weight_gradients)

    @property
    def takes_x(self) -> bool:
        """Whether the first stage can make the sums W x itself: they are the first of its own sums."""
        stage = self.forward[0]
        return len(stage.gates) == self.gates and stage.begins[: self.gates] == self.inputs


_BOTH = ("bias_ih", "bias_hh")


def _lstm_forward(output):
    return Stage(
        operand=("h_prev",), weight="weight_hh", gates=(0, 1, 2, 3), begins=_LSTM_INPUTS, activate=lstm_gates,
        reads=("c_prev",), finish=lstm, writes=(output, "c", *_IFGO), always=2,
    )  # fmt: skip


def _lstm_backward(operand, weight, gates, dy, dh_next, keeps):
    return Stage(
        operand=operand, weight=weight, gates=gates, begins=("zero",),
        reads=(dy, dh_next, "i", "f", "g", "o", "c", "c_prev", "dc_next"),
        finish=lstm_backward, writes=("dc_next", "i", "f", "g", "o"), always=5, keeps=keeps,
    )  # fmt: skip


_IFGO = ("i", "f", "g", "o")
_LSTM_INPUTS = ("x_i", "x_f", "x_g", "x_o")
_LSTM_BIASES = tuple(Bias(f"b_{name}", _BOTH, gate) for gate, name in enumerate(_IFGO))
_X_AND_H = (("weight_ih", "x"), ("weight_hh", "h_prev"))
_LSTM_WEIGHT_GRADIENT = WeightGradient(_IFGO, 0, _X_AND_H, _BOTH)

LSTM = Cell(
    name="lstm",
    gates=4,
    has_cell_state=True,
    biases=_LSTM_BIASES,
    inputs=_LSTM_INPUTS,
    forward=(_lstm_forward("h"),),
    backward=(_lstm_backward(_IFGO, "weight_hh", (0, 1, 2, 3), "dy", "dh_next", ("dc_t", "carried")),),
    carries_hidden=False,
    saved=_IFGO,
    input_gradient=(_IFGO, (0, 1, 2, 3)),
    weight_gradients=(_LSTM_WEIGHT_GRADIENT,),
)

# h = W_hr m, m = o * tanh(c): the formula is the LSTM's, its output m is multiplied once more
LSTM_PROJECTED = Cell(
    name="lstm_projected",
    gates=4,
    has_cell_state=True,
    biases=_LSTM_BIASES,
    inputs=_LSTM_INPUTS,
    forward=(
        _lstm_forward("m"),
        Stage(
            operand=("m",), weight="weight_hr", gates=(0,), begins=("zero",), units="output",
            reads=(), finish=same, writes=("h",), always=1,
        ),
    ),
    backward=(
        Stage(
            operand=_IFGO, weight="weight_hh", gates=(0, 1, 2, 3), begins=("zero",), units="output",
            reads=("dy", "dh_next"), finish=hidden_gradient, writes=("dh",), always=1, keeps=("carried",),
        ),
        _lstm_backward(("dh",), "weight_hr", (0,), "zero", "zero", ("dc_t",)),
    ),
    carries_hidden=False,
    saved=(*_IFGO, "m"),
    input_gradient=(_IFGO, (0, 1, 2, 3)),
    weight_gradients=(_LSTM_WEIGHT_GRADIENT, WeightGradient(("dh",), 0, (("weight_hr", "m"),))),
)  # fmt: skip

# `hn`, what r multiplies, is saved in the place of the gradient towards R h; n has its own gradient towards W x
GRU = Cell(
    name="gru",
    gates=3,
    has_cell_state=False,
    biases=(
        Bias("b_n", ("bias_ih",), 2),
        Bias("b_r", _BOTH, 0),
        Bias("b_z", _BOTH, 1),
        Bias("b_hn", ("bias_hh",), 2),
    ),
    inputs=("x_n", "x_r", "x_z"),
    forward=(
        Stage(
            operand=("h_prev",), weight="weight_hh", gates=(0, 1, 2), begins=("x_n", "x_r", "x_z", "b_hn"),
            activate=gru_gates, reads=("h_prev",), finish=gru, writes=("h", "n", "r", "z", "hn"), always=1,
        ),
    ),
    backward=(
        Stage(
            operand=("r", "z", "hn"), weight="weight_hh", gates=(0, 1, 2), begins=("zero",),
            reads=("dy", "dh_next", "n", "r", "z", "hn", "h_prev"),
            finish=gru_backward, writes=("dh_next", "n", "r", "z", "hn"), always=5, keeps=("carried",),
        ),
    ),
    carries_hidden=True,
    saved=("n", "r", "z", "hn"),
    input_gradient=(("n", "r", "z"), (2, 0, 1)),
    weight_gradients=(
        WeightGradient(("n",), 2, (("weight_ih", "x"),), ("bias_ih",)),
        WeightGradient(("r", "z"), 0, _X_AND_H, _BOTH),
        WeightGradient(("hn",), 2, (("weight_hh", "h_prev"),), ("bias_hh",)),
    ),
)  # fmt: skip

# q = r * h_prev is multiplied by R_n: a second product within the step
GRU_RESET_BEFORE = Cell(
    name="gru_reset_before",
    gates=3,
    has_cell_state=False,
    biases=(Bias("b_r", _BOTH, 0), Bias("b_z", _BOTH, 1), Bias("b_n", _BOTH, 2)),
    inputs=("x_r", "x_z", "x_n"),
    forward=(
        Stage(
            operand=("h_prev",), weight="weight_hh", gates=(0, 1), begins=("x_r", "x_z"), activate=gru_reset_gates,
            reads=("h_prev",), finish=gru_reset, writes=("q", "z", "r"), always=2,
        ),
        Stage(
            operand=("q",), weight="weight_hh", gates=(2,), begins=("x_n",),
            reads=("z", "h_prev"), finish=gru_candidate, writes=("h", "n"), always=1,
        ),
    ),
    backward=(
        Stage(
            operand=("r", "z"), weight="weight_hh", gates=(0, 1), begins=("zero",),
            reads=("dy", "dh_next", "z", "n", "h_prev"),
            finish=gru_candidate_backward, writes=("dh_next", "z", "n"), always=3, keeps=("carried",),
        ),
        Stage(
            operand=("n",), weight="weight_hh", gates=(2,), begins=("zero",),
            reads=("r", "h_prev", "dh_next"), finish=gru_reset_backward, writes=("dh_next", "r"), always=2,
        ),
    ),
    carries_hidden=True,
    saved=("r", "z", "n", "q"),
    input_gradient=(("r", "z", "n"), (0, 1, 2)),
    weight_gradients=(
        WeightGradient(("r", "z"), 0, _X_AND_H, _BOTH),
        WeightGradient(("n",), 2, (("weight_ih", "x"), ("weight_hh", "q")), _BOTH),
    ),
)  # fmt: skip


def _rnn(name, forward, backward):
    return Cell(
        name=name,
        gates=1,
        has_cell_state=False,
        biases=(Bias("b_a", _BOTH, 0),),
        inputs=("x_a",),
        forward=(
            Stage(
                operand=("h_prev",), weight="weight_hh", gates=(0,), begins=("x_a",),
                reads=(), finish=forward, writes=("h",), always=1,
            ),
        ),
        backward=(
            Stage(
                operand=("a",), weight="weight_hh", gates=(0,), begins=("zero",),
                reads=("dy", "dh_next", "h"), finish=backward, writes=("a",), always=1, keeps=("carried",),
            ),
        ),
        carries_hidden=False,
        saved=("a",),
        input_gradient=(("a",), (0,)),
        weight_gradients=(WeightGradient(("a",), 0, _X_AND_H, _BOTH),),
    )  # fmt: skip


RNN_TANH = _rnn("rnn_tanh", rnn_tanh, rnn_tanh_backward)
RNN_RELU = _rnn("rnn_relu", rnn_relu, rnn_relu_backward)

CELLS = {cell.name: cell for cell in (LSTM, LSTM_PROJECTED, GRU, GRU_RESET_BEFORE, RNN_TANH, RNN_RELU)}


def cell_of(name: str, *, projected: bool) -> Cell:
    """The cell of a layer by the name that users know it by: with a projection, the LSTM is another cell."""
    return CELLS[f"{name}_projected" if projected else name]
