"""A model, the data it learns from, and how it is judged: one face for the made-up tasks and for text."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Protocol

import numpy as np

from fastrnn.experiments import text
from fastrnn.experiments.baselines import NGram
from fastrnn.experiments.character_model import CharacterModel
from fastrnn.experiments.optimizers import Arrays
from fastrnn.parameters import ParameterLayout

from .contenders import CONTENDERS, Contender, matching_size
from .sequence_model import Layer, SequenceModel
from .settings import Settings

_HELD_OUT = 4000  # made-up sequences, the same for all
_CURVE_SEQUENCES = 1000  # of these, for the learning curve
_PIECE = 250  # of these at a time: it divides both
_PROBES = 32  # sequences whose gradients and gates are looked at
_HELD_OUT_TEXT = 0.03  # of it: some 11,000 characters, which are read for each point of a learning curve
_CONTEXT = 256  # characters read before the held-out text
_DRAWN, _HEAD, _JUDGED = 1, 2, 3  # beside the seed: of what is learnt from, of the head, of what is judged on


class Learner(Protocol):
    """What `jobs` trains, by the loop of `experiments.training`, and judges."""

    hidden: int
    num_parameters: int

    @property
    def layer(self) -> Layer: ...

    @property
    def parameters(self) -> dict[str, np.ndarray]: ...

    def gradients(self) -> Iterator[tuple[float, Arrays]]:
        """Loss and gradients of one batch after the other."""

    def score(self, final: bool) -> float:
        """The loss on what it has not learnt from, in the task's unit; if `final`, on more where there is more."""

    def probe(self) -> np.ndarray:
        """Inputs of the layer, (T, B, I), to look at its gradients and gates with."""

    def erased(self) -> dict[str, float]:
        """The loss where a part of the state, "h" or "c", is set to 0 halfway; none where that is not asked."""


def make_learner(task: str, contender: str, settings: Settings, seed: int) -> Learner:
    """The learner of a run."""
    hidden = hidden_size(task, contender, settings)
    if task == "text":
        return TextLearner(CONTENDERS[contender], hidden, settings, seed)
    return SequenceLearner(task, CONTENDERS[contender], hidden, settings, seed)


def hidden_size(task: str, contender: str, settings: Settings) -> int:
    """H of a contender: the same for all, or such that the models have equally many parameters."""
    if not settings.equal_parameters:
        return settings.hidden
    cell = CONTENDERS[contender].cell
    count = partial(_text_parameters if task == "text" else _sequence_parameters, task, settings)
    return matching_size(lambda size: count(cell, size), count("lstm", settings.hidden))


def _layer_parameters(cell: str, inputs: int, hidden: int) -> int:
    name = "rnn_tanh" if cell == "rnn" else cell
    return ParameterLayout(name, inputs, hidden, 0, bias=True, num_directions=1).size


def _sequence_parameters(task: str, settings: Settings, cell: str, hidden: int) -> int:
    made_up = settings.task(task)
    return _layer_parameters(cell, made_up.inputs, hidden) + (made_up.classes or 1) * (hidden + 1)


def _text_parameters(task: str, settings: Settings, cell: str, hidden: int) -> int:
    V = len(language().vocabulary)
    return _layer_parameters(cell, EMBEDDING, hidden) + V * (hidden + 1) + V * EMBEDDING


