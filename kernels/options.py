"""Numba's options, in one place."""

import warnings

from numba import config, njit

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


def _can_cache() -> bool:
    """Whether there is a folder that Numba can keep compiled code in. Where there is none, `cache=True` raises."""
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


# what is called from Python or by address, and kept on disk
CACHED = {"cache": _can_cache()}
if not CACHED["cache"]:
    warnings.warn(
        "fastrnn: no folder for compiled kernels can be written to, so every process compiles its own, which takes "
        "seconds; the environment variable NUMBA_CACHE_DIR can name one",
        RuntimeWarning,
        stacklevel=2,
    )
