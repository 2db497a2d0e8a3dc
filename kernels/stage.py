"""One stage of a step: a product or two, and the formula on their sums while they are in the first-level cache.

Every large product of this package runs through here but those of the weight gradients; also W x and dL/dx, whose
formula returns the sums themselves. A stage is the same code for all cells and dtypes: tiles and formulas are called by
address.
"""

import numpy as np
from numba import njit

from . import block as b
from .calls import arguments_at, call
from .formula import BEGIN, FINISH
from .options import INNER
from .simd import CACHE_LINE
from .target import vector_unit
from .tile import abreast, tallest, widest
from .words import larger, load_word, quotient, rounded_up, smaller

# packed blocks of more bytes than this are read part by part, each for several tiles
_PART_BYTES = 256 * 1024
_TILES_AT_ONCE = 8
_TILES_OF_BLOCK = 2 * _TILES_AT_ONCE
_MOST_SUMS = 4
_MOST_ABREAST = 8  # groups, which the loops below know the logarithm of
# accumulators of the tiles at once, at most 32 vectors of 64 bytes each; where these are all rows, of several groups'
# tiles: the fewer calls a formula has, the better (2 % of an LSTM with 16 rows of 128 units, Zen 3)
SCRATCH_BYTES = _TILES_AT_ONCE * 32 * 64


def recipe(formula: int, tile: int, sums: int, multiplied: int, number_bytes: int) -> tuple[int, ...]:
    """What a stage needs to know of its sums, as words of the argument block.

    formula       address of the formula, of `sums` sums a unit
    multiplied    of so many of them there are products
    tile          address of the tile for units of `abreast(multiplied)` sums
    number_bytes  of a number
    """
    each = abreast(multiplied)
    if each < multiplied < sums:
        raise ValueError(f"multiplied: tiles that take {each} of {multiplied} sums need all {sums} of them in a row")
    places = max(rows * _units_abreast(multiplied, rows) for rows in range(1, tallest(each) + 1))
    if _TILES_AT_ONCE * places * sums * vector_unit().bits // 8 > SCRATCH_BYTES:
        raise ValueError(f"multiplied: tiles of {multiplied} of {sums} sums need more than {SCRATCH_BYTES} bytes")
    return formula, tile, sums, multiplied, number_bytes


