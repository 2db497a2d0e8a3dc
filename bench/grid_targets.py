"""What the grid of cases should show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.cases import Case
from bench.comparison import geometric_mean, over_one_thread, share_of_limit, share_of_peak, times_faster
from bench.results import Measurement, Results
from bench.targets import Reached

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


@dataclass(frozen=True)
class Target:
    """A value that every measurement of some cases should reach; None for one that it says nothing of."""

    text: str
    limit: float
    value: Callable[[Measurement, Results], float | None]
    chosen: Callable[[Case], bool]

    def reached(self, results: Results) -> Reached:
        values = [(m.case.id, self.value(m, results)) for m in results.measurements if self.chosen(m.case)]
        return Reached(self.text, self.limit, [(name, value) for name, value in values if value is not None])


def _than(peer: str | None) -> Callable[[Measurement, Results], float | None]:
    return lambda measurement, results: times_faster(measurement, peer)


def _mode(mode: str) -> Callable[[Case], bool]:
    return lambda case: case.mode == mode


def _large(case: Case) -> bool:
    """Its products should keep the multiply-add units busy."""
    return case.B >= 16 and case.H >= 128


def _large_of(mode: str) -> Callable[[Case], bool]:
    return lambda case: case.mode == mode and _large(case)


def _reading(case: Case) -> bool:
    """It waits for R from the caches."""
    return case.mode == "forward" and case.B == 1 and case.T > 1 and case.H >= 256


def _one_frame(case: Case) -> bool:
    return case.mode == "forward" and case.T == case.B == 1


LARGE = "(B >= 16, H >= 128)"
POINTS = (
    Target("training not slower than PyTorch", 1.0, _than("torch"), _mode("training")),
    *(
        Target(f"{mode} at least {goal} times as fast as the best peer", goal, _than(None), _mode(mode))
        for mode, goal in GOALS.items()
    ),
    Target("one frame in a call not slower than ONNX Runtime", 1.0, _than("onnxruntime"), _one_frame),
    *(
        Target(f"{mode} at {goal:.0%} of the multiply-add peak or more {LARGE}", goal, share_of_peak, _large_of(mode))
        for mode, goal in PEAKS.items()
    ),
    Target(
        f"forward at {READING:.0%} or more of what reading the weights allows (B = 1, H >= 256)",
        READING,
        share_of_limit,
        _reading,
    ),
    Target(
        f"two threads at least {SECOND_THREAD} times as fast as one {LARGE}", SECOND_THREAD, over_one_thread, _large
    ),
    Target("two threads not slower than one", 1.0, over_one_thread, lambda case: True),
)


def targets(results: Results) -> list[Reached]:
    """Those of single points, then those of all points together."""
    found = [target.reached(results) for target in POINTS]
    for mode, goal in MEANS.items():
        mean = geometric_mean(times_faster(m) for m in results.measurements if m.case.mode == mode)
        text = f"{mode}, geometric mean of all points, at least {goal:g} times as fast as the best peer"
        found.append(Reached(text, goal, [] if mean is None else [("all", mean)]))
    return found
