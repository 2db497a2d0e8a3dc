"""What `python -m bench.gpu` runs: names and sizes only, so that any machine can print the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from bench.cases import CELLS, GATES, MODES

T = 512
HIDDEN = (64, 128, 168, 256, 512, 768, 1024, 2048)
BATCHES = (1, 8, 16, 64, 256)
DTYPES = ("float32", "float64", "float16", "bfloat16")
PATHS = ("plain", "persistent")

# relative norm of the difference from the float64 reference
BOUNDS = {"float32": 2e-5, "float64": 1e-12, "float16": 2e-2, "bfloat16": 2e-2}
STRESS_STEPS = 100_000

OURS, CUDNN = "fastrnn", "cuDNN"
NAMES = {
    "plain float32": (OURS, "plain", "float32"),
    "persistent float32": (OURS, "persistent", "float32"),
    "plain float16": (OURS, "plain", "float16"),
    "plain bfloat16": (OURS, "plain", "bfloat16"),
    "cuDNN float32": (CUDNN, "", "float32"),
    "cuDNN TF32": (CUDNN, "TF32", "float32"),
    "cuDNN float16": (CUDNN, "", "float16"),
    "cuDNN bfloat16": (CUDNN, "", "bfloat16"),
}
"""Who is timed: whose, in which way, in which numbers."""

FLOORS = ("barrier", "bytes", "FLOPs of float32, TF32, float16 and bfloat16")


@dataclass(frozen=True)
class Point:
    """One layer with as many inputs as hidden units, over T steps."""

    cell: str
    mode: str
    B: int
    H: int
    T: int = T

    @property
    def id(self) -> str:
        return f"{self.cell}-{self.mode}-T{self.T}-B{self.B}-H{self.H}"

    @property
    def flops(self) -> int:
        """Of the matrix products; a training pass counts as three forward passes."""
        return (1 if self.mode == "forward" else 3) * 4 * self.T * self.B * GATES[self.cell] * self.H**2

    @property
    def numbers(self) -> int:
        """Numbers that must go to or from memory if all else stays on the chip: x, y and the weights once; in training
        also x, y and dy for the way back, dx, the weights again and their gradients.
        """
        sequence, weights = self.T * self.B * self.H, 2 * GATES[self.cell] * self.H**2
        return 2 * sequence + weights if self.mode == "forward" else 6 * sequence + 3 * weights


def grid(cells: Sequence[str] = CELLS) -> list[Point]:
    """All points; every third size first, so that a run that is short of time has seen some of every kind."""
    sizes = list(product(HIDDEN, BATCHES))
    ordered = [size for first in range(3) for size in sizes[first::3]]
    return [Point(cell, mode, B, H) for H, B in ordered for cell in cells for mode in MODES]


def device_tests(cells: Sequence[str] = CELLS) -> list[str]:
    """The device tests, as `gpu_tests.run` takes them."""
    names = [
        f"parity {cell} {path} {dtype}"
        for path, dtype, cell in product(PATHS, DTYPES, cells)
        if path == "plain" or dtype == "float32"
    ]
    names += [f"{kind} {cell} {path}" for kind in ("streams", "memory") for path in PATHS for cell in cells[:1]]
    return names + [f"stress {cell} persistent" for cell in cells]


def least_seconds(point: Point, name: str, floors: dict, meetings: int) -> float:
    """Whichever takes longest: the products at the measured rate, the numbers at the measured bandwidth, and on the
    persistent path so many barriers a step.
    """
    _, way, dtype = NAMES[name]
    itemsize = {"float32": 4, "float16": 2, "bfloat16": 2}[dtype]
    limits = [
        point.flops / floors["flops"][way if way == "TF32" else dtype],
        itemsize * point.numbers / floors["bytes"],
    ]
    if way == "persistent" and floors["barrier"]:
        limits.append(point.T * meetings * floors["barrier"])
    return max(limits)
