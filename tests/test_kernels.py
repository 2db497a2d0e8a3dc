"""The kernels against the reference at any size, and what they do to memory, NaN and weights that change.

Run as a program, with "before" or "after", it runs layers of every kind in memory that ends where no access is allowed.
"""

import ctypes
import math
import mmap
import subprocess
import sys

import numpy as np
import pytest
from conftest import (
    DTYPES,
    KINDS,
    Problem,
    as_state,
    as_tuple,
    assert_same_bits,
    bits,
    everything,
    make_layer,
    outputs,
    random_problem,
)
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
EPS = 2.0**-23  # of float32


def allowed(dtype, own_error, longest_sum):
    """The largest error, relative to the largest magnitude, beside the reference's own error in that dtype.

    float32: as accurate as plain float32 arithmetic, but the reference may be exact by luck where there is little to
    round; and a sum of the kernels is one chain of n roundings, which add up like random steps; NumPy sums in blocks.
    """
    if dtype == "float64":
        return 1e-12
    return max(4 * own_error, (4 + math.sqrt(longest_sum)) * EPS)


# Against the reference


def in_float64(kind, layer, problem, **options):
    """The reference in float64 on the same numbers."""
    oracle = make_layer(kind, layer.input_size, layer.hidden_size, dtype="float64", backend="reference", **options)
    oracle.load_state_dict({name: array.astype("float64") for name, array in layer.state_dict().items()})
    x, state, dy, dstate = problem
    wider = Problem(
        x.astype("float64"),
        tuple(s.astype("float64") for s in state),
        dy.astype("float64"),
        tuple(d.astype("float64") for d in dstate),
    )
    return everything(oracle, wider)


def error(result, expected):
    """The largest, relative to the largest magnitude."""
    assert result.shape == expected.shape
    difference = np.abs(result - expected).max()
    return difference / np.abs(expected).max() if difference else 0.0


def near_relus_corner(results, expected):
    """Whether some h is 0 in one and tiny in the other: then the gradients differ, and both are right."""
    differ = (results["y"] > 0) != (expected["y"] > 0)
    return differ.any() and np.abs(results["y"] - expected["y"])[differ].max() < 1e-5


def assert_as_the_reference(kind, dtype, size, give_up=pytest.skip, **options):
    T, B, I, H = size
    layer = make_layer(kind, I, H, dtype=dtype, **options)
    problem = random_problem(layer, T, B)
    expected = in_float64(kind, layer, problem, **options)
    results = everything(layer, problem)
    own = expected
    if dtype == "float32":
        own = everything(make_layer(kind, I, H, dtype=dtype, backend="reference", **options), problem)
    if kind == "rnn_relu" and (near_relus_corner(results, expected) or near_relus_corner(own, expected)):
        give_up()
    longest = max(I + H, layer.sequences[0].layout.cell.gates * H, min(T * B, 512))
    for name, result in results.items():
        assert result.dtype == layer.dtype
        limit = allowed(dtype, error(own[name], expected[name]), longest)
        assert error(result, expected[name]) <= limit, name


@every_dtype
@every_kind
@settings(max_examples=15, derandomize=True, deadline=None, database=None)
@given(
    size=st.tuples(*[st.integers(1, 40)] * 4),
    bidirectional=st.booleans(),
    bias=st.booleans(),
)
def test_random_sizes_agree_with_the_reference(kind, dtype, size, bidirectional, bias):
    assume(kind != "lstmp" or size[3] > 1)
    assert_as_the_reference(kind, dtype, size, give_up=reject, bidirectional=bidirectional, bias=bias)


# T, B, I, H: larger than tiles, blocks of rows (512 in weight gradients) and parts of a packed matrix; no multiples
LARGE = [(3, 70, 1, 257), (2, 131, 1100, 20), (700, 2, 3, 5), (1, 300, 33, 2), (2, 3, 130, 521)]


@every_dtype
@every_kind
@pytest.mark.parametrize("size", LARGE, ids=lambda size: "T{}-B{}-I{}-H{}".format(*size))
def test_large_sizes_agree_with_the_reference(kind, dtype, size):
    assert_as_the_reference(kind, dtype, size)


