"""The time loop forward and the time loop backward, one of each for all cells and dtypes.

What a step computes is in the stages, compiled for each cell (`stage.py`) and called by address; where the numbers lie
is in the planes (`block.py`). Threads share a step either by rows of the batch, and then need not wait for each other,
or by hidden units, and then meet after each stage.
"""

from numba import njit

from . import block as b
from . import weight_gradient
from .options import INNER, OPTIONS
from .workers import call, load_word, meet, share, store_word

_TABLE_ROW = 8 * b.WORK_WORDS
_GRADIENT_BYTES = 8 * weight_gradient.JOB_WORDS


@njit(**INNER)
def _advance(block, table, step, chunk_start, inputs):
    """Write the planes' addresses at this step into a work table; the first `inputs` count from `chunk_start`."""
    plane = load_word(block + 8 * b.PLANE_TABLE)
    for number in range(load_word(block + 8 * b.PLANES)):
        at = step - chunk_start if number < inputs else step
        if at == load_word(plane + 8 * b.EDGE):
            store_word(table, load_word(plane + 8 * b.EDGE_ADDRESS))
            store_word(table + 8, load_word(plane + 8 * b.EDGE_ROW))
        else:
            store_word(table, load_word(plane + 8 * b.REST) + at * load_word(plane + 8 * b.STEP))
            store_word(table + 8, load_word(plane + 8 * b.ROW))
        plane += 8 * b.PLANE_WORDS
        table += _TABLE_ROW


@njit(**INNER)
def _parts(block, thread, threads, by_units):
    """(first row, last row) of the batch for this thread."""
    batch = load_word(block + 8 * b.BATCH)
    return (0, batch) if by_units else share(batch, thread, threads)


@njit(**INNER)
def _run_stage(block, number, table, first_row, rows, operand, stride, depth, thread, threads, by_units, scratch):
    """One stage on this thread's rows and groups of units."""
    stage = block + 8 * (b.STAGE_TABLE + number * b.STAGE_WORDS)
    units = load_word(stage + 8 * b.STAGE_UNITS)
    lanes = load_word(block + 8 * b.LANES)
    first, last = 0, (units + lanes - 1) // lanes
    if by_units:
        first, last = share(last, thread, threads)
    call(
        load_word(stage + 8 * b.STAGE_KERNEL), (load_word(stage + 8 * b.STAGE_TILE),
        table, first_row, rows, units, first, last, operand, stride,
        load_word(stage + 8 * b.STAGE_MATRIX), depth, scratch))  # fmt: skip


@njit(**INNER)
def _stage_word(block, number, word):
    return load_word(block + 8 * (b.STAGE_TABLE + number * b.STAGE_WORDS + word))


@njit(**OPTIONS)
def _sum_inputs(block, table, first_step, steps, first_row, rows, thread, threads, by_units, scratch):
    """W x + biases for some steps: all their rows in one product where they lie evenly."""
    gates = load_word(block + 8 * b.X_GATES)
    x_table = load_word(block + 8 * b.X_TABLE) + thread * (_TABLE_ROW * 2 * gates)
    sums_step = load_word(block + 8 * b.X_SUMS_STEP)
    sums_row = load_word(block + 8 * b.X_SUMS_ROW)
    sums = load_word(block + 8 * b.X_SUMS) + first_row * sums_row
    operand_step = load_word(block + 8 * b.X_OPERAND_STEP)
    operand_row = load_word(block + 8 * b.X_OPERAND_ROW)
    operand = load_word(block + 8 * b.X_OPERAND) + first_step * operand_step + first_row * operand_row
    units = load_word(block + 8 * b.X_UNITS)
    lanes = load_word(block + 8 * b.LANES)
    first, last = 0, (units + lanes - 1) // lanes
    if by_units:
        first, last = share(last, thread, threads)
    at_once = 1
    if rows == 1:
        at_once, sums_row, operand_row = steps, sums_step, operand_step
    elif operand_step == rows * operand_row and sums_step == rows * sums_row:
        at_once = steps
    for gate in range(gates):
        bias = x_table + gate * _TABLE_ROW
        store_word(bias, load_word(table + (gates + gate) * _TABLE_ROW))
        store_word(bias + 8, 0)
        store_word(x_table + (gates + gate) * _TABLE_ROW + 8, sums_row)
    for step in range(0, steps, at_once):
        for gate in range(gates):
            place = sums + step * sums_step + gate * load_word(block + 8 * b.X_SUMS_GATE)
            store_word(x_table + (gates + gate) * _TABLE_ROW, place)
        call(
            load_word(block + 8 * b.X_KERNEL), (load_word(block + 8 * b.X_TILE),
            x_table, 0, rows * at_once, units, first, last, operand + step * operand_step, operand_row,
            load_word(block + 8 * b.X_MATRIX), load_word(block + 8 * b.X_DEPTH), scratch))  # fmt: skip


