"""Frame by frame: what a stream takes and gives beside the right bits, which tests/test_same_bits.py holds."""

import copy
import pickle
import re

import numpy as np
import pytest
from conftest import KINDS, as_state, as_tuple, assert_same_bits, make_layer, random_problem

import fastrnn

BACKENDS = ("cpu", "reference")


@pytest.mark.parametrize("kind", KINDS)
def test_layers_may_use_different_numbers_of_threads(kind, threads, monkeypatch):
    """As where the first layer has few inputs, and so too little work for two threads."""
    from fastrnn.sharing import Sharing

    layer = make_layer(kind, 1, 37, num_layers=2)
    problem = random_problem(layer, 5, 3)
    threads(2)
    monkeypatch.setattr(
        Sharing, "share", lambda self, *_, **__: (1, False) if self.layout.input_size == 1 else (2, True)
    )
    stream = layer.stream(3)
    stream.reset(as_state(problem.state))
    steps = np.stack([stream.step(frame) for frame in problem.x])
    y, state = layer(problem.x, as_state(problem.state))
    assert_same_bits({"y": steps}, {"y": y})
    assert_same_bits(dict(enumerate(as_tuple(stream.state))), dict(enumerate(as_tuple(state))))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_backends_agree_on_every_step(backend, batch_first):
    layer = make_layer("lstmp", 3, 7, num_layers=2, dropout=0.5, batch_first=batch_first, backend=backend)
    whole = make_layer("lstmp", 3, 7, num_layers=2)
    problem = random_problem(whole, 4, 2)
    stream = layer.stream(2)
    stream.reset(as_state(problem.state))
    steps = np.stack([stream.step(frame) for frame in problem.x])
    y, state = whole(problem.x, as_state(problem.state))
    np.testing.assert_allclose(steps, y, rtol=0, atol=1e-6)
    for own, expected in zip(stream.state, state, strict=True):
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_weights_are_those_of_when_it_was_made(backend):
    layer = make_layer("gru", 3, 3, backend=backend)
    x = random_problem(layer, 5, 1).x[:, 0]
    expected = layer(x)[0]
    stream = layer.stream()
    layer.parameters["weight_hh_l0"][...] = 0
    keep = []
    for number in range(4):  # what the layer packed of them goes, and its memory is used for something else
        layer.parameters["weight_ih_l0"][...] = number
        layer(x)
        keep.append(np.full(1 << 10, np.nan, "float32"))
    steps = np.stack([stream.step(frame) for frame in x])
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-6)


def test_memory_that_the_kernels_read_lives_as_long_as_the_stream():
    layer = make_layer("gru", 16, 64)
    x = random_problem(layer, 5, 1).x[:, 0]
    expected = layer(x)[0].copy()
    stream, keep = layer.stream(), []
    size = layer.sequences[0].kernels().weights.forward_layout.numbers
    for number in range(4):
        for parameter in layer.parameters.values():
            parameter[...] = number
        layer(x)
        keep.append(np.full(size + 16, np.nan, "float32"))
    np.testing.assert_array_equal(np.stack([stream.step(frame) for frame in x]), expected)


