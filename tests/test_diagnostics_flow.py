"""`gradient_flow` against PyTorch's autograd through unrolled steps, and against cases whose answer is known."""

import math

import numpy as np
import pytest
from conftest import KINDS, as_state, assert_same_bits, make_layer, random_problem
from fastrnn.kernels.norms import norms, path_norms

import fastrnn
from fastrnn.diagnostics import decay, gate_statistics, gradient_flow

torch = pytest.importorskip("torch")

every_kind = pytest.mark.parametrize("kind", KINDS)


# PyTorch, step by step: each h_t, c_t and y keeps its gradient


def step(kind, x, h, c, w):
    """One step of a cell, as in the papers; for all but the LSTM c is passed through."""
    W, R, P = w["weight_ih"], w["weight_hh"], w.get("weight_hr")
    a = x @ W.T + w["bias_ih"]
    b = h @ R.T + w["bias_hh"]
    if kind.startswith("lstm"):
        i, f, g, o = (a + b).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        if c.requires_grad:
            c.retain_grad()
        m = torch.sigmoid(o) * torch.tanh(c)
        return m if P is None else m @ P.T, c
    if kind.startswith("gru"):
        H = R.shape[1]
        r, z = (torch.sigmoid(s) for s in (a + b)[:, : 2 * H].chunk(2, dim=1))
        inner = r * b[:, 2 * H :] if kind == "gru" else (r * h) @ R[2 * H :].T + w["bias_hh"][2 * H :]
        return (1 - z) * torch.tanh(a[:, 2 * H :] + inner) + z * h, c
    return (torch.tanh if kind == "rnn_tanh" else torch.relu)(a + b), c


def expected(kind, layer, problem, dy, dstate):
    """{name: (L*D, T) norms}, in each direction's own time; states as tuples, gradients None for zeros."""
    D, T = layer.num_directions, len(problem.x)
    y = torch.tensor(problem.x)
    states = [torch.tensor(s, requires_grad=True) for s in problem.state]
    runs, loss, above = [], 0.0, []
    for number in range(layer.num_layers):
        outputs = []
        for d in range(D):
            suffix = f"_l{number}{'_reverse' * d}"
            w = {n.removesuffix(suffix): torch.tensor(p) for n, p in layer.parameters.items() if n.endswith(suffix)}
            k = number * D + d
            h, c = states[0][k], states[1][k] if len(states) > 1 else None
            hs, cs = [], []
            for t in range(T)[:: -1 if d else 1]:
                h, c = step(kind, y[t], h, c, w)
                h.retain_grad()
                hs.append(h)
                cs.append(c)
            for final, gradient in zip((h, c), dstate or (), strict=False):
                if gradient is not None:
                    loss = loss + (final * torch.tensor(gradient[k])).sum()
            # the next layer and the loss read copies, whose gradient is what they put in
            reads = torch.stack(hs) * 1.0
            reads.retain_grad()
            above.append(reads)
            runs.append((hs, cs))
            outputs.append(reads.flip(0) if d else reads)
        y = torch.cat(outputs, dim=2)
    if dy is not None:
        loss = loss + (y * torch.tensor(dy)).sum()
    loss.backward()
    found = {"hidden": [], "injected": [], "carried": [], "cell": []}
    for k, ((hs, cs), reads) in enumerate(zip(runs, above, strict=True)):
        dh = torch.stack([torch.zeros_like(h) if h.grad is None else h.grad for h in hs])
        injected = torch.zeros_like(dh) if reads.grad is None else reads.grad.clone()
        if dstate is not None and dstate[0] is not None:
            injected[-1] += torch.tensor(dstate[0][k])
        parts = {"hidden": dh, "injected": injected, "carried": dh - injected}
        if kind.startswith("lstm"):
            parts["cell"] = torch.stack([torch.zeros_like(c) if c.grad is None else c.grad for c in cs])
        for name, values in parts.items():
            found[name].append(np.linalg.norm(values.numpy().reshape(T, -1), axis=1))
    return {name: np.stack(values) for name, values in found.items() if values}


