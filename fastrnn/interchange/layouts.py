"""What the converters share: layers of ours from and to weights in the gate orders of other systems."""

from typing import Any

import numpy as np

from fastrnn import validation
from fastrnn.layers import GRU, LSTM, RNN

Layer = LSTM | GRU | RNN
Weights = list[list[list[np.ndarray]]]
"""[layer][direction]: W_ih (G*H, ·), W_hh (G*H, H) and, with a bias, b_ih and b_hh (G*H,)."""

CLASSES: dict[str, type[LSTM] | type[GRU] | type[RNN]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

# for each gate of theirs, its place in PyTorch's order (LSTM i f g o, GRU r z n)
ONNX_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # i o f c; z r h
KERAS_GATES = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}  # i f c o; z r h


def family(layer: Any) -> str:
    """The key of the layer's class in `CLASSES`. TypeError if it is no layer of ours."""
    for name, kind in CLASSES.items():
        if isinstance(layer, kind):
            return name
    raise TypeError(f"layer: expected a fastrnn LSTM, GRU or RNN, got {validation.full_name(layer)}")


def weights_of(layer: Layer, gates: tuple[int, ...]) -> Weights:
    """Copies of the parameters of a layer without projection, in the order `gates`."""
    parameters = layer.state_dict()
    return [
        [
            [reordered(parameters[name], gates) for name in _names(number, direction, layer.bias)]
            for direction in range(layer.num_directions)
        ]
        for number in range(layer.num_layers)
    ]


def layer_of(
    cell: str, weights: Weights, gates: tuple[int, ...], reset_after: bool, nonlinearity: str, **options: Any
) -> Layer:
    """A layer with weights of fitting shapes in the order `gates`. `options` are more of the constructor's."""
    W, R, *biases = weights[0][0]
    if cell == "gru":
        options["reset_after"] = reset_after
    elif cell == "rnn":
        options["nonlinearity"] = nonlinearity
    options |= {"num_layers": len(weights), "bias": bool(biases), "bidirectional": len(weights[0]) == 2}
    layer = CLASSES[cell](W.shape[1], R.shape[1], dtype=W.dtype, **options)
    inverse = tuple(int(place) for place in np.argsort(gates))
    layer.load_state_dict(
        {
            name: reordered(array, inverse)
            for number, directions in enumerate(weights)
            for direction, arrays in enumerate(directions)
            for name, array in zip(_names(number, direction, layer.bias), arrays, strict=True)
        }
    )
    return layer


def reordered(array: np.ndarray, gates: tuple[int, ...]) -> np.ndarray:
    """A copy of `array` (G*H, ...): its block number gates[0] first, and so on."""
    return array.reshape(len(gates), -1, *array.shape[1:])[list(gates)].reshape(array.shape)


def _names(layer: int, direction: int, bias: bool) -> list[str]:
    """PyTorch's names, in the order of `Weights`."""
    suffix = f"_l{layer}{'_reverse' if direction else ''}"
    return [f"{short}{suffix}" for short in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if bias else 2]]
