"""Sequences of different lengths in one batch."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from conftest import (
    DTYPES,
    KINDS,
    Problem,
    as_state,
    as_tuple,
    assert_same_bits,
    everything,
    make_layer,
    outputs,
    random_problem,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import planner, sharing
from fastrnn.lengths import PackedRows, Padded
from fastrnn.passes import SAVING_KIND, backward_kind

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

T, I, H = 9, 7, 19
LENGTHS = [4, 9, 0, 1, 9, 7, 2]  # in no order, some equal, one of them 0


def largest_difference(results, expected):
    """Of all arrays, relative to the largest number of each."""
    assert results.keys() == expected.keys()
    return max(np.abs(results[name] - expected[name]).max() / np.abs(expected[name]).max() for name in results)


def alone(layer, problem, row, length):
    """What one sequence gives as a batch of its own; without the parameters' gradients, by name."""
    one = problem.rows(slice(row, row + 1))
    return everything(layer, Problem(one.x[:length], one.state, one.dy[:length], one.dstate))


# Against the reference, which runs every sequence for itself


@every_dtype
@every_kind
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
def test_outputs_and_gradients_are_the_references(kind, dtype, bidirectional):
    options = {"dtype": dtype, "bidirectional": bidirectional, "num_layers": 2}
    layer = make_layer(kind, I, H, **options)
    problem = random_problem(layer, T, len(LENGTHS))
    expected = everything(make_layer(kind, I, H, backend="reference", **options), problem, LENGTHS)
    limit = 1e-12 if dtype == "float64" else 1e-5
    assert largest_difference(everything(layer, problem, LENGTHS), expected) < limit


@every_kind
@settings(max_examples=15, derandomize=True, deadline=None, database=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20),
    more=st.integers(0, 3),
    H=st.integers(2, 40),
    bidirectional=st.booleans(),
)
def test_any_lengths_agree_with_the_reference(kind, lengths, more, H, bidirectional):
    layer = make_layer(kind, 3, H, dtype="float64", bidirectional=bidirectional)
    reference = make_layer(kind, 3, H, dtype="float64", bidirectional=bidirectional, backend="reference")
    problem = random_problem(layer, max(lengths) + more, len(lengths))
    results, expected = everything(layer, problem, lengths), everything(reference, problem, lengths)
    for name, array in results.items():
        np.testing.assert_allclose(
            array, expected[name], rtol=0, atol=1e-12 * max(1, np.abs(expected[name]).max(initial=0))
        )


@every_kind
def test_many_rows_agree_with_the_reference(kind):
    lengths = np.random.default_rng(3).integers(0, 40, 70)
    layer = make_layer(kind, 21, 33, dtype="float64", bidirectional=True)
    reference = make_layer(kind, 21, 33, dtype="float64", bidirectional=True, backend="reference")
    problem = random_problem(layer, 40, len(lengths))
    assert largest_difference(everything(layer, problem, lengths), everything(reference, problem, lengths)) < 1e-12


# The same bits as without padding


@every_dtype
@every_kind
def test_a_row_is_that_sequence_alone(kind, dtype):
    layer = make_layer(kind, I, H, dtype=dtype, bidirectional=True)
    problem = random_problem(layer, T, len(LENGTHS))
    results = everything(layer, problem, LENGTHS)
    for row, length in enumerate(LENGTHS):
        for name, expected in alone(layer, problem, row, length).items():
            if name.removeprefix("d") in layer.parameters:
                continue
            result = results[name][:, row : row + 1]
            if name in ("y", "vjp y", "dx"):
                assert not result[length:].any()
                result = result[:length]
            assert_same_bits({name: np.ascontiguousarray(result)}, {name: np.ascontiguousarray(expected)})


@every_dtype
@every_kind
def test_equal_lengths_are_a_whole_batch(kind, dtype):
    layer = make_layer(kind, I, H, dtype=dtype, bidirectional=True)
    problem = random_problem(layer, T, 4)
    assert_same_bits(everything(layer, problem, [T] * 4), everything(layer, problem))


@every_kind
def test_parameters_gradients_are_the_sums_over_the_sequences(kind):
    layer = make_layer(kind, I, H, dtype="float64", bidirectional=True)
    problem = random_problem(layer, T, len(LENGTHS))
    results = everything(layer, problem, LENGTHS)
    sums = {f"d{name}": np.zeros_like(array) for name, array in layer.parameters.items()}
    for row, length in enumerate(LENGTHS):
        run = alone(layer, problem, row, length)
        for name in sums:
            sums[name] += run[name]
    assert largest_difference({name: results[name] for name in sums}, sums) < 1e-12


