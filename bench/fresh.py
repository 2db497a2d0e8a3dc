"""What only a fresh process can show, measured in one: `python -m bench.fresh KIND ARGUMENT ...` prints it as JSON.

Nothing of the bench but this file is imported there before the clock runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# of glibc, which otherwise raises both thresholds as a process goes on, and keeps freed memory for the next arrays
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure(kind: str, *arguments: object, environment: dict[str, str] | None = None) -> dict:
    """Run one of MEASUREMENTS in a fresh process and return what it found."""
    command = [sys.executable, "-m", "bench.fresh", kind, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | (environment or {}), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def importing() -> dict:
    """Seconds of `import numba`, and of `import fastrnn` after it."""
    start = time.perf_counter()
    import numba  # noqa: F401

    between = time.perf_counter()
    import fastrnn  # noqa: F401

    return {"numba": between - start, "fastrnn": time.perf_counter() - between}


def first_calls(cell: str, size: str, scipy: str) -> dict:
    """Seconds of the first forward pass of a layer, and then of its first training pass.

    Numba imports SciPy where it is installed, before it compiles or loads anything; scipy "hidden": as if it were not.
    """
    if scipy == "hidden":
        sys.modules["scipy"] = None  # type: ignore[assignment]
    import numba  # noqa: F401
    import numpy as np

    import fastrnn

    layer = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU, "rnn": fastrnn.RNN}[cell](int(size), int(size), seed=0)
    x = np.ones((2, 2, int(size)), "float32")
    start = time.perf_counter()
    y, _ = layer(x)
    between = time.perf_counter()
    _, backward = layer.vjp(x)
    backward(y)
    return {"forward": between - start, "backward": time.perf_counter() - between}


def peak_memory(competitor: str, cell: str, mode: str, *sizes: str) -> dict:
    """The most memory that one call holds beyond the process before it and the arrays it returns, in bytes.

    Another layer is called first on a short sequence, so that kernels, thread pools and libraries are there already.
    Run it with GIVEN_BACK: memory that the process has freed but kept would hide as much of what the call takes.
    """
    from bench.cases import Case, problem
    from bench.competitors import COMPETITORS

    T, B, I, H = map(int, sizes)
    prepare = COMPETITORS[competitor]

    def runner(steps):
        made = prepare(problem(Case(cell, mode, 1, steps, B, I, H)), mode, 1)
        made.set_threads()
        return made

    small = runner(2)
    small.call()
    large = runner(T)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    result = large.call()
    peak = _status("VmHWM")
    returned = sum(array.nbytes for array in large.outputs(result).values())
    return {"peak": peak - before - returned, "returned": returned}


def _status(name: str) -> int:
    """A size from /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status: no {name}")


MEASUREMENTS = {"import": importing, "first": first_calls, "memory": peak_memory}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](*sys.argv[2:])))
