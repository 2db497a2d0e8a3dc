"""What only a GPU can show: blocks that run at the same time, streams beside each other, real memory, captured graphs.

`python -m bench --device cuda` runs it on a machine with a GPU; plain `pytest` does not collect it. The truth is the
NumPy reference in float64, from the numbers that the layer's type has. What needs no stream and no real memory is also
run in the simulator, on tiny sizes (`cuda_simulator_cases.py`), so that the tests themselves are tested.
"""

import functools
import gc
import math
import os
import time

import numpy as np
import pytest
from conftest import (
    KINDS,
    as_state,
    as_tuple,
    everything,
    judged_by_reference,
    make_layer,
    most_blocks,
    random_problem,
    too_far,
)

import fastrnn
from fastrnn.cuda import layer as cuda_layer
from fastrnn.cuda.kinds import library
from fastrnn.cuda.on_host import OnHost, reference_twin
from fastrnn.cuda.persistent import PersistentLoop
from fastrnn.cuda.requirements import has_cupy, simulated

torch = pytest.importorskip("torch")

BOUNDS = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2, "bfloat16": 2e-2}
DEADLINE = time.monotonic() + float(os.environ.get("FASTRNN_DEVICE_TESTS_SECONDS", "inf"))


@pytest.fixture(autouse=True)
def _time_and_memory():
    if time.monotonic() > DEADLINE:
        pytest.skip("no time left")
    gc.collect()
    torch.cuda.empty_cache()


def libraries():
    """All whose arrays the layers take."""
    if simulated():
        return ["numpy"]
    return ["torch", "cupy"] if has_cupy() else ["torch"]


def assert_agrees(layer, T, B, runs):
    problem = random_problem(layer, T, B)
    truth, twin = judged_by_reference(layer, problem), reference_twin(layer)
    for name in libraries():
        for _ in range(runs):
            found = everything(OnHost(layer, twin, library(name)), problem)
            assert too_far(found, truth, BOUNDS[layer.dtype.name]) == {}, name


# Parity


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("T", "B", "H"), [(30, 5, 67), (20, 33, 168)])
def test_the_plain_path(kind, dtype, T, B, H):
    layer = make_layer(kind, 19, H, num_layers=2, bidirectional=True, dtype=dtype, device="cuda")
    assert_agrees(layer, T, B, runs=4)  # the later runs replay captured graphs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("T", "B", "H"), [(30, 5, 67), (20, 9, 257), (20, 1, 1024)])
def test_the_persistent_path(kind, T, B, H):
    assert_agrees(make_layer(kind, 19, H, device="cuda", backend="persistent"), T, B, runs=2)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_path_that_is_chosen(kind):
    assert_agrees(make_layer(kind, 40, 200, device="cuda", backend="auto"), 25, 3, runs=1)


# The barrier


@pytest.fixture
def plans(monkeypatch):
    """Persistent kernels get as many blocks as there may be. The plans that were made."""
    made = []

    def choose(*sizes):
        made.append(most_blocks(*sizes))
        return made[-1]

    monkeypatch.setattr(cuda_layer, "best_plan", choose)
    return made


def assert_delays_change_nothing(kind, T, H, delays, monkeypatch):
    """A number read before it is written, or written before it is read, would show: sums have a fixed order."""
    layer = make_layer(kind, 8, H, device="cuda", backend="persistent")
    up = layer._network.arrays.from_host
    problem = random_problem(layer, T, 1)
    x, dy, state, dstate = up(problem.x), up(problem.dy), map(up, problem.state), map(up, problem.dstate)
    state, dstate = as_state(tuple(state)), as_state(tuple(dstate))

    def run(delay):
        monkeypatch.setattr(cuda_layer, "PersistentLoop", functools.partial(PersistentLoop, delay=delay))
        layer._network.layers[0]._idle.clear()
        (y, final), backward = layer.vjp(x, state)
        gradients = backward(dy, dstate)
        return [y, *as_tuple(final), gradients.x, *as_tuple(gradients.state), *gradients.parameters.values()]

    expected = run(0)
    assert all(math.isfinite(float(abs(array).max())) for array in expected)
    for delay in delays:
        assert all((one == two).all() for one, two in zip(run(delay), expected, strict=True)), delay


@pytest.mark.parametrize("kind", KINDS)
def test_delayed_blocks_change_no_bit_of_a_long_sequence(kind, plans, monkeypatch):
    assert_delays_change_nothing(kind, 100_000, 256, (7, 61), monkeypatch)
    assert all(plan.blocks >= 16 for plan in plans)


