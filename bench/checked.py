"""fastrnn made ready for what a section times, after its results have been compared with the reference's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import fastrnn
from bench import parity
from bench.cases import Case, problem
from bench.competitors import Runner, as_state, fastrnn_layer, prepare_fastrnn

MOST = 256  # steps and rows; the reference is slow, so a larger case is compared at this length and batch

Layer = fastrnn.LSTM | fastrnn.GRU | fastrnn.RNN


class WrongResults(Exception):
    """What was to be timed computes something else than the reference."""


def runner_of(case: Case) -> Runner:
    """fastrnn's runner for a case. WrongResults if its outputs or gradients are not the reference's."""
    small = replace(case, T=min(case.T, MOST), B=min(case.B, MOST))
    checked = prepare_fastrnn(problem(small), case.mode, case.threads)
    checked.set_threads()
    wrong = parity.check(checked, parity.expected(small), case.dtype)
    if wrong:
        raise WrongResults(f"{small.id}: {wrong}")
    return checked if small == case else prepare_fastrnn(problem(case), case.mode, case.threads)


def streamed_layer(case: Case) -> Layer:
    """A layer with a case's weights, B = 1. WrongResults if its stream is not the reference's whole-sequence call."""
    numbers = problem(case)
    layer = fastrnn_layer(numbers)
    fastrnn.set_num_threads(case.threads)
    stream = layer.stream()
    stream.reset(as_state(numbers.state.values()))
    y = np.array([stream.step(frame) for frame in numbers.x[:, 0]])[:, None]
    right = parity.expected(case)["y"]
    wrong = parity.check(Runner(lambda: None, lambda _: {"y": y}), {"y": right}, case.dtype)
    if wrong:
        raise WrongResults(f"stream of {case.id}: {wrong}")
    return layer
