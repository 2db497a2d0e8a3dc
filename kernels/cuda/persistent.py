"""The persistent kernels: one launch for all steps, the recurrent matrix on the chip, one barrier a stage.

Each block multiplies with the rows of the matrix that belong to its units (see `plan.py`), and runs the cell's formula
on the sums, in the thread that will read the results at the next step. What other blocks need of them, h or the gates'
gradients, goes through the second-level cache, in two buffers that take turns: a block that is a step ahead writes the
one that the others no longer read.
"""

from collections.abc import Callable, Sequence
from functools import cache

from numba import cuda

from .access import fetcher, planes_locator, planes_reader, planes_writer, writer
from .gate import product_adder
from .geometry import (
    BATCH,
    BLOCKS,
    COUNTER,
    DELAY,
    FIRST_STAGE,
    PARTIAL,
    PATIENCE,
    STAGE_WORDS,
    STATUS,
    STEPS,
    SUMS,
    Stage,
)
from .plan import Patch
from .planes import ITEMSIZE, WIDE, WORD, Pass, passes
from .target import (
    arrive,
    arrived,
    column_multiplier,
    device,
    exchange_loader,
    exchange_storer,
    gatherer,
    kernel,
    load_word,
    loader,
    multiplier,
    patch_loader,
    plain,
    spreader,
    store_word,
    to_plain,
    zero,
    zeros,
)


@cache
def persistent_kernel(cell: str, forward: bool, dtype: str, saving: bool, has_bias: bool, patch: Patch):
    """persistent(table, geometry), launched with the plan's blocks, `patch.threads` and its shared memory.

    table     address of the table of planes (see `planes.py`)
    geometry  address of the words of `geometry.py`

    The first buffer of stage 0's operand holds h_0; backward, zeros. After the last step the buffer whose turn it is
    holds the operand that a next step would multiply. Status is 1 if a block waited in vain; nothing is valid then.
    """
    run = passes(cell)[0 if forward else 1]
    number = plain(dtype)
    fill, first = _stage(run, 0, dtype, saving, has_bias, patch)
    if len(run.stages) == 1:

        @kernel(launch_bounds=patch.threads)
        def persistent(table, geometry):
            shared = cuda.shared.array(0, number)
            matrix = fill(geometry, shared)
            cuda.syncthreads()
            for step in range(load_word(geometry + STEPS * WORD)):
                first(table, geometry, shared, matrix, step)
                if wait(geometry, step + 1):
                    return

        return persistent

    fill_second, second = _stage(run, 1, dtype, saving, has_bias, patch)

    @kernel(launch_bounds=patch.threads)
    def persistent_two_stages(table, geometry):
        shared = cuda.shared.array(0, number)
        matrix = fill(geometry, shared)
        second_matrix = fill_second(geometry, shared)
        cuda.syncthreads()
        for step in range(load_word(geometry + STEPS * WORD)):
            first(table, geometry, shared, matrix, step)
            if wait(geometry, 2 * step + 1):
                return
            second(table, geometry, shared, second_matrix, step)
            if wait(geometry, 2 * step + 2):
                return

    return persistent_two_stages


@device
def wait(geometry, meetings):
    """Until all blocks have come here `meetings` times; not 0 if that took too long. Called by all threads."""
    failed = 0
    cuda.syncthreads()
    blocks = load_word(geometry + BLOCKS * WORD)
    if blocks > 1 and cuda.threadIdx.x == 0:
        counter = load_word(geometry + COUNTER * WORD)
        delay = load_word(geometry + DELAY * WORD)
        if delay:
            for _ in range((cuda.blockIdx.x * 7919 + meetings * 104729) % delay):
                arrived(counter)
        arrive(counter)
        patience = load_word(geometry + PATIENCE * WORD)
        while arrived(counter) < meetings * blocks:
            patience -= 1
            if patience < 0:
                failed = 1
                store_word(load_word(geometry + STATUS * WORD), 1)
                break
    return cuda.syncthreads_or(failed)


