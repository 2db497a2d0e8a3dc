"""The figures that are drawn from measurements: ratios to the peers, to one thread, shares of the limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from bench.competitors import OURS
from bench.results import Measurement, Results
from bench.roofline import least_seconds
from bench.timing import ratio

_Point = TypeVar("_Point")


def times_faster(measurement: Measurement, peer: str | None = None) -> float | None:
    """The peer's time over fastrnn's (without `peer`: the best peer's); None where either was not timed."""
    timings = measurement.timings
    peers = [timed for name, timed in timings.items() if (name != OURS if peer is None else name == peer)]
    if OURS not in timings or not peers:
        return None
    return min(ratio(timed, timings[OURS]) for timed in peers)


def undisturbed_times_faster(measurement: Measurement) -> float | None:
    """The best peer's time over fastrnn's, both of their best rounds; None where either was not timed."""
    peer = _best_peer(measurement)
    return None if peer is None or OURS not in measurement.timings else peer / measurement.timings[OURS].best


def times_faster_at_limit(measurement: Measurement, results: Results) -> float | None:
    """The best peer's time, of its best round, over the least that this machine could take for the case."""
    peer = _best_peer(measurement)
    if peer is None or not results.limits.covers(measurement.case):
        return None
    return peer / least_seconds(measurement.case, results.limits)


def _best_peer(measurement: Measurement) -> float | None:
    return min((timed.best for name, timed in measurement.timings.items() if name != OURS), default=None)


def flop_rate(measurement: Measurement) -> float | None:
    """FLOP/s of fastrnn's products."""
    return measurement.case.flops / measurement.timings[OURS].median if OURS in measurement.timings else None


def share_of_limit(measurement: Measurement, results: Results) -> float | None:
    """The least time this machine could take for the case, over the time fastrnn took undisturbed."""
    if OURS not in measurement.timings or not results.limits.covers(measurement.case):
        return None
    return least_seconds(measurement.case, results.limits) / measurement.timings[OURS].best


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of those ratios that exist; None of none."""
    logs = [math.log(ratio) for ratio in ratios if ratio is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None


def share_of_peak(measurement: Measurement, results: Results) -> float | None:
    """The rate of fastrnn's products, undisturbed, over the multiply-add peak of the same run."""
    case = measurement.case
    if OURS not in measurement.timings or not results.limits.covers(case):
        return None
    rate = case.flops / measurement.timings[OURS].best
    return rate / results.limits.multiply_add[case.dtype][case.threads]


def over_one_thread(measurement: Measurement, results: Results) -> float | None:
    """fastrnn's time on one thread over that on two, both undisturbed, for a measurement on two."""
    if measurement.case.threads != 2 or OURS not in measurement.timings:
        return None
    alone = replace(measurement.case, threads=1)
    for other in results.measurements:
        if other.case == alone and OURS in other.timings:
            return other.timings[OURS].best / measurement.timings[OURS].best
    return None


def grouped(measurements: Iterable[_Point], key: Callable[[_Point], tuple]) -> dict[tuple, list[_Point]]:
    """Measurements by key, in the order in which keys first occur."""
    groups: dict[tuple, list[_Point]] = {}
    for measurement in measurements:
        groups.setdefault(key(measurement), []).append(measurement)
    return groups
