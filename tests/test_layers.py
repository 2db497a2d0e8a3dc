"""What the layers do with each of their options, beside the numbers (those: test_torch_parity.py)."""

import copy
import errno
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastrnn.kernels import checksum

import fastrnn
from fastrnn import files

BACKENDS = ["reference", "cpu"]
LAYERS = {
    "lstm": (fastrnn.LSTM, {}),
    "lstmp": (fastrnn.LSTM, {"proj_size": 2}),
    "gru": (fastrnn.GRU, {}),
    "gru_reset_before": (fastrnn.GRU, {"reset_after": False}),
    "rnn_tanh": (fastrnn.RNN, {}),
    "rnn_relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
}
T, B, I, H = 6, 4, 3, 5


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=LAYERS)
def make(request, backend):
    """A function that makes a layer of each kind, float64 so that rounding does not blur comparisons."""
    kind, kind_options = LAYERS[request.param]

    def make(*args, **options):
        defaults = {"dtype": "float64", "seed": 0, "backend": backend}
        return kind(*(args or (I, H)), **(defaults | kind_options | options))

    return make


@pytest.fixture
def lstm(backend):
    """A function that makes an LSTM, for what does not depend on the cell."""

    def lstm(*args, **options):
        return fastrnn.LSTM(*(args or (I, H)), **({"dtype": "float64", "seed": 0, "backend": backend} | options))

    return lstm


