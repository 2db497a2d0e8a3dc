"""Weight gradients: out = gateᵀ @ operand, summed over the rows of all steps.

Gates that meet two operands, x and h, are transposed once for both.

Rows are taken in the order in which the backward loop comes to their steps, 512 at a time. Within such a block each
element is one chain of fused multiply-adds that starts from 0; the blocks are then added in order, to 0 first or to
what earlier calls have left. That bounds the rounding error of long sequences, and does not depend on threads or
vector width.

Nor does it depend on how the steps are cut into calls: a block that one call begins and the next goes on with is *open*
in between, and its chains are kept beside the results.
"""

from numba import njit

from .calls import call
from .formula import scratch_access
from .options import OPTIONS
from .simd import fma, lanes_of, vectors
from .tile import tallest, widest
from .transposing import transpose
from .words import larger, load_word, smaller
from .workers import share

# --- a job: the gradients that some gates' gradients give, words of int64 ------------------------------------------
GATE = 0  # address of the gate gradients, (rows, width)
GATE_ROW = 1  # bytes from row to row
WIDTH = 2  # how many gate gradients: rows of the results
ROWS = 3  # steps x batch
BIAS = 4  # address of (width,), where the sums of the gate gradients are added; or 0
SIGN = 5  # 1: rows are taken from the first in memory to the last; -1: from the last to the first
BEFORE = 6  # how many rows of the open block earlier calls have taken, less than 512
MORE = 7  # 1 if a later call will go on: an unfinished block is left open; else 0
OPEN = 8  # bytes from a place in the results, biases too, to where the open block's chain is kept; 0 if never used
ADDS = 9  # 1: the first block is added to what the results hold; 0: what they hold counts for nothing
PRODUCTS = 10  # 1 or 2 products, each described by the words
PRODUCT = 11  # at PRODUCT + PRODUCT_WORDS * number:
OPERAND, OPERAND_ROW, UNITS, OUT, EDGE_ROWS, EDGE_OPERAND, EDGE_ROW = range(7)
# what is multiplied, (rows, units): address of row 0, bytes from row to row, units
# address of the gradient, (width, units), contiguous
# the EDGE_ROWS rows taken last are elsewhere: the address of the first of them in memory, and bytes from row to row
PRODUCT_WORDS = 7
JOB_WORDS = PRODUCT + 2 * PRODUCT_WORDS

BLOCK_ROWS = 512
# a tile of so few rows takes longer to call than to run (Zen 3; LSTM and RNN, H 64 and 256)
_FEW_ROWS = 8
_TILE_VECTORS = 32  # room for the accumulators of one tile
_APART = 64  # bytes between lines, and groups: at a power of two's distance few of them would fit in the cache's sets
_WIDTH_AT_ONCE = 96  # so many transposed gate rows stay in the second-level cache


