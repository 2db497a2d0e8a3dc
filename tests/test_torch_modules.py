"""fastrnn.torch's modules against torch.nn's: all they compute under each option, and what else they are."""

import copy
import gc
import io
import itertools
import pickle
import weakref

import numpy as np
import pytest
from torch_pairs import (
    CELLS,
    KINDS,
    assert_same,
    everything,
    fast,
    initial_state,
    normal,
    pair,
    quiet,
    spied_calls,
    tensors_of,
    torch,
)

import fastrnn

STACKS = [(layers, bidirectional) for layers in (1, 2) for bidirectional in (False, True)]
LENGTHS = {"sorted": [6, 4, 3, 1], "unsorted": [2, 6, 1, 5], "equal": [6, 6, 6, 6], "one row": [3]}


# What they compute


@quiet
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: f"L{stack[0]}{'-bi' if stack[1] else ''}")
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_every_gradient(kind, stack, batch_first, monkeypatch):
    layers, bidirectional = stack
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "dtype": torch.float64}
    theirs, ours = pair(kind, 4, 7, num_layers=layers, **options)
    x, state = normal(*((3, 5, 4) if batch_first else (5, 3, 4))), initial_state(ours, 3)
    inputs = [x, *tensors_of(state)]
    expected = everything(theirs, x, state, inputs=inputs)
    calls = spied_calls(monkeypatch)
    assert_same(everything(ours, x, state, inputs=inputs), expected)
    assert len(calls) == layers
    assert ours(x, state)[0].stride() == theirs(x, state)[0].stride()


@quiet
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"batch_first": True, "bias": False, "bidirectional": True},
        {"num_layers": 3, "dropout": 0.4},
        {"num_layers": 2, "dropout": 1.0, "bidirectional": True},
    ],
    ids=str,
)
def test_options_without_an_initial_state(kind, options):
    theirs, ours = pair(kind, 5, 9, dtype=torch.float64, **options)
    x = normal(4, 3, 5)
    assert_same(everything(ours, x, inputs=[x]), everything(theirs, x, inputs=[x]))


@quiet
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_batch_dimension(kind, batch_first, with_state):
    theirs, ours = pair(kind, 4, 7, num_layers=2, batch_first=batch_first, dtype=torch.float64)
    x, state = normal(5, 4), initial_state(ours) if with_state else None
    inputs = [x, *tensors_of(state)]
    assert_same(everything(ours, x, state, inputs=inputs), everything(theirs, x, state, inputs=inputs))


@quiet
@pytest.mark.parametrize("sizes", [(1, 1, 1, 4), (2, 1, 5, 33), (9, 17, 1, 5), (3, 5, 17, 64)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind, sizes):
    T, B, I, H = sizes
    theirs, ours = pair(kind, I, H, bidirectional=True)
    x, state = normal(T, B, I, dtype=torch.float32), initial_state(ours, B, dtype=torch.float32)
    inputs = [x, *tensors_of(state)]
    assert_same(everything(ours, x, state, inputs=inputs), everything(theirs, x, state, inputs=inputs))


@quiet
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: f"L{stack[0]}{'-bi' if stack[1] else ''}")
@pytest.mark.parametrize("order", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences(kind, order, stack, monkeypatch):
    layers, bidirectional = stack
    theirs, ours = pair(kind, 4, 7, num_layers=layers, bidirectional=bidirectional, dropout=0.3, dtype=torch.float64)
    lengths = LENGTHS[order]
    x = normal(max(lengths), len(lengths), 4)

    def packed():
        return torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=order == "sorted")

    calls = spied_calls(monkeypatch)
    for state in (None, initial_state(ours, len(lengths))):
        inputs = [x, *tensors_of(state)]
        expected = everything(theirs, packed(), state, inputs=inputs)
        assert_same(everything(ours, packed(), state, inputs=inputs), expected)
    assert len(calls) == 2 * layers
    given = packed()
    y, _ = ours(given)
    assert isinstance(y, torch.nn.utils.rnn.PackedSequence)
    assert y.batch_sizes is given.batch_sizes
    assert y.unsorted_indices is given.unsorted_indices


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind, batch, bias, monkeypatch):
    theirs, ours = pair(kind, 4, 7, table=CELLS, bias=bias, dtype=torch.float64)
    lead = () if batch is None else (batch,)
    x, states = normal(*lead, 4), tuple(normal(*lead, 7, seed=seed) for seed in (3, 4))
    calls = spied_calls(monkeypatch)
    for state in (None, states if kind == "lstm" else states[0]):
        inputs = [x, *tensors_of(state)]
        assert_same(everything(ours, x, state, inputs=inputs), everything(theirs, x, state, inputs=inputs))
    assert len(calls) == 2


