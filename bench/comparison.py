"""The figures that are drawn from measurements: ratios to the peers, shares of the limit, targets met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from bench.cases import Case
from bench.competitors import OURS
from bench.results import Measurement, Results
from bench.roofline import least_seconds
from bench.targets import Reached


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


GOALS = {"forward": 1.15, "training": 1.3}
"""How many times as fast as the best peer every point of a mode should be."""
MEANS = {"forward": 2.0, "training": 5.0}
"""The same for the geometric mean over all points."""
PEAKS = {"forward": 0.88, "training": 0.8}
"""The share of the multiply-add peak that large batches should reach."""
READING = 0.8
"""The share of the reading limit that a batch of 1 should reach."""
SECOND_THREAD = 1.8
"""How many times as fast large batches should be on two threads as on one."""


def is_large(case: Case) -> bool:
    """Whether its products should keep the multiply-add units busy."""
    return case.B >= 16 and case.H >= 128


def is_reading(case: Case) -> bool:
    """Whether it waits for R from the caches."""
    return case.B == 1 and case.T > 1 and case.H >= 256


def share_of_peak(measurement: Measurement, results: Results) -> float | None:
    """The rate of fastrnn's products over the multiply-add peak of the same run."""
    rate = flop_rate(measurement)
    if rate is None or not results.limits.covers(measurement.case):
        return None
    return rate / results.limits.multiply_add[measurement.case.dtype][measurement.case.threads]


def over_one_thread(measurement: Measurement, results: Results) -> float | None:
    """fastrnn's time on one thread over that on two, for a measurement on two."""
    if measurement.case.threads != 2 or OURS not in measurement.timings:
        return None
    alone = replace(measurement.case, threads=1)
    for other in results.measurements:
        if other.case == alone and OURS in other.timings:
            return other.timings[OURS].median / measurement.timings[OURS].median
    return None


def targets(results: Results) -> list[Reached]:
    """What the grid of cases should show."""

    def reached(text: str, limit: float, value, chosen=lambda case: True) -> Reached:
        values = [(m.case.id, value(m)) for m in results.measurements if chosen(m.case)]
        return Reached(text, limit, [(name, number) for name, number in values if number is not None])

    found = [
        reached(
            "training not slower than PyTorch", 1.0,
            lambda m: times_faster(m, "torch"), lambda case: case.mode == "training",
        )
    ]  # fmt: skip
    for mode, goal in GOALS.items():
        text = f"{mode} at least {goal} times as fast as the best peer"
        found.append(reached(text, goal, times_faster, lambda case, mode=mode: case.mode == mode))
    for mode, goal in MEANS.items():
        mean = geometric_mean(times_faster(m) for m in results.measurements if m.case.mode == mode)
        text = f"{mode} on average (geometric mean) at least {goal:g} times as fast as the best peer"
        found.append(Reached(text, goal, [] if mean is None else [("all points", mean)]))
    found.append(
        reached(
            "one frame in a call not slower than ONNX Runtime", 1.0,
            lambda m: times_faster(m, "onnxruntime"), lambda case: (case.mode, case.T, case.B) == ("forward", 1, 1),
        )
    )  # fmt: skip
    for mode, goal in PEAKS.items():
        found.append(
            reached(
                f"{mode} at {goal:.0%} of the multiply-add peak or more (B >= 16, H >= 128)", goal,
                lambda m: share_of_peak(m, results), lambda case, mode=mode: case.mode == mode and is_large(case),
            )
        )  # fmt: skip
    found += [
        reached(
            f"forward at {READING:.0%} or more of what reading the weights allows (B = 1, H >= 256)", READING,
            lambda m: share_of_limit(m, results), lambda case: case.mode == "forward" and is_reading(case),
        ),
        reached(
            f"two threads at least {SECOND_THREAD} times as fast as one (B >= 16, H >= 128)", SECOND_THREAD,
            lambda m: over_one_thread(m, results), is_large,
        ),
        reached("two threads not slower than one", 1.0, lambda m: over_one_thread(m, results)),
    ]  # fmt: skip
    return found


def grouped(measurements: Iterable[Measurement], key: Callable[[Measurement], tuple]) -> dict[tuple, list[Measurement]]:
    """Measurements by key, in the order in which keys first occur."""
    groups: dict[tuple, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(key(measurement), []).append(measurement)
    return groups
