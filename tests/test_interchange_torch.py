"""from_torch and to_torch, with PyTorch's modules on random weights as the witness."""

import copy

import numpy as np
import pytest
from conftest import KINDS, as_state, as_tuple, make_layer, random_problem

import fastrnn
from fastrnn import validation

torch = pytest.importorskip("torch")

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}  # of the largest magnitude in the array
TORCH_KINDS = [kind for kind in KINDS if kind != "gru_reset_before"]
OPTIONS = [
    {},
    {"dtype": "float64", "num_layers": 2, "bidirectional": True, "dropout": 0.5},
    {"num_layers": 3, "bias": False, "batch_first": True},
]

every_kind = pytest.mark.parametrize("kind", TORCH_KINDS)
every_option = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "deep-bi-f64", "deep-nobias-batchfirst"])
# PyTorch, of itself
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def assert_same_outputs(layer, module):
    problem = random_problem(layer, 5, 3)
    x = problem.x.transpose(1, 0, 2) if layer.batch_first else problem.x
    y, state = layer(x, as_state(problem.state))
    with torch.no_grad():
        expected_y, expected_state = module(
            torch.from_numpy(x.copy()), as_state([torch.from_numpy(s) for s in problem.state])
        )
    for result, expected in zip((y, *as_tuple(state)), (expected_y, *as_tuple(expected_state)), strict=True):
        wanted = expected.numpy()
        bound = TOLERANCES[layer.dtype.name] * np.abs(wanted).max()
        np.testing.assert_allclose(result, wanted, rtol=0, atol=bound, strict=True)


def assert_same_parameters(layer, other):
    assert list(layer.parameters) == list(other.parameters)
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(array, other.parameters[name], err_msg=name, strict=True)


@every_option
@every_kind
def test_to_torch_computes_what_the_layer_does(kind, options):
    layer = make_layer(kind, 4, 7, **options).eval()
    module = fastrnn.to_torch(layer)
    assert type(module) is getattr(torch.nn, type(layer).__name__)
    assert not module.training
    assert_same_outputs(layer, module)


@every_option
@every_kind
def test_from_torch_computes_what_the_module_does(kind, options):
    module = fastrnn.to_torch(make_layer(kind, 4, 7, **options))
    torch.manual_seed(2)
    module.reset_parameters()
    layer = fastrnn.from_torch(module.eval())
    assert not layer.training
    assert_same_outputs(layer, module)


@every_option
@every_kind
def test_there_and_back_is_the_same_to_the_bit(kind, options):
    layer = make_layer(kind, 4, 7, **options)
    back = fastrnn.from_torch(fastrnn.to_torch(layer), backend="reference")
    assert back.backend == "reference"
    assert type(back) is type(layer)
    assert back.training
    for name in ("input_size", "hidden_size", "num_layers", *layer._options):
        assert getattr(back, name) == getattr(layer, name), name
    assert_same_parameters(layer, back)


def test_neither_follows_the_other():
    layer = make_layer("gru", 4, 7)
    before = copy.deepcopy(layer)
    module = fastrnn.to_torch(layer)
    back = fastrnn.from_torch(module)
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    assert_same_parameters(layer, before)
    assert_same_parameters(back, before)
    layer.parameters["bias_ih_l0"][:] = 0
    assert module.bias_ih_l0.abs().min() > 0


def test_the_values_of_parametrised_weights_are_those_computed():
    module = torch.nn.LSTM(4, 7)
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(3)
    assert_same_outputs(fastrnn.from_torch(module), module)


def test_frozen_and_subclassed_modules_are_taken():
    class Mine(torch.nn.GRU):
        pass

    module = Mine(4, 7).requires_grad_(False)
    assert_same_outputs(fastrnn.from_torch(module), module)


@pytest.mark.parametrize("bidirectional", [0, 1])
def test_options_that_pytorch_takes_as_numbers(bidirectional):
    module = torch.nn.GRU(4, 7, bidirectional=bidirectional)
    assert fastrnn.from_torch(module).bidirectional is bool(bidirectional)


def test_tied_parameters_are_parameters():
    module = torch.nn.GRU(7, 7, num_layers=2)
    module.weight_ih_l1 = module.weight_ih_l0
    parameters = fastrnn.from_torch(module).parameters
    assert np.array_equal(parameters["weight_ih_l1"], module.weight_ih_l0.detach().numpy())


