"""Run by `test_cuda_simulator.py` in a process of its own: device="cuda" in Numba's simulator, on NumPy arrays.

The simulator runs every CUDA thread as a thread of Python's, so the sizes are tiny: they are odd, larger than a tile of
the batch and than a block's share of columns, and end within a patch.
"""

import copy
import functools
import gc
import pickle
import threading
import types
import weakref

import cuda_device_cases as device_cases
import numpy as np
import pytest
import simulated_blocks
from conftest import (
    KINDS,
    as_tuple,
    everything,
    judged_by_reference,
    make_layer,
    most_blocks,
    random_problem,
    too_far,
)
from fastrnn.kernels.cuda import persistent as persistent_kernels
from fastrnn.kernels.cuda.plan import DeviceLimits
from numba.core import config

import fastrnn
from fastrnn import check_cases, diagnostics
from fastrnn.__main__ import main
from fastrnn.commands import check as check_command
from fastrnn.cuda import layer as cuda_layer
from fastrnn.cuda import loop, network, persistent
from fastrnn.cuda.arrays import TorchArrays
from fastrnn.cuda.kinds import library

assert config.ENABLE_CUDASIM
simulated_blocks.install()

# relative norm of the difference from the float64 reference
BOUNDS = {"float64": 1e-13, "float32": 2e-6, "float16": 3e-3, "bfloat16": 2e-2}


