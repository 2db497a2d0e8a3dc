"""Weight gradients: out += gateᵀ @ operand, summed over the rows of all steps.

Rows are taken 256 at a time. Within such a block each element is one chain of fused multiply-adds that starts from 0;
the blocks are then added in order. That bounds the rounding error of long sequences, and does not depend on threads or
vector width.
"""

from numba import njit

from .options import OPTIONS
from .simd import vectors
from .stage import scratch_access
from .target import vector_unit
from .tile import tallest, transpose, widest
from .workers import call, load_word, share

# --- a job: one product, words of int64 --------------------------------------------------------------------------
GATE = 0  # address of the gate gradients, (rows, width)
GATE_ROW = 1  # bytes from row to row
WIDTH = 2  # how many gate gradients: rows of the result
OPERAND = 3  # address of what they multiply, (rows, units)
OPERAND_ROW = 4
UNITS = 5  # columns of the result
ROWS = 6  # steps x batch
OUT = 7  # address of the gradient, (width, units), contiguous; added to
BIAS = 8  # address of (width,), where the sums of the gate gradients are added; or 0
JOB_WORDS = 9

BLOCK_ROWS = 256
_TILE_VECTORS = 32  # room for the accumulators of one tile
_WIDTH_AT_ONCE = 96  # so many transposed gate rows stay in the second-level cache


def scratch_numbers(units: int, lanes: int) -> int:
    """How many numbers of scratch a thread needs for a gradient of that many columns."""
    groups = -(-units // lanes)
    return groups * lanes * BLOCK_ROWS + (_WIDTH_AT_ONCE + lanes) * BLOCK_ROWS + _TILE_VECTORS * lanes


def make_weight_gradient(dtype: str):
    """add(tile, job, thread, threads, scratch): this thread's part of one job, by rows of the result."""
    lanes = vector_unit().lanes(vectors(dtype, 1).itemsize)
    vector = vectors(dtype, lanes)
    load, store, size = vector.load, vector.store, vector.itemsize
    vector_bytes = lanes * size
    turn = transpose(dtype, lanes)
    most_rows = tallest(1)
    group_limits = tuple(widest(1, rows) for rows in range(1, most_rows + 1))
    put, get = scratch_access(dtype, lanes, 1)
    broadcast = vector.broadcast
    line_bytes = BLOCK_ROWS * size

    @njit(**OPTIONS)
    def pack_operand(source, source_row, units, rows, target):
        """(rows, units) to (groups, rows, lanes)."""
        for group in range((units + lanes - 1) // lanes):
            unit = group * lanes
            place = source + unit * size
            for _ in range(rows):
                store(target, lanes, load(place, units - unit))
                place += source_row
                target += vector_bytes

    @njit(**OPTIONS)
    def turn_gate(source, source_row, width, rows, target):
        """(rows, width) to (width, 256), of which `rows` columns are filled."""
        for first in range(0, width, lanes):
            for row in range(0, rows, lanes):
                turn(
                    source + row * source_row + first * size,
                    source_row,
                    rows - row,
                    min(lanes, width - first),
                    target + first * line_bytes + row * size,
                    line_bytes,
                )

    @njit(**OPTIONS)
    def add_bias(source, source_row, width, rows, bias):
        """bias += the column sums of (rows, width)."""
        for first in range(0, width, lanes):
            place = source + first * size
            total = broadcast(0)
            for _ in range(rows):
                total = total + load(place, width - first)
                place += source_row
            target = bias + first * size
            store(target, width - first, load(target, width - first) + total)

    @njit(**OPTIONS)
    def add_block(tile, gate, width, operand, rows, units, out, sums):
        """out (width, units) += gate (width, 256) @ operand (groups, rows, lanes)."""
        zero = broadcast(0)
        all_groups = (units + lanes - 1) // lanes
        tiles = (width + most_rows - 1) // most_rows
        low = width // tiles
        taller = width - low * tiles
        most_groups = group_limits[low if taller else low - 1]
        group = 0
        while group < all_groups:
            groups = most_groups
            while groups > all_groups - group:
                groups //= 2
            row = 0
            for number in range(tiles):
                height = low + 1 if number < taller else low
                for index in range(height * groups):
                    put(sums + index * vector_bytes, (zero,))
                call(
                    tile, (height, groups, sums, gate + row * line_bytes, line_bytes,
                    operand + group * rows * vector_bytes, rows * vector_bytes, rows))  # fmt: skip
                place = sums
                for r in range(row, row + height):
                    for g in range(group, group + groups):
                        count = units - g * lanes
                        target = out + (r * units + g * lanes) * size
                        store(target, count, load(target, count) + get(place)[0])
                        place += vector_bytes
                row += height
            group += groups

    def add(key, arguments):
        tile, job, thread, threads, scratch = arguments
        first, last = share(load_word(job + 8 * WIDTH), thread, threads)
        units = load_word(job + 8 * UNITS)
        gate_row = load_word(job + 8 * GATE_ROW)
        operand_row = load_word(job + 8 * OPERAND_ROW)
        all_rows = load_word(job + 8 * ROWS)
        bias = load_word(job + 8 * BIAS)
        if first == last:
            return
        turned = scratch + ((units + lanes - 1) // lanes) * vector_bytes * BLOCK_ROWS
        sums = turned + (_WIDTH_AT_ONCE + lanes) * line_bytes
        for start in range(0, all_rows, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, all_rows - start)
            gate = load_word(job + 8 * GATE) + start * gate_row
            pack_operand(load_word(job + 8 * OPERAND) + start * operand_row, operand_row, units, rows, scratch)
            if bias != 0:
                add_bias(gate + first * size, gate_row, last - first, rows, bias + first * size)
            for part in range(first, last, _WIDTH_AT_ONCE):
                width = min(_WIDTH_AT_ONCE, last - part)
                turn_gate(gate + part * size, gate_row, width, rows, turned)
                out = load_word(job + 8 * OUT) + part * units * size
                add_block(tile, turned, width, scratch, rows, units, out, sums)

    return add
