"""`vjp(..., recompute=True)`: the same bits, in memory of the order of the square root of the number of steps."""

import copy
import gc
import tracemalloc
import weakref
from itertools import product

import numpy as np
import pytest
from conftest import DTYPES, KINDS, as_state, as_tuple, assert_same_bits, everything, make_layer, random_problem
from test_same_bits import SHARING, SHARING_BOTH

import fastrnn
from fastrnn import recompute
from fastrnn.dropout import Mask, MaskOfRows

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

I, H = 5, 7


@pytest.fixture(autouse=True)
def least_rows(monkeypatch):
    """Sets how many rows a segment has at least; at first one, so that few steps are several segments too."""

    def set_least(number):
        monkeypatch.setattr(recompute, "_LEAST_ROWS", number)

    set_least(1)
    return set_least


def assert_recomputed_bits_are_the_same(layer, problem, lengths=None):
    assert_same_bits(everything(layer, problem, lengths, recompute=True), everything(layer, problem, lengths))


def segments_of(backward):
    """The numbers of steps of the first direction's segments."""
    return [together[0].steps for together in backward._saved[0]._stacks[0]._segments]


@pytest.fixture(autouse=True)
def one_thread(threads):
    """Where threads are not what is tested: to start two for each segment takes long where a core has other work."""
    threads(1)


# Bits


@every_dtype
@every_kind
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (3, False), (2, True)])
def test_the_bits_are_the_same(kind, dtype, layers, bidirectional):
    layer = make_layer(kind, I, H, num_layers=layers, bidirectional=bidirectional, dtype=dtype)
    for T, B in [(0, 3), (1, 1), (2, 3), (9, 0), (9, 2), (31, 3), (127, 5)]:
        assert_recomputed_bits_are_the_same(layer, random_problem(layer, T, B))


@every_dtype
@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
def test_blocks_of_the_weight_gradients_go_on_from_segment_to_segment(kind, dtype, bidirectional, least_rows):
    """They have 512 rows: some segments are parts of one, others end in one and have several."""
    layer = make_layer(kind, I, H, bidirectional=bidirectional, dtype=dtype)
    problem = random_problem(layer, 1000, 3)
    expected = everything(layer, problem)
    for number in (1, 256, 512, 700, 1100, 3000):
        least_rows(number)
        assert_same_bits(everything(layer, problem, recompute=True), expected)


@every_dtype
@every_kind
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (2, True)])
def test_the_bits_are_the_same_for_sequences_of_different_lengths(kind, dtype, layers, bidirectional):
    layer = make_layer(kind, I, H, num_layers=layers, bidirectional=bidirectional, dtype=dtype)
    for lengths in ([4, 9, 0, 1, 9, 7], [0, 0], [1], [30, 2, 2], np.random.default_rng(1).integers(0, 301, 7)):
        problem = random_problem(layer, max(lengths) + 1, len(lengths))
        assert_recomputed_bits_are_the_same(layer, problem, lengths)


@every_kind
@pytest.mark.parametrize("sharing", SHARING | SHARING_BOTH)
def test_teams_compute_what_one_thread_does_without_recomputing(kind, sharing, threads, least_rows):
    T, B, width, hidden, D = (SHARING | SHARING_BOTH)[sharing]
    layer = make_layer(kind, width, hidden, bidirectional=D == 2)
    problem = random_problem(layer, 3 * T, B)
    lengths = np.random.default_rng(2).integers(0, 3 * T + 1, B)
    whole, cut = everything(layer, problem), everything(layer, problem, lengths)
    least_rows(T * B)  # as many as these threads share
    for number in (1, 2, 4):
        threads(number)
        assert_same_bits(everything(layer, problem, recompute=True), whole)
        assert_same_bits(everything(layer, problem, lengths, recompute=True), cut)


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_that_are_left_out_are_zeros(kind, bidirectional):
    layer = make_layer(kind, I, H, num_layers=2, bidirectional=bidirectional)
    problem = random_problem(layer, 20, 3)
    parts = [(d, None) for d in problem.dstate]
    for dy, *dstate in product((problem.dy, None), *parts):
        gradients = []
        for recomputing in (False, True):
            _, backward = layer.vjp(problem.x, as_state(problem.state), recompute=recomputing)
            given = backward(dy, None if all(d is None for d in dstate) else as_state(dstate))
            gradients.append({"x": given.x} | dict(enumerate(as_tuple(given.state))) | given.parameters)
        assert_same_bits(*gradients)


@pytest.mark.parametrize("options", [{"bias": False}, {"batch_first": True}, {"forget_bias": 1.0}], ids=str)
def test_the_bits_are_the_same_with_every_option(options):
    layer = make_layer("lstm", I, H, num_layers=2, **options)
    problem = random_problem(layer, 20, 3)
    if layer.batch_first:
        problem = problem._replace(x=problem.x.transpose(1, 0, 2), dy=problem.dy.transpose(1, 0, 2))
    results, expected = (everything(layer, problem, recompute=recomputing) for recomputing in (True, False))
    assert_same_bits(*({name: a.copy() for name, a in each.items()} for each in (results, expected)))


