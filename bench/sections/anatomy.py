"""What a forward step is made of: its products and its formula, each on its own, beside the machine's limits.

On one thread, in a compiled loop over the step's kernel (see `kernels/stage.py`): whole, and with products of depth 0,
which leaves the formula and what goes in and out of it. The rest is the products'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache

import numpy as np
from fastrnn.kernels import compiled
from fastrnn.kernels.planes import forward_planes
from fastrnn.kernels.stage import SCRATCH_BYTES
from fastrnn.kernels.target import vector_unit

from bench import timing
from bench.cases import CELL_TITLES, CELLS, Case, problem
from bench.checked import runner_of
from bench.competitors import Runner, fastrnn_layer
from bench.machine import multiply_add_peak, read_bandwidth
from bench.report import markdown_table
from bench.sections import Effort
from bench.targets import Reached
from bench.timing import Timing
from fastrnn.memory import address, empty
from fastrnn.planner import recipe_of

TITLE = "What a step is made of"
SIZES = ((16, 128), (32, 256), (64, 512), (128, 1024), (1, 128), (1, 256))  # B, H
QUICK_SIZES = ((4, 32), (1, 32))
STEP, FORMULA = "step", "formula"
TURNS = 20  # of one call of the compiled loop
PROSE = """\
Forward, float32, one thread, I = H; times are those of the best rounds, as the limits are. *Products*: the time
that the step takes beyond its formula, as multiply-adds a second and as a share of the peak measured with it.
*Reachable*: the share of the peak that the whole step would have if its products ran at the peak and its formula took
what it does. For B = 1 only R h is in the step (W x is made for many steps at once), and reading R is the limit: its
bytes in the products' time, beside the bandwidth measured for as many."""
LIMITS = """\
What limits a step:

- The formula is arithmetic that no product hides: an LSTM's unit takes five exponentials and five divisions, a GRU's
  three, an RNN's one, 20 to 30 vector instructions each, most of them multiply-adds too. Its
  share falls with H: the products grow with H², the formula with H.
- A tile ends and another begins every `depth` steps of its inner loop, which loads and stores the accumulators.
- Where W and R, 32 H² bytes of an LSTM and 24 H² of a GRU, outgrow the second-level cache, each step reads them from
  the third.
- For B = 1 the tile needs a new vector of R for each multiply-add; nothing is reused.

What was tried for it and gave nothing, and so was left out: formulas on vectors of twice the length, so that the
instructions of two take turns (faster on their own, not within a stage); a division by an approximation and Newton's
steps; finishing each tile at once where a step has two products; huge pages; asking for weights nearer than the
second-level cache, but for one or two rows with AVX2; packed blocks read in smaller parts; larger chunks of W x; for
the weight gradients, asking for the gates of the next part while a tile runs, and copying gates that are not turned;
with AVX2 also fewer rows at once, activations function by function, and polynomials in two or three chains, not one.
What gave something is what is built, and described under [Architecture](architecture.md)."""


@cache
def again() -> Callable:
    """A compiled function: (times, kernel, arguments) calls the kernel so often."""
    from fastrnn.kernels.calls import call
    from numba import njit

    @njit
    def loop(times, kernel, arguments):
        for _ in range(times):
            call(kernel, arguments)

    return loop


def measure(effort: Effort) -> list[dict]:
    sizes = QUICK_SIZES if effort.quick else SIZES
    return [_point(cell, B, H, effort.seconds) for cell in CELLS for B, H in sizes]


def _point(cell: str, B: int, H: int, seconds: float) -> dict:
    case = Case(cell, "forward", 1, 3, B, H, H)
    runner_of(case)  # what is wrong is not timed
    step = Step(case)
    loop = again()
    runners = {
        STEP: Runner(lambda: loop(TURNS, *step(True)), dict),
        FORMULA: Runner(lambda: loop(TURNS, *step(False)), dict),
    }
    timings = {name: asdict(timed.part(TURNS)) for name, timed in timing.measure(runners, seconds).items()}
    weights = 4 * step.multiply_adds // B
    limit = read_bandwidth(weights, 1, 0.01, 3) if B == 1 else multiply_add_peak("float32", 1, 0.01, 3)
    size = {"cell": cell, "B": B, "H": H, "flops": 2 * step.multiply_adds, "bytes": weights}
    return size | {"timings": timings, "limit": limit}


