"""What an experiment shows while it runs: with rich where it is installed and there is a terminal, else plain text."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Row = str | Sequence[str]  # of a table: a heading of the rows below it, or its cells
Rows = Sequence[Row]
Report = Callable[[float, str, float], None]  # (fraction done, figures to show, seconds left)

_BAR, _LEAST_BAR = 30, 5  # columns
_REDRAW = 0.1  # seconds
_COLOURS = {"ok": "green", "FAILED": "bold red"}  # of cells that say so
_LINES = 10  # how many lines a training prints where lines cannot be drawn over


class Display(Protocol):
    def say(self, text: str) -> None:
        """A line."""

    def waiting(self, text: str) -> AbstractContextManager[None]:
        """Say what takes a moment."""

    def progress(self, title: str) -> AbstractContextManager[Report]:
        """A progress bar; the context gives the function that moves it."""

    def chart(self, title: str, values: Mapping[str, float]) -> None:
        """A small bar chart of positive numbers; the last one stands out."""

    def passage(self, title: str, text: str) -> None:
        """A text as it is."""

    def table(self, title: str, columns: Sequence[str], rows: Rows, words: int = 1) -> None:
        """A table whose first columns, of words, are set to the left, the others, of numbers, to the right.

        The title may be "", for none.
        """

    def live(self) -> AbstractContextManager["LiveTable"]:
        """A table that changes while it stands at the bottom, and lines above it."""


class LiveTable(Protocol):
    def say(self, text: str) -> None:
        """A line above the table."""

    def show(self, title: str, columns: Sequence[str], rows: Rows) -> None:
        """The table as it is now; nothing where lines cannot be drawn over."""


def best_display(plain: bool = False) -> Display:
    """The best one for standard output; without rich if `plain`."""
    if sys.stdout is None:  # closed
        return PlainDisplay(io.StringIO(), redraw=False)
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if terminal and not plain and find_spec("rich") is not None:
        from rich.console import Console

        return RichDisplay(Console(highlight=False))
    return PlainDisplay(sys.stdout, redraw=terminal)


def count(number: int, noun: str, plural: str = "s") -> str:
    """So many of what the noun says."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"


