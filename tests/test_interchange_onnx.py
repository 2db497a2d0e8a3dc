"""from_onnx and to_onnx, with ONNX Runtime on random weights as the witness."""

import itertools
import warnings

import numpy as np
import pytest
from conftest import KINDS, as_state, as_tuple, make_layer, random_problem

import fastrnn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

T, B, I, H = 6, 4, 3, 5
TOLERANCE = 1e-5  # of the largest magnitude in the array
# operator, its gates, attributes that choose the cell for each number of directions
CELLS = {
    "lstm": ("LSTM", 4, lambda D: {}),
    "gru": ("GRU", 3, lambda D: {"linear_before_reset": 1}),
    "gru_reset_before": ("GRU", 3, lambda D: {}),
    "rnn_tanh": ("RNN", 1, lambda D: {}),
    "rnn_relu": ("RNN", 1, lambda D: {"activations": ["Relu"] * D}),
}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
WAYS = ("none", "constant", "input")  # how the model gives a node an optional input
LENGTHS = np.array([6, 2, 0, 5], np.int32)

every_cell = pytest.mark.parametrize("cell", CELLS)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def run(model, feed, outputs=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feed)


def info(name, array):
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None)


def model_of(nodes, constants, inputs, outputs, opset=14):
    """A model in which `inputs` and `outputs` are {name: array of that dtype}."""
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [info(*each) for each in inputs.items()],
        [info(*each) for each in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


class Node:
    """A model of one node with random weights, and random values of all its inputs."""

    def __init__(self, cell, direction, *, bias=True, states="none", lengths="none", layout=0, dtype="float32"):
        self.operator, G, attributes = CELLS[cell]
        D = DIRECTIONS[direction]
        self.names = ["Y", "Y_h"] + ["Y_c"] * (cell == "lstm")
        self.states = ["initial_h"] + ["initial_c"] * (cell == "lstm")
        self.attributes = {"hidden_size": H, "direction": direction, "layout": layout} | attributes(D)
        self.weights = {"W": normal(D, G * H, I, seed=1), "R": normal(D, G * H, H, seed=2) / 2}
        if bias:
            self.weights["B"] = normal(D, 2 * G * H, seed=3)
        self.weights = {name: array.astype(dtype) for name, array in self.weights.items()}
        self.x = normal(T, B, I, seed=4).astype(dtype)
        ways = dict.fromkeys(self.states, states) | {"sequence_lens": lengths}
        values = {name: normal(D, B, H, seed=5 + k).astype(dtype) for k, name in enumerate(self.states)}
        values["sequence_lens"] = LENGTHS
        self.constants = {name: values[name] for name, way in ways.items() if way == "constant"}
        self.given = {name: values[name] for name, way in ways.items() if way == "input"}

    def model(self, **changes):
        """`changes` replace attributes, or inputs and constants in capitals: `W=array`."""
        constants = self.weights | self.constants
        inputs = [
            name if name == "X" or name in constants or name in self.given else ""
            for name in ("X", "W", "R", "B", "sequence_lens", *self.states)
        ]
        node = onnx.helper.make_node(self.operator, inputs, self.names, name="node", **(self.attributes | changes))
        return model_of([node], constants, {"X": self.x} | self.given, dict.fromkeys(self.names, self.x))


def assert_close(results, expected):
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(), strict=True)


# Import


@pytest.mark.parametrize("lengths", WAYS, ids="lengths-{}".format)
@pytest.mark.parametrize("states", WAYS, ids="states-{}".format)
@every_direction
@every_cell
def test_an_imported_node_computes_what_onnx_runtime_does(cell, direction, states, lengths):
    node = Node(cell, direction, states=states, lengths=lengths)
    expected = run(node.model(), {"X": node.x} | node.given)
    imported = fastrnn.from_onnx(node.model())
    assert imported.required == {name: name for name in node.given}
    assert_close(imported(node.x, **node.given), expected)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@every_direction
@every_cell
def test_nodes_without_bias(cell, direction, backend):
    node = Node(cell, direction, bias=False, states="constant")
    imported = fastrnn.from_onnx(node.model(), backend=backend)
    assert not imported.layer.bias
    assert imported.layer.backend == backend
    assert_close(imported(node.x), run(node.model(), {"X": node.x}))


