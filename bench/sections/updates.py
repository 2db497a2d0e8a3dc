"""Weights that change before every call, as in a loop of training: the layer packs them anew each time."""

from __future__ import annotations

from collections.abc import Callable

from bench import timing
from bench.cases import CELL_TITLES, CELLS, MODES, Case, problem
from bench.checked import runner_of
from bench.competitors import Runner, as_in_training, fastrnn_call, fastrnn_layer
from bench.report import markdown_table
from bench.sections import Effort
from bench.targets import Reached
from bench.timing import Timing, difference

TITLE = "Weights that change"
SIZES = ((1, 1, 16, 16), (1, 1, 64, 64), (20, 4, 64, 64), (20, 16, 128, 128))
KEPT, CHANGED = "as they were", "changed before each call"


def measure(effort: Effort) -> list[dict]:
    return [
        _point(Case(cell, mode, 1, *size), effort.seconds)
        for cell in CELLS
        for mode in MODES
        for size in (SIZES[:1] if effort.quick else SIZES)
    ]


def _point(case: Case, seconds: float) -> dict:
    set_threads = runner_of(case).set_threads
    kept, changed = calls(case)
    runners = {KEPT: Runner(kept, dict, set_threads), CHANGED: Runner(changed, dict, set_threads)}
    timings = timing.measured(runners, seconds)
    return {"cell": case.cell, "mode": case.mode, "size": case.size, "timings": timings}


def calls(case: Case) -> tuple[Callable[[], tuple], Callable[[], tuple]]:
    """A call whose weights stay as they are, and one that first changes one of their numbers."""
    numbers = problem(case)
    kept, changed = (fastrnn_layer(numbers) for _ in range(2))
    call = fastrnn_call(changed, numbers, case.mode)
    return fastrnn_call(kept, numbers, case.mode), as_in_training(call, changed.parameters["weight_hh_l0"])


def targets(points: list[dict]) -> list[Reached]:
    return []


def report(points: list[dict]) -> str:
    rows = []
    for p in points:
        kept, changed = (Timing(**p["timings"][name]) for name in (KEPT, CHANGED))
        seconds = kept.median, changed.median, difference(changed, kept)
        rows.append((CELL_TITLES[p["cell"]], p["mode"], p["size"], *(f"{1e6 * s:.1f}" for s in seconds)))
    titles = ("cell", "mode", "size", f"{KEPT}, µs", f"{CHANGED}, µs", "more, µs")
    return (
        "One thread. A call compares checksums of the weights with those it packed last, and packs them again if they "
        "differ: forward once, in training for the backward pass too. One number is changed, in place.\n\n"
        + markdown_table(titles, rows, left=3)
    )
