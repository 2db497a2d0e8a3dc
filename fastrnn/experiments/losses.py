"""Losses, with their gradients.

In the shapes: `N` predictions, `V` classes.
"""

import math

import numpy as np

BITS_PER_NAT = 1.0 / math.log(2.0)


def softmax_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of -ln p(target) with p = softmax(logits), in nats, and its gradient.

    logits   (N, V), float; overwritten: the gradient, (N, V), takes its place
    targets  (N,), integers in 0..V-1
    """
    rows = np.arange(len(targets))
    logits -= logits.max(axis=1, keepdims=True)
    at_targets = logits[rows, targets]
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1, keepdims=True)
    nats = float(np.mean(np.log(sums[:, 0]) - at_targets, dtype=np.float64))
    logits /= sums * len(targets)
    logits[rows, targets] -= 1.0 / len(targets)
    return nats, logits


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each -ln p(target) with p = softmax(logits), in nats: (N,), from logits (N, V) and targets (N,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]


def squared_error(predictions: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of (prediction - target)² and its gradient, (N,); predictions and targets are (N,)."""
    differences = predictions - targets
    mean = float(np.mean(np.square(differences), dtype=np.float64))
    differences *= 2.0 / len(targets)
    return mean, differences
