"""Whether memory has changed since it was last looked at, by checksums of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .kernels import checksum
from .memory import address
from .prepared import Prepared
from .templates import At, Word

# bytes of one checksum, at most, and of all that are faster taken together
_PIECE_BYTES = 1 << 18
_ENOUGH_TO_CHECK_TOGETHER = 1 << 21
_WORD = 8
_BEHIND = b":"  # the name of the kernel that took them, checksums follow


class Pieces(NamedTuple):
    """Memory, and the checksums that it had; not to be written to."""

    table: np.ndarray  # (number * PIECE_WORDS,) int64, as `kernels/checksum.py` has it
    number: int
    address: int  # of the table
    checksums: bytes  # behind the name of the kernel that took them


NOTHING = Pieces(np.zeros(0, np.int64), 0, 0, b"")


def may_be_same(one: bytes, other: bytes) -> bool:
    """Whether memory with these checksums may have the same contents. It may if they were taken in different ways.

    (What was pickled on one kind of processor can be loaded on another.)
    """
    return one == other or one.partition(_BEHIND)[0] != other.partition(_BEHIND)[0]


class Watched:
    """The memory of some C-contiguous arrays, piece by piece."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        table = [
            word
            for array in arrays
            for start in range(0, array.nbytes, _PIECE_BYTES)
            for word in (address(array) + start, min(_PIECE_BYTES, array.nbytes - start), 0, 0)
        ]
        self._number = len(table) // checksum.PIECE_WORDS
        words: list[Word] = [checksum.NOT_KNOWN, self._number, At("words", _WORD * checksum.BLOCK_WORDS), *table]
        name = checksum.kernel_name()
        self._way = name.encode() + _BEHIND
        self._look = Prepared(name, words)
        # whether all threads take them
        self.together = sum(array.nbytes for array in arrays) >= _ENOUGH_TO_CHECK_TOGETHER

    def pieces(self, number: int) -> Pieces:
        """The pieces and their checksums as they are now, taken by so many threads."""
        table = self._look.run(number)[checksum.BLOCK_WORDS :]
        checksums = table.reshape(self._number, checksum.PIECE_WORDS)[:, checksum.CHECKSUM :]
        return Pieces(table, self._number, address(table), self._way + checksums.tobytes())