def assert_agrees(layer, problem):
    expected, found = judged_by_reference(layer, problem), everything(layer, problem)
    for name, truth in expected.items():
        assert found[name].dtype == layer.dtype, name
        assert found[name].shape == truth.shape, name
    assert too_far(found, expected, BOUNDS[layer.dtype.name]) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_plain_path_agrees_with_the_reference(kind, dtype):
    layer = make_layer(kind, 3, 5, dtype=dtype, device="cuda")
    assert_agrees(layer, random_problem(layer, T=3, B=3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["plain", "persistent"])
def test_directions_layers_and_missing_biases(kind, backend):
    layer = make_layer(kind, 2, 4, num_layers=2, bidirectional=True, bias=False, device="cuda", backend=backend)
    assert_agrees(layer, random_problem(layer, T=2, B=2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_persistent_path_agrees_with_the_reference(kind):
    layer = make_layer(kind, 3, 7, device="cuda", backend="persistent")
    assert_agrees(layer, random_problem(layer, T=4, B=3))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_one_step_one_row_one_unit(kind):
    for backend in ("plain", "persistent"):
        layer = make_layer(kind, 1, 1, device="cuda", backend=backend)
        assert_agrees(layer, random_problem(layer, T=1, B=1))


@pytest.fixture
def blocks(monkeypatch):
    """Sets the number of blocks of persistent kernels."""

    def set_number(number):
        limits = DeviceLimits(number, 1 << 20, 1 << 16)
        monkeypatch.setattr(cuda_layer, "device_limits", lambda: limits)
        monkeypatch.setattr(cuda_layer, "best_plan", most_blocks)

    return set_number


@pytest.mark.parametrize("kind", KINDS)
def test_several_blocks_of_a_persistent_kernel(kind, blocks):
    blocks(3)
    layer = make_layer(kind, 3, 7, device="cuda", backend="persistent")
    assert_agrees(layer, random_problem(layer, T=4, B=3))


def test_blocks_may_be_delayed(blocks, monkeypatch):
    blocks(3)
    delayed = functools.partial(persistent.PersistentLoop, delay=5)
    monkeypatch.setattr(cuda_layer, "PersistentLoop", delayed)
    layer = make_layer("gru", 3, 6, device="cuda", backend="persistent")
    assert_agrees(layer, random_problem(layer, T=5, B=1))


def test_a_block_that_does_not_come_is_an_error_and_not_a_hang(blocks, monkeypatch):
    blocks(3)

    def arrive_but_for_one(counter):
        if threading.current_thread().blockIdx.x != 1:
            arrive(counter)

    arrive = persistent_kernels.arrive
    monkeypatch.setattr(persistent_kernels, "arrive", arrive_but_for_one)
    monkeypatch.setattr(cuda_layer, "PersistentLoop", functools.partial(persistent.PersistentLoop, patience=20))
    layer = make_layer("lstm", 3, 6, device="cuda", backend="persistent")
    with pytest.raises(RuntimeError, match="the persistent kernel's 3 blocks did not meet within 20 polls"):
        layer(np.zeros((2, 1, 3), np.float32))


# Graphs


@pytest.fixture
def capturing(monkeypatch):
    """In the place of CUDA graphs: launches are recorded, and replayed as they were. How many, for each replay."""
    arrays = library("numpy")
    replays = []

    def capture(run):
        recorded = []
        with monkeypatch.context() as patch:
            patch.setattr(loop, "launch", lambda *given: recorded.append((launch, given)))
            patch.setattr(arrays, "product", lambda *given: recorded.append((product, given)), raising=False)
            run()

        def replay():
            replays.append(len(recorded))
            for function, given in recorded:
                function(*given)

        return types.SimpleNamespace(replay=replay)

    launch, product = loop.launch, arrays.product
    monkeypatch.setattr(arrays, "can_capture", True, raising=False)
    monkeypatch.setattr(arrays, "capture", capture, raising=False)
    monkeypatch.setattr(loop, "_LAUNCHES_WORTH_CAPTURE", 1)
    return replays


@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_graph_serves_later_calls_wherever_their_arrays_lie(kind, capturing):
    layer = make_layer(kind, 3, 5, device="cuda")
    kept = []  # so that no memory is used again
    for seed in range(4):
        problem = random_problem(layer, T=3, B=2, seed=seed)
        kept.append((problem, layer.vjp(problem.x)))
        assert_agrees(layer, problem)
    assert len(capturing) >= 4


def test_graphs_are_for_lengths_that_come_again(capturing):
    layer = make_layer("gru", 3, 4, device="cuda")
    for steps in (2, 3, 2, 3, 2, 3):
        layer(np.zeros((steps, 1, 3), np.float32))
    assert capturing == []
    for _ in range(4):
        layer(np.zeros((4, 1, 3), np.float32))
    assert capturing == [2 * 4] * 2  # a product and a gate kernel for each step


# The tests for a GPU, as far as they go here


@pytest.mark.parametrize("kind", KINDS)
def test_the_device_tests(kind, blocks, monkeypatch):
    device_cases.assert_agrees(make_layer(kind, 3, 5, dtype="bfloat16", device="cuda"), 3, 2, runs=2)
    device_cases.assert_training_goes_where_it_goes_on_the_cpu(kind, 3, 2, 3, 4, updates=4)
    blocks(3)
    device_cases.assert_delays_change_nothing(kind, 4, 6, (5,), monkeypatch)


def test_the_device_tests_can_fail(monkeypatch):
    layer = make_layer("lstm", 3, 4, device="cuda")
    monkeypatch.setitem(device_cases.BOUNDS, "float32", 1e-12)
    with pytest.raises(AssertionError, match="numpy"):
        device_cases.assert_agrees(layer, 3, 2, runs=1)


# The rest of a layer's methods


def test_a_layer_that_is_gone_keeps_no_memory():
    gc.collect()
    gc.disable()
    try:
        layer = make_layer("gru", 3, 4, device="cuda")
        (y, _), backward = layer.vjp(X)
        network = weakref.ref(layer._network)
        del layer
        assert backward(y).x.shape == X.shape
        del backward
        assert network() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("who", ["numpy", "numba"])
def test_another_gpu_is_refused(who, monkeypatch):
    layer = make_layer("gru", 3, 4, device="cuda")
    backward, stream = layer.vjp(X)[1], layer.stream(2)
    where = (layer._network.arrays, "current_device") if who == "numpy" else (network, "current_device")
    monkeypatch.setattr(*where, lambda: 1, raising=False)
    monkeypatch.setattr(loop, "launch", None)
    for call, x in ((layer, X), (layer.vjp, X), (backward, X), (stream.step, X[0])):
        with pytest.raises(RuntimeError, match=f"the layer is on cuda:0, and the current GPU of {who} is cuda:1"):
            call(x)


@pytest.mark.parametrize("kind", ["lstmp", "gru"])
def test_a_stream_gives_what_one_call_gives(kind):
    layer = make_layer(kind, 3, 4, num_layers=2, device="cuda", dtype="float64", batch_first=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 3))
    y, state = layer(x)
    stream = layer.stream(batch_size=2)
    layer.parameters["weight_ih_l0"][...] = 0  # a stream has a snapshot
    steps = [stream.step(x[:, t]) for t in range(3)]
    np.testing.assert_allclose(np.stack(steps, axis=1), y, rtol=1e-13)
    for found, expected in zip(as_tuple(stream.state), as_tuple(state), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    out = np.empty_like(steps[0])
    stream.reset()
    assert stream.step(x[:, 0], out=out) is out
    np.testing.assert_array_equal(out, steps[0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_stream_shares_no_memory_with_its_caller(kind):
    layer = make_layer(kind, 3, 4, device="cuda")
    stream = layer.stream()
    widths = 2 if kind == "lstm" else 1
    given = [np.ones((1, 1, 4), np.float32) for _ in range(widths)]
    stream.reset(tuple(given) if widths == 2 else given[0])
    for array in (*given, *as_tuple(stream.state)):
        array[...] = 99
    for array in as_tuple(stream.state):
        np.testing.assert_array_equal(array, 1)


def test_check_finds_agreement():
    layer = make_layer("gru", 3, 4, device="cuda", num_layers=2, dropout=0.5)
    x = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float32)
    fastrnn.check(layer, x).raise_if_failed()
    for dtype in ("float16", "bfloat16"):
        half = make_layer("lstm", 3, 4, device="cuda", dtype=dtype)
        fastrnn.check(half, x.astype(half.dtype)).raise_if_failed()


def test_check_finds_a_wrong_kernel(monkeypatch):
    layer = make_layer("rnn_tanh", 3, 4, device="cuda")
    backward = cuda_layer.CudaLayer.backward

    def wrong(self, *arguments):
        dx, dstates, gradients = backward(self, *arguments)
        return dx * np.float32(1.01), dstates, gradients

    monkeypatch.setattr(cuda_layer.CudaLayer, "backward", wrong)
    report = fastrnn.check(layer, np.ones((3, 2, 3), np.float32))
    assert [quantity.name for quantity in report.failed] == ["dx"]


def test_the_command_checks_on_the_gpu(capsys, monkeypatch):
    few = [check_cases.Case("lstm", "float32", 3, 2, 3, 4), check_cases.Case("gru", "bfloat16", 2, 1, 2, 3)]
    monkeypatch.setattr(check_command, "cases", lambda *_: few)
    assert main(["check", "--device", "cuda", "--plain"]) == 0
    assert "All 2 configurations are within their bounds" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_files_pickles_and_state_dicts(kind, tmp_path):
    layer = make_layer(kind, 2, 3, device="cuda", dtype="bfloat16")
    layer.save(tmp_path / "layer.npz")
    copies = [type(layer).load(tmp_path / "layer.npz", device="cuda"), pickle.loads(pickle.dumps(layer))]
    other = make_layer(kind, 2, 3, device="cuda", dtype="bfloat16", seed=9)
    other.load_state_dict(layer.state_dict())
    for each in (*copies, other):
        assert each.dtype == layer.dtype
        for name, array in layer.parameters.items():
            np.testing.assert_array_equal(each.parameters[name], array)


@pytest.mark.parametrize("kind", ["lstmp", "gru", "rnn_tanh"])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_conversions(kind, dtype, tmp_path):
    layer = make_layer(kind, 2, 3, device="cuda", dtype=dtype)
    fastrnn.save_safetensors(layer, tmp_path / "layer.safetensors")
    loaded = fastrnn.load_safetensors(tmp_path / "layer.safetensors", device="cuda")
    assert loaded.dtype == layer.dtype
    module = fastrnn.to_torch(layer)
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(loaded.parameters[name], array)
        assert str(getattr(module, name).dtype) == f"torch.{dtype}"
        np.testing.assert_array_equal(getattr(module, name).detach().double().numpy(), np.float64(array))


def test_onnx_has_no_bfloat16():
    with pytest.raises(ValueError, match="layer: expected float16, float32 or float64, which"):
        fastrnn.to_onnx(make_layer("gru", 2, 3, device="cuda", dtype="bfloat16"))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_and_a_backward_cannot_be_copied(copied):
    layer = make_layer("lstm", 3, 4, device="cuda")
    with pytest.raises(TypeError, match="a stream can be neither copied nor pickled"):
        copied(layer.stream())
    with pytest.raises(TypeError, match="backward: can be neither copied nor pickled on a GPU"):
        copied(layer.vjp(X)[1])


def test_the_same_seed_means_the_same_layer_on_every_device():
    options = {"num_layers": 2, "dropout": 0.1, "dtype": "float64", "seed": 4}  # 1 / 0.9 has no short form
    gpu, cpu = make_layer("lstm", 3, 4, device="cuda", **options), make_layer("lstm", 3, 4, **options)
    x = np.random.default_rng(0).standard_normal((3, 2, 3))
    np.testing.assert_allclose(gpu(x)[0], cpu(x)[0], rtol=1e-12)  # the masks too


@pytest.mark.parametrize("dtype", BOUNDS)
def test_forget_gates_start_where_they_are_told_to(dtype):
    options = {"num_layers": 2, "bidirectional": True, "dtype": dtype, "device": "cuda", "seed": 0}
    expected = fastrnn.LSTM(3, 4, **options).state_dict()
    for name, array in fastrnn.LSTM(3, 4, forget_bias=1.5, **options).state_dict().items():
        if name.startswith("bias"):
            expected[name][4:8] = 1.5 if "_ih_" in name else 0
        np.testing.assert_array_equal(array, expected[name])
    with pytest.raises(ValueError, match="forget_bias: expected a number that is finite in"):
        fastrnn.LSTM(3, 4, forget_bias=10**400, **options)


@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0)])
def test_no_steps_or_no_rows(steps, batch):
    layer = make_layer("lstm", 3, 4, num_layers=2, device="cuda")
    problem = random_problem(layer, steps, batch)
    (y, state), backward = layer.vjp(problem.x, problem.state)
    gradients = backward(problem.dy, (problem.dstate[0], None))
    assert y.shape == (steps, batch, 4)
    for found, expected in zip((*state, gradients.state[0]), (*problem.state, problem.dstate[0]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not any(gradient.any() for gradient in (gradients.x, gradients.state[1], *gradients.parameters.values()))


# What is refused: before any launch, and nothing has changed


X = np.zeros((3, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(X.astype("float64")), TypeError, "x: expected float32, got float64"),
        (lambda layer: layer(X.tolist()), TypeError, "x: expected a NumPy array, as the CUDA simulator is on, got"),
        (lambda layer: layer(X[0, 0]), ValueError, "x: expected 3 dimensions"),
        (lambda layer: layer(X[..., :2]), ValueError, "x: expected the last dimension to be input_size = 3"),
        (lambda layer: layer(X, X), ValueError, r"state: expected shape \(1, 2, 4\)|h_0: expected shape"),
        (lambda layer: layer(X, lengths=[1, 2]), NotImplementedError, 'lengths: not built for device="cuda"'),
        (lambda layer: fastrnn.check(layer, X.astype("float64")), TypeError, "x: expected float32, got float64"),
        (lambda layer: diagnostics.gate_statistics(layer, X), ValueError, 'layer: expected device="cpu", got device='),
        (lambda layer: layer.vjp(X[:0])[1](X), ValueError, r"dy: expected shape \(0, 2, 4\), got \(3, 2, 3\)"),
        (lambda layer: layer.stream(2).step(X[0, 0]), ValueError, r"x: expected shape \(2, 3\), got \(3,\)"),
    ],
)
def test_wrong_arguments(call, error, message, monkeypatch):
    layer = make_layer("gru", 3, 4, device="cuda")
    monkeypatch.setattr(loop, "launch", None)  # a launch would be an error of its own
    with pytest.raises(error, match=message):
        call(layer)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "cpu"}, ValueError, 'backend: expected "plain" or "persistent" or "auto", got "cpu"'),
        ({"backend": "persistent", "dtype": "float16"}, ValueError, 'backend: "persistent" is for dtype float32'),
        ({"dtype": "int8"}, TypeError, 'dtype: expected "float32", "float64", "float16" or "bfloat16", got'),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        fastrnn.GRU(3, 4, device="cuda", **options)


