"""The modules of fastrnn.torch under torch.compile: whole in one graph, and the same results as without."""

import gc
import subprocess
import sys
import weakref

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

BACKENDS = ("eager", "aot_eager")


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(module, backend="aot_eager"):
    return torch.compile(module, backend=backend, fullgraph=True)


def operators_of(module, *arguments):
    """The names of all that the module's graph calls."""
    names = []

    def look(graph, example):
        names.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compile(module, backend=look, fullgraph=True)(*arguments)
    return names


def everything_compiled(run, *arguments, inputs):
    return {n.removeprefix("_orig_mod."): value for n, value in everything(run, *arguments, inputs=inputs).items()}


def assert_compiles(module, *arguments, inputs, backend="aot_eager"):
    """The compiled module has the bits of the other."""
    expected = everything(module, *arguments, inputs=inputs)
    results = everything_compiled(compiled(module, backend), *arguments, inputs=inputs)
    assert_same(results, expected, tolerance=1e-30)


@quiet
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_layer(kind, backend):
    _, module = pair(kind, 4, 7)
    x, state = normal(5, 3, 4, dtype=torch.float32), initial_state(module, 3, dtype=torch.float32)
    assert_compiles(module, x, state, inputs=[x, *tensors_of(state)], backend=backend)


@quiet
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_layers_in_two_directions(kind, backend):
    _, module = pair(kind, 4, 7, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
    x = normal(3, 5, 4)
    assert_compiles(module, x, inputs=[x], backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind, batch, backend):
    _, cell = pair(kind, 4, 7, table=CELLS)
    lead = () if batch is None else (batch,)
    x, states = (
        normal(*lead, 4, dtype=torch.float32),
        tuple(normal(*lead, 7, dtype=torch.float32, seed=s) for s in (3, 4)),
    )
    hx = states if kind == "lstm" else states[0]
    assert_compiles(cell, x, hx, inputs=[x, *tensors_of(hx)], backend=backend)
    assert_compiles(cell, x, inputs=[x], backend=backend)


@pytest.mark.parametrize("options", [{"bias": False}, {"num_layers": 2, "dropout": 0.0, "bias": False}], ids=str)
def test_options(options):
    _, module = pair("gru", 4, 7, **options)
    x = normal(5, 4, dtype=torch.float32)  # without a batch dimension
    assert_compiles(module, x, inputs=[x])


def test_the_graph_holds_the_layer_as_one_operator():
    x = normal(5, 3, 4, dtype=torch.float32)
    for module, number in ((fast.LSTM(4, 7, num_layers=3, bidirectional=True), 3), (fast.GRUCell(4, 7), 1)):
        names = operators_of(module, x if number == 3 else x[0])
        assert names.count("fastrnn.forward") == number
        assert not [name for name in names if "lstm" in name or "gru" in name or "linear" in name]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_model_around_the_layer(kind):
    """Compiled and not, with a loop over a cell, and Adam: the losses are the same."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = pair(kind, 4, 6, num_layers=2, bidirectional=True)[1]
            self.cell = pair(kind, 12, 5, table=CELLS)[1]
            self.head = torch.nn.Linear(5, 2)

        def forward(self, x):
            y, _ = self.rnn(x)
            state = None
            for y_t in torch.tanh(y):
                state = self.cell(y_t, state)
            return self.head(state[0] if kind == "lstm" else state)

    x, losses = normal(4, 3, 4, dtype=torch.float32, grad=False), []
    for compile_it in (False, True):
        torch.manual_seed(0)
        model = Model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        run = compiled(model) if compile_it else model
        losses.append([])
        for _ in range(5):
            optimizer.zero_grad()
            loss = run(x).square().sum()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1][-1] < losses[1][0]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_dynamic_shapes(kind):
    """One graph for all lengths and batches."""
    _, module = pair(kind, 4, 7, num_layers=2)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    run = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
    frames = set()
    for steps, batch in ((5, 3), (2, 4), (9, 2), (4, 6)):
        x = normal(steps, batch, 4, dtype=torch.float32)
        expected = everything(module, x, inputs=[x])
        assert_same(everything_compiled(run, x, inputs=[x]), expected, tolerance=1e-30)
        frames.add(counter.frame_count)
    assert len(frames) == 1


@pytest.mark.parametrize("change", ["in place", "data", "load"])
def test_changed_weights_are_seen(change):
    _, module = pair("gru", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32)
    run = compiled(module)
    before = run(x)[0]
    if change == "in place":
        with torch.no_grad():
            module.weight_hh_l0.mul_(2)
    elif change == "data":
        module.weight_hh_l0.data = module.weight_hh_l0.data * 2
    else:
        module.load_state_dict({name: 2 * value for name, value in module.state_dict().items()})
    after = run(x)[0]
    assert not torch.equal(after, before)
    assert torch.equal(after, module(x)[0])


def test_without_gradients_nothing_is_kept(monkeypatch):
    saves = spied_calls(monkeypatch)
    _, module = pair("gru", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    run = compiled(module)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            y, _ = run(x)
        assert not y.requires_grad
        torch.testing.assert_close(y, module(x)[0].detach())
    assert [save for save in saves if not save] == [False, False]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_frozen_parameters_and_unused_outputs(kind):
    found = []
    _, module = pair(kind, 4, 7, num_layers=2)
    module.weight_ih_l0.requires_grad_(False)
    for run in (module, compiled(module)):
        module.zero_grad()
        x = normal(5, 3, 4, dtype=torch.float32, grad=False)
        tensors_of(run(x)[1])[-1].sin().sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters()})
    assert found[0]["weight_ih_l0"] is None
    assert_same(found[1], found[0], tolerance=1e-30)


def test_several_graphs_before_their_backward_passes():
    """What a pass keeps is its own."""
    _, module = pair("lstm", 4, 7)
    problems = [normal(5, 3, 4, dtype=torch.float32, seed=seed) for seed in range(3)]
    found = []
    for run in (module, compiled(module)):
        losses = [run(x)[0].sin().sum() for x in problems]
        grads = [torch.autograd.grad(losses[k], [problems[k], *module.parameters()]) for k in (1, 2, 0)]
        found.append({str(k): g for k, g in enumerate(g for each in grads for g in each)})
    assert_same(found[1], found[0], tolerance=1e-30)


def test_a_retained_graph_serves_again():
    _, module = pair("lstm", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32)
    y, _ = compiled(module, "eager")(x)
    runs = [torch.autograd.grad(y.sum(), [x, *module.parameters()], retain_graph=True) for _ in range(2)]
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_outputs_may_be_changed_in_place(kind, backend):
    _, module = pair(kind, 4, 7, num_layers=2, batch_first=True)
    x, found = normal(5, 3, 4, dtype=torch.float32), []
    for run in (module, compiled(module, backend)):
        module.zero_grad()
        y, state = run(x)
        with torch.no_grad():
            for tensor in (y, *tensors_of(state)):
                tensor.mul_(2)
        y[0].mul_(3)
        y.sin().sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters()})
    assert_same(found[1], found[0], tolerance=1e-30)


@pytest.mark.parametrize("name", ["RNN", "RNNCell"])
def test_shared_weights_and_different_nonlinearities(name):
    first, second = (getattr(fast, name)(4, 7, nonlinearity=nonlinearity) for nonlinearity in ("tanh", "relu"))
    for weight in list(first._parameters):
        setattr(second, weight, getattr(first, weight))
    x = normal(5, 4, dtype=torch.float32, grad=False)

    def both(x):
        return tensors_of(first(x)) + tensors_of(second(x))

    for result, expected in zip(compiled(both)(x), both(x), strict=True):
        assert torch.equal(result, expected)


TRANSFORMS = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize(("kind", "table"), [("gru", KINDS), ("rnn_tanh", KINDS), ("gru", CELLS), ("lstm", CELLS)])
def test_transforms_within_the_graph_see_pytorchs_operators(kind, table, transform):
    theirs, ours = pair(kind, 4, 7, table=table)
    x = normal(*([2] if table is KINDS else []), 3, 4, dtype=torch.float32, grad=False)

    def transformed(module):
        return lambda x: transform(lambda x: tensors_of(module(x))[0], x)

    result = torch.compile(transformed(ours), backend="aot_eager")(x)
    torch.testing.assert_close(result, transformed(theirs)(x))


def test_second_derivatives_of_a_module_that_is_kept_out_of_the_graph():
    _, module = pair("gru", 4, 7, dtype=torch.float64)
    kept_out, found = torch.compiler.disable(module), []
    for run in (module, torch.compile(lambda x: kept_out(x), backend="aot_eager")):
        x = normal(5, 3, 4)
        (dx,) = torch.autograd.grad(run(x)[0].sin().sum(), x, create_graph=True)
        found += torch.autograd.grad(dx.square().sum(), module.weight_ih_l0)
    torch.testing.assert_close(found[1], found[0])


def test_dropout():
    _, module = pair("gru", 4, 64, num_layers=2, dropout=0.5)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    run = compiled(module)
    assert not torch.equal(run(x)[0], run(x)[0])
    module.eval()
    assert torch.equal(run(x)[0], module(x)[0])


def test_packed_sequences_run_outside_the_graph():
    theirs, ours = pair("gru", 4, 7, dtype=torch.float64)
    x = normal(5, 3, 4)

    def packed():
        return torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 5, 3]), enforce_sorted=False)

    expected = everything(theirs, packed(), inputs=[x])
    assert_same(everything_compiled(torch.compile(ours, backend="eager"), packed(), inputs=[x]), expected)


@pytest.mark.parametrize("kind", KINDS)
@quiet
def test_the_operators_keep_pytorchs_rules(kind):
    """Schema, fake tensors, autograd registration and dynamic shapes, as torch.library checks them."""
    _, module = pair(kind, 4, 7, bidirectional=True, dtype=torch.float64)
    x, state = normal(5, 3, 4), tensors_of(initial_state(module, 3))
    weights = [p.detach().requires_grad_() for p in module.parameters()]
    cell = {"lstmp": "lstm"}.get(kind, kind)
    torch.library.opcheck(torch.ops.fastrnn.forward.default, (cell, 2, x, state, weights, True))
    with torch.no_grad():
        torch.library.opcheck(torch.ops.fastrnn.forward.default, (cell, 2, x, state, weights, False))
    torch.library.opcheck(torch.ops.fastrnn.copy.default, (x,))


def test_the_operator_refuses_what_is_no_layer():
    x, state = torch.zeros(2, 3, 4), [torch.zeros(1, 3, 7)]
    weights = list(torch.nn.GRU(4, 7, dtype=torch.float16).parameters())
    with pytest.raises(ValueError, match=r"^weights: not those of one gru layer, contiguous, on the CPU: "):
        torch.ops.fastrnn.forward("gru", 1, x, state, weights, False)


def test_weights_that_are_no_parameters_are_not_kept(monkeypatch):
    """Nor are the kernels for ever more shapes of them."""
    from fastrnn.torch.layer import Layer

    of, layers, memory = Layer.of, weakref.WeakSet(), []

    def remembered(*arguments):
        layer = of(*arguments)
        layers.add(layer)
        return layer

    monkeypatch.setattr(Layer, "of", remembered)
    torch.manual_seed(0)
    for hidden in range(1, 25):
        theirs = torch.nn.GRU(4, hidden)
        arrays = [parameter.detach().numpy().copy() for parameter in theirs.parameters()]
        memory += map(weakref.ref, arrays)
        weights = [torch.from_numpy(array).requires_grad_() for array in arrays]
        x, h_0 = normal(5, 3, 4, dtype=torch.float32), torch.zeros(1, 3, hidden)
        y = torch.ops.fastrnn.forward("gru", 1, x, [h_0], weights, True)[0]
        results = torch.autograd.grad(y.sin().sum(), [x, *weights])
        wanted = torch.autograd.grad(theirs(x)[0].sin().sum(), [x, *theirs.parameters()])
        for result, expected in zip(results, wanted, strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        del arrays, weights, y, results
    gc.collect()
    assert [array for array in memory if array() is not None] == []
    assert len(layers) < 12


def test_pytorchs_own_layers_still_leave_the_graph():
    """What lets Dynamo look into ours changes nothing for others."""
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(torch.nn.LSTM(4, 7))(torch.zeros(5, 3, 4))
    compiled(fast.LSTM(4, 7))(torch.zeros(5, 3, 4))


IN_ORDER = """
import sys
import torch
{first}
import fastrnn.torch
loaded = "torch._dynamo" in sys.modules
assert loaded is {expected}
lstm = fastrnn.torch.LSTM(3, 4)
x = torch.ones(2, 1, 3)
y = torch.compile(lstm, fullgraph=True, backend="eager")(x)[0]
torch.testing.assert_close(y, lstm(x)[0])
model = torch.nn.Sequential(fastrnn.torch.GRU(3, 4))
assert torch.compile(model, backend="eager")(torch.nn.utils.rnn.pack_sequence([x[:, 0]]))[0].data.shape == (2, 4)
"""


LOOK_FIRST = """
import importlib.util
import fastrnn.torch
for _ in range(2):
    assert importlib.util.find_spec("torch._dynamo") is not None
"""
FAIL_FIRST = """
import fastrnn.torch
sys.modules["torch._dynamo.config"] = None
try:
    import torch._dynamo
except ImportError:
    pass
for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
    del sys.modules[name]
"""


@pytest.mark.parametrize(
    ("first", "expected"), [("", False), ("import torch._dynamo", True), (LOOK_FIRST, False), (FAIL_FIRST, False)],
    ids=["never", "before", "looked for", "failed"],
)  # fmt: skip
def test_who_compiles_nothing_does_not_import_the_compiler(first, expected):
    """It takes as long to import as all of PyTorch; whoever imports it, it traces our modules."""
    program = IN_ORDER.format(first=first, expected=expected)
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell"])
def test_compiled_autograd_takes_what_ran_eagerly(name):
    module = getattr(fast, name)(4, 7)
    x = torch.randn(3, 4) if "Cell" in name else torch.randn(5, 3, 4)
    gradients = []
    for compiled_backward in (False, True):
        module.zero_grad()
        loss = module(x)[0].sin().sum()
        if compiled_backward:
            with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
                loss.backward()
        else:
            loss.backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    assert all(map(torch.equal, *gradients))


AFTER_A_REFUSAL = """
import torch, fastrnn.torch
module = fastrnn.torch.{name}(3, 5)
x = torch.randn(6, 3)
compiled = torch.compile(module, backend="aot_eager")
for frozen in (False, True):
    module.requires_grad_(not frozen)
    try:
        compiled({strange})
    except (RuntimeError, ValueError):
        pass
    outputs, expected = ([*map(torch.atleast_2d, call(x))] for call in (compiled, module))
    for one, other in zip(outputs, expected):
        torch.testing.assert_close(one, other)
    if not frozen:
        outputs[0].sum().backward()
        assert module.bias_{suffix}.grad.any()
"""


@pytest.mark.parametrize(
    ("name", "suffix", "strange"),
    [("GRU", "hh_l0", "x.to_sparse()"), ("LSTMCell", "hh", "torch.nested.nested_tensor([x, x[:2]])")],
)
def test_a_graph_that_was_refused_harms_no_later_call(name, suffix, strange):
    """Dynamo has given up on `forward` then, and takes what that calls frame by frame: it would read its own tensors.

    In a process of its own, which that would bring down.
    """
    program = AFTER_A_REFUSAL.format(name=name, suffix=suffix, strange=strange)
    subprocess.run([sys.executable, "-c", program], check=True)
