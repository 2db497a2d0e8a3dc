"""The plot of docs/performance: how many times faster than each peer, at every size."""

from __future__ import annotations

from pathlib import Path

from bench.cases import CELL_TITLES
from bench.comparison import grouped, times_faster
from bench.competitors import LABELS
from bench.grid_targets import GOALS
from bench.results import Results

# Told apart by shape and by filling as well as by colour, and dark enough on white to be told apart in grey.
# The colours are from Okabe and Ito's set for colour-blind readers.
SHAPES = {"torch": "o", "onnxruntime": "s", "jax": "^"}
COLOURS = {"torch": "#D55E00", "onnxruntime": "#0072B2", "jax": "#009E73"}


def draw(results: Results, path: Path) -> list[Path]:
    """Draw a panel for each mode and cell; write `path`.png and `path`.svg. What was written; nothing of no results."""
    if not results.measurements:
        return []
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    cells = list(dict.fromkeys(m.case.cell for m in results.measurements))
    modes = list(dict.fromkeys(m.case.mode for m in results.measurements))
    sizes = list(dict.fromkeys((m.case.T, m.case.B, m.case.I, m.case.H) for m in results.measurements))
    threads = sorted({m.case.threads for m in results.measurements})
    peers = [peer for peer in results.peers if peer in SHAPES]
    groups = grouped(results.measurements, lambda m: (m.case.cell, m.case.mode))
    ratios = [times_faster(m, peer) for m in results.measurements for peer in peers]
    highest = max([ratio for ratio in ratios if ratio], default=1.0)
    lowest = min([ratio for ratio in ratios if ratio], default=1.0)

    aim = "aimed at: " + ", ".join(f"{mode} {GOALS[mode]:g}x" for mode in modes)

    with plt.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": results.name}):
        figure, axes = plt.subplots(
            len(modes), len(cells), figsize=(1.5 + 3.4 * len(cells), 1.4 + 2.6 * len(modes)), sharex=True, sharey=True,
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for row, mode in zip(axes, modes, strict=True):
            for panel, cell in zip(row, cells, strict=True):
                _draw_panel(panel, groups.get((cell, mode), []), sizes, threads, peers, GOALS[mode], aim)
                panel.set_title(f"{CELL_TITLES[cell]}, {mode}")
        for panel in axes[-1]:
            panel.set_xticks(range(len(sizes)), [_size_label(*size) for size in sizes], fontsize=7)
        for panel in axes[:, 0]:
            panel.set_ylabel("times faster than the peer")
            panel.set_yscale("log", base=2)
            panel.set_ylim(min(0.7, 0.8 * lowest), max(2.0, 1.3 * highest))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=round(figure.get_figwidth() / 2.2), frameon=False
        )
        below = "I = H units" if all(I == H for *_, I, H in sizes) else "I = H units, or I inputs to H units,"
        figure.supxlabel(f"size: T steps x B sequences, with {below} below", fontsize=8)
        written = []
        for suffix, options in ((".png", {"dpi": 150}), (".svg", {"metadata": {"Date": None}})):
            figure.savefig(path.with_suffix(suffix), **options)
            written.append(path.with_suffix(suffix))
        plt.close(figure)
    return written


def _draw_panel(panel, measurements, sizes, threads, peers, goal, label):
    """One cell and mode: a column for each size, in it a mark for each peer and thread count, filled for the most.

    goal, label: a line there, and what the legend calls it
    """
    panel.axhspan(1e-3, 1, color="0.9", zorder=0)
    panel.axhline(1, color="black", linewidth=1)
    panel.axhline(goal, color="0.3", linewidth=1, linestyle="--", label=label)
    panel.grid(axis="y", color="0.85", linewidth=0.6)
    for x in range(1, len(sizes)):
        panel.axvline(x - 0.5, color="0.85", linewidth=0.6)
    panel.set_xlim(-0.5, len(sizes) - 0.5)
    slots = [(peer, n) for peer in peers for n in threads]
    for k, (peer, n) in enumerate(slots):
        offset = 0.7 * ((k + 0.5) / len(slots) - 0.5)
        column = {size: x + offset for x, size in enumerate(sizes)}
        points = [
            (column[m.case.T, m.case.B, m.case.I, m.case.H], ratio)
            for m in measurements
            if m.case.threads == n and (ratio := times_faster(m, peer)) is not None
        ]
        panel.plot(
            [x for x, _ in points],
            [ratio for _, ratio in points],
            linestyle="none",
            marker=SHAPES[peer],
            markersize=5.5,
            color=COLOURS[peer],
            markerfacecoloralt="white",
            fillstyle="full" if n == threads[-1] else "none" if n == threads[0] else "bottom",
            label=f"than {LABELS[peer]}, {n} thread{'s' if n > 1 else ''}",
        )


def _size_label(T: int, B: int, I: int, H: int) -> str:
    return f"{T}x{B}\n{H if I == H else f'{I} to {H}'}"
