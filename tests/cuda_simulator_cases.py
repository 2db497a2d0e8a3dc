"""Run by `test_cuda_simulator.py` in a process of its own: device="cuda" in Numba's simulator, on NumPy arrays.

The simulator runs every CUDA thread as a thread of Python's, so the sizes are tiny: they are odd, larger than a tile of
the batch and than a block's share of columns, and end within a patch. It runs one block after the other; for the
persistent kernels, whose blocks wait for each other, `blocks_at_once` runs them side by side.
"""

import functools
import math
import sys
import threading

import numpy as np
import pytest
from conftest import KINDS, as_state, as_tuple, everything, make_layer, random_problem
from numba.core import config
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator import kernelapi

import fastrnn
from fastrnn.cuda import layer as cuda_layer
from fastrnn.cuda import persistent
from fastrnn.kernels.cuda import persistent as persistent_kernels
from fastrnn.kernels.cuda import plan
from fastrnn.kernels.cuda.plan import DeviceLimits

assert config.ENABLE_CUDASIM
# waiting threads of the simulator ask over and over: they should not keep the others from working
sys.setswitchinterval(1e-4)

# relative norm of the difference from the float64 reference
BOUNDS = {"float64": 1e-13, "float32": 2e-6, "float16": 3e-3, "bfloat16": 2e-2}


def judged_by_reference(layer, problem):
    """What the reference computes in float64, from the layer's own numbers."""
    options = {name: getattr(layer, name) for name in layer._options}
    twin = type(layer)(
        layer.input_size, layer.hidden_size, layer.num_layers, dtype="float64", backend="reference", seed=0, **options
    )
    twin.load_state_dict({name: array.astype(np.float64) for name, array in layer.state_dict().items()})
    wide = [
        tuple(np.asarray(a, np.float64) for a in part) if isinstance(part, tuple) else part.astype(np.float64)
        for part in problem
    ]
    return everything(twin, type(problem)(*wide))


def assert_agrees(layer, problem):
    expected, found = judged_by_reference(layer, problem), everything(layer, problem)
    assert found.keys() == expected.keys()
    errors = {}
    for name, truth in expected.items():
        assert found[name].dtype == layer.dtype, name
        assert found[name].shape == truth.shape, name
        difference = np.linalg.norm(found[name].astype(np.float64) - truth)
        errors[name] = difference / max(np.linalg.norm(truth), 1e-30)
    # a bias's gradient that is 0 in exact arithmetic has no relative error, and a NaN is no agreement
    assert {name: error for name, error in errors.items() if not error <= BOUNDS[layer.dtype.name]} == {}


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
def blocks_at_once(monkeypatch):
    """Runs all blocks of a launch at the same time, each with shared memory of its own. Sets the number of them."""

    class Together(simulator.BlockManager):
        running = []

        def run(self, grid_point, *args):
            def target():
                try:
                    run_alone(grid_point, *args)
                except BaseException as error:
                    self.error = error

            run_alone = super().run
            self.error = None
            self.thread = threading.Thread(target=target)
            self.running.append(self)
            self.thread.start()
            if len(self.running) == math.prod(self._grid_dim):
                blocks = [self.running.pop() for _ in range(len(self.running))]
                for block in blocks:
                    block.thread.join()
                for block in blocks:
                    if block.error is not None:
                        raise block.error

    shared_of_one = kernelapi.FakeCUDAShared

    class SharedOfEach(shared_of_one):
        def __init__(self, size):
            super().__init__(size)
            self._each = {}

        def array(self, shape, dtype, alignment=None):
            block = threading.current_thread().blockIdx.x
            return self._each.setdefault(block, shared_of_one(self._dynshared_size)).array(shape, dtype)

    monkeypatch.setattr(simulator, "BlockManager", Together)
    monkeypatch.setattr(kernelapi, "FakeCUDAShared", SharedOfEach)

    def set_number(number):
        limits = DeviceLimits(number, 1 << 20, 1 << 16)
        monkeypatch.setattr(cuda_layer, "device_limits", lambda: limits)
        # as many blocks as there may be, though one would be estimated to be faster
        monkeypatch.setattr(cuda_layer, "best_plan", lambda run, H, R, *rest: most_blocks(run, H, R, *rest))

    return set_number


def most_blocks(run, hidden, output, batch, device, patches):
    sizes = plan.stage_sizes(run, hidden, output)
    return plan.divide(sizes, device.multiprocessors, patches[0])


@pytest.mark.parametrize("kind", KINDS)
def test_several_blocks_of_a_persistent_kernel(kind, blocks_at_once):
    blocks_at_once(3)
    layer = make_layer(kind, 3, 7, device="cuda", backend="persistent")
    assert_agrees(layer, random_problem(layer, T=4, B=3))


def test_blocks_may_be_delayed(blocks_at_once, monkeypatch):
    blocks_at_once(3)
    delayed = functools.partial(persistent.PersistentLoop, delay=5)
    monkeypatch.setattr(cuda_layer, "PersistentLoop", delayed)
    layer = make_layer("gru", 3, 6, device="cuda", backend="persistent")
    assert_agrees(layer, random_problem(layer, T=5, B=1))


def test_a_block_that_does_not_come_is_an_error_and_not_a_hang(blocks_at_once, monkeypatch):
    blocks_at_once(3)

    def arrive_but_for_one(counter):
        if threading.current_thread().blockIdx.x != 1:
            arrive(counter)

    arrive = persistent_kernels.arrive
    monkeypatch.setattr(persistent_kernels, "arrive", arrive_but_for_one)
    monkeypatch.setattr(cuda_layer, "PersistentLoop", functools.partial(persistent.PersistentLoop, patience=20))
    layer = make_layer("lstm", 3, 6, device="cuda", backend="persistent")
    with pytest.raises(RuntimeError, match="the persistent kernel's 3 blocks did not meet within 20 polls"):
        layer(np.zeros((2, 1, 3), np.float32))
