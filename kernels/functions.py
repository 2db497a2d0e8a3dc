"""The functions that the gate formulas call, on Python floats.

The same names work on SIMD vectors once `elementary` is imported.
"""

import math


def sigmoid(x: float) -> float:
    """σ(x) = 1 / (1 + e⁻ˣ), without overflow at either end."""
    e = math.exp(-abs(x))
    return e / (1.0 + e) if x < 0 else 1.0 / (1.0 + e)


def tanh(x: float) -> float:
    """The hyperbolic tangent."""
    return math.tanh(x)


def relu(x: float) -> float:
    """x where it is positive, else 0; NaN stays NaN."""
    return 0.0 if x <= 0 else x


def relu_gradient(h: float, dh: float) -> float:
    """The gradient before relu, from its output h and the gradient dh after it; 0 where h = 0."""
    return 0.0 if h <= 0 else dh