@pytest.mark.parametrize("way", ["constant", "input"])
@every_direction
@every_cell
def test_layout_1_is_the_same_with_the_batch_first(cell, direction, way):
    """ONNX Runtime has no layout 1: it runs the node with layout 0."""
    node = Node(cell, direction, states=way, lengths=way)
    Y, *finals = run(node.model(), {"X": node.x} | node.given)
    expected = [Y.transpose(2, 0, 1, 3), *(final.transpose(1, 0, 2) for final in finals)]
    for values in (node.constants, node.given):
        values |= {name: values[name].transpose(1, 0, 2) for name in node.states if name in values}
    node.x = node.x.transpose(1, 0, 2)
    imported = fastrnn.from_onnx(node.model(layout=1))
    assert_close(imported(node.x, **node.given), expected)


def two_layers():
    """A model of two recurrent nodes, one fed by the other, and the values that it computes."""
    lower, upper = Node("lstm", "forward"), Node("gru", "forward")
    W = normal(1, 3 * H, H, seed=9)
    nodes = [
        onnx.helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], name="lower", hidden_size=H),
        onnx.helper.make_node("Squeeze", ["Y", "axes"], ["between"]),
        onnx.helper.make_node("GRU", ["between", "V", "S", "C"], ["", "final"], hidden_size=H, linear_before_reset=1),
    ]
    constants = lower.weights | {"axes": np.array([1]), "V": W, "S": upper.weights["R"], "C": upper.weights["B"]}
    return model_of(nodes, constants, {"X": lower.x}, {"Y": lower.x, "final": lower.x}), lower.x


def test_nodes_are_found_by_their_name_or_that_of_an_output():
    model, x = two_layers()
    Y, final = run(model, {"X": x})
    lower = fastrnn.from_onnx(model, "lower")
    assert_close(lower(x)[:1], [Y])
    assert_close(fastrnn.from_onnx(model, "Y")(x)[:1], [Y])
    upper = fastrnn.from_onnx(model, "final")
    assert isinstance(upper.layer, fastrnn.GRU)
    assert_close(upper(Y[:, 0])[1:], [final])
    for name in (None, "lowest", ""):
        with pytest.raises(
            ValueError, match=f"^name: expected that of one of the nodes 'lower', 'final', got {name!r}$"
        ):
            fastrnn.from_onnx(model, name)


def test_weights_behind_constant_and_identity_nodes_are_found():
    node = Node("gru", "bidirectional", states="constant")
    model = node.model()
    expected = run(model, {"X": node.x})
    (recurrent,), constants = model.graph.node, {t.name: t for t in model.graph.initializer}
    del model.graph.initializer[:], model.graph.node[:]
    for place, name in enumerate(recurrent.input):
        if name in constants:
            model.graph.node.append(onnx.helper.make_node("Constant", [], [f"{name}_value"], value=constants[name]))
            model.graph.node.append(onnx.helper.make_node("Identity", [f"{name}_value"], [f"{name}_again"]))
            recurrent.input[place] = f"{name}_again"
    model.graph.node.append(recurrent)
    assert_close(fastrnn.from_onnx(model)(node.x), expected)


def test_constants_given_as_numbers_are_found():
    """Not as tensors: so PyTorch's newer exporter leaves them with optimize=False."""
    node = Node("rnn_tanh", "forward")
    model = node.model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "B")
    numbers = onnx.numpy_helper.to_array(bias).ravel().tolist()
    model.graph.initializer.remove(bias)
    made = [
        onnx.helper.make_node("Constant", [], ["numbers"], value_floats=numbers),
        onnx.helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        onnx.helper.make_node("Unsqueeze", ["numbers", "axes"], ["B"]),
    ]
    recurrent = model.graph.node.pop()
    model.graph.node.extend([*made, recurrent])
    assert_close(fastrnn.from_onnx(model)(node.x), run(model, {"X": node.x}))