def test_what_does_not_fit_into_memory_changes_nothing(monkeypatch):
    layer = make_layer("lstm", 3, 4, num_layers=2, dropout=0.5, device="cuda")
    before = layer._generator.bit_generator.state
    arrays = layer._network.arrays
    empty = arrays.empty

    def full(shape, dtype):
        if len(shape) == 3 and shape[0] > 3:
            raise MemoryError("out of memory")
        return empty(shape, dtype)

    monkeypatch.setattr(arrays, "empty", full)
    monkeypatch.setattr(loop, "launch", None)
    with pytest.raises(MemoryError, match="x: 3 steps of 2 rows do not fit into the GPU's memory: out of memory"):
        layer(X)
    assert layer._generator.bit_generator.state == before


def test_gradients_that_do_not_fit_into_memory_are_an_error(monkeypatch):
    layer = make_layer("lstm", 3, 4, device="cuda")
    (y, _), backward = layer.vjp(X)
    expected = layer.vjp(X)[1](y)

    def full(shape, dtype):
        raise MemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(layer._network.arrays, "empty", full)
        with pytest.raises(MemoryError, match=r"backward: the gradients of 3 steps of 2 rows do not fit .* call vjp"):
            backward(y)
    np.testing.assert_array_equal(layer.vjp(X)[1](y).x, expected.x)


