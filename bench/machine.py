"""This machine: what it is, and what it can do at best, measured in the same run as everything else."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import llvmlite.binding
import numpy as np

from bench import limit_kernels
from bench.cases import Case
from bench.roofline import Limits
from fastrnn.host import cpu_name
from fastrnn.processor import processors

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("fastrnn", "numpy", "numba", "llvmlite", "torch", "onnxruntime", "jax", "jaxlib")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "FASTRNN_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "XLA_FLAGS",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)
BUSY = 0.25  # load average, as a share of the cores
WORKING_SETS = tuple(2**k * 1024 for k in range(4, 17))  # 16 KB to 64 MB for each thread


def describe() -> dict:
    """The parts of a results file that say where, with what and when it was measured (see bench.results)."""
    return {
        "machine": {
            "cpu": cpu_name(),
            "microarchitecture": llvmlite.binding.get_host_cpu_name(),
            "cores": processors(),
            "vector": limit_kernels.VECTOR_NAME,
            "vector_bits": 8 * limit_kernels.VECTOR_BYTES,
            "system": f"{platform.system()} {platform.machine()}",
            "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "software": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "source": {"commit": _git("rev-parse", "HEAD"), "modified": _modified()},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def busy(machine: dict) -> bool:
    """Whether so much else ran before the measurement that no time is reliable."""
    return machine["load_average"] is not None and machine["load_average"] > BUSY * machine["cores"]


def slug(machine: dict) -> str:
    """A file name for results of this kind of machine: processor, microarchitecture, vector set and cores."""
    text = f"{machine['cpu']} {machine['microarchitecture']} {machine['vector'].replace('-', '')} {machine['cores']}c"
    return words(text)


def words(text: str) -> str:
    """A text as a part of a file name."""
    parts = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return "-".join(part for part in parts if part not in ("r", "tm", "cpu", "processor"))


def measure_limits(
    dtypes: Sequence[str],
    threads: Sequence[int],
    working_sets: Sequence[int] = WORKING_SETS,
    seconds: float = 0.03,
    samples: int = 5,
) -> Limits:
    """Multiply-add peak and read bandwidth at each thread count: the best of `samples` of at least `seconds` each."""
    return Limits(
        multiply_add={dtype: {n: multiply_add_peak(dtype, n, seconds, samples) for n in threads} for dtype in dtypes},
        bandwidth={n: [(size, read_bandwidth(size, n, seconds, samples)) for size in working_sets] for n in threads},
    )


def raise_limits(limits: Limits, case: Case, seconds: float = 0.03, samples: int = 2) -> Limits:
    """The same, or what a case is held against as measured now where that is more: a limit is the most ever seen."""
    n = case.threads
    peaks = limits.multiply_add[case.dtype]
    raised = peaks | {n: max(peaks[n], multiply_add_peak(case.dtype, n, seconds, samples))}
    sizes = limits.sizes_around(case)
    curve = [
        (size, max(rate, read_bandwidth(size, n, seconds, samples)) if size in sizes else rate)
        for size, rate in limits.bandwidth[n]
    ]
    return Limits(limits.multiply_add | {case.dtype: raised}, limits.bandwidth | {n: curve})


def multiply_add_peak(dtype: str, threads: int, seconds: float, samples: int) -> float:
    """FLOP/s of all threads together, with every operand in a register."""
    kernel = limit_kernels.multiply_add_kernel(dtype)
    vectors = limit_kernels.CHAINS + 2
    # x -> 0.5 x + 0.5 stays at 1: no overflow, no subnormal numbers that would slow it down
    buffers = [_aligned(vectors * limit_kernels.lanes(dtype), dtype) for _ in range(threads)]
    for buffer in buffers:
        buffer[:] = 1.0
        buffer[-2 * limit_kernels.lanes(dtype) :] = 0.5
    flops = 2 * limit_kernels.CHAINS * limit_kernels.lanes(dtype)
    return flops * _best_rate(lambda i, turns: kernel(buffers[i], turns), threads, seconds, samples)


def read_bandwidth(size: int, threads: int, seconds: float, samples: int) -> float:
    """Bytes per second that all threads read together, each over and over through `size` bytes of its own."""
    kernel = limit_kernels.reading_kernel()
    turn = limit_kernels.READS * limit_kernels.lanes("float32")  # numbers in one turn of the loop
    count = max(1, size // (4 * turn)) * turn
    numbers = [_aligned(count, "float32") for _ in range(threads)]
    sums = [_aligned(turn, "float32") for _ in range(threads)]
    return 4 * count * _best_rate(lambda i, times: kernel(numbers[i], sums[i], times), threads, seconds, samples)


def _aligned(count: int, dtype: str) -> np.ndarray:
    """Zeros that begin on a cache line, so that no vector crosses two."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(count * size + 64, np.uint8)
    raw.fill(0)  # touch every page: untouched zeros all share one
    start = -raw.ctypes.data % 64
    return raw[start : start + count * size].view(dtype)


def _best_rate(work: Callable[[int, int], None], threads: int, seconds: float, samples: int) -> float:
    """Turns per second of `work(thread, turns)` over all threads, the best of `samples`."""
    turns = 1
    elapsed = _together(work, threads, turns)  # compiles
    elapsed = _together(work, threads, turns)
    while elapsed < seconds:
        turns = max(2 * turns, int(turns * min(100.0, 1.1 * seconds / elapsed)))
        elapsed = _together(work, threads, turns)
    return threads * turns / min(elapsed, *(_together(work, threads, turns) for _ in range(samples - 1)))


def _together(work: Callable[[int, int], None], threads: int, turns: int) -> float:
    """Seconds from the first thread's start to the last one's end."""
    barrier = threading.Barrier(threads)
    starts, ends = [0.0] * threads, [0.0] * threads

    def run(i):
        barrier.wait()
        starts[i] = time.perf_counter()
        work(i, turns)
        ends[i] = time.perf_counter()

    others = [threading.Thread(target=run, args=(i,)) for i in range(1, threads)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    return max(ends) - min(starts)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of a git command in this repository; None where there is no git or no commit."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _modified() -> bool | None:
    """Whether the code that is timed, or that times it, differs from the commit."""
    status = _git("status", "--porcelain", "--", "fastrnn", "kernels", "bench", ":!bench/results")
    return None if status is None else bool(status)
