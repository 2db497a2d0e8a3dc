"""Made-up tasks that ask for memory: random sequences, what is to be answered, and what no memory achieves.

In the shapes: `T` steps, `B` batch, `I` inputs of a step, `S` steps at which an answer is asked for, `V` classes.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np


class Examples(NamedTuple):
    """Random sequences and their answers."""

    x: np.ndarray  # (T, B, I) float32
    targets: np.ndarray  # (S, B): of the last S steps; float32 numbers, or intp classes


@dataclass(frozen=True)
class Adding:
    """Add the two marked ones of `length` random numbers; the answer is asked for at the last step.

    A step's input is a number, uniform in 0..1, and a mark: 1 at one step of the first half and one of the second,
    else 0. Hochreiter and Schmidhuber, "Long short-term memory" (1997), with numbers and marks as in Le, Jaitly and
    Hinton, "A simple way to initialize recurrent networks of rectified linear units" (2015).
    """

    length: int  # T, at least 2

    title: ClassVar[str] = "Adding problem"
    unit: ClassVar[str] = "mean squared error"
    inputs: ClassVar[int] = 2
    classes: ClassVar[int] = 0  # the answer is a number

    @property
    def steps(self) -> int:
        """T."""
        return self.length

    @property
    def baseline(self) -> float:
        """Of always answering 1, the mean: the variance of the sum of two uniform numbers, 1/6."""
        return 1.0 / 6.0

    def examples(self, batch: int, generator: np.random.Generator) -> Examples:
        """`batch` random sequences."""
        T, rows = self.length, np.arange(batch)
        x = np.zeros((T, batch, 2), np.float32)
        x[:, :, 0] = generator.random((T, batch), np.float32)
        first = generator.integers(0, T // 2, batch)
        second = generator.integers(T // 2, T, batch)
        x[first, rows, 1] = x[second, rows, 1] = 1.0
        return Examples(x, (x[first, rows, 0] + x[second, rows, 0])[None])


@dataclass(frozen=True)
class Copying:
    """Read ten symbols, wait, and repeat them after a signal.

    Ten symbols of eight kinds, then `delay - 1` blanks, the signal, and ten blanks: delay + 20 steps, one-hot. Asked
    for at each step is the blank, and the ten symbols at the last ten. Arjovsky, Shah and Bengio, "Unitary evolution
    recurrent neural networks" (2016), after Hochreiter and Schmidhuber (1997).
    """

    delay: int  # their T, at least 1

    title: ClassVar[str] = "Copying memory"
    unit: ClassVar[str] = "cross entropy, nats per step"
    KINDS: ClassVar[int] = 8
    SYMBOLS: ClassVar[int] = 10  # how many are to be remembered
    BLANK: ClassVar[int] = 8
    SIGNAL: ClassVar[int] = 9
    inputs: ClassVar[int] = 10
    classes: ClassVar[int] = 10  # of the same numbers as at the input; the signal is never asked for

    @property
    def steps(self) -> int:
        """T."""
        return self.delay + 2 * self.SYMBOLS

    @property
    def baseline(self) -> float:
        """Without memory: sure of the blanks, and each of the ten symbols a guess among eight."""
        return self.SYMBOLS * math.log(self.KINDS) / self.steps

    def examples(self, batch: int, generator: np.random.Generator) -> Examples:
        """`batch` random sequences."""
        symbols = generator.integers(0, self.KINDS, (self.SYMBOLS, batch))
        read = np.full((self.steps, batch), self.BLANK)
        read[: self.SYMBOLS] = symbols
        read[self.SYMBOLS + self.delay - 1] = self.SIGNAL
        targets = np.full((self.steps, batch), self.BLANK)
        targets[-self.SYMBOLS :] = symbols
        return Examples(np.eye(self.inputs, dtype=np.float32)[read], targets)


@dataclass(frozen=True)
class Parity:
    """Say at each step whether the number of ones so far is odd.

    It asks for one bit that must never be lost, and is changed by every one that is read. Asked only at the end of a
    long sequence it teaches none of the cells anything: a part of the bits gives no hint. So it is asked at each step,
    and the first ones are easy.
    """

    length: int  # T, at least 1

    title: ClassVar[str] = "Parity"
    unit: ClassVar[str] = "cross entropy, nats per step"
    inputs: ClassVar[int] = 1
    classes: ClassVar[int] = 2

    @property
    def steps(self) -> int:
        """T."""
        return self.length

    @property
    def baseline(self) -> float:
        """Of guessing."""
        return math.log(2.0)

    def examples(self, batch: int, generator: np.random.Generator) -> Examples:
        """`batch` random sequences."""
        bits = generator.integers(0, 2, (self.length, batch))
        return Examples(bits[:, :, None].astype(np.float32), np.cumsum(bits, axis=0) % 2)


Task = Adding | Copying | Parity

TITLES = {"adding": Adding.title, "copying": Copying.title, "parity": Parity.title, "text": "Text"}
UNITS = {"adding": Adding.unit, "copying": Copying.unit, "parity": Parity.unit, "text": "bits per character"}
