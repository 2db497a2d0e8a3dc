"""NumPy's matrix products beside the kernels."""

import ctypes

import numpy as np

# How OpenBLAS and MKL call the function, in the variants that NumPy is built with.
_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
)


def use_one_thread() -> bool:
    """Have NumPy's matrix products run on one thread in this process. Returns whether that was possible.

    After each product BLAS's other threads go on spinning for some milliseconds, on the processors that the kernels'
    threads are then to use. Two cores, LSTM(64, 256), T=64, B=32, forward: 25 ms after a product on two threads, 9 ms
    after one on one thread. NumPy has no function for it, and BLAS reads its environment variable only when loaded.
    """
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # it links to BLAS
    for name in _SETTERS:
        setter = getattr(library, name, None)
        if setter is not None:
            setter(ctypes.c_int(1))
            return True
    return False
