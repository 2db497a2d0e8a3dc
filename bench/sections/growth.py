"""How time grows with steps, rows and units, and what sizes cost that do not fill vectors or tiles; one thread.

Work is counted as in `Case.flops`: T · B · G · H · (I + H) multiply-adds, with I = H.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bench import timing
from bench.cases import CELL_TITLES, CELLS, MODES, Case
from bench.checked import runner_of
from bench.report import markdown_table, milliseconds
from bench.sections import Effort
from bench.targets import Reached
from bench.timing import Timing, ratio

TITLE = "Growth"
GOAL = 1.3
SAME = 1.1


@dataclass(frozen=True)
class Series:
    """Sizes (T, B, H) that are timed interleaved; each is compared with the size that `against` names, or the first."""

    name: str
    sizes: tuple[tuple[int, int, int], ...]
    against: tuple[int, ...]  # for each size the index of the one that it is compared with

    def pairs(self):
        return zip(self.sizes, self.against, strict=True)


def _series(quick: bool) -> list[Series]:
    if quick:
        return [Series("steps", ((10, 1, 8), (20, 1, 8)), (0, 0)), Series("units", ((5, 1, 16), (5, 1, 17)), (0, 0))]
    steps = tuple((T, 1, 8) for T in (1_000, 10_000, 100_000, 1_000_000))
    rows = tuple((16, B, 64) for B in (64, 128, 256, 512, 1024, 2048, 4096))
    series = [Series("steps", steps, (0,) * len(steps)), Series("rows", rows, (0,) * len(rows))]
    few = tuple((100, B, 64) for B in (4, 1, 2, 3))
    series.append(Series("few rows", few, (0,) * len(few)))
    for B in (1, 2, 3):
        small = tuple((100, B, H) for H in (16, 1, 2, 3, 5, 8, 11, 13, 15))
        series.append(Series("few units", small, (0,) * len(small)))
    for B in (1, 16):
        odd = tuple((100, B, H) for H in (16, 17, 96, 100, 256, 257))
        series.append(Series("odd units", odd, (0, 0, 2, 2, 4, 4)))
    return series


def measure(effort: Effort) -> list[dict]:
    points = []
    for series in _series(effort.quick):
        for cell in CELLS:
            for mode in MODES:
                cases = [Case(cell, mode, 1, T, B, H, H) for T, B, H in series.sizes]
                timings = timing.measure({case.size: runner_of(case) for case in cases}, effort.seconds)
                for case, (_, base) in zip(cases, series.pairs(), strict=True):
                    points.append(_point(series.name, case, cases[base], timings))
    return points


def _point(series: str, case: Case, base: Case, timings: dict[str, Timing]) -> dict:
    return {
        "series": series,
        "cell": case.cell,
        "mode": case.mode,
        "size": case.size,
        "against": base.size,
        "work": case.flops / base.flops,
        "timing": asdict(timings[case.size]),
        "base": asdict(timings[base.size]),
    }


def times(point: dict) -> float:
    """Its time over that of the size it is compared with."""
    return ratio(Timing(**point["timing"]), Timing(**point["base"]))


def per_work(point: dict) -> float:
    """Its time for a unit of work, over that of the size it is compared with."""
    return times(point) / point["work"]


TEXTS = {
    "steps": "time linear in T, to a million steps: at most {} times the first size's for each step",
    "rows": "time linear in B, to 4096 rows: at most {} times the first size's for each row",
    "few rows": "B = 1 to 3: at most {} times the time of B = 4 for each row",
    "few units": "H = 1 to 15: at most {} times the time of H = 16 for a unit of work",
    "odd units": "H = 17, 100, 257: at most {} times the round size's time for a unit of work",
}


def targets(points: list[dict]) -> list[Reached]:
    compared = [p for p in points if p["size"] != p["against"]]
    found = []
    for series, text in TEXTS.items():
        values = [(f"{p['cell']} {p['mode']} {p['size']}", per_work(p)) for p in compared if p["series"] == series]
        if values:
            found.append(Reached(text.format(GOAL), GOAL, values, at_least=False))
    small = [(f"{p['cell']} {p['mode']} {p['size']}", times(p)) for p in compared if p["series"] == "few units"]
    if small:
        text = f"H = 1 to 15: at most {SAME} times the time of H = 16, whose vectors they share"
        found.append(Reached(text, SAME, small, at_least=False))
    return found


def report(points: list[dict]) -> str:
    parts = [
        "One thread, I = H. *Times* is the time over that of the size it is compared with, *for each unit of work* the "
        "same divided by the ratio of their multiply-adds. Vectors hold whole numbers of units: a layer of one unit "
        "computes as many as fill one, so below a vector's width the time, not the time for each unit, can stay the "
        "same. Larger cases than 256 steps or rows are compared with the reference at that size."
    ]
    for series in dict.fromkeys(p["series"] for p in points):
        rows = [
            (
                CELL_TITLES[p["cell"]],
                p["mode"],
                p["size"],
                milliseconds(p["timing"]["median"]),
                p["against"],
                f"{times(p):.2f}",
                f"{per_work(p):.2f}",
            )
            for p in points
            if p["series"] == series
        ]
        titles = ("cell", "mode", "size", "ms", "compared with", "times", "for each unit of work")
        parts += [f"#### {series.capitalize()}", markdown_table(titles, rows, left=3)]
    return "\n\n".join(parts)