@pytest.mark.parametrize("kind", ["lstm", "gru_reset_before", "rnn_tanh"])
def test_a_recurrent_matrix_beyond_the_cache_agrees_with_the_reference(kind):
    assert_as_the_reference(kind, "float32", (2, 20, 7, 1030))


@every_kind
def test_a_hundred_thousand_steps(kind):
    """The last steps as the reference computes them from the state before; sums over all steps as those of pieces."""
    T, last = 100_000, 50
    layer = make_layer(kind, 2, 3, dtype="float64")
    problem = random_problem(layer, T, 1)
    results = everything(layer, problem)

    reference = make_layer(kind, 2, 3, dtype="float64", backend="reference")
    _, state = layer(problem.x[:-last], as_state(problem.state))
    tail = everything(reference, Problem(problem.x[-last:], as_tuple(state), problem.dy[-last:], problem.dstate))
    for name in ("y", "dx"):
        np.testing.assert_allclose(results[name][-last:], tail[name], rtol=0, atol=1e-12)

    starts = range(0, T, 5000)
    states, state = [], as_state(problem.state)
    for start in starts:
        states.append(state)
        _, state = layer(problem.x[start : start + 5000], state)
    totals, dstate = dict.fromkeys(layer.parameters, 0.0), as_state(problem.dstate)
    for start, state in zip(reversed(starts), reversed(states), strict=True):
        _, backward = layer.vjp(problem.x[start : start + 5000], state)
        gradients = backward(problem.dy[start : start + 5000], dstate)
        dstate = gradients.state
        np.testing.assert_allclose(results["dx"][start : start + 5000], gradients.x, rtol=0, atol=1e-12)
        for name, gradient in gradients.parameters.items():
            totals[name] += gradient
    for name, total in totals.items():
        np.testing.assert_allclose(results[f"d{name}"], total, rtol=1e-11, atol=1e-9)


# Memory

MEMORY_SIZES = [(1, 1, 1, 2), (3, 2, 5, 7), (5, 9, 17, 33), (90, 3, 8, 16)]
memory_sizes = pytest.mark.parametrize("size", MEMORY_SIZES, ids=lambda size: "T{}-B{}-I{}-H{}".format(*size))
of_any_lengths = pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])


def some_lengths(T, B):
    """All different if they can be, the last one 0."""
    return [max(0, T - 1 - 2 * row) if row < B - 1 else 0 for row in range(B)] if B > 1 else [T - 1]


def poisoned(allocate):
    """As np.empty or np.empty_like, but every byte is 255: NaN, or -1."""

    def allocate_poison(*args, **kwargs):
        array = allocate(*args, **kwargs)
        if array.dtype.kind in "fiu":
            array.reshape(-1).view(np.uint8)[:] = 255
        return array

    return allocate_poison


@memory_sizes
@every_dtype
@every_kind
@of_any_lengths
def test_everything_read_has_been_written(kind, dtype, size, padded, monkeypatch):
    T, B, I, H = size
    check_everything_read(monkeypatch, kind, I, H, T, B, some_lengths(T, B) if padded else None, dtype=dtype)


@every_dtype
@every_kind
def test_without_biases_everything_read_has_been_written(kind, dtype, monkeypatch):
    check_everything_read(monkeypatch, kind, 17, 33, 5, 9, None, dtype=dtype, bias=False)


def check_everything_read(monkeypatch, kind, I, H, T, B, lengths, **options):
    expected, problem = None, None
    for poison in (False, True):
        layer = make_layer(kind, I, H, bidirectional=True, **options)
        problem = random_problem(layer, T, B)
        with monkeypatch.context() as patch:
            if poison:
                patch.setattr(np, "empty", poisoned(np.empty))
                patch.setattr(np, "empty_like", poisoned(np.empty_like))
            results = everything(layer, problem, lengths)
        if poison:
            assert_same_bits(results, expected)
            assert all(np.isfinite(array).all() for array in results.values())
        expected = results


