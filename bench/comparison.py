"""The figures that are drawn from measurements: ratios to the peers, shares of the limit, targets met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from bench.competitors import OURS
from bench.results import Measurement, Results
from bench.roofline import least_seconds

_Point = TypeVar("_Point")


def times_faster(measurement: Measurement, peer: str | None = None) -> float | None:
    """The peer's median time over fastrnn's (without `peer`: the best peer's); None where either was not timed."""
    timings = measurement.timings
    peers = [timing.median for name, timing in timings.items() if (name != OURS if peer is None else name == peer)]
    if OURS not in timings or not peers:
        return None
    return min(peers) / timings[OURS].median


def flop_rate(measurement: Measurement) -> float | None:
    """FLOP/s of fastrnn's products."""
    return measurement.case.flops / measurement.timings[OURS].median if OURS in measurement.timings else None


def share_of_limit(measurement: Measurement, results: Results) -> float | None:
    """The least time this machine could take for the case, over the time fastrnn took."""
    if OURS not in measurement.timings or not results.limits.covers(measurement.case):
        return None
    return least_seconds(measurement.case, results.limits) / measurement.timings[OURS].median


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of those ratios that exist; None of none."""
    logs = [math.log(ratio) for ratio in ratios if ratio is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None


@dataclass(frozen=True)
class Target:
    """A ratio that every point of a mode should reach."""

    text: str
    mode: str
    ratio: float
    peer: str | None = None  # None: the best of all peers

    def points(self, results: Results) -> list[tuple[Measurement, float]]:
        """The measurements it speaks of, each with its ratio."""
        of_mode = [m for m in results.measurements if m.case.mode == self.mode]
        return [(m, ratio) for m in of_mode if (ratio := times_faster(m, self.peer)) is not None]

    def missed(self, results: Results) -> list[tuple[Measurement, float]]:
        """Those points that fall short, the furthest first."""
        short = [(m, ratio) for m, ratio in self.points(results) if ratio < self.ratio]
        return sorted(short, key=lambda point: point[1])


TARGETS = (
    Target("training not slower than PyTorch", "training", 1.0, "torch"),
    Target("forward at least 1.15 times as fast as the best peer", "forward", 1.15),
    Target("training at least 1.3 times as fast as the best peer", "training", 1.3),
)


def grouped(measurements: Iterable[_Point], key: Callable[[_Point], tuple]) -> dict[tuple, list[_Point]]:
    """Measurements by key, in the order in which keys first occur."""
    groups: dict[tuple, list[_Point]] = {}
    for measurement in measurements:
        groups.setdefault(key(measurement), []).append(measurement)
    return groups
