"""What becomes of a signal over the steps: a rate fitted to its curve, and a verdict in words."""

import math

import numpy as np

VANISHED, EXPLODED = 1e-3, 1e3  # of what there was at the beginning
_HELD = 10.0  # a signal that stays within a factor of this holds


def fitted(log_curve: np.ndarray) -> float:
    """The factor per step: exp of the slope of the least-squares line through log_curve (T,), by lag 0 .. T-1.

    Only finite points count; NaN if there are less than two.
    """
    finite = np.isfinite(log_curve)
    if finite.sum() < 2:
        return math.nan
    slope = np.polynomial.Polynomial.fit(np.flatnonzero(finite), log_curve[finite], 1).convert().coef
    return math.exp(slope[1]) if len(slope) > 1 else 1.0


def half_life(factor: float) -> float:
    """Steps until half is left of what is multiplied by `factor` at each: infinite if it does not shrink."""
    if math.isnan(factor):
        return math.nan
    if factor <= 0:
        return 0.0
    return math.log(0.5) / math.log(factor) if factor < 1 else math.inf


def verdict(log_curve: np.ndarray) -> str:
    """In words, of the logarithm (T,) by lag of what is left, relative to the beginning.

    In this order: "NaN from lag k"; "explodes by lag k", where it first exceeds 1000; "vanishes by lag k", from where
    on it stays below 1/1000; then by what is left at the last lag: "holds" within a factor of 10, else "fades" or
    "grows".
    """
    last = len(log_curve) - 1
    started = np.flatnonzero(log_curve == 0)
    if not len(started):
        return "nothing to carry: the loss has no gradient here"
    curve = log_curve[started[0] :]
    if np.isnan(curve).any():
        return f"NaN from lag {started[0] + np.flatnonzero(np.isnan(curve))[0]}"
    if len(curve) == 1:
        return "not seen: there is no earlier step"
    exploded = np.flatnonzero(curve > math.log(EXPLODED))
    if len(exploded):
        return f"explodes by lag {started[0] + exploded[0]}"
    left = math.exp(curve[-1])
    if left < VANISHED:
        above = np.flatnonzero(curve >= math.log(VANISHED))
        return f"vanishes by lag {started[0] + above[-1] + 1}"
    word = "holds" if 1 / _HELD <= left <= _HELD else "fades" if left < 1 else "grows"
    return f"{word}: {left:.2g} of it at lag {last}"
