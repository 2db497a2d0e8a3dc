"""The record of a call: what one call of compiled code checks, fills in and runs.

It is an int64 array. The first words stay as they are from call to call, those from PIECES on are the call's own. A
block (see `block.py`) is filled in from words of the record: addresses mostly, and numbers such as how many steps there
are. Arrays come as a Python tuple, which must live as long as the call; where they begin is looked up in the objects
themselves. How CPython and NumPy lay these out is said here, and `memory.py` refuses to be imported where it is not so.
"""

import numpy as np

BLOCK = 0  # address of the block, or of several, one behind the other
FILLS = 1  # how many words of the blocks are filled in
FILL_TABLE = 2  # address of (FILLS, FILL_WORDS)
KERNEL = 3  # address of the kernel that one thread then runs on
TEAMS = 4  # so many blocks, or 0; they are
BLOCK_BYTES = 5  # apart
NONE = 6  # address of Python's None
ARRAYS = 7  # how many arrays there are, and
ARRAY_WORDS = 8  # from which word of the record on their addresses are put; 0 for None
WORK = 9  # address of the kernels' scratch memory
ZERO = 10  # is 0
CHECKSUM = 11  # address of the kernel that compares checksums; the next three are all that it reads of its block
CHANGED = 12
PIECES = 13  # how many pieces of memory must not have changed, else nothing is done
PIECE_TABLE = 14  # address of their table (see `checksum.py`)
TUPLE = 15  # address of the tuple of arrays
VALUES = 16  # numbers that are filled in

# of an entry of the fill table
PLACE = 0  # where in the blocks, in bytes
VALUE = 1  # which word of the record is put there, in bytes
ADDED = 2  # and what is added to it
FILL_WORDS = 3

# what objects begin with, in bytes
ITEMS_IN_TUPLE = tuple.__basicsize__  # then `PyObject *ob_item[]`
ADDRESS_IN_ARRAY = object.__basicsize__  # then `char *data`, in the `PyArrayObject_fields` of NumPy's ABI


def of_blocks(kernel: int, block: int, block_bytes: int, teams: int) -> np.ndarray:
    """The record of calls that fill nothing in: a kernel on each of `teams` blocks, `block_bytes` apart."""
    record = np.zeros(VALUES, np.int64)
    record[[KERNEL, BLOCK, BLOCK_BYTES, TEAMS]] = kernel, block, block_bytes, teams
    return record