def _stage(run: Pass, number: int, dtype: str, saving: bool, has_bias: bool, patch: Patch) -> tuple[Callable, Callable]:
    """fill(geometry, shared): the thread's patch of the stage's matrix, its other columns put into shared memory.

    run_stage(table, geometry, shared, matrix, step): the stage, up to what it writes.
    """
    matrix_at, sum_at, unit_at, depth_bytes_at = (
        word_of(number, s) for s in (Stage.MATRIX, Stage.SUM_BYTES, Stage.UNIT_BYTES, Stage.DEPTH_BYTES)
    )
    units_at, block_units_at, depth_at = (word_of(number, s) for s in (Stage.UNITS, Stage.BLOCK_UNITS, Stage.DEPTH))
    groups_at, slices_at, needed_at = (word_of(number, s) for s in (Stage.GROUPS, Stage.SLICES, Stage.COLUMNS_NEEDED))
    padded_at, rows_at, weights_at, exchange_at = (
        word_of(number, s) for s in (Stage.PADDED, Stage.ROWS, Stage.WEIGHTS, Stage.EXCHANGE)
    )
    team_at, share_at = word_of(number, Stage.TEAM), word_of(number, Stage.SHARE)
    threads, patch_rows, columns, tile = patch
    sums, size = run.sums(number), ITEMSIZE[dtype]
    load_patch, load, load_zero = patch_loader(dtype, patch_rows, columns, sums), loader(dtype), zero(dtype)
    load_operand = exchange_loader(dtype)
    start_sums = zeros(dtype, tile * patch_rows)
    multiply, multiply_column = multiplier(dtype, patch_rows, columns, tile), column_multiplier(dtype, patch_rows, tile)
    spread, gather, pick = spreader(dtype, patch_rows, tile), gatherer(dtype, sums), gatherer(dtype, 1)
    apply = _formula(run, number, dtype, saving, has_bias)

    @device
    def fill(geometry, shared):
        groups, slices = load_word(geometry + groups_at), load_word(geometry + slices_at)
        thread = cuda.threadIdx.x
        first_row = thread % groups * patch_rows
        column = thread // groups
        block_units = load_word(geometry + block_units_at)
        first_unit = cuda.blockIdx.x * block_units
        rows_end = min(block_units, load_word(geometry + units_at) - first_unit) * sums
        unit_bytes, sum_bytes = load_word(geometry + unit_at), load_word(geometry + sum_at)
        column_bytes = load_word(geometry + depth_bytes_at)
        address = load_word(geometry + matrix_at) + first_unit * unit_bytes + column * column_bytes
        # columns of this thread: column, column + slices, ...; threads that are left over have none
        count = (load_word(geometry + depth_at) - column + slices - 1) // slices if column < slices else 0
        weights = load_word(geometry + weights_at) + thread
        for n in range(columns, load_word(geometry + needed_at)):
            for row in range(patch_rows):
                r = first_row + row
                value = load_zero()
                if n < count and r < rows_end:
                    value = load(address + n * slices * column_bytes + r // sums * unit_bytes + r % sums * sum_bytes)
                shared[weights + ((n - columns) * patch_rows + row) * threads] = to_plain(value)
        return load_patch(address, first_row, rows_end, unit_bytes, sum_bytes, slices * column_bytes, count)

    @device
    def run_stage(table, geometry, shared, matrix, step):
        batch, depth = load_word(geometry + BATCH * WORD), load_word(geometry + depth_at)
        groups, slices = load_word(geometry + groups_at), load_word(geometry + slices_at)
        padded, rows = load_word(geometry + padded_at), load_word(geometry + rows_at)
        team, share = load_word(geometry + team_at), load_word(geometry + share_at)
        partial, totals = load_word(geometry + PARTIAL * WORD), load_word(geometry + SUMS * WORD)
        block_units = load_word(geometry + block_units_at)
        first_unit = cuda.blockIdx.x * block_units
        units = min(block_units, load_word(geometry + units_at) - first_unit)
        operand = load_word(geometry + exchange_at) + step % 2 * batch * depth * size
        thread = cuda.threadIdx.x
        group = thread % groups
        column = thread // groups
        for first_row in range(0, batch, tile):
            for b in range(tile):
                for k in range(thread, padded, threads):
                    value = load_zero()
                    if k < depth and first_row + b < batch:
                        value = load_operand(operand + ((first_row + b) * depth + k) * size)
                    shared[b * padded + k] = to_plain(value)
            cuda.syncthreads()
            if column < slices:
                parts = multiply(start_sums(), matrix, shared, column, slices, padded)
                weights = load_word(geometry + weights_at) + thread
                for n in range(columns, load_word(geometry + needed_at)):
                    parts = multiply_column(parts, shared, weights, threads, column + n * slices, padded)
                    weights += patch_rows * threads
                row_step = slices | 1  # odd, so that threads meet different banks
                spread(parts, shared, partial + group * patch_rows * row_step + column, row_step, rows * row_step)
            cuda.syncthreads()
            for place in range(thread, tile * rows * team, threads):  # each thread of a row's team sums its share
                n = place // (tile * rows)
                start = partial + (place - n * tile * rows) * (slices | 1)
                total = pick(shared, start + n * share)[0]
                for part in range(n * share + 1, min((n + 1) * share, slices)):
                    total = total + pick(shared, start + part)[0]
                shared[start + n * share] = to_plain(total)
            cuda.syncthreads()
            for r in range(thread, tile * rows, threads):
                start = partial + r * (slices | 1)
                total = pick(shared, start)[0]
                for n in range(1, team):
                    total = total + pick(shared, start + n * share)[0]
                shared[totals + r] = to_plain(total)
            cuda.syncthreads()
            for place in range(thread, tile * block_units, threads):
                b = place // block_units
                unit = place - b * block_units
                if first_row + b < batch and unit < units:
                    values = gather(shared, totals + b * rows + unit * sums)
                    apply(table, geometry, step, first_row + b, first_unit + unit, values)

    return fill, run_stage


def _formula(run: Pass, number: int, dtype: str, saving: bool, has_bias: bool) -> Callable:
    """apply(table, geometry, step, row, unit, sums): the cell's formula for one unit, all that it reads and writes."""
    stage = run.stages[number]
    read_begins = planes_reader(run, stage.begins, dtype, has_bias)
    read = planes_reader(run, stage.reads, dtype, has_bias)
    written = list(enumerate(run.writes(number, saving)))
    locate = planes_locator(run, [plane for _, plane in written], dtype)
    write = planes_writer(written, dtype)
    exchanged = _exchanged(run, written)
    locate_exchanged = _exchange_locator(exchanged, number, dtype)
    exchange = writer([(value, exchange_storer(dtype)) for value, _, _ in exchanged])  # for the other blocks
    biases = {bias.plane for bias in run.biases}
    streamed = [p for p in (*stage.begins, *stage.reads) if p not in biases and p not in WIDE and p != "zero"]
    locate_next, fetch = planes_locator(run, streamed, dtype), fetcher(len(streamed))
    add = product_adder(len(stage.begins), run.sums(number))
    activate, finish = device(stage.activate), device(stage.finish)

    @device
    def apply(table, geometry, step, row, unit, sums):
        totals = add(read_begins(table, step, row, unit), sums)
        values = read(table, step, row, unit)
        values = finish(*activate(*totals), *values)
        exchange_addresses = locate_exchanged(geometry, step, row, unit)
        addresses = locate(table, step, row, unit)
        exchange(exchange_addresses, values)
        write(addresses, values)
        if step + 1 < load_word(geometry + STEPS * WORD):
            fetch(locate_next(table, step + 1, row, unit))

    return apply


def _exchanged(run: Pass, written: Sequence[tuple[int, str]]) -> list[tuple[int, int, int]]:
    """(number of the value, stage, position in its operand) of each value that a stage multiplies."""
    return [
        (value, n, stage.operand.index(name))
        for value, plane in written
        for name in ("h_prev" if run.forward and plane == "h" else plane,)
        for n, stage in enumerate(run.stages)
        if name in stage.operand
    ]


def _exchange_locator(exchanged: list[tuple[int, int, int]], number: int, dtype: str) -> Callable:
    """locate(geometry, step, row, unit): a tuple of the addresses of each of these values of stage `number`."""
    if not exchanged:
        return device(lambda geometry, step, row, unit: ())
    (_, target, position), *rest = exchanged
    exchange_at, depth_at, width_at = (word_of(target, s) for s in (Stage.EXCHANGE, Stage.DEPTH, Stage.WIDTH))
    later = 0 if target > number else 1  # a later stage of this step reads it, or the next step
    size, others = ITEMSIZE[dtype], _exchange_locator(rest, number, dtype)

    @device
    def locate(geometry, step, row, unit):
        depth = load_word(geometry + depth_at)
        batch = load_word(geometry + BATCH * WORD)
        place = ((step + later) % 2 * batch + row) * depth + position * load_word(geometry + width_at) + unit
        return (load_word(geometry + exchange_at) + place * size, *others(geometry, step, row, unit))

    return locate


def word_of(number: int, slot: Stage) -> int:
    """Bytes from the beginning of the geometry to a word of stage `number`."""
    return WORD * (FIRST_STAGE + number * STAGE_WORDS + int(slot))
