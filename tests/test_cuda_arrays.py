"""What device="cuda" asks of the array libraries, where there is no GPU: which arrays it takes, and when it waits."""

import contextlib
import gc
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from fastrnn.cuda.arrays import TorchArrays
from fastrnn.cuda.kinds import kind_of, library


class OnTheHost:
    """An array of some library, in host memory."""

    def __dlpack__(self, **options):
        raise AssertionError("not asked for")

    def __dlpack_device__(self):
        return 1, 0


def test_arrays_of_the_host_are_refused(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    for value, message in (
        (np.zeros(3), "x: expected an array on a GPU .* got numpy.ndarray"),
        ([1.0], "x: expected an array on a GPU .* got builtins.list"),
        (torch.zeros(3), "x: expected a tensor on a CUDA device, got one on cpu"),
        (OnTheHost(), "x: expected an array on a GPU, got one on DLPack device 1:0"),
    ):
        with pytest.raises(TypeError, match=message):
            kind_of("x", value)


@pytest.mark.parametrize("writing", [None, 7])
def test_pytorch_waits_for_the_stream_that_an_array_names(writing, monkeypatch):
    torch = pytest.importorskip("torch")
    waited_for = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(wait_stream=waited_for.append))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda address: f"stream {address}")
    monkeypatch.setattr(torch, "as_tensor", lambda array, device: "tensor")
    array = SimpleNamespace(__cuda_array_interface__={"stream": writing})
    assert library("torch").shared(array) == "tensor"
    assert waited_for == ([] if writing is None else ["stream 7"])


def test_pytorch_does_not_wait_for_the_gpu_to_write_words(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: ("pinned", tensor.tolist()))
    copies = []
    words = SimpleNamespace(copy_=lambda host, non_blocking: copies.append((host, non_blocking)))
    library("torch").set_words(words, np.arange(3))
    assert copies == [(("pinned", [0, 1, 2]), True)]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="cannot be part of a CUDA graph that its caller captures"):
        library("torch").set_words(words, np.arange(3))
    assert len(copies) == 1


def test_graphs_that_live_together_are_captured_on_streams_of_their_own(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    from fastrnn.kernels.cuda import launch

    done, streams = [], iter("abc")

    class Graph:
        def reset(self):
            done.append("reset")

    @contextlib.contextmanager
    def capturing(graph, stream, capture_error_mode):
        done.append(stream)
        yield

    monkeypatch.setattr(launch, "new_stream", lambda: next(streams))
    for name, value in (("CUDAGraph", Graph), ("graph", capturing), ("ExternalStream", str)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    arrays = TorchArrays()

    def fail():
        raise MemoryError

    first, second = (arrays.capture(lambda: done.append("run")) for _ in range(2))
    assert done == ["a", "run", "b", "run"]
    del first
    with pytest.raises(MemoryError):
        arrays.capture(fail)
    gc.collect()
    third = arrays.capture(lambda: None)
    assert done[4:] == ["reset", "a", "c"]  # "a" was taken, and is in no known state
    assert second is not third


def test_a_launch_of_few_blocks_is_no_reason_to_warn():
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    from fastrnn.kernels.cuda.launch import launch

    launched = []

    class Kernel:
        def __getitem__(self, configuration):
            warnings.warn("Grid size 1 will likely result in GPU under-utilization due to low occupancy.", stacklevel=1)
            return lambda *arguments: launched.append((configuration, arguments))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel = Kernel()
        for step in range(2):
            launch(kernel, 1, 32, 0, (step,))
    assert launched == [((1, 32, 0, 0), (0,)), ((1, 32, 0, 0), (1,))]


def test_a_plan_takes_no_shared_memory_from_another_plan_of_the_same_kernel(monkeypatch):
    """A launch fails if it asks for more than the kernel was last given, and a loop that is kept does not ask again."""
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    from fastrnn.kernels.cuda import launch
    from fastrnn.kernels.cuda.plan import DeviceLimits, Patch, divide
    from numba.cuda import types
    from numba.cuda.cudadrv import driver

    limits = DeviceLimits(132, 227 << 10, 1 << 16)
    patch = Patch(256, 8, 4, 4)
    plans = [divide([(1, hidden, 4 * hidden)], 128, patch) for hidden in (1024, 128)]
    assert plans[0].shared_bytes > plans[1].shared_bytes
    given = []
    function = SimpleNamespace(handle="kernel", device=SimpleNamespace(id=0))
    compiled = SimpleNamespace(
        library=SimpleNamespace(get_cufunc=lambda: function), max_cooperative_grid_blocks=lambda *_: 132
    )
    kernel = SimpleNamespace(compile=lambda signature: None, overloads={(types.int64, types.int64): compiled})
    set_attribute = SimpleNamespace(cuKernelSetAttribute=lambda _, value, *where: given.append(value))
    monkeypatch.setattr(driver, "driver", set_attribute)
    monkeypatch.setattr(launch, "device_limits", lambda: limits)
    for plan in plans:
        launch.make_room(kernel, plan)
        assert given[-1] >= max(plan.shared_bytes for plan in plans)
