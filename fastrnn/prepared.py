"""A kernel on one argument block that was laid out once, to be run again and again, by several calls at once too."""

from collections.abc import Sequence

import numpy as np

from . import threads
from .kernels import compiled, record
from .kernels.block import WORKER_WORDS
from .memory import address
from .templates import Word, relocations

_WORD = 8


class Prepared:
    """Each run makes a copy of the block, and of the record that runs it on one thread, in one piece of memory.

    words  of the block, behind those of the workers. `At("words", n)` is a place n bytes from the first of them,
           `At("given", n)` one n bytes from the address that a run is given
    """

    def __init__(self, kernel: str, words: Sequence[Word]) -> None:
        self._kernel = compiled.kernel(kernel)
        offsets, places = relocations(words)
        self._number = len(offsets)
        of_block = record.of_blocks(self._kernel, 0, 0, 1)
        self._words = np.array([*[0] * WORKER_WORDS, *offsets, *of_block], np.int64)
        self._record = WORKER_WORDS + self._number
        begin = _WORD * WORKER_WORDS
        # which words are addresses within the copy, and how many bytes from its beginning
        self._own = [(WORKER_WORDS + i, begin + offsets[i]) for i, buffer in places if buffer == "words"]
        self._own.append((self._record + record.BLOCK, 0))
        self._given = [(WORKER_WORDS + i, offsets[i]) for i, buffer in places if buffer == "given"]

    def run(self, number: int, given: int = 0) -> np.ndarray:
        """Run it on so many threads, and return `words` as the kernel has left them."""
        block = self._words.copy()
        start = address(block)
        for place, offset in self._own:
            block[place] = start + offset
        for place, offset in self._given:
            block[place] = given + offset
        if number == 1:
            compiled.run_record(start + _WORD * self._record)
        else:
            threads.run(self._kernel, start, number)
        return block[WORKER_WORDS : self._record]