class GuardedMemory:
    """Allocates arrays between bytes that nobody may write to."""

    LINE = 64
    ZONE = 64 * LINE
    VALUE = 0xA5

    def __init__(self):
        self.zones = []

    def empty(self, shape, dtype=float, **_):
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = math.prod(shape) * dtype.itemsize
        raw = np.full(2 * self.ZONE + size + self.LINE, self.VALUE, np.uint8)
        start = self.ZONE + -raw.ctypes.data % self.LINE
        # raw bytes are asked for with room to begin at a cache line: they do, and the room stays free
        used = size - self.LINE if dtype == np.uint8 and size > self.LINE else size
        self.zones += [raw[:start], raw[start + used :]]
        return raw[start : start + size].view(dtype).reshape(shape)

    def zeros(self, shape, dtype=float, **_):
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def empty_like(self, prototype, **_):
        return self.empty(prototype.shape, prototype.dtype)

    def zeros_like(self, prototype, **_):
        return self.zeros(prototype.shape, prototype.dtype)

    def untouched(self):
        return all((zone == self.VALUE).all() for zone in self.zones)


@memory_sizes
@every_dtype
@every_kind
@pytest.mark.parametrize("with_dstate", [True, False], ids=["dstate", "no_dstate"])
@of_any_lengths
def test_nothing_is_written_outside_of_arrays(kind, dtype, size, with_dstate, padded, monkeypatch):
    T, B, I, H = size
    if padded:
        T += 1  # something is left of every size
    lengths = some_lengths(T, B) if padded else None
    layer = make_layer(kind, I, H, bidirectional=True, dtype=dtype)
    problem = random_problem(layer, T, B)
    everything(
        make_layer(kind, I, H, bidirectional=True, dtype=dtype), problem, lengths
    )  # loads and compiles: that allocates too
    memory = GuardedMemory()
    with monkeypatch.context() as patch:
        for name in ("empty", "zeros", "empty_like", "zeros_like"):
            patch.setattr(np, name, getattr(memory, name))
        (y, _), backward = layer.vjp(problem.x, as_state(problem.state), lengths)
        backward(problem.dy, as_state(problem.dstate) if with_dstate else None)
        called = outputs(layer, problem, lengths)
    assert len(memory.zones) > 20
    assert memory.untouched()
    assert_same_bits({"y": y}, {"y": called["y"]})


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does")
@pytest.mark.parametrize("side", ["before", "after"])
def test_nothing_is_read_outside_of_arrays(side):
    """A crash, if it is."""
    done = subprocess.run([sys.executable, __file__, side], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]} {done.stderr}"