@every_kind
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
def test_what_padding_holds_is_never_read(kind, batch_first):
    layer = make_layer(kind, I, H, bidirectional=True, num_layers=2, batch_first=batch_first)
    problem = random_problem(layer, T, len(LENGTHS))
    x, dy = problem.x.copy(), problem.dy.copy()
    if batch_first:
        problem = problem._replace(x=x.transpose(1, 0, 2), dy=dy.transpose(1, 0, 2))
    expected = everything(layer, problem, LENGTHS)
    for odd in (np.nan, np.inf, 3e38):
        for row, length in enumerate(LENGTHS):
            x[length:, row] = odd
            dy[length:, row] = odd
        assert_same_bits(everything(layer, problem, LENGTHS), expected)


def test_the_final_state_of_an_empty_sequence_is_its_initial_state():
    layer = make_layer("lstm", I, H, bidirectional=True, num_layers=2)
    problem = random_problem(layer, T, len(LENGTHS))
    results = everything(layer, problem, LENGTHS)
    row = LENGTHS.index(0)
    for result, expected in zip(("h_n", "c_n", "dh_0", "dc_0"), (*problem.state, *problem.dstate), strict=True):
        np.testing.assert_array_equal(results[result][:, row], expected[:, row])


@every_kind
def test_sequences_may_all_be_empty(kind):
    layer = make_layer(kind, I, H, bidirectional=True)
    problem = random_problem(layer, T, 3)
    results = everything(layer, problem, [0, 0, 0])
    assert results["y"].shape == problem.dy.shape
    assert results["dx"].shape == problem.x.shape
    assert not results["y"].any()
    assert not results["dx"].any()
    assert not results["dweight_ih_l0"].any()
    np.testing.assert_array_equal(results["h_n"], problem.state[0])
    np.testing.assert_array_equal(results["dh_0"], problem.dstate[0])


@every_kind
def test_the_order_of_the_sequences_does_not_matter(kind):
    layer = make_layer(kind, I, H, bidirectional=True)
    problem = random_problem(layer, T, len(LENGTHS))
    order = np.random.default_rng(0).permutation(len(LENGTHS))
    results = everything(layer, problem.rows(order), np.array(LENGTHS)[order])
    for name, expected in everything(layer, problem, LENGTHS).items():
        if name.removeprefix("d") not in layer.parameters:
            assert_same_bits({name: results[name]}, {name: np.ascontiguousarray(expected[:, order])})


SHARING = {  # lengths, I, H, directions
    "by_units": ([9, 2], 130, 129, 1),
    "by_rows": (np.random.default_rng(5).integers(0, 22, 27), 40, 37, 1),
    "by_directions": ([15, 3, 8], 40, 60, 2),
    "by_directions_and_units": ([9, 2], 130, 129, 2),
    "by_directions_and_rows": (np.random.default_rng(6).integers(0, 16, 19), 40, 60, 2),
}


@every_kind
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("number", [2, 3, 4])
def test_threads_compute_what_one_does(kind, sharing, number, threads):
    lengths, I, H, D = SHARING[sharing]
    layer = make_layer(kind, I, H, bidirectional=D == 2)
    problem = random_problem(layer, max(lengths), len(lengths))
    threads(1)
    expected = everything(layer, problem, lengths)
    threads(number)
    assert_same_bits(everything(layer, problem, lengths), expected)


@every_kind
@pytest.mark.parametrize("number", [2, 3])
def test_threads_that_divide_large_weights_compute_what_one_does(kind, number, threads, monkeypatch):
    """Forwards by units, and backwards by rows."""
    lengths = np.random.default_rng(5).integers(0, 22, 27)
    monkeypatch.setattr(sharing, "KEPT_BY_A_CORE", 0)
    monkeypatch.setattr(sharing, "_FEW_ROWS_OF_LARGE", 0)
    layer = make_layer(kind, 40, 16 * 4 * number)
    problem = random_problem(layer, 22, len(lengths))
    threads(1)
    expected = everything(layer, problem, lengths)
    threads(number)
    assert_same_bits(everything(layer, problem, lengths), expected)
    used = {key[:1] + key[2:] for key in layer.sequences[0].kernels()._planner._plans}
    assert (SAVING_KIND, number, True) in used
    assert (backward_kind(True, False, False, False), number, False) in used


