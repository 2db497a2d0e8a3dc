"""The array libraries that hold memory and multiply matrices: CuPy, PyTorch, and NumPy for the simulator.

All that the layers ask of a library is here; what the three spell alike (slicing, reshape, `.T`, `a + b`) is used as it
is. Types are named as NumPy names them, "float32" or "bfloat16".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn.kernels.cuda.planes import wide
from fastrnn.kernels.locks import new_lock

Array = Any  # of one of the libraries

_capturing = new_lock()  # PyTorch captures one graph at a time

DTYPES = ("float32", "float64", "float16", "bfloat16")


class Arrays:
    """What is asked of a library. Work goes to the caller's current stream, results are not waited for."""

    name: str
    can_capture = False  # whether `capture` works

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        raise NotImplementedError

    def zeros(self, shape: Sequence[int], dtype: str) -> Array:
        """New memory, all 0."""
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def product(self, a: Array, b: Array, out: Array) -> None:
        """out = a @ b, matrices, sums kept in at least float32; `out` is C-contiguous."""
        raise NotImplementedError

    def converted(self, array: Array, dtype: str) -> Array:
        """A C-contiguous copy in another type."""
        copy = self.empty(array.shape, dtype)
        copy[...] = array
        return copy

    def contiguous(self, array: Array) -> Array:
        """The array itself if it is C-contiguous, else a copy that is."""
        raise NotImplementedError

    def joined(self, arrays: Sequence[Array], axis: int) -> Array:
        """Arrays side by side."""
        raise NotImplementedError

    def column_sums(self, matrix: Array, out: Array) -> None:
        """The sums of the columns, kept in at least float32."""
        raise NotImplementedError

    def from_host(self, array: np.ndarray) -> Array:
        """A copy of a NumPy array of a type that NumPy has."""
        raise NotImplementedError

    def from_host_as(self, array: np.ndarray, dtype: str) -> Array:
        """A copy of a NumPy array in that type."""
        if str(array.dtype) == "bfloat16":  # which not every library takes from NumPy; its numbers are float32's
            array = array.astype(np.float32)
        return self.converted(self.from_host(array), dtype)

    def shared(self, array: Any) -> Array:
        """Another library's array on a GPU as one of this, in the same memory."""
        raise NotImplementedError

    def to_host(self, array: Array) -> np.ndarray:
        """A NumPy copy; float32 of bfloat16. Waits for the work on the stream."""
        raise NotImplementedError

    def set_words(self, words: Array, values: np.ndarray) -> None:
        """Write int64 words from the host into device memory, in the order of the stream."""
        words[...] = self.from_host(values)

    def address(self, array: Array) -> int:
        raise NotImplementedError

    def dtype_name(self, array: Array) -> str:
        """As in DTYPES, or any other name."""
        return str(array.dtype).removeprefix("torch.")

    def device_number(self, array: Array) -> int:
        """Of the GPU it is on."""
        raise NotImplementedError

    def current_device(self) -> int:
        """The number of the GPU where new arrays are made."""
        raise NotImplementedError

    def stream(self) -> int:
        """The address of the current stream; 0 for the default one."""
        raise NotImplementedError

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        """What the library raises then."""
        raise NotImplementedError

    def capture(self, run: Any) -> Any:
        """A CUDA graph of what `run()` launches; its `replay()` launches it all at once."""
        raise NotImplementedError


class _AsNumpy(Arrays):
    """What CuPy and NumPy, in `module`, spell alike."""

    module: Any

    def contiguous(self, array: Array) -> Array:
        return self.module.ascontiguousarray(array)

    def joined(self, arrays: Sequence[Array], axis: int) -> Array:
        return self.module.concatenate(arrays, axis=axis)

    def column_sums(self, matrix: Array, out: Array) -> None:
        out[...] = matrix.sum(axis=0, dtype=wide(self.dtype_name(matrix)))

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        if dtype != "bfloat16":
            return self.module.empty(tuple(shape), dtype)
        import ml_dtypes

        return self.module.empty(tuple(shape), ml_dtypes.bfloat16)


class CupyArrays(_AsNumpy):
    """CuPy. It refuses to capture cuBLAS calls in a graph (cupy/cupy#6290)."""

    name = "cupy"

    def __init__(self) -> None:
        import cupy

        self.module = cupy

    def product(self, a: Array, b: Array, out: Array) -> None:
        self.module.matmul(a, b, out=out)

    def from_host(self, array: np.ndarray) -> Array:
        return self.module.asarray(array)

    def shared(self, array: Any) -> Array:
        if hasattr(array, "__cuda_array_interface__") and not hasattr(array, "__dlpack__"):
            return self.module.asarray(array)
        return self.module.from_dlpack(array)

    def to_host(self, array: Array) -> np.ndarray:
        if self.dtype_name(array) == "bfloat16":
            array = array.astype(np.float32)
        return self.module.asnumpy(array)

    def address(self, array: Array) -> int:
        return array.data.ptr

    def device_number(self, array: Array) -> int:
        return array.device.id

    def current_device(self) -> int:
        return self.module.cuda.Device().id

    def stream(self) -> int:
        return self.module.cuda.get_current_stream().ptr

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        return (self.module.cuda.memory.OutOfMemoryError,)