SHAPES = {
    "one": (1, False, 6, 3, 7),
    "deep-bi": (2, True, 5, 2, 5),
    "T1": (2, True, 1, 1, 3),
    "unit": (1, False, 4, 1, 1),
}


@every_kind
@pytest.mark.parametrize("given", ["default", "dy", "dstate", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_are_those_of_autograd(kind, given, shape):
    layers, bidirectional, T, B, H = SHAPES[shape]
    if kind == "lstmp" and H == 1:
        pytest.skip("no room for a projection")
    layer = make_layer(kind, 4, H, num_layers=layers, bidirectional=bidirectional, dtype="float64")
    problem = random_problem(layer, T, B)
    dy = problem.dy if given in ("dy", "both") else None
    dstate = problem.dstate if given in ("dstate", "both") else None
    given_dstate = None if dstate is None else as_state(dstate)
    flow = gradient_flow(layer, problem.x, as_state(problem.state), dy=dy, dstate=given_dstate)
    if given == "default":
        dstate = (last_hidden(layer, B), None)
    truth = expected(kind, layer, problem, dy, dstate)
    assert (flow.cell is None) == ("cell" not in truth)
    for name, values in truth.items():
        assert getattr(flow, name).shape == (layers * (1 + bidirectional), T)
        np.testing.assert_allclose(getattr(flow, name), values, rtol=1e-10, atol=1e-13, err_msg=name)
    np.testing.assert_array_equal(flow.lags, np.arange(T)[::-1])
    assert flow.labels[-1] == f"layer {layers - 1}{' reverse' * bidirectional}"


def last_hidden(layer, B):
    """The default gradient: of the top layer's h after the last step, random, of length 1 in each direction."""
    D, R = layer.num_directions, layer.proj_size or layer.hidden_size
    dh_n = np.zeros((layer.num_layers * D, B, R))
    top = np.random.default_rng(0).standard_normal((D, B, R))
    dh_n[-D:] = top / np.linalg.norm(top.reshape(D, -1), axis=1)[:, None, None]
    return dh_n


@every_kind
def test_the_default_loss_has_length_one_on_the_last_output_only(kind):
    layer = make_layer(kind, 3, 9, num_layers=2, bidirectional=True)
    flow = gradient_flow(layer, random_problem(layer, 8, 2).x)
    np.testing.assert_allclose(flow.hidden[2:, -1], 1, rtol=1e-6)
    assert not flow.injected[2:, :-1].any()
    assert (flow.injected[:2, :-1] > 0).any()  # the layer above hands down at every step
    assert not flow.carried[:, -1].any()


@every_kind
def test_one_loss_at_the_end_is_transmitted_as_it_arrives(kind):
    """`transmitted` is |state's gradient| relative to lag 0; for one state that is `hidden`."""
    layer = make_layer(kind, 3, 9, dtype="float64")
    flow = gradient_flow(layer, random_problem(layer, 12, 2).x)
    if not kind.startswith("lstm"):
        np.testing.assert_allclose(flow.transmitted[0], flow.hidden[0] / flow.hidden[0, -1], rtol=1e-12)
    assert flow.transmitted[0, -1] == 1
    assert np.all(flow.transmitted[0] >= flow.carried[0] * (1 - 1e-12))


@every_kind
def test_other_layouts_backends_and_dtypes_give_the_same(kind):
    layer = make_layer(kind, 3, 6, dtype="float64", batch_first=True)
    problem = random_problem(layer, 7, 2)
    x, dy = problem.x.transpose(1, 0, 2), problem.dy.transpose(1, 0, 2)
    flow = gradient_flow(layer, x, as_state(problem.state), dy=dy)
    time_major = make_layer(kind, 3, 6, dtype="float64")
    assert_same_numbers(flow, gradient_flow(time_major, problem.x, as_state(problem.state), dy=problem.dy))
    reference = make_layer(kind, 3, 6, dtype="float64", batch_first=True, backend="reference")
    assert_same_numbers(flow, gradient_flow(reference, x, as_state(problem.state), dy=dy))
    single = make_layer(kind, 3, 6, batch_first=True)
    state = tuple(s.astype("f") for s in problem.state)
    rough = gradient_flow(single, x.astype("f"), as_state(state), dy=dy.astype("f"))
    np.testing.assert_allclose(rough.hidden, flow.hidden, rtol=1e-4)
    one = tuple(s[:, 0] for s in problem.state)
    unbatched = gradient_flow(layer, x[0], as_state(one), dy=dy[0])
    assert_same_numbers(
        unbatched, gradient_flow(layer, x[:1], as_state(tuple(s[:, :1] for s in problem.state)), dy=dy[:1])
    )


def assert_same_numbers(flow, other):
    for name in ("hidden", "injected", "carried", "cell", "direct", "transmitted", "decay_per_step", "half_life"):
        np.testing.assert_array_equal(getattr(flow, name), getattr(other, name), err_msg=name)
    assert flow.verdict == other.verdict


def test_a_layer_stays_as_it_is():
    layer = fastrnn.LSTM(3, 5, 2, dropout=0.5, seed=0)
    problem = random_problem(layer, 6, 2)
    before = {name: value.copy() for name, value in layer.parameters.items()}
    drawn = layer._generator.bit_generator.state
    first = gradient_flow(layer, problem.x)
    assert_same_numbers(first, gradient_flow(layer, problem.x))
    assert layer.training
    assert layer._generator.bit_generator.state == drawn
    assert_same_bits(dict(layer.parameters), before)
    (y, _), backward = layer.eval().vjp(problem.x)
    memory = backward(y)  # the memory that was given back serves the next pass
    np.testing.assert_array_equal(memory.x, layer.vjp(problem.x)[1](y).x)
    assert_same_numbers(first, gradient_flow(layer, problem.x))


@every_kind
@pytest.mark.parametrize(("B", "H"), [(1, 203), (40, 40)], ids=["by-units", "by-rows"])
def test_gradients_in_time_have_the_same_bits_on_any_number_of_threads(kind, B, H, threads):
    layer = make_layer(kind, 130, H, bidirectional=True)
    problem = random_problem(layer, 12, B)
    kernels, results = layer.sequences[0].kernels(), {}
    for number in (1, 2, 4):
        threads(number)
        _, _, saved = layer.sequences[0].forward(problem.x, problem.state, save=True)
        dx, carried, dc = kernels.gradients_in_time(saved, problem.dy, problem.dstate)
        results[number] = {"dx": dx, "carried": carried} | ({} if dc is None else {"dc": dc})
    assert kernels.sharing.share(12 * B, B, forward=False) == (4, B == 1)
    assert_same_bits(results[2], results[1])
    assert_same_bits(results[4], results[1])
    _, backward = layer.vjp(problem.x, as_state(problem.state))
    assert_same_bits({"dx": backward(problem.dy, as_state(problem.dstate)).x}, {"dx": results[1]["dx"]})


# Cases whose answer is known


def orthogonal_rnn(scale, H=16, T=60):
    """At x = 0 and h = 0 a tanh RNN is linear, and R its Jacobian."""
    layer = fastrnn.RNN(3, H, bias=False, dtype="float64", seed=0)
    layer.parameters["weight_hh_l0"][...] = scale * np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0]
    return layer, np.zeros((T, 2, 3))


@pytest.mark.parametrize(
    ("scale", "verdict"), [(0.8, "vanishes by lag 31"), (1.0, "holds: 1 of it at lag 59"), (1.2, "explodes by lag 38")]
)
def test_a_scaled_orthogonal_rnn_decays_by_its_scale(scale, verdict):
    layer, x = orthogonal_rnn(scale)
    flow = gradient_flow(layer, x)
    np.testing.assert_allclose(flow.hidden[0], scale**flow.lags, rtol=1e-10)
    assert flow.decay_per_step[0] == pytest.approx(scale, rel=1e-12)
    if scale < 1:
        assert flow.half_life[0] == pytest.approx(math.log(2) / -math.log(scale), rel=1e-9)
    elif scale > 1:
        assert flow.half_life[0] == math.inf
    assert flow.verdict == [verdict]
    assert flow.direct is None
    assert verdict in str(flow)


@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_a_loss_at_every_step_does_not_blur_the_decay(scale):
    """What is carried is told apart from what is injected: J^T is applied to all that is there."""
    layer, x = orthogonal_rnn(scale)
    dy = np.random.default_rng(1).standard_normal((60, 2, 16))
    flow = gradient_flow(layer, x, dy=dy)
    assert flow.decay_per_step[0] == pytest.approx(scale, rel=1e-12)
    np.testing.assert_allclose(flow.carried[0, :-1], scale * flow.hidden[0, 1:], rtol=1e-12)
    np.testing.assert_allclose(flow.injected[0], np.linalg.norm(dy.reshape(60, -1), axis=1), rtol=1e-12)


@every_kind
def test_what_is_injected_later_is_not_what_is_transmitted(kind):
    """Of a loss at every step, and of what a layer above hands down, the last part alone is followed back."""
    layer = make_layer(kind, 3, 6, num_layers=2, dtype="float64")
    problem = random_problem(layer, 12, 2)
    flow = gradient_flow(layer, problem.x, dy=problem.dy, dstate=as_state(problem.dstate))
    dstate = [s[:1] for s in problem.dstate], [s[1:] for s in problem.dstate]
    lower, upper = (make_layer(kind, width, 6, dtype="float64") for width in (3, layer.proj_size or 6))
    for name, parameter in layer.parameters.items():
        part = upper if name.endswith("_l1") else lower
        part.parameters[name.replace("_l1", "_l0")][...] = parameter
    between = lower(problem.x)[0]
    handed_down = upper.vjp(between)[1](problem.dy, as_state(dstate[1])).x
    for k, (part, x, dy) in enumerate(((lower, problem.x, handed_down), (upper, between, problem.dy))):
        last = np.zeros_like(dy)
        last[-1] = dy[-1]
        alone = gradient_flow(part, x, dy=last, dstate=as_state(dstate[k]))
        np.testing.assert_allclose(flow.transmitted[k], alone.transmitted[0], rtol=1e-11)
        state = np.hypot(alone.hidden, 0 if alone.cell is None else alone.cell)[0]
        assert alone.cell is not None or flow.transmitted[k, 0] == pytest.approx(state[0] / state[-1], rel=1e-11)


def test_an_open_cell_holds_its_gradient_whatever_is_injected():
    layer = fastrnn.LSTM(8, 16, forget_bias=5.0, dtype="float64", seed=0)
    x = random_problem(layer, 100, 2).x
    dy = np.random.default_rng(3).standard_normal((100, 2, 16))
    flow = gradient_flow(layer, x, dy=dy)
    last = np.where(np.arange(100)[:, None, None] == 99, dy, 0)
    gradients = layer.vjp(x)[1](last)
    left = np.linalg.norm(np.stack(gradients.state)) / np.linalg.norm(last)
    assert flow.transmitted[0, 0] == pytest.approx(left, rel=0.2)  # one step further
    assert flow.verdict[0].startswith("holds")


def test_small_gradients_are_followed_as_far_as_large_ones():
    layer, x = orthogonal_rnn(0.5, T=100)
    single = fastrnn.RNN(3, 16, bias=False)
    single.parameters["weight_hh_l0"][...] = layer.parameters["weight_hh_l0"]
    dy = np.full((100, 2, 16), 1e-30, np.float32)
    flow = gradient_flow(single, x.astype("f"), dy=dy)
    assert flow.transmitted[0, 0] == pytest.approx(0.5**99, rel=1e-3)


def still(layer, gate, keep):
    """All weights 0, the bias of one gate such that it is `keep`."""
    H = layer.hidden_size
    for parameter in layer.parameters.values():
        parameter[...] = 0
    layer.parameters["bias_ih_l0"][gate * H : (gate + 1) * H] = 800 if keep == 1 else math.log(keep / (1 - keep))
    return layer


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.5])
def test_an_lstm_of_forget_gates_alone_keeps_what_they_keep(keep):
    layer = still(fastrnn.LSTM(3, 5, dtype="float64"), 1, keep)
    dc_n = np.random.default_rng(0).standard_normal((1, 2, 5))
    flow = gradient_flow(layer, np.zeros((40, 2, 3)), dstate=(None, dc_n))
    np.testing.assert_allclose(flow.cell[0], np.linalg.norm(dc_n) * keep**flow.lags, rtol=1e-12)
    np.testing.assert_allclose(flow.direct, flow.cell, rtol=1e-12)
    assert flow.decay_per_step[0] == pytest.approx(keep, rel=1e-12)
    if keep == 1:
        assert flow.half_life[0] == math.inf
        assert flow.verdict == ["holds: 1 of it at lag 39"]
    else:
        assert flow.half_life[0] == pytest.approx(math.log(2) / -math.log(keep), rel=1e-9)
    assert not flow.hidden.any()


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_gru_of_update_gates_alone_keeps_what_they_keep(reset_after):
    layer = still(fastrnn.GRU(3, 5, dtype="float64", reset_after=reset_after), 1, 0.95)
    flow = gradient_flow(layer, np.zeros((40, 2, 3)))
    np.testing.assert_allclose(flow.hidden[0], 0.95**flow.lags, rtol=1e-12)
    np.testing.assert_allclose(flow.direct, flow.hidden, rtol=1e-12)
    assert flow.verdict == ["holds: 0.14 of it at lag 39"]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_direct_path_is_the_product_of_the_memory_gates(kind):
    layer = make_layer(kind, 3, 5, bidirectional=True, dtype="float64")
    problem = random_problem(layer, 9, 2)
    flow = gradient_flow(layer, problem.x, as_state(problem.state), dy=problem.dy)
    for d in range(2):
        gate = fastrnn.diagnostics.gate_statistics(layer, problem.x, as_state(problem.state), direction=d).gates
        gate = gate["f" if kind == "lstm" else "z"]
        last = problem.dy[0 if d else -1, :, 5 * d : 5 * d + 5]
        if kind == "lstm":
            _, _, saved = layer.sequences[0].forward(problem.x, problem.state, save=True)
            last = layer.sequences[0].kernels().gradients_in_time(saved, problem.dy, (None, None))[2][d][0 if d else -1]
        products = [last * np.prod(gate[t + 1 :], axis=0) for t in range(9)]
        np.testing.assert_allclose(flow.direct[d], [np.linalg.norm(p) for p in products], rtol=1e-12)


