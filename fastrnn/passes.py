"""What a pass over a layer is: its kind, and the numbers and arrays that its kernels are given."""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple


class Where(NamedTuple):
    """What `Plan.run` takes first for each direction. Two directions usually run over the same steps, but need not."""

    steps: int
    rows: int  # of all steps
    starts: int  # addresses (see `kernels/block.py`), which may be 0
    shares: int


# then the address of the packed weights; and one of several calls on parts of a sequence takes three more numbers, that
# are those of `kernels/weight_gradient.py`
NUMBERS = (*Where._fields, "weights")
CONTINUED_NUMBERS = (*NUMBERS, "open", "before", "more")


class ForwardArrays(NamedTuple):
    """What `Plan.run` takes then for each direction, or, with the shapes given here, those of a layer (see `for_both`).

    None is an array that the kernels do not look at. In the shapes, (T, B) stands for (N,) where rows are packed.
    """

    x: Any  # (T, B, I)
    y: Any  # (T, B, D*R)
    h_0: Any  # (D, B, R)
    c_0: Any  # (D, B, H)
    c_n: Any  # (D, B, H), if no gates are kept: the cell state of each step in turn; may be c_0 itself
    gates: Any  # (D, T, B, saved planes * H), if they are kept
    cells: Any  # (D, T, B, H)


class BackwardArrays(NamedTuple):
    """The same for a pass backward, which overwrites `gates`."""

    x: Any
    y: Any
    dy: Any  # (T, B, D*R)
    dflat: Any  # the gradients of all parameters, flat; added to where a pass is `continued`
    h_0: Any
    c_0: Any
    gates: Any
    cells: Any
    h_prev: Any  # (D, N, R), h before each step, where rows are packed
    dh_0: Any  # (D, B, R), the gradients of the final states at first, of the initial ones at last
    dc_0: Any  # (D, B, H)
    dh: Any  # (D, T, B, R), where a cell keeps it
    dx: Any  # (D, T, B, I)
    carried: Any = None  # (D, T, B, R) and
    dc_t: Any = None  # (D, T, B, H), where the states' gradients are kept (see `kernels/cells.py`)


_FORWARD_SHARED, _BACKWARD_SHARED = (each._fields.index("h_0") for each in (ForwardArrays, BackwardArrays))


def for_both(arrays: ForwardArrays | BackwardArrays) -> tuple[Any, ...]:
    """Those of two directions as a plan takes them: what comes before h_0 is shared, of the rest each has its part."""
    shared = _FORWARD_SHARED if type(arrays) is ForwardArrays else _BACKWARD_SHARED
    both, own = arrays[:shared], arrays[shared:]
    first, second = (tuple([None if array is None else array[d] for array in own]) for d in range(2))
    return (*both, *first, *both, *second)


@dataclass(frozen=True, eq=False)
class PassKind:
    """What a plan is for: a pass over a layer, forward or backward, and its variant.

    saving       forward: also writes what the backward pass needs
    packed_rows  backward: for batches that STARTS describes; reads the states before each step from an array "h_prev"
    without_dy   backward: takes dy for zeros
    keeping      backward: writes the gradients of the states at every step instead of those of the weights
    continued    backward: one of several calls on parts of a sequence
    """

    forward: bool
    saving: bool = False
    packed_rows: bool = False
    without_dy: bool = False
    keeping: bool = False
    continued: bool = False


# There is one of each, so that looking a plan up by it is quick
FORWARD_KIND = PassKind(forward=True)
SAVING_KIND = PassKind(forward=True, saving=True)


@cache
def backward_kind(packed_rows: bool, without_dy: bool, keeping: bool, continued: bool) -> PassKind:
    """The kind of a backward pass."""
    return PassKind(False, packed_rows=packed_rows, without_dy=without_dy, keeping=keeping, continued=continued)
