"""`python -m fastrnn demo`: a character model learns to write from Python's own language reference."""

import argparse
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from types import FrameType

import numpy as np

from fastrnn.blas import use_one_thread
from fastrnn.commands import INTERRUPTED
from fastrnn.commands.display import Display, best_display, count
from fastrnn.commands.numbers import above_zero, integer, not_negative
from fastrnn.threads import available, set_num_threads

from . import text
from .baselines import NGram
from .character_model import CELLS, CharacterModel
from .losses import BITS_PER_NAT
from .training import train

TRAINING = {"cell": "lstm", "hidden": 256, "layers": 1, "seconds": 60.0, "batch": 32, "steps": 64}
LEARNING_RATE = {"lstm": 4e-3, "gru": 4e-3, "rnn": 1e-3}
CLIP = 1.0

_MEMORY = 0.98  # how much of the loss shown is that of the batches before
_CONTEXT = 256  # characters read before the held-out text
_MOST_LAYERS = 1000  # many more are built for minutes before anything else is wrong with them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options. `arguments.refuse(reason)` then ends the program over a wrong one."""
    parser.set_defaults(refuse=parser.error)
    group = parser.add_argument_group("training")
    group.add_argument("--cell", choices=tuple(CELLS), help=_help("the recurrent layer", "cell"))
    group.add_argument("--hidden", type=integer, metavar="N", help=_help("units in a layer", "hidden"))
    layers = partial(integer, most=_MOST_LAYERS)
    group.add_argument("--layers", type=layers, metavar="N", help=_help("layers, one above the other", "layers"))
    group.add_argument("--seconds", type=above_zero, metavar="S", help=_help("how long to train", "seconds"))
    group.add_argument("--batch", type=integer, metavar="N", help=_help("pieces of text read side by side", "batch"))
    group.add_argument("--steps", type=integer, metavar="N", help=_help("characters a gradient goes back", "steps"))
    group.add_argument("--save", type=_new_file, metavar="FILE", help="write the model to this .npz file")
    group = parser.add_argument_group("sampling")
    group.add_argument("--sample-from", metavar="FILE", help="do not train: take the model that --save wrote")
    group.add_argument("--sample-length", type=integer, metavar="N", default=600, help="characters (600)")
    group.add_argument(
        "--temperature",
        type=not_negative,
        metavar="X",
        default=0.7,
        help="1: as likely as the model has it; less: likelier text; 0: always the likeliest character (0.7)",
    )
    parser.add_argument(
        "--seed", type=partial(integer, least=0), metavar="N", default=0, help="of everything random (0)"
    )
    parser.add_argument("--threads", type=integer, metavar="N", help="of the kernels (one for each processor)")
    parser.add_argument("--plain", action="store_true", help="plain text, even where rich is installed")


def run(arguments: argparse.Namespace) -> int:
    """Do what the options say. Returns the exit status."""
    use_one_thread()
    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    if arguments.sample_from is not None:
        return _sample(arguments)
    for name, value in TRAINING.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return _train(arguments)


def _sample(arguments: argparse.Namespace) -> int:
    for name in (*TRAINING, "save"):
        if getattr(arguments, name) is not None:
            arguments.refuse(f"argument --{name}: not allowed with --sample-from, which does not train")
    try:
        model = CharacterModel.load(arguments.sample_from)
    except OSError as error:
        arguments.refuse(f"argument --sample-from: {arguments.sample_from!r}: {error.strerror}")
    except ValueError:
        arguments.refuse(f"argument --sample-from: {arguments.sample_from!r} is not a model that --save wrote")
    show = best_display(arguments.plain)
    show.say(_description(model))
    _show_sample(show, model, arguments)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    try:
        split = text.split(text.language_reference())
    except ImportError:
        arguments.refuse("this Python lacks its language reference, the module pydoc_data.topics")
    generator = np.random.default_rng((arguments.seed, 1))
    try:
        batches = text.batches(split.train, arguments.batch, arguments.steps, generator)
    except ValueError as error:
        arguments.refuse(f"--batch, --steps: {str(error).partition(': ')[2]}")
    try:
        size = (arguments.cell, arguments.hidden, arguments.layers)
        model = CharacterModel(split.vocabulary, *size, seed=arguments.seed)
    except (ValueError, MemoryError) as error:
        arguments.refuse(f"--hidden, --layers: no such model can be made: {error}")

    show = best_display(arguments.plain)
    learnt, held_out = f"{len(split.train):,}", f"{len(split.held_out):,}"
    show.say(f"Python's language reference: {learnt} characters to learn from, {held_out} held out")
    show.say(f"{_description(model)}, {count(available(), 'thread')}")
    with show.waiting("Preparing the kernels, which are compiled once on each machine"):
        model.warm_up(arguments.batch, arguments.steps)

    status = 0
    with _Interrupt() as interrupt:
        try:
            seconds = _watch_training(show, model, batches, arguments, interrupt)
        except FloatingPointError as error:
            print(f"The training diverged: {error}", file=sys.stderr)
            return 1
        if interrupt.noted:
            show.say(f"Interrupted after {seconds:.0f} s")
            status = INTERRUPTED
        if arguments.save is not None:
            status = (
                _save(show, model, arguments.save, "The model so far" if interrupt.noted else "The model") or status
            )

    with show.waiting("Reading the held-out text"):
        bits = _held_out_bits(split, model)
    show.chart("Held-out text, bits per character: less is better", bits)
    _show_sample(show, model, arguments)
    return status


