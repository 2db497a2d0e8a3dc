"""The training loop: Adam on clipped gradients, for a given time or a given number of updates."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .optimizers import Adam, Arrays, clip_global_norm

_WARM_UP = 0.03  # the part of the training over which the learning rate rises
_FIRST_RATE = 0.1  # where it starts, as a part of its peak


@dataclass(frozen=True)
class Progress:
    """Where the training stands after an update."""

    update: int  # 1, 2, ...
    seconds: float  # since the training began
    fraction: float  # of the training that is done, 0 to 1
    loss: float  # of the batch that was just learnt from, before the update
    gradient_norm: float  # of the same, before clipping
    learning_rate: float


def train(
    parameters: Arrays,
    gradients: Iterable[tuple[float, Arrays]],
    *,
    seconds: float | None = None,
    updates: int | None = None,
    learning_rate: float,
    clip: float,
) -> Iterator[Progress]:
    """Update the parameters in place, once for each loss and gradients that `gradients` gives. Yields after each.

    parameters     {name: array}
    gradients      computes the next loss and {name: gradient} at the present parameters; the arrays are overwritten
    seconds        how long to go on, measured from the first request; or else
    updates        how many times to update, which makes the result reproducible
    learning_rate  of Adam at its peak (see `rate`)
    clip           the largest norm of the gradients together

    FloatingPointError if the loss or a gradient is not finite; the parameters are as after the update before.
    """
    if seconds is not None and updates is None:
        budget, timed = seconds, True
    elif updates is not None and seconds is None:
        budget, timed = float(updates), False
    else:
        raise ValueError(f"seconds, updates: expected one of them, got {seconds} and {updates}")
    adam = Adam(parameters, learning_rate)
    source = iter(gradients)
    start = time.perf_counter()
    fraction, update = 0.0, 0
    while fraction < 1.0:
        loss, gradient = next(source)
        norm = clip_global_norm(gradient, clip)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(f"update {update + 1}: loss {loss}, norm of the gradient {norm}")
        adam.learning_rate = learning_rate * rate(fraction)
        adam.step(gradient)
        update += 1
        elapsed = time.perf_counter() - start
        fraction = min(1.0, (elapsed if timed else update) / budget)
        yield Progress(update, elapsed, fraction, loss, norm, adam.learning_rate)


def rate(fraction: float) -> float:
    """The learning rate as a part of its peak: a short linear rise, then half a cosine down to zero."""
    if fraction < _WARM_UP:
        return _FIRST_RATE + (1.0 - _FIRST_RATE) * fraction / _WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (fraction - _WARM_UP) / (1.0 - _WARM_UP))
