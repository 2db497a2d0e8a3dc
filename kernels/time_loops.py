"""The time loop forward and the time loop backward, one of each for all cells and dtypes.

What a step computes is in its stages (`stage.py`) and their formulas (`formula.py`), compiled for each cell and
called by address; where the numbers lie is in the planes (`block.py`). Threads share a step either by rows of the
batch, and then need not wait for each other, or by hidden units, and then meet after each stage.

Where a step has rows that begin, or end, beside others, each stage runs for these and those separately.

Steps go through the groups of units upwards and downwards in turns: of a matrix larger than the cache, what was read
last is still there, and is read first.
"""

from numba import njit

from . import block as b
from . import weight_gradient
from .calls import call
from .copying import rows_before
from .options import INNER, OPTIONS
from .words import larger, load_word, rounded_up, smaller, store_word
from .workers import meet, share

_TABLE_ROW = 8 * b.WORK_WORDS
_GRADIENT_BYTES = 8 * weight_gradient.JOB_WORDS
_FIRST_STAGE = 8 * b.STAGE_TABLE
_STAGE_BYTES = 8 * b.STAGE_WORDS
_NO_PRODUCT = (0, 0, 0, 0)


@njit(**INNER)
def _rows_before(block, step):
    """How many rows the steps before `step` have, -1 <= step <= T + 1; what it says of no step is not used."""
    return rows_before(load_word(block, b.STARTS), load_word(block, b.BATCH), step)


@njit(**INNER)
def _rows(block, step):
    """How many rows a step has: none where there is no such step."""
    if step < 0 or step >= load_word(block, b.STEPS):
        return 0
    return _rows_before(block, step + 1) - _rows_before(block, step)


@njit(**OPTIONS)
def _advance(block, table, step, inputs, before_inputs, begins, ends):
    """Write the planes' addresses at this step into a work table.

    The first `inputs` are the sums W x: they have `before_inputs` rows before them, or, if that is negative, are yet to
    be made, and begin with the biases, the planes that follow.
    """
    plane = load_word(block, b.PLANE_TABLE)
    this = _rows_before(block, step)
    before = _rows_before(block, step - 1)
    after = _rows_before(block, step + 1)
    for number in range(load_word(block, b.PLANES)):
        edge = load_word(plane, b.EDGE)
        if (begins and edge == b.BEGINNING) or (ends and edge == b.ENDING):
            store_word(table, 0, load_word(plane, b.EDGE_ADDRESS))
            store_word(table, 1, load_word(plane, b.EDGE_ROW))
        else:
            source = plane
            rows = 0
            moves = load_word(plane, b.MOVES)
            if number < inputs:
                if before_inputs < 0:
                    source += inputs * (8 * b.PLANE_WORDS)
                else:
                    rows = before_inputs
            elif moves == b.THIS_STEP:
                rows = this
            elif moves == b.STEP_BEFORE:
                rows = before
            elif moves == b.STEP_AFTER:
                rows = after
            row = load_word(source, b.ROW)
            store_word(table, 0, load_word(source, b.REST) + rows * row)
            store_word(table, 1, row)
        plane += 8 * b.PLANE_WORDS
        table += _TABLE_ROW


@njit(**INNER)
def _part(block, thread, threads):
    """What a thread works with: (thread, threads, by_units, scratch), its work table, and (first row, last row)."""
    by_units = threads > 1 and load_word(block, b.BY_UNITS) != 0
    scratch = load_word(block, b.SCRATCH) + thread * load_word(block, b.SCRATCH_BYTES)
    table = load_word(block, b.WORK_TABLE) + thread * (_TABLE_ROW * load_word(block, b.PLANES))
    first_row, last_row = 0, load_word(block, b.BATCH)
    shares = load_word(block, b.SHARES)
    if threads > 1 and not by_units and shares == 0:
        first_row, last_row = share(last_row, thread, threads)
    elif threads > 1 and not by_units:
        first_row, last_row = load_word(shares, thread), load_word(shares, thread + 1)
    return (thread, threads, by_units, scratch), table, first_row, last_row


@njit(**INNER)
def _end_of_run(row, last, begin, end):
    """From `row` on, where the rows end that are alike: rows from `begin` on begin now, rows from `end` on end."""
    if row < begin:
        last = smaller(last, begin)
    if row < end:
        last = smaller(last, end)
    return last


@njit(**INNER)
def _own_groups(block, units, thread, threads, by_units):
    """(first group, last group) of so many units for this thread."""
    groups = rounded_up(units, load_word(block, b.LANES))
    if by_units:
        return share(groups, thread, threads)
    return 0, groups


@njit(**INNER)
def _run_stage(block, stage, table, rows, x, operand, worker, downwards):
    """One stage, whose words are at `stage`, on rows (first, how many), for the thread's groups, up- or downwards.

    x, operand  what is multiplied: (address, row, matrix, depth), (address, row, depth)
    worker      (thread, threads, by_units, scratch)
    """
    thread, threads, by_units, scratch = worker
    units = load_word(stage, b.STAGE_UNITS)
    first, last = _own_groups(block, units, thread, threads, by_units)
    if downwards:
        first, last = last, first
    address, row, depth = operand
    call(
        load_word(block, b.STAGE_KERNEL), (stage, table, *rows, units, first, last, *x,
        address, row, load_word(stage, b.STAGE_MATRIX), depth, scratch))  # fmt: skip


