"""The gate kernel of the plain path: a cell's formula on the sums that a matrix product left, one thread a unit."""

from functools import cache

from numba import cuda

from .access import planes_locator, planes_reader, planes_writer
from .planes import passes
from .target import SIMULATED, device, kernel

THREADS = 128


def gate_grid(rows: int, units: int) -> tuple[tuple[int, int], int]:
    """Blocks and threads: a row of the batch along x, which has no limit that matters, units along y."""
    warp = 1 if SIMULATED else 32  # the simulator starts a Python thread for each
    threads = min(THREADS, -(-units // warp) * warp)
    return (rows, -(-units // threads)), threads


@cache
def gate_kernel(cell: str, forward: bool, number: int, dtype: str, saving: bool, has_bias: bool):
    """gate(table, step, units) of stage `number`, launched on `gate_grid`.

    Reads "sums {number} g" beside the planes of the stage; writes its planes, and the operands that they are part of.

    table  the address of the table (see `planes.py`), written before the launch
    step   of the loop, which runs backwards in time for the backward pass
    """
    run = passes(cell)[0 if forward else 1]
    stage = run.stages[number]
    sums = [f"sums {number} {g}" for g in range(run.sums(number))]
    read_begins = planes_reader(run, stage.begins, dtype, has_bias)
    read_sums = planes_reader(run, sums, dtype, has_bias)
    read = planes_reader(run, stage.reads, dtype, has_bias)
    written = list(enumerate(run.writes(number, saving)))
    written += [(n, operand) for n, plane in written for operand in run.operand_of(plane)]
    locate = planes_locator(run, [plane for _, plane in written], dtype)
    write = planes_writer(written, dtype)
    add = product_adder(len(stage.begins), len(sums))
    activate, finish = device(stage.activate), device(stage.finish)

    @kernel(launch_bounds=THREADS)
    def gate(table, step, units):
        row = cuda.blockIdx.x
        unit = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if unit < units:
            totals = add(read_begins(table, step, row, unit), read_sums(table, step, row, unit))
            values = read(table, step, row, unit)
            addresses = locate(table, step, row, unit)
            write(addresses, finish(*activate(*totals), *values))

    return gate


@cache
def product_adder(begins: int, sums: int):
    """add(begin values, sums): what a stage's sums come to. The product is part of the last ones."""
    if begins == 0:
        return device(lambda values, product: ())
    before, last, of_product = product_adder(begins - 1, max(sums - 1, 0)), begins - 1, sums - 1
    if sums == 0:
        return device(lambda values, product: (*before(values, product), values[last]))
    return device(lambda values, product: (*before(values, product), values[last] + product[of_product]))