def normal(*shape, seed=1, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def random_state(layer, *batch, seed=2):
    """A state for `layer`: arrays (L*D, *batch, n)."""
    rows = layer.num_layers * layer.num_directions
    h = normal(rows, *batch, layer.proj_size or layer.hidden_size, seed=seed).astype(layer.dtype)
    if not isinstance(layer, fastrnn.LSTM):
        return h
    return h, normal(rows, *batch, layer.hidden_size, seed=seed + 1).astype(layer.dtype)


def arrays(state):
    return state if isinstance(state, tuple) else (state,)


def as_state(values):
    return tuple(values) if len(values) == 2 else values[0]


def assert_same(a, b):
    """Equal arrays, states, or dictionaries of arrays."""
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = tuple(a.values()), tuple(b.values())
    for one, other in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(a, b):
    for one, other in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


# Shapes and layouts


@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_and_dtypes_of_outputs_and_gradients(make, layers, bidirectional):
    layer = make(I, H, layers, bidirectional=bidirectional, dtype="float32")
    D, R = 1 + bidirectional, layer.proj_size or H
    widths = (R, H) if isinstance(layer, fastrnn.LSTM) else (R,)
    x = normal(T, B, I, dtype="float32")
    (y, state), backward = layer.vjp(x)
    gradients = backward(y, state)
    assert y.shape == (T, B, D * R)
    assert gradients.x.shape == x.shape
    for each in (state, gradients.state):
        assert isinstance(each, tuple) == (len(widths) == 2)
        assert [s.shape for s in arrays(each)] == [(layers * D, B, n) for n in widths]
    assert {n: g.shape for n, g in gradients.parameters.items()} == {n: p.shape for n, p in layer.parameters.items()}
    everything = [y, gradients.x, *arrays(state), *arrays(gradients.state), *gradients.parameters.values()]
    assert {a.dtype for a in everything} == {np.dtype("float32")}


def test_the_state_defaults_to_zeros(make):
    layer = make(I, H, 2)
    x = normal(T, B, I)
    zeros = as_state([np.zeros_like(s) for s in arrays(random_state(layer, B))])
    y, state = layer(x)
    expected_y, expected_state = layer(x, zeros)
    assert_same(y, expected_y)
    assert_same(state, expected_state)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_results_are_the_callers_to_write_to(make, steps, layers):
    """The zeros that a layer begins with, and keeps, are not among them, and no array is a part of another."""
    layer = make(I, H, layers)
    x = normal(steps, B, I)
    expected, expected_state = layer(x)
    y, state = layer(x)
    (y_2, state_2), backward = layer.vjp(x)
    gradients = backward(None)
    results = [y, *arrays(state), y_2, *arrays(state_2), gradients.x, *arrays(gradients.state)]
    results += gradients.parameters.values()
    kept = [result.copy() for result in results]
    for n, result in enumerate(results):
        result[...] = 7
        kept[n][...] = 7
        for other, value in zip(results, kept, strict=True):
            np.testing.assert_array_equal(other, value)
    y, state = layer(x)
    assert_same(y, expected)
    assert_same(state, expected_state)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("x", [normal(T, B, I), normal(T, I)], ids=["batch", "sequence"])
def test_what_backward_reads_cannot_be_written_to(make, batch_first, x):
    layer = make(I, H, batch_first=batch_first)
    (y, _), backward = layer.vjp(x)
    with pytest.raises(ValueError, match="read-only"):
        y -= 1
    for copy_of in (copy.deepcopy(backward), backward):
        assert not y.flags.writeable
        copy_of(y)
    y -= 1
    (y, _), backward = layer.vjp(x)
    del backward
    y -= 1
    y, _ = layer(x)
    y -= 1


def test_omitted_upstream_gradients_are_zeros(make):
    layer = make(I, H, 2, bidirectional=True)
    x, state_0 = normal(T, B, I), random_state(layer, B)
    (y, state), _ = layer.vjp(x, state_0)
    dy, dstate = normal(*y.shape), random_state(layer, B, seed=5)
    no_y, no_state = np.zeros_like(y), as_state([np.zeros_like(s) for s in arrays(state)])
    for omitted, zeros in [((dy,), (dy, no_state)), ((None, dstate), (no_y, dstate)), ((None,), (no_y, no_state))]:
        gradients = layer.vjp(x, state_0)[1](*omitted)
        expected = layer.vjp(x, state_0)[1](*zeros)
        assert_same(gradients.x, expected.x)
        assert_same(gradients.state, expected.state)
        assert_same(gradients.parameters, expected.parameters)


def test_either_part_of_the_lstms_state_gradient_may_be_none(lstm):
    layer = lstm(I, H, 2)
    x, dh, dc = normal(T, B, I), normal(2, B, H, seed=3), normal(2, B, H, seed=4)
    only_h = layer.vjp(x)[1](None, (dh, None))
    only_c = layer.vjp(x)[1](None, (None, dc))
    assert_same(only_h.x, layer.vjp(x)[1](None, (dh, np.zeros_like(dc))).x)
    assert_same(only_c.x, layer.vjp(x)[1](None, (np.zeros_like(dh), dc)).x)
    assert_close(only_h.x + only_c.x, layer.vjp(x)[1](None, (dh, dc)).x)


def test_batch_first_transposes_sequences_but_not_states(make):
    layer, batch_first = make(I, H, 2), make(I, H, 2, batch_first=True)
    x, state_0 = normal(T, B, I), random_state(layer, B)
    (y, state), backward = layer.vjp(x, state_0)
    (y_bf, state_bf), backward_bf = batch_first.vjp(x.swapaxes(0, 1), state_0)
    assert_same(y_bf, y.swapaxes(0, 1))
    assert_same(state_bf, state)
    dy = normal(*y.shape)
    gradients, gradients_bf = backward(dy, state_0), backward_bf(dy.swapaxes(0, 1), state_0)
    assert_same(gradients_bf.x, gradients.x.swapaxes(0, 1))
    assert_same(gradients_bf.state, gradients.state)
    assert_same(gradients_bf.parameters, gradients.parameters)


@pytest.mark.parametrize("batch_first", [False, True])
def test_without_batch_dimension_is_a_batch_of_one(make, batch_first):
    layer = make(I, H, 2, batch_first=batch_first)
    one = 0 if batch_first else 1
    x, state_0 = normal(T, I), random_state(layer)
    (y, state), backward = layer.vjp(x, state_0)
    batched_state_0 = as_state([s[:, None] for s in arrays(state_0)])
    (batched_y, batched_state), batched_backward = layer.vjp(np.expand_dims(x, one), batched_state_0)
    assert y.shape == (T, layer.proj_size or H)
    assert_same(y, batched_y.squeeze(one))
    assert_same(state, as_state([s[:, 0] for s in arrays(batched_state)]))
    dy = normal(*y.shape)
    gradients = backward(dy, state_0)
    batched_gradients = batched_backward(np.expand_dims(dy, one), batched_state_0)
    assert_same(gradients.x, batched_gradients.x.squeeze(one))
    assert_same(gradients.state, as_state([s[:, 0] for s in arrays(batched_gradients.state)]))
    assert_same(gradients.parameters, batched_gradients.parameters)
    assert_same(layer(x)[0], layer(np.expand_dims(x, one))[0].squeeze(one))


def test_the_second_direction_is_the_first_on_reversed_time(make):
    both, forward, reverse = make(I, H, bidirectional=True), make(), make()
    for name, array in both.parameters.items():
        direction = reverse if name.endswith("_reverse") else forward
        direction.parameters[name.removesuffix("_reverse")][...] = array
    x, state_0 = normal(T, B, I), random_state(both, B)
    y, state = both(x, state_0)
    state_0s = [as_state([s[d : d + 1] for s in arrays(state_0)]) for d in (0, 1)]
    y_forward, state_forward = forward(x, state_0s[0])
    y_reverse, state_reverse = reverse(x[::-1], state_0s[1])
    assert_same(y, np.concatenate([y_forward, y_reverse[::-1]], axis=2))
    for s, f, r in zip(arrays(state), arrays(state_forward), arrays(state_reverse), strict=True):
        assert_same(s, np.concatenate([f, r]))


def test_layers_are_applied_one_after_the_other(make):
    stack, first = make(I, H, 2, bidirectional=True), make(I, H, bidirectional=True)
    second = make(first(normal(T, B, I))[0].shape[2], H, bidirectional=True)
    for name, array in stack.parameters.items():
        (first if "_l0" in name else second).parameters[name.replace("_l1", "_l0")][...] = array
    x, state_0 = normal(T, B, I), random_state(stack, B)
    y, state = stack(x, state_0)
    y_first, state_first = first(x, as_state([s[:2] for s in arrays(state_0)]))
    y_second, state_second = second(y_first, as_state([s[2:] for s in arrays(state_0)]))
    assert_same(y, y_second)
    for s, one, two in zip(arrays(state), arrays(state_first), arrays(state_second), strict=True):
        assert_same(s, np.concatenate([one, two]))


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, True)], ids=["L1", "L1-bi", "L2-bi"])
@pytest.mark.parametrize(("steps", "batch"), [(0, B), (T, 0), (0, 0)])
def test_no_steps_or_no_rows_pass_the_state_through(make, steps, batch, layers, bidirectional):
    layer = make(I, H, layers, bidirectional=bidirectional)
    x, state_0 = np.empty((steps, batch, I)), random_state(layer, batch)
    (y, state), backward = layer.vjp(x, state_0)
    dstate = random_state(layer, batch, seed=7)
    gradients = backward(np.empty_like(y), dstate)
    assert y.shape == (steps, batch, layer.num_directions * (layer.proj_size or H))
    assert_same(state, state_0)
    assert_same(gradients.state, dstate)
    assert gradients.x.shape == x.shape
    assert_same(gradients.parameters, {name: np.zeros_like(p) for name, p in layer.parameters.items()})
    for out, given in [(state, state_0), (gradients.state, dstate)]:
        assert not any(np.shares_memory(a, b) for a, b in zip(arrays(out), arrays(given), strict=True))
    assert_same(layer(x, state_0)[1], state_0)