@njit(**INNER)
def _end_of_chunk(block, step, sign, whole):
    """The last step, in the order of the loop, whose sums W x are made together with those of `step`."""
    room = load_word(block, b.X_CHUNK) - _room(block, step, whole)
    while True:
        more = _room(block, step + sign, whole)
        if more == 0 or more > room:
            return step
        room -= more
        step += sign


@njit(**INNER)
def _room(block, step, whole):
    """How many rows of sums W x a step takes: if threads share them, all of the batch.

    Then one thread may be a chunk ahead of another, and where chunks begin each decides for its own rows: a row of any
    step lies at a multiple of the batch plus its number, so that no thread ever writes another's.
    """
    rows = _rows(block, step)
    return rows if whole or rows == 0 else load_word(block, b.BATCH)


@njit(**INNER)
def _sums_before(block, step, low, whole):
    """How many rows of sums W x lie before those of `step` in a chunk that begins, in memory, with the step `low`."""
    if whole:
        return _rows_before(block, step) - _rows_before(block, low)
    return (step - low) * load_word(block, b.BATCH)


@njit(**OPTIONS)
def _sum_inputs(block, low, high, first_row, last_row, thread, threads, by_units, scratch):
    """W x + biases for the steps low .. high in memory: all their rows in one product where they lie evenly."""
    batch = load_word(block, b.BATCH)
    gates = load_word(block, b.X_RECIPE + b.SUMS)
    x_table = load_word(block, b.X_TABLE) + thread * (_TABLE_ROW * 2 * gates)
    sums_row = load_word(block, b.X_SUMS_ROW)
    operand_row = load_word(block, b.X_OPERAND_ROW)
    units = load_word(block, b.X_UNITS)
    first, last = _own_groups(block, units, thread, threads, by_units)
    number = high - low + 1
    distance = 1
    by_step = False
    whole = first_row == 0 and last_row == batch
    if whole:  # all rows of all steps are one run
        runs, rows = 1, _rows_before(block, high + 1) - _rows_before(block, low)
    elif last_row - first_row == 1 and load_word(block, b.STARTS) == 0:  # one row of every step
        runs, rows, distance = 1, number, batch
    else:
        runs, rows, by_step = number, 0, True
    biases = load_word(block, b.PLANE_TABLE) + gates * (8 * b.PLANE_WORDS)  # the planes behind the sums
    for gate in range(gates):
        bias = x_table + gate * _TABLE_ROW
        store_word(bias, 0, load_word(biases + gate * (8 * b.PLANE_WORDS), b.REST))
        store_word(bias, 1, 0)
        store_word(x_table + (gates + gate) * _TABLE_ROW, 1, distance * sums_row)
    for run in range(runs):
        start = _rows_before(block, low + run) + first_row
        if by_step:
            rows = smaller(last_row, _rows(block, low + run)) - first_row
            if rows <= 0:
                continue
        for gate in range(gates):
            before = _sums_before(block, low + run, low, whole) + first_row
            place = load_word(block, b.X_SUMS) + before * sums_row
            store_word(x_table + (gates + gate) * _TABLE_ROW, 0, place + gate * load_word(block, b.X_SUMS_GATE))
        call(
            load_word(block, b.STAGE_KERNEL), (block + 8 * b.X_RECIPE, x_table, 0, rows, units, first, last,
            *_NO_PRODUCT, load_word(block, b.X_OPERAND) + start * operand_row, distance * operand_row,
            load_word(block, b.X_MATRIX), load_word(block, b.X_DEPTH), scratch))  # fmt: skip


def make_loop(direction: str):
    """loop(thread, threads, block) in that direction, "forward" or "backward". The workers have met once, to start."""
    return {"forward": _forward, "backward": _backward}[direction]


