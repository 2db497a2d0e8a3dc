"""The page that a comparison ends with, the same on the terminal, and the marked blocks of the documentation."""

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastrnn.commands.display import Display

from . import claims, plots, results
from .claims import Claim, longest_memory, spread
from .contenders import CONTENDERS
from .results import Look, Results, median
from .store import write
from .tasks import TITLES, UNITS

NONE = "-"
ALT = {
    "learning": "Learning curves: the loss over the updates, for each task and contender",
    "gradients": "What is left of the gradient, by steps back in time, at the start and after training",
    "scaling": "The plain RNN's gradient through recurrent matrices of different spectral radius",
    "eigenvalues": "Eigenvalues of recurrent matrices and Jacobians against the unit circle",
    "gates": "Gates of the trained GRU and LSTM over the steps of one sequence",
}


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 1  # so many columns are no numbers

    def markdown(self) -> str:
        """Words set to the left, numbers to the right."""
        rules = tuple(":--" if k < self.words else "--:" for k in range(len(self.columns)))
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.columns, rules, *self.rows))


def write_report(show: Display, found: Results, folder: Path) -> list[Path]:
    """Show the tables and verdicts, write report.md and the plots into `folder`. Returns the files."""
    tested = claims.claims(found)
    for table in _tables(found):
        if table.rows:
            show.table(*table)
    show.say("")
    for line in _verdict_lines(tested):
        show.say(line)
    for line in found.failed:
        show.say(f"without a result: {line}")
    show.say("")
    drawn = plots.draw(found, folder)
    page = folder / "report.md"
    page.write_text(_page(found, tested, drawn), encoding="utf-8")
    return [page, *drawn]


def _page(found: Results, tested: Sequence[Claim], drawn: Sequence[Path]) -> str:
    parts = ["# RNN, GRU and LSTM compared", provenance(found), "## Verdicts", verdicts(tested)]
    for table in _tables(found):
        if table.rows:
            parts += [f"## {table.title}", table.markdown()]
    parts += [*(["## Without a result", "\n".join(f"- {line}" for line in found.failed)] if found.failed else [])]
    parts += [f"![{ALT[path.stem]}]({path.name})" for path in drawn if path.suffix == ".png"]
    return "\n\n".join(parts) + "\n"


def _tables(found: Results) -> list[Table]:
    return [costs(found), learning(found), gradients(found), gates(found)]


def provenance(found: Results) -> str:
    """Where, with what and how it was measured."""
    machine, settings = found.machine, found.settings
    seeds = len({run.seed for run in found.runs})
    updates = ", ".join(f"{settings.training[task].updates:,} for {task}" for task in found.tasks)
    return (
        f"{machine['cpu']}, {machine['processors']} processors; fastrnn {machine['fastrnn']}, "
        f"commit {machine['commit'] or 'unknown'}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"Numba {machine['numba']}; {machine['date']}. {settings.size}, float32, one thread for each training, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; updates: {updates}. "
        "Numbers are medians over the seeds, with the range in brackets. "
        f"Losses: {'; '.join(f'{task}, {UNITS[task]}' for task in found.tasks)}."
    )


