"""`fastrnn.check` and `python -m fastrnn check`: right layers pass, each wrong output and gradient is named."""

import copy
import io
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import DTYPES, KINDS, as_tuple, make_layer
from numba import config

import fastrnn
from fastrnn import checking
from fastrnn.__main__ import main
from fastrnn.check_cases import CELLS, Case, cases
from fastrnn.check_report import Quantity, Report
from fastrnn.commands import check as check_command
from fastrnn.commands.display import RichDisplay
from fastrnn.sequence import Sequence

T, B, I, H = 5, 3, 4, 9
FORWARD, BACKWARD = Sequence.forward, Sequence.backward


def normal(*shape, dtype="float32", seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def names(quantities):
    return [quantity.name for quantity in quantities]


def break_forward(monkeypatch, change):
    """Have the kernels' forward return change(y, states, save)."""

    def forward(self, x, states, *, save, **rest):
        y, states_n, saved = FORWARD(self, x, states, save=save, **rest)
        if self.backend == "cpu":
            y, states_n = change(y.copy(), tuple(s.copy() for s in states_n), save)
        return y, states_n, saved

    monkeypatch.setattr(Sequence, "forward", forward)


def break_backward(monkeypatch, change):
    """Have the kernels' backward return what it did after change(dx, dstates, dweights) in place."""

    def backward(self, saved, dy, dstates):
        result = BACKWARD(self, saved, dy, dstates)
        if self.backend == "cpu":
            change(*result)
        return result

    monkeypatch.setattr(Sequence, "backward", backward)


def spoil(array, dtype="float32"):
    """A small error in the last number, well outside the bounds."""
    array.reshape(-1)[-1] += np.abs(array).max() * {"float32": 1e-5, "float64": 1e-11}[dtype]


# Layers that are right


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_output_and_gradient_of_a_right_layer_is_within_its_bound(kind, dtype):
    layer = make_layer(kind, I, H, num_layers=2, bidirectional=True, dtype=dtype)
    report = fastrnn.check(layer, normal(T, B, I, dtype=dtype))
    assert report.failed == ()
    assert report.ok
    report.raise_if_failed()
    states = ["h", "c"] if kind.startswith("lstm") else ["h"]
    expected = ["y", *(f"{s}_n" for s in states), "vjp y", *(f"vjp {s}_n" for s in states)]
    expected += ["dx", *(f"d{s}_0" for s in states), *(f"d{name}" for name in layer.parameters)]
    assert names(report.quantities) == expected
    by_name = {quantity.name: quantity for quantity in report.quantities}
    assert by_name["dx"].shape == (T, B, I)
    assert by_name["dweight_ih_l1"].shape == layer.parameters["weight_ih_l1"].shape
    assert all(quantity.note == "" for quantity in report.quantities)
    # Not so wide that everything passes, and errors are measured: some are not 0.
    assert all(quantity.bound <= (1e-12 if dtype == "float64" else 1e-5) for quantity in report.quantities)
    assert any(quantity.error > 0 for quantity in report.quantities)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [(T, B), (T,), (0, B), (T, 0)], ids=["batched", "unbatched", "no_steps", "no_rows"])
def test_any_layout_and_empty_sequences(lengths, batch_first):
    layer = make_layer("lstmp", I, H, num_layers=2, bidirectional=True, batch_first=batch_first)
    assert fastrnn.check(layer, normal(*(lengths[::-1] if batch_first else lengths), I)).ok


def test_parameters_changed_in_place_are_the_ones_checked():
    layer, x = make_layer("gru", I, H), normal(T, B, I)
    before = checking.expect(layer, x, None, 0)
    layer.parameters["weight_hh_l0"][...] *= 1.5
    assert fastrnn.check(layer, x).ok
    assert "y" in names(checking.judge(layer, before).failed)


def test_the_reference_backend_can_be_checked():
    assert fastrnn.check(make_layer("lstm", I, H, backend="reference"), normal(T, B, I)).ok


def test_a_subclass_with_another_constructor():
    class Fixed(fastrnn.LSTM):
        def __init__(self):
            super().__init__(I, H, seed=0)

    assert fastrnn.check(Fixed(), normal(T, B, I)).ok


