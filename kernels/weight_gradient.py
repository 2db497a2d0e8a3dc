"""Weight gradients: out += gateᵀ @ operand, summed over the rows of all steps.

Gates that meet two operands, x and h, are transposed once for both.

Rows are taken 512 at a time. Within such a block each element is one chain of fused multiply-adds that starts from 0;
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

# --- a job: the gradients that some gates' gradients give, words of int64 ------------------------------------------
GATE = 0  # address of the gate gradients, (rows, width)
GATE_ROW = 1  # bytes from row to row
WIDTH = 2  # how many gate gradients: rows of the results
ROWS = 3  # steps x batch
BIAS = 4  # address of (width,), where the sums of the gate gradients are added; or 0
PRODUCTS = 5  # 1 or 2 products, each described by the words
PRODUCT = 6  # at PRODUCT + 8 * number:
OPERAND, OPERAND_ROW, UNITS, OUT, EDGE, EDGE_ROWS, EDGE_OPERAND, EDGE_ROW = range(8)
# what is multiplied, (rows, units): address of row 0, bytes from row to row, units
# address of the gradient, (width, units), contiguous; added to
# rows EDGE .. EDGE + EDGE_ROWS - 1 are elsewhere: the address of the first of them, and bytes from row to row
PRODUCT_WORDS = 8
JOB_WORDS = PRODUCT + 2 * PRODUCT_WORDS

BLOCK_ROWS = 512
_TILE_VECTORS = 32  # room for the accumulators of one tile
_WIDTH_AT_ONCE = 96  # so many transposed gate rows stay in the second-level cache


def scratch_numbers(units: int, lanes: int) -> int:
    """How many numbers of scratch a thread needs; `units`: of both operands of a job together."""
    groups = -(-units // lanes) + 1
    return groups * lanes * BLOCK_ROWS + (_WIDTH_AT_ONCE + lanes) * BLOCK_ROWS + _TILE_VECTORS * lanes


def make_weight_gradient(dtype: str):
    """add(tile, job, thread, threads, scratch): this thread's part of one job, by rows of the result."""
    lanes = vector_unit().lanes(vectors(dtype, 1).itemsize)
    vector = vectors(dtype, lanes)
    load, store, fetch, size = vector.load, vector.store, vector.fetch, vector.itemsize
    vector_bytes = lanes * size
    turn = transpose(dtype, lanes)
    most_rows = tallest(1)
    group_limits = tuple(widest(1, rows) for rows in range(1, most_rows + 1))
    put, get = scratch_access(dtype, lanes, 1)
    broadcast = vector.broadcast
    line_bytes = BLOCK_ROWS * size

    @njit(**OPTIONS)
    def pack_rows(source, source_row, units, rows, target, group_bytes):
        """Rows of `units` numbers to (groups, row, lanes)."""
        for group in range((units + lanes - 1) // lanes):
            unit = group * lanes
            place = source + unit * size
            put_at = target + group * group_bytes
            for _ in range(rows):
                store(put_at, lanes, load(place, units - unit))
                place += source_row
                put_at += vector_bytes

    @njit(**OPTIONS)
    def pack_operand(product, start, rows, target):
        """Rows start .. start + rows - 1 of a product's operand to (groups, rows, lanes)."""
        units = load_word(product + 8 * UNITS)
        stride = load_word(product + 8 * OPERAND_ROW)
        operand = load_word(product + 8 * OPERAND)
        edge = load_word(product + 8 * EDGE)
        edge_row = load_word(product + 8 * EDGE_ROW)
        # up to three runs of rows: before the edge, in it, behind it
        first = min(max(edge - start, 0), rows)
        last = min(max(edge + load_word(product + 8 * EDGE_ROWS) - start, 0), rows)
        group_bytes = rows * vector_bytes
        pack_rows(operand + start * stride, stride, units, first, target, group_bytes)
        pack_rows(
            load_word(product + 8 * EDGE_OPERAND) + (start + first - edge) * edge_row,
            edge_row,
            units,
            last - first,
            target + first * vector_bytes,
            group_bytes,
        )
        pack_rows(
            operand + (start + last) * stride, stride, units, rows - last, target + last * vector_bytes, group_bytes
        )

    @njit(**OPTIONS)
    def turn_gate(source, source_row, width, rows, target):
        """(rows, width) to (width, 512), of which `rows` columns are filled."""
        for row in range(0, rows, lanes):
            for first in range(0, width, lanes):
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
        """out (width, units) += gate (width, 512) @ operand (groups, rows, lanes)."""
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
                place = sums
                for r in range(row, row + height):
                    for g in range(group, group + groups):
                        put(place, (zero,))
                        fetch(out + (r * units + g * lanes) * size)
                        place += vector_bytes
                soon = (group + groups) % all_groups + min(number, groups - 1)
                call(
                    tile,
                    (
                        height,
                        groups,
                        sums,
                        gate + row * line_bytes,
                        line_bytes,
                        operand + group * rows * vector_bytes,
                        rows * vector_bytes,
                        rows,
                        operand + soon * rows * vector_bytes,
                    ),
                )
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
        if first == last:
            return
        products = load_word(job + 8 * PRODUCTS)
        gate_row = load_word(job + 8 * GATE_ROW)
        all_rows = load_word(job + 8 * ROWS)
        bias = load_word(job + 8 * BIAS)
        for start in range(0, all_rows, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, all_rows - start)
            gate = load_word(job + 8 * GATE) + start * gate_row
            turned = scratch
            for number in range(products):
                product = job + 8 * (PRODUCT + number * PRODUCT_WORDS)
                pack_operand(product, start, rows, turned)
                turned += ((load_word(product + 8 * UNITS) + lanes - 1) // lanes) * rows * vector_bytes
            sums = turned + (_WIDTH_AT_ONCE + lanes) * line_bytes
            for part in range(first, last, _WIDTH_AT_ONCE):
                width = min(_WIDTH_AT_ONCE, last - part)
                turn_gate(gate + part * size, gate_row, width, rows, turned)
                if bias != 0:
                    add_bias(gate + part * size, gate_row, width, rows, bias + part * size)
                operand = scratch
                for number in range(products):
                    product = job + 8 * (PRODUCT + number * PRODUCT_WORDS)
                    units = load_word(product + 8 * UNITS)
                    out = load_word(product + 8 * OUT) + part * units * size
                    add_block(tile, turned, width, operand, rows, units, out, sums)
                    operand += ((units + lanes - 1) // lanes) * rows * vector_bytes

    return add
