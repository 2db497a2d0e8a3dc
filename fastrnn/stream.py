"""Frame by frame: the layers as a machine that takes one step at a time."""

from typing import TYPE_CHECKING

import numpy as np

from . import validation
from .validation import State

if TYPE_CHECKING:
    from .layers import _Recurrent


class Stream:
    """A layer run one time step a call, with the state kept between calls.

    It takes a snapshot of the layer's parameters when it is made. All memory is allocated then: a step allocates nothing. Fed a
    sequence frame by frame, it returns the same bits as one call over the whole sequence. Dropout does not act.

    A bidirectional layer cannot be run this way (its second direction starts at the end): ValueError.
    """

    def __init__(self, layer: "_Recurrent", batch_size: int = 1) -> None:
        if layer.bidirectional:
            raise ValueError("layer: expected one direction, got a bidirectional layer")
        self.batch_size = validation.size("batch_size", batch_size, least=1)
        self.input_size = layer.input_size
        self.dtype = layer.dtype
