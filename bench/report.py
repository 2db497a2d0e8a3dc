"""Writes docs/performance.md, its plot and the README's table from one results file: no figure is typed by hand.

Another machine's results have a page, a plot and, if the README has markers for it, a table of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench import comparison, plot
from bench.cases import CELL_TITLES
from bench.comparison import (
    geometric_mean,
    grouped,
    share_of_limit,
    times_faster,
    times_faster_at_limit,
    undisturbed_times_faster,
)
from bench.competitors import LABELS, OURS
from bench.grid_targets import GOALS, MEANS, targets
from bench.machine import ROOT, busy
from bench.results import Measurement, Results
from bench.targets import Reached
from bench.timing import LONG_CALL

PAGE = "performance"  # in docs/, without an ending; those of other machines are called otherwise
MISSING = "-"

METHOD = """\
Every competitor gets the same weights, inputs, initial states and upstream gradients, and is checked first: all
outputs, and in training all gradients (of the input, the initial states and every parameter), must agree with a
float64 reference, or it is not timed. *Forward* is inference; *training* is a forward and a backward pass.
PyTorch runs eagerly (`inference_mode` for forward, autograd for training); ONNX Runtime runs a model of one node and
has no backward pass. Settings are the defaults, but for the number of threads and what is said here.

In training one number of fastrnn's and of PyTorch's weights changes before each call, as all do in a loop of training:
fastrnn then packs them again within the call. (JAX is given its weights at each call, and keeps nothing of them.)
Forward they stay as they are, and a call compares their checksums. What packing takes is
[measured apart]({details}#weights-that-change). ONNX Runtime's inputs and outputs are bound, which spares it the copies
and checks of `session.run`; JAX's matrices lie as its own libraries keep them, and its calls wait for results.

In each round every competitor is timed once, in an order that is drawn, right after untimed calls that wake its threads
and the processor (where a call takes less than {long_call:g} s), and only when the process's CPU time stands still:
worker threads of the one before would otherwise still spin on the cores. The tables show medians over the rounds;
{faster};
*spread* is the distance from the 10th to the 90th percentile relative to the median, the largest of the competitors'.
GFLOP/s count the matrix products only, training as three forward passes.

*Limit* compares fastrnn with the least time this machine could take, from its own multiply-add peak and read
bandwidth as measured in the same run, an estimate: the products at the peak, or reading R once a step and W once a
sequence from the cache they fit in, whichever is longer (training reads both once more and writes their gradients).
A limit is the best of many measurements, so what is held against it is the best round, and that of one thread is held
against that of two: on a machine that others work on too, the median says more of them than of the code."""
CEILING = """\
A program that ran at this machine's limit, as [estimated below](#how-it-was-measured), at every point with H >= 128
would be so many times as fast as the best peer there; times are those of the best rounds. (For smaller layers the limit
leaves out what takes longest: the call, and what a step does besides its products. It is that of multiply-adds of
float32 vectors: what matrix units such as AMX could do, on numbers split into parts of bfloat16, nothing here uses.)"""
AIMS = "Targets are what this project wants to reach; one that is missed is work left to do."
SIZES = "Sizes are T steps, B sequences in the batch, I inputs and H hidden units."
BY_ROUND = (
    "*faster* is the median of the ratios round by round, not the ratio of the medians, for slow moments that outlast "
    "a round fall on both"
)
OF_MEDIANS = "*faster* is the ratio of medians"


JAX_METHOD = """\
JAX runs a jitted `lax.scan` after one product for the inputs of all steps. It has as many threads as its process may
use cores when it starts, so it runs in a process of its own for each number of threads, pinned to so many cores, in
turn with the others, and times its calls itself."""


def write_docs(results: Results, root: Path = ROOT, name: str = PAGE) -> list[Path]:
    """Write the page of that name and its plot into `root`/docs, and its table into the README, if there is room.

    What was written.
    """
    docs = root / "docs"
    docs.mkdir(exist_ok=True)
    page = docs / f"{name}.md"
    page.write_text(performance_page(results, name), encoding="utf-8")
    written = [page, *plot.draw(results, docs / name)]
    readme = root / "README.md"
    if readme.exists() and (
        text := insert_block(readme.read_text(encoding="utf-8"), readme_block(results, name), *markers(name))
    ):
        readme.write_text(text, encoding="utf-8")
        written.append(readme)
    return written


def shown_on(name: str, root: Path = ROOT) -> set[str]:
    """The names of the results files that the page of that name, and the one of details, are made from."""
    pages = [root / "docs" / file for file in (f"{name}.md", details_page(name))]
    texts = [page.read_text(encoding="utf-8") for page in pages if page.exists()]
    return {found for text in texts for found in re.findall(r"`bench/results/([^`]+)\.json`", text)}


def details_page(name: str) -> str:
    """The file, beside the page of that name, with what was measured apart from the grid."""
    return f"{name}-details.md"


def performance_page(results: Results, name: str = PAGE) -> str:
    """The whole of the page."""
    parts = [
        "# Performance" if name == PAGE else f"# Performance on another machine: {results.machine['vector']}",
        f"Generated by `python -m bench` from `bench/results/{results.name}.json`; do not edit by hand.",
        provenance_table(results),
        *failures(results),
        f"![How many times faster fastrnn is than each peer, by cell, mode, size and threads]({name}.png)",
        "## Summary",
        f"How many times faster fastrnn is: geometric means over the sizes, and the least of all sizes. {SIZES}",
        summary_table(results),
        "## Targets",
        f"{AIMS} Frame by frame, growth, float64, memory and start-up are [measured apart]({details_page(name)}).",
        targets_section(targets(results)),
        CEILING,
        ceiling_table(results),
        "## All points",
        "Times are medians in milliseconds; *faster* is the best peer's time over fastrnn's.",
    ]
    for (cell, mode), measurements in grouped(results.measurements, lambda m: (m.case.cell, m.case.mode)).items():
        parts += [f"### {CELL_TITLES[cell]}, {mode}", points_table(measurements, results)]
    faster = BY_ROUND if results.by_round else OF_MEDIANS
    parts += ["## How it was measured", METHOD.format(details=details_page(name), faster=faster, long_call=LONG_CALL)]
    parts += [*([JAX_METHOD] if "jax" in results.peers else []), "## Limits of this machine", limits_tables(results)]
    return "\n\n".join(parts) + "\n"


def provenance_table(results: Results) -> str:
    """Where, when and with what: machine, versions, threads, commit, date."""
    machine, software, source = results.machine, results.software, results.source
    commit = f"`{source['commit'][:12]}`" if source["commit"] else "none"
    if source["modified"]:
        commit += ", with local changes"
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in software.items())
    threads = sorted({m.case.threads for m in results.measurements})
    settings = ", ".join(f"{name}={value}" for name, value in results.environment.items())
    dtypes = sorted({m.case.dtype for m in results.measurements})
    rounds = [timed.rounds for m in results.measurements for timed in m.timings.values()]
    load = machine["load_average"]
    if busy(machine):
        load = f"{load}: **other programs were running, and no time is reliable to better than *spread***"
    rows = [
        (
            "Processor",
            f"{machine['cpu']} ({machine['microarchitecture']}), {machine['cores']} cores, {machine['system']}",
        ),
        ("Vectors", f"{machine['vector']}, {machine['vector_bits']} bits"),
        ("Software", packages),
        ("Commit", commit),
        ("Date", results.date),
        ("Threads", ", ".join(map(str, threads)) + (f"; environment {settings}" if settings else "")),
        ("Numbers", ", ".join(dtypes)),
        ("Rounds of a case", f"{min(rounds)} to {max(rounds)}" if rounds else MISSING),
        ("Load before the run", load),
    ]
    if "took" in results.settings:
        rows.append(("Time for the run", f"{results.settings['took'] / 60:.1f} minutes"))
    return markdown_table(("", ""), rows, left=2)


def failures(results: Results) -> list[str]:
    """A paragraph for whatever is missing from the tables for a reason."""
    lines = [f"{LABELS[name]} was not there: {reason}." for name, reason in results.absent.items()]
    for measurement in results.measurements:
        for name, reason in measurement.refused.items():
            lines.append(f"**{LABELS[name]} gave wrong results and no time for `{measurement.case.id}`**: {reason}.")
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def summary_table(results: Results) -> str:
    """Geometric means of the ratios for each cell, mode and thread count, then for each mode and thread count."""
    peers = results.peers
    by_cell = grouped(results.measurements, lambda m: (CELL_TITLES[m.case.cell], m.case.mode, m.case.threads))
    over_all = grouped(results.measurements, lambda m: ("all", m.case.mode, m.case.threads))
    rows = []
    for (cell, mode, threads), measurements in (by_cell | over_all).items():
        best = [times_faster(m) for m in measurements]
        rows.append(
            [cell, mode, threads]
            + [times(geometric_mean(times_faster(m, peer) for m in measurements)) for peer in peers]
            + [times(geometric_mean(best)), times(min((r for r in best if r is not None), default=None))]
        )
    titles = ("cell", "mode", "threads", *(f"than {LABELS[peer]}" for peer in peers), "than the best peer", "at least")
    return markdown_table(titles, rows, left=2)


def targets_section(all_reached: Sequence[Reached]) -> str:
    """For each target the share of points that reach it, and the points that do not."""
    short = [line for reached in all_reached if (line := reached.shortfall())]
    titles = ("target", "points that meet it", "share")
    return "\n\n".join([markdown_table(titles, [reached.row() for reached in all_reached]), *short])


def ceiling_table(results: Results) -> str:
    """What the machine's limit leaves to be reached, and how much of it is."""
    rows = []
    large = [m for m in results.measurements if m.case.H >= 128]
    for (mode, threads), measurements in grouped(large, lambda m: (m.case.mode, m.case.threads)).items():
        limits = [times_faster_at_limit(m, results) for m in measurements]
        ours = geometric_mean(undisturbed_times_faster(m) for m in measurements)
        row = [mode, threads, len(measurements), times(ours), times(geometric_mean(limits)), f"{MEANS[mode]:g}x"]
        rows.append([*row, sum(limit is not None and limit < GOALS[mode] for limit in limits)])
    titles = ("mode", "threads", "points", "fastrnn, mean", "at the limit, mean", "wanted, of all points")
    return markdown_table((*titles, "points where even the limit misses their target"), rows, left=1)


def points_table(measurements: Sequence[Measurement], results: Results) -> str:
    """Every point of one cell and mode."""
    shown = [OURS, *results.peers]
    rows = []
    for m in measurements:
        case, timings = m.case, m.timings
        rate = comparison.flop_rate(m)
        share = share_of_limit(m, results)
        rows.append(
            [case.T, case.B, case.I, case.H, case.threads]
            + [milliseconds(timings[name].median) if name in timings else MISSING for name in shown]
            + [
                times(times_faster(m)),
                f"{rate / 1e9:.1f}" if rate else MISSING,
                f"{share:.0%}" if share else MISSING,
                f"{max(((t.p90 - t.p10) / t.median for t in timings.values()), default=0.0):.0%}",
            ]
        )
    names = [LABELS[name] for name in shown]
    return markdown_table(
        ("T", "B", "I", "H", "threads", *names, "faster", "GFLOP/s", "of limit", "spread"), rows, left=0
    )


def limits_tables(results: Results) -> str:
    """The measured multiply-add peak and read bandwidth."""
    limits = results.limits
    peak_rows = [
        (dtype, threads, f"{rate / 1e9:.0f}")
        for dtype, rates in limits.multiply_add.items()
        for threads, rate in rates.items()
    ]
    curves = {threads: dict(curve) for threads, curve in limits.bandwidth.items()}
    sizes = sorted({size for curve in curves.values() for size in curve})
    read_rows = [
        [f"{size // 1024}", *(f"{curve[size] / 1e9:.0f}" if size in curve else MISSING for curve in curves.values())]
        for size in sizes
    ]
    titles = [f"GB/s, {n} thread{'s' if n > 1 else ''}" for n in curves]
    return "\n\n".join(
        [
            markdown_table(("numbers", "threads", "multiply-add, GFLOP/s"), peak_rows),
            "Reading over and over, by the size that each thread reads:",
            markdown_table(("KB a thread", *titles), read_rows, left=0),
        ]
    )


def markers(name: str) -> tuple[str, str]:
    """The comments around the generated block of that name, in the README or another page."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def readme_block(results: Results, name: str = PAGE) -> str:
    """The README's compact table of the page of that name, and where it is from."""
    peers = results.peers
    versions = ", ".join(f"{LABELS[p]} {results.software[p]}" for p in peers if results.software.get(p))
    dtypes = ", ".join(sorted({m.case.dtype for m in results.measurements}))
    over_all = grouped(results.measurements, lambda m: (m.case.cell, m.case.mode))
    rows = []
    for (cell, mode), measurements in over_all.items():
        best = [ratio for m in measurements if (ratio := times_faster(m)) is not None]
        rows.append(
            [CELL_TITLES[cell], mode]
            + [times(geometric_mean(times_faster(m, peer) for m in measurements)) for peer in peers]
            + [f"{times(min(best))} to {times(max(best))}" if best else MISSING]
        )
    threads = " and ".join(str(n) for n in sorted({m.case.threads for m in results.measurements}))
    sizes = len({m.case.size for m in results.measurements})
    return "\n\n".join(
        [
            f"With vectors of {results.machine['vector_bits']} bits ({results.machine['vector']}):",
            f"Times faster than each peer: geometric means over {sizes} sizes (batch 1 to large) on {threads} threads, "
            "and the range against the best of them at each point.",
            markdown_table(
                ("cell", "mode", *(f"than {LABELS[peer]}" for peer in peers), "than the best peer, range"), rows, left=2
            ),
            slower_points(results),
            f"{machine_line(results.machine)}; {dtypes}; {versions}; {commit_line(results.source)}; {results.date}. "
            + ("Other programs were running: times vary as *spread* says there. " if busy(results.machine) else "")
            + f"[Every point, and how it was measured](docs/{name}.md).",
        ]
    )


def slower_points(results: Results) -> str:
    """Where a peer is faster, in words."""
    compared = [m for m in results.measurements if times_faster(m) is not None]
    slower = [m for m in compared if times_faster(m) < 1]
    single = sum(m.case.T == 1 for m in slower)
    text = f"A peer is faster at {len(slower)} of {len(compared)} points"
    if single:
        text += f", {'all' if single == len(slower) else single} of them calls of a single step"
    others = grouped([m for m in slower if m.case.T > 1], lambda m: (CELL_TITLES[m.case.cell], m.case.mode))
    named = ", ".join(f"{cell} {mode} ({len(points)})" for (cell, mode), points in others.items())
    return f"{text}; the others: {named}." if named else f"{text}."


def machine_line(machine: dict) -> str:
    """Processor, vectors and cores in words."""
    return f"{machine['cpu']} ({machine['microarchitecture']}, {machine['vector']}), {machine['cores']} cores"


def commit_line(source: dict) -> str:
    """What was measured, in words."""
    commit = f"commit `{source['commit'][:12]}`" if source["commit"] else "no commit"
    return commit + (" with local changes" if source["modified"] else "")


def insert_block(text: str, block: str, begin: str, end: str) -> str | None:
    """`text` with everything between the markers replaced; None if it has no markers."""
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    return f"{head}{begin}\n{block}\n{end}{tail}" if found and closed else None


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are set to the left, the others to the right."""
    rules = [":--" if k < left else "--:" for k in range(len(titles))]
    lines = [titles, rules, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def milliseconds(seconds: float) -> str:
    """Three significant digits, never in powers of ten."""
    value = 1e3 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{digits}f}"


def times(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{ratio:.2f}x"
