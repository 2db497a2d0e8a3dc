"""The live table of a comparison: a row for each task and contender, with what has become of its seeds."""

from collections.abc import Sequence

from fastrnn.commands.display import LiveTable

from .contenders import CONTENDERS
from .jobs import Job
from .processes import Event
from .results import finite, solved_at
from .tasks import TITLES

_BAR = 12  # columns
COLUMNS = ("task", "contender", "seeds done", "now", "progress", "loss", "best", "solved at", "baseline")


class Board:
    """Takes the events of the processes, and shows what they come to.

    live       where it is shown
    jobs       all that the comparison consists of
    baselines  of the tasks
    """

    def __init__(self, live: LiveTable, jobs: Sequence[Job], baselines: dict[str, float]) -> None:
        self._live = live
        self._baselines = baselines
        self._total = len(jobs)
        self._groups: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            self._groups.setdefault(_group(job), []).append(job)
        self._running: dict[Job, tuple[float, float | None]] = {}
        self._losses: dict[Job, float | None] = {}
        self._failed: set[Job] = set()

    @property
    def done(self) -> int:
        """How many jobs have a result."""
        return len(self._losses)

    def have(self, job: Job, loss: float | None) -> None:
        """The job's result was there already."""
        self._losses[job] = loss

    def take(self, event: Event) -> None:
        """Note what happened, say so if it is an end, and show the table."""
        job = event.job
        if event.kind == "started":
            self._running[job] = (0.0, None)
        elif event.kind == "reported":
            self._running[job] = event.value
        else:
            self._running.pop(job, None)
            if event.kind == "finished":
                self._losses[job] = event.value.get("loss")
                number = f"[{self.done}/{self._total}]"
                self._live.say(f"{number} {describe(job)}: {_outcome(job, event.value)}")
            else:
                self._failed.add(job)
                self._live.say(f"FAILED {describe(job)}: {event.value}")
        self.show()

    def show(self) -> None:
        """Draw the table."""
        rows = [self._row(task, contender, jobs) for (task, contender), jobs in self._groups.items()]
        self._live.show(f"{self.done} of {self._total} done", COLUMNS, rows)

    def _row(self, task: str, contender: str, jobs: Sequence[Job]) -> tuple[str, ...]:
        ended = sum(job in self._losses for job in jobs)
        failed = sum(job in self._failed for job in jobs)
        losses = finite([self._losses.get(job) for job in jobs])
        now = [(job.seed, *self._running[job]) for job in jobs if job in self._running]
        limit = solved_at(task, self._baselines)
        return (
            TITLES.get(task, task),
            CONTENDERS[contender].title if contender in CONTENDERS else contender,
            f"{ended}/{len(jobs)}" + (f", {failed} failed" if failed else ""),
            " ".join(f"seed {seed}" for seed, _, _ in now),
            " ".join(_bar(fraction) for _, fraction, _ in now),
            " ".join(_figure(loss) for _, _, loss in now),
            _figure(min(losses, default=None)),
            _figure(limit),
            _figure(self._baselines.get(task)),
        )


def describe(job: Job) -> str:
    """The job in words."""
    if job.task is None or job.contender is None:
        return f"scaled matrices, seed {job.seed}"
    return f"{job.task}, {CONTENDERS[job.contender].title}, seed {job.seed}"


def _group(job: Job) -> tuple[str, str]:
    return (job.task, job.contender) if job.task and job.contender else ("scaled matrices", "RNN (tanh), untrained")


def _outcome(job: Job, result: dict) -> str:
    if job.task is None:
        return "done"
    loss = "not finite" if result["loss"] is None else f"{result['loss']:.4g}"
    diverged = f", diverged: {result['diverged']}" if result["diverged"] else ""
    return f"loss {loss} after {result['seconds']:.0f} s{diverged}"


def _bar(fraction: float) -> str:
    full = round(_BAR * fraction)
    return "█" * full + "░" * (_BAR - full)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
