"""The oracle against other people's code: PyTorch, with every gradient, and ONNX Runtime, forward."""

from __future__ import annotations

import numpy as np
import pytest

from fastrnn import reference

DIRECTIONS = [("", False), ("_reverse", True)]
SIZES = [(1, 1, 1, 2), (3, 2, 3, 5), (7, 5, 4, 9)]  # T, B, I, H
sizes = pytest.mark.parametrize("size", SIZES, ids=["T{}-B{}-I{}-H{}".format(*size) for size in SIZES])
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])


def assert_close(got, expected, tolerance, name):
    """Within `tolerance` of the largest magnitude of `expected`."""
    assert got.dtype == expected.dtype, name
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


# cell, PyTorch's class, its further arguments
TORCH_CELLS = {
    "lstm": ("lstm", "LSTM", {}),
    "lstm-projected": ("lstm", "LSTM", {"proj_size": 1}),
    "gru": ("gru", "GRU", {}),
    "rnn_tanh": ("rnn_tanh", "RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": ("rnn_relu", "RNN", {"nonlinearity": "relu"}),
}


def torch_layer(class_name, size, arguments, bias):
    """A bidirectional layer in float64 with x, its initial states, and the numbers that define the loss's gradients."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    T, B, I, H = size
    layer = getattr(torch.nn, class_name)(I, H, bias=bias, bidirectional=True, dtype=torch.float64, **arguments)
    R = arguments.get("proj_size") or H
    widths = (R, H) if class_name == "LSTM" else (R,)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(2, B, width, dtype=torch.float64, requires_grad=True) for width in widths)
    y, state_n = layer(x, state if class_name == "LSTM" else state[0])
    state_n = state_n if class_name == "LSTM" else (state_n,)
    dy, *dstate = (torch.randn_like(output) for output in (y, *state_n))
    torch.autograd.backward((y, *state_n), (dy, *dstate))
    return layer, x, state, y, state_n, dy, dstate


def array(tensor):
    return tensor.detach().numpy()


@sizes
@biases
@pytest.mark.parametrize("kind", TORCH_CELLS)
def test_pytorch_agrees_on_every_output_and_gradient(kind, bias, size):
    cell, class_name, arguments = TORCH_CELLS[kind]
    layer, x, state, y, state_n, dy, dstate = torch_layer(class_name, size, arguments, bias)
    R = y.shape[2] // 2
    dx = np.zeros(x.shape)
    for d, (suffix, reverse) in enumerate(DIRECTIONS):
        parameters = {
            name.removesuffix("_reverse").removesuffix("_l0"): parameter
            for name, parameter in layer.named_parameters()
            if name.endswith("_reverse") == reverse
        }
        weights = {"bias_ih": None, "bias_hh": None} | {name: array(p) for name, p in parameters.items()}
        half = slice(d * R, (d + 1) * R)
        got_y, got_n, saved = reference.forward(
            cell, array(x), tuple(array(s[d]) for s in state), weights, reverse=reverse
        )
        dx_d, dstate_0, dweights = reference.backward(saved, array(dy[..., half]), tuple(array(s[d]) for s in dstate))
        dx += dx_d

        assert_close(got_y, array(y[..., half]), 1e-10, f"y{suffix}")
        for name, got, expected, got_grad, initial in zip("hc", got_n, state_n, dstate_0, state, strict=False):
            assert_close(got, array(expected[d]), 1e-10, f"{name}_n{suffix}")
            assert_close(got_grad, array(initial.grad[d]), 1e-10, f"d{name}_0{suffix}")
        assert dweights.keys() == weights.keys()
        for name, parameter in parameters.items():
            assert_close(dweights[name], array(parameter.grad), 1e-10, f"d{name}{suffix}")
    assert_close(dx, array(x.grad), 1e-10, "dx")


def test_pytorch_agrees_on_nan_through_relu():
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    layer = torch.nn.RNN(3, 4, nonlinearity="relu", dtype=torch.float64)
    x = torch.randn(2, 3, 3, dtype=torch.float64)
    x[0, 1, 2] = torch.nan
    x.requires_grad_()
    h_0 = torch.zeros(1, 3, 4, dtype=torch.float64)
    y, _ = layer(x, h_0)
    y.backward(torch.ones_like(y))

    weights = {name.removesuffix("_l0"): array(parameter) for name, parameter in layer.named_parameters()}
    got, _, saved = reference.forward("rnn_relu", array(x), (array(h_0[0]),), weights)
    dx, _, dweights = reference.backward(saved, np.ones_like(got), (np.zeros((3, 4)),))
    assert np.isnan(got[:, 1]).all()
    np.testing.assert_allclose(got, array(y), rtol=1e-12)
    np.testing.assert_allclose(dx, array(x.grad), rtol=1e-12)
    np.testing.assert_allclose(dweights["weight_ih"], array(layer.weight_ih_l0.grad), rtol=1e-12)


# cell: ONNX's operator, the blocks of ours in its gate order (LSTM i o f c, GRU z r h), its attributes
ONNX_CELLS = {
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "gru_reset_before": ("GRU", (1, 0, 2), {"linear_before_reset": 0}),
    "rnn_tanh": ("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", (0,), {"activations": ["Relu"]}),
}


def onnx_session(operator, H, D, attributes, with_bias):
    """An ONNX Runtime session of one node; it takes X W R [B] initial_h [initial_c], and gives Y Y_h [Y_c]."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    attributes = attributes | {"hidden_size": H, "direction": {1: "forward", 2: "bidirectional"}[D]}
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * D
    is_lstm = operator == "LSTM"
    # an empty name leaves an optional input out; the fifth is sequence_lens
    inputs = ["X", "W", "R", "B" if with_bias else "", "", "initial_h"] + ["initial_c"] * is_lstm
    outputs = ["Y", "Y_h"] + ["Y_c"] * is_lstm
    values = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name]
        for names in (inputs, outputs)
    ]
    graph = onnx.helper.make_graph([onnx.helper.make_node(operator, inputs, outputs, **attributes)], "layer", *values)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@sizes
