"""The oracle against finite differences, and at its edges. Outside witnesses: test_reference_witnesses.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest

from fastrnn import reference

GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class Case:
    cell: str
    T: int = 3
    B: int = 2
    I: int = 3
    H: int = 5
    P: int = 0
    biases: tuple[str, ...] = ("bias_ih", "bias_hh")
    reverse: bool = False

    def __str__(self) -> str:
        size = f"T{self.T}-B{self.B}-I{self.I}-H{self.H}" + (f"-P{self.P}" if self.P else "")
        return f"{self.cell}-{size}-{'+'.join(self.biases) or 'nobias'}" + ("-reverse" if self.reverse else "")


def problem(case: Case, dtype=np.float64, scale=0.5):
    """Random inputs (x, the initial state, the weights) and upstream gradients (of y and the final state), by name."""
    T, B, I, H, P, G = case.T, case.B, case.I, case.H, case.P, GATES[case.cell]
    R = P or H
    shapes = {"x": (T, B, I), "h_0": (B, R), "weight_ih": (G * H, I), "weight_hh": (G * H, R)}
    shapes |= {name: (G * H,) for name in case.biases}
    upstream = {"y": (T, B, R), "h_n": (B, R)}
    if case.cell == "lstm":
        shapes["c_0"], upstream["c_n"] = (B, H), (B, H)
    if P:
        shapes["weight_hr"] = (P, H)
    rng = np.random.default_rng(1)
    inputs = {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}
    inputs |= {name: None for name in ("bias_ih", "bias_hh") if name not in case.biases}
    return inputs, {name: rng.standard_normal(shape).astype(dtype) for name, shape in upstream.items()}


def forward(case: Case, inputs):
    state = tuple(inputs[name] for name in ("h_0", "c_0") if name in inputs)
    weights = {name: array for name, array in inputs.items() if name not in ("x", "h_0", "c_0")}
    y, state_n, saved = reference.forward(case.cell, inputs["x"], state, weights, reverse=case.reverse)
    return dict(zip(("y", "h_n", "c_n"), (y, *state_n), strict=False)), saved


def backward(saved, upstream):
    dstate = tuple(upstream[name] for name in ("h_n", "c_n") if name in upstream)
    dx, dstate_0, dweights = reference.backward(saved, upstream["y"], dstate)
    return {"x": dx, **dict(zip(("h_0", "c_0"), dstate_0, strict=False)), **dweights}


def run(case: Case, inputs, upstream):
    """The outputs and the gradients of the inputs, by name."""
    outputs, saved = forward(case, inputs)
    return outputs, backward(saved, upstream)


def arrays(named):
    return {name: array for name, array in named.items() if array is not None}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in arrays(expected).items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


DIFFERENCED = [
    replace(base, biases=biases, reverse=reverse)
    for base in [*map(Case, reference.CELLS), Case("lstm", P=2)]
    for biases in [("bias_ih", "bias_hh"), ()]
    for reverse in [False, True]
]
for _cell in reference.CELLS:
    DIFFERENCED += [
        Case(_cell, T=1, B=1, I=1, H=1),
        Case(_cell, T=1, B=3, I=2, H=4, biases=("bias_ih",)),
        Case(_cell, T=4, B=1, I=5, H=2, biases=("bias_hh",), reverse=True),
    ]
DIFFERENCED += [Case("lstm", T=4, B=1, I=1, H=3, P=1), Case("lstm", T=2, B=3, I=1, H=4, P=3, reverse=True)]


@pytest.mark.parametrize("case", DIFFERENCED, ids=str)
def test_gradients_match_finite_differences(case):
    inputs, upstream = problem(case)
    _, gradients = run(case, inputs, upstream)

    def loss():
        outputs, _ = forward(case, inputs)
        return sum(np.vdot(upstream[name], outputs[name]) for name in outputs)

    assert gradients.keys() == inputs.keys()
    step = 1e-5
    for name, array in inputs.items():
        if array is None:
            assert gradients[name] is None, name
            continue
        differences = np.empty_like(array)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            above = loss()
            array[index] = value - step
            differences[index] = (above - loss()) / (2 * step)
            array[index] = value
        largest = np.abs(differences).max()
        assert largest > 1e-3, f"{name}: too small a gradient to test"
        np.testing.assert_allclose(gradients[name], differences, rtol=1e-6, atol=1e-8 * largest, err_msg=name)


ONE_EACH = [*(Case(cell, T=5, B=3, I=4, H=6) for cell in reference.CELLS), Case("lstm", T=5, B=3, I=4, H=6, P=2)]
each_cell = pytest.mark.parametrize("case", ONE_EACH, ids=str)


@each_cell
def test_reverse_is_the_forward_direction_on_reversed_time(case):
    inputs, upstream = problem(case)
    outputs, gradients = run(replace(case, reverse=True), inputs, upstream)
    flipped_outputs, flipped_gradients = run(
        case, inputs | {"x": inputs["x"][::-1]}, upstream | {"y": upstream["y"][::-1]}
    )
    assert_same(outputs, flipped_outputs | {"y": flipped_outputs["y"][::-1]})
    assert_same(gradients, flipped_gradients | {"x": flipped_gradients["x"][::-1]})


@each_cell
def test_no_steps_pass_the_state_through(case):
    case = replace(case, T=0)
    inputs, upstream = problem(case)
    outputs, gradients = run(case, inputs, upstream)
    states = {"h_n": inputs["h_0"]} | ({"c_n": inputs["c_0"]} if "c_0" in inputs else {})
    assert_same(outputs, {"y": np.empty((0, case.B, case.P or case.H)), **states})
    dstates = {"h_0": upstream["h_n"]} | ({"c_0": upstream["c_n"]} if "c_0" in inputs else {})
    assert_same(gradients, {name: np.zeros_like(array) for name, array in inputs.items()} | dstates)
    assert not np.shares_memory(outputs["h_n"], inputs["h_0"])


@each_cell
def test_an_empty_batch_gives_empty_outputs_and_zero_weight_gradients(case):
    case = replace(case, B=0)
    inputs, upstream = problem(case)
    outputs, gradients = run(case, inputs, upstream)
    assert_same(outputs, upstream)
    assert_same(gradients, {name: np.zeros_like(array) for name, array in inputs.items()})


@each_cell
def test_float32_stays_float32_and_near_float64(case):
    case = replace(case, T=20)
    inputs, upstream = problem(case, np.float32, scale=0.3)
    wide = [{name: array.astype(np.float64) for name, array in named.items()} for named in (inputs, upstream)]
    for single, double in zip(run(case, inputs, upstream), run(case, *wide), strict=True):
        for name, array in single.items():
            assert array.dtype == np.float32, name
            assert double[name].dtype == np.float64, name
            tolerance = 2e-6 * np.abs(double[name]).max()
            np.testing.assert_allclose(array, double[name], rtol=0, atol=tolerance, err_msg=name)


@each_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.filterwarnings("error")
def test_nan_reaches_its_own_row_and_no_other(case, reverse):
    case = replace(case, reverse=reverse)
    inputs, upstream = problem(case)
    clean_outputs, clean_gradients = run(case, inputs, upstream)
    row, others, start = 1, [0, 2], 2
    inputs["x"][start, row, 0] = np.nan
    with np.errstate(all="raise"):
        outputs, gradients = run(case, inputs, upstream)

    later = slice(start, None, -1) if reverse else slice(start, None)
    earlier = slice(start + 1, None) if reverse else slice(0, start)
    assert np.isnan(outputs["y"][later, row]).all()
    np.testing.assert_array_equal(outputs["y"][earlier, row], clean_outputs["y"][earlier, row])
    np.testing.assert_array_equal(outputs["y"][:, others], clean_outputs["y"][:, others])
    np.testing.assert_array_equal(gradients["x"][:, others], clean_gradients["x"][:, others])
    for name, clean in [*clean_outputs.items(), *clean_gradients.items()]:
        if name in ("h_n", "c_n", "h_0", "c_0"):
            got = (outputs | gradients)[name]
            np.testing.assert_array_equal(got[others], clean[others], err_msg=name)
            if case.cell != "rnn_relu" or name == "h_n":  # relu's derivative does not multiply by the NaN
                assert np.isnan(got[row]).all(), name
    assert np.isnan(gradients["weight_ih"]).any()


@each_cell
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.filterwarnings("error")
def test_saturated_inputs_stay_finite(case, dtype):
    inputs, upstream = problem(case, dtype)
    inputs["x"] = np.where(inputs["x"] < 0, dtype(-1e4), dtype(1e4))
    with np.errstate(all="raise"):
        outputs, gradients = run(case, inputs, upstream)
    for name, array in [*outputs.items(), *gradients.items()]:
        assert np.isfinite(array).all(), name


@each_cell
@pytest.mark.filterwarnings("error")
def test_infinities_give_ieee_values_without_warnings(case):
    inputs, upstream = problem(case)
    inputs["x"][1, 0] = np.inf
    inputs["x"][2, 1, 0] = -np.inf
    with np.errstate(all="raise"):
        outputs, _ = run(case, inputs, upstream)
    assert np.isfinite(outputs["y"][:, 2]).all()
    if case.cell == "rnn_relu":
        assert not np.isfinite(outputs["y"][1, 0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_sigmoid_is_accurate_in_both_tails(dtype):
    points = [-740.0, -709.5, -300.0, -103.0, -88.8, -88.0, -20.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 20.0, 88.0, 740.0]
    exact = [1 / (1 + (-Decimal(float(dtype(x)))).exp()) for x in points]
    info = np.finfo(dtype)
    for x, got, value in zip(points, reference.sigmoid(np.array(points, dtype)), exact, strict=True):
        assert got.dtype == dtype
        error = abs(Decimal(float(got)) - value)
        assert error <= 3 * Decimal(float(info.eps)) * value + Decimal(float(info.smallest_subnormal)), x
    limits = reference.sigmoid(np.array([-np.inf, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(limits, np.array([0, 1, np.nan], dtype))


def test_relu_passes_nan_on_and_has_zero_gradient_at_zero():
    np.testing.assert_array_equal(reference.relu(np.array([np.nan, -1.0, 0.0, 2.0])), [np.nan, 0, 0, 2])
    case = Case("rnn_relu", biases=())
    inputs, upstream = problem(case)
    zeros = {name: np.zeros_like(inputs[name]) for name in ("x", "h_0")}
    _, gradients = run(case, inputs | zeros, upstream)
    assert_same(gradients, {name: None if array is None else np.zeros_like(array) for name, array in inputs.items()})


def test_the_published_gru_resets_the_state_and_pytorchs_the_product():
    """By hand, one unit: x = 0, h' = 1, r = σ(0) = 1/2, z = σ(0) = 1/2, R_n = 2, b_hn = 1."""
    weights = {
        "weight_ih": np.zeros((3, 1)),
        "weight_hh": np.array([[0.0], [0.0], [2.0]]),
        "bias_ih": None,
        "bias_hh": np.array([0.0, 0.0, 1.0]),
    }
    for cell, a_n in [("gru", 0.5 * (2 * 1 + 1)), ("gru_reset_before", 2 * (0.5 * 1) + 1)]:
        y, _, _ = reference.forward(cell, np.zeros((1, 1, 1)), (np.ones((1, 1)),), weights)
        assert y.item() == pytest.approx(0.5 * math.tanh(a_n) + 0.5, rel=1e-15), cell


