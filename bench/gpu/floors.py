"""What the GPU can do at best, measured in the same run: products, memory, launches, and the barrier of all blocks."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from fastrnn.kernels.cuda.plan import DeviceLimits, best_plan
from fastrnn.kernels.cuda.planes import ITEMSIZE
from fastrnn.kernels.cuda.planes import passes as cell_passes

from bench.cases import FORMULAS, GATES, Case
from bench.gpu import clock
from bench.gpu.contenders import use_tf32
from bench.gpu.grid import DTYPES

_SAMPLES = 5
_SIDE = 8192  # of the square matrices
_COPIED = 1 << 28  # bytes
_LAUNCHES = 1000
_MEETINGS = 10_000


def measure() -> dict[str, Any]:
    """As "limits" in the results file."""
    from fastrnn.kernels.cuda.launch import device_limits

    device = device_limits()
    counts = sorted({min(n, device.multiprocessors) for n in (2, 16, 64, device.multiprocessors)})
    return {
        "device": asdict(device),
        "multiply_add": {dtype: _products(dtype) for dtype in (*DTYPES, "tf32")},
        "bandwidth": _bandwidth(),
        "launch": _launch(),
        "barrier": {blocks: _barrier(blocks) for blocks in counts},
    }


def least_seconds(case: Case, dtype: str, path: str | None, limits: dict[str, Any]) -> float:
    """The longest of: the products, the memory that must be read and written once, and for the paths of fastrnn what a
    step cannot do without, two launches or the barriers.
    """
    passes = 1 if case.mode == "forward" else 3
    weights = GATES[case.cell] * case.H * (case.I + case.H)
    numbers = case.T * case.B * (case.I + case.H) + weights
    at_least = [
        case.flops / limits["multiply_add"][dtype],
        passes * numbers * ITEMSIZE["float32" if dtype == "tf32" else dtype] / limits["bandwidth"],
    ]
    if path == "plain":
        at_least.append(2 * case.T * (1 if case.mode == "forward" else 2) * limits["launch"])
    elif path == "persistent":
        at_least.append(barriers(case, DeviceLimits(**limits["device"])) * min(limits["barrier"].values()))
    return max(at_least)


def barriers(case: Case, device: DeviceLimits) -> int:
    """How many the persistent path meets at, by its plan; one block needs none."""
    found = 0
    for run in cell_passes(FORMULAS[case.cell])[: 1 if case.mode == "forward" else 2]:
        plan = best_plan(run, case.H, case.H, case.B, device)
        if plan is not None and plan.blocks > 1:
            found += case.T * len(run.stages)
    return found


def _best(call: Any, repetitions: int = 1) -> float:
    call()
    clock.settle()
    return min(clock.sample(call, repetitions) for _ in range(_SAMPLES))


def _products(dtype: str) -> float:
    """FLOP/s of a large square product."""
    import torch

    use_tf32(dtype == "tf32")
    stored = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda").to(stored) for _ in range(2))
    out = torch.empty_like(a)
    seconds = _best(lambda: torch.mm(a, b, out=out))
    use_tf32(False)
    return 2 * _SIDE**3 / seconds


def _bandwidth() -> float:
    """Bytes read and written in a second by a copy."""
    import torch

    source = torch.zeros(_COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPIED / _best(lambda: target.copy_(source), 4)


def _launch() -> float:
    """Seconds from one of the smallest kernels of a replayed graph to the next."""
    import torch

    number = torch.zeros(1, device="cuda")
    number.add_(1)
    clock.settle()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_LAUNCHES):
            number.add_(1)
    return _best(graph.replay) / _LAUNCHES


def _barrier(blocks: int) -> float:
    """Seconds of one meeting of so many blocks of the persistent kernels, that do nothing else."""
    import torch
    from fastrnn.kernels.cuda import geometry, launch

    from fastrnn.cuda.persistent import PATIENCE

    words = np.zeros(geometry.FIRST_STAGE, np.int64)
    meeting = torch.zeros(2, dtype=torch.int64, device="cuda")  # the counter and the status
    words[geometry.STEPS], words[geometry.BLOCKS], words[geometry.PATIENCE] = _MEETINGS, blocks, PATIENCE
    words[geometry.COUNTER], words[geometry.STATUS] = meeting.data_ptr(), meeting.data_ptr() + 8
    on_device = torch.from_numpy(words).to("cuda")

    def run() -> None:
        meeting.zero_()
        stream = torch.cuda.current_stream().cuda_stream
        launch.launch(meeting_kernel(), blocks, 256, stream, (on_device.data_ptr(),))

    seconds = _best(run) / _MEETINGS
    if int(meeting[1]):
        raise RuntimeError(f"{blocks} blocks did not meet within {PATIENCE} polls")
    return seconds


@cache
def meeting_kernel() -> Any:
    """meet(geometry): as many barriers as the geometry has steps."""
    from fastrnn.kernels.cuda.geometry import STEPS
    from fastrnn.kernels.cuda.persistent import wait
    from fastrnn.kernels.cuda.planes import WORD
    from fastrnn.kernels.cuda.target import kernel, load_word

    @kernel(launch_bounds=256)
    def meet(geometry):
        for step in range(load_word(geometry + STEPS * WORD)):
            if wait(geometry, step + 1):
                return

    return meet
