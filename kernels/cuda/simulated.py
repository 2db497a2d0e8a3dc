"""What `memory.py` offers, for Numba's CUDA simulator: it runs kernels as Python, and has no addresses and no assembly.

Addresses are those of NumPy arrays here. Numbers are NumPy scalars, which keep their precision beside literals.
"""

import ctypes
import threading
import time
from functools import cache

import numpy as np
from numba import cuda

from .planes import ITEMSIZE


def device(function):
    """A function that kernels call, and that does not use `cuda` itself, needs no wrapping here."""
    return function


def kernel(**options):
    """As `cuda.jit`: the simulator knows none of the compiler's options."""
    return cuda.jit


def real(dtype: str) -> type:
    return np.float64 if dtype == "float64" else np.float32


def plain(dtype: str) -> np.dtype:
    return np.dtype(real(dtype))


@cache
def loader(dtype: str):
    size = ITEMSIZE[dtype]

    def load(address):
        raw = ctypes.string_at(int(address), size)
        if dtype == "bfloat16":
            raw, stored = b"\0\0" + raw, "float32"
        else:
            stored = dtype
        return real(dtype)(np.frombuffer(raw, stored)[0])

    return load


@cache
def storer(dtype: str):
    def store(address, value):
        if dtype == "bfloat16":
            bits = int(np.float32(value).view(np.uint32))
            raw = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 if value == value else 0x7FFF).to_bytes(2, "little")
        else:
            raw = np.dtype(dtype).type(value).tobytes()
        ctypes.memmove(int(address), raw, len(raw))

    return store


exchange_loader = loader
exchange_storer = storer


def load_word(address):
    return ctypes.c_int64.from_address(int(address)).value


def store_word(address, value):
    ctypes.c_int64.from_address(int(address)).value = int(value)


@cache
def zero(dtype: str):
    return lambda: real(dtype)(0)


@cache
def from_plain(dtype: str):
    return real(dtype)


def to_plain(value):
    return value


@cache
def patch_loader(dtype: str, rows: int, columns: int, sums: int):
    read = loader(dtype)

    def load(address, first_row, rows_end, unit_bytes, sum_bytes, column_bytes, columns_left):
        values = []
        for r in range(first_row, first_row + rows):
            start = address + r // sums * unit_bytes + r % sums * sum_bytes
            for column in range(columns):
                there = r < rows_end and column < columns_left
                values.append(read(start + column * column_bytes) if there else real(dtype)(0))
        return tuple(values)

    return load


@cache
def zeros(dtype: str, count: int):
    return lambda: (real(dtype)(0),) * count


@cache
def multiplier(dtype: str, rows: int, columns: int, batch: int):
    def multiply(sums, patch, shared, start, column_step, row_step):
        weights = np.array(patch).reshape(rows, columns)
        places = start + np.arange(columns) * column_step + np.arange(batch)[:, None] * row_step
        return tuple((np.array(sums).reshape(batch, rows) + _numbers(shared)[places] @ weights.T).ravel())

    return multiply


@cache
def column_multiplier(dtype: str, rows: int, batch: int):
    def multiply(sums, shared, weights, weight_step, start, row_step):
        numbers = _numbers(shared)
        column = numbers[weights + np.arange(rows) * weight_step]
        values = numbers[start + np.arange(batch) * row_step]
        return tuple((np.array(sums).reshape(batch, rows) + np.outer(values, column)).ravel())

    return multiply


@cache
def spreader(dtype: str, rows: int, batch: int):
    def spread(sums, shared, start, row_step, batch_step):
        for place, total in enumerate(sums):
            b, row = divmod(place, rows)
            shared[start + row * row_step + b * batch_step] = total

    return spread


@cache
def gatherer(dtype: str, count: int):
    return lambda shared, start: tuple(shared[start + n] for n in range(count))


def _numbers(shared):
    """The NumPy array behind one of the simulator's."""
    return getattr(shared, "_ary", shared)


_arriving = threading.Lock()


def arrive(counter):
    with _arriving:
        ctypes.c_int64.from_address(int(counter)).value += 1


def arrived(counter):
    time.sleep(1e-4)  # lets the other threads on
    return ctypes.c_int64.from_address(int(counter)).value


def prefetch(address):
    """Nothing to be gained here."""
