"""The modules of fastrnn.torch within autograd: derivatives, graphs, changes in place, checkpoints, threads."""

from concurrent.futures import ThreadPoolExecutor

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
    tensors_of,
    torch,
)

TWICE = "Trying to backward through the graph a second time"
CHANGED = "modified by an inplace operation"


def function_of(module, state, parameters, packing=None):
    """All outputs as a function of x, the states and the parameters."""
    names = [name for name, _ in module.named_parameters()]
    number = len(tensors_of(state))

    def run(x, *tensors):
        given = x if packing is None else torch.nn.utils.rnn.pack_padded_sequence(x, *packing)
        states = tensors[:number]
        hx = None if not states else states if isinstance(state, tuple) else states[0]
        outputs = torch.func.functional_call(module, dict(zip(names, tensors[number:], strict=True)), (given, hx))
        return tuple(tensors_of(outputs))

    return run, [*tensors_of(state), *parameters]


def away_from_corners(kind, module):
    """Arguments of relu stay on its linear side, within the reach of the differences, so that they judge it."""
    if kind == "rnn_relu":
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.fill_(8.0) if name.startswith("bias_ih") else parameter.mul_(0.1)


GRADIENTS = {
    "one layer": {},
    "two layers": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False, "batch_first": True},
}


@quiet
@pytest.mark.parametrize("options", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences(kind, options):
    if kind == "rnn_relu":
        options = options | {"bias": True}  # see away_from_corners
    _, module = pair(kind, 3, 4, dtype=torch.float64, **options)
    away_from_corners(kind, module)
    state = initial_state(module, 2)
    run, others = function_of(module, state, [p.detach().requires_grad_() for p in module.parameters()])
    x = normal(*((2, 3, 3) if options.get("batch_first") else (3, 2, 3)))
    assert torch.autograd.gradcheck(run, (x, *others), fast_mode=True)


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_of_packed_sequences(kind):
    _, module = pair(kind, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    away_from_corners(kind, module)
    state = initial_state(module, 3)
    packing = (torch.tensor([2, 4, 1]), False, False)
    run, others = function_of(module, state, [p.detach().requires_grad_() for p in module.parameters()], packing)
    assert torch.autograd.gradcheck(run, (normal(4, 3, 3), *others), fast_mode=True)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("kind", CELLS)
def test_finite_differences_of_cells(kind, batch):
    _, module = pair(kind, 3, 4, table=CELLS, dtype=torch.float64)
    away_from_corners(kind, module)
    lead = () if batch is None else (batch,)
    states = tuple(normal(*lead, 4, seed=seed) for seed in (3, 4))
    run, others = function_of(
        module, states if kind == "lstm" else states[0], [p.detach().requires_grad_() for p in module.parameters()]
    )
    inputs = (normal(*lead, 3), *others)
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@quiet
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind, layout):
    _, module = pair(kind, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    away_from_corners(kind, module)
    state = initial_state(module, 2)
    packing = (torch.tensor([1, 3]), False, False) if layout == "packed" else None
    run, others = function_of(module, state, [p.detach().requires_grad_() for p in module.parameters()], packing)
    assert torch.autograd.gradgradcheck(run, (normal(3, 2, 3), *others), fast_mode=True)


def test_second_derivatives_leave_pytorchs_settings_alone(monkeypatch):
    """They are of the whole process: other threads would see them changed."""
    monkeypatch.setattr(torch._C, "_set_mkldnn_enabled", None)
    module = fast.LSTM(4, 6)  # float32: the LSTM that oneDNN would do
    x = normal(5, 3, 4, dtype=torch.float32)
    (dx,) = torch.autograd.grad(module(x)[0].pow(2).sum(), x, create_graph=True)
    dx.pow(2).sum().backward()
    assert module.weight_hh_l0.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_gradient_penalty(kind):
    found = []
    for module in pair(kind, 4, 7, num_layers=2, dtype=torch.float64):
        x = normal(5, 3, 4)
        y, final = module(x)
        (dx,) = torch.autograd.grad(y.sin().sum() + tensors_of(final)[-1].sum(), x, create_graph=True)
        penalty = (dx.norm() - 1) ** 2
        penalty.backward()
        found.append({"penalty": penalty.detach(), "x": x.grad} | {n: p.grad for n, p in module.named_parameters()})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
def test_batched_gradients(kind):
    """PyTorch maps the backward pass over many gradients, as torch.autograd.functional.jacobian does with vectorize."""
    found = []
    for module in pair(kind, 3, 4, dtype=torch.float64):
        x = normal(3, 2, 3)
        y, _ = module(x)
        upstream = normal(5, *y.shape, grad=False)
        grads = [torch.autograd.grad(y, x, d, retain_graph=True)[0] for d in upstream]
        (batched,) = torch.autograd.grad(y, x, upstream, is_grads_batched=True, retain_graph=True)
        mapped = torch.func.vmap(lambda d, x=x, y=y: torch.autograd.grad(y, x, d, retain_graph=True)[0])(upstream)
        found.append({"one by one": torch.stack(grads), "batched": batched, "mapped": mapped})
    assert_same(found[1], found[0])


# Graphs


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_a_retained_graph_serves_again(kind):
    theirs, ours = pair(kind, 4, 7, num_layers=2, bidirectional=True, dtype=torch.float64)
    x, state = normal(5, 3, 4), initial_state(ours, 3)
    inputs = [x, *tensors_of(state), *ours.parameters()]
    outputs = tensors_of(ours(x, state))
    upstream = [normal(*o.shape, seed=k, grad=False) for k, o in enumerate(outputs)]
    runs = [torch.autograd.grad(outputs, inputs, upstream, retain_graph=True) for _ in range(2)]
    runs.append(torch.autograd.grad(outputs, inputs, upstream))
    expected = torch.autograd.grad(
        tensors_of(theirs(x, state)), [x, *tensors_of(state), *theirs.parameters()], upstream
    )
    for run in runs:
        assert all(map(torch.equal, run, runs[0]))
        assert_same(dict(enumerate(run)), dict(enumerate(expected)))
    with pytest.raises(RuntimeError, match=TWICE):
        torch.autograd.grad(outputs, inputs, upstream)


@pytest.mark.parametrize("kind", CELLS)
def test_a_graph_that_was_not_retained_is_gone(kind):
    _, cell = pair(kind, 4, 7, table=CELLS)
    loss = sum(t.sum() for t in tensors_of(cell(normal(3, 4, dtype=torch.float32))))
    loss.backward()
    with pytest.raises(RuntimeError, match=TWICE):
        loss.backward()


@pytest.mark.parametrize("changed", ["x", "h_0", "c_0", "weight_hh_l0", "bias_ih_l0"])
@pytest.mark.parametrize("when", ["first", "second"])
def test_what_changed_since_is_an_error(changed, when):
    _, module = pair("lstm", 4, 7)
    x, (h_0, c_0) = normal(5, 3, 4, dtype=torch.float32), initial_state(module, 3, dtype=torch.float32)
    named = dict(module.named_parameters()) | {"x": x, "h_0": h_0, "c_0": c_0}
    loss = module(x, (h_0, c_0))[0].sum()
    if when == "second":
        loss.backward(retain_graph=True)
    with torch.no_grad():
        named[changed].mul_(2)
    before = {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is None if before[name] is None else torch.equal(parameter.grad, before[name])


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("changed", ["x", "weight_hh"])
def test_what_changed_since_is_an_error_for_cells(kind, changed):
    _, cell = pair(kind, 4, 7, table=CELLS)
    x = normal(3, 4, dtype=torch.float32)
    loss = tensors_of(cell(x))[0].sum()
    with torch.no_grad():
        (x if changed == "x" else cell.weight_hh).mul_(2)
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_outputs_may_be_changed_in_place(kind, layout):
    found = []
    for module in pair(kind, 4, 7, bidirectional=True, dtype=torch.float64):
        x = normal(5, 3, 4)
        given = x if layout == "padded" else torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 2, 1]))
        y, final = module(given)
        (y,), final = tensors_of(y), tensors_of(final)
        y.mul_(3)
        for state in final:
            state.add_(1)
        torch.autograd.backward([y.sin().sum(), *[(s * s).sum() for s in final]])
        found.append({"y": y.detach(), "x": x.grad} | {name: p.grad for name, p in module.named_parameters()})
    assert_same(found[1], found[0])


