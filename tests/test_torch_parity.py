"""The layers against PyTorch's: outputs and every gradient under random weights, states and upstream gradients."""

from typing import Any, NamedTuple

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")

BACKENDS = ["reference", "cpu"]
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}  # of the largest magnitude in the array
KINDS = {
    "lstm": ("LSTM", {}),
    "lstmp": ("LSTM", {"proj_size": 2}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}


class Case(NamedTuple):
    kind: str
    dtype: str = "float64"
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    batched: bool = True
    sizes: tuple[int, int, int, int] = (5, 3, 4, 7)  # T, B, I, H

    def __str__(self):
        T, B, I, H = self.sizes
        flags = {
            "bi": self.bidirectional,
            "nobias": not self.bias,
            "batch_first": self.batch_first,
            "unbatched": not self.batched,
        }
        parts = [
            self.kind,
            f"T{T}",
            f"B{B}",
            f"I{I}",
            f"H{H}",
            f"L{self.layers}",
            *(f for f, on in flags.items() if on),
        ]
        return "-".join([*parts, self.dtype.replace("float", "f")])

    def module(self) -> Any:
        """PyTorch's layer."""
        name, options = KINDS[self.kind]
        torch.manual_seed(0)
        return getattr(torch.nn, name)(
            *self.sizes[2:],
            self.layers,
            bias=self.bias,
            batch_first=self.batch_first,
            bidirectional=self.bidirectional,
            dtype=getattr(torch, self.dtype),
            **options,
        )

    def layer(self, backend: str = "reference") -> Any:
        """Ours, with other weights than PyTorch's."""
        name, options = KINDS[self.kind]
        return getattr(fastrnn, name)(
            *self.sizes[2:],
            self.layers,
            bias=self.bias,
            batch_first=self.batch_first,
            bidirectional=self.bidirectional,
            dtype=self.dtype,
            seed=0,
            backend=backend,
            **options,
        )


STACKS = [(layers, bidirectional) for layers in (1, 2, 3) for bidirectional in (False, True)]
OPTIONS = [
    {"bias": False},
    {"batch_first": True},
    {"batched": False},
    {"batched": False, "batch_first": True, "bias": False},
]
SIZES = [(1, 1, 1, 3), (2, 1, 5, 33), (9, 17, 1, 4), (3, 5, 17, 64)]
CASES = [
    *(Case(kind, dtype, *stack) for kind in KINDS for dtype in TOLERANCES for stack in STACKS),
    *(Case(kind, layers=2, bidirectional=True, **options) for kind in KINDS for options in OPTIONS),
    *(Case(kind, "float32", sizes=sizes) for kind in KINDS for sizes in SIZES),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # PyTorch, of itself
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_every_gradient_are_pytorchs(case, backend):
    module, layer = case.module(), case.layer(backend)
    layer.load_state_dict(module.state_dict())
    T, B, I, _ = case.sizes
    lengths = (T,) if not case.batched else (B, T) if case.batch_first else (T, B)
    random = np.random.default_rng(1)
    x = random.standard_normal((*lengths, I)).astype(case.dtype)
    shapes = [_state_shape(case, layer, n) for n in _state_widths(layer)]
    state_0 = [random.standard_normal(shape).astype(case.dtype) for shape in shapes]

    inputs = [torch.tensor(a, requires_grad=True) for a in (x, *state_0)]
    expected_y, expected_state = module(inputs[0], _as_state(inputs[1:]))
    expected = [expected_y, *_arrays(expected_state)]
    (y, state), backward = layer.vjp(x, _as_state(state_0))
    results = [y, *_arrays(state)]
    upstream = [random.standard_normal(a.shape).astype(case.dtype) for a in results]
    torch.autograd.backward(expected, [torch.from_numpy(d) for d in upstream])
    gradients = backward(upstream[0], _as_state(upstream[1:]))

    names = ["y", "h_n", "c_n"]
    for name, result, wanted in zip(names, results, expected, strict=False):
        _assert_close(name, result, wanted)
    for name, result, tensor in zip(
        ["dx", "dh_0", "dc_0"], [gradients.x, *_arrays(gradients.state)], inputs, strict=False
    ):
        _assert_close(name, result, tensor.grad)
    assert list(gradients.parameters) == [name for name, _ in module.named_parameters()]
    for name, parameter in module.named_parameters():
        _assert_close(name, gradients.parameters[name], parameter.grad)

    called_y, called_state = layer(x, _as_state(state_0))
    for result, wanted in zip([called_y, *_arrays(called_state)], results, strict=True):
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: f"L{stack[0]}{'-bi' if stack[1] else ''}")
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_pytorchs_names_shapes_and_order(kind, stack, bias):
    case = Case(kind, "float32", *stack, bias=bias)
    expected = [(name, tuple(parameter.shape)) for name, parameter in case.module().named_parameters()]
    layer = case.layer()
    assert [(name, array.shape) for name, array in layer.parameters.items()] == expected
    assert list(layer.state_dict()) == list(case.module().state_dict())


def test_state_dict_loads_into_the_pytorch_module():
    case = Case("lstmp", "float32", layers=2, bidirectional=True)
    module, layer = case.module(), case.layer()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})
    for name, parameter in module.named_parameters():
        np.testing.assert_array_equal(layer.parameters[name], parameter.detach().numpy())