def test_float32_that_underflows_vanishes_and_does_not_bend_the_fit():
    layer, x = orthogonal_rnn(0.5, T=200)
    single = fastrnn.RNN(3, 16, bias=False)
    single.parameters["weight_hh_l0"][...] = layer.parameters["weight_hh_l0"]
    flow = gradient_flow(single, x.astype("f"))
    assert flow.hidden[0, 0] == 0
    assert flow.transmitted[0, 0] == 0
    assert flow.decay_per_step[0] == pytest.approx(0.5, rel=1e-4)
    assert flow.verdict == ["vanishes by lag 10"]


def test_float32_that_overflows_explodes():
    layer, x = orthogonal_rnn(4.0, T=200)
    single = fastrnn.RNN(3, 16, bias=False)
    single.parameters["weight_hh_l0"][...] = layer.parameters["weight_hh_l0"]
    flow = gradient_flow(single, x.astype("f"))
    assert np.isinf(flow.transmitted[0, 0])
    assert flow.decay_per_step[0] == pytest.approx(4.0, rel=1e-4)
    assert flow.verdict == ["explodes by lag 5"]


def test_nan_is_said():
    layer, x = orthogonal_rnn(1.0, T=20)
    x[10, 0, 0] = np.nan
    flow = gradient_flow(layer, x)
    assert flow.verdict == ["NaN from lag 1"]


