"""What a process pays at its start: the import, and the first calls with kernels on disk and without."""

from __future__ import annotations

import statistics
import tempfile
from importlib.util import find_spec

from bench import fresh
from bench.cases import CELL_TITLES, CELLS
from bench.report import markdown_table
from bench.sections import Effort
from bench.targets import Reached

TITLE = "Start-up"
IMPORTS, COLD, WARM = 7, 3, 2
H = 64
WITH_SCIPY = "kernels, and SciPy"
IMPORT_GOAL = 0.15
GOALS = {"nothing": {"forward": 6.0, "backward": 10.0}, "kernels": {"forward": 0.3, "backward": 0.3}}


def measure(effort: Effort) -> list[dict]:
    imports, cold, warm = (1, 1, 1) if effort.quick else (IMPORTS, COLD, WARM)
    fresh.measure("import")  # Python's own caches
    found = [fresh.measure("import") for _ in range(imports)]
    points = [{"what": "import", "seconds": _medians(found)}]
    for cell in CELLS[:1] if effort.quick else CELLS:
        for disk, seconds in _first_calls(cell, cold, warm).items():
            points.append({"what": "first calls", "cell": cell, "disk": disk, "seconds": _medians(seconds)})
    return points


def _first_calls(cell: str, cold: int, warm: int) -> dict[str, list[dict[str, float]]]:
    """What processes measured, by what they found on disk: `cold` caches, each filled once and used `warm` times."""
    found: dict[str, list[dict[str, float]]] = {}

    def run(disk: str, scipy: str, folder: str) -> None:
        seconds = fresh.measure("first", cell, H, scipy, environment={"NUMBA_CACHE_DIR": folder})
        found.setdefault(disk, []).append(seconds)

    for _ in range(cold):
        with tempfile.TemporaryDirectory() as folder:
            run("nothing", "hidden", folder)
            for _ in range(warm):
                run("kernels", "hidden", folder)
                if find_spec("scipy"):
                    run(WITH_SCIPY, "there", folder)
    return found


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def targets(points: list[dict]) -> list[Reached]:
    imports = [("import fastrnn", p["seconds"]["fastrnn"]) for p in points if p["what"] == "import"]
    text = f"`import fastrnn` adds at most {IMPORT_GOAL} s to `import numba`"
    found = [Reached(text, IMPORT_GOAL, imports, at_least=False)]
    for disk, goals in GOALS.items():
        for mode, goal in goals.items():
            values = [
                (f"{p['cell']} {mode}", p["seconds"][mode])
                for p in points
                if p["what"] == "first calls" and p["disk"] == disk
            ]
            text = f"first {mode} pass with {disk} on disk in at most {goal:g} s"
            found.append(Reached(text, goal, values, at_least=False))
    return found


def report(points: list[dict]) -> str:
    (imports,) = (p["seconds"] for p in points if p["what"] == "import")
    rows = [
        (CELL_TITLES[p["cell"]], p["disk"], f"{p['seconds']['forward']:.2f}", f"{p['seconds']['backward']:.2f}")
        for p in points
        if p["what"] == "first calls"
    ]
    return (
        f"Fresh processes, medians. `import numba` takes {imports['numba']:.2f} s, `import fastrnn` after it "
        f"{imports['fastrnn']:.3f} s. *Forward* is the first call of a layer of {H} units, and imports what the "
        "kernels need; *backward* is the first `vjp` and its `backward` after that. With nothing on disk they "
        "compile. Numba imports SciPy where it is installed, which fastrnn does not need: rows without it are as if it "
        "were not.\n\n" + markdown_table(("cell", "on disk", "forward, s", "backward, s"), rows, left=2)
    )