@njit(**OPTIONS)
def forward(thread, threads, block):
    """All steps of one direction of a layer. The workers have met once, to start."""
    steps = load_word(block + 8 * b.STEPS)
    stages = load_word(block + 8 * b.STAGES)
    inputs = load_word(block + 8 * b.X_GATES)
    chunk = load_word(block + 8 * b.X_CHUNK)
    table = load_word(block + 8 * b.WORK_TABLE) + thread * (_TABLE_ROW * load_word(block + 8 * b.PLANES))
    scratch = load_word(block + 8 * b.SCRATCH) + thread * load_word(block + 8 * b.SCRATCH_BYTES)
    by_units = threads > 1 and load_word(block + 8 * b.BY_UNITS) != 0
    first_row, last_row = _parts(block, thread, threads, by_units)
    rows = last_row - first_row
    target = threads
    chunk_start = 0
    for step in range(steps):
        if step % chunk == 0:
            chunk_start = step
            _advance(block, table, step, step, inputs)
            _sum_inputs(
                block, table, step, min(chunk, steps - step), first_row, rows, thread, threads, by_units, scratch
            )
        _advance(block, table, step, chunk_start, inputs)
        for number in range(stages):
            operand = table + _TABLE_ROW * _stage_word(block, number, b.STAGE_OPERAND)
            _run_stage(
                block, number, table, first_row, rows, load_word(operand), load_word(operand + 8),
                _stage_word(block, number, b.STAGE_DEPTH), thread, threads, by_units, scratch,
            )  # fmt: skip
            if by_units:
                target += threads
                meet(block, target)


@njit(**OPTIONS)
def backward(thread, threads, block):
    """All steps of one direction of a layer from its last to its first, then the products over all steps."""
    steps = load_word(block + 8 * b.STEPS)
    stages = load_word(block + 8 * b.STAGES)
    table = load_word(block + 8 * b.WORK_TABLE) + thread * (_TABLE_ROW * load_word(block + 8 * b.PLANES))
    scratch = load_word(block + 8 * b.SCRATCH) + thread * load_word(block + 8 * b.SCRATCH_BYTES)
    lanes = load_word(block + 8 * b.LANES)
    by_units = threads > 1 and load_word(block + 8 * b.BY_UNITS) != 0
    first_row, last_row = _parts(block, thread, threads, by_units)
    rows = last_row - first_row
    target = threads

    # the first stage multiplies what the step after it handed back: nothing, at the last step of the sequence
    handed_back = table + _TABLE_ROW * _stage_word(block, 0, b.STAGE_OPERAND)
    operand, stride, depth = 0, 0, 0
    for step in range(steps):
        _advance(block, table, step, 0, 0)
        for number in range(stages):
            if number == 1:
                own = table + _TABLE_ROW * _stage_word(block, 1, b.STAGE_OPERAND)
                operand, stride, depth = load_word(own), load_word(own + 8), _stage_word(block, 1, b.STAGE_DEPTH)
            _run_stage(
                block, number, table, first_row, rows, operand, stride, depth, thread, threads, by_units, scratch
            )
            if by_units:
                target += threads
                meet(block, target)
        operand, stride, depth = (
            load_word(handed_back),
            load_word(handed_back + 8),
            _stage_word(block, 0, b.STAGE_DEPTH),
        )

    # dL/dh_0: the first step hands back too
    _advance(block, table, steps, 0, 0)
    final = load_word(block + 8 * b.DH_0_TABLE) + thread * (3 * _TABLE_ROW)
    dh_next = table + _TABLE_ROW * load_word(block + 8 * b.DH_NEXT)
    store_word(final + _TABLE_ROW, load_word(dh_next))
    store_word(final + _TABLE_ROW + 8, load_word(dh_next + 8))
    units = _stage_word(block, 0, b.STAGE_UNITS)
    first, last = 0, (units + lanes - 1) // lanes
    if by_units:
        first, last = share(last, thread, threads)
    call(
        load_word(block + 8 * b.DH_0_KERNEL), (_stage_word(block, 0, b.STAGE_TILE),
        final, first_row, rows, units, first, last, operand, stride,
        _stage_word(block, 0, b.STAGE_MATRIX), depth, scratch))  # fmt: skip
    if threads > 1:
        target += threads
        meet(block, target)

    first_row, last_row = share(steps * load_word(block + 8 * b.BATCH), thread, threads)
    units = load_word(block + 8 * b.DX_UNITS)
    operand_row = load_word(block + 8 * b.DX_OPERAND_ROW)
    call(
        load_word(block + 8 * b.DX_KERNEL), (load_word(block + 8 * b.DX_TILE), load_word(block + 8 * b.DX_TABLE),
        first_row, last_row - first_row, units, 0, (units + lanes - 1) // lanes,
        load_word(block + 8 * b.DX_OPERAND), operand_row,
        load_word(block + 8 * b.DX_MATRIX), load_word(block + 8 * b.DX_DEPTH), scratch))  # fmt: skip
    for number in range(load_word(block + 8 * b.GRADIENTS)):
        call(
            load_word(block + 8 * b.GRADIENT_KERNEL), (load_word(block + 8 * b.DX_TILE),
            load_word(block + 8 * b.GRADIENT_TABLE) + number * _GRADIENT_BYTES, thread, threads, scratch))  # fmt: skip
