"""Seconds by CUDA events."""

from __future__ import annotations

from collections.abc import Callable


def sample(call: Callable[[], object], repetitions: int) -> float:
    """Seconds of the GPU for one call, averaged over `repetitions` in a row."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repetitions):
        call()
    end.record()
    end.synchronize()
    return 1e-3 * begin.elapsed_time(end) / repetitions


def settle() -> None:
    """Wait for whatever ran before."""
    import torch

    torch.cuda.synchronize()