def test_outputs_of_cells_may_be_changed_in_place():
    found = []
    for cell in pair("gru", 4, 7, table=CELLS, dtype=torch.float64):
        x = normal(3, 4)
        h = cell(x)
        h.mul_(3)
        h.sin().sum().backward()
        found.append({"x": x.grad} | {name: p.grad for name, p in cell.named_parameters()})
    assert_same(found[1], found[0])


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_several_forward_passes_before_the_backward_ones(kind):
    theirs, ours = pair(kind, 4, 7, num_layers=2, dtype=torch.float64)
    problems = [normal(steps, 3, 4, seed=seed) for seed, steps in enumerate((5, 5, 2, 5))]
    found = []
    for module in (theirs, ours):
        losses = [module(x)[0].sin().sum() for x in problems]
        with torch.no_grad():
            module(problems[0])  # one that keeps nothing, in between
        grads = [torch.autograd.grad(losses[k], [problems[k], *module.parameters()]) for k in (2, 0, 3, 1)]
        found.append({str(k): grad for k, grad in enumerate(g for each in grads for g in each)})
    assert_same(found[1], found[0])


class Stopped(torch.autograd.Function):
    """Hands on no gradient at all."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_where_no_gradient_comes_none_goes_on(name):
    """Zeros would let an optimiser's momentum move the parameters."""
    for library in (torch.nn, fast):
        module = getattr(library, name)(4, 6)
        x = normal(3, 4, dtype=torch.float32)
        first, *_ = tensors_of(module(x))
        Stopped.apply(first).sum().backward()
        assert [tensor.grad for tensor in (x, *module.parameters())] == [None] * 5
        with pytest.raises(RuntimeError, match=TWICE):
            first.sum().backward()