@biases
@pytest.mark.parametrize("D", [1, 2], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("cell", ONNX_CELLS)
def test_onnx_runtime_agrees_on_every_output(cell, D, bias, size):
    operator, order, attributes = ONNX_CELLS[cell]
    T, B, I, H = size
    G = len(order)
    rng = np.random.default_rng(11)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def in_onnx_order(*blocks):
        """Each (G*H, ...), its gates reordered, one below the other."""
        return np.concatenate([block.reshape(G, H, -1)[list(order)].reshape(block.shape) for block in blocks])

    x = normal(T, B, I)
    states = tuple(normal(D, B, H) for _ in range(2 if cell == "lstm" else 1))
    weights = [
        {
            "weight_ih": normal(G * H, I),
            "weight_hh": 0.5 * normal(G * H, H),
            "bias_ih": normal(G * H) if bias else None,
            "bias_hh": normal(G * H) if bias else None,
        }
        for _ in range(D)
    ]
    feed = {
        "X": x,
        "W": np.stack([in_onnx_order(w["weight_ih"]) for w in weights]),
        "R": np.stack([in_onnx_order(w["weight_hh"]) for w in weights]),
        **dict(zip(("initial_h", "initial_c"), states, strict=False)),
    }
    if bias:
        feed["B"] = np.stack([in_onnx_order(w["bias_ih"], w["bias_hh"]) for w in weights])
    Y, *finals = onnx_session(operator, H, D, attributes, bias).run(None, feed)

    assert len(finals) == len(states)
    for d in range(D):
        y, state_n, _ = reference.forward(cell, x, tuple(s[d] for s in states), weights[d], reverse=d == 1)
        assert_close(y, Y[:, d], 1e-5, f"Y[{d}]")
        for name, got, expected in zip(("Y_h", "Y_c"), state_n, finals, strict=False):
            assert_close(got, expected[d], 1e-5, f"{name}[{d}]")