class PlainDisplay:
    def __init__(self, stream: TextIO, redraw: bool) -> None:
        self.stream = stream
        self.redraw = redraw  # whether a carriage return lets a line be drawn over

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        print(f"{text} ... ", end="", file=self.stream, flush=True)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self.say("")
            raise
        self.say(f"{time.perf_counter() - start:.1f} s")

    @contextmanager
    def progress(self, title: str) -> Iterator[Report]:
        line = _RedrawnLine(self.stream, title) if self.redraw else _Lines(self.stream, title)
        try:
            yield line.report
        finally:
            line.end()

    def chart(self, title: str, values: Mapping[str, float]) -> None:
        self.say(f"\n{title}")
        width = max(map(len, values))
        bars = _bars(values, _columns(self.stream) - width - 12)
        for name, value in values.items():
            self.say(f"  {name:{width}}  {value:6.3f}  {'#' * bars[name]}")

    def passage(self, title: str, text: str) -> None:
        self.say(f"\n{title}")
        for line in text.splitlines():
            self.say(f"  | {line}".rstrip())

    def table(self, title: str, columns: Sequence[str], rows: Rows, words: int = 1) -> None:
        self.say(f"\n{title}" if title else "")
        of_cells = [columns, *(row for row in rows if not isinstance(row, str))]
        widths = [max(map(len, column)) for column in zip(*of_cells, strict=True)]
        margin = "  " if title else ""
        for row in (columns, *rows):
            if isinstance(row, str):
                self.say(f"\n{margin}{row}")
                continue
            cells = [
                cell.ljust(width) if k < words else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.say(f"{margin}{'  '.join(cells)}".rstrip())

    @contextmanager
    def live(self) -> Iterator[LiveTable]:
        yield _LinesOnly(self)


class _LinesOnly:
    def __init__(self, display: PlainDisplay) -> None:
        self.say = display.say

    def show(self, title: str, columns: Sequence[str], rows: Rows) -> None:
        pass


class _RedrawnLine:
    def __init__(self, stream: TextIO, title: str) -> None:
        self.stream = stream
        self.title = title
        self.drawn = 0.0
        self.width = 0

    def report(self, fraction: float, figures: str, seconds_left: float) -> None:
        now = time.perf_counter()
        if now - self.drawn < _REDRAW and fraction < 1.0:
            return
        self.drawn = now
        room = _columns(self.stream) - 1
        begin = f"{self.title} []"
        shown, left = _fitting(figures, seconds_left, room - len(f"{begin} 100%") - _LEAST_BAR)
        text = "  ".join([f" {fraction:4.0%}", *filter(None, (shown, left))])
        width = max(0, min(_BAR, room - len(begin + text)))
        full = round(width * fraction)
        line = f"{self.title} [{'#' * full}{'-' * (width - full)}]{text}"[:room]
        print("\r" + line.ljust(self.width), end="", file=self.stream, flush=True)
        self.width = len(line)

    def end(self) -> None:
        if self.width:
            print(file=self.stream, flush=True)


class _Lines:
    def __init__(self, stream: TextIO, title: str) -> None:
        self.stream = stream
        self.title = title
        self.printed = 0

    def report(self, fraction: float, figures: str, seconds_left: float) -> None:
        if int(_LINES * fraction) > self.printed:
            self.printed = int(_LINES * fraction)
            print(f"{self.title} {fraction:4.0%}  {figures}", file=self.stream, flush=True)

    def end(self) -> None:
        pass


def _fitting(figures: str, seconds_left: float, room: int) -> tuple[str, str]:
    """Of the figures, which two blanks part, and of the time left as many as there is room for with two blanks before
    each: a number that is cut off would be another."""
    fields = [*figures.split("  "), f"{seconds_left:.0f} s left"]
    kept = list(fields)
    while kept and sum(len(field) + 2 for field in kept) > room:
        kept.pop()
    left = kept.pop() if len(kept) == len(fields) else ""
    return "  ".join(kept), left


def _bars(values: Mapping[str, float], room: int) -> dict[str, int]:
    """How long the bars of a chart are, in columns."""
    unit = max(1, min(_BAR, room)) / max(values.values())
    return {name: round(unit * value) for name, value in values.items()}


def _columns(stream: TextIO) -> int:
    """The width of the terminal that `stream` writes to."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


class RichDisplay:
    def __init__(self, console: "Console") -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.console.status(text):
            yield
        self.console.print(f"{text} ... {time.perf_counter() - start:.1f} s", style="dim", markup=False)

    @contextmanager
    def progress(self, title: str) -> Iterator[Report]:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[figures]}", style="green", markup=False),
            TextColumn("{task.fields[left]}", style="dim", markup=False),
        )
        with Progress(*columns, console=self.console, expand=True) as bar:
            task = bar.add_task(title, total=1.0, figures="", left="")

            def report(fraction: float, figures: str, seconds_left: float) -> None:
                shown, left = _fitting(figures, seconds_left, self.console.width - len(f"{title} 100% ") - _LEAST_BAR)
                bar.update(task, completed=fraction, figures=shown, left=left)

            yield report

    def chart(self, title: str, values: Mapping[str, float]) -> None:
        from rich.table import Table

        table = Table(box=None, show_header=False)
        figures = {name: f"{value:.3f}" for name, value in values.items()}
        bars = _bars(values, self.console.width - max(map(len, values)) - max(map(len, figures.values())) - 6)
        for n, name in enumerate(values, 1):
            style = "bold green" if n == len(values) else ""
            table.add_row(name, figures[name], "█" * bars[name], style=style)
        self.console.print(f"\n{title}", style="bold", markup=False)
        self.console.print(table)

    def passage(self, title: str, text: str) -> None:
        from rich.panel import Panel
        from rich.text import Text

        self.console.print()
        self.console.print(Panel(Text(text), title=Text(title, style="bold"), title_align="left", border_style="dim"))

    def table(self, title: str, columns: Sequence[str], rows: Rows, words: int = 1) -> None:
        self.console.print()
        self.console.print(_rich_table(title, columns, rows, words))

    @contextmanager
    def live(self) -> Iterator[LiveTable]:
        from rich.live import Live

        with Live(console=self.console, refresh_per_second=4) as live:
            yield _RichLive(live)


class _RichLive:
    def __init__(self, live: "Live") -> None:
        self.live = live

    def say(self, text: str) -> None:
        self.live.console.print(text, markup=False)

    def show(self, title: str, columns: Sequence[str], rows: Rows) -> None:
        table = _rich_table(title, columns, rows)
        console = self.live.console
        unlimited = console.options.update(max_width=1 << 16)
        for number in range(len(columns) - 1, 0, -1):  # the last ones go where words would be cut off
            if console.measure(table, options=unlimited).minimum <= console.width:
                break
            table = _rich_table(title, columns[:number], [_first(row, number) for row in rows])
        self.live.update(table)


def _first(row: Row, number: int) -> Row:
    """So many cells."""
    return row if isinstance(row, str) else row[:number]


def _rich_table(title: str, columns: Sequence[str], rows: Rows, words: int = 1) -> "RenderableType":
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(title=escape(title) or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for k, column in enumerate(columns):
        # folded, for a number that is cut off would be another
        justify: Literal["left", "right"] = "left" if k < words else "right"
        table.add_column(escape(column), justify=justify, header_style="dim", overflow="fold")
    for row in rows:
        if isinstance(row, str):
            table.add_row()
            table.add_row(Text(row, style="bold cyan"))
        else:
            table.add_row(*[Text(cell, style=_COLOURS.get(cell, "")) for cell in row])
    return table