def test_gradients_accumulate():
    theirs, ours = pair("lstm", 4, 7, num_layers=2, dtype=torch.float64)
    x = normal(5, 3, 4)
    for module in (theirs, ours):
        for k in range(3):
            (module(x)[0] * (k + 1)).sum().backward()
    grads = [{name: p.grad for name, p in module.named_parameters()} for module in (theirs, ours)]
    assert_same(grads[1], grads[0])
    own = [p.grad.data_ptr() for p in ours.parameters()]
    ours(x)[0].sum().backward()
    assert [p.grad.data_ptr() for p in ours.parameters()] == own  # in place


def test_one_tensor_in_several_places():
    """x is used by two calls, and one tensor is both states."""
    found = []
    for module in pair("lstm", 7, 7, dtype=torch.float64):
        x, h = normal(3, 2, 7), normal(1, 2, 7, seed=4)
        y, (h_n, c_n) = module(x, (h, h))
        z, _ = module(x, (h_n, c_n))
        (y * z).sum().backward()
        found.append({"x": x.grad, "h": h.grad} | {name: p.grad for name, p in module.named_parameters()})
    assert_same(found[1], found[0])


def test_truncated_backpropagation_through_time():
    found = []
    for module in pair("gru", 4, 7, num_layers=2, dtype=torch.float64):
        state, x = None, normal(8, 3, 4, grad=False)
        for chunk in x.split(2):
            y, state = module(chunk, state)
            y.sin().sum().backward()
            state = state.detach()
        found.append({"state": state} | {name: p.grad for name, p in module.named_parameters()})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_backward_in_evaluation_mode(kind):
    theirs, ours = pair(kind, 4, 7, num_layers=2, dropout=0.5, dtype=torch.float64)
    theirs.eval(), ours.eval()
    x = normal(5, 3, 4)
    assert_same(everything(ours, x, inputs=[x]), everything(theirs, x, inputs=[x]))


