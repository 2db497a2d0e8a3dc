"""What a pass over a layer is: its kind, and the numbers and arrays that its kernels are given."""

from dataclasses import dataclass
from functools import cache

import numpy as np

# What `Plan.run` takes for each direction, in this order. First numbers: how many steps and rows there are; the
# addresses `starts` and `shares` (see `kernels/block.py`), which may be 0, and `weights`; `open`, `before` and `more`
# are those of `kernels/weight_gradient.py`. Two directions usually run over the same steps, but need not. Then arrays,
# of which two directions of one layer share those before h_0.
NUMBERS = ("steps", "rows", "starts", "shares", "weights")
CONTINUED_NUMBERS = (*NUMBERS, "open", "before", "more")
FORWARD = ("x", "y", "h_0", "c_0", "c_n", "gates", "cells")
BACKWARD = ("x", "y", "dy", "dflat", "h_0", "c_0", "gates", "cells", "h_prev", "dh_0", "dc_0", "dh", "dx")
KEEPING = (*BACKWARD, "carried", "dc_t")
FORWARD_SHARED, BACKWARD_SHARED = FORWARD.index("h_0"), BACKWARD.index("h_0")

Arrays = tuple[np.ndarray | None, ...]


@dataclass(frozen=True, eq=False)
class PassKind:
    """What a plan is for: a pass over a layer, forward or backward, and its variant.

    saving      forward: also writes what the backward pass needs
    packed      backward: for batches that STARTS describes; reads the states before each step from an array (N, R),
                "h_prev"
    without_dy  backward: takes dy for zeros
    keeping     backward: writes the gradients of the states at every step instead of those of the weights
    continued   backward: one of several calls on parts of a sequence
    """

    forward: bool
    saving: bool = False
    packed: bool = False
    without_dy: bool = False
    keeping: bool = False
    continued: bool = False


# There is one of each, so that looking a plan up by it is quick
FORWARD_KIND = PassKind(forward=True)
SAVING_KIND = PassKind(forward=True, saving=True)


@cache
def backward_kind(packed: bool, without_dy: bool, keeping: bool, continued: bool) -> PassKind:
    """The kind of a backward pass."""
    return PassKind(False, packed=packed, without_dy=without_dy, keeping=keeping, continued=continued)
