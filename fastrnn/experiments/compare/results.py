"""The results of a comparison, as the claims, the report and the plots read them."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS
from .settings import TASKS, Settings, as_mapping, from_mapping

FORMAT = 1
MACHINE = ("cpu", "processors", "fastrnn", "python", "numpy", "numba", "commit", "date")  # what is noted of it


@dataclass(frozen=True)
class Look:
    """What a layer's gradients and gates are, on the probe.

    lags         some, increasing
    norms        by lag, the norm of the state's gradient relative to that at the last step, where alone the loss is
    decay        the fitted factor per step
    half_life    in steps; None where nothing decays
    lyapunov     the factor per step by which the Jacobians' product grows or decays in its largest direction
    matrix       spectral radius of the recurrent matrix, of the RNN's
    gates        {gate, or "h" of the RNN: its mean, and the shares "low" and "high" in the outer tenths of its range}
    memory       the half-life that the forget or update gate implies, in steps: the median over the units
    direct       by lag, what the path without matrices, through that gate alone, leaves of the gradient
    traces       {gate: percent, (units, steps)} of one sequence, and `marks`, the steps with something to remember
    eigenvalues  real and imaginary parts: of the step's Jacobian halfway, and of the RNN's matrix
    """

    lags: list[int]
    norms: list[float | None]
    decay: float | None
    half_life: float | None
    lyapunov: float | None = None
    matrix: float | None = None
    gates: dict[str, dict[str, float]] = field(default_factory=dict)
    memory: float | None = None
    direct: list[float | None] | None = None
    traces: dict[str, list[list[int]]] | None = None
    marks: list[int] | None = None
    eigenvalues: dict[str, list[list[float]]] | None = None

    def without_details(self) -> "Look":
        """Without traces and eigenvalues."""
        return replace(self, traces=None, marks=None, eigenvalues=None)

    def norm_at(self, lag: int) -> float | None:
        """At the nearest lag that is kept."""
        return self.norms[self._nearest(lag)]

    def direct_at(self, lag: int) -> float | None:
        """Likewise; None also where there is no such path."""
        return self.direct[self._nearest(lag)] if self.direct else None

    def _nearest(self, lag: int) -> int:
        return min(range(len(self.lags)), key=lambda k: abs(self.lags[k] - lag))


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    contender: str
    seed: int
    hidden: int
    parameters: int  # of the model
    layer_parameters: int
    seconds: float
    updates: list[int]  # of the learning curve
    losses: list[float | None]
    loss: float | None  # at the end; None if it is not finite
    diverged: str | None
    erased: dict[str, float | None]
    start: Look
    trained: Look | None  # None if it diverged

    def without_details(self) -> "Run":
        """Without what is much, and shown of one task only."""
        trained = self.trained and self.trained.without_details()
        return replace(self, start=self.start.without_details(), trained=trained)

    def first_below(self, limit: float) -> int | None:
        """The first update of the curve at which the loss is below."""
        for update, loss in zip(self.updates, self.losses, strict=True):
            if loss is not None and loss < limit:
                return update
        return None


@dataclass(frozen=True)
class Scaled:
    """The gradient through a recurrent matrix of a given spectral radius."""

    seed: int
    matrix: str  # "random" or "orthogonal"
    radius: float
    driven: bool  # by input; else the state stays at 0, where tanh is the identity
    decay: float  # fitted factor per step
    lyapunov: float | None  # factor per step of the Jacobians' product; where driven
    jacobian_radius: float | None  # mean spectral radius of the Jacobians; where driven
    lags: list[int]
    norms: list[float]


@dataclass(frozen=True)
class Cost:
    """What a step of a layer costs, at equal hidden size."""

    hidden: int
    parameters: int  # of the layer
    training: float  # seconds for one step of a batch, forward and backward, on one thread
    forward: float  # likewise without gradients
    stream: float  # seconds for one step of a stream of one sequence
    inputs: int  # arrays that go into a step
    outputs: int  # that come out of it
    state_bytes: int  # that a stream of one sequence carries from step to step


@dataclass(frozen=True)
class Results:
    """All of it."""

    settings: Settings
    runs: list[Run]
    scaled: list[Scaled]
    costs: dict[str, Cost]  # of the contenders
    baselines: dict[str, float]  # of the tasks
    machine: dict[str, Any]
    failed: list[str]  # jobs without a result, and why

    def of(self, task: str, contender: str) -> list[Run]:
        """The runs of all seeds."""
        return [run for run in self.runs if (run.task, run.contender) == (task, contender)]

    def looks(self, task: str, contender: str, when: str) -> list[Look]:
        """Of the seeds that did not diverge, "start" or "trained"."""
        return [look for run in self.of(task, contender) if (look := getattr(run, when)) is not None]

    @property
    def tasks(self) -> list[str]:
        """Of which there are runs."""
        return [task for task in TASKS if any(run.task == task for run in self.runs)]

    @property
    def contenders(self) -> list[str]:
        """Of which there are runs."""
        return [name for name in CONTENDERS if any(run.contender == name for run in self.runs)]

    def solved_at(self, task: str) -> float | None:
        """The loss below which the task counts as solved; None for text."""
        return solved_at(task, self.baselines)


def solved_at(task: str, baselines: dict[str, float]) -> float | None:
    """The loss below which a task counts as solved: 0.01 for adding, a tenth of the baseline for the others.

    None for text, and for what is no task.
    """
    if task == "adding":
        return 0.01
    return None if task == "text" or task not in baselines else baselines[task] / 10


def finite(values: Sequence[float | None]) -> list[float]:
    """Without what is not finite."""
    return [value for value in values if value is not None]


def median(values: Sequence[float | None]) -> float | None:
    """Of the finite ones; None if there are none."""
    numbers = finite(values)
    return statistics.median(numbers) if numbers else None


def read(content: dict[str, Any]) -> Results:
    """Results from a mapping as `as_json` makes it. ValueError, TypeError or KeyError if it is none."""
    if content["format"] != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {content['format']}")
    found = Results(
        settings=from_mapping(content["settings"]),
        runs=[run_from(each) for each in content["runs"]],
        scaled=[Scaled(**each) for each in content["scaled"]],
        costs=costs_from(content["costs"]),
        baselines=dict(content["baselines"]),
        machine={name: content["machine"][name] for name in MACHINE},
        failed=list(content["failed"]),
    )
    if not found.baselines.keys() >= set(found.tasks):
        raise ValueError(f"expected baselines of {', '.join(found.tasks)}, got {', '.join(found.baselines)}")
    return found


def run_from(mapping: dict[str, Any]) -> Run:
    """A run from what `dataclasses.asdict` made of it. TypeError or KeyError if it is none."""
    trained = None if mapping["trained"] is None else Look(**mapping["trained"])
    return Run(**{**mapping, "start": Look(**mapping["start"]), "trained": trained})


def costs_from(mapping: dict[str, Any]) -> dict[str, Cost]:
    """Likewise what the contenders cost."""
    return {name: Cost(**each) for name, each in mapping.items()}


def load(path: Path) -> Results:
    """Read a results file. OSError if it cannot be read, ValueError if it is another kind of file."""
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"expected the results of a comparison, got {str(path)!r}") from error


def as_json(results: Results) -> dict[str, Any]:
    """As a mapping for JSON."""
    return {"format": FORMAT, **asdict(results), "settings": as_mapping(results.settings)}