def test_a_barrier_that_is_not_met_is_an_error(plans, monkeypatch):
    """With no patience the first poll that finds a block missing gives up; the layer works again afterwards."""
    layer = make_layer("lstm", 8, 256, device="cuda", backend="persistent")
    x = torch.randn(2000, 1, 8, device="cuda")
    expected, _ = layer(x)
    layer._network.layers[0]._idle.clear()
    with monkeypatch.context() as patch:
        patch.setattr(cuda_layer, "PersistentLoop", functools.partial(PersistentLoop, patience=0, delay=1000))
        with pytest.raises(RuntimeError, match="blocks did not meet within 0 polls"):
            layer(x)
    assert plans[0].blocks >= 16
    assert torch.equal(layer(x)[0], expected)


# Streams


@pytest.mark.parametrize("number", [4, 12])  # a layer keeps the loops of four, and replays their captured graphs
@pytest.mark.parametrize("path", ["plain", "persistent"])
def test_streams_beside_each_other(path, number, plans):
    layer = make_layer("gru", 16, 256, num_layers=2, device="cuda", backend=path)
    inputs = [torch.randn(200, 4, 16, device="cuda") for _ in range(number)]
    expected = [layer(x)[0].clone() for x in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(number)]
    for _ in range(6):
        found = []
        for stream, x in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append(layer(x)[0])
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_work_is_done_on_the_callers_stream():
    """What the caller queued before on its stream is seen, without waiting for it."""
    layer = make_layer("lstm", 64, 64, device="cuda")
    x = torch.randn(50, 4, 64, device="cuda")
    expected = layer(x)[0].clone()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        late = torch.zeros_like(x)
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy * 1e-2
        late.copy_(x)
        y = layer(late)[0]
    torch.cuda.synchronize()
    assert torch.equal(y, expected)


# Memory


def test_what_does_not_fit_is_an_error_and_the_layer_stays_as_it_was():
    layer = make_layer("lstm", 64, 256, num_layers=2, dropout=0.5, device="cuda")
    small = torch.randn(5, 2, 64, device="cuda")
    x = torch.randn(512, 256, 64, device="cuda")
    before = layer._generator.bit_generator.state
    weights = layer.state_dict()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        with pytest.raises(MemoryError, match="x: 512 steps of 256 rows do not fit into the GPU's memory"):
            layer.vjp(x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert layer._generator.bit_generator.state == before
    assert all(np.array_equal(array, weights[name]) for name, array in layer.state_dict().items())
    assert torch.isfinite(layer(small)[0]).all()


def test_a_layer_gives_its_memory_back():
    x = torch.zeros(5, 2, 64, device="cuda")
    make_layer("gru", 64, 256, device="cuda")(x)  # cuBLAS keeps some memory once it is used
    before = torch.cuda.memory_allocated()
    layer = make_layer("gru", 64, 256, device="cuda")
    layer.vjp(x)
    del layer
    assert torch.cuda.memory_allocated() == before


# Training


def assert_training_goes_where_it_goes_on_the_cpu(kind, T, B, I, H, updates):
    gpu, cpu = (make_layer(kind, I, H, dtype="float64", device=device) for device in ("cuda", "cpu"))
    rng = np.random.default_rng(3)
    problem = random_problem(cpu, T, B)
    target = 0.3 * rng.standard_normal(problem.dy.shape)
    zeros = as_state(tuple(np.zeros_like(array) for array in problem.state))
    runs = (gpu, OnHost(gpu, cpu)), (cpu, cpu)
    losses = []
    for _ in range(updates):
        for layer, run in runs:
            (y, _), backward = run.vjp(problem.x, zeros)
            gradients = backward(2 * (y - target) / y.size, zeros)
            layer.load_state_dict(
                {name: array - gradients.parameters[name] for name, array in layer.state_dict().items()}
            )
        losses.append(np.mean((y - target) ** 2))
    assert losses[-1] < losses[0]
    for name, array in cpu.state_dict().items():
        np.testing.assert_allclose(gpu.state_dict()[name], array, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_where_it_goes_on_the_cpu(kind):
    assert_training_goes_where_it_goes_on_the_cpu(kind, 20, 6, 5, 12, updates=30)


def test_the_layer_refuses_arrays_of_the_host():
    layer = fastrnn.GRU(3, 4, device="cuda")
    with pytest.raises(TypeError, match="x: expected an array on a GPU"):
        layer(np.zeros((2, 1, 3), "float32"))
    with pytest.raises(TypeError, match="x: expected a tensor on a CUDA device, got one on cpu"):
        layer(torch.zeros(2, 1, 3))