def test_a_size_that_does_not_fit_the_persistent_path(monkeypatch):
    layer = make_layer("lstm", 3, 4, device="cuda", backend="persistent")
    monkeypatch.setattr(cuda_layer, "best_plan", lambda *_: None)
    with pytest.raises(ValueError, match='backend: hidden_size = 4 does not fit on this GPU for "persistent"'):
        layer(X)


# PyTorch's arrays: its memory, products and types, on the CPU, where the simulator's kernels can reach them


class TorchOnTheCpu(TorchArrays):
    def __init__(self):
        super().__init__("cpu")

    def stream(self):
        return 0


@pytest.mark.parametrize("kind", ["lstmp", "gru", "gru_reset_before"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_give_what_numpy_arrays_give(kind, dtype):
    torch = pytest.importorskip("torch")
    tensors = TorchOnTheCpu()
    layer = make_layer(kind, 3, 4, num_layers=1, bidirectional=True, device="cuda", dtype=dtype)
    problem = random_problem(layer, 3, 2)
    expected = everything(layer, problem)
    cuda = layer._network.layers[0]
    cuda.parameters._seen["torch"] = cuda.parameters.layout.views(
        tensors.from_host_as(np.float32(cuda.parameters.flat), dtype)
    )
    up = functools.partial(map, lambda array: tensors.from_host_as(np.float32(array), dtype))
    with torch.inference_mode():  # what stays of this call can be written to by the next one
        cuda.forward(tensors, *up([problem.x]), tuple(up(problem.state)), True)
    x, dy = up((problem.x, problem.dy))
    y, states, saved = cuda.forward(tensors, x, tuple(up(problem.state)), True)
    dx, dstates, gradients = cuda.backward(saved, dy, tuple(up(problem.dstate)))
    found = {"vjp y": y, "dx": dx, "vjp h_n": states[0], "dh_0": dstates[0]}
    found |= {f"d{name}": array for name, array in cuda.layout.named(0, gradients).items()}
    bound = 1e-6 if dtype == "float32" else 2e-2
    for name, array in found.items():
        assert array.dtype == getattr(torch, dtype)
        np.testing.assert_allclose(tensors.to_host(array), np.float32(expected[name]), rtol=bound, atol=bound)