def test_a_loss_without_gradient_is_said():
    layer, x = orthogonal_rnn(1.0, T=4)
    flow = gradient_flow(layer, x, dy=np.zeros((4, 2, 16)))
    assert flow.verdict == ["nothing to carry: the loss has no gradient here"]
    assert np.isnan(flow.decay_per_step[0])
    one = gradient_flow(layer, x[:1])
    assert one.verdict == ["not seen: there is no earlier step"]
    early = np.zeros((4, 2, 16))
    early[1] = 1
    flow = gradient_flow(layer, x, dy=early)
    np.testing.assert_allclose(flow.transmitted[0], [1, 1, np.nan, np.nan], rtol=1e-12)


@every_kind
def test_a_torch_module_is_taken_by_its_weights(kind):
    if kind == "gru_reset_before":
        pytest.skip("PyTorch has no such cell")
    layer = make_layer(kind, 3, 6, num_layers=2, bidirectional=True, dtype="float64", batch_first=True)
    name, options = ("LSTM", {"proj_size": layer.proj_size}) if kind.startswith("lstm") else (kind[:3].upper(), {})
    if name == "RNN":
        options = {"nonlinearity": layer.nonlinearity}
    module = getattr(torch.nn, name)(3, 6, 2, bidirectional=True, batch_first=True, dtype=torch.float64, **options)
    module.load_state_dict({name: torch.tensor(value) for name, value in layer.parameters.items()})
    problem = random_problem(layer, 5, 2)
    x, state = np.ascontiguousarray(problem.x.transpose(1, 0, 2)), problem.state
    flow = gradient_flow(layer, x, as_state(state))
    assert_same_numbers(flow, gradient_flow(module, x, as_state(state)))
    tensors = tuple(torch.tensor(s) for s in state)
    assert_same_numbers(flow, gradient_flow(module, torch.tensor(x), as_state(tensors)))