@every_kind
@pytest.mark.parametrize("number", [2, 3, 4])
def test_threads_that_share_rows_do_not_meet_in_chunks_of_inputs(kind, number, threads, monkeypatch):
    """One may be in a later chunk than another, whose steps have other numbers of rows."""
    lengths = np.random.default_rng(8).integers(0, 120, 27)
    layer = make_layer(kind, 40, 37)
    problem = random_problem(layer, 120, len(lengths))
    threads(1)
    expected = everything(layer, problem, lengths)
    threads(number)
    monkeypatch.setattr(planner, "_X_SUMS_BYTES", 1 << 16)
    monkeypatch.setattr(sharing.Sharing, "rows_for_sums_within", lambda rules, parts: planner.NEVER)
    for _ in range(3):
        fresh = make_layer(kind, 40, 37)
        assert_same_bits(everything(fresh, problem, lengths), expected)


@every_kind
def test_dropout_acts_on_the_same_places_as_in_the_reference(kind):
    options = {"num_layers": 3, "dropout": 0.4, "dtype": "float64", "seed": 4}
    layer, reference = make_layer(kind, I, H, **options), make_layer(kind, I, H, backend="reference", **options)
    problem = random_problem(layer, T, len(LENGTHS))
    assert largest_difference(everything(layer, problem, LENGTHS), everything(reference, problem, LENGTHS)) < 1e-12


def test_a_layer_may_be_called_with_one_length_after_another():
    """What is kept between calls does not depend on them."""
    rng = np.random.default_rng(7)
    kept = make_layer("lstm", I, H, dtype="float64")
    for _ in range(20):
        lengths = rng.integers(0, 30, 5)
        problem = random_problem(kept, 30, 5, seed=int(rng.integers(100)))
        assert_same_bits(
            everything(kept, problem, lengths), everything(make_layer("lstm", I, H, dtype="float64"), problem, lengths)
        )


def test_memory_serves_again_for_fewer_rows():
    layer = make_layer("lstm", I, H)
    kernels, places = layer.sequences[0].kernels(), []
    for lengths in ([9, 9, 8], [9, 5, 2], [9, 8, 7], [1, 0, 1], [9, 9, 9]):
        problem = random_problem(layer, T, 3)
        (_, backward) = layer.vjp(problem.x, as_state(problem.state), lengths)
        backward(problem.dy)
        flats = kernels._memory._idle[0].flats
        places.append(tuple(memory.ctypes.data for memory in flats))
        assert sum(lengths) * H <= len(flats[1]) <= 4 * sum(lengths) * H
    assert places[0] == places[1] == places[2]
    assert len(kernels._memory._idle) == 1


# A witness


@pytest.mark.parametrize("kind", ["lstm", "lstmp", "gru", "rnn_tanh", "rnn_relu"])
def test_pytorch_computes_the_same_from_its_packed_sequences(kind):
    torch = pytest.importorskip("torch")
    layer = make_layer(kind, I, H, dtype="float64", bidirectional=True, num_layers=2)
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    if kind == "lstmp":
        options["proj_size"] = layer.proj_size
    if kind.startswith("rnn"):
        options["nonlinearity"] = layer.nonlinearity
    module = getattr(torch.nn, type(layer).__name__)(I, H, **options)
    module.load_state_dict({name: torch.tensor(array) for name, array in layer.parameters.items()})
    lengths = [4, 9, 1, 9, 7, 2]  # PyTorch's are at least 1
    problem = random_problem(layer, T, len(lengths))
    x = torch.tensor(problem.x, requires_grad=True)
    state = tuple(torch.tensor(s, requires_grad=True) for s in problem.state)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, final = module(packed, as_state(state))
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(y)
    final = as_tuple(final)
    torch.autograd.backward((y, *final), [torch.tensor(d) for d in (problem.dy, *problem.dstate)])
    expected = {"y": y, "dx": x.grad}
    expected |= dict(zip(("h_n", "c_n"), final, strict=False)) | dict(
        zip(("dh_0", "dc_0"), (s.grad for s in state), strict=False)
    )
    expected |= {f"d{name}": parameter.grad for name, parameter in module.named_parameters()}
    results = everything(layer, problem, lengths)
    for name, tensor in expected.items():
        np.testing.assert_allclose(results[name], tensor.detach().numpy(), rtol=0, atol=1e-11, err_msg=name)