def test_weights_put_together_from_constants_are_found():
    """As PyTorch's exporter leaves them with optimize=False, and tools that shrink weights."""
    node = Node("gru", "bidirectional")
    model = node.model()
    expected = run(model, {"X": node.x})
    (recurrent,), constants = model.graph.node, {t.name: t for t in model.graph.initializer}
    W, R, B = (onnx.numpy_helper.to_array(constants[name]) for name in "WRB")
    del model.graph.initializer[:], model.graph.node[:]
    given = {
        "first": W[0],
        "second": W[1:],
        "turned": R.transpose(0, 2, 1).astype(np.float64),
        "longer": np.concatenate([B, B], axis=1),
        "zero": np.array([0]),
        "from": np.array([0, 0]),
        "to": np.array([2, B.shape[1]]),
        "axes": np.array([0, 1]),
    }
    model.graph.initializer.extend([onnx.numpy_helper.from_array(value, name) for name, value in given.items()])
    make = onnx.helper.make_node
    model.graph.node.extend([
        make("Unsqueeze", ["first", "zero"], ["raised"]),
        make("Concat", ["raised", "second"], ["W"], axis=0),
        make("Transpose", ["turned"], ["wide"], perm=[0, 2, 1]),
        make("Cast", ["wide"], ["R"], to=onnx.TensorProto.FLOAT),
        make("Slice", ["longer", "from", "to", "axes"], ["B"]),
        recurrent,
    ])  # fmt: skip
    assert_close(run(model, {"X": node.x}), expected)
    assert_close(fastrnn.from_onnx(model)(node.x), expected)
    model.graph.node[1].attribute[0].i = 7
    with pytest.raises(ValueError, match="model: expected 'W' to be what Concat can make: "):
        fastrnn.from_onnx(model)


def behind(model, name, operators):
    """Let nodes (operator, domain, inputs, attributes), one after the other, stand before an input of the last node."""
    recurrent = model.graph.node[-1]
    place = list(recurrent.input).index(name)
    nodes = []
    for k, (operator, domain, number, attributes) in enumerate(operators):
        source = f"{name}{k}" if k else name
        nodes.append(
            onnx.helper.make_node(operator, [source] * number, [f"{name}{k + 1}"], domain=domain, **attributes)
        )
    recurrent.input[place] = f"{name}{len(operators)}"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


def test_constants_behind_many_nodes_are_found():
    node = Node("gru", "forward")
    turn = ("Transpose", "", 1, {"perm": [0, 2, 1]})
    model = behind(behind(node.model(), "W", [turn] * 300), "R", [turn] * 20)
    assert_close(fastrnn.from_onnx(model)(node.x), run(node.model(), {"X": node.x}))


def test_small_models_cannot_stand_for_large_ones():
    model = behind(Node("gru", "forward").model(), "W", [("Concat", "", 2, {"axis": 1})] * 40)
    with pytest.raises(
        ValueError, match=r"model: expected constants of about its own size, got 'W\d+' of [\d,]+ bytes"
    ):
        fastrnn.from_onnx(model)


def test_nodes_of_other_domains_are_not_guessed_at():
    model = behind(Node("gru", "forward").model(), "W", [("Cast", "elsewhere", 1, {})])
    problems(model, "W: expected a constant, got the output 'W1' of Cast")


@pytest.mark.parametrize("operator", ["Expand", "ConstantOfShape"])
def test_states_that_nodes_of_other_domains_make_are_not_guessed_at(operator):
    node = Node("gru", "forward", states="input")
    model = behind(node.model(), "initial_h", [(operator, "elsewhere", 1, {})])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, B, H), np.float32), "initial_h"))
    assert fastrnn.from_onnx(model).required == {"initial_h": "initial_h1"}


@pytest.mark.parametrize("given", ["model", "bytes"])
def test_tensors_in_another_file_are_not_looked_for_in_the_current_folder(given, tmp_path, monkeypatch):
    """Constant nodes may have them there too."""
    model = Node("rnn_tanh", "forward", bias=False).model()
    recurrent = model.graph.node.pop()
    made = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    del model.graph.initializer[:]
    model.graph.node.extend([*made, recurrent])
    path = tmp_path / "model.onnx"
    save = {"save_as_external_data": True, "location": "weights", "size_threshold": 0, "convert_attribute": True}
    onnx.save_model(model, path, **save)
    fastrnn.from_onnx(path)
    monkeypatch.chdir(tmp_path)  # where a file of that name lies
    elsewhere = "expected a constant, got a tensor in another file: give the path of the model"
    alone = onnx.load_model(path, load_external_data=False) if given == "model" else path.read_bytes()
    with pytest.raises(ValueError, match=f"W: {elsewhere}; R: {elsewhere}$"):
        fastrnn.from_onnx(alone)


