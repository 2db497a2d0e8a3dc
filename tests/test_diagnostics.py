"""`fastrnn.diagnostics` but for the flow of gradients: against finite differences, the reference, and known cases."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import KINDS, as_state, make_layer, random_problem

import fastrnn
from fastrnn import diagnostics, reference
from fastrnn.blas import one_thread
from fastrnn.diagnostics import (
    consistency,
    first_nan,
    gate_statistics,
    gradient_flow,
    jacobian,
    jacobians,
    per_step_weight_gradients,
    self_check,
    sensitivity,
)

every_kind = pytest.mark.parametrize("kind", KINDS)
# which layer and direction of one with two of each
each_part = pytest.mark.parametrize(("layer_index", "direction"), [(0, 0), (0, 1), (1, 0), (1, 1)])


def deep(kind, H=5, dtype="float64", T=6, B=3):
    layer = make_layer(kind, 4, H, num_layers=2, bidirectional=True, dtype=dtype)
    return layer, random_problem(layer, T, B)


# Jacobians


@every_kind
@each_part
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_diagnostics_agree_with_each_other(kind, layer_index, direction, dtype):
    layer, problem = deep(kind, dtype=dtype)
    part = {"row": 1, "layer_index": layer_index, "direction": direction}
    report = self_check(layer, problem.x, as_state(problem.state), **part)
    assert report.ok, str(report)
    names = [quantity.name for quantity in report.quantities]
    assert names[:3] == ["jacobian, backward", "jacobian, differences", "carried"]
    suffix = f"_l{layer_index}{'_reverse' * direction}"
    own = [name for name in layer.parameters if name.endswith(suffix)]
    assert names[3:] == [f"d{name}, sum of steps" for name in own]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_self_check_fails_where_a_formula_is_wrong(kind, monkeypatch):
    layer, problem = deep(kind)
    right = jacobian._JACOBIANS[kind]
    monkeypatch.setitem(
        jacobian._JACOBIANS, kind, lambda v, w: right(v | {"h_prev": 0.99 * v["h_prev"]}, w) * (1 + 1e-6)
    )
    failed = {quantity.name for quantity in self_check(layer, problem.x, as_state(problem.state)).failed}
    assert failed == {"jacobian, backward", "jacobian, differences", "carried"}
    monkeypatch.undo()
    by_step = consistency._by_step
    monkeypatch.setattr(consistency, "_by_step", lambda *a: {k: v[1:] for k, v in by_step(*a).items()})
    failed = self_check(layer, problem.x, as_state(problem.state)).failed
    assert {quantity.name for quantity in failed} == {f"d{name}, sum of steps" for name in list(layer.parameters)[:4]}


@every_kind
@each_part
def test_jacobians_are_those_of_the_reference_by_differences(kind, layer_index, direction):
    """One step of the reference, moved by a little in every entry of its state."""
    layer, problem = deep(kind)
    part = {"row": 2, "layer_index": layer_index, "direction": direction}
    found = jacobians(layer, problem.x, as_state(problem.state), **part)
    x, states = problem.x, problem.state
    for index in range(layer_index):
        x, _, _ = layer.sequences[index].forward(x, tuple(s[2 * index : 2 * index + 2] for s in states), save=False)
    weights = layer.sequences[layer_index].parameters.directions[direction]
    x = x[::-1, 2:3] if direction else x[:, 2:3]
    state = tuple(s[2 * layer_index + direction, 2:3] for s in states)
    widths = np.cumsum([s.shape[1] for s in state])
    for t in range(len(x)):

        def after(flat, t=t):
            split = tuple(part[None] for part in np.split(flat, widths[:-1]))
            _, final, _ = reference.forward(layer.cell, x[t : t + 1], split, weights)
            return np.concatenate([s[0] for s in final])

        flat, step = np.concatenate([s[0] for s in state]), 1e-5
        moves = step * np.eye(len(flat))
        differences = np.stack([(after(flat + m) - after(flat - m)) / (2 * step) for m in moves], axis=1)
        np.testing.assert_allclose(found.matrices[t], differences, rtol=0, atol=1e-8)
        state = tuple(part[None] for part in np.split(after(flat), widths[:-1]))
    assert found.matrices.shape == (len(x), widths[-1], widths[-1])
    eigenvalues = [np.abs(np.linalg.eigvals(matrix)).max() for matrix in found.matrices]
    np.testing.assert_allclose(found.spectral_radius, eigenvalues, rtol=1e-12)
    np.testing.assert_allclose(found.largest_singular_value, [np.linalg.norm(m, 2) for m in found.matrices], rtol=1e-12)


@every_kind
def test_their_product_takes_the_last_gradient_to_the_initial_state(kind):
    layer = make_layer(kind, 4, 6, dtype="float64")
    problem = random_problem(layer, 9, 1)
    product = np.linalg.multi_dot(jacobians(layer, problem.x, as_state(problem.state)).matrices[::-1])
    _, backward = layer.vjp(problem.x, as_state(problem.state))
    gradient = backward(None, as_state(problem.dstate)).state
    flat = np.concatenate([s.ravel() for s in problem.dstate])
    found = np.concatenate([s.ravel() for s in (gradient if isinstance(gradient, tuple) else (gradient,))])
    np.testing.assert_allclose(found, flat @ product, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.2])
def test_a_scaled_orthogonal_rnn_has_one_exponent(scale):
    layer = fastrnn.RNN(2, 8, bias=False, dtype="float64")
    layer.parameters["weight_hh_l0"][...] = scale * np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    found = jacobians(layer, np.zeros((30, 2)))
    np.testing.assert_allclose(found.spectral_radius, scale, rtol=1e-12)
    np.testing.assert_allclose(found.largest_singular_value, scale, rtol=1e-12)
    np.testing.assert_allclose(found.lyapunov_exponents, math.log(scale), atol=1e-12)


def test_the_spectral_radius_misleads_where_a_jacobian_is_not_normal():
    """Its eigenvalues are all 0.5; what it does to a vector in a few steps is another matter."""
    layer = fastrnn.RNN(2, 8, bias=False, dtype="float64")
    layer.parameters["weight_hh_l0"][...] = 0.5 * np.eye(8) + 2 * np.diag(np.ones(7), 1)
    few, many = (jacobians(layer, np.zeros((T, 2))) for T in (4, 400))
    assert few.spectral_radius == pytest.approx([0.5] * 4, abs=0.05)  # rounding moves defective eigenvalues far
    assert few.lyapunov_exponents[0] > math.log(2)
    assert math.log(0.5) < many.lyapunov_exponents[0] < 0
    flow = gradient_flow(layer, np.zeros((5, 2)))
    assert flow.hidden[0, 0] > flow.hidden[0, -1]


def test_exponents_are_the_singular_values_of_the_product():
    rng = np.random.default_rng(0)
    matrices = np.eye(5) * 0.8 + 0.15 * rng.standard_normal((30, 5, 5))
    singular = np.linalg.svd(np.linalg.multi_dot(matrices[::-1]), compute_uv=False)
    np.testing.assert_allclose(jacobian.lyapunov_exponents(matrices), np.log(singular) / 30, atol=1e-5)
    for T in (1, 2, 5):  # few steps: nothing has come apart yet
        singular = np.linalg.svd(np.linalg.multi_dot([np.eye(5), *matrices[T - 1 :: -1]]), compute_uv=False)
        np.testing.assert_allclose(jacobian.lyapunov_exponents(matrices[:T]), np.log(singular) / T, atol=1e-3)
    # the product of these has lost all but the first direction to rounding
    diagonal = np.diag([10.0, 1.0, 1e-3]) * np.ones((100, 1, 1))
    np.testing.assert_allclose(jacobian.lyapunov_exponents(diagonal), np.log([10, 1, 1e-3]), atol=1e-12)


def test_directions_that_are_lost_have_an_exponent_of_minus_infinity():
    layer = fastrnn.RNN(2, 4, nonlinearity="relu", dtype="float64", seed=0)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        layer.parameters[name][:] = [5, 5, -50, 5]
    found = jacobians(layer, np.zeros((10, 2)))
    assert found.lyapunov_exponents[-1] == -np.inf
    assert np.isfinite(found.lyapunov_exponents[0])
    assert "-inf" not in str(found)


# Gates


@each_part
@pytest.mark.parametrize("kind", ["lstm", "lstmp", "gru", "gru_reset_before"])
def test_gates_are_those_of_the_reference(kind, layer_index, direction):
    layer, problem = deep(kind)
    found = gate_statistics(layer, problem.x, as_state(problem.state), layer_index=layer_index, direction=direction)
    twin = make_layer(kind, 4, 5, num_layers=2, bidirectional=True, dtype="float64", backend="reference")
    x, states = problem.x, problem.state
    for index in range(layer_index + 1):
        own = tuple(s[2 * index : 2 * index + 2] for s in states)
        x, _, saved = twin.sequences[index].forward(x, own, save=True)
    saved = next(run for d, *_, run in saved.runs if d == direction)
    # what a step of the reference keeps: LSTM (x, h', c', i, f, g, o, ...), GRU (x, h', r, z, n, ...)
    names = {"i": 3, "f": 4, "g": 5, "o": 6} if kind.startswith("lstm") else {"r": 2, "z": 3, "n": 4}
    assert list(found.gates) == list(names)
    for name, place in names.items():
        expected = np.stack([kept[place] for _, kept in saved.steps])
        np.testing.assert_allclose(found.gates[name], expected, atol=1e-12)
        low, high = (-0.8, 0.8) if name in "gn" else (0.1, 0.9)
        assert found.mean[name] == pytest.approx(expected.mean())
        assert found.saturated_low[name] == np.mean(expected < low)
        assert found.saturated_high[name] == np.mean(expected > high)
    memory = found.gates["f" if kind.startswith("lstm") else "z"]
    half_lives = [math.log(0.5) / np.mean(np.log(memory[:, :, u])) for u in range(5)]
    np.testing.assert_allclose(found.unit_half_life, half_lives)
    assert found.half_life == pytest.approx(np.median(half_lives))
    products = [np.prod(memory[t + 1 :], axis=0).mean() for t in range(len(memory))]
    np.testing.assert_allclose(found.direct_path, products)
    assert found.direct_path[-1] == 1


def test_half_lives_of_constant_gates():
    """From the equations of docs/mathematics.md: 2.2 steps for a bias of 1, 14.3 for 3."""
    for bias in (1.0, 3.0):
        layer = fastrnn.LSTM(2, 4, dtype="float64", forget_bias=bias)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            layer.parameters[name][...] = 0
        found = gate_statistics(layer, np.zeros((20, 2)))
        assert found.half_life == pytest.approx(math.log(2) / math.log(1 + math.exp(-bias)))
        assert found.direct_path[0] == pytest.approx((1 + math.exp(-bias)) ** -19)
        assert found.saturated_high["f"] == (bias == 3)
    layer.parameters["bias_ih_l0"][4:6] = [800, -800]  # one unit keeps for ever, one forgets at once
    found = gate_statistics(layer, np.zeros((20, 2)))
    assert found.unit_half_life[0] == np.inf
    assert found.unit_half_life[1] == 0


def test_an_rnn_has_its_output_for_a_gate():
    layer, problem = deep("rnn_relu")
    found = gate_statistics(layer, problem.x)
    assert list(found.gates) == ["h"]
    assert found.saturated_low["h"] == np.mean(found.gates["h"] == 0) > 0
    assert found.saturated_high["h"] == 0
    assert found.half_life is found.unit_half_life is found.direct_path is None
    layer, problem = deep("rnn_tanh")
    found = gate_statistics(layer, 10 * problem.x)
    assert found.saturated_high["h"] == np.mean(found.gates["h"] > 0.8) > 0


# Sensitivity


@every_kind
@pytest.mark.parametrize("direction", [0, 1])
def test_sensitivity_is_that_of_finite_differences(kind, direction):
    layer, problem = deep(kind, H=4, T=5, B=2)
    found = sensitivity(layer, problem.x, as_state(problem.state), row=1, direction=direction)
    state = as_state(tuple(s[:, 1:] for s in problem.state))

    def last(x):
        _, final = layer(x, state)
        return (final[0] if isinstance(final, tuple) else final)[2 + direction, 0]

    x, step = problem.x[:, 1:], 1e-5
    expected = np.empty((5, 4))
    for t in range(5):
        for k in range(4):
            move = np.zeros_like(x)
            move[t, 0, k] = step
            expected[t, k] = np.linalg.norm((last(x + move) - last(x - move)) / (2 * step))
    expected = expected[::-1] if direction else expected
    np.testing.assert_allclose(found.features, expected, atol=1e-8)
    np.testing.assert_allclose(found.norms, np.linalg.norm(expected, axis=1), atol=1e-8)
    np.testing.assert_array_equal(found.lags, [4, 3, 2, 1, 0])


def test_of_a_single_step_no_rate_is_told():
    layer, x = fastrnn.LSTM(3, 4, seed=0), np.ones((1, 2, 3), np.float32)
    text = str(sensitivity(layer, x))
    assert text.endswith("of the last input; there is no earlier step.")
    assert "nan" not in text
    assert "Fitted" in str(sensitivity(layer, np.ones((2, 2, 3), np.float32)))
    assert "\nIt, 8 x 8, stretches by up to " in str(jacobians(layer, x))


def test_sensitivity_of_many_units_is_added_up_in_parts(monkeypatch):
    layer = fastrnn.GRU(3, 10, dtype="float64", seed=0)
    x = random_problem(layer, 7, 1).x
    whole = sensitivity(layer, x)
    monkeypatch.setattr("fastrnn.diagnostics.influence._UNITS_AT_ONCE", 4)
    np.testing.assert_allclose(sensitivity(layer, x).features, whole.features, rtol=1e-12)
    assert 0 < whole.decay_per_step < 1
    assert whole.half_life == pytest.approx(math.log(0.5) / math.log(whole.decay_per_step))


# NaN


@every_kind
@pytest.mark.parametrize("direction", [0, 1])
def test_a_nan_in_x_is_found_where_it_is(kind, direction):
    layer, problem = deep(kind, T=8)
    x = problem.x.copy()
    assert first_nan(layer, x, as_state(problem.state)) is None
    x[3 if direction == 0 else 6, 2, 1] = np.nan  # nearer to that direction's beginning
    found = first_nan(layer, x, as_state(problem.state))
    gate = {"l": "i", "g": "r", "r": "h"}[kind[0]]
    assert (found.layer_index, found.direction, found.row, found.gate, found.unit) == (0, direction, 2, gate, 0)
    assert found.step == (3 if direction == 0 else 6)
    assert found.share == pytest.approx(1 / 3)
    assert found.given == ("x at this step and row",)
    assert "x at this step and row" in str(found)


@pytest.mark.parametrize(("kind", "gate", "block"), [("lstm", "o", 3), ("gru", "z", 1), ("gru_reset_before", "n", 2)])
def test_a_nan_in_a_weight_is_found_at_its_gate_and_unit(kind, gate, block):
    layer, problem = deep(kind)
    layer.parameters["weight_hh_l1_reverse"][block * 5 + 3, 0] = np.nan
    found = first_nan(layer, problem.x)
    assert (found.layer_index, found.direction, found.step, found.gate, found.unit) == (1, 1, 5, gate, 3)
    assert found.given == ("weight_hh_l1_reverse",)
    assert math.isnan(found.value)


def test_a_nan_in_the_state_and_elsewhere_in_x_is_named():
    layer, problem = deep("lstm")
    h, c = (s.copy() for s in problem.state)
    c[0, 1, 2] = np.nan
    x = problem.x.copy()
    x[4, 0, 0] = np.nan
    found = first_nan(layer, x, (h, c))
    assert (found.step, found.row, found.gate, found.unit) == (0, 1, "c", 2)
    assert found.given == ("x", "c_0")


def test_numbers_too_large_are_found_as_infinity_before_they_are_nan():
    layer = fastrnn.RNN(2, 3, nonlinearity="relu", bias=False)
    layer.parameters["weight_ih_l0"][...] = 1
    layer.parameters["weight_hh_l0"][...] = [[1e10, 0, 0], [0, 1e10, 0], [1, -1, 0]]
    x = np.ones((8, 2), "f")
    infinite, nan = first_nan(layer, x, infinity=True), first_nan(layer, x)
    assert (infinite.step, infinite.gate, infinite.unit, infinite.value) == (4, "h", 0, np.inf)
    assert (nan.step, nan.unit) == (5, 0)  # 0 times infinity, from the next step on in every sum
    assert infinite.given == nan.given == ()
    assert "nothing passed in" in str(nan)


# Gradients of weights by step


@every_kind
def test_only_steps_up_to_the_loss_add_to_the_gradients(kind):
    layer = make_layer(kind, 4, 5, dtype="float64")
    problem = random_problem(layer, 6, 2)
    dy = np.zeros_like(problem.dy)
    dy[2] = problem.dy[2]
    steps = per_step_weight_gradients(layer, problem.x, as_state(problem.state), dy=dy)
    assert list(steps) == list(layer.parameters)
    _, backward = layer.vjp(problem.x[:3], as_state(problem.state))
    for name, gradient in backward(dy[:3]).parameters.items():
        assert steps[name].shape == (6, *gradient.shape)
        assert not steps[name][3:].any()
        np.testing.assert_allclose(steps[name].sum(axis=0), gradient, atol=1e-12)
    # the last of them is the gradient of a step alone, from the state before it
    _, state = layer(problem.x[:2], as_state(problem.state))
    _, backward = layer.vjp(problem.x[2:3], state)
    for name, gradient in backward(dy[2:3]).parameters.items():
        np.testing.assert_allclose(steps[name][2], gradient, atol=1e-12)


def test_without_biases_there_are_none():
    layer = fastrnn.LSTM(4, 5, bias=False, seed=0)
    steps = per_step_weight_gradients(layer, random_problem(layer, 3, 2).x)
    assert list(steps) == ["weight_ih_l0", "weight_hh_l0"]
    assert self_check(layer, random_problem(layer, 3, 2).x).ok


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_layer_whose_units_are_all_saturated_passes(dtype, monkeypatch):
    layer = fastrnn.RNN(1, 1, seed=0, dtype=dtype)
    for name, parameter in layer.parameters.items():
        parameter[...] = {"weight_hh_l0": 1, "bias_ih_l0": 7}.get(name, 0)
    x = np.zeros((3, 1, 1), dtype)
    assert jacobians(layer, x).spectral_radius.max() < 1e-5
    assert self_check(layer, x).ok
    layer.parameters["bias_ih_l0"][...] = 1
    monkeypatch.setattr(consistency, "step_jacobians", lambda *a, of=consistency.step_jacobians: 1.001 * of(*a))
    assert "jacobian, differences" in {quantity.name for quantity in self_check(layer, x).failed}


# The page


def test_the_pages_example_runs(capsys):
    page = (Path(__file__).resolve().parent.parent / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    namespace = {}
    exec(block, namespace)
    assert capsys.readouterr().out == f"{namespace['flow']}\n"
    for name in diagnostics.__all__:
        assert name[0].isupper() or f"`{name}(layer, x, state)`" in page


# What is refused, and what is imported when

X = np.zeros((4, 2, 3), "f")
GRU = fastrnn.GRU(3, 5)
ERRORS = {
    "row": (lambda: jacobians(GRU, X, row=2), ValueError, "row: expected an integer below 2, got 2"),
    "row None": (lambda: jacobians(GRU, X, row=None), TypeError, "row: expected an integer, got None"),
    "row None, sensitivity": (lambda: sensitivity(GRU, X, row=None), TypeError, "row: expected an integer, got None"),
    "row negative": (lambda: sensitivity(GRU, X, row=-1), ValueError, "row: expected an integer of at least 0, got -1"),
    "layer_index": (lambda: jacobians(GRU, X, layer_index=1), ValueError, "layer_index: expected an integer below 1"),
    "layer_index bool": (
        lambda: self_check(GRU, X, layer_index=True),
        TypeError,
        "layer_index: expected an integer, got",
    ),
    "direction": (lambda: gate_statistics(GRU, X, direction=1), ValueError, "direction: expected an integer below 1"),
    "direction text": (
        lambda: sensitivity(GRU, X, direction="0"),
        TypeError,
        "direction: expected an integer, got '0'",
    ),
    "infinity": (lambda: first_nan(GRU, X, infinity=1), TypeError, "infinity: expected True or False, got 1 (int)"),
    "layer": (
        lambda: first_nan(X, X),
        TypeError,
        "layer: expected a fastrnn or torch.nn LSTM, GRU or RNN, got numpy.ndarray",
    ),
    "x": (lambda: gate_statistics(GRU, X[..., :2]), ValueError, "x: expected the last dimension to be input_size = 3"),
    "not finite": (
        lambda: jacobians(GRU, X * np.nan),
        ValueError,
        "x: its Jacobian is not finite at step 0: see first_nan",
    ),
}


@pytest.mark.parametrize("wrong", ERRORS)
def test_wrong_arguments_are_refused(wrong):
    call, error, message = ERRORS[wrong]
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message)


@every_kind
def test_everything_prints(kind):
    layer, problem = deep(kind)
    for function in (gradient_flow, jacobians, gate_statistics, sensitivity, self_check):
        lines = str(function(layer, problem.x)).splitlines()
        assert lines[0].startswith(repr(layer))
        assert len(lines) > 2
        assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("kind", ["lstm", "rnn_relu"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize(
    "function",
    [gradient_flow, gate_statistics, sensitivity, first_nan, per_step_weight_gradients, self_check],
)
def test_numbers_out_of_range_raise_nothing(function, value, kind):
    """Whatever the caller has asked of NumPy."""
    layer, problem = deep(kind)
    problem.x[1, 0] *= value
    for name, parameter in layer.parameters.items():
        if name.startswith("weight_hh"):
            parameter *= 1e30
    with np.errstate(all="raise"):
        str(function(layer, problem.x))


def test_it_is_imported_when_first_used_and_numba_later(tmp_path):
    program = (
        "import sys, fastrnn; print('fastrnn.diagnostics' in sys.modules); "
        "fastrnn.diagnostics.gradient_flow; print('numba' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]


def test_the_number_of_blas_threads_is_given_back():
    from fastrnn import blas

    functions = blas._functions()
    if functions is None:
        pytest.skip("NumPy's BLAS has no function for it")
    before = functions[1]()
    with one_thread():
        assert functions[1]() == 1
    assert functions[1]() == before