def _units_abreast(multiplied: int, rows: int) -> int:
    """The most groups of units abreast in a tile of so many rows, or, part after part of their sums, in several."""
    each = abreast(multiplied)
    return max(widest(each, rows) * each // multiplied, 1)


def _shapes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the tiles, by how many of the sums are multiplied.

    Returns (_MOST_SUMS + 1, 3): how many of them a tile takes, in how many parts they fall, and the rows of the tallest
    tile; and then by the rows of a tile, (_MOST_SUMS + 1, rows + 1): how many groups are abreast at most, of such parts
    and of units.
    """
    numbers = range(1, _MOST_SUMS + 1)
    shapes = [(abreast(n), n // abreast(n), tallest(abreast(n))) for n in numbers]
    most_rows = max(rows for _, _, rows in shapes)
    parts, units = np.zeros((2, _MOST_SUMS + 1, most_rows + 1), np.int64)
    for number, (each, _, rows_of_tallest) in zip(numbers, shapes, strict=True):
        for rows in range(1, rows_of_tallest + 1):
            parts[number, rows] = widest(each, rows)
            units[number, rows] = _units_abreast(number, rows)
    if units.max() > _MOST_ABREAST:
        raise ValueError(f"tiles have {units.max()} groups of units abreast, at most {_MOST_ABREAST} are provided for")
    return np.array([(0, 0, 0), *shapes]), parts, units


def make_stage():
    """stage(recipe, table, first_row, rows, units, first_group, last_group,
             x, x_stride, x_packed, x_depth, operand, operand_stride, packed, depth, scratch)

    Works on the given rows and groups of units. There are two products, each for MULTIPLIED of the sums: x times its
    matrix is added to the first of them, then the operand times its to the last.
        recipe: address of the words of `recipe`
        table: address of the work table (see `formula.py`)
        first_group, last_group: groups from the first up to before the last; or, if the first is larger, downwards from
            before the first to the last
        x, operand: addresses of row 0 of what is multiplied, (rows, depth); depth 0 leaves a product out
        x_packed, packed: addresses of packed matrices (see `packing.py`), of MULTIPLIED sums
        scratch: address of room for SCRATCH_BYTES of accumulators
    """
    vector_bytes = vector_unit().bits // 8
    shapes, widest_tiles, units_abreast = _shapes()
    # no Python integers: Numba would compile what is called with them once for each
    part_bytes, tiles_at_once = np.int64(_PART_BYTES), np.int64(_TILES_AT_ONCE)
    most_units = np.int64(SCRATCH_BYTES // (_MOST_SUMS * vector_bytes))

    @njit(**INNER)
    def fitting(groups, left):
        """The largest power of two that is not more than either; `groups` is one."""
        while groups > left:
            groups >>= 1
        return groups

    @njit(**INNER)
    def multiply(sums_of, tiles_of, groups_of, product, block, place, following, following_step, fetched, turn):
        """Add a product to the sums of some groups of units in the scratch memory, part by part of its depth.

        sums_of: address of the tile, bytes of a number, sums of a unit, how many of those multiplied a tile takes, and
            in how many parts they fall
        tiles_of: tiles number `first` up to before `last`, of `low` rows or, the first `taller` of all, one more
        groups_of: how many groups of how many whose sums lie side by side, the first one's logarithm, how many a tile
            takes at a time, how often for all sums of a unit, and in how many parts of the depth
        product: the operand's first line, bytes from row to row, and how many numbers a row has
        block, place: the first group's packed block, and its first sum
        following, following_step: the blocks that are multiplied after this product, and bytes from one to the next.
            Meanwhile each tile fetches as many bytes of what comes next as `fetched` says; the first the `turn`th
        """
        tile, size, sums, each, parts_of_unit = sums_of
        first, last, low, taller = tiles_of
        groups, span, log_groups, tile_groups, rounds, parts = groups_of
        line, stride, length = product
        line_bytes = each * vector_bytes  # of a tile's group in a packed block, for each k
        group_bytes = length * line_bytes
        unit_bytes = sums * vector_bytes
        part_of_unit_bytes = each * vector_bytes if parts_of_unit > 1 else unit_bytes
        step = unit_bytes if rounds > 1 else part_of_unit_bytes
        row_step = span * unit_bytes
        part = larger(rounded_up(length, parts), 1)
        pace = smaller(CACHE_LINE, rounded_up(fetched, part))
        for turn_of_unit in range(rounds):
            k = 0
            while k < length:
                depth = smaller(part, length - k)
                here, block = block, block + depth * line_bytes
                k += depth
                soon, soon_step = block, parts_of_unit * group_bytes
                if k == length and turn_of_unit == rounds - 1:
                    soon, soon_step = following, following_step
                above, row_place = line + (k - depth) * size, place
                for number in range(first, last):
                    rows = low + 1 if number < taller else low
                    nth = turn + number - first
                    near = soon + (nth & (groups - 1)) * soon_step + (nth >> log_groups) * fetched
                    call(
                        tile,
                        (
                            rows, tile_groups, row_place, row_step, step, above, stride, here, group_bytes, depth,
                            near, pace,
                        ),
                    )  # fmt: skip
                    above += rows * stride
                    row_place += rows * row_step
            place += part_of_unit_bytes

    @njit(**INNER)
    def multiply_both(sums_of, tiles_of, groups_of, first, second, group, next_group, place, fetched, turn):
        """Both products, (first line, bytes from row to row, numbers of a row, packed matrix), for the groups from
        `group` on; the first one may be none. What comes after them begins with `next_group`. The rest as `multiply`.
        """
        _, _, sums, each, parts_of_unit = sums_of
        multiplied = each * parts_of_unit
        line_bytes = multiplied * vector_bytes
        for number in range(0 if first[2] > 0 else 1, 2):
            line, stride, length, packed = first if number == 0 else second
            _, _, other_length, other_packed = second if number == 0 else first
            if other_length == 0:
                other_length, other_packed = length, packed
            if number == 1:
                place += (sums - multiplied) * vector_bytes  # to the last sums
            step, other_step = length * line_bytes, other_length * line_bytes
            following = next_group if number == 1 or second[2] == 0 else group
            multiply(
                sums_of, tiles_of, groups_of, (line, stride, length), packed + group * step, place,
                other_packed + following * other_step, other_step, fetched, turn,
            )  # fmt: skip

    def stage(arguments):
        given = arguments_at(arguments, 16)
        recipe, table, first_row, rows, units, first_group, last_group = given[:7]
        x, x_stride, x_packed, x_depth, operand, operand_stride, packed, depth, scratch = given[7:]
        formula, tile = load_word(recipe, b.FORMULA), load_word(recipe, b.TILE)
        sums, multiplied = load_word(recipe, b.SUMS), load_word(recipe, b.MULTIPLIED)
        each, parts_of_unit, most_rows = shapes[multiplied, 0], shapes[multiplied, 1], shapes[multiplied, 2]
        unit_bytes = sums * vector_bytes
        sums_of = (tile, load_word(recipe, b.NUMBER_BYTES), sums, each, parts_of_unit)
        if rows <= 0:
            return
        tiles = rounded_up(rows, most_rows)
        low, taller = rows, np.int64(0)
        if tiles > 1:
            low = quotient(rows, tiles)
            taller = rows - low * tiles  # so many tiles have one row more
        widest_tile = widest_tiles[multiplied, low + 1 if taller else low]
        most_groups = units_abreast[multiplied, low + 1 if taller else low]
        most_span = most_units if rows == 1 else quotient(most_units, rows)  # groups whose sums have room
        deepest = larger(x_depth, depth) * multiplied * vector_bytes  # bytes of a group's packed block
        downwards = first_group > last_group
        number_of_groups = first_group - last_group if downwards else last_group - first_group
        # Blocks of rows, of at most 16 tiles, whose operands stay in the second-level cache while the groups of units
        # pass by; in a block spans of groups, up- or downwards; in a span at most 8 tiles at once, whose sums fit into
        # the scratch memory; and for these BEGIN, both products for one piece of the span after the other (so many
        # groups as a tile has abreast), and FINISH. Tiles fetch what is multiplied next. Where that is another part or
        # another product (`apart`), those at once share it; else it is the next groups, which all tiles of the block
        # share, and `turn` says the how many-eth of these comes first.
        for first_of_block in range(0, tiles, _TILES_OF_BLOCK):
            last_of_block = smaller(first_of_block + _TILES_OF_BLOCK, tiles)
            left = number_of_groups
            while left > 0:
                groups = fitting(most_groups, left)
                log_groups = (groups > 1) + (groups > 2) + (groups > 4)
                tile_groups = smaller(groups * parts_of_unit, widest_tile)
                rounds = 1 if tile_groups > 1 else parts_of_unit  # as many as the groups need of such tiles
                parts = rounded_up(groups * deepest, part_bytes * rounds)
                sharing = last_of_block - first_of_block
                at_once = rounded_up(sharing, rounded_up(sharing, tiles_at_once))
                # where the packed blocks of these groups outgrow the cache, the tiles at once share each part of them;
                # and where there are two products, each block
                apart = parts > 1 or (x_depth > 0 and depth > 0)
                if apart:
                    sharing = at_once
                pieces = larger(smaller(left, most_span) >> log_groups, 1) if at_once == tiles else 1
                span = pieces * groups
                lowest = last_group + left - span if downwards else last_group - left
                left -= span
                fetched = rounded_up(rounded_up(deepest, parts * rounds), ((sharing - 1) >> log_groups) + 1)
                groups_of = (groups, span, log_groups, tile_groups, rounds, parts)
                next_groups = fitting(most_groups, left) if left > 0 else 0
                first_tile = first_of_block
                while first_tile < last_of_block:  # a `range` with a step divides to count its turns
                    last_tile = smaller(first_tile + at_once, last_of_block)
                    turn = 0 if apart else first_tile - first_of_block
                    row = first_row + first_tile * low + smaller(first_tile, taller)
                    end_row = first_row + last_tile * low + smaller(last_tile, taller)
                    call(formula, (BEGIN, table, row, end_row, lowest, lowest + span, units, scratch))
                    for piece in range(pieces):
                        above = (pieces - 1 - piece if downwards else piece) * groups
                        group = next_group = lowest + above
                        if not apart or last_tile == last_of_block:
                            if piece + 1 < pieces:
                                next_group += -groups if downwards else groups
                            elif left > 0:
                                next_group += -next_groups if downwards else groups
                        multiply_both(
                            sums_of, (first_tile, last_tile, low, taller), groups_of,
                            (x + row * x_stride, x_stride, x_depth, x_packed),
                            (operand + row * operand_stride, operand_stride, depth, packed),
                            group, next_group, scratch + above * unit_bytes, fetched, turn,
                        )  # fmt: skip
                    call(formula, (FINISH, table, row, end_row, lowest, lowest + span, units, scratch))
                    first_tile = last_tile

    return stage