def test_a_model_whose_other_file_has_gone_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    save = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save_model(Node("gru", "forward").model(), path, **save)
    fastrnn.from_onnx(path)
    weights = tmp_path / "weights"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"^model: expected a whole ONNX model: "):
        fastrnn.from_onnx(path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"^model: expected a whole ONNX model: .*weights"):
        fastrnn.from_onnx(path)


@pytest.mark.parametrize("ending", ["json", "textproto", "onnxtxt", "onnx"])
def test_a_file_in_any_format_that_is_no_model_is_refused(ending, tmp_path):
    path = tmp_path / f"model.{ending}"
    path.write_text("{ x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of onnx, whose format onnxtxt is new
        with pytest.raises(ValueError, match=r"^model: expected an ONNX model, got something else$"):
            fastrnn.from_onnx(path)


def test_states_that_are_zero_whatever_their_shape_need_not_be_given():
    """As PyTorch's exporters make them: from a shape that the graph computes."""
    node = Node("lstm", "forward", states="input")
    model = node.model()
    shape = onnx.helper.make_node("Shape", ["X"], ["batch"], start=1, end=2)
    extent = onnx.helper.make_node("Concat", ["one", "batch", "width"], ["extent"], axis=0)
    zeros = onnx.helper.make_node("ConstantOfShape", ["extent"], ["zeros"])
    again = onnx.helper.make_node("Expand", ["zero", "extent"], ["zeros_too"])
    recurrent = model.graph.node.pop()
    recurrent.input[5:] = ["zeros", "zeros_too"]
    model.graph.node.extend([shape, extent, zeros, again, recurrent])
    sizes = {"one": np.array([1]), "width": np.array([H]), "zero": np.zeros((), np.float32)}
    model.graph.initializer.extend([onnx.numpy_helper.from_array(array, name) for name, array in sizes.items()])
    del model.graph.input[1:]
    model.opset_import[0].version = 15
    imported = fastrnn.from_onnx(model)
    assert imported.required == {}
    assert_close(imported(node.x), run(model, {"X": node.x}))


ones = np.ones(1, np.float32)
COMPUTED = {  # how a node's initial state comes about: operator, its inputs, its attributes
    "negated": ("Neg", ["X"], {}),
    "filled with ones": ("ConstantOfShape", ["extent"], {"value": onnx.numpy_helper.from_array(ones)}),
    "spread": ("Expand", ["ones", "extent"], {}),
    "added to zero": ("Add", ["zero", "X"], {}),
}


@pytest.mark.parametrize(("operator", "inputs", "attributes"), COMPUTED.values(), ids=COMPUTED)
def test_states_that_the_model_computes_must_be_given(operator, inputs, attributes):
    node = Node("gru", "forward", states="input")
    model = node.model()
    model.graph.node.insert(0, onnx.helper.make_node(operator, inputs, ["computed"], **attributes))
    model.graph.node[1].input[5] = "computed"
    for name, array in {"ones": ones, "zero": 0 * ones, "extent": np.array([1, B, H])}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    imported = fastrnn.from_onnx(model)
    assert imported.required == {"initial_h": "computed"}
    with pytest.raises(ValueError, match=r"^initial_h: missing \(the model computes them or takes them as inputs\)$"):
        imported(node.x)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu"])
def test_models_as_files_and_as_bytes(cell, tmp_path):
    node = Node(cell, "reverse")
    expected = fastrnn.from_onnx(node.model())(node.x)
    whole, split = tmp_path / "whole.onnx", tmp_path / "split.onnx"
    onnx.save(node.model(), whole)
    outside = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save(node.model(), split, **outside)
    for given in (str(whole), whole, split, whole.read_bytes()):
        for result, wanted in zip(fastrnn.from_onnx(given)(node.x), expected, strict=True):
            np.testing.assert_array_equal(result, wanted)
    with pytest.raises(
        ValueError, match=r"W: expected a constant, got a tensor in another file: give the path .*; R: "
    ):
        fastrnn.from_onnx(split.read_bytes())
    whole.write_bytes(whole.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"^model: expected an ONNX model, got something else$"):
        fastrnn.from_onnx(whole)
    with pytest.raises(FileNotFoundError):
        fastrnn.from_onnx(tmp_path / "none.onnx")


def test_float64_nodes():
    """ONNX Runtime has none; the same numbers in float32 are the witness."""
    single, double = (Node("lstm", "bidirectional", states="constant", dtype=t) for t in ("float32", "float64"))
    imported = fastrnn.from_onnx(double.model())
    results = imported(double.x)
    assert {result.dtype for result in results} == {np.dtype("float64")}
    assert_close([result.astype("float32") for result in results], run(single.model(), {"X": single.x}))


def test_arguments_take_the_place_of_what_the_model_gives():
    constant, given = (Node("lstm", "reverse", states=way, lengths=way) for way in ("constant", "input"))
    values = {"initial_h": normal(1, B, H, seed=20), "initial_c": normal(1, B, H, seed=21)}
    values["sequence_lens"] = np.array([1, 6, 3, 6], np.int32)
    expected = run(given.model(), {"X": given.x} | values)
    assert_close(fastrnn.from_onnx(constant.model())(constant.x, **values), expected)


def test_explicit_defaults_are_accepted_in_any_case():
    node = Node("lstm", "bidirectional")
    model = node.model(activations=["sigmoid", "tanh", "TANH"] * 2, input_forget=0)
    for name in ("activation_alpha", "activation_beta"):  # empty: some exporters write what they have nothing for
        model.graph.node[0].attribute.add(name=name, type=onnx.AttributeProto.FLOATS)
    assert_close(fastrnn.from_onnx(model)(node.x), run(model, {"X": node.x}))


def problems(model, *expected):
    """The one error lists exactly these, in this order."""
    with pytest.raises(ValueError, match=r"^(LSTM|GRU|RNN) node 'node': ") as raised:
        fastrnn.from_onnx(model)
    assert str(raised.value).partition(": ")[2].split("; ") == list(expected)


UNSUPPORTED = {
    "clip": ({"clip": 3.0}, "clip: not supported"),
    "input_forget": ({"input_forget": 1}, "input_forget: not supported"),
    "alpha": ({"activation_alpha": [0.1]}, "activation_alpha: not supported"),
    "beta": ({"activation_beta": [0.1]}, "activation_beta: not supported"),
    "activations": (
        {"activations": ["HardSigmoid", "Tanh", "Tanh"]},
        "activations: expected Sigmoid, Tanh, Tanh, got HardSigmoid, Tanh, Tanh",
    ),
    "hidden_size": ({"hidden_size": 0}, "hidden_size: expected at least 1, got 0"),
    "layout": ({"layout": 2}, "layout: expected 0 or 1, got 2"),
    "direction": ({"direction": "up"}, "direction: expected forward, reverse, bidirectional, got up"),
    "linear_before_reset": ({"linear_before_reset": 1}, "linear_before_reset: expected in a GRU only"),
    "of old": ({"output_sequence": 1}, "output_sequence: not supported"),
}


@pytest.mark.parametrize(("changes", "problem"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_a_layer_cannot_represent_is_refused_by_name(changes, problem):
    problems(Node("lstm", "forward").model(**changes), problem)


@pytest.mark.parametrize("activations", [["Relu", "Tanh"], ["Affine", "Affine"], ["Tanh"]])
def test_activations_of_an_rnn_are_tanh_or_relu_in_both_directions(activations):
    shown = f"activations: expected Tanh, Tanh (or Relu in their place), got {', '.join(activations)}"
    problems(Node("rnn_tanh", "bidirectional").model(activations=activations), shown)


@pytest.mark.parametrize("activation", ["Tanh", "Relu"])
def test_an_rnn_of_one_direction_may_have_two_activations_that_are_alike(activation):
    """Such is the specification's default."""
    node = Node("rnn_tanh", "forward")
    model = node.model(activations=[activation] * 2)
    assert_close(fastrnn.from_onnx(model)(node.x), run(model, {"X": node.x}))


def test_one_error_names_all_that_is_wrong():
    node = Node("lstm", "forward", states="constant", lengths="constant")
    node.weights["R"] = normal(1, 4 * H, H + 1)
    node.weights["B"] = normal(1, 4 * H).astype("float64")
    node.constants["initial_h"] = normal(2, B, H)
    node.constants["sequence_lens"] = np.ones((B, 1), np.int64)
    model = node.model(clip=1.0, input_forget=1, activations=["Relu"])
    model.graph.node[0].input.append("P")
    model.graph.initializer.append(onnx.numpy_helper.from_array(normal(1, 3 * H), "P"))
    model.opset_import[0].version = 6
    problems(
        model,
        "opset: expected at least 7, got 6",
        "input_forget: not supported",
        "activations: expected Sigmoid, Tanh, Tanh, got Relu",
        "clip: not supported",
        "P: peepholes are not supported",
        f"R: expected shape (1, {4 * H}, {H}), got (1, {4 * H}, {H + 1})",
        f"B: expected shape (1, {8 * H}), got (1, {4 * H})",
        "B: expected float32, got float64",
        f"sequence_lens: expected shape (B), got ({B}, 1)",
        "sequence_lens: expected int32, got int64",
        f"initial_h: expected shape (1, B, {H}), got (2, {B}, {H})",
    )


def test_weights_that_are_no_constants_are_refused_by_name():
    node = Node("gru", "forward")
    node.given = {"W": node.weights.pop("W")}
    model = node.model()
    model.graph.node.insert(0, onnx.helper.make_node("Neg", ["R"], ["minus_R"]))
    model.graph.node[1].input[2] = "minus_R"
    problems(
        model,
        "W: expected a constant, got the graph's input 'W'",
        "R: expected a constant, got the output 'minus_R' of Neg",
    )


def test_sparse_weights_are_refused_by_name():
    model = Node("gru", "forward").model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "B")
    places = onnx.numpy_helper.from_array(np.arange(len(onnx.numpy_helper.to_array(bias).ravel())), "places")
    sparse = onnx.helper.make_sparse_tensor(bias, places, bias.dims)
    model.graph.initializer.remove(bias)
    model.graph.sparse_initializer.append(sparse)
    problems(model, "B: expected a constant, got the sparse initializer 'B'")


def test_missing_weights_are_refused_by_name():
    model = Node("gru", "forward").model()
    model.graph.node[0].input[1:] = ["", ""]
    problems(model, "W: missing", "R: missing")


@pytest.mark.parametrize("length", [1, 2, 2000])
def test_weights_behind_a_circle_of_nodes_are_no_constants(length):
    model = Node("gru", "forward", states="input").model()
    nodes = model.graph.node
    for name, place in (("W", 1), ("initial_h", 5)):
        for k in range(length):
            nodes.append(onnx.helper.make_node("Identity", [f"{name}{k}"], [f"{name}{(k + 1) % length}"]))
        nodes[0].input[place] = f"{name}0"
    problems(model, "W: expected a constant, got the output 'W0' of Identity")


def test_weights_behind_a_node_without_inputs_are_no_constants():
    model = Node("gru", "forward").model()
    model.graph.node.append(onnx.helper.make_node("Identity", [], ["again"]))
    model.graph.node[0].input[2] = "again"
    problems(model, "R: expected a constant, got the output 'again' of Identity")


def test_nodes_without_a_name_and_outputs():
    """ONNX lets a node have none; what is wrong with it is still said."""
    node = Node("gru", "forward")
    model = node.model()
    del model.graph.node[0].output[:]
    model.graph.node[0].name = ""
    expected = run(node.model(), {"X": node.x})
    assert_close(fastrnn.from_onnx(model)(node.x), expected)
    model.graph.node[0].input[1] = "X"
    with pytest.raises(ValueError, match=r"^GRU node '': W: expected a constant, got the graph's input 'X'$"):
        fastrnn.from_onnx(model)


def shortened(tensor):
    tensor.raw_data = tensor.raw_data[:-4]


def without_type(tensor):
    tensor.ClearField("data_type")


@pytest.mark.parametrize("damage", [shortened, without_type])
@pytest.mark.parametrize("constant_node", [False, True])
def test_damaged_tensors_are_refused_by_name(damage, constant_node):
    model = Node("gru", "forward").model()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "R")
    damage(tensor)
    if constant_node:
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["R"], value=tensor))
        model.graph.initializer.remove(tensor)
    with pytest.raises(ValueError, match=r"^model: expected 'R' to be a whole tensor: "):
        fastrnn.from_onnx(model)


