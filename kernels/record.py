"""The record of a call: what one call of compiled code checks, fills in and runs.

It is an int64 array. The first words stay as they are from call to call, those from PIECES on are the call's own. A
block (see `block.py`) is filled in from the words of the record: addresses mostly, and numbers such as how many steps
there are. Arrays are named by their Python objects, which must live as long as the call: NumPy keeps the address of an
array's numbers in the object, right behind what all objects begin with, and it is taken from there.
"""

BLOCK = 0  # address of the block, or of several, one behind the other
FILLS = 1  # how many words of the blocks are filled in
FILL_TABLE = (
    2  # address of (FILLS, 3): where in the blocks, which word of the record (both in bytes), what to add to it
)
KERNEL = 3  # address of the kernel that one thread then runs on
TEAMS = 4  # so many blocks, or 0; they are
BLOCK_BYTES = 5  # apart
ARRAYS = 6  # the words from this one
END = 7  # to the one before this one are Python objects, NumPy arrays, or 0
WORK = 8  # address of the kernels' scratch memory
ZERO = 9  # is 0
PIECES = 10  # how many pieces of memory must not have changed, else nothing is done
PIECE_TABLE = 11  # address of their table (see `checksum.py`)
VALUES = 12  # what is filled in

ADDRESS_IN_ARRAY = (
    object.__basicsize__
)  # bytes: `PyArrayObject_fields` of NumPy's ABI is a PyObject and then `char *data`
