"""The gradients of one run of a layer."""

from dataclasses import dataclass

import numpy as np

from .validation import State


@dataclass(frozen=True)
class Gradients:
    """What `backward` returns: every gradient has the shape and dtype of what it is the gradient of.

    x           of the input
    state       of the initial state: (h_0, c_0) for the LSTM, h_0 for the others
    parameters  {name: array}, in the order of the layer's `parameters`
    """

    x: np.ndarray
    state: State
    parameters: dict[str, np.ndarray]