def test_a_constant_that_is_no_tensor_is_refused_by_name():
    model = Node("gru", "forward").model()
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["again"], value=1.5))
    model.graph.node[1].input[2] = "again"
    with pytest.raises(ValueError, match=r"^model: expected a tensor as the value of 'again', got float$"):
        fastrnn.from_onnx(model)


def test_attributes_of_another_type_are_refused_by_name():
    changes = {"hidden_size": 5.0, "direction": 1, "activations": [1, 2], "linear_before_reset": "yes"}
    problems(
        Node("gru", "forward").model(**changes),
        "activations: expected type STRINGS, got INTS",
        "direction: expected type STRING, got INT",
        "hidden_size: expected type INT, got FLOAT",
        "linear_before_reset: expected type INT, got STRING",
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused_by_name(dtype):
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.float16
    expected = {"W": "float32 or float64", "R": "float32", "B": "float32"}
    of_all = [f"{name}: expected {dtypes}, got {dtype}" for name, dtypes in expected.items()]
    problems(Node("gru", "forward", dtype=kind).model(), *of_all)


def test_a_wrong_dtype_of_one_array_is_no_fault_of_the_others():
    for name in ("W", "R", "B"):
        node = Node("lstm", "forward")
        node.weights[name] = node.weights[name].astype("int32")
        problems(node.model(), f"{name}: expected {'float32 or float64' if name == 'W' else 'float32'}, got int32")


def test_inputs_that_the_operator_has_not_are_refused():
    for cell, most in (("lstm", 8), ("gru", 6), ("rnn_tanh", 6)):
        model = Node(cell, "forward").model()
        inputs = model.graph.node[0].input
        inputs.extend([""] * (most - len(inputs)))
        fastrnn.from_onnx(model)
        inputs.append("")
        problems(model, f"inputs: expected at most {most}, got {most + 1}")


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (1, TypeError, "model: expected an onnx.ModelProto, bytes or a path, got int"),
        (b"nothing", ValueError, "model: expected an ONNX model, got something else"),
        ("a\0b", ValueError, r"model: expected a name without null characters, got 'a\\x00b'"),
        (b"", ValueError, "model: expected an LSTM, GRU or RNN node in its graph, got none"),
    ],
)
def test_what_is_no_model_is_refused(model, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        fastrnn.from_onnx(model)


def test_arguments_of_a_call_are_checked():
    node = Node("lstm", "forward", states="input", lengths="input")
    imported = fastrnn.from_onnx(node.model())
    given = node.given
    with pytest.raises(ValueError, match=r"^sequence_lens: missing; initial_c: missing \(the model computes them"):
        imported(node.x, given["initial_h"])
    with pytest.raises(ValueError, match=rf"^initial_h: expected shape \(1, {B}, {H}\), got \({B}, {H}\)$"):
        imported(node.x, **given | {"initial_h": given["initial_h"][0]})
    with pytest.raises(TypeError, match=r"^initial_c: expected float32, got float64$"):
        imported(node.x, **given | {"initial_c": given["initial_c"].astype("float64")})
    with pytest.raises(ValueError, match=r"^x: expected 3 dimensions \(T, B, I\), got shape"):
        imported(node.x[:, 0], **given)
    with pytest.raises(ValueError, match=r"^sequence_lens: "):
        imported(node.x, **given | {"sequence_lens": np.array([1, 2, 3, T + 1], np.int32)})
    gru = fastrnn.from_onnx(Node("gru", "forward").model())
    with pytest.raises(ValueError, match=r"^initial_c: expected with an LSTM only, got one with GRU$"):
        gru(node.x, initial_c=given["initial_c"])


# Export


KINDS_OF_ONNX = [kind for kind in KINDS if kind != "lstmp"]
STACKS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": first or layers == 1}
    for layers, both, first in itertools.product((1, 3), (False, True), (False, True))
]


