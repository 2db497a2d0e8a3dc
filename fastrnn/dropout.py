"""Inverted dropout between layers, for a whole sequence or for any of its rows."""

from typing import Any, NamedTuple

import numpy as np

from .kernels.locks import free_in_children


def forkable(generator: np.random.Generator) -> np.random.Generator:
    """The generator, which a process that is forked while another thread draws can use too."""
    free_in_children(generator.bit_generator.lock)
    return generator


class Dropout(NamedTuple):
    """At work: what draws the masks, and how likely an element is dropped."""

    generator: np.random.Generator
    probability: float


class Mask:
    """The same elements are zeroed, and the others scaled, at every call."""

    def __init__(self, generator: np.random.Generator, shape: tuple[int, ...], dropout: float) -> None:
        self.kept = generator.random(shape, dtype=np.float32) >= dropout
        self.scale = 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0

    def factors(self, dtype: np.dtype) -> np.ndarray:
        """What each element is multiplied with."""
        return self.kept * dtype.type(self.scale)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            masked = values * self.kept
            masked *= self.scale
        return masked


class MaskOfRows:
    """What a `Mask` of (rows, width) is, without its memory: any rows of it are drawn again when asked for.

    The generator, a PCG64, is left as if the whole mask had been drawn.
    """

    def __init__(self, generator: np.random.Generator, rows: int, width: int, dropout: float) -> None:
        self._width = width
        self._dropout = dropout
        with generator.bit_generator.lock:  # NumPy's own, which drawing takes too
            self._state = generator.bit_generator.state
            generator.bit_generator.state = _after(self._state, rows * width).bit_generator.state

    def part(self, start: int, stop: int) -> Mask:
        """The mask of the rows start .. stop - 1."""
        return Mask(_after(self._state, start * self._width), (stop - start, self._width), self._dropout)


def _after(state: Any, number: int) -> np.random.Generator:
    """A generator in the state of one that was in this state and has drawn `number` numbers of float32 since.

    Each takes half of what PCG64 makes at a time; the other half waits in the state.
    """
    bits = np.random.PCG64()
    bits.state = state
    generator = np.random.Generator(bits)
    if number and state["has_uint32"]:
        generator.random(dtype=np.float32)
        number -= 1
    if number:
        bits.advance((number - 1) // 2)
        generator.random((number - 1) % 2 + 1, dtype=np.float32)
    return generator