class FencedMemory:
    """Allocates arrays of zeros next to a page that must not be touched."""

    def __init__(self, side):
        self.side = side
        self.protect = ctypes.CDLL(None, use_errno=True).mprotect
        self.protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def empty(self, shape, dtype=float, **_):
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = math.prod(shape) * dtype.itemsize
        page = mmap.PAGESIZE
        inside = -(-max(size, 1) // page) * page
        pages = mmap.mmap(-1, inside + 2 * page)
        raw = np.frombuffer(pages, np.uint8)  # keeps the pages alive
        for fence in (0, page + inside):
            assert self.protect(raw.ctypes.data + fence, page, 0) == 0
        start = page if self.side == "before" else page + inside - size
        return raw[start : start + size].view(dtype).reshape(shape)

    def empty_like(self, prototype, **_):
        return self.empty(prototype.shape, prototype.dtype)

    def copy(self, array):
        fenced = self.empty_like(array)
        fenced[...] = array
        return fenced


def flow_of(layer):
    """Through the kernels that keep the gradients of the states."""
    from fastrnn.diagnostics import gradient_flow

    problem = random_problem(layer, 5, 3)
    return gradient_flow(layer, problem.x, as_state(problem.state), dy=problem.dy)


def run_fenced(side):
    import fastrnn.memory

    memory = FencedMemory(side)
    fastrnn.memory.empty = memory.empty  # before anyone takes it from there
    fastrnn.parameters.empty = memory.empty
    import fastrnn.recompute

    for kind in KINDS:
        for dtype in DTYPES:
            everything(make_layer(kind, 3, 4, dtype=dtype), random_problem(make_layer(kind, 3, 4, dtype=dtype), 2, 2))
        flow_of(make_layer(kind, 3, 4, bidirectional=True))
    np.empty, np.zeros, np.empty_like, np.zeros_like = memory.empty, memory.empty, memory.empty_like, memory.empty_like
    for kind in KINDS:
        for dtype in DTYPES:
            for T, B, I, H in MEMORY_SIZES:
                for number in (1, 2):
                    print(f"{kind}-T{T}-B{B}-I{I}-H{H}-{dtype}-{number}t", flush=True)
                    fastrnn.set_num_threads(number)
                    layer = make_layer(kind, I, H, bidirectional=True, dtype=dtype)
                    x, state, dy, dstate = random_problem(layer, T, B)
                    fenced = [tuple(memory.copy(s) for s in each) for each in (state, dstate)]
                    problem = Problem(memory.copy(x), fenced[0], memory.copy(dy), fenced[1])
                    for lengths in (None, some_lengths(T, B)):
                        everything(layer, problem, lengths)
    fastrnn.recompute._LEAST_ROWS = 1  # cut into segments
    for kind in KINDS:
        print(f"{kind} in segments, frame by frame, with gradients of the states", flush=True)
        T, B, I, H = 5, 3, 5, 9
        for lengths in (None, some_lengths(T, B)):
            layer = make_layer(kind, I, H, bidirectional=True, bias=False)
            problem = random_problem(layer, T, B)
            everything(layer, problem._replace(x=memory.copy(problem.x)), lengths, recompute=True)
        flow_of(layer)
        stream = make_layer(kind, I, H, num_layers=2).stream(B)
        for frame in problem.x[:2]:
            stream.step(memory.copy(frame))
    # the sums of the inputs made apart, of two steps at a time, and of the last one alone; few of its rows are there
    fastrnn.planner._X_SUMS_BYTES = 1
    fastrnn.sharing.Sharing.rows_for_sums_within = lambda sharing, parts: fastrnn.planner.NEVER
    T, B, I, H = 9, 16, 40, 60
    for kind in KINDS:
        print(f"{kind} in chunks", flush=True)
        everything(make_layer(kind, I, H), random_problem(make_layer(kind, I, H), T, B), np.arange(B) % T + 1)


# NaN and inf


@pytest.fixture(params=[math.nan, math.inf, -math.inf], ids=str)
def odd(request):
    return request.param


@every_dtype
@every_kind
def test_an_odd_number_reaches_its_own_row_and_later_steps_only(kind, dtype, odd):
    T, B, t, b = 7, 5, 3, 2
    layer = make_layer(kind, 6, 37, dtype=dtype)
    problem = random_problem(layer, T, B)
    clean = everything(layer, problem)
    x = problem.x.copy()
    x[t, b, 1] = odd
    results = everything(layer, problem._replace(x=x))
    others = [row for row in range(B) if row != b]
    for name in ("y", "vjp y", "dx", "h_n", "dh_0", "c_n", "dc_0"):
        if name in results:
            assert np.array_equal(bits(results[name][:, others]), bits(clean[name][:, others])), name
    for name in ("y", "vjp y"):
        assert np.array_equal(bits(results[name][:t, b]), bits(clean[name][:t, b]))
    if math.isnan(odd):
        assert np.isnan(results["y"][t:, b]).all()


@every_dtype
@every_kind
@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
def test_odd_numbers_go_where_the_reference_takes_them(kind, dtype, odd, bidirectional):
    T, B = 7, 5
    options = {"bidirectional": bidirectional, "dtype": dtype}
    layer, reference = make_layer(kind, 6, 37, **options), make_layer(kind, 6, 37, backend="reference", **options)
    problem = random_problem(layer, T, B)
    problem.x[3, 2, 1] = odd
    problem.state[0][-1, 1, 0] = odd
    problem.dy[5, 4, 3] = odd
    results, expected = everything(layer, problem), everything(reference, problem)
    tolerance = {"float32": 1e-4, "float64": 1e-11}[dtype]
    for name, result in results.items():
        np.testing.assert_allclose(result, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


@every_kind
def test_an_odd_weight_is_not_lost(kind):
    layer = make_layer(kind, 6, 37)
    problem = random_problem(layer, 4, 3)
    for name, parameter in layer.parameters.items():
        before = parameter.flat[-1]
        parameter.flat[-1] = math.nan
        assert np.isnan(outputs(layer, problem)["y"]).any(), name
        parameter.flat[-1] = before
    assert np.isfinite(outputs(layer, problem)["y"]).all()


# Weights that change


def _one_element(layer):
    layer.parameters["weight_hh_l0"][-1, -1] += 0.5


def _the_last_bit(layer):
    weight = layer.parameters["weight_hh_l0"]
    weight[0, 0] = np.nextafter(weight[0, 0], weight.dtype.type(2))


def _two_signs(layer):
    layer.parameters["weight_hh_l0"][:2, 1] *= -1


def _all_signs(layer):
    for parameter in layer.parameters.values():
        parameter *= -1


def _two_swapped(layer):
    weight = layer.parameters["weight_hh_l0"]
    weight[[0, 1]] = weight[[1, 0]]


def _everything_doubled(layer):
    for parameter in layer.parameters.values():
        parameter *= 2


def _a_bias(layer):
    layer.parameters["bias_hh_l0"][3] = 9


def _loaded(layer):
    layer.load_state_dict({name: array * 1.25 for name, array in layer.state_dict().items()})


def _through_torch(layer):
    torch = pytest.importorskip("torch")
    torch.from_numpy(layer.parameters["weight_ih_l0"]).mul_(-0.5)


CHANGES = [
    _one_element,
    _the_last_bit,
    _two_signs,
    _all_signs,
    _two_swapped,
    _everything_doubled,
    _a_bias,
    _loaded,
    _through_torch,
]


@every_dtype
@every_kind
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_changed_weights_are_noticed(kind, dtype, change):
    layer = make_layer(kind, 32, 32, dtype=dtype)
    problem = random_problem(layer, 4, 3)
    before, values = everything(layer, problem), layer.state_dict()
    change(layer)
    fresh = make_layer(kind, 32, 32, dtype=dtype)
    fresh.load_state_dict(layer.state_dict())
    assert_same_bits(everything(layer, problem), everything(fresh, problem))
    layer.load_state_dict(values)
    assert_same_bits(everything(layer, problem), before)


@every_dtype
def test_negating_any_two_weights_is_noticed(dtype):
    layer = make_layer("rnn_tanh", 24, 24, dtype=dtype)
    problem = random_problem(layer, 2, 2)
    weight = layer.parameters["weight_ih_l0"].reshape(-1)
    before = outputs(layer, problem)["y"]
    for distance in [1, 2, 3, 4, 8, 16, 31, 32, 33, 64, 128, 256]:
        pair = [5, 5 + distance]
        weight[pair] *= -1
        assert not np.array_equal(outputs(layer, problem)["y"], before), distance
        weight[pair] *= -1


@pytest.fixture
def packings(monkeypatch):
    """A list with an entry for each time that weights are packed."""
    from fastrnn.kernels import compiled

    from fastrnn.prepared import Prepared

    kernels = {compiled.kernel(f"packing {dtype}") for dtype in DTYPES}
    seen, run = [], Prepared.run

    def spy(prepared, *args):
        if prepared._kernel in kernels:
            seen.append(prepared._kernel)
        return run(prepared, *args)

    monkeypatch.setattr(Prepared, "run", spy)
    return seen


@every_kind
def test_weights_are_packed_again_only_after_a_change(kind, packings):
    layer = make_layer(kind, 6, 37)
    problem = random_problem(layer, 4, 3)
    outputs(layer, problem)
    assert len(packings) == 1
    everything(layer, problem)
    assert len(packings) == 2  # for the backward pass
    everything(layer, problem)
    everything(layer, random_problem(layer, 9, 2))
    layer.parameters["weight_hh_l0"][0, 0] *= 1
    outputs(layer, problem)
    assert len(packings) == 2
    layer.parameters["weight_hh_l0"][0, 0] += 1
    outputs(layer, problem)
    assert len(packings) == 3
    everything(layer, problem)
    assert len(packings) == 4
    for _ in range(3):
        layer.parameters["weight_hh_l0"][0, 0] += 1
        run_kernels(layer, problem)
    assert len(packings) == 7  # in training for both passes at once


@every_kind
@pytest.mark.parametrize("others", [False, True], ids=["own", "others"])
def test_a_training_step_looks_at_changed_weights_once_and_then_within_its_runs(kind, others, monkeypatch):
    from fastrnn.watching import Watched

    looks, pieces = [], Watched.pieces
    monkeypatch.setattr(Watched, "pieces", lambda *arguments: looks.append(1) or pieces(*arguments))
    layer = make_layer(kind, 6, 37)
    problem = random_problem(layer, 4, 3)
    sequence = layer.sequences[0]
    weights = [{name: value.copy() for name, value in sequence.parameters.directions[0].items()}] if others else None
    changed = (weights or sequence.parameters.directions)[0]["weight_hh"]
    for _ in range(4):
        changed[0, 0] += 1
        looks.clear()
        run_kernels(layer, problem, weights)
        assert len(looks) == 1  # forward; backward its run looks, and finds none


@every_kind
def test_backward_never_runs_with_weights_that_another_run_has_packed_meanwhile(kind):
    layer = make_layer(kind, 3, 5)
    problem = random_problem(layer, 4, 2)
    (y, _), backward = layer.vjp(problem.x)
    everything(layer, problem)
    for parameter in layer.parameters.values():
        parameter *= 2
    for _ in range(3):  # the last one finds nothing changed
        everything(layer, problem)
    with pytest.raises(RuntimeError, match="the parameters have changed since vjp"):
        backward(y)


# Weights of others


def run_kernels(layer, problem, weights=None):
    kernels = layer.sequences[0].kernels()
    y, states_n, saved = kernels.forward(problem.x, problem.state, True, None, weights)
    y = y.copy()
    dx, dstates_0, gradients = kernels.backward(saved, problem.dy, problem.dstate, weights)
    named = dict(enumerate((y, *states_n, dx, *dstates_0)))
    return named | {(d, name): value for d, each in enumerate(gradients) for name, value in each.items()}


@every_dtype
@every_kind
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_arrays_may_stand_in_for_the_parameters(kind, dtype, bias, packings):
    own, others = (make_layer(kind, 5, 21, dtype=dtype, bidirectional=True, bias=bias, seed=seed) for seed in (0, 1))
    problem = random_problem(own, 4, 3)
    weights = [
        {name: None if value is None else value.copy() for name, value in direction.items()}
        for direction in others.sequences[0].parameters.directions
    ]
    expected_own = run_kernels(own, problem)
    expected = run_kernels(others, problem)
    packings.clear()
    for _ in range(2):
        assert_same_bits(run_kernels(own, problem, weights), expected)
    assert len(packings) == 1  # for both passes at once
    weights[1]["weight_hh"][-1, -1] += 1
    others.parameters["weight_hh_l0_reverse"][-1, -1] += 1
    changed = run_kernels(others, problem)
    assert_same_bits(run_kernels(own, problem, weights), changed)
    assert_same_bits(run_kernels(own, problem), expected_own)


def test_an_interrupt_between_two_sets_of_weights_is_made_good(monkeypatch):
    from fastrnn.weights import Weights

    own, others = (make_layer("gru", 5, 21, seed=seed) for seed in (0, 1))
    problem = random_problem(own, 4, 3)
    weights = [dict(others.sequences[0].parameters.directions[0])]
    expected_own, expected = (run_kernels(layer, problem) for layer in (own, others))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "_arrays", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_kernels(own, problem, weights)
    assert_same_bits(run_kernels(own, problem, weights), expected)
    assert_same_bits(run_kernels(own, problem), expected_own)


@every_kind
def test_changes_in_large_weights_are_noticed(kind, threads):
    """Their checksums are taken piece by piece, by several threads."""
    threads(2)
    layer = make_layer(kind, 1500, 300)
    problem = random_problem(layer, 1, 1)
    before = outputs(layer, problem)
    assert layer.sequences[0].kernels().weights._known.source.watched.together
    for place in (0, 1, 70_000, -1):
        for parameter in layer.parameters.values():
            flat = parameter.reshape(-1)
            if place < len(flat):
                kept = flat[place]
                flat[place] = 1e6
                fresh = make_layer(kind, 1500, 300)
                fresh.load_state_dict(layer.state_dict())
                assert_same_bits(outputs(layer, problem), outputs(fresh, problem))
                flat[place] = kept
    assert_same_bits(outputs(layer, problem), before)


if __name__ == "__main__":
    run_fenced(sys.argv[1])
