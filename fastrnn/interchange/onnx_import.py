"""LSTM, GRU and RNN nodes of ONNX models to layers."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import validation
from fastrnn.extras import need

from .layouts import CLASSES, ONNX_GATES, layer_of
from .onnx_constants import Constants, array, in_another_file, is_one_of
from .onnx_layer import OnnxLayer

if TYPE_CHECKING:
    import onnx

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_MOST_INPUTS = {"lstm": 8, "gru": 6, "rnn": 6}
_ACTIVATIONS = {"lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"], "rnn": ["Tanh"]}
_TYPES = {
    "hidden_size": "INT",
    "layout": "INT",
    "linear_before_reset": "INT",
    "input_forget": "INT",
    "direction": "STRING",
    "activations": "STRINGS",
}
_STATES = ("initial_h", "initial_c")
_OLDEST_OPSET = 7  # since then the operators' inputs have been these; later versions add `layout` and dtypes
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
# they change no value, so zeros stay zeros whatever the shapes are
_MOVERS = ("Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze")


def from_onnx(
    model: "onnx.ModelProto | bytes | str | os.PathLike[str]",
    name: str | None = None,
    *,
    device: str = "cpu",
    seed: int | None = None,
    backend: str | None = None,
) -> OnnxLayer:
    """An LSTM, GRU or RNN node of an ONNX model, with its weights, as an `OnnxLayer`.

    model  a ModelProto, one serialised, or the path of a file
    name   of the node, or of one of its outputs; None if the model has one such node only. Nodes within the branches
           and loops of a graph are not found.

    W, R and B must be constants: initializers (as they are, though a call of the model could replace those that are
    also inputs), the values of Constant nodes, or put together from these. So may be
    initial_h, initial_c and sequence_lens; if not, a call must give them, but for states that are zero whatever their
    shapes, as exporters make them from the shape of the input. `device`, `seed` and `backend` are those of the layer.

    One ValueError lists everything about a node that a layer cannot represent: clip, peepholes (P), input_forget,
    activations other than the default ones (and relu in an RNN) and their alpha and beta, weights that are not
    constant, wrong shapes, dtypes other than float32 and float64.
    """
    graph = _Graph(_loaded(model))
    return _read(graph, graph.recurrent_node(name), {"device": device, "seed": seed, "backend": backend})


def _loaded(model: Any) -> "onnx.ModelProto":
    need("onnx", "from_onnx")
    import onnx
    from google.protobuf import json_format, message, text_format

    if isinstance(model, onnx.ModelProto):
        return model
    load: Any = onnx.load_model_from_string
    if isinstance(model, str | os.PathLike):
        model, load = validation.path(model, "model"), onnx.load_model
    elif not isinstance(model, bytes):
        raise TypeError(f"model: expected an onnx.ModelProto, bytes or a path, got {type(model).__name__}")
    damaged = (message.DecodeError, json_format.ParseError, text_format.ParseError, onnx.parser.ParseError)
    try:
        return load(model)
    except damaged as error:
        raise ValueError("model: expected an ONNX model, got something else") from error
    except (onnx.checker.ValidationError, ValueError) as error:  # a file of its tensors has gone, or is cut off, say
        raise ValueError(f"model: expected a whole ONNX model: {error}") from error


class _Graph:
    """The main graph of a model: its recurrent nodes, and where their inputs come from."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self._nodes = model.graph.node
        self._constants = Constants(model, self.opset)

    def recurrent_node(self, name: str | None) -> "onnx.NodeProto":
        """The one node of that name; ValueError if there is none, or if there are several."""
        operators = tuple(cell.upper() for cell in CLASSES)
        there = [node for node in self._nodes if is_one_of(node, operators)]
        if not there:
            raise ValueError("model: expected an LSTM, GRU or RNN node in its graph, got none")
        found = [node for node in there if name is None or (name and name in (node.name, *node.output))]
        if len(found) != 1:
            names = ", ".join(repr(_label(node)) for node in there)
            raise ValueError(f"name: expected that of one of the nodes {names}, got {name!r}")
        return found[0]

    def constant(self, name: str) -> np.ndarray | None:
        """The value of that name, if it depends on nothing but the model."""
        return self._constants.value(name)

    def is_zero(self, name: str) -> bool:
        """Whether the value of that name is zero, whatever its shape."""
        from onnx import helper

        passed = set()
        node = self._constants.producer(name)
        while node is not None and is_one_of(node, _MOVERS) and node.input and name not in passed:
            passed.add(name)  # a damaged graph may have circles
            name = node.input[0]
            node = self._constants.producer(name)
        value = self.constant(name)
        if value is not None:
            return not value.any()
        if node is None or not is_one_of(node, ("ConstantOfShape",)):
            return False
        values = [helper.get_attribute_value(attribute) for attribute in node.attribute]
        return not any(in_another_file(value) or array(name, value).any() for value in values)

    def origin(self, name: str) -> str:
        """Where the value of that name, which is no constant, comes from."""
        if self._constants.lies_elsewhere(name):
            return "a tensor in another file: give the path of the model"
        if self._constants.is_sparse(name):
            return f"the sparse initializer {name!r}"
        node = self._constants.producer(name)
        return f"the graph's input {name!r}" if node is None else f"the output {name!r} of {node.op_type}"


def _label(node: "onnx.NodeProto") -> str:
    return node.name or next((output for output in node.output if output), "")


