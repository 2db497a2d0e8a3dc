"""What is measured on a GPU, in which order, and by whom."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from bench.cases import CELLS, MODES, Case

HIDDEN = (64, 128, 168, 256, 512, 768, 1024, 2048)
BATCHES = (1, 8, 16, 64, 256)
STEPS = 512
DTYPES = ("float32", "float16", "bfloat16")


class Contender(NamedTuple):
    """Who runs a case, and how. `path`: the backend of fastrnn's layer, None for PyTorch's."""

    label: str
    dtype: str
    path: str | None = None
    tf32: bool = False


CONTENDERS = {
    "plain-float32": Contender("fastrnn plain, float32", "float32", "plain"),
    "persistent-float32": Contender("fastrnn persistent, float32", "float32", "persistent"),
    "plain-float16": Contender("fastrnn plain, float16", "float16", "plain"),
    "plain-bfloat16": Contender("fastrnn plain, bfloat16", "bfloat16", "plain"),
    "cudnn-float32": Contender("cuDNN, float32", "float32"),
    "cudnn-tf32": Contender("cuDNN, float32 with TF32", "float32", tf32=True),
    "cudnn-float16": Contender("cuDNN, float16", "float16"),
    "cudnn-bfloat16": Contender("cuDNN, bfloat16", "bfloat16"),
}


def name(case: Case) -> str:
    """As `Case.id`, without what a case on a GPU does not have: a number of threads, and one dtype."""
    return f"{case.cell}-{case.mode}-{case.size}"


def grid(
    cells: Sequence[str] = CELLS,
    modes: Sequence[str] = MODES,
    hidden: Sequence[int] = HIDDEN,
    batches: Sequence[int] = BATCHES,
    steps: int = STEPS,
) -> list[Case]:
    """Every case once; every third size first, so that a run that is short of time has seen some of every kind."""
    sizes = list(itertools.product(hidden, batches))
    ordered = [size for first in range(3) for size in sizes[first::3]]
    return [Case(cell, mode, 1, steps, B, H, H) for H, B in ordered for cell in cells for mode in modes]