def stack_id(options):
    return "-".join([f"L{options['num_layers']}", *(name for name, on in options.items() if on is True)])


def feed_of(layer, problem):
    x = np.ascontiguousarray(problem.x.transpose(1, 0, 2)) if layer.batch_first else problem.x
    return {"x": x} | dict(zip(("h_0", "c_0"), problem.state, strict=False))


def results_of(layer, feed):
    state = [feed[name] for name in ("h_0", "c_0") if name in feed]
    y, state = layer(feed["x"], as_state(state) if state else None)
    return [y, *as_tuple(state)]


@pytest.mark.parametrize("options", STACKS, ids=stack_id)
@pytest.mark.parametrize("kind", KINDS_OF_ONNX)
def test_an_exported_layer_computes_the_same_in_onnx_runtime(kind, options):
    layer = make_layer(kind, I, H, **options)
    model = fastrnn.to_onnx(layer)
    names = [value.name for value in model.graph.output]
    assert names == ["y", "h_n"] + ["c_n"] * (kind == "lstm")
    for steps, batch in ((1, 1), (7, 1), (4, 5)):
        feed = feed_of(layer, random_problem(layer, steps, batch))
        assert_close(run(model, feed), results_of(layer, feed))
        assert_close(run(model, {"x": feed["x"]}), results_of(layer, {"x": feed["x"]}))


