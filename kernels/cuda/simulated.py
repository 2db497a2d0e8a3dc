"""What `memory.py` offers, for Numba's CUDA simulator: it runs kernels as Python, and has no addresses and no assembly.

Addresses are those of NumPy arrays here. Numbers are NumPy scalars, which keep their precision beside literals.
"""

import ctypes
from functools import cache

import numpy as np
from numba import cuda


def device(function):
    """A function that kernels call, and that does not use `cuda` itself, needs no wrapping here."""
    return function


def kernel(**options):
    """As `cuda.jit`: the simulator knows none of the compiler's options."""
    return cuda.jit


_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


def real(dtype: str) -> type:
    return np.float64 if dtype == "float64" else np.float32


@cache
def loader(dtype: str):
    size = _BYTES[dtype]

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


@cache
def zero(dtype: str):
    return lambda: real(dtype)(0)


@cache
def from_plain(dtype: str):
    return real(dtype)


def to_plain(value):
    return value


def fma(a, b, c):
    """Rounded twice: close enough for what the simulator is to show."""
    return a * b + c