@each_cell
def test_arguments_are_left_alone_and_may_change_before_backward(case):
    inputs, upstream = problem(case)
    _, expected = run(case, inputs, upstream)
    for array in [*inputs.values(), *upstream.values()]:
        array.flags.writeable = False
    outputs, saved = forward(case, inputs)
    for array in inputs.values():
        array.flags.writeable = True
    for array in [*inputs.values(), *outputs.values()]:
        array[:] = np.nan
    assert_same(backward(saved, upstream), expected)
    assert_same(backward(saved, upstream), expected)


REJECTED = [
    # id, name, replacement, error, message
    ("half", "x", np.zeros((3, 2, 3), np.float16), TypeError, r"x: expected float32 or float64, got float16"),
    ("two-dimensions", "x", np.zeros((2, 3)), ValueError, r"x: expected 3 dimensions \(T, B, I\), got \(2, 3\)"),
    ("mixed-dtype", "weight_hh", np.zeros((20, 5), np.float32), TypeError, r"weight_hh: expected float64, got float32"),
    ("broadcast-state", "h_0", np.zeros((1, 5)), ValueError, r"h_0: expected \(2, 5\), got \(1, 5\)"),
    ("no-cell-state", "c_0", None, ValueError, r"\(h_0, c_0\): expected 2 arrays, got 1"),
    ("broadcast-bias", "bias_ih", np.zeros(1), ValueError, r"bias_ih: expected \(20,\), got \(1,\)"),
    ("gates", "weight_ih", np.zeros((15, 3)), ValueError, r"weight_ih: expected \(12, 3\), got \(15, 3\)"),
    ("typo", "bias_hi", np.zeros(20), ValueError, r"weights: expected names among .*, got bias_hi"),
]


