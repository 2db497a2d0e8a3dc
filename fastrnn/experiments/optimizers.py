"""Updating parameters in place from their gradients: both are mappings of the same names to arrays."""

import math
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def clip_global_norm(gradients: Arrays, limit: float) -> float:
    """Scale the gradients in place so that their norm, over all of them together, is at most `limit`.

    Returns the norm before. Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks"
    (2013), algorithm 1.
    """
    flats = [gradient.ravel() for gradient in gradients.values()]
    # in float64: the squares of large float32 numbers are no longer finite
    norm = math.sqrt(sum(float(np.einsum("i,i", flat, flat, dtype=np.float64)) for flat in flats))
    if norm > limit:
        for gradient in gradients.values():
            gradient *= limit / norm
    return norm


class Adam:
    """Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1."""

    def __init__(
        self, parameters: Arrays, learning_rate: float, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> None:
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.steps = 0
        self._means = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._squares = {name: np.zeros_like(value) for name, value in parameters.items()}
        largest = max(parameters.values(), key=lambda value: value.size)
        self._scratch = np.empty(largest.size, largest.dtype)

    def step(self, gradients: Arrays) -> None:
        """Update the parameters in place. Overwrites the gradients."""
        self.steps += 1
        mean_scale = 1.0 / (1.0 - self.beta1**self.steps)
        square_scale = 1.0 / (1.0 - self.beta2**self.steps)
        for name, parameter in self.parameters.items():
            gradient, mean, square = gradients[name], self._means[name], self._squares[name]
            scratch = self._scratch[: parameter.size].reshape(parameter.shape)
            np.multiply(gradient, gradient, out=scratch)
            scratch *= 1.0 - self.beta2
            square *= self.beta2
            square += scratch
            gradient *= 1.0 - self.beta1
            mean *= self.beta1
            mean += gradient
            np.multiply(square, square_scale, out=scratch)
            np.sqrt(scratch, out=scratch)
            scratch += self.eps
            np.divide(mean, scratch, out=scratch)
            scratch *= self.learning_rate * mean_scale
            parameter -= scratch
