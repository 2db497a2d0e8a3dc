"""The claims about plain RNN, GRU and LSTM, and what the measurements say for and against each.

Each claim is broken into tests with a threshold. It is supported if all hold, not supported if none does, and mixed
otherwise; where what was measured leaves that open, it is not decided.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .results import Cost, Results, Scaled, finite

SUPPORTED, MIXED, REFUTED, UNDECIDED = "supported", "mixed", "not supported", "not decided"

ALIVE = 0.01  # a gradient is alive if so much of it is left
GROWTH = 0.01  # a gradient vanishes or explodes if it changes by so much per step: by half or twice in 70
RADIUS_TOLERANCE = 0.02  # between decay per step and spectral radius, where they should be the same
FASTER = 0.8  # fewer updates count as fewer from here
TIME_RANGE = (0.65, 0.85)  # about three quarters
PARAMETERS_TOLERANCE = 0.01
NO_WORSE_BITS = 0.02  # per character
SEES = 0.5  # the part of the baseline that a loss must reach for the answer to count as lost


@dataclass(frozen=True)
class Test:
    """One test of a claim."""

    text: str  # what is asked, with its threshold
    holds: bool | None  # None: there was nothing to judge it by
    numbers: str  # what was measured, or why that says nothing


@dataclass(frozen=True)
class Claim:
    """A claim and its tests."""

    letter: str
    text: str
    tests: list[Test]

    @property
    def judged(self) -> int:
        """How many of its tests were."""
        return sum(test.holds is not None for test in self.tests)

    @property
    def verdict(self) -> str:
        """In one or two words."""
        outcomes = {test.holds for test in self.tests}
        if {True, False} <= outcomes:
            return MIXED
        if None in outcomes:
            return UNDECIDED
        return SUPPORTED if True in outcomes else REFUTED

    @property
    def summary(self) -> str:
        """The verdict, and by how many tests."""
        held = sum(test.holds is True for test in self.tests)
        missing = len(self.tests) - self.judged
        return f"{self.verdict}: {held} of {self.judged} tests hold" + (f", {missing} not judged" if missing else "")


def claims(results: Results) -> list[Claim]:
    """All of them, tested."""
    return [
        Claim(
            "a",
            "A plain RNN's gradient vanishes or explodes with the eigenvalues of its recurrent matrix.",
            _eigenvalues(results.scaled),
        ),
        Claim("b", "The LSTM's cell path and the GRU's update gate keep it alive.", _kept_alive(results)),
        Claim("c", "A forget-gate bias of 1 is what the LSTM needs for that.", _forget_bias(results)),
        Claim(
            "d", "The GRU does it without a cell, with three quarters of the parameters and time.",
            _three_quarters(results),
        ),
        Claim(
            "e", "The LSTM has three inputs and two outputs a step, the GRU two and one: its cell is the second line.",
            _interfaces(results),
        ),
    ]  # fmt: skip


def _eigenvalues(scaled: Sequence[Scaled]) -> list[Test]:
    rest = [each for each in scaled if not each.driven]
    driven = [each for each in scaled if each.driven]
    radii = sorted({each.radius for each in scaled})
    low, high = [r for r in radii if r < 1], [r for r in radii if r > 1]

    def decays(among: Sequence[Scaled], radius: float) -> float:
        return statistics.median(each.decay for each in among if each.radius == radius)

    def off(among: Sequence[Scaled]) -> float:
        return max(abs(each.decay - each.radius) for each in among)

    def listed(among: Sequence[Scaled], of: Sequence[float]) -> str:
        return ", ".join(f"{decays(among, r):.3f} at radius {r:g}" for r in of)

    exponents = [abs(each.decay - each.lyapunov) for each in driven if each.lyapunov is not None]
    explained = f"; the Jacobians' own growth per step is off by up to {max(exponents):.3f}" if exponents else ""
    return [
        _test(
            f"with the state at rest, where tanh is the identity, the decay per step is the spectral radius within "
            f"{RADIUS_TOLERANCE}",
            rest, lambda: off(rest) <= RADIUS_TOLERANCE,
            lambda: f"at most {off(rest):.3f} off; {listed(rest, radii)}",
        ),
        _test(
            f"driven by input, it vanishes, by at least {GROWTH:.0%} per step, at every radius below 1",
            driven and low, lambda: all(decays(driven, r) <= 1 - GROWTH for r in low), lambda: listed(driven, low),
        ),
        _test(
            f"driven by input, it explodes, by at least {GROWTH:.0%} per step, at every radius above 1",
            driven and high, lambda: all(decays(driven, r) >= 1 + GROWTH for r in high), lambda: listed(driven, high),
        ),
        _test(
            f"driven by input, the decay per step is still the radius within {RADIUS_TOLERANCE}",
            driven, lambda: off(driven) <= RADIUS_TOLERANCE,
            lambda: f"up to {off(driven):.3f} off, because tanh saturates{explained}",
        ),
    ]  # fmt: skip


def _kept_alive(results: Results) -> list[Test]:
    task, lag = longest_memory(results)

    def alive(contender: str, when: str) -> Test:
        numbers = finite([look.norm_at(lag) for look in results.looks(task, contender, when)])
        text = f"{TITLES[contender]}, {WHEN[when]}: at least {ALIVE} of the gradient is left after {lag} steps"
        return _test(text, numbers, lambda: most(n >= ALIVE for n in numbers), lambda: spread(numbers))

    def by_gate(contender: str, path: str) -> Test:
        numbers = finite([look.direct_at(lag) for look in results.looks(task, contender, "trained")])
        text = f"{TITLES[contender]}, after training: {path} alone leaves at least {ALIVE} of it"
        return _test(text, numbers, lambda: most(n >= ALIVE for n in numbers), lambda: spread(numbers))

    plain = finite([look.norm_at(lag) for look in results.looks(task, "rnn", "trained")])
    lost = _test(
        f"plain RNN, after training: less than {ALIVE} is left",
        plain, lambda: most(n < ALIVE for n in plain), lambda: spread(plain),
    )  # fmt: skip
    return [
        alive("gru", "trained"),
        alive("lstm", "trained"),
        by_gate("gru", "the update gate"),
        by_gate("lstm", "the cell path"),
        lost,
        alive("gru", "start"),
        alive("lstm", "start"),
    ]


def _forget_bias(results: Results) -> list[Test]:
    task, lag = longest_memory(results)
    one, other = (
        finite([look.norm_at(lag) for look in results.looks(task, name, "start")]) for name in ("lstm", "lstm-default")
    )
    tasks = [
        t for t in results.tasks if results.solved_at(t) and results.of(t, "lstm") and results.of(t, "lstm-default")
    ]
    solved = {t: [_solved(results, t, name) for name in ("lstm", "lstm-default")] for t in tasks}
    solved = {t: each for t, each in solved.items() if any(map(any, each))}
    needed = {t: [_updates(results, t, name) for name in ("lstm", "lstm-default")] for t in tasks}
    needed = {t: each for t, each in needed.items() if min(each) < math.inf}
    bits = [[run.loss for run in results.of("text", name)] for name in ("lstm", "lstm-default")]
    return [
        _test(
            f"at the start at least {ALIVE} of the gradient is left after {lag} steps with it, and less without",
            one and other,
            lambda: most(n >= ALIVE for n in one) and not most(n >= ALIVE for n in other),
            lambda: f"with it {spread(one)}, without {spread(other)}",
        ),
        _test(
            "there is a task that most seeds solve with it and do not without",
            solved, lambda: any(most(with_it) and not most(without) for with_it, without in solved.values()),
            lambda: "; ".join(f"{t}: {_share(a)} with it, {_share(b)} without" for t, (a, b) in solved.items()),
            _unsolved(tasks),
        ),
        _test(
            f"it needs at most {FASTER} of the updates to solve a task, in the median over those that either solves",
            needed, lambda: statistics.median(a / b if a < math.inf else a for a, b in needed.values()) <= FASTER,
            lambda: "; ".join(f"{t}: {_times(a)} with it, {_times(b)} without" for t, (a, b) in needed.items()),
            _unsolved(tasks, " by most seeds"),
        ),
        _test(
            "on the text it needs fewer bits per character with every seed than any seed without",
            finite(bits[0]) and finite(bits[1]), lambda: max(finite(bits[0])) < min(finite(bits[1])),
            lambda: f"with it {spread(bits[0])}, without {spread(bits[1])}",
        ),
    ]  # fmt: skip


def _three_quarters(results: Results) -> list[Test]:
    costs = results.costs
    tasks = [t for t in results.tasks if results.solved_at(t) and results.of(t, "gru") and results.of(t, "lstm")]
    solved = {t: [_solved(results, t, name) for name in ("gru", "lstm")] for t in tasks}
    solved = {t: each for t, each in solved.items() if any(map(any, each))}
    bits = [finite([run.loss for run in results.of("text", name)]) for name in ("gru", "lstm")]
    measured = "gru" in costs and "lstm" in costs

    def ratio(of: Callable[[Cost], float]) -> float:
        return of(costs["gru"]) / of(costs["lstm"])

    low, high = TIME_RANGE
    return [
        _test(
            f"counted: its layer has 3/4 of the parameters within {PARAMETERS_TOLERANCE}",
            measured, lambda: abs(ratio(lambda c: c.parameters) - 0.75) <= PARAMETERS_TOLERANCE,
            lambda: f"{ratio(lambda c: c.parameters):.3f}",
        ),
        _test(
            f"a step of training takes {low} to {high} of the LSTM's time",
            measured, lambda: low <= ratio(lambda c: c.training) <= high,
            lambda: f"{ratio(lambda c: c.training):.2f} in training, {ratio(lambda c: c.forward):.2f} forward",
        ),
        _test(
            "it solves with at least as many seeds every task that either solves",
            solved, lambda: all(sum(gru) / len(gru) >= sum(lstm) / len(lstm) for gru, lstm in solved.values()),
            lambda: "; ".join(f"{t}: GRU {_share(a)}, LSTM {_share(b)}" for t, (a, b) in solved.items()),
            _unsolved(tasks),
        ),
        _test(
            f"on the text it needs at most {NO_WORSE_BITS} bits per character more, in the median",
            all(bits), lambda: statistics.median(bits[0]) - statistics.median(bits[1]) <= NO_WORSE_BITS,
            lambda: f"GRU {spread(bits[0])}, LSTM {spread(bits[1])}",
        ),
    ]  # fmt: skip


def _interfaces(results: Results) -> list[Test]:
    costs = results.costs
    task, _ = longest_memory(results)
    baseline = results.baselines.get(task, 1.0)
    measured = "gru" in costs and "lstm" in costs

    def erased(contender: str, part: str) -> list[float]:
        # of those that had something to lose
        limit = results.solved_at(task) or 0.0
        runs = [run for run in results.of(task, contender) if run.loss is not None and run.loss < limit]
        return finite([run.erased.get(part) for run in runs])

    def without(contender: str) -> str:
        return _unsolved([task] if results.solved_at(task) and results.of(task, contender) else [])

    cell, hidden, gru = erased("lstm", "c"), erased("lstm", "h"), erased("gru", "h")
    lost = SEES * baseline
    return [
        _test(
            "counted: a step takes x and the state, and hands the state on",
            measured,
            lambda: [(costs[n].inputs, costs[n].outputs) for n in ("lstm", "gru")] == [(3, 2), (2, 1)],
            lambda: "; ".join(f"{TITLES[n]} {costs[n].inputs} in, {costs[n].outputs} out" for n in ("lstm", "gru")),
        ),
        _test(
            "counted: of a stream, the LSTM carries twice as many bytes from step to step at equal size",
            measured, lambda: costs["lstm"].state_bytes == 2 * costs["gru"].state_bytes,
            lambda: f"{costs['lstm'].state_bytes} and {costs['gru'].state_bytes} bytes at {costs['gru'].hidden} units",
        ),
        _test(
            f"the cell is what remembers: setting c to 0 once, halfway, loses the answer (loss {lost:.3g} or more)",
            cell, lambda: most(loss >= lost for loss in cell), lambda: spread(cell), without("lstm"),
        ),
        _test(
            "and setting h to 0 in its place does not",
            hidden, lambda: not most(loss >= lost for loss in hidden), lambda: spread(hidden), without("lstm"),
        ),
        _test(
            "the GRU's single h remembers: setting it to 0 loses the answer",
            gru, lambda: most(loss >= lost for loss in gru), lambda: spread(gru), without("gru"),
        ),
    ]  # fmt: skip


TITLES = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM with forget bias 1", "lstm-default": "LSTM with PyTorch's start"}
WHEN = {"start": "at the start", "trained": "after training"}


def longest_memory(results: Results) -> tuple[str, int]:
    """The task on which gradients are judged, and after how many steps: half a sequence."""
    task = next((task for task in results.tasks), "adding")
    return task, (results.settings.probe_steps if task == "text" else results.settings.task(task).steps) // 2


def most(values: Iterable[bool]) -> bool:
    """Whether more than half are true."""
    listed = list(values)
    return 2 * sum(listed) > len(listed)


def spread(values: Sequence[float | None]) -> str:
    """The median and the range."""
    numbers = finite(values)
    if not numbers:
        return "no finite number"
    middle = f"{statistics.median(numbers):.3g}"
    return middle if len(numbers) == 1 else f"{middle} ({min(numbers):.3g} to {max(numbers):.3g})"


def _solved(results: Results, task: str, contender: str) -> list[bool]:
    limit = results.solved_at(task) or 0.0
    return [run.loss is not None and run.loss < limit for run in results.of(task, contender)]


def _unsolved(tasks: Sequence[str], by: str = "") -> str:
    """Why tests that only look at who solved one of these tasks have nothing to judge."""
    if not tasks:
        return "not measured"
    return f"nothing to judge by, for {' and '.join(tasks)} {'was' if len(tasks) == 1 else 'were'} not solved{by}"


def _updates(results: Results, task: str, contender: str) -> float:
    """The median of the updates until the task is solved; infinite unless most seeds solve it."""
    needed = [run.first_below(results.solved_at(task) or 0.0) for run in results.of(task, contender)]
    return statistics.median(math.inf if n is None else n for n in needed)


def _times(updates: float) -> str:
    return f"{updates:,.0f} updates" if updates < math.inf else "never"


def _share(solved: Sequence[bool]) -> str:
    return f"{sum(solved)} of {len(solved)}"


def _test(
    text: str, measured: object, holds: Callable[[], bool], numbers: Callable[[], str], otherwise: str = "not measured"
) -> Test:
    """The test, where there is something to judge; `otherwise`: why there is not."""
    return Test(text, bool(holds()), numbers()) if measured else Test(text, None, otherwise)
