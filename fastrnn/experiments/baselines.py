"""What counting characters achieves: n-gram models, against which a network is to be judged.

In the shapes: `V` characters in the vocabulary, `N` characters of a text.
"""

import numpy as np


class NGram:
    """Predict a character from the `order - 1` before it, with interpolated Kneser-Ney smoothing.

        p(c | h) = max(n(h c) - D, 0) / n(h) + D n1(h) / n(h) · p(c | h without its oldest character)

    n(h c) counts how often c follows h, n(h) sums it over c, and n1(h) says how many different c follow h. Below the
    highest order, n(h c) counts instead how many different characters stand before h c. The lowest order falls back
    on 1 / V, so nothing is impossible. A history never seen has the next lower order's prediction. Each order has its
    own discount D = n1 / (n1 + 2 n2), from how many of its counts are one and two.

    Kneser and Ney, "Improved backing-off for m-gram language modeling" (1995), interpolated as in Chen and Goodman,
    "An empirical study of smoothing techniques for language modeling" (1998).
    """

    def __init__(self, order: int, indices: np.ndarray, vocabulary_size: int) -> None:
        """Count in `indices` (N,). Takes memory for V**order numbers."""
        self.order = order
        counts = _counts(order, indices, vocabulary_size)
        levels = [counts]
        while levels[-1].ndim > 1:
            levels.append(np.count_nonzero(levels[-1], axis=0))
        probabilities = np.full(vocabulary_size, 1.0 / vocabulary_size)
        for level in reversed(levels):
            probabilities = _interpolated(level, probabilities)
        self.probabilities = probabilities  # (V,) * order: of the last index, after those before it
        self._logarithms = np.log2(probabilities)

    def bits_per_character(self, indices: np.ndarray, context: np.ndarray) -> float:
        """The mean of -log2 p over `indices` (N,), which follow on `context`, of at least `order - 1` characters."""
        history = self.order - 1
        both = np.concatenate([context[len(context) - history :], indices])
        return -float(np.mean(self._logarithms[_windows(self.order, both)]))


def _windows(order: int, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each character with those before it, as an index into a table: `order` arrays (N - order + 1,)."""
    return tuple(indices[k : len(indices) - order + 1 + k] for k in range(order))


def _counts(order: int, indices: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """How often each n-gram occurs, (V,) * order."""
    shape = (vocabulary_size,) * order
    flat = np.ravel_multi_index(_windows(order, indices), shape)
    return np.bincount(flat, minlength=vocabulary_size**order).reshape(shape)


def _interpolated(counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """One order's probabilities (..., V) from its counts (..., V) and the probabilities of the order below."""
    discount = _discount(counts)
    totals = counts.sum(axis=-1, keepdims=True)
    seen = np.maximum(totals, 1)
    weight = np.where(totals > 0, discount * np.count_nonzero(counts, axis=-1, keepdims=True) / seen, 1.0)
    return np.maximum(counts - discount, 0.0) / seen + weight * lower


def _discount(counts: np.ndarray) -> float:
    """Ney, Essen and Kneser (1994); one half where a text is too small to have counts of one."""
    ones, twos = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return ones / (ones + 2 * twos) if ones else 0.5
