"""The plots of a comparison, as PNG and SVG.

Contenders are told apart by line, marker and lightness as well as by colour, so that the plots can be read in grey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .claims import longest_memory
from .contenders import CONTENDERS
from .results import Look, Results, Scaled, finite
from .tasks import TITLES, UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Style:
    """How a contender is drawn: colours from Okabe and Ito's set, of different lightness."""

    colour: str
    line: Any
    marker: str


STYLES = {
    "rnn": Style("#000000", ":", "x"),
    "gru": Style("#D55E00", "--", "o"),
    "lstm": Style("#0072B2", "-", "s"),
    "lstm-default": Style("#56B4E9", (0, (6, 2, 1, 2)), "^"),
}
_FLOOR = 1e-13  # where the axis of gradients ends
# where the text's axis ends, times the baseline or the highest loss at an end: the first updates, which are much above,
# need not be seen
_WORST_TEXT, _ABOVE_END = 1.5, 1.05
_CIRCLE = 1.2  # where the axes end round the unit circle
_NARROWEST = 4.4  # inches; a legend needs them
_GREY = "0.45"


def draw(results: Results, folder: Path, suffixes: Sequence[str] = (".png", ".svg")) -> list[Path]:
    """Draw all for which there are results. Returns the files, `folder`/NAME and a suffix."""
    written = []
    for name, plot in PLOTS.items():
        with _figures():
            figure = plot(results)
            if figure is not None:
                written += [_save(figure, folder / f"{name}{suffix}") for suffix in suffixes]
    return written


@contextmanager
def _figures() -> Iterator[None]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "fastrnn", "axes.titlesize": 10}):
        yield
        plt.close("all")


def _save(figure: Figure, path: Path) -> Path:
    """Without a date, so that the same results give the same file."""
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=110, metadata=metadata)
    return path


def _panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt

    size = (max(width * columns, _NARROWEST), height * rows + 0.4)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)