# Its parts


def test_norms_do_not_under_or_overflow():
    values = np.array([1e-200, 1e-170, 0.0, 1.0, 1e200, np.inf, np.nan])[:, None, None] * np.ones((7, 2, 8))
    np.testing.assert_allclose(norms(values), 4 * values[:, 0, 0], rtol=1e-15)
    tiny = np.full((1, 1, 4), 1e-45, "f")
    assert norms(tiny)[0] == 2 * float(tiny[0, 0, 0])
    strided = np.random.default_rng(0).standard_normal((5, 3, 8))[::-1, :, ::2]
    np.testing.assert_allclose(norms(strided), np.linalg.norm(strided.reshape(5, -1), axis=1), rtol=1e-14)
    assert np.isnan(norms(np.array([[[np.nan, np.inf, 1e200]]])))


def test_path_norms():
    rng = np.random.default_rng(0)
    last, gates = rng.standard_normal((2, 3)), rng.uniform(size=(4, 2, 3))
    expected = [np.linalg.norm(last * gates[t + 1 :].prod(axis=0)) for t in range(4)]
    np.testing.assert_allclose(path_norms(last.astype("f"), gates.astype("f")), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [
        ([1, 0.5, 0.01, 0.0005], "vanishes by lag 3"),
        ([1, 0.0001, 0.5, 0.0005, 0.0001], "vanishes by lag 3"),
        ([1, 0], "vanishes by lag 1"),
        ([1, 10, 1001, 1], "explodes by lag 2"),
        ([1, math.inf], "explodes by lag 1"),
        ([1, 0.5, 0.2], "holds: 0.2 of it at lag 2"),
        ([1, 0.5, 0.05], "fades: 0.05 of it at lag 2"),
        ([1, 20], "grows: 20 of it at lag 1"),
        ([math.nan, 1, math.nan], "NaN from lag 2"),
        ([1], "not seen: there is no earlier step"),
        ([math.nan], "nothing to carry: the loss has no gradient here"),
    ],
)
def test_verdicts(curve, verdict):
    with np.errstate(divide="ignore"):
        assert decay.verdict(np.log(np.array(curve, float))) == verdict


