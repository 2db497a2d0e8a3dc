"""Launching a kernel on a stream that some library owns."""

from functools import cache

from numba import cuda

from .target import SIMULATED


@cache
def _stream(address: int):
    return 0 if SIMULATED or address == 0 else cuda.external_stream(address)


def launch(kernel, blocks, threads: int, stream: int, arguments: tuple[int, ...], shared_bytes: int = 0) -> None:
    """Launch on the stream at this address (0: the default one). The arguments are addresses and integers, int64."""
    kernel[blocks, threads, _stream(stream), shared_bytes](*arguments)


def as_numba_array(array):
    """An array with `__cuda_array_interface__` as Numba's own, in the same memory."""
    return cuda.as_cuda_array(array)