def _reversed_strides(a):
    return np.ascontiguousarray(a[(slice(None, None, -1),) * a.ndim])[(slice(None, None, -1),) * a.ndim]


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _misaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)
    misaligned = raw[1:].view(a.dtype).reshape(a.shape)
    misaligned[...] = a
    return misaligned


def _padded(a):
    """Every second element of a larger array."""
    padded = np.full([2 * n for n in a.shape], np.nan)
    padded[(slice(None, None, 2),) * a.ndim] = a
    return padded[(slice(None, None, 2),) * a.ndim]


def test_what_kernels_read_is_aligned():
    """Processors differ in what they do with numbers that are not: x86 is only slower."""
    from fastrnn.validation import contiguous

    values = np.arange(6, dtype="float32").reshape(2, 3)
    given = _misaligned(values)
    assert given.flags.c_contiguous
    assert not given.flags.aligned
    assert contiguous(given).flags.aligned
    np.testing.assert_array_equal(contiguous(given), values)
    assert contiguous(values) is values


MEMORY = {
    "fortran": np.asfortranarray,
    "reversed": _reversed_strides,
    "read_only": _read_only,
    "misaligned": _misaligned,
    "padded": _padded,
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("memory", MEMORY)
def test_arrays_of_any_memory_layout_give_the_same_and_stay_as_they_are(make, memory, batch_first):
    layer = make(I, H, 2, bidirectional=True, batch_first=batch_first)
    x, state_0 = normal(B, T, I) if batch_first else normal(T, B, I), random_state(layer, B)
    (y, state), backward = layer.vjp(x, state_0)
    dy, dstate = normal(*y.shape), random_state(layer, B, seed=5)
    gradients = backward(dy, dstate)

    odd_x, odd_dy = MEMORY[memory](x), MEMORY[memory](dy)
    odd_state_0, odd_dstate = (as_state([MEMORY[memory](a) for a in arrays(s)]) for s in (state_0, dstate))
    (odd_y, odd_state), odd_backward = layer.vjp(odd_x, odd_state_0)
    odd_gradients = odd_backward(odd_dy, odd_dstate)
    assert_same(odd_y, y)
    assert_same(odd_state, state)
    assert_same(odd_gradients.x, gradients.x)
    assert_same(odd_gradients.state, gradients.state)
    assert_same(odd_gradients.parameters, gradients.parameters)
    for odd, original in [(odd_x, x), (odd_dy, dy), (odd_state_0, state_0), (odd_dstate, dstate)]:
        assert_same(odd, original)


def test_a_memory_mapped_file_is_an_array(lstm, tmp_path):
    layer, x = lstm(), normal(T, B, I)
    np.save(tmp_path / "x.npy", x)
    y, _ = layer(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert type(y) is np.ndarray
    assert_same(y, layer(x)[0])


# Gradients


def test_vjp_returns_what_the_call_returns(make):
    layer = make(I, H, 2)
    x, state_0 = normal(T, B, I), random_state(layer, B)
    (y, state), _ = layer.vjp(x, state_0)
    assert_same(y, layer(x, state_0)[0])
    assert_same(state, layer(x, state_0)[1])


def test_gradients_are_those_of_finite_differences_through_dropout(make):
    layer = make(I, H, 3, bidirectional=True, dropout=0.4)
    x, state_0 = normal(T, B, I), random_state(layer, B)
    dx, dparameters = normal(*x.shape, seed=8), {n: normal(*p.shape, seed=9) for n, p in layer.parameters.items()}

    def shifted(step):
        """y and the state at a step along a random line through the inputs, under the same dropout masks."""
        moved = copy.deepcopy(layer)
        for name, parameter in moved.parameters.items():
            parameter += step * dparameters[name]
        return moved(x + step * dx, state_0)

    (y_before, state_before), (y_after, state_after) = shifted(-1e-6), shifted(1e-6)
    (y, _), backward = layer.vjp(x, state_0)
    upstream = normal(*y.shape, seed=10), random_state(layer, B, seed=11)
    gradients = backward(*upstream)
    pairs = [(upstream[0], y_after - y_before)]
    pairs += [
        (d, after - before)
        for d, after, before in zip(arrays(upstream[1]), arrays(state_after), arrays(state_before), strict=True)
    ]
    expected = sum(np.vdot(d, change) for d, change in pairs) / 2e-6
    result = np.vdot(gradients.x, dx) + sum(np.vdot(gradients.parameters[n], d) for n, d in dparameters.items())
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_backward_can_be_called_once(lstm):
    (y, _), backward = lstm().vjp(normal(T, B, I))
    backward(y)
    with pytest.raises(RuntimeError, match="already called"):
        backward(y)


@pytest.mark.parametrize("batch", [B, T])
@pytest.mark.parametrize("batch_first", [False, True])
def test_backward_keeps_the_layout_of_its_run(make, batch_first, batch):
    layer, x = make(I, H, batch_first=batch_first), normal(T, batch, I)
    x = x.swapaxes(0, 1) if batch_first else x
    runs = [layer.vjp(x) for _ in range(2)]
    dy = normal(*runs[0][0][0].shape, seed=3)
    expected = runs[0][1](dy)
    layer.batch_first = not batch_first
    gradients = runs[1][1](dy)
    assert_same(gradients.x, expected.x)
    assert_same(gradients.parameters, expected.parameters)
    assert layer(x)[0].shape == (*x.shape[:2], *dy.shape[2:])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda backward: pickle.loads(pickle.dumps(backward))])
