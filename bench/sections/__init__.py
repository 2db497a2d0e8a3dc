"""What is measured beside the grid of cases: one module for each subject.

Such a module has TITLE; `measure(effort) -> list of points`, dictionaries that go into the results file as they are;
`targets(points) -> list of Reached`; and `report(points) -> Markdown` below the title.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    seconds: float  # for all that is timed at one point
    quick: bool  # few and small points


def sections() -> dict[str, ModuleType]:
    """The modules by the names that the command line and the results files have for them."""
    from bench.sections import anatomy, growth, memory, precision, startup, stream, updates

    return {
        "stream": stream,
        "updates": updates,
        "growth": growth,
        "float64": precision,
        "memory": memory,
        "startup": startup,
        "anatomy": anatomy,
    }
