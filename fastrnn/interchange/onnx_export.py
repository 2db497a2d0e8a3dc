"""Layers to ONNX models."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import validation
from fastrnn.extras import need
from fastrnn.files import new_file

from .layouts import ONNX_GATES, Layer, family, weights_of

if TYPE_CHECKING:
    import onnx

# of June 2022: older runtimes than today's read them
_OPSET = 17
_IR_VERSION = 8


def to_onnx(layer: Layer, path: "str | os.PathLike[str] | None" = None) -> "onnx.ModelProto":
    """An ONNX model that computes what the layer does in evaluation mode.

    With `path` it is also written there, in the format that the name's ending says to the package onnx. The file
    appears, or replaces an older one, only when all is written.

    Its inputs are x, (T, B, I) or with batch_first (B, T, I), for any T and B, and h_0 and, of an LSTM, c_0. A state
    may be left out: it is zero then. It has as many rows as x, (L*D, B, H), or one for all of them, (L*D, 1, H). The
    outputs are y, h_n and, of an LSTM, c_n, as the layer's. The parameters are copied.

    ValueError for an LSTM with proj_size, and for bfloat16: ONNX's operators have neither. OSError, as `open` raises
    it, if `path` cannot be written.
    """
    cell = family(layer)
    if layer.dtype.name == "bfloat16":
        raise ValueError("layer: expected float16, float32 or float64, which ONNX's operators have, got bfloat16")
    if layer.proj_size:
        raise ValueError(f"layer: expected no projection, which ONNX has not, got proj_size={layer.proj_size}")
    path = None if path is None else validation.path(path)
    need("onnx", "to_onnx")
    import onnx

    from fastrnn import __version__

    model = onnx.helper.make_model(
        _Graph(layer, cell).built(),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="fastrnn",
        producer_version=__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        format_name = onnx.serialization.registry.get_format_from_file_extension(os.path.splitext(path)[1])
        with new_file(path) as file:
            onnx.save_model(model, file, format_name)
    return model


class _Graph:
    """The graph of a layer: for each of the L layers a node of ONNX's operator, and what joins them."""

    def __init__(self, layer: Layer, cell: str) -> None:
        self.layer = layer
        self.cell = cell
        self.states = ("h", "c") if cell == "lstm" else ("h",)
        self.rows = layer.num_layers * layer.num_directions
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def built(self) -> "onnx.GraphProto":
        from onnx import helper

        layer = self.layer
        L, D, H = layer.num_layers, layer.num_directions, layer.hidden_size
        x = self._node("Transpose", ["x"], "x_by_time", perm=[1, 0, 2]) if layer.batch_first else "x"
        states = self._initial_states(x)
        width = self._constant("width_of_y", np.array([0, 0, D * H], np.int64))  # 0 keeps the size that is there
        for number, weights in enumerate(weights_of(layer, ONNX_GATES[self.cell])):
            finals = [self._layers_name(f"{letter}_n", number) for letter in self.states]
            self._recurrent_node(number, x, weights, [state[number] for state in states], finals)
            last = number == L - 1
            # Y (T, D, B, H) to (T, B, D, H), or at the end to the layout that the caller wants
            perm = [2, 0, 1, 3] if last and layer.batch_first else [0, 2, 1, 3]
            y = self._node("Transpose", [f"Y_l{number}"], f"y_by_direction_l{number}", perm=perm)
            x = self._node("Reshape", [y, width], "y" if last else f"y_l{number}")
        if L > 1:
            for letter in self.states:
                parts = [self._layers_name(f"{letter}_n", number) for number in range(L)]
                self._node("Concat", parts, f"{letter}_n", axis=0)

        lengths = ("B", "T") if layer.batch_first else ("T", "B")
        return helper.make_graph(
            self.nodes,
            type(layer).__name__,
            inputs=[
                self._info("x", (*lengths, layer.input_size)),
                *(self._info(f"{letter}_0", (self.rows, "B_or_1", H)) for letter in self.states),
            ],
            outputs=[
                self._info("y", (*lengths, D * H)),
                *(self._info(f"{letter}_n", (self.rows, "B", H)) for letter in self.states),
            ],
            initializer=self.constants,
        )

    def _initial_states(self, x: str) -> list[list[str]]:
        """For each state the names of its part for each of the L layers, (D, B, H)."""
        layer = self.layer
        L, D, H = layer.num_layers, layer.num_directions, layer.hidden_size
        one = self._constant("one", np.array([1], np.int64))
        batch = self._node("Shape", [x], "batch", start=1, end=2)
        shape = self._node("Concat", [one, batch, one], "rows_of_states", axis=0)
        parts = []
        for letter in self.states:
            # an input that has a value here too may be left out
            state = self._constant(f"{letter}_0", np.zeros((self.rows, 1, H), layer.dtype))
            names = [self._layers_name(f"{letter}_0_rows", number) for number in range(L)]
            self._node("Expand", [state, shape], f"{letter}_0_rows")
            if L > 1:
                each = self._constant(f"{letter}_0_parts", np.full(L, D, np.int64))
                self._node("Split", [f"{letter}_0_rows", each], *names, axis=0)
            parts.append(names)
        return parts

    def _recurrent_node(
        self, number: int, x: str, weights: list[list[np.ndarray]], states: list[str], finals: list[str]
    ) -> None:
        layer = self.layer
        W, R, *biases = (np.stack(arrays) for arrays in zip(*weights, strict=True))
        names = [self._constant(f"W_l{number}", W), self._constant(f"R_l{number}", R)]
        names.append(self._constant(f"B_l{number}", np.concatenate(biases, axis=1)) if biases else "")
        own: dict[str, Any] = {}
        if self.cell == "gru":
            own = {"linear_before_reset": int(layer.cell == "gru")}
        elif layer.cell == "rnn_relu":
            own = {"activations": ["Relu"] * layer.num_directions}
        self._node(
            self.cell.upper(),
            [x, *names, "", *states],  # the empty name is sequence_lens
            f"Y_l{number}",
            *finals,
            hidden_size=layer.hidden_size,
            direction="bidirectional" if layer.bidirectional else "forward",
            **own,
        )

    def _layers_name(self, name: str, number: int) -> str:
        """What one layer's part of the states is called: with one layer it is the whole."""
        return name if self.layer.num_layers == 1 else f"{name}_l{number}"

    def _node(self, operator: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def _info(self, name: str, shape: tuple[int | str, ...]) -> "onnx.ValueInfoProto":
        from onnx import helper

        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(self.layer.dtype), shape)