class Interrupted(np.ndarray):
    """Its copy is made, and then an interrupt is heard."""

    def copy(self):
        super().copy()
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", ["run", "copy"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_an_interrupted_step_leaves_the_state_as_it_was(kind, backend, after):
    """Python looks for signals when a call has returned: that of the kernel, or the last one."""
    layer = make_layer(kind, 3, 5, num_layers=2, backend=backend)
    x = random_problem(layer, 3, 1).x[:, 0]
    other = layer.stream()
    expected = [other.step(frame) for frame in x]
    stream = layer.stream()
    stream.step(x[0])
    before, run, outputs = as_tuple(stream.state), stream._run, stream._flat_outputs

    def interrupted(turn):
        run(turn)
        raise KeyboardInterrupt

    if after == "run":
        stream._run = interrupted
    else:
        stream._flat_outputs = [y.view(Interrupted) for y in outputs]
    with pytest.raises(KeyboardInterrupt):
        stream.step(x[1])
    stream._run, stream._flat_outputs = run, outputs
    assert_same_bits(dict(enumerate(as_tuple(stream.state))), dict(enumerate(before)))
    for frame, y in zip(x[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(stream.step(frame), y)


def test_a_stream_uses_no_more_threads_than_there_are_at_a_step(threads, monkeypatch):
    from fastrnn.kernels import compiled

    layer = make_layer("lstm", 230, 300)
    x = random_problem(layer, 3, 1).x[:, 0]
    threads(2)
    stream = layer.stream()
    expected = [stream.step(frame) for frame in x]
    stream.reset()

    def never(*arguments):
        raise AssertionError("the pool was asked")

    monkeypatch.setattr(compiled, "run_together", never)
    with pytest.raises(AssertionError, match="the pool was asked"):
        stream.step(x[0])
    threads(1)
    for frame, y in zip(x, expected, strict=True):
        np.testing.assert_array_equal(stream.step(frame), y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_may_be_any_memory_even_that_of_the_frame(backend):
    layer = make_layer("gru", 3, 3, backend=backend)
    x = random_problem(layer, 4, 1).x[:, 0]
    stream, other = layer.stream(), layer.stream()
    expected = [other.step(frame) for frame in x]
    frame, wide = x[0].copy(), np.zeros((2, 6), "float32")
    assert stream.step(frame, out=frame) is frame
    backwards, strided = wide[0, :3][::-1], wide[:, ::2][1]
    stream.step(x[1], out=backwards)
    stream.step(x[2][::-1].copy()[::-1], out=strided)
    assert_same_bits(dict(enumerate((frame, backwards.copy(), strided.copy()))), dict(enumerate(expected[:3])))


X = np.zeros((2, 3), "float32")
WRONG_FRAMES = {
    "list": (X.tolist(), TypeError, "expected a NumPy array, got list"),
    "masked": (np.ma.masked_equal(X, 1), TypeError, "expected a NumPy array without a mask, got MaskedArray"),
    "float64": (X.astype("float64"), TypeError, "expected float32, got float64"),
    "byte-swapped": (X.astype(">f4"), TypeError, "expected float32, got >f4"),
    "one row": (X[:1], ValueError, "expected shape (2, 3), got (1, 3)"),
    "no batch": (X[0], ValueError, "expected shape (2, 3), got (3,)"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", WRONG_FRAMES)
def test_a_wrong_frame_or_out_leaves_the_state(backend, wrong):
    value, error, message = WRONG_FRAMES[wrong]
    stream = make_layer("lstm", 3, 3, backend=backend).stream(2)
    stream.step(X + 1)
    before = stream.state
    with pytest.raises(error, match=f"^{re.escape(f'x: {message}')}"):
        stream.step(value)
    with pytest.raises(error, match=f"^{re.escape(f'out: {message}')}"):
        stream.step(X, out=value)
    assert_same_bits(dict(zip("hc", stream.state, strict=True)), dict(zip("hc", before, strict=True)))


def test_a_read_only_out_leaves_the_state():
    stream = make_layer("rnn_tanh", 3, 4).stream()
    before = stream.state
    with pytest.raises(ValueError, match=r"^out: expected a writeable array, got a read-only one"):
        stream.step(X[0], out=np.broadcast_to(np.float32(0), 4))
    assert_same_bits({"h": stream.state}, {"h": before})


H = np.zeros((1, 2, 4), "float32")
WRONG_STATES = {
    "an array": (H, TypeError, "state: expected a tuple (h, c), got ndarray"),
    "three": ((H, H, H), ValueError, "state: expected a tuple (h, c), got 3 entries"),
    "None in it": ((H, None), TypeError, "c: expected a NumPy array, got NoneType"),
    "masked": ((np.ma.masked_equal(H, 1), H), TypeError, "h: expected a NumPy array without a mask, got MaskedArray"),
    "shape": ((H, H[0]), ValueError, "c: expected shape (1, 2, 4), got (2, 4)"),
}


@pytest.mark.parametrize("wrong", WRONG_STATES)
def test_reset_to_a_wrong_state_leaves_the_state(wrong):
    state, error, message = WRONG_STATES[wrong]
    stream = make_layer("lstm", 3, 4).stream(2)
    stream.step(X + 1)
    before = stream.state
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        stream.reset(state)
    assert_same_bits(dict(zip("hc", stream.state, strict=True)), dict(zip("hc", before, strict=True)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_cannot_be_copied(backend, duplicate):
    """Its argument blocks hold addresses of its own memory: a copy would go on in the original's."""
    stream = make_layer("gru", 3, 4, backend=backend).stream()
    with pytest.raises(TypeError, match="a stream can be neither copied nor pickled"):
        duplicate(stream)


def test_the_number_of_threads_may_change_while_a_stream_is_made(threads, monkeypatch):
    """As another thread may do: what was laid out for one number must not meet what is for another."""
    from fastrnn.cpu import CpuLayer

    step_plan, bind_step = CpuLayer.step_plan, CpuLayer.bind_step
    layer = make_layer("lstm", 130, 203)
    problem = random_problem(layer, 3, 1)
    expected = layer(problem.x)[0]

    def binding(kernels, *arguments):
        fastrnn.set_num_threads(1)
        return bind_step(kernels, *arguments)

    monkeypatch.setattr(CpuLayer, "bind_step", binding)
    threads(2)
    stream = layer.stream()
    assert step_plan(layer.sequences[0].kernels(), 1).workers == 1
    for x, y in zip(problem.x, expected, strict=True):
        np.testing.assert_array_equal(stream.step(x), y)


def test_two_directions_cannot_be_streamed():
    with pytest.raises(ValueError, match=r"^a stream needs a layer of one direction, got bidirectional=True"):
        make_layer("gru", 3, 4, bidirectional=True).stream()


@pytest.mark.parametrize("batch_size", [2**40, 2**62, 10**30])
def test_a_batch_that_does_not_fit_into_memory_is_named(batch_size):
    with pytest.raises(MemoryError, match=rf"^batch_size={batch_size}: the states do not fit into memory: "):
        make_layer("gru", 3, 4).stream(batch_size)


class _Refusing:
    """A state that Ctrl-C comes before."""

    shape = (1, 1, 4)

    def __setitem__(self, place, values):
        raise KeyboardInterrupt


def test_an_interrupted_reset_leaves_the_state_as_it_was():
    layer = make_layer("lstm", 3, 4)
    stream = layer.stream()
    stream.step(np.ones(3, np.float32))
    before = stream.state
    h, c = np.ones_like(before[0]), np.ones_like(before[1])
    states = stream._states[1 - stream._turn]
    stream._states[1 - stream._turn] = (states[0], _Refusing())
    with pytest.raises(KeyboardInterrupt):
        stream.reset((h, c))
    for one, other in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_a_stream_is_made_for_stays():
    stream = make_layer("gru", 3, 4).stream(2)
    for name, value in (("batch_size", 9), ("dtype", np.dtype("float64"))):
        with pytest.raises(AttributeError):
            setattr(stream, name, value)


@pytest.mark.parametrize("batch_size", [0, 1.0, True])
def test_the_batch_size_is_a_positive_integer(batch_size):
    with pytest.raises((TypeError, ValueError), match=r"^batch_size: expected an integer"):
        make_layer("gru", 3, 4).stream(batch_size)