def learning(results: Results) -> Figure | None:
    """A panel for each task: the loss over the updates, the median of the seeds and their range."""
    tasks = results.tasks
    if not tasks:
        return None
    columns = min(2, len(tasks))
    figure, axes = _panels(-(-len(tasks) // columns), columns, 4.4, 3.0)
    for ax, task in zip(axes.flat, tasks, strict=False):
        for contender in results.contenders:
            runs = [run for run in results.of(task, contender) if run.diverged is None]
            if runs:
                losses = np.array([run.losses for run in runs], float)  # NaN where one is None
                _band(ax, runs[0].updates, losses, contender)
        _line(ax, results.baselines.get(task), "no\nmemory" if task != "text" else "trigram")
        if task != "text":
            _decades(ax)
            _line(ax, results.solved_at(task), "solved")
        else:
            ends = finite([run.losses[-1] for run in results.runs if run.task == task and run.losses])
            ax.set_ylim(top=max([_WORST_TEXT * results.baselines[task], *[_ABOVE_END * loss for loss in ends]]))
        ax.set_title(_task_title(results, task))
        ax.set_ylabel(UNITS[task])
        ax.set_xlabel("updates")
        ax.grid(color="0.9", linewidth=0.6)
    for ax in axes.flat[len(tasks) :]:
        ax.remove()
    _legend(figure)
    return figure


def gradients(results: Results) -> Figure | None:
    """By lag, what is left of the gradient: at the start and after training."""
    task, lag = longest_memory(results)
    if not results.of(task, results.contenders[0] if results.contenders else ""):
        return None
    figure, axes = _panels(1, 2, 4.4, 3.2, sharey=True)
    for ax, when, title in zip(axes.flat, ("start", "trained"), ("At the start", "After training"), strict=True):
        for contender in results.contenders:
            looks = results.looks(task, contender, when)
            if looks:
                norms = np.array([look.norms for look in looks], float)  # NaN where one is None
                _band(ax, looks[0].lags, np.maximum(norms, np.finfo(float).tiny), contender)
        ax.axvline(lag, color=_GREY, linewidth=0.8)
        ax.annotate("half a sequence", (lag, 1), (3, -3), ("data", "axes fraction"), textcoords="offset points",
                    color=_GREY, fontsize=7, va="top")  # fmt: skip
        ax.set_yscale("log")
        ax.set_title(f"{title}: {TITLES[task].lower()}")
        ax.set_xlabel("steps before the last one")
        ax.locator_params(axis="x", integer=True)
        ax.grid(color="0.9", linewidth=0.6)
    axes[0, 0].set_ylim(bottom=max(axes[0, 0].get_ylim()[0], _FLOOR))  # of both: they share it
    axes[0, 0].set_ylabel("norm of the gradient,\nrelative to the last step")
    _legend(figure)
    return figure


def scaling(results: Results) -> Figure | None:
    """The plain RNN's gradient through matrices of different spectral radius."""
    if not results.scaled:
        return None
    figure, (row,) = _panels(1, 2, 4.4, 3.4)
    _norms_by_radius(row[0], results.scaled)
    _decay_by_radius(row[1], results.scaled)
    return figure


def _norms_by_radius(ax: Axes, scaled: Sequence[Scaled]) -> None:
    radii = sorted({each.radius for each in scaled}, reverse=True)
    lines: list[Any] = ["-", "--", (0, (5, 1, 1, 1, 1, 1)), "-.", ":"]
    for k, radius in enumerate(radii):
        same = [each for each in scaled if each.radius == radius and each.driven]
        norms = np.nanmedian(np.array([each.norms for each in same], float), axis=0)
        grey = str(0.6 * k / max(1, len(radii) - 1))
        ax.plot(same[0].lags, norms, color=grey, linestyle=lines[k % len(lines)], linewidth=1.6, label=f"{radius:g}")
    ax.set_yscale("log")
    ax.set_title("Plain RNN reading input: its gradient")
    ax.set_xlabel("steps before the last one")
    ax.locator_params(axis="x", integer=True)
    ax.set_ylabel("norm, relative to the last step")
    ax.legend(fontsize=7, frameon=False, loc="lower left", title="spectral radius", title_fontsize=7, handlelength=3)
    ax.grid(color="0.9", linewidth=0.6)


def _decay_by_radius(ax: Axes, scaled: Sequence[Scaled]) -> None:
    radii = sorted({each.radius for each in scaled})
    ax.plot(radii, radii, color=_GREY, linewidth=1, label="decay = radius")
    ax.axhline(1, color=_GREY, linewidth=0.8, linestyle=":")
    kinds = (
        ("random", False, "o", "none", "#0072B2", -0.006), ("orthogonal", False, "D", "none", "#E69F00", 0.006),
        ("random", True, "o", "full", "#0072B2", -0.006), ("orthogonal", True, "D", "full", "#E69F00", 0.006),
    )  # fmt: skip
    for matrix, driven, marker, filling, colour, offset in kinds:
        same = [each for each in scaled if (each.matrix, each.driven) == (matrix, driven)]
        if same:
            label = f"{matrix}, {'reading input' if driven else 'at rest'}"
            ax.plot(
                [each.radius + offset for each in same], [each.decay for each in same], linestyle="none",
                marker=marker, fillstyle=filling, color=colour, markeredgecolor="black", markeredgewidth=0.7,
                markersize=5.5, label=label,
            )  # fmt: skip
    for text, offset in (("explodes", 4), ("vanishes", -10)):
        ax.annotate(text, (0.01, 1), (0, offset), ("axes fraction", "data"), textcoords="offset points",
                    fontsize=7, color=_GREY)  # fmt: skip
    ax.set_title("Decay per step against spectral radius")
    ax.set_xlabel("spectral radius of the recurrent matrix")
    ax.set_ylabel("factor per step")
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    ax.grid(color="0.9", linewidth=0.6)


def eigenvalues(results: Results) -> Figure | None:
    """Eigenvalues against the unit circle, at the start and after training."""
    task, _ = longest_memory(results)
    marks = {"start": ("+", "#E69F00", "at the start"), "trained": ("o", "#0072B2", "after training")}
    shown: list[tuple[str, list[tuple[Any, Any]], str]] = []
    for contender, name in (("rnn", "RNN"), ("gru", "GRU"), ("lstm", "LSTM")):
        found = [(mark, _detailed(results, task, contender, when)) for when, mark in marks.items()]
        seen = [(mark, look.eigenvalues or {}) for mark, look in found if look is not None]
        if seen:
            if contender == "rnn":
                shown.append((f"{name}: its recurrent matrix", seen, "matrix"))
            shown.append((f"{name}: Jacobian of a step", seen, "jacobian"))
    if not shown:
        return None
    figure, (row,) = _panels(1, len(shown), 2.6, 2.9)
    angle = np.linspace(0, 2 * np.pi, 200)
    for ax, (title, seen, kind) in zip(row, shown, strict=True):
        ax.plot(np.cos(angle), np.sin(angle), color=_GREY, linewidth=1, label="unit circle")
        outside: list[str] = []
        for (marker, colour, label), values in seen:
            points = np.array(values[kind])
            ax.plot(points[:, 0], points[:, 1], linestyle="none", marker=marker, markersize=4, fillstyle="none",
                    color=colour, markeredgewidth=1, label=label)  # fmt: skip
            far = points[(np.abs(points).max(axis=1) > _CIRCLE) & (points[:, 1] >= 0)]  # of a conjugate pair one
            outside += [f"{a:.2g}" + (f" ± {b:.2g}i" if b else "") for a, b in far]
        if outside:  # a scale for these would leave nothing of the others
            ax.annotate(f"outside: {', '.join(outside)}", (0.5, 0.02), xycoords="axes fraction", ha="center",
                        fontsize=7, color="#0072B2")  # fmt: skip
        ax.set_aspect("equal")
        ax.set_xlim(-_CIRCLE, _CIRCLE)
        ax.set_ylim(-_CIRCLE, _CIRCLE)
        ax.set_xticks([-1, 0, 1])
        ax.set_yticks([-1, 0, 1])
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("real part")
        ax.grid(color="0.9", linewidth=0.6)
    row[0].set_ylabel("imaginary part")
    _legend(figure)
    return figure


def gates(results: Results) -> Figure | None:
    """Gates of the trained GRU and LSTM over the steps of one sequence."""
    task, _ = longest_memory(results)
    names = {"z": "update z (1: keep)", "r": "reset r", "f": "forget f (1: keep)", "i": "input i", "o": "output o"}
    shown: list[tuple[Look, str, str]] = []
    for contender in ("gru", "lstm"):
        look = _detailed(results, task, contender, "trained")
        if look is not None:
            shown += [
                (look, gate, f"{contender.upper()}: {name}") for gate, name in names.items() if gate in look.gates
            ]
    if not shown:
        return None
    figure, axes = _panels(len(shown), 1, 7.5, 1.4, sharex=True)
    for ax, (look, gate, title) in zip(axes.flat, shown, strict=True):
        image = ax.imshow((look.traces or {})[gate], vmin=0, vmax=100, cmap="gray", aspect="auto",
                          interpolation="nearest", origin="upper")  # fmt: skip
        marks = look.marks or []
        if marks:  # no line of no points: that has no extent, and the layout fails
            ax.plot(marks, [1.06] * len(marks), transform=ax.get_xaxis_transform(), clip_on=False, linestyle="none",
                    marker="v", color="#D55E00", markersize=5)  # fmt: skip
        ax.set_title(title, fontsize=9, loc="left", pad=12 if marks else 6)  # above the marks
        ax.set_yticks([])
        ax.set_ylabel("units")
    marked = "; triangles: the two numbers to be added" if shown[0][0].marks else ""
    axes.flat[-1].set_xlabel(f"step of one sequence ({TITLES[task].lower()}{marked})")
    shrink = 0.5 if len(shown) > 2 else 1.0
    bar = figure.colorbar(image, ax=list(axes.flat), shrink=shrink, label="gate: black closed, white open")
    bar.set_ticks([0, 50, 100], labels=["0", "0.5", "1"])
    return figure


def _detailed(results: Results, task: str, contender: str, when: str) -> Look | None:
    """The first one with gates and eigenvalues."""
    return next((look for look in results.looks(task, contender, when) if look.eigenvalues), None)


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "learning": learning,
    "gradients": gradients,
    "scaling": scaling,
    "eigenvalues": eigenvalues,
    "gates": gates,
}


def _band(ax: Axes, x: Sequence[int], values: Any, contender: str) -> None:
    """The median over the rows of `values`, and their range."""
    style = STYLES[contender]
    values = np.asarray(values, float)
    if len(values) > 1:
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        ax.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0)
    ax.plot(
        x, np.nanmedian(values, axis=0), color=style.colour, linestyle=style.line, marker=style.marker, markersize=4,
        markevery=max(1, len(x) // 8), linewidth=1.5, fillstyle="none", label=CONTENDERS[contender].title,
    )  # fmt: skip


def _decades(ax: Axes) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _line(ax: Axes, height: float | None, text: str) -> None:
    """A horizontal line with its name at the right."""
    if height is not None:
        ax.axhline(height, color=_GREY, linewidth=0.9, zorder=1)
        ax.annotate(text, (1, height), (4, 0), ("axes fraction", "data"), textcoords="offset points",
                    fontsize=7, color=_GREY, va="center")  # fmt: skip


def _legend(figure: Figure) -> None:
    """Of all that any panel shows; contenders in their order."""
    shown: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    order = [contender.title for contender in CONTENDERS.values()]
    labels = sorted(shown, key=lambda label: order.index(label) if label in order else -1)
    figure.legend([shown[label] for label in labels], labels, loc="outside upper center", ncols=4, frameon=False)


def _task_title(results: Results, task: str) -> str:
    if task == "text":
        return "Text: Python's language reference, held out"
    made_up = results.settings.task(task)
    size = f"delay {made_up.delay}" if task == "copying" else f"{made_up.steps} steps"  # type: ignore[union-attr]
    return f"{TITLES[task]}, {size}"