class TorchArrays(Arrays):
    """PyTorch. Its products follow its own switches, TF32 among them, which is off unless the caller turned it on."""

    name = "torch"
    can_capture = True

    def __init__(self, device: str = "cuda") -> None:
        import torch

        self._torch = torch
        self._device = device
        self._capture_streams: dict[int, list[Any]] = {}  # of each GPU, those that no graph has

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        with self._torch.inference_mode(False):  # memory that stays is also written to outside of that mode
            return self._torch.empty(tuple(shape), dtype=getattr(self._torch, dtype), device=self._device)

    def product(self, a: Array, b: Array, out: Array) -> None:
        with self._torch.no_grad():
            self._torch.mm(a, b, out=out)

    def contiguous(self, array: Array) -> Array:
        return array.contiguous()

    def joined(self, arrays: Sequence[Array], axis: int) -> Array:
        return self._torch.cat(tuple(arrays), dim=axis)

    def column_sums(self, matrix: Array, out: Array) -> None:
        out[...] = matrix.sum(0, dtype=getattr(self._torch, wide(self.dtype_name(matrix))))

    def from_host(self, array: np.ndarray) -> Array:
        return self._torch.from_numpy(array).to(self._device)

    def set_words(self, words: Array, values: np.ndarray) -> None:
        host = self._torch.from_numpy(values)
        if self._device != "cpu":
            if self._torch.cuda.is_current_stream_capturing():  # a replay would find other words there
                raise RuntimeError("a layer's call cannot be part of a CUDA graph that its caller captures")
            host = host.pin_memory()  # a copy from elsewhere waits for all work on the stream
        words.copy_(host, non_blocking=True)

    def shared(self, array: Any) -> Array:
        if hasattr(array, "__dlpack__"):
            return self._torch.from_dlpack(array)
        writing = array.__cuda_array_interface__.get("stream")
        if writing is not None:  # the protocol asks the taker to wait for it, and PyTorch does not
            cuda = self._torch.cuda
            cuda.current_stream().wait_stream(cuda.ExternalStream(writing))
        return self._torch.as_tensor(array, device=self._device)

    def to_host(self, array: Array) -> np.ndarray:
        array = array.detach().cpu()
        return (array.float() if array.dtype == self._torch.bfloat16 else array).numpy()

    def address(self, array: Array) -> int:
        return array.data_ptr()

    def device_number(self, array: Array) -> int:
        return array.device.index

    def current_device(self) -> int:
        return self._torch.cuda.current_device()

    def stream(self) -> int:
        return self._torch.cuda.current_stream().cuda_stream

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        return (self._torch.OutOfMemoryError,)

    def capture(self, run: Any) -> Any:
        with _capturing:
            return _TorchGraph(self._torch.cuda, run, self._capture_streams.setdefault(self.current_device(), []))


class _TorchGraph:
    """A captured graph.

    As long as it lives it has the stream that it is captured on for itself. On one stream PyTorch gives cuBLAS the same
    scratch memory in all captures: two such graphs would disturb each other where they are replayed side by side, and
    the memory goes with the first of them (pytorch/pytorch#193402).
    """

    def __init__(self, cuda: Any, run: Any, free_streams: list[Any]) -> None:
        from fastrnn.kernels.cuda.launch import new_stream

        self._free_streams = free_streams
        self._stream = None  # known once the capture is whole
        stream = free_streams.pop() if free_streams else cuda.ExternalStream(new_stream())
        self._graph = cuda.CUDAGraph()
        # other threads may go on allocating
        with cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            run()
        self._stream = stream

    def replay(self) -> None:
        self._graph.replay()

    def __del__(self) -> None:
        if self._stream is not None:
            self._graph.reset()
            self._free_streams.append(self._stream)


class NumpyArrays(_AsNumpy):
    """NumPy, in the place of a GPU's library when Numba's simulator is on."""

    name = "numpy"
    module = np

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        array = super().empty(shape, dtype)
        array[...] = np.nan if dtype in DTYPES else -1  # what is not written shows
        return array

    def product(self, a: Array, b: Array, out: Array) -> None:
        dtype = wide(self.dtype_name(a))
        out[...] = a.astype(dtype) @ b.astype(dtype)

    def from_host(self, array: np.ndarray) -> Array:
        return array.copy()

    def shared(self, array: Any) -> Array:
        return array

    def to_host(self, array: Array) -> np.ndarray:
        return array.astype(np.float32) if self.dtype_name(array) == "bfloat16" else array.copy()

    def address(self, array: Array) -> int:
        return array.ctypes.data

    def device_number(self, array: Array) -> int:
        return 0

    def current_device(self) -> int:
        return 0

    def stream(self) -> int:
        return 0

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        return (MemoryError,)