class _Attributes:
    """The attributes of a node, checked. What a layer cannot represent is added to `problems`."""

    def __init__(self, cell: str, node: "onnx.NodeProto", problems: list[str]) -> None:
        from onnx import AttributeProto, helper

        values = {}
        for attribute in node.attribute:
            name, given, expected = attribute.name, attribute.type, _TYPES.get(attribute.name)
            if expected is None or given == AttributeProto.AttributeType.Value(expected):
                values[name] = helper.get_attribute_value(attribute)
            else:
                problems.append(f"{name}: expected type {expected}, got {AttributeProto.AttributeType.Name(given)}")
        self.hidden_size: int | None = values.pop("hidden_size", None)
        self.layout: int = values.pop("layout", 0)
        self.direction: str = values.pop("direction", b"forward").decode(errors="replace")
        self.reset_after = bool(values.pop("linear_before_reset", 0))
        if self.reset_after and cell != "gru":
            problems.append("linear_before_reset: expected in a GRU only")
        self.nonlinearity = "tanh"
        if self.hidden_size is not None and self.hidden_size < 1:
            problems.append(f"hidden_size: expected at least 1, got {self.hidden_size}")
        if self.layout not in (0, 1):
            problems.append(f"layout: expected 0 or 1, got {self.layout}")
        if self.direction not in _DIRECTIONS:
            problems.append(f"direction: expected {', '.join(_DIRECTIONS)}, got {self.direction}")
        self.directions = _DIRECTIONS.get(self.direction, 1)
        if values.pop("input_forget", 0):
            problems.append("input_forget: not supported")
        activations = [name.decode(errors="replace") for name in values.pop("activations", [])]
        usual = _ACTIVATIONS[cell] * self.directions
        names = [name.lower() for name in activations]
        if cell == "rnn" and len(names) == 2 and names[0] == names[1]:
            del names[self.directions :]  # the specification's default is two whatever the direction
        if cell == "rnn" and names == ["relu"] * self.directions:
            self.nonlinearity = "relu"
        elif activations and names != [name.lower() for name in usual]:
            either = " (or Relu in their place)" if cell == "rnn" else ""
            problems.append(f"activations: expected {', '.join(usual)}{either}, got {', '.join(activations)}")
        problems += [f"{name}: not supported" for name, value in values.items() if value != []]  # that says nothing


def _read(graph: _Graph, node: "onnx.NodeProto", options: dict[str, Any]) -> OnnxLayer:
    """The node as a layer; ValueError that lists all problems."""
    cell = node.op_type.lower()
    problems: list[str] = []
    if graph.opset < _OLDEST_OPSET:
        problems.append(f"opset: expected at least {_OLDEST_OPSET}, got {graph.opset}")
    attributes = _Attributes(cell, node, problems)
    inputs = {name: given for name, given in zip(_INPUTS, node.input, strict=False) if given}
    if len(node.input) > _MOST_INPUTS[cell]:
        problems.append(f"inputs: expected at most {_MOST_INPUTS[cell]}, got {len(node.input)}")
    if "P" in inputs:
        problems.append("P: peepholes are not supported")
    problems += [f"{name}: missing" for name in ("X", "W", "R") if name not in inputs]

    constants: dict[str, np.ndarray] = {}
    required: dict[str, str] = {}
    for name, given in inputs.items():
        if name in ("X", "P") or (name in _STATES and graph.is_zero(given)):
            continue
        value = graph.constant(given)
        if value is not None:
            constants[name] = value
        elif name in ("W", "R", "B"):
            problems.append(f"{name}: expected a constant, got {graph.origin(given)}")
        else:
            required[name] = given
    problems += _wrong_arrays(cell, attributes, constants)
    if problems:
        raise ValueError(f"{node.op_type} node {_label(node)!r}: {'; '.join(problems)}")
    weights = [[constants["W"][d], constants["R"][d]] for d in range(attributes.directions)]
    if "B" in constants:
        for arrays, biases in zip(weights, constants["B"], strict=True):
            arrays += np.split(biases, 2)
    cells_own = (attributes.reset_after, attributes.nonlinearity)
    layer = layer_of(cell, [weights], ONNX_GATES[cell], *cells_own, **options)
    kept = {name: value for name, value in constants.items() if name in (*_STATES, "sequence_lens")}
    return OnnxLayer(layer, attributes.direction, attributes.layout, kept, required)


def _wrong_arrays(cell: str, attributes: _Attributes, constants: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with shapes and dtypes of a node's inputs. Letters stand for sizes that are free."""
    wrong = []
    R = constants.get("R", np.empty(()))
    H = attributes.hidden_size or (R.shape[-1] if R.ndim else 0)
    D, rows = attributes.directions, len(ONNX_GATES[cell]) * H
    state = ("B", D, H) if attributes.layout else (D, "B", H)
    shapes: dict[str, tuple[int | str, ...]] = {
        "W": (D, rows, "I"),
        "R": (D, rows, H),
        "B": (D, 2 * rows),
        "sequence_lens": ("B",),
        "initial_h": state,
        "initial_c": state,
    }
    # of the weights, that of the first one that has one of ours is expected of the others, and of the states
    of_weights = [constants[name].dtype for name in ("W", "R", "B") if name in constants]
    dtype = next((each for each in of_weights if each in validation.DTYPES), np.dtype(np.float32))
    dtypes = dict.fromkeys(shapes, (dtype,)) | {"W": validation.DTYPES, "sequence_lens": (np.dtype(np.int32),)}
    for name, expected in shapes.items():
        if name not in constants:
            continue
        value = constants[name]
        if value.ndim != len(expected) or any(
            isinstance(size, int) and size != given for size, given in zip(expected, value.shape, strict=True)
        ):
            wrong.append(f"{name}: expected shape ({', '.join(map(str, expected))}), got {value.shape}")
        if value.dtype not in dtypes[name]:
            wrong.append(f"{name}: expected {' or '.join(map(str, dtypes[name]))}, got {value.dtype}")
    return wrong