def test_a_cell_in_a_loop_is_the_layer():
    layer, cell = fast.LSTM(4, 7), fast.LSTMCell(4, 7)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x, state = normal(6, 3, 4, dtype=torch.float32), None
    for x_t in x:
        state = cell(x_t, state)
    torch.testing.assert_close(state[0], layer(x)[1][0][0], rtol=0, atol=0)


@quiet
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_y_is_no_view_also_of_the_batch_first(kind, layers):
    _, ours = pair(kind, 4, 7, num_layers=layers, batch_first=True)
    x = normal(3, 5, 4, dtype=torch.float32)
    with torch.no_grad():
        y, _ = ours(x)
    assert not y._is_view()
    y += torch.zeros(y.shape[-1], requires_grad=True)  # no error: what is made without gradients gets one
    ours(x)[0].detach_()
    y, _ = ours(x)
    before = y.detach().clone()
    y.mul_(2)
    assert torch.equal(y, 2 * before)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
def test_batch_first_input_that_was_made_in_inference_mode(kind):
    with torch.inference_mode():
        x = normal(3, 5, 4, dtype=torch.float32, grad=False) * 2
    theirs, ours = pair(kind, 4, 7, batch_first=True)
    assert_same(everything(ours, x), everything(theirs, x))


@pytest.mark.parametrize("contiguous", [False, True])
def test_weights_that_are_views_of_another_sign(contiguous):
    """Such as the imaginary part of a conjugate; also in the place of those that the module ran with before."""
    theirs, ours = pair("gru", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32)
    everything(ours, x)
    for module in (theirs, ours):
        value = module.weight_hh_l0.detach()
        turned = torch._neg_view(value) if contiguous else torch.complex(value, -value).conj().imag
        assert turned.is_neg()
        if contiguous:
            module.weight_hh_l0.data = turned
        else:
            module.weight_hh_l0 = torch.nn.Parameter(turned)
    assert_same(everything(ours, x), everything(theirs, x))
    torch.testing.assert_close(torch.from_numpy(fastrnn.from_torch(ours)(x.detach().numpy())[0]), ours(x)[0].detach())