@pytest.mark.parametrize("lengths", [None, [2, 0, 6, 3]])
def test_a_copied_backward_has_its_own_memory(make, duplicate, lengths):
    layer = make(I, H, 2, dropout=0.5, bidirectional=True)
    (y, _), backward = layer.vjp(normal(T, B, I), lengths=lengths)
    dy = normal(*y.shape, seed=3)
    copied = duplicate(backward)
    gradients = copied(dy)
    assert_same(gradients.parameters, backward(dy).parameters)
    with pytest.raises(RuntimeError, match="already called"):
        copied(dy)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_backward_pickled_on_another_kind_of_processor_is_of_use(make, recompute, monkeypatch):
    """Where weights are watched in another way: whether they have changed cannot be told, so they have not."""
    if checksum.kernel_name() == "checksum products":
        pytest.skip("this processor has but the one way that all have")
    layer = make(I, H, 2)
    if recompute and layer.backend == "reference":
        pytest.skip("the reference keeps every step")
    (y, _), backward = layer.vjp(normal(T, B, I), recompute=recompute)
    there = pickle.dumps(backward)
    expected = backward(np.ones_like(y))
    monkeypatch.setattr(checksum, "kernel_name", lambda: "checksum products")
    gradients = pickle.loads(there)(np.ones_like(y))
    assert_same(gradients.x, expected.x)
    assert_same(gradients.parameters, expected.parameters)


def test_a_shallow_copy_of_backward_is_refused(lstm):
    """It would go on with what the original has overwritten."""
    _, backward = lstm().vjp(normal(T, B, I))
    with pytest.raises(TypeError, match=r"use copy\.deepcopy"):
        copy.copy(backward)


def test_backwards_of_several_runs_do_not_disturb_each_other(make):
    layer = make(I, H, 2)
    xs = [normal(T, B, I, seed=20), normal(T + 2, B, I, seed=21)]
    expected = [layer.vjp(x)[1](np.ones_like(layer(x)[0])) for x in xs]
    runs = [layer.vjp(x) for x in xs]
    for ((y, _), backward), wanted in zip(runs, expected, strict=True):
        gradients = backward(np.ones_like(y))
        assert_same(gradients.x, wanted.x)
        assert_same(gradients.parameters, wanted.parameters)


@pytest.mark.parametrize("lengths", [None, [2, 0, 6, 3]])
def test_parameters_that_have_changed_since_vjp_are_an_error(make, lengths):
    layer = make(I, H, 2, bidirectional=True)
    x = normal(T, B, I)
    for values in layer.parameters.values():
        (y, _), backward = layer.vjp(x, lengths=lengths)
        before = values.copy()
        values.flat[-1] += 1
        with pytest.raises(RuntimeError, match="backward: the parameters have changed since vjp"):
            backward(y)
        values[...] = before


def test_parameters_may_have_changed_since_vjp_and_back_again(make):
    layer, x = make(I, H), normal(T, B, I)
    (y, _), backward = layer.vjp(x)
    expected = layer.vjp(x)[1](y)
    for values in layer.parameters.values():
        values *= -1
    layer.vjp(x)[1](y)  # which also packs these
    for values in layer.parameters.values():
        values *= -1
    gradients = backward(y)
    assert_same(gradients.x, expected.x)
    assert_same(gradients.parameters, expected.parameters)