class SequenceLearner:
    """Of a made-up task: every batch is drawn anew."""

    def __init__(self, task: str, contender: Contender, hidden: int, settings: Settings, seed: int) -> None:
        self.task = settings.task(task)
        self.hidden = hidden
        self.batch = settings.training[task].batch
        layer = contender.layer(self.task.inputs, hidden, seed)
        self.model = SequenceModel(layer, self.task.classes, np.random.default_rng((seed, _HEAD)))
        self.num_parameters = self.model.num_parameters
        self._generator = np.random.default_rng((seed, _DRAWN))
        self._held_out = self.task.examples(_HELD_OUT, np.random.default_rng((0, _JUDGED)))

    @property
    def layer(self) -> Layer:
        return self.model.layer

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        return self.model.parameters

    def gradients(self) -> Iterator[tuple[float, Arrays]]:
        while True:
            yield self.model.gradients(*self.task.examples(self.batch, self._generator))

    def score(self, final: bool) -> float:
        return self._loss(self.model.loss, _HELD_OUT if final else _CURVE_SEQUENCES)

    def probe(self) -> np.ndarray:
        return np.ascontiguousarray(self._held_out.x[:, :_PROBES])

    def erased(self) -> dict[str, float]:
        parts = ("h", "c") if self.layer.cell == "lstm" else ("h",)
        step = self.task.steps // 2
        losses = [partial(self.model.loss_with_erased, step=step, part=k) for k in range(len(parts))]
        return {part: self._loss(loss, _CURVE_SEQUENCES) for part, loss in zip(parts, losses, strict=True)}

    def _loss(self, loss: Callable[[np.ndarray, np.ndarray], float], count: int) -> float:
        """The mean of a loss over the first `count` held-out sequences, piece by piece."""
        pieces = [slice(start, start + _PIECE) for start in range(0, count, _PIECE)]
        x, targets = self._held_out
        return float(np.mean([loss(np.ascontiguousarray(x[:, piece]), targets[:, piece]) for piece in pieces]))


EMBEDDING = 64  # the width of a character's vector


class TextLearner:
    """Of Python's language reference, as in `python -m fastrnn demo`."""

    def __init__(self, contender: Contender, hidden: int, settings: Settings, seed: int) -> None:
        split = language()
        self.hidden = hidden
        self.model = CharacterModel(
            split.vocabulary, contender.cell, hidden, embedding_size=EMBEDDING, seed=seed,
            forget_bias=contender.forget_bias,
        )  # fmt: skip
        self.num_parameters = self.model.num_parameters
        batch, generator = settings.training["text"].batch, np.random.default_rng((seed, _DRAWN))
        self._batches = text.batches(split.train, batch, settings.text_steps, generator)
        self._probe_steps = settings.probe_steps

    @property
    def layer(self) -> Layer:
        return self.model.layer

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        return self.model.parameters

    def gradients(self) -> Iterator[tuple[float, Arrays]]:
        return self.model.gradients_over(self._batches)

    def score(self, final: bool) -> float:
        split = language()
        return self.model.bits_per_character(split.held_out, split.train[-_CONTEXT:])

    def probe(self) -> np.ndarray:
        held_out = language().held_out
        starts = np.linspace(0, len(held_out) - self._probe_steps, _PROBES).astype(int)
        return self.model.embedding[held_out[starts + np.arange(self._probe_steps)[:, None]]]

    def erased(self) -> dict[str, float]:
        return {}


@cache
def language() -> text.Split:
    """The text, and its held-out part. ImportError if this Python lacks it."""
    return text.split(text.language_reference(), _HELD_OUT_TEXT)


@cache
def trigram() -> float:
    """Bits per character of counting: what a network is to be judged against."""
    split = language()
    counted = NGram(3, split.train, len(split.vocabulary))
    return counted.bits_per_character(split.held_out, split.train[-_CONTEXT:])


def check_text(settings: Settings) -> None:
    """ValueError if the text is too short for the batches, ImportError if this Python lacks it."""
    text.batches(language().train, settings.training["text"].batch, settings.text_steps, np.random.default_rng(0))


def memory(settings: Settings) -> float:
    """About how many bytes a process needs: for the held-out sequences, a batch, and the Jacobians of every step."""
    most = 0.0
    for name, training in settings.training.items():
        steps = settings.text_steps if name == "text" else settings.task(name).steps
        inputs = EMBEDDING if name == "text" else settings.task(name).inputs
        held_out = 4.0 * steps * inputs * (0 if name == "text" else _HELD_OUT)
        batch = 4.0 * steps * max(training.batch, _PIECE) * (2 * inputs + 8 * settings.hidden)
        jacobians = 8.0 * steps * (2 * settings.hidden) ** 2
        most = max(most, held_out + max(batch, jacobians))
    return most