@pytest.mark.parametrize("seed", [3, 4])
def test_dropout_draws_from_pytorchs_generator(seed):
    _, module = pair("gru", 4, 7, num_layers=2, dropout=0.5)
    x = normal(5, 3, 4, dtype=torch.float32)
    runs = [everything(module, x, seed=s)["output 0"] for s in (seed, seed, 9)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    module.eval()
    assert torch.equal(everything(module, x, seed=seed)["output 0"], everything(module, x, seed=9)["output 0"])


# Which gradients there are


@pytest.mark.parametrize("frozen", [("weight_ih_l0",), ("bias_hh_l0", "weight_hh_l1"), ("all",)], ids=str)
@pytest.mark.parametrize("x_wants", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_frozen_parameters_have_no_gradient(kind, x_wants, frozen):
    theirs, ours = pair(kind, 4, 7, num_layers=2, dtype=torch.float64)
    for module, (name, parameter) in itertools.product((theirs, ours), ours.named_parameters()):
        module.get_parameter(name).requires_grad_(not ({name, "all"} & set(frozen)))
        assert parameter.grad is None
    x = normal(5, 3, 4, grad=x_wants)
    assert_same(everything(ours, x, inputs=[x]), everything(theirs, x, inputs=[x]))


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_unused_outputs(used, training):
    theirs, ours = pair("lstm", 4, 7, num_layers=2, dtype=torch.float64)
    x, state = normal(5, 3, 4), initial_state(ours, 3)
    found = []
    for module in (theirs, ours):
        module.train(training)
        outputs = tensors_of(module(x, state))
        inputs = [x, *tensors_of(state), *module.parameters()]
        grads = torch.autograd.grad(sum(outputs[k].sin().sum() for k in used), inputs, allow_unused=True)
        found.append({str(k): grad for k, grad in enumerate(grads)})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_nothing_is_kept_where_no_gradient_is_wanted(kind, monkeypatch):
    saves = spied_calls(monkeypatch)
    _, module = pair(kind, 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            outputs = tensors_of(module(x))
        assert not any(output.requires_grad for output in outputs)
    assert all(output.is_inference() for output in outputs)
    module(x.requires_grad_())
    module.requires_grad_(False)
    assert not module(x.detach())[0].requires_grad
    assert saves == [False, False, True, False]


# Where the weights are


def test_weights_are_read_where_they_are():
    from fastrnn.torch.layer import layers_of

    module = fast.LSTM(4, 7)
    module(torch.zeros(1, 1, 4))
    kind = ("lstm", 1, 4, 7, 0)
    ((_, (arrays,)),) = layers_of(module, module._flat_weights_names, kind, [list(module.parameters())])
    for name, parameter in module.named_parameters():
        assert np.shares_memory(arrays[name.removesuffix("_l0")], parameter.detach().numpy())


@pytest.mark.parametrize("change", ["in place", "data", "parameter", "load", "transposed", "double", "reset"])
def test_changed_weights_are_seen(change):
    theirs, ours = pair("gru", 6, 6)
    x = normal(5, 3, 6, dtype=torch.float32)
    before = ours(x)[0]
    for module in (theirs, ours):
        torch.manual_seed(5)
        if change == "in place":
            with torch.no_grad():
                module.weight_hh_l0.mul_(2)
        elif change == "data":
            module.weight_hh_l0.data = module.weight_hh_l0.data * 2
        elif change == "parameter":
            module.weight_hh_l0 = torch.nn.Parameter(torch.randn(18, 6))
        elif change == "load":
            module.load_state_dict({name: 2 * value for name, value in module.state_dict().items()})
        elif change == "transposed":
            module.weight_hh_l0 = torch.nn.Parameter(torch.randn(6, 18).t())
        elif change == "double":
            module.double()
        else:
            module.reset_parameters()
    x = x.to(ours.weight_hh_l0.dtype).detach().requires_grad_()
    results = everything(ours, x, inputs=[x])
    assert change == "double" or not torch.equal(results["output 0"], before)
    assert_same(results, everything(theirs, x, inputs=[x]))


@pytest.mark.parametrize("other", [torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.complex64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_weights_of_another_dtype_than_the_others_are_pytorchs_error(name, dtype, other):
    theirs, ours = pair("gru", 6, 6)
    for module in (theirs, ours):
        module.to(dtype)
        setattr(module, name, torch.nn.Parameter(getattr(module, name).detach().to(other), requires_grad=False))
        with pytest.raises((RuntimeError, ValueError, TypeError), match=r"dtype|type"):
            module(torch.zeros(5, 3, 6, dtype=dtype))


def test_another_nonlinearity_is_seen():
    theirs, ours = pair("rnn_tanh", 4, 6, num_layers=2)
    x = normal(5, 3, 4, dtype=torch.float32)
    assert_same(everything(ours, x), everything(theirs, x))
    ours.mode = theirs.mode = "RNN_RELU"
    assert_same(everything(ours, x), everything(theirs, x))
    theirs, ours = pair("rnn_tanh", 4, 6, table=CELLS)
    assert_same(everything(ours, x[0]), everything(theirs, x[0]))
    ours.nonlinearity = theirs.nonlinearity = "relu"
    assert_same(everything(ours, x[0]), everything(theirs, x[0]))


@pytest.mark.parametrize("table", [KINDS, CELLS])
def test_modules_without_biases_are_recognised_and_may_get_some(table):
    from fastrnn.torch.layer import layers_as_before

    theirs, ours = pair("gru", 4, 6, bias=False, table=table)
    x = normal(*([5] if table is KINDS else []), 3, 4, dtype=torch.float32)
    assert_same(everything(ours, x), everything(theirs, x))
    (weights,), _ = layers_as_before(ours, ("gru", 1, 4, 6, 0), 1)
    assert [id(w) for w in weights] == [id(p) for p in ours.parameters()]
    if table is CELLS:
        for module in (theirs, ours):
            module.bias_ih, module.bias_hh = (torch.nn.Parameter(torch.arange(18.0) / k) for k in (9, -7))
        assert_same(everything(ours, x), everything(theirs, x))


@pytest.mark.parametrize("module", [fast.GRU(4, 6), fast.GRUCell(4, 6)])
def test_the_memory_of_former_weights_is_let_go(module):
    """Also where the kernels cannot take the present ones."""
    from fastrnn.torch.layer import _last_runs

    x = torch.zeros(3, 4)
    module(x)
    memory = weakref.ref(_last_runs[module].kernels[0][1][0]["weight_hh"])
    assert memory() is not None
    module.to(torch.bfloat16)(x.to(torch.bfloat16))
    gc.collect()
    assert memory() is None


def test_the_memory_of_a_restored_modules_weights_is_let_go():
    from fastrnn.torch.layer import _last_runs, _of_modules

    module = fast.GRU(4, 6)
    module(torch.zeros(3, 4))
    assert module in _last_runs
    fast.restore(module)
    assert module not in _last_runs
    assert module not in _of_modules


@pytest.mark.parametrize("method", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("namespace", ["parametrizations", "hooks"])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weight_norm_and_spectral_norm(method, namespace):
    found = []
    utils = torch.nn.utils.parametrizations if namespace == "parametrizations" else torch.nn.utils
    for module in pair("lstm", 4, 7, num_layers=2, dtype=torch.float64):
        torch.manual_seed(0)
        getattr(utils, method)(module, "weight_hh_l0")
        getattr(utils, method)(module, "weight_ih_l1")
        module.eval()  # in training, spectral_norm iterates at each look at the weight: torch.nn looks at it four times
        x = normal(5, 3, 4)
        results = [everything(module, x, inputs=[x]) for _ in range(2)]
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1)
        found.append([*results, everything(module, x, inputs=[x])])
    for results, expected in zip(found[1], found[0], strict=True):
        assert_same(results, expected)


def test_functional_call():
    theirs, ours = pair("gru", 4, 7, dtype=torch.float64)
    x = normal(5, 3, 4)
    weights = {name: (2 * value).detach().requires_grad_() for name, value in theirs.named_parameters()}

    def loss(module, weights):
        return torch.func.functional_call(module, weights, (x,))[0].sin().sum()

    for function in (loss, lambda m, w: torch.autograd.grad(loss(m, w), list(w.values()))):
        results, wanted = (tensors_of(function(module, weights)) for module in (ours, theirs))
        for result, expected in zip(results, wanted, strict=True):
            torch.testing.assert_close(result, expected)
    grads = torch.func.grad(lambda w: loss(ours, w))(weights)  # PyTorch's own operators under its transforms
    wanted = torch.autograd.grad(loss(theirs, weights), weights.values())
    for result, expected in zip(grads.values(), wanted, strict=True):
        torch.testing.assert_close(result, expected)


# What they are


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_they_are_torch_nns_modules(name):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(4, 7, bias=False)
    torch.manual_seed(0)
    ours = getattr(fast, name)(4, 7, bias=False)
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for parameter, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def saved_and_loaded(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_copies_are_whole_and_independent(name, copied):
    module = getattr(fast, name)(4, 7)
    x = normal(3, 4, dtype=torch.float32)
    expected = tensors_of(module(x))[0]
    twin = copied(module)
    assert type(twin) is type(module)
    assert torch.equal(tensors_of(twin(x))[0], expected)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert torch.equal(tensors_of(module(x))[0], expected)
    assert not torch.equal(tensors_of(twin(x))[0], expected)


def test_conversions_return_the_module():
    module = fast.LSTM(4, 7, num_layers=2)
    assert module.double() is module
    assert module.to(torch.float32) is module
    assert module.flatten_parameters() is None
    assert module.cpu()(torch.zeros(1, 1, 4))[0].dtype == torch.float32


# What the kernels leave to PyTorch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_pytorchs_own(dtype, monkeypatch):
    theirs, ours = pair("gru", 4, 7, dtype=dtype)
    calls = spied_calls(monkeypatch)
    x = normal(5, 3, 4, dtype=dtype)
    for result, expected in zip(tensors_of(ours(x)), tensors_of(theirs(x)), strict=True):
        assert torch.equal(result, expected)
    assert len(calls) == 0


def test_other_devices_are_pytorchs_own(monkeypatch):
    calls = spied_calls(monkeypatch)
    y, _ = fast.GRU(4, 7, device="meta")(torch.empty(5, 3, 4, device="meta"))
    assert y.shape == (5, 3, 7)
    assert y.device.type == "meta"
    assert len(calls) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:.*legacy.*")
def test_those_who_follow_operators_see_pytorchs_own():
    from torch.fx.experimental.proxy_tensor import make_fx

    theirs, ours = pair("gru", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    expected = theirs(x)[0]
    traced = torch.jit.trace(ours, (x,))
    assert traced.graph.findNode("aten::gru") is not None
    exported = torch.export.export(ours, (x,)).module()
    for other in (traced, exported, make_fx(ours)(x)):
        torch.testing.assert_close(other(2 * x)[0], theirs(2 * x)[0])
    dual = torch.autograd.forward_ad
    with dual.dual_level():
        y, _ = ours(dual.make_dual(x, torch.ones_like(x)))
        tangent = dual.unpack_dual(y).tangent
    h = 1e-3
    torch.testing.assert_close(tangent, (theirs(x + h)[0] - theirs(x - h)[0]) / (2 * h), rtol=0, atol=1e-3)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(("name", "function"), [("LSTM", "lstm"), ("GRUCell", "gru_cell")])
def test_function_modes_see_pytorchs_own_functions(name, function, monkeypatch):
    class Seen(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            names.append(getattr(function, "__name__", ""))
            return function(*args, **(kwargs or {}))

    calls, names = spied_calls(monkeypatch), []
    module, x = getattr(fast, name)(4, 7), torch.ones(3, 4)
    with Seen():
        module(x)
    assert function in names
    assert len(calls) == 0
    with torch.device("cpu"):  # a mode too, but none that anybody looks through
        module(x)
    assert len(calls) == 1


class OfBoth(torch.nn.Module):
    """A model with a layer and a cell, of torch.nn at first."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.GRU(4, 7, num_layers=2)
        self.cell = torch.nn.LSTMCell(7, 5)

    def forward(self, x):
        y, h_n = self.layer(x)
        h, c = self.cell(h_n[0])
        return y.sum() + h.sum() + c.sum()


def test_symbolic_graphs_keep_them_whole(monkeypatch):
    model, x = OfBoth(), normal(5, 3, 4, dtype=torch.float32)
    expected = model(x)
    fast.accelerate(model)
    calls = spied_calls(monkeypatch)
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["layer", "cell"]
    torch.testing.assert_close(graph(x), expected)
    assert len(calls) == 3


class OfConstant(torch.nn.Module):
    """The layer's input is no part of the graph; a state may be."""

    def __init__(self, library):
        super().__init__()
        self.layer = library.LSTM(4, 3)

    def forward(self, h):
        return self.layer(torch.ones(2, 1, 4), (h, h))[0] * self.layer(torch.ones(2, 1, 4))[0]


def test_symbolic_graphs_run_hooks_once_and_keep_layers_of_constants():
    torch.manual_seed(0)
    original, model = OfConstant(torch.nn), OfConstant(fast)
    model.load_state_dict(original.state_dict())
    graphs = []
    for each in (original, model):
        each.layer.register_forward_hook(lambda module, inputs, output: (output[0] * 3, output[1]))
        graphs.append(torch.fx.symbolic_trace(each))
        with torch.no_grad():
            each.layer.weight_hh_l0.mul_(2)  # after it was traced
    h = normal(1, 1, 3, dtype=torch.float32)
    torch.testing.assert_close(graphs[1](h), graphs[0](h))
    torch.testing.assert_close(graphs[1](h), model(h))
    nodes = [[(node.op, node.target) for node in graph.graph.nodes] for graph in graphs]
    assert nodes[0] == nodes[1]


def test_no_more_threads_than_pytorch_uses(monkeypatch):
    import fastrnn
    from fastrnn.torch.layer import Layer

    layer = Layer.of("gru", 1, list(torch.nn.GRU(64, 64).parameters()))
    share = layer._cpu.sharing.share
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(2)
    try:
        for number in (1, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
            assert share(1000, 100, forward=True)[0] == number
    finally:
        fastrnn.set_num_threads(before)


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_a_module_is_no_part_of_its_own_symbolic_graph(name):
    for library in (torch.nn, fast):
        with pytest.raises(torch.fx.proxy.TraceError):
            torch.fx.symbolic_trace(getattr(library, name)(4, 7))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_compiles_torch_nns():
    model, x = OfBoth(), normal(5, 3, 4, dtype=torch.float32)
    expected = model(x)
    fast.accelerate(model)
    ours, weight = model.layer, model.layer.weight_hh_l0
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), expected)
    assert scripted.layer.weight_hh_l0.data_ptr() == weight.data_ptr()
    assert isinstance(ours, fast.GRU)
    assert type(model.layer) is torch.nn.GRU  # PyTorch keeps what it compiled instead


class Halved(fast.GRU):
    def forward(self, input, hx=None):
        y, h = super().forward(input, hx)
        return y * 0.5, h


class HalvedCell(fast.GRUCell):
    def forward(self, input, hx=None):
        return super().forward(input, hx) * 0.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("module", [Halved(4, 7), HalvedCell(4, 7)], ids=["GRU", "GRUCell"])
def test_torchscript_does_not_pass_over_the_forward_of_a_subclass(module):
    model, x = torch.nn.Sequential(module), normal(3, 4, dtype=torch.float32)
    expected = tensors_of(model(x))
    with pytest.raises(RuntimeError):  # as of a subclass of torch.nn's
        torch.jit.script(model)
    assert model[0] is module
    assert all(map(torch.equal, tensors_of(model(x)), expected))


AUTOCAST = [
    *(("padded", dtype) for dtype in (None, torch.float32, torch.bfloat16)),
    *(("packed", dtype) for dtype in (None, torch.float32)),
    ("packed, of equal lengths", None),
]


@quiet
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("layout", "state_dtype"), AUTOCAST, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind, layout, state_dtype, x_dtype, monkeypatch):
    # PyTorch takes oneDNN's LSTM for these, which raises without AVX-512
    one_dnn = kind == "lstm" and layout != "packed" and x_dtype == torch.float32
    if one_dnn and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("PyTorch's own LSTM cannot do this in bfloat16 on this processor")
    theirs, ours = pair(kind, 4, 7, num_layers=2, bidirectional=True)
    x = normal(5, 3, 4, dtype=x_dtype)
    state = None if state_dtype is None else initial_state(ours, 3, dtype=state_dtype)
    inputs = [x, *tensors_of(state)]
    found = []
    calls = spied_calls(monkeypatch)
    for module in (theirs, ours):
        lengths = torch.tensor([5, 3, 2] if layout == "packed" else [5, 5, 5])
        given = x if layout == "padded" else torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(everything(module, given, state, inputs=inputs))
    assert len(calls) == 2
    if kind == "rnn_relu":  # an argument near 0 may be on the other side of the corner, and its gradient another
        found = [{name: value for name, value in each.items() if name.startswith("output")} for each in found]
    assert_same(found[1], found[0], tolerance=3e-2)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_autocast_of_cells(kind, x_dtype, monkeypatch):
    x = normal(3, 4, dtype=x_dtype)
    found = []
    calls = spied_calls(monkeypatch)
    for module in pair(kind, 4, 7, table=CELLS):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(everything(module, x, inputs=[x]))
    assert len(calls) == 1
    assert_same(found[1], found[0], tolerance=3e-2)


def test_autocast_leaves_float64_alone():
    theirs, ours = pair("lstm", 4, 7, dtype=torch.float64)
    x = normal(5, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(everything(ours, x, inputs=[x]), everything(theirs, x, inputs=[x]))
