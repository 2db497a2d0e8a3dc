"""How the caller of a layer lays out arrays, and how they lie inside.

In the shapes: `T` steps, `B` batch, `I` input features, `L` layers, `D` directions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .lengths import Padded
from .parameters import ParameterLayout
from .validation import Lengths, State, array, contiguous, sequence_lengths, shaped, state_arrays
from .zeros import ZeroStates


class Layout:
    """How the caller of a layer lays out arrays: checks them, and converts from and to the layout used inside.

    Inside, all is C-contiguous: sequences (T, B, n), states a tuple of arrays (L*D, B, n).
    Outside, sequences may be batch-first, both may have no batch dimension, and memory may be in any order.
    """

    def __init__(self, layers: Sequence[ParameterLayout], batch_first: bool, dtype: np.dtype) -> None:
        first = layers[0]
        self.input_size = first.input_size  # the width of x
        self.output_size = first.num_directions * first.output_size  # the width of y
        self.rows = len(layers) * first.num_directions  # of the states
        self.widths = widths = first.state_widths
        self.batch_first = batch_first
        self.dtype = dtype
        self.state_names = ("h_0", "c_0")[: len(widths)]
        self.gradient_names = ("dh_n", "dc_n")[: len(widths)]
        self._zero_states = self._make_zero_states()

    def inputs(self, x: Any, state: State) -> tuple[np.ndarray, tuple[np.ndarray, ...], bool]:
        """x and the initial states (zeros for None) as used inside, and whether x has a batch dimension."""
        x = self._array("x", x)
        shape = x.shape
        batched = len(shape) == 3
        if not batched and len(shape) != 2:
            expected = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ValueError(f"x: expected 3 dimensions {expected}, or 2 (T, I), got shape {tuple(shape)}")
        if shape[-1] != self.input_size:
            expected = f"expected the last dimension to be input_size = {self.input_size}"
            raise ValueError(f"x: {expected}, got shape {tuple(shape)}")
        x = self._time_major(x, batched)
        batch = x.shape[1]
        if state is None:
            return x, self._zero_states(batch), batched
        return x, self._states("state", self.state_names, state, batch, batched), batched

    def padded(self, lengths: Lengths, x: np.ndarray, batched: bool) -> Padded | None:
        """How to pack x (T, B, I) by these lengths; None if all its sequences have T steps."""
        if lengths is None:
            return None
        if not batched:
            raise ValueError("lengths: expected None for x without a batch dimension, which is one whole sequence")
        steps, batch = x.shape[:2]
        values = sequence_lengths("lengths", lengths, steps, batch)
        return None if (values == steps).all() else Padded(values, steps)

    def gradients(
        self, dy: Any, dstate: State, steps: int, batch: int, batched: bool
    ) -> tuple[np.ndarray | None, tuple[np.ndarray | None, ...]]:
        """The gradients of y and of the final states as used inside; None stays None."""
        if dy is not None:
            lengths = (steps,) if not batched else (batch, steps) if self.batch_first else (steps, batch)
            dy = self._time_major(self._shaped_array("dy", dy, (*lengths, self.output_size)), batched)
        if dstate is None:
            return dy, (None,) * len(self.widths)
        return dy, self._states("dstate", self.gradient_names, dstate, batch, batched, or_none=True)

    def given_sequence(self, sequence: np.ndarray, batched: bool) -> np.ndarray:
        """A view of a sequence in the caller's layout."""
        if not batched:
            return sequence[:, 0]
        return sequence.swapaxes(0, 1) if self.batch_first else sequence

    def given_state(self, states: tuple[np.ndarray, ...], batched: bool) -> State:
        """Views of the states in the caller's layout."""
        if not batched:
            states = tuple([s[:, 0] for s in states])
        return states if len(states) == 2 else states[0]

    def _shaped_array(self, name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        return shaped(name, self._array(name, value), shape)

    def _time_major(self, sequence: np.ndarray, batched: bool) -> np.ndarray:
        if not batched:
            sequence = sequence[:, None]
        elif self.batch_first:
            sequence = sequence.swapaxes(0, 1)
        return self._contiguous(sequence)

    def _states(
        self, argument: str, names: tuple[str, ...], state: State, batch: int, batched: bool, or_none: bool = False
    ) -> tuple[Any, ...]:
        """The arrays of the state passed as `argument` as used inside; with `or_none`, None stays None."""
        states = list(state_arrays(argument, names, state))
        for n, value in enumerate(states):  # a `zip` would cost a third of the time that all this takes
            if value is not None or not or_none:
                shape = (self.rows, batch, self.widths[n]) if batched else (self.rows, self.widths[n])
                value = self._shaped_array(names[n], value, shape)
                states[n] = self._contiguous(value if batched else value[:, None])
        return tuple(states)

    # What depends on the kind of array (see `fastrnn/cuda/layout.py`)

    def _array(self, name: str, value: Any) -> np.ndarray:
        if type(value) is np.ndarray and value.dtype == self.dtype:  # as nearly always: one call less
            return value
        return array(name, value, self.dtype)

    _contiguous = staticmethod(contiguous)

    def _make_zero_states(self) -> Callable[[int], tuple[np.ndarray, ...]]:
        """What gives the states of so many rows of the batch."""
        return ZeroStates(self.rows, self.widths, self.dtype)
