"""Interleaved timing: every round samples every competitor, so a busy moment of the machine falls on all alike."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count

import numpy as np

from bench.competitors import Runner

MIN_ROUNDS = 9
MAX_ROUNDS = 500
MIN_SAMPLE = 1e-3  # seconds; shorter calls are repeated within a sample, against the clock's own cost
WARM_UP = 0.05  # seconds of calls before the first sample, at least two calls
LONG_CALL = 0.1  # seconds; a call this long gains nothing from an untimed one just before
AWAKE = 5e-3  # seconds of untimed calls before a sample: after a pause a processor comes up to speed slowly

# Worker threads outlive the call that woke them: PyTorch's OpenMP threads spin for about 10 ms, ONNX Runtime's for
# 50 ms and more, depending on the processor's pause instruction. They would take cores from whoever runs next. Turning
# the spinning off (OMP_WAIT_POLICY, session.intra_op.allow_spinning) would slow their owners down, and a fixed pause is
# either too short or a waste. So every library keeps its defaults; between two competitors we wait until this
# process's own CPU time stands still, which means that all workers are parked; and each competitor makes untimed
# calls right before its sample, which wake its workers and warm its caches again.
QUIET_WINDOW = 0.01  # seconds; the kernel accounts for running threads at its tick, every 4 to 10 ms, no oftener
QUIET_SHARE = 0.05  # of one core over a window
QUIET_TIMEOUT = 1.0  # seconds


@dataclass(frozen=True)
class Timing:
    """Seconds for one call: median and 10th and 90th percentile over the rounds, and how they were taken.

    A machine that others work on too has slow moments, some longer than a round. So who is faster, and by how much, is
    asked round by round (`ratio`, `difference`), where both had the same moment; and what is held against the
    machine's limits, which are the best of many measurements, or against what was timed at another time, is `best`.
    """

    median: float
    p10: float
    p90: float
    rounds: int
    repetitions: int  # calls in one sample
    samples: list[float] = field(default_factory=list)  # of each round; none in files older than these

    @property
    def best(self) -> float:
        """The least of all rounds: what slow moments did not reach. Of older files the 10th percentile."""
        return min(self.samples, default=self.p10)

    def part(self, parts: int) -> Timing:
        """Of one of so many equal parts of the call."""
        return summarize([s / parts for s in self.samples], self.repetitions)


def summarize(samples: list[float], repetitions: int) -> Timing:
    """Statistics of samples in seconds for one call."""
    p10, median, p90 = np.percentile(samples, (10, 50, 90))
    kept = [float(f"{s:.6g}") for s in samples]  # finer than any clock, and short in a file
    return Timing(float(median), float(p10), float(p90), len(samples), repetitions, kept)


def ratio(one: Timing, other: Timing) -> float:
    """How many times as long one took as the other, timed with it: the median over the rounds."""
    if not _paired(one, other):
        return one.median / other.median
    return float(np.median(np.divide(one.samples, other.samples)))


def difference(one: Timing, other: Timing) -> float:
    """How many seconds longer one took than the other, timed with it: the median over the rounds."""
    if not _paired(one, other):
        return one.median - other.median
    return float(np.median(np.subtract(one.samples, other.samples)))


def _paired(one: Timing, other: Timing) -> bool:
    """Whether their rounds are known. Where they are not, medians have to do."""
    if len(one.samples) != len(other.samples):
        number = f"{len(one.samples)} and {len(other.samples)}"
        raise ValueError(f"expected two that were timed together, got samples of {number} rounds")
    return bool(one.samples)


def interleaved(names: list[str], round_: int) -> list[str]:
    """The order of one round: another each time, so that nobody always follows the same one; the same in every run."""
    return random.Random(round_).sample(names, len(names))


def wait_until_quiet() -> None:
    """Return when this process's threads have stopped spinning (or after a second, if they never do)."""
    deadline = time.perf_counter() + QUIET_TIMEOUT
    while time.perf_counter() < deadline:
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(QUIET_WINDOW)
        if time.process_time() - cpu < QUIET_SHARE * (time.perf_counter() - wall):
            return


def measure(
    runners: Mapping[str, Runner], seconds: float, settle: Callable[[], None] = wait_until_quiet
) -> dict[str, Timing]:
    """Time each runner's call, interleaved, for about `seconds` in all but at least MIN_ROUNDS rounds."""
    names = list(runners)
    repetitions, untimed = {}, {}
    for name, runner in runners.items():
        settle()
        runner.set_threads()
        duration = _warm_up(runner)
        repetitions[name] = max(1, math.ceil(MIN_SAMPLE / duration))
        untimed[name] = duration < LONG_CALL
    samples: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        deadline = time.perf_counter() + seconds
        for round_ in count():
            if round_ == MAX_ROUNDS or (round_ >= MIN_ROUNDS and time.perf_counter() > deadline):
                break
            for name in interleaved(names, round_):
                settle()
                runners[name].set_threads()
                if untimed[name]:
                    _wake(runners[name])
                samples[name].append(sample(runners[name], repetitions[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: summarize(samples[name], repetitions[name]) for name in names}


def measured(runners: Mapping[str, Runner], seconds: float) -> dict[str, dict]:
    """What `measure` returns, as a results file has it."""
    return {name: asdict(timed) for name, timed in measure(runners, seconds).items()}


def _wake(runner: Runner) -> None:
    """Untimed calls for AWAKE seconds, at least one."""
    end = time.perf_counter() + AWAKE
    runner.call()
    while time.perf_counter() < end:
        runner.call()


def _warm_up(runner: Runner) -> float:
    """Call at least twice and for WARM_UP seconds; the shortest call in seconds."""
    shortest = math.inf
    deadline = time.perf_counter() + WARM_UP
    for calls in count():
        if calls >= 2 and time.perf_counter() > deadline:
            return shortest
        shortest = min(shortest, sample(runner, 1))
    raise AssertionError("unreachable")


def sample(runner: Runner, repetitions: int) -> float:
    """Seconds for one call, averaged over `repetitions` in a row."""
    if runner.sample is not None:
        return runner.sample(repetitions)
    call = runner.call
    start = time.perf_counter()
    for _ in range(repetitions):
        call()
    return (time.perf_counter() - start) / repetitions
