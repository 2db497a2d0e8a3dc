"""Real text that every Python carries, as sequences of integers.

In the shapes: `N` characters of a text, `T` steps, `B` parallel streams.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


def language_reference() -> str:
    """Python's language reference as plain text: the topics behind `help()`, in alphabetical order.

    The topics overlap: a fifth of them is text that stands in several. Each paragraph is kept only where it comes
    first, so that the end of the text, held out, does not ask for what the rest has said already. About 370,000
    characters; the exact text differs between versions of Python.
    """
    from pydoc_data.topics import topics

    return without_repeats(topics[name] for name in sorted(topics))


def without_repeats(topics: Iterable[str]) -> str:
    """The topics one after the other, without the paragraphs that were there before, however indented."""
    seen: set[str] = set()
    kept = []
    for topic in topics:
        paragraphs = []
        for paragraph in topic.split("\n\n"):
            words = paragraph.strip()
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph.strip("\n"))
        if paragraphs:
            kept.append("\n\n".join(paragraphs))
    return "\n\n\n".join(kept)


class Vocabulary:
    """The characters of a text, numbered in the order of their code points."""

    def __init__(self, characters: str) -> None:
        self.characters = "".join(sorted(set(characters)))
        self._codes = np.array([ord(c) for c in self.characters], np.uint32)

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text's characters, (N,) intp. ValueError if one is not in the vocabulary."""
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        indices = np.searchsorted(self._codes, codes)
        known = self._codes.take(indices, mode="clip") == codes
        if not known.all():
            raise ValueError(f"text: {text[int(known.argmin())]!r} is not in the vocabulary")
        return indices

    def decode(self, indices: np.ndarray) -> str:
        """The text of an integer array (N,)."""
        return "".join(self.characters[i] for i in indices)


class Split(NamedTuple):
    """A text in two: the last part, `held_out`, is only for judging a model that has learnt from `train`."""

    vocabulary: Vocabulary  # of both
    train: np.ndarray  # (N,) intp
    held_out: np.ndarray  # (N,) intp


def split(text: str, held_out: float = 0.1) -> Split:
    """Hold out the last part of a text: `held_out` of its characters."""
    vocabulary = Vocabulary(text)
    indices = vocabulary.encode(text)
    border = len(indices) - round(held_out * len(indices))
    return Split(vocabulary, indices[:border], indices[border:])


class Batch(NamedTuple):
    """The next `T` characters of `B` streams, and what follows each of them."""

    inputs: np.ndarray  # (T, B) intp
    targets: np.ndarray  # (T, B) intp
    first: bool  # the streams start here: the state before is zero. Else they go on where the last batch ended.


def batches(indices: np.ndarray, batch: int, steps: int, generator: np.random.Generator) -> Iterator[Batch]:
    """Read a text over and over as parallel streams, for backpropagation truncated to `steps` steps.

    indices    (N,)
    batch      B: the text is cut in so many equal pieces, which are read side by side
    steps      T
    generator  draws where each reading starts, so that no two cut the text at the same places

    ValueError if the text is too short for one batch.
    """
    least = batch * steps + 1
    if len(indices) < least:
        needed = f"{batch} texts of {steps} steps need {least} characters"
        raise ValueError(f"batch, steps: {needed}, got {len(indices)}")
    return _batches(indices, batch, steps, generator)


def _batches(indices: np.ndarray, batch: int, steps: int, generator: np.random.Generator) -> Iterator[Batch]:
    pairs = len(indices) - 1  # of a character and the one that follows
    length = pairs // batch // steps * steps
    starts = length * np.arange(batch)
    while True:
        offset = generator.integers(pairs - batch * length + 1)
        for start in range(0, length, steps):
            positions = offset + start + np.arange(steps)[:, None] + starts
            yield Batch(indices[positions], indices[positions + 1], start == 0)