def test_a_state_of_one_row_is_that_of_all():
    layer = make_layer("lstm", I, H, num_layers=2)
    feed = feed_of(layer, random_problem(layer, 4, 5))
    feed["h_0"] = feed["h_0"][:, :1]
    expected = results_of(layer, feed | {"h_0": np.repeat(feed["h_0"], 5, axis=1)})
    assert_close(run(fastrnn.to_onnx(layer), feed), expected)


@pytest.mark.parametrize("ending", ["", ".onnx", ".json", ".textproto"])
def test_an_exported_file_replaces_another_only_when_it_is_whole(ending, tmp_path, monkeypatch):
    path = tmp_path / f"layer{ending}"
    layer = make_layer("gru", I, H)
    fastrnn.to_onnx(layer, path)
    assert onnx.load_model(path) == fastrnn.to_onnx(layer)
    written, save_model = path.read_bytes(), onnx.save_model

    def save_half(model, file, *arguments):
        save_model(model, file, *arguments)
        raise OSError("no more room")

    monkeypatch.setattr(onnx, "save_model", save_half)
    with pytest.raises(OSError, match=r"^no more room$"):
        fastrnn.to_onnx(make_layer("lstm", I, H), path)
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]


def test_an_exported_file_says_who_made_it(tmp_path):
    layer = make_layer("gru", I, H, dropout=0.5, num_layers=2)
    path = tmp_path / "gru.onnx"
    model = fastrnn.to_onnx(layer, path)
    written = onnx.load(path)
    assert written == model
    assert (written.producer_name, written.producer_version) == ("fastrnn", fastrnn.__version__)
    feed = feed_of(layer, random_problem(layer, 4, 5))
    assert_close(run(written, feed), results_of(layer.eval(), feed))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("kind", KINDS_OF_ONNX)
