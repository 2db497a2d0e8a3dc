"""What a step of each contender costs: time, parameters, and what it hands on."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fastrnn.threads import get_num_threads, set_num_threads

from .contenders import CONTENDERS
from .results import Cost
from .sequence_model import Layer
from .settings import Settings

_INPUTS = 2  # as in the adding problem
_ROUNDS = 15
_STREAM_STEPS = 200


def measure_costs(settings: Settings) -> dict[str, dict[str, Any]]:
    """A `Cost` for each contender at the same hidden size, as mappings; on one thread, in rounds that take turns.

    One process should run, and nothing else: times are medians, which busy neighbours still falsify.
    """
    training = settings.training["adding"]
    shape = (settings.length, training.batch, _INPUTS)
    layers = {name: each.layer(_INPUTS, settings.hidden, 0) for name, each in CONTENDERS.items()}
    before = get_num_threads()
    set_num_threads(1)
    try:
        timed = {name: _timed_calls(layer, shape) for name, layer in layers.items()}
        seconds = _take_turns(timed)
    finally:
        set_num_threads(before)
    return {name: asdict(_cost(layer, seconds[name])) for name, layer in layers.items()}


def _timed_calls(layer: Layer, shape: tuple[int, int, int]) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, and how many steps each call makes."""
    x = np.random.default_rng(0).random(shape, np.float32)
    dy = np.random.default_rng(1).standard_normal((*shape[:2], layer.hidden_size)).astype(np.float32)
    stream = layer.stream()
    frame, out = x[0, 0], np.empty(layer.hidden_size, np.float32)

    def train() -> None:
        _, backward = layer.vjp(x)
        backward(dy)

    def steps() -> None:
        for _ in range(_STREAM_STEPS):
            stream.step(frame, out=out)

    return {"training": (train, shape[0]), "forward": (lambda: layer(x), shape[0]), "stream": (steps, _STREAM_STEPS)}


def _take_turns(timed: Mapping[str, Mapping[str, tuple[Callable[[], object], int]]]) -> dict[str, dict[str, float]]:
    """The median seconds of a step, of each contender and kind of call."""
    samples: dict[tuple[str, str], list[float]] = {}
    for round_ in range(_ROUNDS + 1):
        for name, calls in timed.items():
            for kind, (call, steps) in calls.items():
                begin = time.perf_counter()
                call()
                if round_:  # the first compiles and allocates
                    samples.setdefault((name, kind), []).append((time.perf_counter() - begin) / steps)
    return {name: {kind: statistics.median(samples[name, kind]) for kind in calls} for name, calls in timed.items()}


def _cost(layer: Layer, seconds: Mapping[str, float]) -> Cost:
    state = layer.stream().state
    arrays = state if isinstance(state, tuple) else (state,)
    return Cost(
        hidden=layer.hidden_size,
        parameters=layer.num_parameters,
        inputs=1 + len(arrays),
        outputs=len(arrays),
        state_bytes=sum(array.nbytes for array in arrays),
        **seconds,
    )
