"""Peak memory of a forward and of a training call, each in a fresh process, beside PyTorch's. Linux only.

Peaks are counted beyond the process before the call and beyond the arrays that it returns. What is held for each step
is the difference between T and 2 T steps: packed weights, scratch and libraries are in both.
"""

from __future__ import annotations

import sys

from fastrnn.kernels.cells import CELLS as KERNEL_CELLS

from bench import fresh
from bench.cases import CELL_TITLES, CELLS, FORMULAS, MODES, Case
from bench.competitors import LABELS, OURS, absent_competitors
from bench.report import MISSING, markdown_table
from bench.sections import Effort
from bench.targets import Reached

TITLE = "Memory"
SIZE, QUICK_SIZE = (500, 16, 128, 128), (20, 4, 16, 16)
ROOM = 1.05  # what pages and allocators add
FORWARD_VALUES = 0.1
VALUE = 4  # bytes


def promised(cell: str, mode: str) -> int:
    """How many values for each step, row and unit a call may hold: in training gates and cell states."""
    formula = KERNEL_CELLS[FORMULAS[cell]]
    return len(formula.saved) + int(formula.has_cell_state) if mode == "training" else 0


def measure(effort: Effort) -> list[dict]:
    if sys.platform != "linux":
        return []
    T, B, I, H = QUICK_SIZE if effort.quick else SIZE
    names = [name for name in (OURS, "torch") if name not in absent_competitors()]
    points = []
    for cell in CELLS:
        for mode in MODES:
            found = {}
            for name in names:
                once, twice = (_peak(name, cell, mode, steps, B, I, H) for steps in (T, 2 * T))
                found[name] = {"peak": twice, "values": (twice - once) / (T * B * H * VALUE)}
            size = Case(cell, mode, 1, 2 * T, B, I, H).size
            points.append({"cell": cell, "mode": mode, "size": size, "memory": found})
    return points


def _peak(competitor: str, cell: str, mode: str, *sizes: int) -> int:
    return fresh.measure("memory", competitor, cell, mode, *sizes, environment=fresh.GIVEN_BACK)["peak"]


def targets(points: list[dict]) -> list[Reached]:
    training = [
        (f"{p['cell']} {p['size']}", p["memory"][OURS]["values"] / promised(p["cell"], "training"))
        for p in points
        if p["mode"] == "training"
    ]
    forward = [(f"{p['cell']} {p['size']}", p["memory"][OURS]["values"]) for p in points if p["mode"] == "forward"]
    return [
        Reached(f"training holds at most {ROOM} times the gates and cell states", ROOM, training, at_least=False),
        Reached(
            f"forward holds nothing for each step (less than {FORWARD_VALUES} values)",
            FORWARD_VALUES,
            forward,
            at_least=False,
        ),
    ]


def _shown(found: dict[str, float] | None) -> list[str]:
    """Values for each step and the peak; pages that a call gives back can make either a little less than nothing."""
    if found is None:
        return [MISSING, MISSING]
    return [f"{max(0, found['values']):.2f}", f"{max(0, found['peak']) / 2**20:.1f}"]


def report(points: list[dict]) -> str:
    if not points:
        return "Not measured: the system does not tell."
    rows = []
    for p in points:
        row = [CELL_TITLES[p["cell"]], p["mode"], p["size"], promised(p["cell"], p["mode"])]
        for name in (OURS, "torch"):
            row += _shown(p["memory"].get(name))
        rows.append(row)
    titles = [f"{LABELS[name]}, {what}" for name in (OURS, "torch") for what in ("values", "peak, MiB")]
    return (
        "Peaks of one call in a fresh process, one thread, beyond the process before it and the arrays that it "
        "returns; *values* are float32 numbers held for each step, row and unit, from the peaks of T and 2 T steps; "
        "*promised* are gates and cell states, kept for the backward pass.\n\n"
        + markdown_table(("cell", "mode", "size", "promised, values", *titles), rows, left=3)
    )