def test_gradients_are_the_callers_own(make):
    layer = make(I, H, 2, bidirectional=True)
    (y, state), backward = layer.vjp(normal(T, B, I))
    gradients = backward(np.ones_like(y))
    before = layer.state_dict()
    for array in (y, gradients.x, *arrays(state), *arrays(gradients.state), *gradients.parameters.values()):
        array[...] = np.nan
    assert_same(layer.state_dict(), before)
    assert np.isfinite(layer(normal(T, B, I))[0]).all()


# Parameters


def test_parameters_are_live(make):
    layer = make(I, H, 2, bidirectional=True)
    x = normal(T, B, I)
    for name in layer.parameters:
        before = layer(x)[0]
        layer.parameters[name][...] *= 1.5
        assert not np.array_equal(layer(x)[0], before), name


def test_the_mapping_of_parameters_is_read_only(lstm):
    layer = lstm()
    with pytest.raises(TypeError):
        layer.parameters["weight_ih_l0"] = np.zeros((4 * H, I))
    with pytest.raises(AttributeError):
        layer.parameters = {}


def test_each_layers_parameters_share_one_aligned_buffer(make):
    layer = make(I, H, 2, bidirectional=True)
    for number, sequence in enumerate(layer.sequences):
        flat = sequence.parameters.flat
        assert flat.flags.c_contiguous
        assert flat.ctypes.data % 64 == 0
        mine = [a for name, a in layer.parameters.items() if f"_l{number}" in name]
        assert sum(a.size for a in mine) == flat.size
        assert_same(np.concatenate([a.ravel() for a in mine]), flat)
        assert all(np.shares_memory(a, flat) for a in mine)


def test_state_dict_is_a_copy_and_loads_back(make):
    layer, other = make(I, H, 2), make(I, H, 2, seed=1)
    values = layer.state_dict()
    assert type(values) is dict
    other.load_state_dict(dict(reversed(values.items())))
    assert_same(other.state_dict(), values)
    values["weight_ih_l0"][...] = 0
    assert np.all(layer.parameters["weight_ih_l0"] != 0)
    assert np.all(other.parameters["weight_ih_l0"] != 0)


def test_parameters_can_be_loaded_from_the_layers_own_arrays(make):
    layer = make(I, H, bidirectional=True)

    def swapped(name):
        return name.removesuffix("_reverse") if name.endswith("_reverse") else name + "_reverse"

    before = layer.state_dict()
    layer.load_state_dict({swapped(name): array for name, array in layer.parameters.items()})
    assert_same(layer.state_dict(), {name: before[swapped(name)] for name in before})


def test_initial_parameters_are_uniform_in_one_over_root_hidden_size():
    layer = fastrnn.LSTM(60, 64, 2, proj_size=20, seed=0, backend="reference")
    bound = 1 / np.sqrt(64)
    for name, array in layer.parameters.items():
        assert np.abs(array).max() <= np.float32(bound), name
        assert np.abs(array).max() > 0.97 * bound, name
        # Five standard errors of the mean and of the variance of uniform draws.
        assert abs(array.mean()) < 5 * bound / np.sqrt(3 * array.size), name
        assert abs(array.var() / (bound**2 / 3) - 1) < 5 * np.sqrt(0.8 / array.size), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forget_bias_is_what_the_forget_gates_biases_add_up_to_at_first(dtype):
    sizes, options = (I, H, 2), {"bidirectional": True, "proj_size": 2, "dtype": dtype, "seed": 0}
    layer, plain = fastrnn.LSTM(*sizes, forget_bias=-1.5, **options), fastrnn.LSTM(*sizes, **options)
    others = np.r_[:H, 2 * H : 4 * H]
    for name, parameter in layer.parameters.items():
        if name.startswith("bias"):
            np.testing.assert_array_equal(parameter[H : 2 * H], -1.5 if name.startswith("bias_ih") else 0.0)
            assert_same(parameter[others], plain.parameters[name][others])
            assert np.ptp(plain.parameters[name][H : 2 * H]) > 0
        else:
            assert_same(parameter, plain.parameters[name])
    zero = fastrnn.LSTM(*sizes, forget_bias=0, **options)
    assert not zero.parameters["bias_ih_l1_reverse"][H : 2 * H].any()