def test_rates():
    assert decay.fitted(np.log(0.9) * np.arange(5)) == pytest.approx(0.9)
    assert decay.fitted(np.array([0, -1, -np.inf, -3, np.nan])) == pytest.approx(math.exp(-1))
    assert math.isnan(decay.fitted(np.array([0.0, np.nan])))
    assert decay.half_life(0.5) == 1
    assert decay.half_life(1.0) == decay.half_life(3.0) == math.inf
    assert decay.half_life(0.0) == 0
    assert math.isnan(decay.half_life(math.nan))


# What is refused

X = np.zeros((4, 2, 3), "f")
ERRORS = {
    "layer": (
        lambda: gradient_flow("lstm", X),
        TypeError,
        "layer: expected a fastrnn or torch.nn LSTM, GRU or RNN, got str",
    ),
    "cell": (lambda: gradient_flow(torch.nn.LSTMCell(3, 5), X), TypeError, "layer: expected a fastrnn or torch.nn"),
    "half": (lambda: gradient_flow(torch.nn.GRU(3, 5).half(), X), TypeError, "module: expected parameters of float32"),
    "x dtype": (lambda: gradient_flow(fastrnn.GRU(3, 5), X.astype("d")), TypeError, "x: expected float32, got float64"),
    "x width": (
        lambda: gradient_flow(fastrnn.GRU(4, 5), X),
        ValueError,
        "x: expected the last dimension to be input_size",
    ),
    "no steps": (
        lambda: gradient_flow(fastrnn.GRU(3, 5), X[:0]),
        ValueError,
        "x: expected at least one step and one row, got 0",
    ),
    "no rows": (
        lambda: gradient_flow(fastrnn.GRU(3, 5), X[:, :0]),
        ValueError,
        "x: expected at least one step and one row, got 4",
    ),
    "dy": (
        lambda: gradient_flow(fastrnn.GRU(3, 5), X, dy=X),
        ValueError,
        "dy: expected shape (4, 2, 5), got (4, 2, 3)",
    ),
    "dstate": (
        lambda: gradient_flow(fastrnn.LSTM(3, 5), X, dstate=X),
        TypeError,
        "dstate: expected a tuple (dh_n, dc_n)",
    ),
    "state": (
        lambda: gradient_flow(fastrnn.GRU(3, 5), X, X),
        ValueError,
        "h_0: expected shape (1, 2, 5), got (4, 2, 3)",
    ),
}


