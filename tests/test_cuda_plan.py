"""How persistent kernels are divided among multiprocessors, and when they are chosen. No GPU and no Numba needed."""

import inspect
import itertools

import pytest
from fastrnn.kernels.cells import CELLS
from fastrnn.kernels.cuda import plan as plans
from fastrnn.kernels.cuda.plan import DeviceLimits, Patch, best_plan, divide, faster_persistent, stage_sizes
from fastrnn.kernels.cuda.planes import passes

# the multiprocessors, shared memory and registers of compute capability 9.0 and 8.0 in their largest versions
LARGE = DeviceLimits(132, 227 << 10, 1 << 16)
MEDIUM = DeviceLimits(108, 163 << 10, 1 << 16)
SMALL = DeviceLimits(20, 99 << 10, 1 << 16)
RUNS = [run for cell in CELLS for run in passes(cell)]


def width(run, hidden):
    return hidden // 2 or 1 if run.cell.name == "lstm_projected" else hidden


@pytest.mark.parametrize("device", [LARGE, MEDIUM, SMALL], ids=str)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.cell.name}-{run.forward}")
def test_every_element_of_the_matrix_has_one_place_on_the_chip(run, device):
    for hidden, batch in itertools.product((1, 7, 64, 168, 257, 768, 1024), (1, 5, 64)):
        plan = best_plan(run, hidden, width(run, hidden), batch, device)
        if plan is None:
            continue
        assert plan.blocks <= device.multiprocessors
        assert plan.shared_bytes <= device.shared_bytes
        for stage in plan.stages:
            assert stage.block_units * plan.blocks >= stage.units
            assert stage.rows >= stage.block_units * stage.sums
            assert stage.groups * stage.slices <= plan.patch.threads
            assert stage.slices * stage.columns_needed >= stage.depth
            assert stage.padded >= stage.slices * plan.patch.columns
            assert (stage.team - 1) * stage.share < stage.slices <= stage.team * stage.share
            assert stage.team == 1 or stage.team * stage.sum_floats <= plan.patch.threads
            # from row to row: no two of 32 threads in a row of them meet the same of 32 banks
            assert stage.partial_floats // stage.sum_floats % 2 == 1
        # no block is without work in every stage
        assert any((plan.blocks - 1) * stage.block_units < stage.units for stage in plan.stages)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.cell.name}-{run.forward}")
def test_what_fits(run):
    assert best_plan(run, 1024, width(run, 1024), 1, LARGE) is not None
    assert best_plan(run, 8192, width(run, 8192), 1, LARGE) is None
    assert best_plan(run, 64, width(run, 64), 1, DeviceLimits(132, 227 << 10, 1 << 15)) is None  # too few registers


def test_the_shared_memory_counts_what_the_registers_do_not_hold():
    patch = Patch(threads=256, rows=8, columns=16, batch=1)
    sizes = stage_sizes(passes("lstm")[0], 1024, 1024)
    wide, narrow = divide(sizes, 128, patch), divide(sizes, 64, patch)
    assert wide.stages[0].shared_columns == 0
    assert narrow.stages[0].shared_columns == 16
    assert narrow.shared_bytes - wide.shared_bytes >= 16 * 8 * 256 * 4


def test_small_batches_are_for_the_persistent_path_and_large_ones_for_the_plain_one():
    run = passes("lstm")[0]
    assert faster_persistent(run, 256, 256, 1, LARGE) is not None
    assert faster_persistent(run, 1024, 1024, 4096, LARGE) is None
    assert faster_persistent(run, 8192, 8192, 1, LARGE) is None


def test_a_device_is_its_sizes_and_not_its_name():
    assert list(inspect.signature(DeviceLimits).parameters) == ["multiprocessors", "shared_bytes", "registers"]
    assert "name" not in inspect.getsource(plans).replace("NamedTuple", "")
