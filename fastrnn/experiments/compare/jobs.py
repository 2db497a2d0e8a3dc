"""What the processes of a comparison do: one training, or one look at scaled matrices."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.blas import use_one_thread
from fastrnn.experiments.training import train
from fastrnn.threads import set_num_threads

from .learners import Learner, make_learner
from .look import look
from .processes import Report
from .scaling import scaled_matrices
from .settings import Settings
from .store import plain

CLIP = 1.0  # the largest norm of a gradient, as in the demo
POINTS = 40  # of a learning curve


@dataclass(frozen=True)
class Job:
    """One training of one contender on one task; or, without them, one matrix scaled."""

    seed: int
    task: str | None = None
    contender: str | None = None
    closely: bool = False  # whether single gates and eigenvalues are kept, which is much

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.task}-{self.contender}-{self.seed}" if self.task else f"scaling-{self.seed}"


def do(job: tuple[Settings, Job], report: Report) -> dict[str, Any]:
    """The job's result, as JSON has it. Reports (fraction done, present loss)."""
    settings, what = job
    set_num_threads(1)  # each process keeps one processor busy
    use_one_thread()
    with np.errstate(all="ignore"):  # what overflows is a result, and a warning would be drawn across the display
        if what.task is None or what.contender is None:
            return plain(scaled_matrices(settings, what.seed))
        learner = make_learner(what.task, what.contender, settings, what.seed)
        return plain(_learn(learner, what, settings, report))


def _learn(learner: Learner, job: Job, settings: Settings, report: Report) -> dict[str, Any]:
    training = settings.training[job.task or ""]
    start = look(learner.layer, learner.probe(), job.closely)
    every = max(1, training.updates // POINTS)
    updates, losses, diverged = [0], [learner.score(False)], None
    begin = time.perf_counter()
    try:
        for progress in train(
            learner.parameters, learner.gradients(), updates=training.updates,
            learning_rate=training.learning_rate, clip=CLIP,
        ):  # fmt: skip
            if progress.update % every == 0:
                updates.append(progress.update)
                losses.append(learner.score(False))
                report((progress.fraction, losses[-1]))
    except FloatingPointError as error:
        diverged = str(error)
    return {
        "hidden": learner.hidden,
        "parameters": learner.num_parameters,
        "layer_parameters": learner.layer.num_parameters,
        "seconds": time.perf_counter() - begin,
        "updates": updates,
        "losses": losses,
        "loss": learner.score(True),
        "diverged": diverged,
        "erased": learner.erased(),
        "start": start,
        "trained": None if diverged else look(learner.layer, learner.probe(), job.closely),
    }