@pytest.mark.parametrize(
    ("name", "value", "error", "message"), [row[1:] for row in REJECTED], ids=[row[0] for row in REJECTED]
)
def test_forward_rejects(name, value, error, message):
    inputs, _ = problem(Case("lstm"))
    inputs[name] = value
    if name == "c_0":
        del inputs[name]
    with pytest.raises(error, match=message):
        forward(Case("lstm"), inputs)


def test_an_unknown_cell_and_a_projected_gru_are_rejected():
    inputs, _ = problem(Case("gru"))
    with pytest.raises(ValueError, match=r"cell: expected one of lstm, gru, .*, got 'elman'"):
        forward(Case("elman"), inputs)
    with pytest.raises(ValueError, match="weight_hr: only the LSTM has a projection"):
        forward(Case("gru"), inputs | {"weight_hr": np.zeros((2, 5))})


def test_backward_rejects_a_gradient_that_would_broadcast():
    inputs, upstream = problem(Case("gru"))
    _, saved = forward(Case("gru"), inputs)
    with pytest.raises(ValueError, match=r"dy: expected \(3, 2, 5\), got \(1, 2, 5\)"):
        backward(saved, upstream | {"y": upstream["y"][:1]})
    with pytest.raises(TypeError, match="dh_n: expected float64, got float32"):
        backward(saved, upstream | {"h_n": upstream["h_n"].astype(np.float32)})