def test_there_and_back_is_the_same_to_the_bit(kind, bidirectional, bias, dtype):
    layer = make_layer(kind, I, H, num_layers=2, bidirectional=bidirectional, bias=bias, dtype=dtype)
    model = fastrnn.to_onnx(layer)
    for number in range(2):
        imported = fastrnn.from_onnx(model, f"Y_l{number}")
        assert imported.required == {}
        assert imported.layer.cell == layer.cell
        for name, array in imported.layer.parameters.items():
            original = layer.parameters[name.replace("l0", f"l{number}")]
            np.testing.assert_array_equal(array, original, err_msg=name, strict=True)
        assert sum("_l" + str(number) in name for name in layer.parameters) == len(imported.layer.parameters)


def test_what_onnx_has_not_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^layer: expected no projection, which ONNX has not, got proj_size=2$"):
        fastrnn.to_onnx(make_layer("lstmp", I, H))
    with pytest.raises(TypeError, match=r"^layer: expected a fastrnn LSTM, GRU or RNN, got NoneType$"):
        fastrnn.to_onnx(None)


# PyTorch's exporter


# PyTorch, of its exporter
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore:Converting a tensor to a Python"
)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_what_pytorch_exports_is_imported(name, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(I, H, num_layers=2, bidirectional=True)
    x = normal(T, B, I)
    path = tmp_path / "module.onnx"
    extents = {"x": {0: "T", 1: "B"}}
    torch.onnx.export(module, (torch.from_numpy(x),), path, dynamo=False, input_names=["x"], dynamic_axes=extents)
    nodes = [node.name for node in onnx.load(path).graph.node if node.op_type == name]
    assert len(nodes) == 2
    x = normal(T + 1, B + 1, I)  # other sizes than at export
    with torch.no_grad():
        expected_y, expected_state = module(torch.from_numpy(x))
    y, finals = x, []
    for node in nodes:
        Y, *states = fastrnn.from_onnx(path, node)(y)
        y = Y.transpose(0, 2, 1, 3).reshape(T + 1, B + 1, -1)
        finals.append(states)
    results = [y, *(np.concatenate(both) for both in zip(*finals, strict=True))]
    assert_close(results, [tensor.numpy() for tensor in (expected_y, *as_tuple(expected_state))])
