"""Writes the measured part of docs/pytorch.md from a results file of `python -m bench.pytorch`."""

from __future__ import annotations

from pathlib import Path

from bench.comparison import geometric_mean
from bench.machine import ROOT
from bench.pytorch_cases import ARRAYS, EMPTY, ORIGINAL, SWAPPED, WHOLE
from bench.report import (
    AIMS,
    BY_ROUND,
    MISSING,
    SIZES,
    commit_line,
    insert_block,
    machine_line,
    markdown_table,
    markers,
    milliseconds,
)
from bench.timing import Timing, difference
from bench.timing import ratio as times_as_long

BEGIN, END = markers("bench-pytorch")
OVERHEAD_TARGET, LENGTHS_TARGET, MODEL_TARGET = 15e-6, 1.1, 3.0


def write_page(results: dict, root: Path = ROOT) -> Path:
    """Put the block into docs/pytorch.md. ValueError if the page has no markers for it."""
    page = root / "docs" / "pytorch.md"
    text = insert_block(page.read_text(encoding="utf-8"), block(results), BEGIN, END)
    if text is None:
        raise ValueError(f"{page}: expected the markers {BEGIN} and {END}")
    page.write_text(text, encoding="utf-8")
    return page


NOT_MEASURED = "Not measured yet."


def block(results: dict | None) -> str:
    """All tables, and where they are from; None: there are no results."""
    if results is None:
        return NOT_MEASURED
    by_section: dict[str, list[dict]] = {}
    for point in results["points"]:
        by_section.setdefault(point["section"], []).append(point)
    parts = [f"{AIMS} {SIZES} In the tables {BY_ROUND}.", _targets(by_section)]
    for section, title, table in (
        ("modules", "The module in place of the original", _modules),
        ("lengths", "Sequences of different lengths", _lengths),
        ("overhead", "One small step", _overhead),
        ("model", "A training step of a whole model", _model),
    ):
        if section in by_section:
            parts += [f"### {title}", table(by_section[section])]
    return "\n\n".join([*parts, _provenance(results)])


def ratio(point: dict, slower: str = ORIGINAL, faster: str = SWAPPED) -> float:
    """How many times as fast one is as the other."""
    return times_as_long(_timing(point, slower), _timing(point, faster))


def _timing(point: dict, name: str) -> Timing:
    return Timing(**point["timings"][name])


def deserved(point: dict, name: str) -> float:
    """The time of mixed lengths over what their rows deserve: those of the whole batch by its number of rows."""
    share = point["work"][name] / point["work"][WHOLE]
    return ratio(point, name, WHOLE) / share


def overhead(point: dict) -> float:
    """Seconds that the module takes beyond the NumPy layer."""
    return difference(_timing(point, SWAPPED), _timing(point, ARRAYS))


def _targets(by_section: dict[str, list[dict]]) -> str:
    rows = []
    if modules := by_section.get("modules"):
        met = [ratio(p) >= 1 for p in modules]
        rows.append(("not slower than the original", len(met), sum(met)))
    if mixed := by_section.get("lengths"):
        met = [deserved(p, ARRAYS) <= LENGTHS_TARGET for p in mixed]
        rows.append(
            (f"mixed lengths at most {LENGTHS_TARGET} times what their total length deserves", len(met), sum(met))
        )
    if small := by_section.get("overhead"):
        met = [overhead(p) <= OVERHEAD_TARGET for p in small]
        rows.append((f"a call at most {1e6 * OVERHEAD_TARGET:.0f} µs over the NumPy layer's", len(met), sum(met)))
    if models := [p for p in by_section.get("model", []) if p["threads"] == 2]:
        met = [ratio(p) >= MODEL_TARGET for p in models]
        text = f"the model's training step at least {MODEL_TARGET:.0f} times as fast on 2 threads"
        rows.append((text, len(met), sum(met)))
    return markdown_table(("target", "points", "met"), rows)