def test_the_initial_state_is_the_one_given_or_random():
    layer, x = make_layer("lstm", I, H), normal(T, B, I)
    state = (normal(1, B, H), normal(1, B, H))
    assert checking.expect(layer, x, state, 0).inputs.state is state
    assert fastrnn.check(layer, x, list(state)).ok
    assert fastrnn.check(layer, x[:, 0], tuple(s[:, 0] for s in state)).ok
    one, same, other = (checking.expect(layer, x, None, seed).inputs for seed in (1, 1, 2))
    for a, b, c in zip(*((*i.state, i.dy, *i.dstate) for i in (one, same, other)), strict=True):
        assert np.all(a != 0)
        assert np.array_equal(a, b)
        assert np.all(a != c)


# Dropout, and leaving the layer as it was


def test_dropout_in_training_is_compared_under_the_next_masks():
    layer, x = make_layer("gru", I, H, num_layers=3, dropout=0.4), normal(T, B, I)
    twin = copy.deepcopy(layer)
    expected = checking.expect(layer, x, None, 0)
    assert checking.judge(layer, expected).ok
    assert np.allclose(expected.truth["y"], twin(x, expected.inputs.state)[0], atol=1e-6)
    layer(x)  # draws other masks
    assert {"y", "vjp y", "dx"} <= set(names(checking.judge(layer, expected).failed))
    assert fastrnn.check(layer, x).ok


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("outcome", ["right", "wrong", "interrupted"])
def test_the_layer_and_its_input_stay_as_they_were(outcome, training, monkeypatch):
    layer = make_layer("lstm", I, H, num_layers=2, dropout=0.5).train(training)
    twin, x = copy.deepcopy(layer), normal(T, B, I)
    x_before = x.copy()

    def wrong(dx, dstates, dweights):
        spoil(dx)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    if outcome == "interrupted":
        break_backward(monkeypatch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fastrnn.check(layer, x)
    else:
        if outcome == "wrong":
            break_backward(monkeypatch, wrong)
        assert fastrnn.check(layer, x).ok == (outcome == "right")
    assert layer.training is training
    assert (layer.dtype, layer.backend) == (twin.dtype, twin.backend)
    assert np.array_equal(x, x_before)
    for name, parameter in twin.parameters.items():
        assert np.array_equal(layer.parameters[name], parameter)
    assert np.array_equal(layer(x)[0], twin(x)[0])  # the dropout masks too


# Layers that are wrong


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("saving", [False, True], ids=["call", "vjp"])
@pytest.mark.parametrize("wrong", ["y", "h_n", "c_n"])
def test_a_wrong_output_is_named(wrong, saving, dtype, monkeypatch):
    def change(y, states, save):
        if save == saving:
            spoil({"y": y, "h_n": states[0], "c_n": states[1]}[wrong], dtype)
        return y, states

    break_forward(monkeypatch, change)
    report = fastrnn.check(make_layer("lstm", I, H, dtype=dtype), normal(T, B, I, dtype=dtype))
    name = f"vjp {wrong}" if saving else wrong
    assert names(report.failed) == [name]
    assert report.worst.name == name
    assert report.worst.error > report.worst.bound
    assert not report.ok
    with pytest.raises(RuntimeError, match=f"FAILED: {name}$"):
        report.raise_if_failed()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_wrong_gradient_is_named(kind, dtype, monkeypatch):
    layer = make_layer(kind, I, H, bidirectional=True, dtype=dtype)
    x = normal(T, B, I, dtype=dtype)
    short = [name.removesuffix("_l0") for name in layer.parameters if "reverse" not in name]
    states = as_tuple(layer(x)[1])
    places = {"dx": lambda dx, dstates, dweights: dx}
    places |= {f"d{'hc'[n]}_0": lambda dx, dstates, dweights, n=n: dstates[n] for n in range(len(states))}
    places |= {f"d{s}_l0_reverse": lambda dx, dstates, dweights, s=s: dweights[1][s] for s in short}
    for name, place in places.items():
        break_backward(monkeypatch, lambda *gradients, place=place: spoil(place(*gradients), dtype))
        assert names(fastrnn.check(layer, x).failed) == [name]


@pytest.mark.parametrize("change", [lambda y: y.astype("float64"), lambda y: y[:1]], ids=["dtype", "shape"])
def test_a_wrong_dtype_or_shape_is_named(change, monkeypatch):
    layer = make_layer("gru", I, H)
    break_forward(monkeypatch, lambda y, states, save: (change(y), states))
    report = fastrnn.check(layer, normal(T, B, I))
    assert names(report.failed) == ["y", "vjp y"]
    assert re.fullmatch(r"expected float32 \(5, 3, 9\), got float(64 \(5|32 \(1), 3, 9\)", report.failed[0].note)


# NaN and infinity


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite_must_be_so_on_both_sides(kind):
    x = normal(T, B, I)
    x[1, 0, 2], x[2, 1, 0], x[3, 1, 1] = np.nan, np.inf, -np.inf
    report = fastrnn.check(make_layer(kind, I, H, bidirectional=True), x)
    assert report.failed == ()
    assert re.fullmatch(r"\d+ of 270 values NaN or infinite on both sides alike", report.quantities[0].note) or (
        kind == "lstmp" and report.quantities[0].note.endswith("on both sides alike")
    )
    assert "ok: " in str(report)


@pytest.mark.parametrize(
    ("given", "there", "returned"),
    [
        (1.0, 0.5, np.nan),
        (1.0, 0.5, np.inf),
        (np.nan, np.nan, 0.5),
        (np.inf, np.inf, -np.inf),
        (np.inf, np.inf, np.nan),
    ],
)
def test_nan_or_infinity_on_one_side_only_fails(given, there, returned, monkeypatch):
    """A relu layer, whose y is NaN or infinite where x is."""
    layer, x = make_layer("rnn_relu", 1, 1), np.full((1, 1, 1), given, np.float32)
    layer.parameters["weight_ih_l0"][...] = 0.5
    for name in ("weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        layer.parameters[name][...] = 0.0
    state = np.zeros((1, 1, 1), np.float32)
    assert fastrnn.check(layer, x, state).ok
    np.testing.assert_array_equal(layer(x, state)[0].item(), there)

    def change(y, states, save):
        y[...] = returned
        return y, states

    break_forward(monkeypatch, change)
    report = fastrnn.check(layer, x, state)
    assert names(report.failed) == ["y", "vjp y"]
    assert report.failed[0].note == "1 of 1 values NaN or infinite on one side only"


# Bounds


@pytest.mark.parametrize(
    ("layer", "x", "terms"),
    [
        (fastrnn.LSTM(4, 9, seed=0), normal(5, 3, 4), 36),  # backward: the gates
        (fastrnn.RNN(40, 9, seed=0), normal(5, 3, 40), 49),  # forward: x and h
        (fastrnn.GRU(4, 9, seed=0), normal(20, 30, 4), 600),  # in a parameter's gradient: steps and rows
        (fastrnn.RNN(4, 9, 2, bidirectional=True, seed=0), normal(2, 3, 4), 27),  # forward: y of both directions and h
    ],
)
def test_the_bound_in_float32_grows_with_the_longest_sum_and_the_references_own_error(layer, x, terms, monkeypatch):
    eps = np.finfo(np.float32).eps
    assert min(q.bound for q in fastrnn.check(layer, x).quantities) == pytest.approx(eps * (8 + np.sqrt(terms) / 4))
    monkeypatch.setitem(checking.BOUNDS, "float32", checking.Bound(0.0, 0.0, 1e6))
    reference = checking.expect(layer, x, None, 0).reference
    own = {q.name: q.error for q in fastrnn.check(reference, x).quantities}
    assert {q.name: q.bound / 1e6 for q in fastrnn.check(layer, x).quantities} == pytest.approx(own)


def test_a_layer_of_one_unit_whose_reference_may_be_right_by_luck_passes():
    for seed in range(60):
        for kind in ("lstmp", "gru"):
            layer = make_layer(kind, 1, 2 if kind == "lstmp" else 1, seed=seed)
            report = fastrnn.check(layer, normal(1, 1, 1, seed=seed), seed=seed)
            assert report.ok, f"{seed}\n{report}"


def test_a_relu_that_rounding_decides_may_be_decided_either_way(monkeypatch):
    layer, state = make_layer("rnn_relu", 2, 1), np.zeros((1, 2, 1), np.float32)
    for name, values in {"weight_ih_l0": [1, -1], "weight_hh_l0": 0, "bias_ih_l0": 0, "bias_hh_l0": 0}.items():
        layer.parameters[name][...] = values
    eps = np.finfo(np.float32).eps
    x = np.array([[[2, 1], [1 + eps, 1]]], np.float32)

    def forward(self, x, states, *, save, **rest):
        if self.backend == "cpu":  # as if both numbers were off by eps
            x = x + np.array([[0, 0], [-eps, eps]], np.float32)
        return FORWARD(self, x, states, save=save, **rest)

    monkeypatch.setattr(Sequence, "forward", forward)
    report = fastrnn.check(layer, x, state)
    assert report.ok
    assert {q.name: q.error > 0.01 for q in report.quantities}["dx"]


def test_rounding_that_grows_from_step_to_step_is_allowed_in_float64_too():
    layer = make_layer("rnn_tanh", 3, 32, dtype="float64")
    layer.parameters["weight_hh_l0"][...] *= 6
    report = fastrnn.check(layer, normal(50, 2, 3, dtype="float64"))
    assert report.ok
    assert 1e-12 < report.quantities[0].error < report.quantities[0].bound < 1e-4
    report = fastrnn.check(layer, normal(400, 2, 3, dtype="float64"))
    assert report.quantities[0].bound > 1
    assert report.quantities[0].note == "rounding leaves no digit to compare"


@pytest.mark.parametrize("seed", [1, 6, 7])
def test_where_no_digit_is_left_nothing_is_wrong(seed):
    layer = fastrnn.LSTM(3, 33, proj_size=16, bidirectional=True, dtype="float64", seed=seed)
    for parameter in layer.parameters.values():
        parameter *= 30
    report = fastrnn.check(layer, normal(513, 1, 3, dtype="float64", seed=1))
    assert report.ok
    assert any(q.error > 1 and q.note == "rounding leaves no digit to compare" for q in report.quantities)


def test_where_rounding_decides_what_overflows_nothing_is_wrong(monkeypatch):
    layer = make_layer("gru", 3, 33, seed=0)
    for parameter in layer.parameters.values():
        parameter *= 30
    x = normal(513, 1, 3)
    report = fastrnn.check(layer, x)
    assert report.ok
    assert any(q.note.endswith("on one side only, which rounding decides") for q in report.quantities)
    backward = Sequence.backward

    def wrong(self, *arguments):
        dx, *others = backward(self, *arguments)
        if self.backend == "cpu":
            dx[-1] = np.inf  # there the gradient is just beginning to grow
        return dx, *others

    monkeypatch.setattr(Sequence, "backward", wrong)
    layer = make_layer("gru", 3, 33, seed=0)  # its gradients do not overflow
    assert [q.name for q in fastrnn.check(layer, x).failed] == ["dx"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
def test_saturated_layers_pass(kind, seed):
    """tanh near 1 may be rounded either way, and the derivative, 1 - h², is of that size."""
    layer = make_layer(kind, 8, 16, dtype="float64", seed=seed)
    assert fastrnn.check(layer, 1000 * normal(10, 4, 8, dtype="float64", seed=seed), seed=seed).ok


def test_gradients_that_underflow_pass():
    layer = make_layer("rnn_tanh", 3, 4)
    layer.parameters["weight_hh_l0"][...] *= 0.2
    x = normal(120, 2, 3)
    expected = checking.expect(layer, x, None, 0)
    # All that reaches the first step comes from the last.
    inputs = expected.inputs._replace(dy=np.zeros_like(expected.inputs.dy))
    in_double = checking.twin(layer, np.dtype("float64"))
    truth = checking._run(in_double, inputs.mapped(lambda array: array.astype("float64")))
    same = checking._run(expected.reference, inputs)
    assert 0 < np.abs(truth["dh_0"]).max() < np.finfo(np.float32).tiny
    assert checking.judge(layer, checking.Expected(expected.reference, inputs, truth, same)).ok


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((object(), normal(T, B, I)), TypeError, r"layer: expected a fastrnn\.LSTM, GRU or RNN, got object"),
        ((None, normal(T, B, I, dtype="float64")), TypeError, "x: expected float32, got float64"),
        ((None, normal(T, B, I + 1)), ValueError, "x: expected the last dimension to be input_size = 4"),
        ((None, normal(T, B, I), normal(B, H)), ValueError, r"h_0: expected shape \(1, 3, 9\), got \(3, 9\)"),
    ],
)
def test_wrong_arguments_raise(arguments, error, message):
    layer, *rest = arguments
    with pytest.raises(error, match=message):
        fastrnn.check(make_layer("gru", I, H) if layer is None else layer, *rest)


def test_a_wrong_seed_raises():
    with pytest.raises(ValueError, match="seed: expected an integer of at least 0, got -1"):
        fastrnn.check(make_layer("gru", I, H), normal(T, B, I), seed=-1)


def test_check_is_the_function_beside_its_module():
    assert fastrnn.check is checking.check


# The report


def test_the_report_reads_as_a_table():
    quantities = (
        Quantity("y", (5, 3, 9), 1.25e-7, 1.9e-6, True),
        Quantity("dweight_ih_l0", (36, 4), 0.03, 1.9e-6, False),
        Quantity("dx", (5, 3, 4), 0.0, 1.9e-6, False, "1 of 60 values NaN or infinite on one side only"),
    )
    assert str(Report("LSTM(4, 9), x (5, 3, 4)", quantities)) == (
        "LSTM(4, 9), x (5, 3, 4)\n"
        "\n"
        "quantity       shape        error    bound\n"
        "y              (5, 3, 9)  1.2e-07  1.9e-06  ok\n"
        "dweight_ih_l0  (36, 4)    3.0e-02  1.9e-06  FAILED\n"
        "dx             (5, 3, 4)  0.0e+00  1.9e-06  FAILED: 1 of 60 values NaN or infinite on one side only\n"
        "\n"
        "FAILED: dweight_ih_l0; dx"
    )
    report = Report("a layer", quantities[:1])
    assert str(report).endswith("\n\nAll 1 are within their bounds.")
    assert Report("a layer", quantities).worst.name == "dweight_ih_l0"
    assert report.worst.name == "y"


def test_the_title_is_the_layer_and_its_input():
    layer = make_layer("gru", I, H)
    assert fastrnn.check(layer, normal(T, B, I)).title == f"{layer!r}, x (5, 3, 4)"


# The configurations of the command


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_the_configurations_cover_every_option_and_way_to_share_work(cell, threads):
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(threads)
    try:
        chosen = cases([cell], ["float32"], threads)
        shared = {
            case.layer().sequences[0].kernels().sharing.share(case.T * case.B, case.B, forward=forward)
            for case in chosen
            for forward in (True, False)
        }
    finally:
        fastrnn.set_num_threads(before)
    assert {(1, False), (threads, False), (threads, True)} <= shared
    for option in ("bidirectional", "bias", "batch_first", "batched"):
        assert {getattr(case, option) for case in chosen} == {True, False}
    assert {case.layers for case in chosen} == {1, 2, 3}
    assert {case.padded for case in chosen} == {True, False}
    assert {case.recompute for case in chosen} == {True, False}
    assert len({str(case) for case in chosen}) == len(chosen)
    assert {bool(case.P) for case in chosen} == {cell == "lstm_projected"}


@pytest.mark.parametrize("cell", CELLS)
def test_no_configuration_is_so_trivial_that_its_results_are_zeros(cell):
    for case in cases([cell], ["float64"], 2):
        expected = checking.expect(case.layer(), case.x(), None, 0, case.lengths())
        assert [name for name, array in expected.truth.items() if not np.any(array)] == [], case


def test_a_configuration_is_named_by_its_sizes_and_options():
    assert str(Case("gru", "float32", 5, 3, 7, 17)) == "T5-B3-I7-H17"
    case = Case("lstm_projected", "float32", 5, 1, 7, 17, 4, 2, True, False, True, False)
    assert str(case) == "T5-I7-H17-P4-L2-bi-nobias-batch_first-unbatched"


# The command

SMALL = ("--cell", "gru", "--dtype", "float32")


@pytest.fixture(autouse=True)
def one_configuration(request, monkeypatch):
    """Unless a test asks for all of them, the command checks two configurations a cell and type."""
    monkeypatch.setattr(check_command, "use_one_thread", lambda: True)
    if "all_configurations" not in request.fixturenames:
        monkeypatch.setattr(check_command, "cases", lambda *arguments: [c for c in cases(*arguments) if c.T in (1, 5)])


@pytest.fixture
def all_configurations():
    pass


@pytest.mark.usefixtures("all_configurations")
def test_more_threads_than_there_can_be_do_not_make_the_batches_larger(capsys):
    assert main(["check", "--cell", "rnn_relu", "--dtype", "float32", "--threads", "1000000000000"]) == 0
    output = capsys.readouterr().out
    assert "\nAll 9 configurations are within their bounds" in output
    assert f"\nThreads: {config.NUMBA_NUM_THREADS}\n" in output  # those that there are


@pytest.mark.usefixtures("all_configurations")
def test_the_command_checks_everything_asked_for(capsys):
    before = fastrnn.get_num_threads()
    assert main(["check", "--cell", "rnn_relu", "gru", "rnn_relu", "--threads", "2"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert fastrnn.get_num_threads() == before
    assert re.match(r"fastrnn \S+, Python \S+, NumPy \S+, Numba \S+, \S+ \S+\nCPU .+-bit vectors, \d+ vector", output)
    assert "\nThreads: 2\n" in output
    assert (
        "Kernels that were never used on this machine are compiled first, which may take a minute or two.\n" in output
    )
    assert "\nChecking 100%  36 configurations\n" in output
    assert re.findall(r"^(\w+ float\d\d)$", output, re.M) == [
        "rnn_relu float32",
        "rnn_relu float64",
        "gru float32",
        "gru float64",
    ]
    row = r"^T\S+ +(y|h_n|vjp y|vjp h_n|d\S+) +\d\.\de[+-]\d\d  \d\.\de-\d\d  ok$"
    assert len(re.findall(row, output, re.M)) == 36
    assert re.search(r"\nAll 36 configurations are within their bounds \(\d+\.\d s\)\.\n$", output)
    assert max(map(len, output.splitlines())) <= 100


def test_threads_default_to_one_and_all(capsys, threads):
    threads(2)
    assert main(["check", *SMALL]) == 0
    assert "\nThreads: 1 and 2\n" in capsys.readouterr().out
    threads(1)
    assert main(["check", *SMALL]) == 0
    assert "\nThreads: 1\n" in capsys.readouterr().out


def test_verbose_shows_every_quantity(capsys):
    assert main(["check", *SMALL, "--verbose"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^T1-B1-I1-H1 +ok$", output, re.M)
    shown = re.findall(r"^  \(.*?\) +(\S.*?)  +\d\.\de[+-]\d\d  \d\.\de-\d\d$", output, re.M)
    layer = cases(["gru"], ["float32"], 1)[0].layer()
    assert shown[: len(shown) // 2] == names(fastrnn.check(layer, normal(1, 1, 1)).quantities)


def test_a_wrong_kernel_is_found_and_named(monkeypatch, capsys, threads):
    """Wrong on two threads only."""
    threads(2)

    def wrong(dx, dstates, dweights):
        if fastrnn.get_num_threads() == 2 and dx.shape[0] == 5:
            spoil(dx)

    break_backward(monkeypatch, wrong)
    assert main(["check", *SMALL]) == 1
    output, errors = capsys.readouterr()
    assert errors == ""
    assert re.search(r"^T1-B1-I1-H1 .* ok$", output, re.M)
    assert re.search(r"^T5-B3-I7-H17-batch_first +dx +\d.\de-0\d +\S+ +FAILED$", output, re.M)
    assert re.search(r"^1 of 2 configurations FAILED \(\d+\.\d s\):$", output, re.M)
    assert output.endswith("\n  gru float32 T5-B3-I7-H17-batch_first, 2 threads: dx\n")
    assert main(["check", *SMALL, "--verbose"]) == 1
    assert re.search(r"^  \(3, 5, 7\) +dx .* FAILED$", capsys.readouterr().out, re.M)
    assert main(["check", *SMALL, "--threads", "1"]) == 0


def test_many_wrong_quantities_are_named_in_part(monkeypatch, capsys):
    break_forward(monkeypatch, lambda y, states, save: (y * np.nan, tuple(s * np.nan for s in states)))

    def wrong(dx, dstates, dweights):
        for array in (dx, *dstates, *dweights[0].values()):
            spoil(array)

    break_backward(monkeypatch, wrong)
    assert main(["check", *SMALL, "--threads", "1"]) == 1
    note = r"\(\d+ of \d+ values NaN or infinite on one side only\)"
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.search(rf"1 thread: y {note}, h_n {note}, vjp y {note}, vjp h_n {note}, dx, dh_0, 4 more$", last)


def test_a_kernel_that_raises_is_a_failure_and_the_others_are_still_checked(monkeypatch, capsys):
    def change(y, states, save):
        if y.shape[0] == 1:
            raise NotImplementedError("no such instruction\nmore about it")
        return y, states

    break_forward(monkeypatch, change)
    assert main(["check", *SMALL, "--threads", "1"]) == 1
    output, errors = capsys.readouterr()
    assert re.search(r"^T1-B1-I1-H1 +FAILED$", output, re.M)
    assert re.search(r"^T5-B3-I7-H17-batch_first .* ok$", output, re.M)
    assert output.endswith("\n  gru float32 T1-B1-I1-H1, 1 thread: NotImplementedError: no such instruction\n")
    assert errors.startswith("\nThe first exception:\nTraceback")
    assert errors.endswith("more about it\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--cell", "qrnn"], "argument --cell: invalid choice: 'qrnn'"),
        (["--cell"], "argument --cell: expected at least one argument"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--dtype", "float16"], "argument --dtype: expected float32 or float64 on the CPU, got 'float16'"),
        (["--threads", "0"], "argument --threads: expected an integer of at least 1, got '0'"),
        (["--threads", "two"], "argument --threads: expected an integer of at least 1, got 'two'"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, reason, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["check", *arguments])
    captured = capsys.readouterr()
    assert f"error: {reason}" in captured.err
    assert captured.out == ""


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["check", "--help"])
    output = capsys.readouterr().out
    for option in ("--cell", "--dtype", "--threads", "--verbose", "--plain", *CELLS):
        assert option in output


def test_an_interrupt_ends_the_command(monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    before = fastrnn.get_num_threads()
    break_backward(monkeypatch, interrupt)
    assert main(["check", *SMALL, "--threads", "2"]) == 130
    assert capsys.readouterr().err == "Interrupted\n"
    assert fastrnn.get_num_threads() == before


def test_the_command_in_a_process_of_its_own_writes_no_control_characters():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "TERM": "xterm"}
    command = [sys.executable, "-m", "fastrnn", "check", *SMALL]
    finished = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False, env=environment)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert set(finished.stdout) <= {chr(code) for code in range(32, 127)} | {"\n"}
    assert "All 9 configurations are within their bounds" in finished.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process")
def test_an_interrupted_process_ends_without_a_traceback():
    command = [sys.executable, "-m", "fastrnn", "check"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout:
            if line.startswith("Checking"):  # a tenth is done
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (130, "Interrupted\n")


# The table on a terminal


@pytest.mark.usefixtures("all_configurations")
@pytest.mark.parametrize("verbose", [False, True])
def test_the_rich_table_fits_in_eighty_columns(verbose, monkeypatch):
    console = pytest.importorskip("rich.console").Console(
        record=True, width=80, file=io.StringIO(), force_terminal=True, highlight=False
    )
    monkeypatch.setattr(check_command, "best_display", lambda plain: RichDisplay(console))

    def change(y, states, save):
        return y * (2 if y.shape[0] == 5 else 1), states

    break_forward(monkeypatch, change)
    options = ["--verbose"] if verbose else []
    assert main(["check", "--cell", "lstm_projected", "--dtype", "float32", "--threads", "1", *options]) == 1
    text = console.export_text()
    lines = [line.rstrip() for line in text.splitlines() if "━" not in line]
    assert max(map(len, lines)) <= 80
    chosen = cases(["lstm_projected"], ["float32"], 1)
    rows = [line for line in lines if line.startswith("T") and line.split()[-1] in ("ok", "FAILED")]
    assert [row.split()[0] for row in rows] == [str(case) for case in chosen]
    assert [row.split()[-1] for row in rows] == ["FAILED" if case.T == 5 else "ok" for case in chosen]
    assert "lstm_projected float32" in lines


def test_sequences_of_different_lengths_may_be_checked():
    layer, x = make_layer("lstm", I, H, bidirectional=True), normal(T, B, I)
    assert fastrnn.check(layer, x, lengths=[T, 0, 2][:B]).ok
    with pytest.raises(ValueError, match=r"^lengths: expected 0 to \d+, the steps of x, got -1 at index 0$"):
        fastrnn.check(layer, x, lengths=[-1] * B)
