"""The least that anything takes on a GPU: meeting at the barrier, moving bytes, multiplying."""

from __future__ import annotations

import numpy as np
from fastrnn.kernels.cuda import geometry
from fastrnn.kernels.cuda.launch import device_limits, launch
from fastrnn.kernels.cuda.persistent import wait
from fastrnn.kernels.cuda.planes import WORD
from fastrnn.kernels.cuda.target import kernel, load_word

from bench.gpu_speed import precision, seconds
from fastrnn.cuda.arrays import Arrays
from fastrnn.cuda.kinds import library
from fastrnn.cuda.persistent import PATIENCE

MEETINGS = 20_000
THREADS = 256
COPIED = 1 << 30  # bytes, more than any cache
SIDE = 8192  # of the matrices multiplied


@kernel(launch_bounds=THREADS)
def meet(words):
    """A persistent kernel without any work: its blocks only meet."""
    for step in range(load_word(words + geometry.STEPS * WORD)):
        if wait(words, step + 1):
            return


def measure() -> dict:
    """All floors, as in the results file."""
    return {
        "barrier": barrier(library("torch"), device_limits().multiprocessors),
        "bytes": bandwidth(),
        "flops": {
            "TF32": flop_rate("float32", tf32=True),
            **{dtype: flop_rate(dtype, tf32=False) for dtype in ("float32", "float16", "bfloat16")},
        },
    }


def barrier(arrays: Arrays, blocks: int) -> float | None:
    """Seconds of one meeting of as many blocks; None if they did not meet."""
    meeting = arrays.zeros((2,), "int64")
    words = np.zeros(geometry.FIRST_STAGE, np.int64)
    words[geometry.STEPS], words[geometry.BLOCKS], words[geometry.PATIENCE] = MEETINGS, blocks, PATIENCE
    words[geometry.COUNTER] = arrays.address(meeting)
    words[geometry.STATUS] = arrays.address(meeting) + 8
    on_device = arrays.from_host(words)

    def run() -> None:
        meeting[...] = 0
        launch(meet, blocks, THREADS, arrays.stream(), (arrays.address(on_device),))

    each = seconds(run) / MEETINGS
    return None if arrays.to_host(meeting)[1] else each


def bandwidth() -> float:
    """Bytes a second, read and written, of a large copy."""
    import torch

    source = torch.zeros(COPIED // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPIED / seconds(lambda: target.copy_(source))


def flop_rate(dtype: str, tf32: bool) -> float:
    """Of cuBLAS's product of two large square matrices."""
    import torch

    a = torch.randn(SIDE, SIDE, device="cuda").to(getattr(torch, dtype))
    b, out = a.T.contiguous(), torch.empty_like(a)
    precision(tf32)
    return 2 * SIDE**3 / seconds(lambda: torch.mm(a, b, out=out))