@pytest.mark.parametrize("upstream", ["expanded", "transposed", "negated"])
def test_upstream_gradients_of_any_layout(upstream):
    found = []
    for module in pair("gru", 4, 7, dtype=torch.float64):
        x = normal(5, 3, 4)
        y, _ = module(x)
        if upstream == "expanded":
            y.sum().backward()
        elif upstream == "transposed":
            y.backward(normal(7, 3, 5, grad=False).permute(2, 1, 0))
        else:
            d = torch.complex(normal(5, 3, 7, grad=False), normal(5, 3, 7, seed=5, grad=False)).conj().imag
            assert d.is_neg()
            y.backward(d)
        found.append({"x": x.grad} | {name: p.grad for name, p in module.named_parameters()})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_sparse_upstream_gradients(kind):
    """As `embedding` with sparse=True makes them of a table that is computed."""
    found = []
    for sparse in (False, True):
        _, cell = pair(kind, 4, 7, table=CELLS, dtype=torch.float64)
        x = normal(6, 4)
        table = tensors_of(cell(x))[-1]
        torch.nn.functional.embedding(torch.tensor([1, 3, 3]), table, sparse=sparse).sin().sum().backward()
        found.append({"x": x.grad} | {name: p.grad for name, p in cell.named_parameters()})
        layer = pair(kind, 4, 7, dtype=torch.float64)[1]
        y, _ = layer(normal(5, 3, 4))
        dy = normal(5, 3, 7, grad=False)
        y.backward(dy.to_sparse() if sparse else dy)
        found[-1] |= {name: p.grad for name, p in layer.named_parameters()}
    assert_same(found[1], found[0])


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "negated"])
def test_inputs_of_any_layout(layout):
    theirs, ours = pair("lstm", 4, 7, dtype=torch.float64)
    x = {
        "transposed": normal(4, 3, 5, grad=False).permute(2, 1, 0),
        "strided": normal(10, 3, 8, grad=False)[::2, :, ::2],
        "expanded": normal(5, 1, 4, grad=False).expand(5, 3, 4),
        "negated": torch.complex(normal(5, 3, 4, grad=False), normal(5, 3, 4, seed=5, grad=False)).conj().imag,
    }[layout].requires_grad_()
    state = tuple(normal(3, 1, 7, seed=seed, grad=False).transpose(0, 1).requires_grad_() for seed in (3, 4))
    inputs = [x, *state]
    assert_same(everything(ours, x, state, inputs=inputs), everything(theirs, x, state, inputs=inputs))


# Checkpoints, hooks and modes


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_activation_checkpoints(kind, reentrant):
    from torch.utils.checkpoint import checkpoint

    _, module = pair(kind, 4, 7, num_layers=2, dropout=0.3, dtype=torch.float64)
    x, state = normal(5, 3, 4), initial_state(module, 3)
    inputs = [x, *tensors_of(state)]
    found = []

    def flat(x, *states):  # with use_reentrant, PyTorch does not look for tensors within tuples
        return tuple(tensors_of(module(x, states if kind == "lstm" else states[0])))

    for run in (flat, lambda *given: checkpoint(flat, *given, use_reentrant=reentrant)):
        module.zero_grad()
        for tensor in inputs:
            tensor.grad = None
        torch.manual_seed(3)
        sum(output.sin().sum() for output in run(*inputs)).backward()
        found.append({str(k): t.grad for k, t in enumerate((*inputs, *module.parameters()))})
    assert_same(found[1], found[0], tolerance=1e-30)


def test_saved_tensors_hooks_see_all_that_is_kept():
    """With them, nothing that grows with the sequence is kept besides: it could not be taken away."""
    _, module = pair("lstm", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t.clone(), lambda t: t):
        y, _ = module(x)
    assert y.grad_fn.kept == []
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, *module.parameters())}
    grads = torch.autograd.grad(y.sum(), [x, *module.parameters()])
    wanted = torch.autograd.grad(module(x)[0].sum(), [x, *module.parameters()])
    assert all(map(torch.equal, grads, wanted))


def test_no_grad_and_inference_mode():
    theirs, ours = pair("lstm", 4, 7, num_layers=2)
    x = normal(5, 3, 4, dtype=torch.float32)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            results, expected = tensors_of(ours(x)), tensors_of(theirs(x))
        for result, wanted in zip(results, expected, strict=True):
            assert (result.requires_grad, result.is_inference()) == (wanted.requires_grad, wanted.is_inference())
            torch.testing.assert_close(result, wanted)
    with torch.inference_mode():
        inference = torch.ones(5, 3, 4)
    for module in (theirs, ours):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            module(inference)