@pytest.mark.parametrize("wrong", ERRORS)
def test_wrong_arguments_are_refused(wrong):
    call, error, message = ERRORS[wrong]
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message)


def test_gradients_near_the_end_of_float64_are_followed():
    layer = fastrnn.GRU(3, 4, dtype="float64", seed=0)
    x = random_problem(layer, 5, 2).x
    flows = [gradient_flow(layer, x, dy=np.full((5, 2, 4), scale)) for scale in (1.0, 1e-300)]
    np.testing.assert_allclose(flows[1].transmitted, flows[0].transmitted, rtol=1e-6)
    lower = fastrnn.RNN(3, 4, 2, dtype="float64", seed=0)
    lower.parameters["weight_ih_l1"][...] *= 1e-300
    assert np.isfinite(gradient_flow(lower, x).transmitted).all()


@pytest.mark.parametrize("upstream", [np.inf, np.nan, 1e-38, 3e38])
def test_no_number_raises_or_warns(upstream):
    layer = fastrnn.LSTM(3, 4, seed=0)
    layer.parameters["bias_ih_l0"][4:8] = -200  # closed forget gates
    x, dy = np.zeros((5, 2, 3), np.float32), np.ones((5, 2, 4), np.float32)
    dy[2] = upstream
    with np.errstate(all="raise"):
        gradient_flow(layer, x, dy=dy)
        gate_statistics(layer, x)
