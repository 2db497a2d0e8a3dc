"""Weights as the register tile reads them.

A packed matrix has a block for every group of `lanes` units; within it one for the sums that a tile takes abreast, all
or a part of them; and within it, for each k, the vectors of the units' sums: (groups, sums / abreast, depth, abreast,
lanes), zeros for units that are not there. A row of biases, or of zeros, is such a matrix, of depth 1 and one sum a
unit.
"""

from .simd import ELEMENTS, lanes_of, vectors
from .transposing import transpose
from .words import load_word, quotient, smaller
from .workers import share

# --- a job: what one parameter gives for a matrix, or a part of its depth; words of int64 --------------------------
SOURCE = 0  # address of the weights' first row used
SOURCE_ROW = 1  # bytes from row to row
HOW = 2  # units are the source's
ROWS, COLUMNS, ADDED, ZEROS = range(4)  # rows; columns; columns, and added to what is there; none: zeros
UNITS = 3
DEPTH = 4  # how many k this job fills
DEPTH_FROM = 5  # starting here
DEPTH_ALL = 6  # of so many
SUMS = 7  # of a unit
ABREAST = 8  # so many of them side by side
SUM = 9  # which of them this job is for
TARGET = 10  # where the packed matrix begins, in bytes from the first one
JOB_WORDS = 11

# of the argument block of a packing call (the header's first words are the workers' as everywhere)
JOBS = 8
JOB_TABLE = 9
FIRST_TARGET = 10  # address of the first packed matrix
BLOCK_WORDS = 3  # of these


def make_packing(dtype: str):
    """pack(thread, threads, block) runs all its jobs, groups shared between threads."""
    size, lanes = ELEMENTS[dtype].itemsize, lanes_of(dtype)
    vector = vectors(dtype, lanes)
    load, store = vector.load, vector.store
    vector_bytes = lanes * size
    broadcast = vector.broadcast
    turn = transpose(dtype, lanes)

    def pack(thread, threads, block):
        for number in range(load_word(block, JOBS)):
            job = load_word(block, JOB_TABLE) + number * (8 * JOB_WORDS)
            source = load_word(job, SOURCE)
            source_row = load_word(job, SOURCE_ROW)
            how = load_word(job, HOW)
            units = load_word(job, UNITS)
            depth = load_word(job, DEPTH)
            abreast = load_word(job, ABREAST)
            depth_all = load_word(job, DEPTH_ALL)
            group_bytes = depth_all * load_word(job, SUMS) * vector_bytes
            sums_before = quotient(load_word(job, SUM), abreast)
            start = (sums_before * (depth_all - 1) + load_word(job, DEPTH_FROM)) * abreast + load_word(job, SUM)
            target = load_word(block, FIRST_TARGET) + load_word(job, TARGET) + start * vector_bytes
            first, last = share((units + lanes - 1) // lanes, thread, threads)
            for group in range(first, last):
                unit = group * lanes
                place = target + group * group_bytes
                if how == ROWS:
                    rows = source + unit * source_row
                    line = abreast * vector_bytes
                    for k in range(0, depth, lanes):
                        columns = smaller(lanes, depth - k)
                        turn(rows + k * size, source_row, units - unit, columns, place + k * line, line, broadcast(0))
                else:
                    for k in range(depth):
                        values = broadcast(0)
                        if how != ZEROS:
                            values = load(source + k * source_row + unit * size, units - unit)
                        if how == ADDED:
                            values = load(place, lanes) + values
                        store(place, lanes, values)
                        place += vector_bytes

    return pack