def verdicts(tested: Sequence[Claim]) -> str:
    """Each claim, its verdict, and its tests with what was measured."""
    marks = {True: "holds", False: "does not hold", None: "not judged"}
    parts = [
        "A claim is *supported* if all tests of it hold, *not supported* if none does, and *mixed* otherwise; where "
        "what was measured leaves that open, it is *not decided*."
    ]
    for claim in tested:
        lines = [f"- **{marks[test.holds]}**: {test.text}. {_capital(test.numbers)}." for test in claim.tests]
        parts.append(f"**({claim.letter}) {claim.text} {_capital(claim.summary)}.**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _verdict_lines(tested: Sequence[Claim]) -> list[str]:
    marks = {True: "+", False: "-", None: "?"}
    lines = ["Verdicts (+ a test that holds, - one that does not, ? not judged)"]
    for claim in tested:
        lines += [f"({claim.letter}) {claim.text}", f"    {claim.summary.upper()}"]
        lines += [f"    {marks[test.holds]} {test.text}: {test.numbers}" for test in claim.tests]
    return lines


def costs(found: Results) -> Table:
    """What a step costs, at equal hidden size."""
    rows = []
    for name, cost in found.costs.items():
        if name in found.contenders:
            micro = [f"{1e6 * seconds:.3g}" for seconds in (cost.training, cost.forward, cost.stream)]
            interface = (f"{cost.inputs} in, {cost.outputs} out", f"{cost.state_bytes}")
            rows.append((CONTENDERS[name].title, f"{cost.hidden}", f"{cost.parameters:,}", *micro, *interface))
    training = found.settings.training.get("adding")
    batch = f", batch {training.batch}" if training else ""
    columns = (
        "layer", "units", "parameters", f"training, µs a step{batch}", "forward, µs a step", "stream, µs a step",
        "arrays a step", "state of a stream, bytes",
    )  # fmt: skip
    return Table("What a step costs, at equal size and on one thread", columns, rows)


def learning(found: Results) -> Table:
    """What each contender achieved on each task."""
    rows = []
    for task in found.tasks:
        limit = found.solved_at(task)
        for name in found.contenders:
            runs = found.of(task, name)
            if not runs:
                continue
            solved = [run.loss is not None and limit is not None and run.loss < limit for run in runs]
            needed = median([run.first_below(limit) for run in runs]) if limit else None
            rows.append(
                (
                    TITLES[task], CONTENDERS[name].title,
                    f"{runs[0].hidden}", f"{runs[0].parameters:,}", f"{found.baselines[task]:.4g}",
                    spread([run.loss for run in runs]),
                    f"{sum(solved)} of {len(runs)}" if limit else NONE,
                    NONE if needed is None else f"{needed:,.0f}",
                    f"{statistics.median(run.seconds for run in runs):.0f}",
                )
            )  # fmt: skip
    columns = ("task", "contender", "units", "parameters", "baseline", "loss", "solved", "updates to it", "seconds")
    return Table("What they learnt", columns, rows, words=2)


def gradients(found: Results) -> Table:
    """What is left of the gradient after half a sequence, before and after training."""
    rows = []
    task, lag = longest_memory(found)
    for name in found.contenders:
        for when, text in claims.WHEN.items():
            looks = found.looks(task, name, when)
            if looks:
                rows.append(
                    (
                        CONTENDERS[name].title, text, spread([look.norm_at(lag) for look in looks]),
                        spread([look.direct_at(lag) for look in looks]) if name != "rnn" else NONE,
                        spread([look.decay for look in looks]), spread([look.half_life for look in looks]),
                        _of_first(looks, "lyapunov"),
                        spread([look.matrix for look in looks]) if name == "rnn" else NONE,
                    )
                )  # fmt: skip
    columns = (
        "contender", "when", f"left after {lag} steps", "left by the gate alone", "factor per step",
        "half-life, steps", "growth of the Jacobians' product, per step, first seed", "spectral radius of R",
    )  # fmt: skip
    return Table(f"Gradients through time, {TITLES[task].lower()}", columns, rows, words=2)


def gates(found: Results) -> Table:
    """How open the gates are, before and after training."""
    rows = []
    task, _ = longest_memory(found)
    for name in found.contenders:
        for when, text in claims.WHEN.items():
            looks = found.looks(task, name, when)
            for gate in looks[0].gates if looks else ():
                values = [[look.gates[gate][kind] for look in looks] for kind in ("mean", "low", "high")]
                mean, low, high = map(statistics.median, values)
                implied = spread([look.memory for look in looks]) if gate in ("f", "z") else NONE
                rows.append((CONTENDERS[name].title, text, gate, f"{mean:.2f}", f"{low:.0%}", f"{high:.0%}", implied))
    columns = ("contender", "when", "gate", "mean", "saturated low", "saturated high", "half-life implied, steps")
    return Table(f"Gates, {TITLES[task].lower()}", columns, rows, words=3)


def _of_first(looks: Sequence[Look], name: str) -> str:
    values = [value for value in (getattr(look, name) for look in looks) if value is not None]
    return f"{values[0]:.3g}" if values else NONE


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# The documentation

BLOCKS: dict[str, Callable[[Results], str]] = {
    "provenance": provenance,
    "verdicts": lambda found: verdicts(claims.claims(found)),
    "costs": lambda found: costs(found).markdown(),
    "learning": lambda found: learning(found).markdown(),
    "gradients": lambda found: gradients(found).markdown(),
    "gates": lambda found: gates(found).markdown(),
}

_BLOCK = re.compile(r"(<!-- compare:(\w+):begin -->\n).*?(<!-- compare:\2:end -->)", re.S)


def check_page(text: str) -> None:
    """ValueError if a page has no block to fill, or one of an unknown name."""
    names = [name for _, name, _ in _BLOCK.findall(text)]
    if not names:
        raise ValueError("it has no block between <!-- compare:NAME:begin --> and <!-- compare:NAME:end -->")
    for name in names:
        if name not in BLOCKS:
            raise ValueError(f"its block compare:{name} is none of {', '.join(BLOCKS)}")


def filled(text: str, found: Results) -> str:
    """A page with everything between its markers replaced."""
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]](found)}\n{match[3]}", text)


def write_docs(found: Results, page: Path) -> list[Path]:
    """Fill a Markdown page's blocks, and put results.json and the plots (PNG) into the folder of its name beside it."""
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    write(folder / "results.json", results.as_json(found))
    page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")
    return [page, folder / "results.json", *plots.draw(found, folder, (".png",))]