def test_the_seed_is_that_of_dropout():
    module = torch.nn.RNN(4, 32, 2, dropout=0.5)
    x = np.ones((3, 2, 4), "float32")
    first, second, other = (fastrnn.from_torch(module, seed=seed)(x)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_pytorchs_random_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fastrnn.to_torch(make_layer("lstm", 4, 7))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("module", [torch.nn.Linear(2, 3), torch.nn.LSTMCell(2, 3), torch.nn.Sequential(), None])
def test_other_modules_are_refused_by_name(module):
    expected = f"^module: expected a torch.nn.LSTM, GRU or RNN, got {validation.full_name(module)}$"
    with pytest.raises(TypeError, match=expected):
        fastrnn.from_torch(module)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused_by_name(dtype):
    with pytest.raises(TypeError, match=f"^module: expected parameters of float32 or float64, got {dtype}$"):
        fastrnn.from_torch(torch.nn.GRU(2, 3, dtype=getattr(torch, dtype)))


def test_mixed_dtypes_are_refused_by_name():
    module = torch.nn.RNN(2, 3)
    module.bias_hh_l0.data = module.bias_hh_l0.data.double()
    module.weight_hh_l0.data = module.weight_hh_l0.data.half()
    expected = "^weight_hh_l0: expected float32, got float16; bias_hh_l0: expected float32, got float64$"
    with pytest.raises(TypeError, match=expected):
        fastrnn.from_torch(module)


def test_modules_without_values_are_refused_by_name():
    names = "weight_ih_l0, weight_hh_l0 on the meta device"
    with pytest.raises(ValueError, match=f"^module: expected parameters with values, got {names}$"):
        fastrnn.from_torch(torch.nn.RNN(2, 3, bias=False, device="meta"))


def test_parameters_that_are_not_there_are_named():
    module = torch.nn.LSTM(3, 4, num_layers=2)
    module.bias_hh_l1 = None
    del module.weight_ih_l0
    expected = "^module: expected all its parameters, got none for weight_ih_l0, bias_hh_l1$"
    with pytest.raises(ValueError, match=expected):
        fastrnn.from_torch(module)


def test_parametrised_weights_are_computed_once():
    module = torch.nn.utils.parametrizations.spectral_norm(torch.nn.GRU(3, 4), "weight_ih_l0")
    twin = copy.deepcopy(module)
    layer = fastrnn.from_torch(module)
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], twin.weight_ih_l0.detach())
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, dict(twin.named_buffers())[name])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch, of its older weight_norm
def test_weights_that_a_hook_computes_are_refused_by_name():
    module = torch.nn.utils.weight_norm(torch.nn.GRU(2, 3), "weight_hh_l0")
    with torch.no_grad():
        module.weight_hh_l0_g.mul_(2)  # shows in weight_hh_l0 after the next call only
    expected = (
        "^module: expected parameters, or parametrised ones, got weight_hh_l0 computed by a hook: remove it first$"
    )
    with pytest.raises(ValueError, match=expected):
        fastrnn.from_torch(module)
    assert_same_outputs(fastrnn.from_torch(torch.nn.utils.remove_weight_norm(module, "weight_hh_l0")), module)


def test_what_pytorch_has_not_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^layer: expected a GRU with reset_after=True.* got reset_after=False$"):
        fastrnn.to_torch(fastrnn.GRU(2, 3, reset_after=False))
    with pytest.raises(TypeError, match=r"^layer: expected a fastrnn LSTM, GRU or RNN, got dict$"):
        fastrnn.to_torch({})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LSTM", (3, 5, 2, False, True, 0.5, True, 4)),
        ("GRU", (3, 5, 2, False, True, 0.5, True)),
        ("RNN", (3, 5, 2, "relu", False, True, 0.5, True)),
    ],
)
def test_arguments_come_in_pytorchs_order(name, arguments):
    theirs, ours = (getattr(package, name)(*arguments) for package in (torch.nn, fastrnn))
    options = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
    options += {"LSTM": ("proj_size",), "GRU": (), "RNN": ("nonlinearity",)}[name]
    assert [getattr(ours, option) for option in options] == [getattr(theirs, option) for option in options]
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: tuple(value.shape) for key, value in theirs.state_dict().items()
    }
