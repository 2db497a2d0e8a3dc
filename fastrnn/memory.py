"""Arrays for the kernels, and their addresses."""

import math
from ctypes import c_ssize_t

import numpy as np

from .kernels.record import ADDRESS_IN_ARRAY

CACHE_LINE = 64  # bytes


def address(array: np.ndarray) -> int:
    """Where an array's numbers begin: what `array.ctypes.data` says, several times as fast."""
    return c_ssize_t.from_address(id(array) + ADDRESS_IN_ARRAY).value


def _check() -> None:
    probe = np.empty(1)
    if address(probe) != probe.ctypes.data:
        raise ImportError("fastrnn: this build of NumPy or Python keeps the addresses of arrays in another place")


_check()


def up(number: int, multiple: int) -> int:
    """The next multiple, or `number` itself."""
    return -(-number // multiple) * multiple


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that begins at a cache line."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)
