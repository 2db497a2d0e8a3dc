"""Targets of any kind: what should be reached, at which points it was measured, and which of them fall short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LISTED = 8  # points that miss a target are named, the furthest first, up to so many


@dataclass(frozen=True)
class Reached:
    """A target and its points, each a name with its value in the target's own unit."""

    text: str
    limit: float
    points: Sequence[tuple[str, float]]
    at_least: bool = True  # False: at most

    def missed(self) -> list[tuple[str, float]]:
        """The points that fall short, the furthest first."""
        short = [(name, value) for name, value in self.points if not self._met(value)]
        return sorted(short, key=lambda point: point[1], reverse=not self.at_least)

    def _met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def row(self) -> tuple[str, str, str]:
        """Its text, how many points reach it, and their share."""
        total = len(self.points)
        met = total - len(self.missed())
        return self.text, f"{met} of {total}", f"{met / total:.0%}" if total else "-"

    def shortfall(self) -> str | None:
        """The points that fall short, in words; None if there are none."""
        short = self.missed()
        if not short:
            return None
        points = ", ".join(f"`{name}` ({value:.2f})" for name, value in short[:LISTED])
        more = f" and {len(short) - LISTED} more" if len(short) > LISTED else ""
        return f"- {self.text}; furthest from it: {points}{more}"
