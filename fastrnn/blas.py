"""How many threads NumPy's matrix products and decompositions run on. NumPy has no function for it."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .kernels.locks import new_lock

# How OpenBLAS and MKL call the functions, in the variants that NumPy is built with: to set the number, and to get it.
_NAMES = (
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
)
_lock = new_lock()
_inside = 0  # so many are in `one_thread`
_before = 1  # the number before the first of them


def use_one_thread() -> bool:
    """Have NumPy's matrix products run on one thread in this process. Returns whether that was possible.

    After each product BLAS's other threads go on spinning for some milliseconds, on the processors that the kernels'
    threads are then to use. Two cores, LSTM(64, 256), T=64, B=32, forward: 25 ms after a product on two threads, 9 ms
    after one on one thread. BLAS reads its environment variable only when loaded.
    """
    functions = _functions()
    if functions is None:
        return False
    functions[0](ctypes.c_int(1))
    return True


@contextmanager
def one_thread() -> Iterator[None]:
    """The same for a while, if it is possible: many small decompositions are slower on several threads.

    The number is the whole process's: with several at once the first sets it, and the last sets it back.
    """
    global _inside, _before
    functions = _functions()
    if functions is None:
        yield
        return
    setter, getter = functions
    with _lock:
        if _inside == 0:
            _before = getter()
            setter(ctypes.c_int(1))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                setter(ctypes.c_int(_before))


def _functions() -> tuple[Any, Any] | None:
    """BLAS's functions that set and get the number of threads, if it has any that are known here."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # it links to BLAS
    for names in _NAMES:
        setter, getter = (getattr(library, name, None) for name in names)
        if setter is not None and getter is not None:
            return setter, getter
    return None