@pytest.mark.parametrize("name", ["GRU", "RNN", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("trained", ["x", "state", "bias"])
def test_what_inference_mode_made_may_go_where_no_matrix_is_trained(name, trained):
    """PyTorch's LSTM and LSTMCell save such tensors in any case, and raise."""
    results = []
    lead = (2,) if "Cell" in name else (5, 2)
    for library in (torch.nn, fast):
        torch.manual_seed(0)
        module = getattr(library, name)(4, 7).requires_grad_(False)
        with torch.inference_mode():
            x, h_0 = torch.ones(*lead, 4), torch.full((*(() if "Cell" in name else (1,)), 2, 7), 0.5)
        bias = next(p for n, p in module.named_parameters() if "bias_ih" in n)
        leaf = {"x": x, "state": h_0, "bias": bias}[trained].clone().requires_grad_()
        if trained == "bias":
            leaf = bias.requires_grad_()
        tensors_of(module(leaf if trained == "x" else x, leaf if trained == "state" else h_0))[0].sum().backward()
        results.append(leaf.grad)
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("lengths", [[1, 1], [2, 1], None], ids=["packed ones", "packed", "one step"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projection_that_the_cell_state_does_not_depend_on_has_no_gradient(options, lengths):
    """Zeros would let weight decay and momentum move it."""
    theirs, ours = pair("lstm", 4, 7, proj_size=3, **options)
    x = normal(2, 2, 4, dtype=torch.float32)
    x = x[:1] if lengths is None else torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    for module in (theirs, ours):
        module(x)[1][1].sum().backward(retain_graph=True)
    grads = [{name: p.grad for name, p in module.named_parameters()} for module in (theirs, ours)]
    torch.testing.assert_close(grads[1], grads[0])
    assert (grads[1][f"weight_hr_l{options.get('num_layers', 1) - 1}"] is None) == (lengths != [2, 1])


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_enable_grad_within_inference_mode_is_without_effect(name, compiled):
    module = getattr(fast, name)(4, 7)
    run = torch.compile(module, backend="aot_eager") if compiled else module
    with torch.inference_mode(), torch.enable_grad():
        outputs = tensors_of(run(torch.ones(3, 4)))
    assert not any(output.requires_grad for output in outputs)
    assert all(output.is_inference() for output in outputs)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_made_in_inference_mode_train_as_far_as_pytorchs_do(name):
    x, results = torch.ones(3, 4), []
    for library in (torch.nn, fast):
        with torch.inference_mode():
            torch.manual_seed(0)
            module = getattr(library, name)(4, 7)
        outputs = tensors_of(module(x))
        outputs[0].sum().backward()
        results.append((outputs[0], module.bias_ih.grad))
    torch.testing.assert_close(results[1], results[0])


def test_enable_grad_within_no_grad():
    _, module = pair("gru", 4, 7)
    with torch.no_grad(), torch.enable_grad():
        y, _ = module(normal(5, 3, 4, dtype=torch.float32))
    assert y.requires_grad


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_detection_finds_a_nan():
    _, module = pair("gru", 4, 7)
    y, _ = module(normal(5, 3, 4, dtype=torch.float32))
    with (
        torch.autograd.detect_anomaly(check_nan=True),
        pytest.raises(RuntimeError, match="_LayerFunctionBackward' returned nan"),
        pytest.warns(UserWarning, match="Error detected in _LayerFunctionBackward"),
    ):
        y.backward(torch.full_like(y, float("nan")))


def test_tensor_and_module_hooks_run():
    _, module = pair("gru", 4, 7, num_layers=2)
    x, seen = normal(5, 3, 4, dtype=torch.float32), []
    module.weight_hh_l0.register_hook(lambda grad: seen.append("weight") or grad * 0)
    module.register_forward_hook(lambda m, args, outputs: seen.append("forward"))
    module.register_full_backward_hook(lambda m, grad_in, grad_out: seen.append("backward"))
    module(x)[0].sum().backward()
    assert sorted(seen) == ["backward", "forward", "weight"]
    assert not module.weight_hh_l0.grad.any()


# Threads


def test_threads_may_call_one_module():
    _, module = pair("lstm", 4, 7, num_layers=2)
    problems = [normal(5, 3, 4, dtype=torch.float32, seed=seed) for seed in range(16)]

    def run(x):
        y, _ = module(x)
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])]

    expected = [run(x) for x in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for result, wanted in zip(pool.map(run, problems), expected, strict=True):
                assert all(map(torch.equal, result, wanted))


def test_threads_may_call_the_same_kernels_with_weights_of_their_own():
    """As copies of a module do within torch.func.functional_call."""
    from fastrnn.torch.layer import Layer

    theirs, _ = pair("gru", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    weights = [{name: (k + 1) * value for name, value in theirs.state_dict().items()} for k in range(8)]
    layer = Layer.of("gru", 1, list(weights[0].values()))
    h_0 = torch.zeros(1, 3, 7).numpy()

    def run(k):
        return layer.forward(x.numpy(), (h_0,), False, None, layer.bind(list(weights[k].values())))[0]

    expected = [torch.func.functional_call(theirs, own, (x,))[0] for own in weights]
    order = [*range(8)] * 10
    with ThreadPoolExecutor(4) as pool:
        for k, y in zip(order, pool.map(run, order), strict=True):
            torch.testing.assert_close(torch.from_numpy(y), expected[k])
