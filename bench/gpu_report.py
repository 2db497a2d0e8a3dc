"""Writes the measured part of docs/gpu.md from a results file of `python -m bench.gpu`."""

from __future__ import annotations

import json
from pathlib import Path

from fastrnn.kernels.cuda.planes import passes

from bench.comparison import geometric_mean
from bench.gpu_cases import NAMES, Point, least_seconds
from bench.machine import ROOT
from bench.report import MISSING, insert_block, markdown_table, milliseconds, times

BEGIN, END = "<!-- bench-gpu:begin -->", "<!-- bench-gpu:end -->"
NOT_MEASURED = "Not yet run on a GPU."
_CELLS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}


def load(path: Path) -> dict:
    """Read a results file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_page(results: dict, root: Path = ROOT) -> Path:
    """Put the block into docs/gpu.md. ValueError if the page has no markers for it."""
    page = root / "docs" / "gpu.md"
    text = insert_block(page.read_text(encoding="utf-8"), block(results), BEGIN, END)
    if text is None:
        raise ValueError(f"{page}: expected the markers {BEGIN} and {END}")
    page.write_text(text, encoding="utf-8")
    return page


def block(results: dict | None) -> str:
    """Tests, floors, times and where they are from; None: there are no results."""
    if results is None:
        return NOT_MEASURED
    parts = [tests(results["tests"])]
    if results["floors"]:
        parts += ["### Floors", floors_table(results["floors"])]
    if results["points"]:
        parts += ["### Times", summary(results["points"]), points_table(results["points"], results["floors"])]
    if results["skipped"]:
        parts.append(f"No time was left for {len(results['skipped'])}: {', '.join(results['skipped'])}.")
    return "\n\n".join([*parts, provenance(results)])


def tests(found: list[dict]) -> str:
    rows = [
        (t["name"], MISSING if t["error"] is None else f"{t['error']:.1e}", t["failure"] or "passed") for t in found
    ]
    return "### Tests\n\n" + markdown_table(("test", "largest relative error", "result"), rows)


def floors_table(floors: dict) -> str:
    barrier = MISSING if floors["barrier"] is None else f"{1e6 * floors['barrier']:.2f} µs"
    rows = [("a barrier of all multiprocessors", barrier), ("bytes", f"{floors['bytes'] / 1e9:.0f} GB/s")]
    rows += [(f"products, {name}", f"{rate / 1e12:.1f} TFLOP/s") for name, rate in floors["flops"].items()]
    return markdown_table(("floor", "measured"), rows)


def summary(points: list[dict]) -> str:
    """The faster of both paths against cuDNN, in each type."""
    rows = []
    for mode in ("forward", "training"):
        for dtype in ("float32", "float16", "bfloat16"):
            ratios = [r for p in points if p["mode"] == mode and (r := faster(p, dtype)) is not None]
            if ratios:
                rows.append((mode, dtype, len(ratios), times(geometric_mean(ratios)), times(min(ratios))))
    return markdown_table(("mode", "numbers", "points", "faster than cuDNN, mean", "at least"), rows, left=2)


def faster(point: dict, dtype: str) -> float | None:
    """cuDNN's time over that of the faster path."""
    timings = point["timings"]
    ours = [
        timings[n]["median"]
        for n, (_, way, d) in NAMES.items()
        if way and way != "TF32" and d == dtype and n in timings
    ]
    theirs = timings.get(f"cuDNN {dtype}")
    return theirs["median"] / min(ours) if ours and theirs else None


def points_table(points: list[dict], floors: dict | None) -> str:
    rows = []
    for p in points:
        point = Point(p["cell"], p["mode"], p["B"], p["H"], p["T"])
        cells = []
        for name in NAMES:
            timing = p["timings"].get(name)
            cells.append(milliseconds(timing["median"]) if timing else "failed" if name in p["refused"] else MISSING)
        ours = [n for n in ("plain float32", "persistent float32") if n in p["timings"]]
        best = min(ours, key=lambda n: p["timings"][n]["median"]) if ours else None
        share = (
            least_seconds(point, best, floors, meetings(p)) / p["timings"][best]["median"] if best and floors else None
        )
        of_limit = f"{share:.0%}" if share else MISSING
        rows.append((p["cell"].upper(), p["mode"], p["H"], p["B"], *cells, times(faster(p, "float32")), of_limit))
    titles = ("cell", "mode", "H", "B", *(f"{name}, ms" for name in NAMES), "faster in float32", "of limit")
    return (
        "Medians; T is that of the grid, as many inputs as hidden units. *Of limit*: the least time that the floors "
        "allow, over that of the faster path in float32.\n\n" + markdown_table(titles, rows, left=2)
    )


def meetings(point: dict) -> int:
    """Barriers of a step on the persistent path."""
    forward, backward = passes(_CELLS[point["cell"]])
    return len(forward.stages) + (len(backward.stages) if point["mode"] == "training" else 0)


def provenance(results: dict) -> str:
    source, software = results["source"], results["software"]
    commit = f"`{source['commit'][:12]}`" if source["commit"] else "none"
    changed = ", with local changes" if source["modified"] else ""
    return (
        f"{results['device']}; PyTorch {software['torch']}, CUDA {software['CUDA']}, cuDNN {software['cuDNN']}, Numba "
        f"{software['numba']}, Numba-CUDA {software['numba-cuda']}; commit {commit}{changed}; "
        f"{results['date']}. Generated by `python -m bench.gpu` from `bench/results/{results['name']}.json`."
    )
