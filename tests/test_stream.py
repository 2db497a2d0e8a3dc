"""Frame by frame: what a stream takes and gives beside the right bits, which tests/test_same_bits.py holds."""

import numpy as np
import pytest
from conftest import KINDS, as_state, as_tuple, assert_same_bits, make_layer, random_problem

BACKENDS = ("cpu", "reference")


@pytest.mark.parametrize("kind", KINDS)
def test_layers_may_use_different_numbers_of_threads(kind, threads, monkeypatch):
    """As where the first layer has few inputs, and so too little work for two threads."""
    from fastrnn.cpu import CpuLayer

    layer = make_layer(kind, 1, 37, num_layers=2)
    problem = random_problem(layer, 5, 3)
    threads(2)
    monkeypatch.setattr(CpuLayer, "share_work", lambda self, *rows: (1, False) if self.input_size == 1 else (2, True))
    stream = layer.stream(3)
    stream.reset(as_state(problem.state))
    steps = np.stack([stream.step(frame) for frame in problem.x])
    y, state = layer(problem.x, as_state(problem.state))
    assert_same_bits({"y": steps}, {"y": y})
    assert_same_bits(dict(enumerate(as_tuple(stream.state))), dict(enumerate(as_tuple(state))))