def scratch_numbers(units: int, lanes: int) -> int:
    """How many numbers of scratch a thread needs; `units`: of both operands of a job together."""
    groups = -(-units // lanes) + 1
    lines = _WIDTH_AT_ONCE + lanes  # and a sum for each
    between = (groups + lines) * _APART  # more than bytes
    return groups * lanes * BLOCK_ROWS + lines * (BLOCK_ROWS + 1) + between + _TILE_VECTORS * lanes


def make_weight_gradient(dtype: str):
    """add(tile, job, thread, threads, scratch): this thread's part of one job, by rows of the result."""
    lanes = lanes_of(dtype)
    vector = vectors(dtype, lanes)
    load, spread, store, fetch, size = vector.load, vector.spread, vector.store, vector.fetch, vector.itemsize
    vector_bytes = lanes * size
    turn = transpose(dtype, lanes)
    most_rows = tallest(1)
    group_limits = tuple(widest(1, rows) for rows in range(1, most_rows + 1))
    put, get = scratch_access(dtype, lanes, 1)
    broadcast = vector.broadcast
    line_bytes = BLOCK_ROWS * size + _APART

    @njit(**OPTIONS)
    def pack_rows(source, source_row, units, rows, target, group_bytes):
        """Rows of `units` numbers to (groups, row, lanes)."""
        for _ in range(rows):
            place = target
            for unit in range(0, units, lanes):
                store(place, lanes, load(source + unit * size, units - unit))
                place += group_bytes
            source += source_row
            target += vector_bytes

    @njit(**OPTIONS)
    def in_order(address, row, rows, sign):
        """Where the first of these rows to be taken lies, and bytes from each to the next."""
        if sign < 0:
            return address + (rows - 1) * row, -row
        return address, row

    @njit(**OPTIONS)
    def pack_operand(product, start, rows, all_rows, sign, target, group_bytes):
        """Rows start .. start + rows - 1, as they are taken, of a product's operand to (groups, rows, lanes)."""
        units = load_word(product, UNITS)
        edge_rows = load_word(product, EDGE_ROWS)
        edge = all_rows - edge_rows
        operand, row = in_order(load_word(product, OPERAND), load_word(product, OPERAND_ROW), all_rows, sign)
        inner = smaller(larger(edge - start, 0), rows)
        pack_rows(operand + start * row, row, units, inner, target, group_bytes)
        operand, row = in_order(load_word(product, EDGE_OPERAND), load_word(product, EDGE_ROW), edge_rows, sign)
        pack_rows(
            operand + (start + inner - edge) * row, row, units, rows - inner, target + inner * vector_bytes, group_bytes
        )

    @njit(**OPTIONS)
    def turn_gate(source, source_row, width, rows, target, totals):
        """(rows, width) to (width, 512), of which `rows` columns are filled; the rows are added to `totals`."""
        for row in range(0, rows, lanes):
            for first in range(0, width, lanes):
                offset = first * size
                total = turn(
                    source + row * source_row + offset,
                    source_row,
                    rows - row,
                    smaller(width - first, lanes),
                    target + first * line_bytes + row * size,
                    line_bytes,
                    load(totals + offset, lanes),
                )
                store(totals + offset, lanes, total)

    @njit(**OPTIONS)
    def begin_totals(bias, width, goes_on, totals):
        """Begin with the sums of an open block at `bias`, or with zeros."""
        for first in range(0, width, lanes):
            offset = first * size
            store(totals + offset, lanes, load(bias + offset, width - first) if goes_on else broadcast(0))

    @njit(**OPTIONS)
    def conclude_totals(bias, width, kept, closes, adds, totals):
        """Make the sums the gradient of the biases, or keep them. `kept`, `closes` and `adds` as in `add_block`."""
        for first in range(0, width, lanes):
            offset = first * size
            total = load(totals + offset, lanes)
            if closes:
                earlier = load(bias + offset, width - first) if adds else broadcast(0)
                store(bias + offset, width - first, earlier + total)
            else:
                store(bias + kept + offset, width - first, total)

    @njit(**OPTIONS)
    def add_few_rows(gate, width, operand, rows, units, out, kept, goes_on, closes, adds):
        """As `add_block`."""
        zero = broadcast(0)
        group_bytes = rows * vector_bytes + _APART
        result = out if closes else out + kept
        for r in range(width):
            place = operand
            for unit in range(0, units, lanes):
                count = units - unit
                offset = (r * units + unit) * size
                total = load(out + kept + offset, count) if goes_on else zero
                for k in range(rows):
                    total = fma(load(place + k * vector_bytes, lanes), spread(gate + k * size), total)
                if closes:
                    total = (load(result + offset, count) if adds else zero) + total
                store(result + offset, count, total)
                place += group_bytes
            gate += line_bytes

    @njit(**OPTIONS)
    def add_block(tile, gate, width, operand, rows, units, out, sums, kept, goes_on, closes, adds):
        """out (width, units) = gate (width, 512) @ operand (groups, rows, lanes).

        kept     bytes from `out` to the chains of an open block
        goes_on  the sums begin with these chains
        closes   the sums go to `out`; else they are kept
        adds     there they are added to what `out` holds
        """
        if rows <= _FEW_ROWS:
            add_few_rows(gate, width, operand, rows, units, out, kept, goes_on, closes, adds)
            return
        zero = broadcast(0)
        group_bytes = rows * vector_bytes + _APART
        result = out if closes else out + kept
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
                        offset = (r * units + g * lanes) * size
                        put(place, (load(out + kept + offset, units - g * lanes) if goes_on else zero,))
                        fetch(result + offset)
                        place += vector_bytes
                soon = (group + groups) % all_groups + smaller(number, groups - 1)
                call(
                    tile,
                    (
                        height,
                        groups,
                        sums,
                        groups * vector_bytes,
                        vector_bytes,
                        gate + row * line_bytes,
                        line_bytes,
                        operand + group * group_bytes,
                        group_bytes,
                        rows,
                        operand + soon * group_bytes,
                        vector_bytes,
                    ),
                )
                place = sums
                for r in range(row, row + height):
                    for g in range(group, group + groups):
                        count = units - g * lanes
                        target = result + (r * units + g * lanes) * size
                        total = get(place)[0]
                        if closes:
                            total = (load(target, count) if adds else zero) + total
                        store(target, count, total)
                        place += vector_bytes
                row += height
            group += groups

    def add(tile, job, thread, threads, scratch):
        first, last = share(load_word(job, WIDTH), thread, threads)
        if first == last:
            return
        products = load_word(job, PRODUCTS)
        all_rows = load_word(job, ROWS)
        sign = load_word(job, SIGN)
        gate, gate_row = in_order(load_word(job, GATE), load_word(job, GATE_ROW), all_rows, sign)
        bias = load_word(job, BIAS)
        kept = load_word(job, OPEN)
        before = load_word(job, BEFORE)
        start = 0
        while start < all_rows:
            rows = smaller(BLOCK_ROWS - before, all_rows - start)
            goes_on = before > 0
            closes = before + rows == BLOCK_ROWS or load_word(job, MORE) == 0
            adds = start > 0 or load_word(job, ADDS) == 1
            group_bytes = rows * vector_bytes + _APART
            turned = scratch
            for number in range(products):
                product = job + 8 * (PRODUCT + number * PRODUCT_WORDS)
                pack_operand(product, start, rows, all_rows, sign, turned, group_bytes)
                turned += ((load_word(product, UNITS) + lanes - 1) // lanes) * group_bytes
            totals = turned + (_WIDTH_AT_ONCE + lanes) * line_bytes
            sums = totals + (_WIDTH_AT_ONCE + lanes) * size
            for part in range(first, last, _WIDTH_AT_ONCE):
                width = smaller(_WIDTH_AT_ONCE, last - part)
                place = bias + part * size
                begin_totals(place + kept, width, goes_on and bias != 0, totals)
                turn_gate(gate + part * size, gate_row, width, rows, turned, totals)
                if bias != 0:
                    conclude_totals(place, width, kept, closes, adds, totals)
                operand = scratch
                for number in range(products):
                    product = job + 8 * (PRODUCT + number * PRODUCT_WORDS)
                    units = load_word(product, UNITS)
                    out = load_word(product, OUT) + part * units * size
                    add_block(tile, turned, width, operand, rows, units, out, sums, kept, goes_on, closes, adds)
                    operand += ((units + lanes - 1) // lanes) * group_bytes
            gate += rows * gate_row
            start += rows
            before = 0

    return add