def test_a_sequence_may_have_no_batch_dimension():
    layer = make_layer("gru", I, H)
    x = random_problem(layer, 20, 1).x[:, 0]
    results = []
    for recomputing in (False, True):
        (y, h_n), backward = layer.vjp(x, recompute=recomputing)
        gradients = backward(y, h_n)
        results.append({"y": y, "h_n": h_n, "x": gradients.x, "h_0": gradients.state} | gradients.parameters)
    assert_same_bits(*[{name: array.copy() for name, array in each.items()} for each in results])


# Dropout


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [20, 3, 11]], ids=str)
def test_dropout_has_the_masks_it_has_without_recomputing(kind, bidirectional, lengths):
    options = {"num_layers": 3, "bidirectional": bidirectional, "dropout": 0.4, "seed": 5}
    layer, other = make_layer(kind, I, H, **options), make_layer(kind, I, H, **options)
    problem = random_problem(layer, 20, 3)
    for _ in range(3):  # the generators stay together; an odd number of draws leaves half of what one makes
        assert_same_bits(
            everything(layer, problem, lengths, recompute=True), everything(other, problem, lengths, recompute=False)
        )
        assert layer._generator.bit_generator.state == other._generator.bit_generator.state
    layer.eval(), other.eval()
    assert_same_bits(everything(layer, problem, recompute=True), everything(other, problem))


@pytest.mark.parametrize("drawn", [0, 1, 2, 7])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_any_rows_of_a_mask_can_be_drawn_again(drawn, width):
    generator, other = np.random.default_rng(8), np.random.default_rng(8)
    for each in (generator, other):
        each.random(drawn, dtype=np.float32)
    mask, rows = Mask(generator, (9, width), 0.3), MaskOfRows(other, 9, width, 0.3)
    assert generator.bit_generator.state == other.bit_generator.state
    for start, stop in [(0, 9), (0, 1), (1, 2), (4, 4), (3, 8), (8, 9)]:
        part = rows.part(start, stop)
        np.testing.assert_array_equal(part.kept, mask.kept[start:stop])
        assert part.scale == mask.scale


def test_an_interrupted_call_draws_no_masks(monkeypatch):
    layer = make_layer("rnn_tanh", I, H, num_layers=2, dropout=0.5)
    problem = random_problem(layer, 9, 2)
    before = layer._generator.bit_generator.state

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(recompute._Stack, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        layer.vjp(problem.x, recompute=True)
    assert layer._generator.bit_generator.state == before


# Memory


def peak(layer, T, B, recomputing):
    """Bytes of a vjp and its backward pass, at most at once, beside y and dx, and of x, dy and what calls share."""
    problem = random_problem(layer, T, B)

    def run():
        (y, _), backward = layer.vjp(problem.x, as_state(problem.state), recompute=recomputing)
        return y, backward(problem.dy, as_state(problem.dstate))

    run()  # what the layer keeps for the next call of this size is there from now on
    for sequence in layer.sequences:
        sequence.kernels()._memory._idle.clear()  # but for gates and cell states
    gc.collect()
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] - problem.dy.nbytes - problem.x.nbytes
    finally:
        tracemalloc.stop()


@every_kind
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "dropout": 0.1}, {"bidirectional": True}], ids=str)
def test_memory_grows_with_the_square_root_of_the_steps(kind, options):
    layer = make_layer(kind, 4, 6, **options)
    few, many = (peak(layer, T, 16, True) for T in (400, 10_000))
    assert few < many < 7 * few  # 5, and what each segment takes for itself
    assert many < 10_000 * 16 * 4 * 6 * layer.num_directions / 4  # a quarter of one gate at every step


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}], ids=str)
def test_y_need_not_outlive_the_caller(options):
    layer = make_layer("lstm", I, H, **options)
    problem = random_problem(layer, 30, 2)
    (y, state), backward = layer.vjp(problem.x, recompute=True)
    gone = weakref.ref(y if y.base is None else y.base)  # who owns the memory
    del y, state
    assert gone() is None
    expected = layer.vjp(problem.x)[1](problem.dy)
    np.testing.assert_array_equal(backward(problem.dy).x, expected.x)


def test_without_recomputing_memory_grows_with_the_steps():
    """So what is measured above is what is meant."""
    layer = make_layer("lstm", 4, 6)
    few, many = (peak(layer, T, 16, False) for T in (400, 10_000))
    assert many > 20 * few
    assert many > 10_000 * 16 * 4 * 6 * 5  # gates and cell states


