"""Arrays for the kernels, and their addresses."""

import contextlib
import math
import sys
from ctypes import c_ssize_t, sizeof

import numpy as np

from .kernels.record import ADDRESS_IN_ARRAY, ITEMS_IN_TUPLE

CACHE_LINE = 64  # bytes
_LARGEST_KEPT = (32 << 20) - (64 << 10)  # the largest array whose size glibc takes for its threshold, and room for more


def address(array: np.ndarray) -> int:
    """Where an array's numbers begin: what `array.ctypes.data` says, several times as fast."""
    return c_ssize_t.from_address(id(array) + ADDRESS_IN_ARRAY).value


def keep_what_is_freed() -> None:
    """Have glibc keep the memory of large arrays that are freed, for new ones, instead of giving it back to the system.

    The system hands memory out page by page, which takes some loops of training a tenth of their time. An array larger
    than a threshold, 128 KiB at first, is mapped by itself; when one is freed, its size becomes the threshold, up to 32
    MiB, and twice as much may stay free at the end of the heap (mallopt(3), M_MMAP_THRESHOLD). So what one large array
    sooner or later does, one that nobody writes to does at once. Other allocators take no notice.
    """
    with contextlib.suppress(MemoryError):  # then there is nothing to keep
        np.empty(_LARGEST_KEPT, np.uint8)


def up(number: int, multiple: int) -> int:
    """The next multiple, or `number` itself."""
    return -(-number // multiple) * multiple


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that begins at a cache line."""
    number = math.prod(shape)
    raw = np.empty(number + CACHE_LINE // dtype.itemsize, dtype)
    start = -address(raw) % CACHE_LINE // dtype.itemsize
    flat = raw[start : start + number]
    return flat if len(shape) == 1 else flat.reshape(shape)


def _check_layout() -> None:
    if sys.implementation.name != "cpython" or sizeof(c_ssize_t) != 8:
        raise ImportError("fastrnn: expected CPython of 64 bits")
    probe = (np.empty(1),)
    item = c_ssize_t.from_address(id(probe) + ITEMS_IN_TUPLE).value
    if item != id(probe[0]) or address(probe[0]) != probe[0].ctypes.data:
        raise ImportError("fastrnn: arrays or tuples are not laid out in memory as by CPython and NumPy")


_check_layout()