def test_load_state_dict_takes_tensors_that_require_gradients():
    case = Case("gru", "float32")
    module, layer = case.module(), case.layer()
    layer.load_state_dict(dict(module.named_parameters()))
    np.testing.assert_array_equal(layer.parameters["weight_hh_l0"], module.weight_hh_l0.detach().numpy())


def test_loaded_values_do_not_follow_the_tensor():
    case = Case("gru", "float32")
    module, layer = case.module(), case.layer()
    layer.load_state_dict(module.state_dict())
    before = layer.parameters["weight_ih_l0"].copy()
    torch.nn.init.zeros_(module.weight_ih_l0)
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], before)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_load_state_dict_refuses_tensors_of_another_dtype(dtype):
    case = Case("gru", "float32")
    layer = case.layer()
    tensors = case.module().to(getattr(torch, dtype)).state_dict()
    with pytest.raises(TypeError, match=f"weight_ih_l0: expected float32, got {dtype}"):
        layer.load_state_dict(tensors)


def test_initial_values_have_pytorchs_distribution():
    ours = fastrnn.LSTM(50, 40, 2, proj_size=10, seed=0, backend="reference")
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(50, 40, 2, proj_size=10)
    for name, parameter in theirs.named_parameters():
        a, b = np.sort(ours.parameters[name], axis=None), np.sort(parameter.detach().numpy(), axis=None)
        # The largest gap between two empirical quantile functions of n uniform draws is about range / sqrt(n / 2).
        assert np.abs(a - b).max() < 3 * (2 / np.sqrt(40)) / np.sqrt(a.size / 2), name


def _arrays(state):
    return list(state) if isinstance(state, tuple) else [state]


def _as_state(arrays):
    return tuple(arrays) if len(arrays) == 2 else arrays[0]


def _state_widths(layer):
    R = layer.proj_size or layer.hidden_size
    return (R, layer.hidden_size) if isinstance(layer, fastrnn.LSTM) else (R,)


def _state_shape(case, layer, width):
    rows = layer.num_layers * layer.num_directions
    return (rows, case.sizes[1], width) if case.batched else (rows, width)


def _assert_close(name, result, tensor):
    expected = tensor.detach().numpy()
    assert result.dtype == expected.dtype, name
    assert result.shape == expected.shape, name
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        result, expected, rtol=0, atol=TOLERANCES[str(result.dtype)] * scale, strict=True, err_msg=name
    )
