"""float64 beside float32: half as many numbers fit a vector, so half the rate is what can be asked for."""

from __future__ import annotations

from dataclasses import replace

from bench import timing
from bench.cases import CELL_TITLES, CELLS, DTYPES, MODES, Case
from bench.checked import runner_of
from bench.report import markdown_table, milliseconds
from bench.sections import Effort
from bench.targets import Reached
from bench.timing import Timing, ratio

TITLE = "float64"
SIZES = ((100, 1, 256, 256), (100, 16, 128, 128), (100, 32, 256, 256))
QUICK_SIZES = ((10, 4, 16, 16),)
GOAL = 0.5


def measure(effort: Effort) -> list[dict]:
    points = []
    for cell in CELLS:
        for mode in MODES:
            for size in QUICK_SIZES if effort.quick else SIZES:
                case = Case(cell, mode, 1, *size)
                runners = {dtype: runner_of(replace(case, dtype=dtype)) for dtype in DTYPES}
                timings = timing.measured(runners, effort.seconds)
                points.append({"cell": cell, "mode": mode, "size": case.size, "timings": timings})
    return points


def rate(point: dict) -> float:
    """float64's rate as a share of float32's."""
    narrow, wide = (Timing(**point["timings"][dtype]) for dtype in DTYPES)
    return ratio(narrow, wide)


def targets(points: list[dict]) -> list[Reached]:
    values = [(f"{p['cell']} {p['mode']} {p['size']}", rate(p)) for p in points]
    return [Reached("float64 at half the float32 rate or better", GOAL, values)]


def report(points: list[dict]) -> str:
    rows = [
        (
            CELL_TITLES[p["cell"]],
            p["mode"],
            p["size"],
            *(milliseconds(p["timings"][dtype]["median"]) for dtype in DTYPES),
            f"{rate(p):.2f}",
        )
        for p in points
    ]
    titles = ("cell", "mode", "size", *(f"{dtype}, ms" for dtype in DTYPES), "rate, of float32's")
    return "Both dtypes in turn, one thread.\n\n" + markdown_table(titles, rows, left=3)