def _forward(thread, threads, block):
    """All steps of one direction of a layer."""
    steps = load_word(block, b.STEPS)
    sign = load_word(block, b.SIGN)
    stages = load_word(block, b.STAGES)
    inputs = load_word(block, b.X_RECIPE + b.SUMS)
    worker, table, first_row, last_row = _part(block, thread, threads)
    _, _, by_units, scratch = worker
    whole = first_row == 0 and last_row == load_word(block, b.BATCH)
    enough = load_word(block, b.X_WITHIN)
    x_row, x_depth = load_word(block, b.X_OPERAND_ROW), load_word(block, b.X_DEPTH)
    target = threads
    step = load_word(block, b.FIRST)
    chunk_end = step - sign
    low = step
    behind = 0  # rows of the step before
    for turn in range(steps):
        here = _rows(block, step)
        last = smaller(last_row, here)
        begin = smaller(here, behind)
        # the sums W x of the steps up to `chunk_end` are there; else the first stage makes this step's, or they are
        # made now for a chunk of steps
        within = step == chunk_end + sign and last - first_row >= enough
        if within:
            chunk_end = step
        elif step == chunk_end + sign:
            chunk_end = _end_of_chunk(block, step, sign, whole)
            low, high = smaller(step, chunk_end), larger(step, chunk_end)
            _sum_inputs(block, low, high, first_row, last_row, thread, threads, by_units, scratch)
        before_inputs = -1 if within else _sums_before(block, step, low, whole)
        x_address = load_word(block, b.X_OPERAND) + _rows_before(block, step) * x_row
        x = (x_address, x_row, load_word(block, b.X_MATRIX), x_depth if within else 0)
        for number in range(stages):
            stage = block + _FIRST_STAGE + number * _STAGE_BYTES
            row = first_row
            while row < last:
                end = _end_of_run(row, last, begin, last)
                _advance(block, table, step, inputs, before_inputs, row >= begin, False)
                operand = table + _TABLE_ROW * load_word(stage, b.STAGE_OPERAND)
                multiplied = (load_word(operand, 0), load_word(operand, 1), load_word(stage, b.STAGE_DEPTH))
                of_x = x if number == 0 else _NO_PRODUCT
                _run_stage(block, stage, table, (row, end - row), of_x, multiplied, worker, turn % 2 == 1)
                row = end
            if by_units:
                target += threads
                meet(block, target)
        behind = here
        step += sign


def _backward(thread, threads, block):
    """All steps of one direction of a layer from its last to its first, then the products over all steps."""
    steps = load_word(block, b.STEPS)
    sign = load_word(block, b.SIGN)
    stages = load_word(block, b.STAGES)
    worker, table, first_row, last_row = _part(block, thread, threads)
    _, _, by_units, scratch = worker
    target = threads
    step = load_word(block, b.FIRST)
    # the first stage multiplies what the step before, in this order, has handed back
    first_stage = block + _FIRST_STAGE
    handed = load_word(block, b.PLANE_TABLE) + 8 * b.PLANE_WORDS * load_word(first_stage, b.STAGE_OPERAND)
    handed_rest, handed_row = load_word(handed, b.REST), load_word(handed, b.ROW)
    units = load_word(first_stage, b.STAGE_UNITS)
    first, end = _own_groups(block, units, thread, threads, by_units)
    behind = 0
    for turn in range(steps):
        here = _rows(block, step)
        last = smaller(last_row, here)
        begin = smaller(here, behind)
        ending = smaller(here, _rows(block, step + sign))
        for number in range(stages):
            stage = first_stage + number * _STAGE_BYTES
            depth = load_word(stage, b.STAGE_DEPTH)
            row = first_row
            while row < last:
                run = _end_of_run(row, last, begin, ending)
                _advance(block, table, step, 0, 0, row >= begin, row >= ending)
                if number == 0:
                    operand, stride = handed_rest + _rows_before(block, step - sign) * handed_row, handed_row
                    if row >= begin:
                        depth = 0
                else:
                    own = table + _TABLE_ROW * load_word(stage, b.STAGE_OPERAND)
                    operand, stride = load_word(own, 0), load_word(own, 1)
                _run_stage(
                    block, stage, table, (row, run - row), _NO_PRODUCT, (operand, stride, depth), worker, turn % 2 == 1
                )
                row = run
            if by_units:
                target += threads
                meet(block, target)
        if larger(first_row, ending) < last:  # what these rows hand back is dL/dh_0
            row = larger(first_row, ending)
            call(
                load_word(block, b.STAGE_KERNEL), (block + 8 * b.DH_0_RECIPE,
                load_word(block, b.DH_0_TABLE), row, last - row, units, first, end, *_NO_PRODUCT,
                handed_rest + _rows_before(block, step) * handed_row, handed_row,
                load_word(first_stage, b.STAGE_MATRIX), load_word(first_stage, b.STAGE_DEPTH), scratch))  # fmt: skip
        behind = here
        step += sign
    if threads > 1:
        target += threads
        meet(block, target)
    _products_over_all_steps(block, thread, threads, scratch)


@njit(**OPTIONS)
def _products_over_all_steps(block, thread, threads, scratch):
    """The gradients of x and of the parameters, from those of the gates, which are there for all steps."""
    first_row, last_row = share(load_word(block, b.ROWS), thread, threads)
    units = load_word(block, b.DX_UNITS)
    _, groups = _own_groups(block, units, thread, threads, False)
    operand_row = load_word(block, b.DX_OPERAND_ROW)
    call(
        load_word(block, b.STAGE_KERNEL), (block + 8 * b.DX_RECIPE, load_word(block, b.DX_TABLE),
        first_row, last_row - first_row, units, 0, groups, *_NO_PRODUCT,
        load_word(block, b.DX_OPERAND), operand_row,
        load_word(block, b.DX_MATRIX), load_word(block, b.DX_DEPTH), scratch))  # fmt: skip
    for number in range(load_word(block, b.GRADIENTS)):
        call(
            load_word(block, b.GRADIENT_KERNEL), (load_word(block, b.GRADIENT_TILE),
            load_word(block, b.GRADIENT_TABLE) + number * _GRADIENT_BYTES, thread, threads, scratch))  # fmt: skip
