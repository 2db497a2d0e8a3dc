"""Weights of Keras's LSTM, GRU and SimpleRNN layers, as the lists of arrays that their `get_weights()` gives.

A list holds, for each direction, kernel (I, G*H), recurrent_kernel (H, G*H) and, unless use_bias=False, bias: (G*H,),
or (2, 3*H) for a GRU with reset_after=True, whose rows are b_ih and b_hh. Keras 2 and 3 have the same. Nothing here
needs Keras.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import validation

from .layouts import CLASSES, KERAS_GATES, Layer, family, layer_of, weights_of

_DIRECTIONS_AND_BIAS = {2: (1, False), 3: (1, True), 4: (2, False), 6: (2, True)}  # by the number of arrays
_ARRAYS = ("kernel", "recurrent_kernel", "bias")


def from_keras_weights(
    cell: str,
    *layers: Sequence[np.ndarray],
    reset_after: bool | None = None,
    nonlinearity: str = "tanh",
    batch_first: bool = True,
    device: str = "cpu",
    seed: int | None = None,
    backend: str | None = None,
) -> Layer:
    """A layer with the weights of one Keras layer, or of several of the same size, one above the other.

    cell          "lstm", "gru" or "rnn" (Keras's SimpleRNN)
    layers        for each Keras layer the list that its `get_weights()` gives. The number of arrays tells the rest:
                  2 or 3 without or with a bias; 4 or 6 those of a Bidirectional around such a layer.
    reset_after   of a GRU. The shape of its bias tells; None without a bias means True, Keras's default.
    nonlinearity  "tanh", Keras's default, or "relu": the activation of a SimpleRNN, which no weight tells
    batch_first   True, as Keras's layers are

    The layer computes what Keras's do with their default activations, return_sequences=True, go_backwards=False and,
    around Bidirectional, merge_mode="concat". Keras's one bias of a gate becomes bias_ih; bias_hh is zero.

    One ValueError lists all arrays that are missing, surplus or misshapen; TypeError if only types and dtypes are
    wrong: all must be NumPy arrays of one dtype, float32 or float64.
    """
    validation.choice("cell", cell, tuple(CLASSES))
    if reset_after is not None and cell != "gru":
        raise ValueError(f'reset_after: expected with cell = "gru" only, got cell = "{cell}"')
    if nonlinearity != "tanh" and cell != "rnn":
        raise ValueError(f'nonlinearity: expected with cell = "rnn" only, got cell = "{cell}"')
    directions, bias = _directions_and_bias(layers)
    if reset_after is None:
        reset_after = not bias or layers[0][2].ndim == 2
    validation.flag("reset_after", reset_after)
    _check(cell, layers, directions, reset_after)
    weights = []
    for arrays in layers:
        count = len(arrays) // directions
        weights.append([_ours(arrays[d * count : (d + 1) * count]) for d in range(directions)])
    options = {"batch_first": batch_first, "device": device, "seed": seed, "backend": backend}
    return layer_of(cell, weights, KERAS_GATES[cell], reset_after, nonlinearity, **options)


def _ours(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One direction's W_ih, W_hh, b_ih and b_hh from its kernel, recurrent_kernel and bias."""
    kernel, recurrent_kernel, *biases = arrays
    if not biases:
        return [kernel.T, recurrent_kernel.T]
    b_ih, b_hh = biases[0] if biases[0].ndim == 2 else (biases[0], np.zeros_like(biases[0]))
    return [kernel.T, recurrent_kernel.T, b_ih, b_hh]


def to_keras_weights(layer: Layer) -> list[list[np.ndarray]]:
    """For each of the L layers the list of arrays to give to `set_weights` of a Keras layer of the same size.

    That is LSTM, GRU or SimpleRNN, or with bidirectional=True a Bidirectional around it, with use_bias, reset_after
    and activation as the layer's bias, reset_after and nonlinearity. Where Keras has one bias, it is bias_ih + bias_hh.

    ValueError for an LSTM with proj_size: Keras has none.
    """
    cell = family(layer)
    if layer.proj_size:
        raise ValueError(f"layer: expected no projection, which Keras has not, got proj_size={layer.proj_size}")
    weights = []
    for directions in weights_of(layer, KERAS_GATES[cell]):
        arrays = []
        for W, R, *biases in directions:
            arrays += [np.ascontiguousarray(W.T), np.ascontiguousarray(R.T)]
            if biases:
                arrays.append(np.stack(biases) if layer.cell == "gru" else biases[0] + biases[1])
        weights.append(arrays)
    return weights


def _directions_and_bias(layers: tuple[Any, ...]) -> tuple[int, bool]:
    """How many directions the Keras layers have, and whether biases: the number of arrays tells. Checks their types."""
    if not layers:
        raise ValueError("layers: expected the get_weights() of at least one Keras layer, got none")
    for number, arrays in enumerate(layers):
        if not isinstance(arrays, list | tuple):
            expected = "a list of arrays, as get_weights() gives"
            raise TypeError(f"layers[{number}]: expected {expected}, got {type(arrays).__name__}")
    others = [
        f"layers[{number}][{place}]: expected a NumPy array, got {type(array).__name__}"
        for number, arrays in enumerate(layers)
        for place, array in enumerate(arrays)
        if not isinstance(array, np.ndarray)
    ]
    if others:
        raise TypeError("; ".join(others))
    first = len(layers[0])
    if first not in _DIRECTIONS_AND_BIAS:
        raise ValueError(f"layers[0]: expected 2, 3, 4 or 6 arrays, got {first}")
    counts = [(number, len(arrays)) for number, arrays in enumerate(layers) if len(arrays) != first]
    if counts:
        expected = f"expected {first} arrays as in layers[0]"
        raise ValueError("; ".join(f"layers[{number}]: {expected}, got {count}" for number, count in counts))
    return _DIRECTIONS_AND_BIAS[first]


def _check(cell: str, layers: tuple[Any, ...], directions: int, reset_after: bool) -> None:
    """One error that lists all arrays that do not fit the sizes and the dtype that the first ones tell."""
    I, H = ((*array.shape, 1)[0] for array in layers[0][:2])
    dtype = layers[0][0].dtype if layers[0][0].dtype in validation.DTYPES else np.dtype(np.float32)
    rows = len(KERAS_GATES[cell]) * H
    bias = (2, rows) if cell == "gru" and reset_after else (rows,)
    wrong_values, wrong_types = [], []
    for number, arrays in enumerate(layers):
        shapes = ((directions * H if number else I, rows), (H, rows), bias)[: len(arrays) // directions]
        for place, (array, shape) in enumerate(zip(arrays, shapes * directions, strict=True)):
            backward = "backward " if place >= len(shapes) else ""
            name = f"layers[{number}][{place}] ({backward}{_ARRAYS[place % len(shapes)]})"
            try:
                validation.shaped_array(name, array, dtype, shape)
            except TypeError as error:
                wrong_types.append(str(error))
            except ValueError as error:
                wrong_values.append(str(error))
    if wrong_values:
        raise ValueError("; ".join(wrong_values + wrong_types))
    if wrong_types:
        raise TypeError("; ".join(wrong_types))
