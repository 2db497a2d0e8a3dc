"""What an imported ONNX node is run as."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastrnn import validation

from .layouts import Layer


@dataclass(frozen=True, eq=False)
class OnnxLayer:
    """An LSTM, GRU or RNN node of an ONNX model: a layer of ours, and what else the node is made of.

    Calling it computes the node's outputs from its inputs, in ONNX's shapes and under its names.

    layer      one layer, bidirectional if the node is. A node of direction "reverse" is a layer of one direction, for
               which a call turns the sequences round.
    direction  "forward", "reverse" or "bidirectional"
    layout     0: sequences are (T, B, ·) and states (D, B, H). 1: (B, T, ·) and (B, D, H).
    constants  what the model gives the node as initial_h, initial_c and sequence_lens: arrays, where it does
    required   those of the three that the model computes or takes as its inputs, under the names that they have there
    """

    layer: Layer
    direction: str
    layout: int
    constants: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    required: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self,
        x: np.ndarray,
        initial_h: np.ndarray | None = None,
        initial_c: np.ndarray | None = None,
        sequence_lens: Any = None,
    ) -> tuple[np.ndarray, ...]:
        """The node's outputs (Y, Y_h), or (Y, Y_h, Y_c) of an LSTM, whether the model uses them or not.

        x              (T, B, I)
        initial_h      (D, B, H)
        initial_c      likewise; of an LSTM only
        sequence_lens  integers (B,) from 0 to T

        What is omitted is what the model gives the node, or else zeros and full lengths. Y is (T, D, B, H), the final
        states are (D, B, H). With layout 1 all are batch-first: x (B, T, I), Y (B, T, D, H), states (B, D, H).
        Beyond a row's length Y is zero. A row of length 0 ends with states of zero: so in ONNX Runtime, for ONNX does
        not say.

        ValueError for a wrong shape or value, or if one of `required` is missing; TypeError for a wrong type or dtype.
        """
        layer = self.layer
        if initial_c is not None and layer.cell != "lstm":
            raise ValueError(f"initial_c: expected with an LSTM only, got one with {type(layer).__name__}")
        inputs = {"initial_h": initial_h, "initial_c": initial_c, "sequence_lens": sequence_lens}
        missing = [f"{name}: missing" for name in self.required if inputs[name] is None]
        if missing:
            raise ValueError(f"{'; '.join(missing)} (the model computes them or takes them as inputs)")
        inputs = {name: self.constants.get(name) if value is None else value for name, value in inputs.items()}

        x = validation.array("x", x, layer.dtype)
        if x.ndim != 3:
            expected = "(B, T, I)" if self.layout else "(T, B, I)"
            raise ValueError(f"x: expected 3 dimensions {expected}, got shape {x.shape}")
        if self.layout:
            x = x.transpose(1, 0, 2)
        steps, batch, _ = x.shape
        states = tuple([self._state(name, inputs[name], batch) for name in ("initial_h", "initial_c")])
        state = states if layer.cell == "lstm" else states[0]
        lengths = inputs["sequence_lens"]
        if lengths is not None:
            lengths = validation.sequence_lengths("sequence_lens", lengths, steps, batch)
        if self.direction == "reverse":
            x = _turned(x, lengths)
        y, state = layer(x, state, lengths)
        if self.direction == "reverse":
            y = _turned(y, lengths)
        states = state if layer.cell == "lstm" else (state,)
        if lengths is not None:
            states = tuple([np.where(lengths[:, None] > 0, s, 0) for s in states])
        y = y.reshape(steps, batch, layer.num_directions, layer.hidden_size)
        if self.layout:
            return y.transpose(1, 0, 2, 3), *(s.transpose(1, 0, 2) for s in states)
        return y.transpose(0, 2, 1, 3), *states

    def _state(self, name: str, value: Any, batch: int) -> np.ndarray:
        """An initial state as the layer takes it, (D, B, H)."""
        D, H, dtype = self.layer.num_directions, self.layer.hidden_size, self.layer.dtype
        if value is None:
            return np.zeros((D, batch, H), dtype)
        if self.layout:
            return validation.shaped_array(name, value, dtype, (batch, D, H)).transpose(1, 0, 2)
        return validation.shaped_array(name, value, dtype, (D, batch, H))


def _turned(sequences: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """Sequences (T, B, n), each with the order of its own steps reversed; what is beyond its length stays there."""
    if lengths is None:
        return sequences[::-1]
    steps = np.arange(len(sequences))[:, None]
    return np.take_along_axis(sequences, np.where(steps < lengths, lengths - 1 - steps, steps)[:, :, None], axis=0)
