"""Numba's options, in one place."""

# integer division by zero needs no check, nothing here raises; no fast-math: the order of arithmetic is a promise
OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# small formulas on vectors: a call would pass every vector through memory
INNER = {**OPTIONS, "forceinline": True}
