"""Weights as the register tile reads them.

A packed matrix has a block for every group of `lanes` units; within it one for the sums that a tile takes abreast, all
or a part of them; and within it, for each k, the vectors of the units' sums: (groups, sums / abreast, depth, abreast,
lanes), zeros for units that are not there. Beside the matrices there are rows, of biases and of zeros.
"""

from numba import njit

from .options import OPTIONS
from .simd import vectors
from .target import vector_unit
from .tile import transpose
from .workers import load_word, quotient, share

# --- a job: one matrix, or a part of its depth; words of int64 ---------------------------------------------------
SOURCE = 0  # address of the weights' first row used
SOURCE_ROW = 1  # bytes from row to row
TURNED = 2  # 1: units are the source's rows (forward); 0: its columns (backward)
UNITS = 3
DEPTH = 4  # how many k this job fills
DEPTH_FROM = 5  # starting here
DEPTH_ALL = 6  # of so many
SUMS = 7  # of a unit
ABREAST = 8  # so many of them side by side
SUM = 9  # which of them this job is for
TARGET = 10  # address of the packed matrix
JOB_WORDS = 11

# --- a row: the sum of up to two others, and zeros behind it ------------------------------------------------------
FIRST = 0  # address of one, or 0
SECOND = 1
NUMBERS = 2  # of each of them
LENGTH = 3  # of the row
ROW_TARGET = 4
ROW_WORDS = 5

# of the argument block of a packing call (the header's first words are the workers' as everywhere)
JOBS = 8
JOB_TABLE = 9
ROWS = 10
ROW_TABLE = 11
HEADER_WORDS = 12


def make_packing(dtype: str):
    """pack(thread, threads, block) runs all its jobs, groups shared between threads, and makes its rows, on one."""
    size = vectors(dtype, 1).itemsize
    lanes = vector_unit().lanes(size)
    vector = vectors(dtype, lanes)
    load, store = vector.load, vector.store
    vector_bytes = lanes * size
    broadcast = vector.broadcast
    turn = transpose(dtype, lanes)

    @njit(**OPTIONS)
    def make_row(row):
        first, second = load_word(row + 8 * FIRST), load_word(row + 8 * SECOND)
        numbers, length = load_word(row + 8 * NUMBERS), load_word(row + 8 * LENGTH)
        for k in range(0, length, lanes):
            total = broadcast(0)
            if first != 0:
                total = total + load(first + k * size, numbers - k)
            if second != 0:
                total = total + load(second + k * size, numbers - k)
            store(load_word(row + 8 * ROW_TARGET) + k * size, length - k, total)

    def pack(key, arguments):
        thread, threads, args = arguments
        for number in range(load_word(args + 8 * JOBS)):
            job = load_word(args + 8 * JOB_TABLE) + number * (8 * JOB_WORDS)
            source = load_word(job + 8 * SOURCE)
            source_row = load_word(job + 8 * SOURCE_ROW)
            units = load_word(job + 8 * UNITS)
            depth = load_word(job + 8 * DEPTH)
            abreast = load_word(job + 8 * ABREAST)
            depth_all = load_word(job + 8 * DEPTH_ALL)
            group_bytes = depth_all * load_word(job + 8 * SUMS) * vector_bytes
            block = quotient(load_word(job + 8 * SUM), abreast)
            start = (block * (depth_all - 1) + load_word(job + 8 * DEPTH_FROM)) * abreast + load_word(job + 8 * SUM)
            target = load_word(job + 8 * TARGET) + start * vector_bytes
            first, last = share((units + lanes - 1) // lanes, thread, threads)
            for group in range(first, last):
                unit = group * lanes
                place = target + group * group_bytes
                if load_word(job + 8 * TURNED):
                    rows = source + unit * source_row
                    line = abreast * vector_bytes
                    for k in range(0, depth, lanes):
                        columns = min(lanes, depth - k)
                        turn(rows + k * size, source_row, units - unit, columns, place + k * line, line, broadcast(0))
                else:
                    for k in range(depth):
                        store(
                            place + k * vector_bytes, lanes, load(source + k * source_row + unit * size, units - unit)
                        )

        if thread == 0:
            for number in range(load_word(args + 8 * ROWS)):
                make_row(load_word(args + 8 * ROW_TABLE) + number * (8 * ROW_WORDS))

    return pack