def test_forget_bias_is_kept_but_does_not_touch_what_is_loaded(tmp_path):
    layer = fastrnn.LSTM(I, H, forget_bias=np.float32(1), seed=0)
    assert layer.forget_bias == 1.0
    assert "forget_bias=1.0" in repr(layer)
    assert fastrnn.LSTM(I, H).forget_bias is None
    assert "forget_bias" not in repr(fastrnn.LSTM(I, H))
    layer.parameters["bias_ih_l0"][:] = 7
    layer.save(tmp_path / "layer.npz")
    for twin in (fastrnn.LSTM.load(tmp_path / "layer.npz"), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        assert twin.forget_bias == 1.0
        assert_same(twin.state_dict(), layer.state_dict())
    other = fastrnn.LSTM(I, H, forget_bias=3.0)
    other.load_state_dict(layer.state_dict())
    assert_same(other.state_dict(), layer.state_dict())


def test_the_seed_fixes_the_initial_parameters():
    def initial(**options):
        return fastrnn.GRU(I, H, 2, backend="reference", **options).state_dict()

    assert_same(initial(seed=3), initial(seed=3))
    assert_same(initial(seed=3), initial(seed=3, dropout=0.5))
    assert not np.array_equal(initial(seed=3)["bias_hh_l1"], initial(seed=4)["bias_hh_l1"])
    assert not np.array_equal(initial()["bias_hh_l1"], initial()["bias_hh_l1"])
    doubles = initial(seed=3, dtype="float64")
    assert_same(initial(seed=3), {name: array.astype("float32") for name, array in doubles.items()})


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), "float64", np.float64, float])
def test_dtype_may_be_a_name_a_type_or_a_dtype(dtype):
    layer = fastrnn.RNN(I, H, dtype=dtype, backend="reference")
    assert layer.dtype == np.dtype(dtype)
    assert {p.dtype for p in layer.parameters.values()} == {np.dtype(dtype)}


def test_sizes_may_be_numpy_integers():
    layer = fastrnn.RNN(np.int64(I), np.int32(H), np.uint8(2), backend="reference")
    assert all(type(n) is int for n in (layer.input_size, layer.hidden_size, layer.num_layers))


def test_repr_and_num_parameters(make):
    layer = make(I, H)
    assert layer.num_parameters == sum(p.size for p in layer.parameters.values())
    assert re.fullmatch(rf"(LSTM|GRU|RNN)\(3, 5, .*num_parameters={layer.num_parameters}\)", repr(layer))


def test_repr_names_what_differs_from_the_defaults():
    layer = fastrnn.LSTM(40, 100, 2, False, True, 0.5, True, 20, seed=0)
    assert repr(layer) == (
        "LSTM(40, 100, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, proj_size=20, "
        "dtype=float32, device=cpu, num_parameters=104,000)"
    )
    layer = fastrnn.GRU(1, 2, reset_after=False, backend="reference", dtype="float64")
    assert repr(layer) == (
        "GRU(1, 2, reset_after=False, dtype=float64, device=cpu, backend=reference, num_parameters=30)"
    )
    assert repr(fastrnn.RNN(1, 2, nonlinearity="relu")) == (
        "RNN(1, 2, nonlinearity='relu', dtype=float32, device=cpu, num_parameters=10)"
    )


# Dropout


@pytest.fixture
def dropping(make):
    """A function that makes two layers with dropout between them."""
    return lambda dropout=0.5, **options: make(I, H, 2, dropout=dropout, **options)


def test_dropout_zeroes_and_scales_what_the_next_layer_reads(lstm):
    size = 40
    layer = lstm(size, size, 2, dropout=0.3)
    x = normal(50, B, size)
    first = lstm(size, size)
    first.load_state_dict({n: layer.parameters[n] for n in first.parameters})
    below = first(x)[0]
    seen = []
    forward = layer.sequences[1].forward
    layer.sequences[1].forward = lambda x, *args, **kwargs: seen.append(x) or forward(x, *args, **kwargs)
    y, _ = layer(x)
    kept = seen[0] != 0
    np.testing.assert_allclose(seen[0][kept], below[kept] / 0.7, rtol=1e-14)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / kept.size)
    assert np.all(y != 0)


def test_dropout_acts_in_training_only(dropping):
    layer, x = dropping(), normal(T, B, I)
    assert layer.training
    plain = dropping(0.0)
    assert not np.array_equal(layer(x)[0], plain(x)[0])
    assert layer.eval() is layer
    assert not layer.training
    assert_same(layer(x)[0], plain(x)[0])
    assert_same(layer.vjp(x)[1](plain(x)[0]).x, plain.vjp(x)[1](plain(x)[0]).x)
    assert layer.train() is layer
    assert layer.training
    assert not layer.train(False).training


def test_dropout_follows_the_seed(dropping):
    x = normal(T, B, I)
    layer, same, other = dropping(seed=1), dropping(seed=1), dropping(seed=2)
    other.load_state_dict(layer.parameters)
    first, second = layer(x)[0], layer(x)[0]
    assert not np.array_equal(first, second)
    assert_same(same(x)[0], first)
    assert_same(same.vjp(x)[0][0], second)
    assert not np.array_equal(other(x)[0], first)


def test_evaluation_leaves_the_dropout_generator_alone(dropping):
    x = normal(T, B, I)
    layer, same = dropping(), dropping()
    layer.eval()(x)
    assert_same(layer.train()(x)[0], same(x)[0])


def test_dropping_everything_leaves_zeros_and_no_gradient(dropping):
    layer, x = dropping(1.0), normal(T, B, I)
    (y, _), backward = layer.vjp(x)
    assert_same(y, layer(normal(T, B, I, seed=30))[0])
    assert_same(backward(np.ones_like(y)).x, np.zeros_like(x))


