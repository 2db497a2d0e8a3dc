"""Numba's options, in one place."""

from numba import config

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise RuntimeError(
        "NUMBA_DISABLE_JIT: expected 0 or none, for the kernels are what Numba compiles, got 1; "
        'layers with backend="reference" run without'
    )

# integer division by zero needs no check, nothing here raises; no fast-math: the order of arithmetic is a promise
OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# small formulas on vectors: a call would pass every vector through memory
INNER = {**OPTIONS, "forceinline": True}
# for sums whose order is no promise: as a single chain of additions a loop cannot be vectorised
IN_ANY_ORDER = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
