"""Every CUDA kernel compiled for compute capability 8.0 and 9.0 and assembled, without a GPU.

What a GPU would be needed for, that the blocks see each other's numbers, is read from the PTX as far as it can be.
"""

import re

import pytest
from ptx import Flow, assembled, compiled, ptxas

pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
if ptxas() is None:
    pytest.skip("ptxas is not installed", allow_module_level=True)

from fastrnn.kernels.cells import CELLS
from fastrnn.kernels.cuda.gate import THREADS, gate_kernel
from fastrnn.kernels.cuda.persistent import persistent_kernel
from fastrnn.kernels.cuda.plan import PATCHES, REGISTERS_A_THREAD
from fastrnn.kernels.cuda.planes import passes

DTYPES = ("float32", "float64", "float16", "bfloat16")
PASSES = [(cell, forward) for cell in CELLS for forward in (True, False)]
STAGES = [(cell, fwd, n) for cell, fwd in PASSES for n in range(len(passes(cell)[0 if fwd else 1].stages))]


# what is kept and added besides: all, or in a forward pass without gradients and biases as little as there may be
GATES = [(*stage, dtype, True) for stage in STAGES for dtype in DTYPES]
GATES += [(cell, True, n, "float32", False) for cell, forward, n in STAGES if forward]


@pytest.mark.parametrize(("cell", "forward", "number", "dtype", "all_of_it"), GATES, ids=str)
def test_a_gate_kernel(cell, forward, number, dtype, all_of_it, tmp_path):
    texts, cooperative = compiled(gate_kernel(cell, forward, number, dtype, all_of_it, all_of_it), 3)
    assert not cooperative
    for capability, text in texts.items():
        assert_alone_and_precise(text, dtype)
        assert_nothing_is_looked_up_between_stores(Flow(text))
        resources = assembled(text, capability, tmp_path)
        assert resources.spilled_bytes == resources.stack_bytes == resources.static_shared_bytes == 0
        # at least four blocks on a multiprocessor, to hide each other's waiting
        assert resources.registers * THREADS * 4 <= 1 << 16


LARGEST = max(PATCHES, key=lambda patch: patch.columns * patch.batch)


def stage_patch(cell, forward, patch):
    return patch._replace(columns=patch.columns // len(passes(cell)[0 if forward else 1].stages))


PERSISTENT = [(cell, forward, LARGEST, True) for cell, forward in PASSES]
PERSISTENT += [("lstm", True, patch, True) for patch in PATCHES if patch != LARGEST]
PERSISTENT += [(cell, True, LARGEST, False) for cell in CELLS]


@pytest.mark.parametrize(("cell", "forward", "patch", "all_of_it"), PERSISTENT, ids=str)
def test_a_persistent_kernel(cell, forward, patch, all_of_it, tmp_path):
    kernel = persistent_kernel(cell, forward, "float32", all_of_it, all_of_it, stage_patch(cell, forward, patch))
    texts, cooperative = compiled(kernel, 2)
    assert cooperative  # all blocks are on the device at once, or the launch fails
    for capability, text in texts.items():
        assert_alone_and_precise(text, "float32")
        assert_other_blocks_are_waited_for(Flow(text))
        resources = assembled(text, capability, tmp_path)
        assert resources.spilled_bytes == resources.stack_bytes == 0
        assert resources.static_shared_bytes == 0  # there is none beside what the plan counts
        assert resources.registers <= REGISTERS_A_THREAD


def assert_alone_and_precise(text, dtype):
    """All functions are part of the kernel; no wider arithmetic than asked for, none of the approximate divisions."""
    assert text.count(".entry") == 1
    assert not re.search(r"^\s*call", text, re.MULTILINE)
    assert not re.search(r"ld\.local|st\.local", text)
    assert not re.search(r"div\.(approx|full)|sqrt\.approx|tanh\.approx", text)
    if dtype != "float64":
        assert not re.search(r"\.f64 ", text)


def assert_nothing_is_looked_up_between_stores(flow):
    """All words of the table are read before the first number is written, so that none waits for the one before."""
    words, stores = flow.numbers(r"ld\.global\.u64"), flow.numbers(r"st\.global")
    assert words
    assert stores
    for store in stores:
        assert not set(words) & flow.reachable(store, "nothing")


def assert_other_blocks_are_waited_for(flow):
    """In every order in which the instructions can run:

    numbers for other blocks are stored before the block's threads meet, and the arrival is told (release) after it;
    no such number is loaded between an arrival and the next meeting of the threads, which one thread comes to only
    after it has seen that all have arrived (acquire); and they are loaded past the first-level cache.
    """
    stores, loads = flow.numbers(r"st\.global\.cg"), flow.numbers(r"ld\.global\.cg")
    arrivals, polls = flow.numbers(r"red\.release\.gpu\.global\.add"), flow.numbers(r"ld\.acquire\.gpu\.global")
    assert stores
    assert loads
    assert arrivals
    assert polls
    meeting = r"bar(rier)?(\.cta)?\.(sync|red)"
    for store in stores:
        assert not set(arrivals) & flow.reachable(store, meeting)
    for arrival in arrivals:
        assert not set(loads) & flow.reachable(arrival, meeting)
        # the meeting is not reached but through a poll
        assert not set(flow.numbers(meeting)) & flow.reachable(arrival, r"ld\.acquire\.gpu")
    # a wait can be found to have been in vain, and then nothing is loaded any more
    assert flow.numbers(r"bar(rier)?(\.cta)?\.red")


def test_a_load_before_the_barrier_would_be_found():
    text = """
    .visible .entry k() {
        st.global.cg.b32 [%rd1], %r1;
        bar.sync 0;
        red.release.gpu.global.add.u64 [%rd2], 1;
    $L1:
        ld.acquire.gpu.global.u64 %rd3, [%rd2];
        @%p1 bra $L1;
        bar.red.or.pred %p2, 0, %p3;
        ld.global.cg.b32 %r2, [%rd1];
        ret;
    }
    """
    assert_other_blocks_are_waited_for(Flow(text))
    load = "ld.global.cg.b32 %r2, [%rd1];"
    early = text.replace(load, "").replace("$L1:", f"{load}\n$L1:")
    unpolled = text.replace("    $L1:", "    @%p4 bra $L2;\n    $L1:").replace("    bar.red", "    $L2:\n    bar.red")
    late_store = text.replace("bar.sync 0;", "")
    for wrong in (early, unpolled, late_store):
        with pytest.raises(AssertionError):
            assert_other_blocks_are_waited_for(Flow(wrong))
