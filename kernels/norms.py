"""Norms of every step of a sequence, compiled, in float64 whatever the dtype."""

import math

import numpy as np

from .disk_cache import kept
from .options import IN_ANY_ORDER

# sums of squares are read to a few digits
_compiled = kept(**IN_ANY_ORDER)

# within these, no square of a sum lost its digits to underflow, and none overflowed
_SMALLEST, _LARGEST = 1e-280, 1e300


@_compiled
def norms(values):
    """The Euclidean norm over batch and units at each step of `values`, (T, B, n) -> (T,) float64.

    Gradients vanish and explode: where squares would under- or overflow, they are taken again, scaled.
    """
    T, B, n = values.shape
    result = np.empty(T)
    for t in range(T):
        total = 0.0
        for b in range(B):
            for j in range(n):
                value = np.float64(values[t, b, j])
                total += value * value
        if total < _SMALLEST or total > _LARGEST:
            largest = 0.0
            for b in range(B):
                for j in range(n):
                    largest = max(largest, abs(np.float64(values[t, b, j])))
            if 0.0 < largest < math.inf:
                total = 0.0
                for b in range(B):
                    for j in range(n):
                        value = np.float64(values[t, b, j]) / largest
                        total += value * value
                result[t] = largest * math.sqrt(total)
                continue
        result[t] = math.sqrt(total)
    return result


@_compiled
def path_norms(last, gates):
    """Of a gradient that only ever meets gates, (T,): `last` (B, n) at the last step of `gates` (T, B, n), and at each
    step before it what it was there times the gates of the step after.
    """
    T, B, n = gates.shape
    path = last.astype(np.float64).reshape((1, B, n))
    result = np.empty(T)
    result[T - 1] = norms(path)[0]
    for t in range(T - 2, -1, -1):
        for b in range(B):
            for j in range(n):
                path[0, b, j] *= gates[t + 1, b, j]
        result[t] = norms(path)[0]
    return result