# Arguments


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda lengths: np.array(lengths, np.uint8)])
def test_lengths_are_any_sequence_of_integers(make):
    layer = make_layer("gru", I, H)
    problem = random_problem(layer, T, len(LENGTHS))
    assert_same_bits(outputs(layer, problem, make(LENGTHS)), outputs(layer, problem, LENGTHS))


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2], ValueError, r"lengths: expected shape \(3,\), one for each sequence, got \(2,\)"),
        ([[1, 2, 3]], ValueError, r"lengths: expected shape \(3,\), one for each sequence, got \(1, 3\)"),
        ([1, -1, 3], ValueError, "lengths: expected 0 to 9, the steps of x, got -1 at index 1"),
        ([1, 2, 10], ValueError, "lengths: expected 0 to 9, the steps of x, got 10 at index 2"),
        ([1.0, 2.0, 3.0], TypeError, "lengths: expected integers, got float64"),
        ([True, True, False], TypeError, "lengths: expected integers, got bool"),
        (["1", "2", "3"], TypeError, "lengths: expected integers, got <U1"),
        (3, TypeError, "lengths: expected a list, tuple or NumPy array of integers, got int"),
        ({1, 2, 3}, TypeError, "lengths: expected a list, tuple or NumPy array of integers, got set"),
        ([1, [2], 3], TypeError, r"lengths: expected a list, tuple or NumPy array of integers, got \[1, \[2\], 3\]"),
        (np.array([1, 2, 3], "m8[s]"), TypeError, r"lengths: expected integers, got timedelta64\[s\]"),
        (np.ma.masked_equal([1, 2, 3], 2), TypeError, "lengths: expected an array without a mask, got MaskedArray"),
    ],
)
def test_wrong_lengths_are_refused(lengths, error, message):
    layer = make_layer("lstm", I, H, num_layers=2, dropout=0.5)
    problem = random_problem(layer, T, 3)
    dropout = layer._generator.bit_generator.state
    for run in (layer, layer.vjp):
        with pytest.raises(error, match=f"^{message}$"):
            run(problem.x, as_state(problem.state), lengths)
    assert layer._generator.bit_generator.state == dropout


def test_one_whole_sequence_has_no_lengths():
    layer = make_layer("gru", I, H)
    x = random_problem(layer, T, 1).x[:, 0]
    with pytest.raises(ValueError, match=r"^lengths: expected None for x without a batch dimension"):
        layer(x, None, [T])


def test_an_empty_batch_has_empty_lengths():
    y, _ = fastrnn.GRU(I, H, seed=0)(np.zeros((T, 0, I), "float32"), lengths=[])
    assert y.shape == (T, 0, H)


# The packed layout


def test_rows_are_packed_as_pytorch_packs_them():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((T, len(LENGTHS), 3))
    kept = [row for row, length in enumerate(LENGTHS) if length]
    expected = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x[:, kept]), torch.tensor(LENGTHS)[kept], enforce_sorted=False
    )
    padded = Padded(np.array(LENGTHS), T)
    data = padded.pack(x)
    # PyTorch may put sequences of one length in another order
    assert sorted(map(tuple, data)) == sorted(map(tuple, expected.data.numpy()))
    np.testing.assert_array_equal(np.diff(padded.rows.starts[1:-1]), expected.batch_sizes.numpy())
    np.testing.assert_array_equal(padded.rows.lengths, sorted(LENGTHS, reverse=True))


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
def test_shares_of_the_batch_have_about_as_many_rows_each(number):
    lengths = np.sort(np.random.default_rng(0).integers(0, 100, 40))[::-1]
    packed = Padded(lengths.copy(), 100).rows
    cuts = packed.shares(number)
    assert cuts[0] == 0
    assert cuts[-1] == 40
    rows = [packed.lengths[first:last].sum() for first, last in pairwise(cuts)]
    assert sum(rows) == packed.total
    assert max(rows) - min(rows) <= 2 * lengths.max()


def test_a_packed_batch_may_have_rows_without_steps():
    packed = PackedRows(np.array([3, 1]), 5)
    np.testing.assert_array_equal(packed.lengths, [2, 1, 1, 0, 0])
    np.testing.assert_array_equal(packed.places(0), [0, 3])
    np.testing.assert_array_equal(packed.places(2), [2])


@pytest.mark.parametrize("recompute", [None, False, True], ids=["call", "vjp", "recompute"])
def test_a_call_that_fails_late_leaves_the_dropout_to_come(monkeypatch, recompute):
    def unpack(*arguments):
        raise MemoryError

    layer = make_layer("lstm", I, H, num_layers=2, dropout=0.5)
    x = random_problem(layer, T, 3).x
    dropout = layer._generator.bit_generator.state
    monkeypatch.setattr("fastrnn.copying.unpack", unpack)
    run = layer if recompute is None else functools.partial(layer.vjp, recompute=recompute)
    with pytest.raises(MemoryError):
        run(x, lengths=[1, 2, 3])
    assert layer._generator.bit_generator.state == dropout