@pytest.mark.parametrize("T", [1, 2, 3, 400, 1000])
def test_there_are_as_many_segments_as_steps_in_each(T):
    layer = make_layer("gru", I, H)
    _, backward = layer.vjp(random_problem(layer, T, 2).x, recompute=True)
    steps = segments_of(backward)
    assert sum(steps) == T
    assert len(steps) <= steps[0] == max(steps) == int(np.ceil(np.sqrt(T)))


def test_segments_have_enough_rows(least_rows):
    least_rows(256)
    layer = make_layer("gru", I, H)
    for T, B, expected in [(400, 1, [256, 144]), (400, 64, [20] * 20), (10, 3, [10])]:
        _, backward = layer.vjp(random_problem(layer, T, B).x, recompute=True)
        assert segments_of(backward) == expected


# Calls


@every_kind
def test_runs_do_not_disturb_each_other(kind):
    layer = make_layer(kind, I, H, num_layers=2)
    problems = [random_problem(layer, 30, 3, seed) for seed in (1, 2)]
    expected = [layer.vjp(p.x, as_state(p.state))[1](p.dy, as_state(p.dstate)) for p in problems]
    runs = [layer.vjp(p.x, as_state(p.state), recompute=True)[1] for p in problems]
    layer(problems[0].x)
    for backward, problem, gradients in zip(runs, problems, expected, strict=True):
        got = backward(problem.dy, as_state(problem.dstate))
        assert_same_bits({"x": got.x} | got.parameters, {"x": gradients.x} | gradients.parameters)


def test_backward_may_be_called_once():
    layer = make_layer("lstm", I, H)
    problem = random_problem(layer, 9, 2)
    _, backward = layer.vjp(problem.x, recompute=True)
    backward(problem.dy)
    with pytest.raises(RuntimeError, match="backward: already called"):
        backward(problem.dy)


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
def test_parameters_that_have_changed_since_vjp_are_an_error(kind, bidirectional):
    layer = make_layer(kind, I, H, num_layers=2, bidirectional=bidirectional)
    problem = random_problem(layer, 9, 2)
    for values in layer.parameters.values():
        _, backward = layer.vjp(problem.x, recompute=True)
        values.flat[0] += 1
        with pytest.raises(RuntimeError, match="backward: the parameters have changed since vjp"):
            backward(problem.dy)


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_deep_copy_is_a_run_of_its_own(kind, bidirectional):
    layer = make_layer(kind, I, H, num_layers=2, bidirectional=bidirectional, dropout=0.2)
    problem = random_problem(layer, 20, 3)
    _, backward = layer.vjp(problem.x, as_state(problem.state), [20, 7, 3], recompute=True)
    other = copy.deepcopy(backward)
    gradients, others = (each(problem.dy, as_state(problem.dstate)) for each in (backward, other))
    assert_same_bits({"x": others.x} | others.parameters, {"x": gradients.x} | gradients.parameters)


def test_nothing_of_the_callers_is_written_to():
    layer = make_layer("lstm", I, H, num_layers=2, bidirectional=True)
    problem = random_problem(layer, 20, 3)
    given = [problem.x, *problem.state, problem.dy, *problem.dstate]
    copies = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    (y, state), backward = layer.vjp(problem.x, as_state(problem.state), recompute=True)
    kept = [array.copy() for array in (y, *state)]
    backward(problem.dy, as_state(problem.dstate))
    for array, before in zip([*given, y, *state], copies + kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_the_reference_refuses():
    layer = make_layer("lstm", I, H, backend="reference")
    x = random_problem(layer, 3, 2).x
    message = "recompute: expected False with backend='reference', where every step is kept"
    with pytest.raises(ValueError, match=message):
        layer.vjp(x, recompute=True)
    with pytest.raises(ValueError, match=message):
        fastrnn.check(layer, x, recompute=True)
    layer.vjp(x, recompute=False)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_it_is_true_or_false(value):
    layer = make_layer("lstm", I, H)
    with pytest.raises(TypeError, match="recompute: expected True or False"):
        layer.vjp(random_problem(layer, 3, 2).x, recompute=value)


@every_kind
def test_check_compares_with_the_reference(kind, monkeypatch):
    layer = make_layer(kind, I, H, bidirectional=True)
    x = random_problem(layer, 20, 3).x
    report = fastrnn.check(layer, x, recompute=True)
    assert report.ok, report
    assert report.title == f"{layer!r}, x (20, 3, 5), recompute=True"
    backward = recompute._Stack.backward

    def wrong(self, *arguments):
        dx, dstates_0, gradients = backward(self, *arguments)
        return 1.001 * dx, dstates_0, gradients

    monkeypatch.setattr(recompute._Stack, "backward", wrong)
    assert [quantity.name for quantity in fastrnn.check(layer, x, recompute=True).failed] == ["dx"]
    assert fastrnn.check(layer, x).ok