def _median(point: dict, name: str) -> str:
    return milliseconds(point["timings"][name]["median"])


def _modules(points: list[dict]) -> str:
    rows = [
        (
            p["cell"].upper(),
            p["mode"],
            p["size"],
            p["threads"],
            _median(p, ORIGINAL),
            _median(p, SWAPPED),
            f"{ratio(p):.2f}x",
        )
        for p in points
    ]
    means = []
    for mode in ("forward", "training"):
        mean = geometric_mean(ratio(p) for p in points if p["mode"] == mode)
        if mean is not None:
            means.append(f"{mode} {mean:.2f}x")
    titles = ("module", "mode", "size", "threads", "torch.nn, ms", "fastrnn.torch, ms", "faster")
    return (
        f"Geometric means: {', '.join(means)}. In training, here and below, one number of the weights changes before "
        f"each call, as all do in a loop of training.\n\n{markdown_table(titles, rows, left=3)}"
    )


def _lengths(points: list[dict]) -> str:
    rows = [
        (
            p["cell"].upper(), p["mode"], p["threads"], _median(p, ORIGINAL), _median(p, SWAPPED), f"{ratio(p):.2f}x",
            _median(p, ARRAYS), _median(p, WHOLE), f"{deserved(p, ARRAYS):.2f}", f"{deserved(p, SWAPPED):.2f}",
        )
        for p in points
    ]  # fmt: skip
    titles = (
        "layer", "mode", "threads", "torch.nn, ms", "fastrnn.torch, ms", "faster", "fastrnn, ms", "whole batch, ms",
        "fastrnn / deserved", "fastrnn.torch / deserved",
    )  # fmt: skip
    size = points[0]["size"]
    return (
        f"Lengths uniform as in `{size}`; the modules take a `PackedSequence`, the NumPy layer `lengths=`. *Whole "
        "batch*: the NumPy layer on the same batch without padding. *Deserved*: that time, times the mixed batch's "
        f"share of its rows.\n\n{markdown_table(titles, rows, left=2)}"
    )


def _overhead(points: list[dict]) -> str:
    def micro(point: dict, name: str) -> str:
        return f"{1e6 * point['timings'][name]['median']:.1f}" if name in point["timings"] else MISSING

    shown = (ORIGINAL, SWAPPED, ARRAYS, EMPTY)
    rows = [(p["cell"].upper(), p["mode"], *(micro(p, n) for n in shown), f"{1e6 * overhead(p):.1f}") for p in points]
    titles = ("torch.nn, µs", "fastrnn.torch, µs", "fastrnn (NumPy), µs", "empty module, µs", "module over NumPy, µs")
    table = markdown_table(("layer", "mode", *titles), rows, left=2)
    return (
        "At `T1-B1-I64-H64`, on one thread; forward with frozen weights. *Empty module*: one with these parameters and "
        f"outputs that computes nothing, in training with an `autograd.Function`: what PyTorch takes itself.\n\n{table}"
    )


def _model(points: list[dict]) -> str:
    rows = [(p["size"], p["threads"], _median(p, ORIGINAL), _median(p, SWAPPED), f"{ratio(p):.2f}x") for p in points]
    titles = ("size", "threads", "original, ms", "accelerated, ms", "faster")
    return (
        "Embedding, two bidirectional GRU layers, linear; forward, cross entropy, backward and Adam.\n\n"
        + markdown_table(titles, rows)
    )


def _provenance(results: dict) -> str:
    software = results["software"]
    return (
        f"{machine_line(results['machine'])}; float32; "
        f"PyTorch {software['torch']}, NumPy {software['numpy']}, Numba {software['numba']}; "
        f"{commit_line(results['source'])}; {results['date']}. Interleaved; times and differences are medians over "
        "the rounds; results are compared before they are timed. "
        f"Generated by `python -m bench.pytorch` from `bench/results/{results['name']}.json`."
    )