def _watch_training(
    show: Display,
    model: CharacterModel,
    batches: Iterator[text.Batch],
    arguments: argparse.Namespace,
    interrupt: "_Interrupt",
) -> float:
    """Train until the time is over or an interrupt is noted. Returns the seconds that it took."""
    rate = LEARNING_RATE[arguments.cell]
    gradients = model.gradients_over(batches)
    bits = 0.0
    with show.progress("Training") as report:
        for progress in train(model.parameters, gradients, seconds=arguments.seconds, learning_rate=rate, clip=CLIP):
            bits += max(1.0 - _MEMORY, 1.0 / progress.update) * (BITS_PER_NAT * progress.loss - bits)
            speed = progress.update * arguments.batch * arguments.steps / progress.seconds
            left = max(0.0, arguments.seconds - progress.seconds)
            report(progress.fraction, f"{bits:.3f} bits/char  {speed:,.0f} chars/s", left)
            if interrupt.noted:
                break
    return progress.seconds


def _save(show: Display, model: CharacterModel, path: str, what: str) -> int:
    try:
        model.save(path)
    except OSError as error:
        print(f"{what} could not be saved: {error}", file=sys.stderr)
        return 1
    show.say(f"{what} is saved: python -m fastrnn demo --sample-from {shlex.quote(path)}")
    return 0


def _held_out_bits(split: text.Split, model: CharacterModel) -> dict[str, float]:
    """What each model needs for a character of the held-out text, the network last."""
    context = split.train[-_CONTEXT:]
    orders = {"unigram": 1, "trigram": 3}
    counted = {name: NGram(order, split.train, len(split.vocabulary)) for name, order in orders.items()}
    models: dict[str, NGram | CharacterModel] = {**counted, model.options["cell"]: model}
    return {name: each.bits_per_character(split.held_out, context) for name, each in models.items()}


def _show_sample(show: Display, model: CharacterModel, arguments: argparse.Namespace) -> None:
    sample = model.sample(arguments.sample_length, temperature=arguments.temperature, seed=arguments.seed)
    show.passage(f"What it writes, at temperature {arguments.temperature:g}", sample)


def _description(model: CharacterModel) -> str:
    layers = count(model.options["num_layers"], "layer")
    name = model.options["cell"].upper()
    return f"{name}, {layers} of {model.options['hidden_size']} units, {model.num_parameters:,} parameters"


class _Interrupt:
    """Within this context the first Ctrl-C is only noted; a second one interrupts as ever."""

    def __init__(self) -> None:
        self.noted = False

    def __enter__(self) -> "_Interrupt":
        self._handler = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        signal.signal(signal.SIGINT, self._handler)


def _help(what: str, name: str) -> str:
    default = TRAINING[name]
    return f"{what} ({default:g})" if isinstance(default, float) else f"{what} ({default})"


def _new_file(value: str) -> str:
    if not value:
        raise argparse.ArgumentTypeError("expected a file, got ''")
    folder = os.path.dirname(os.path.abspath(value))
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"there is no folder {folder!r}")
    if os.path.isdir(value):
        raise argparse.ArgumentTypeError(f"expected a file, got the folder {value!r}")
    if not os.path.exists(value):  # an older file, or a device, may be written to where there is no room for another
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise argparse.ArgumentTypeError(f"the folder {folder!r} cannot be written to: {error.strerror}") from error
    return value