@pytest.mark.parametrize("lengths", [None, [3, 1]])
@pytest.mark.parametrize("value", [np.inf, 1e308])
def test_infinities_and_overflow_raise_nothing(make, value, lengths):
    """In the sum of both biases, of both directions' dx, and in dropout, whatever the caller has asked of NumPy."""
    layer = make(3, 4, 2, bidirectional=True, dropout=0.5, dtype="float64")
    layer.parameters["bias_ih_l0"][...] = value
    layer.parameters["bias_hh_l0"][...] = -value if value == np.inf else value
    with np.errstate(all="raise"):
        (y, _), backward = layer.vjp(normal(3, 2, 3), lengths=lengths)
        backward(np.full(y.shape, value))


def test_dropout_on_one_layer_warns_and_does_nothing(make):
    x = normal(T, B, I)
    with pytest.warns(UserWarning, match="no effect with num_layers=1") as warned:
        layer = make(I, H, dropout=0.5)
    assert warned[0].filename == __file__
    assert_same(layer(x)[0], make()(x)[0])


def test_an_interrupted_run_leaves_the_dropout_generator_as_it_was(dropping, monkeypatch):
    layer, same, x = dropping(), dropping(), normal(T, B, I)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(layer.sequences[1], "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            layer(x)
    assert_same(layer(x)[0], same(x)[0])


# Copies and files


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_continue_as_the_original_would(dropping, duplicate):
    layer, x = dropping(batch_first=True), normal(B, T, I)
    layer(x)
    twin = duplicate(layer)
    assert repr(twin) == repr(layer)
    assert twin.training
    assert_same(twin.state_dict(), layer.state_dict())
    assert_same(twin(x)[0], layer(x)[0])
    assert not duplicate(layer.eval()).training


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_are_independent(make, duplicate):
    layer, x = make(), normal(T, B, I)
    twin, y = duplicate(layer), layer(x)[0]
    twin.parameters["weight_ih_l0"][...] = 0
    assert_same(layer(x)[0], y)
    assert not np.array_equal(twin(x)[0], y)


@pytest.mark.parametrize("name", ["layer.npz", "layer", "layer.v2.weights"])
def test_save_and_load(make, backend, tmp_path, name):
    layer = make(I, H, 2, bias=False, batch_first=True, dropout=0.5, bidirectional=True)
    x = normal(B, T, I)
    path = tmp_path / name
    layer.save(path)
    assert list(tmp_path.iterdir()) == [path]
    loaded = type(layer).load(str(path), backend=backend)
    assert repr(loaded) == repr(layer)
    assert_same(loaded.state_dict(), layer.state_dict())
    assert_same(loaded.eval()(x)[0], layer.eval()(x)[0])


def break_after(monkeypatch, written):
    """Let `np.savez` write something and then fail, as on a full disk."""

    def savez(file, **arrays):
        file.write(written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", savez)


def test_a_file_is_replaced_only_by_a_whole_one(make, tmp_path, monkeypatch):
    layer, path = make(I, H), tmp_path / "layer.npz"
    layer.save(path)
    path.chmod(0o600)
    make(I, H + 1).save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    layer.save(path)
    before = path.read_bytes()
    break_after(monkeypatch, b"half")
    with pytest.raises(OSError, match="No space left"):
        layer.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="this system has other devices and links")
def test_links_and_devices_stay_what_they_are(make, tmp_path):
    layer, path = make(I, H), tmp_path / "layer.npz"
    layer.save(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    other = make(I, H, seed=5)
    other.save(link)
    assert link.is_symlink()
    assert_same(type(layer).load(path).state_dict(), other.state_dict())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        other.save(pipe)
        assert read.result() == path.read_bytes()
    assert pipe.is_fifo()


def test_files_that_are_written_at_once_are_kept_apart(tmp_path):
    with files.new_file(tmp_path / "a") as a, files.new_file(tmp_path / "b") as b:
        a.write(b"a")
        b.write(b"b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"a", "b": b"b"}


def test_a_files_name_may_be_as_long_as_names_can_be(make, tmp_path):
    path = tmp_path / ("n" * 251 + ".npz")
    make(I, H).save(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_saved_files_hold_plain_arrays(make, tmp_path):
    layer = make(I, H, 2)
    layer.save(tmp_path / "layer.npz")
    with np.load(tmp_path / "layer.npz", allow_pickle=False) as archive:
        assert_same({name: archive[name] for name in layer.parameters}, layer.state_dict())
    assert zipfile.ZipFile(tmp_path / "layer.npz").testzip() is None


def test_a_loaded_layer_takes_its_dropout_seed_from_load(dropping, backend, tmp_path):
    layer, x = dropping(), normal(T, B, I)
    layer.save(tmp_path / "layer.npz")
    a, b = (type(layer).load(tmp_path / "layer.npz", seed=9, backend=backend) for _ in range(2))
    assert_same(a(x)[0], b(x)[0])


BOMBS = [
    {"num_layers": 10**9},
    {"input_size": 1, "hidden_size": 1, "num_layers": 10**6},
    {"hidden_size": 10**12},
    {"input_size": 10**10},
    {"hidden_size": 10**6, "proj_size": 1},
]


@pytest.mark.parametrize("sizes", BOMBS, ids=lambda sizes: "-".join(sizes))
def test_a_header_cannot_ask_for_memory_that_the_file_does_not_fill(tmp_path, sizes):
    options = {"input_size": 3, "hidden_size": 5, "num_layers": 1} | sizes
    header = json.dumps({"format": 1, "class": "LSTM", "options": options})
    np.savez(tmp_path / "bomb.npz", **fastrnn.LSTM(3, 5).state_dict(), fastrnn=np.array(header))
    with pytest.raises(
        ValueError, match=r"path: expected at least .* numbers, as the file's header says, got 4 of 200"
    ):
        fastrnn.LSTM.load(tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "float16"}, 'in the file\'s header; dtype: expected "float32" or "float64", got '),
        ({"hidden_size": "5"}, "in the file's header; hidden_size: expected an integer"),
        ({"dtype": "float64"}, "the arrays that the file's header says; weight_ih_l0: expected float64, got float32"),
    ],
    ids=["float16", "text", "another dtype"],
)
def test_a_header_that_no_layer_fits_is_an_error_of_the_file(tmp_path, options, error):
    header = json.dumps({"format": 1, "class": "GRU", "options": {"input_size": 3, "hidden_size": 5} | options})
    np.savez(tmp_path / "odd.npz", **fastrnn.GRU(3, 5).state_dict(), fastrnn=np.array(header))
    with pytest.raises(ValueError, match=rf"^path: expected .*{re.escape(error)}"):
        fastrnn.GRU.load(tmp_path / "odd.npz")


def test_a_wrong_argument_of_load_is_no_error_of_the_file(tmp_path):
    fastrnn.GRU(3, 5).save(tmp_path / "layer.npz")
    with pytest.raises(TypeError, match=r"^seed: "):
        fastrnn.GRU.load(tmp_path / "layer.npz", seed="now")
    with pytest.raises(ValueError, match=r"^backend: "):
        fastrnn.GRU.load(tmp_path / "layer.npz", backend="fast")


@pytest.mark.parametrize(("package", "names"), [
    ("torch", ("from_torch", "to_torch")),
    ("onnx", ("from_onnx", "to_onnx")),
    ("safetensors", ("load_safetensors", "save_safetensors")),
])  # fmt: skip
def test_a_missing_extra_is_named(monkeypatch, tmp_path, package, names):
    monkeypatch.setitem(sys.modules, package, None)
    layer = fastrnn.GRU(2, 3)
    arguments = {"save_safetensors": (layer, tmp_path / "file"), "load_safetensors": (tmp_path / "file",)}
    for name in names:
        message = f"^{name} needs {package}, which is not installed: pip install {package}$"
        with pytest.raises(ModuleNotFoundError, match=message) as caught:
            getattr(fastrnn, name)(*arguments.get(name, (layer,)))
        assert caught.value.name == package
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_is_cheap():
    program = "import sys, fastrnn; print(*{'numba', 'torch', 'onnx', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


# Options afterwards


def test_what_a_layer_is_made_for_stays():
    layer = fastrnn.LSTM(3, 4, num_layers=2, proj_size=2, forget_bias=1.0)
    fixed = {"cell", "num_directions", "device", "backend", *layer._names_of_options()} - {"batch_first", "dropout"}
    for name in sorted(fixed):
        before = getattr(layer, name)
        with pytest.raises(AttributeError, match=f"^{name}: fixed when the layer is made"):
            setattr(layer, name, before)
        assert getattr(layer, name) is before
    for other, name in ((fastrnn.GRU(3, 4), "reset_after"), (fastrnn.RNN(3, 4), "nonlinearity")):
        with pytest.raises(AttributeError, match=f"^{name}: fixed"):
            setattr(other, name, getattr(other, name))


def test_a_parameter_is_not_set_as_an_attribute():
    """It would be without effect."""
    layer = fastrnn.GRU(3, 4, num_layers=2)
    before = layer.state_dict()
    for name, value in before.items():
        with pytest.raises(AttributeError, match=f"^{name}: a parameter, which can be written to in place"):
            setattr(layer, name, 2 * value)
        np.testing.assert_array_equal(layer.parameters[name], value)


def test_batch_first_and_dropout_may_be_set():
    layer = fastrnn.GRU(3, 4, num_layers=2)
    x = normal(5, 2, 3).astype(np.float32)
    expected, _ = layer(x)
    layer.batch_first = True
    np.testing.assert_array_equal(layer(x.transpose(1, 0, 2))[0].transpose(1, 0, 2), expected)
    assert copy.deepcopy(layer)(x)[0].shape == (5, 2, 4)
    assert "batch_first=True" in repr(layer)
    with pytest.raises(TypeError, match="batch_first: expected True or False"):
        layer.batch_first = 1
    layer.dropout = 0.5
    assert not np.array_equal(layer(x)[0], layer(x)[0])
    with pytest.raises(ValueError, match="dropout: expected"):
        layer.dropout = 7
    assert layer.dropout == 0.5