class Step:
    """The arguments of a case's first forward stage on arrays of its own; called: (kernel, arguments)."""

    def __init__(self, case: Case) -> None:
        layer = fastrnn_layer(problem(case))
        cpu = layer.sequences[0].kernels()
        self.cell, weights, B, H = cpu.cell, cpu.weights, case.B, case.H
        stage = self.cell.forward[0]
        self._packed = weights.current(weights.forward_layout)
        rng = np.random.default_rng(0)
        self.planes = {name: rng.uniform(-1, 1, (B, H)).astype("float32") for name in forward_planes(self.cell)}
        self._table = np.array([(address(plane), 4 * H) for plane in self.planes.values()], np.int64)
        self.operands = [rng.uniform(-1, 1, (B, H)).astype("float32") for _ in range(2)]
        self._scratch = empty((SCRATCH_BYTES,), np.dtype(np.uint8))
        self._within = B > 1
        self.multiply_adds = B * H * H * len(stage.gates) * (2 if self._within else 1)
        multiplied = len(stage.gates)
        formula = f"formula forward {self.cell.name} 0"
        self._recipe = np.array(recipe_of(formula, len(stage.begins), multiplied, np.dtype(np.float32)), np.int64)
        lanes = vector_unit().lanes(4)
        x, h = map(address, self.operands)
        of_x, of_h = (self._packed.address + offset for offset in weights.forward_layout.offsets[0][:2])

        def arguments(depth: int) -> tuple[int, ...]:
            x_depth = depth if self._within else 0
            groups = -(-H // lanes)
            where = (address(self._recipe), address(self._table), 0, B, H, 0, groups)
            return (*where, x, 4 * H, of_x, x_depth, h, 4 * H, of_h, depth, address(self._scratch))

        kernel = compiled.kernel("stage")
        self._calls = {True: (kernel, arguments(H)), False: (kernel, arguments(0))}

    def __call__(self, products: bool) -> tuple[int, tuple[int, ...]]:
        return self._calls[products]


def targets(points: list[dict]) -> list[Reached]:
    return []


def products(point: dict) -> float:
    """Seconds of a step's products."""
    return _best(point, STEP) - _best(point, FORMULA)


def _best(point: dict, name: str) -> float:
    return Timing(**point["timings"][name]).best


def report(points: list[dict]) -> str:
    many, one = [], []
    for p in points:
        step, formula = (_best(p, name) for name in (STEP, FORMULA))
        row = [CELL_TITLES[p["cell"]], p["B"], p["H"], f"{1e6 * step:.2f}", f"{formula / step:.0%}"]
        if p["B"] == 1:
            speed = p["bytes"] / products(p)
            one.append([*row, f"{1e-9 * speed:.0f}", f"{1e-9 * p['limit']:.0f}", f"{speed / p['limit']:.0%}"])
        else:
            speed, least = p["flops"] / products(p), p["flops"] / p["limit"]
            many.append([*row, f"{1e-9 * speed:.0f}", f"{speed / p['limit']:.0%}", f"{least / step:.0%}"])
            many[-1].append(f"{least / (least + formula):.0%}")
    begin = ("cell", "B", "H", "step, µs", "formula")
    return "\n\n".join(
        (
            PROSE,
            markdown_table((*begin, "products, GFLOP/s", "of peak", "step, of peak", "reachable"), many, left=1),
            markdown_table((*begin, "R, GB/s", "bandwidth, GB/s", "share"), one, left=1),
            LIMITS,
        )
    )
