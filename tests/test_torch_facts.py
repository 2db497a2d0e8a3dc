"""What PyTorch's own tests hold of torch.nn's recurrent modules, held of ours: facts with values known beforehand."""

import copy

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

utils = torch.nn.utils


def ones_rnn(**options):
    """An RNN with relu and all weights 1, without biases: every number in it is a product of widths."""
    module = fast.RNN(10, 1000, nonlinearity="relu", bias=False, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1)
    return module


# States


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_no_initial_state_is_zeros(kind):
    _, module = pair(kind, 4, 7, num_layers=2, bidirectional=True)
    x = normal(5, 3, 4, dtype=torch.float32)
    state = initial_state(module, 3, dtype=torch.float32, grad=False)
    zeros = tuple(map(torch.zeros_like, state)) if isinstance(state, tuple) else torch.zeros_like(state)
    assert all(map(torch.equal, tensors_of(module(x)), tensors_of(module(x, zeros))))


@pytest.mark.parametrize("kind", CELLS)
def test_no_initial_state_of_a_cell_is_zeros(kind):
    _, cell = pair(kind, 4, 7, table=CELLS)
    x, zeros = normal(3, 4, dtype=torch.float32), torch.zeros(3, 7)
    hx = (zeros, zeros) if kind == "lstm" else zeros
    assert all(map(torch.equal, tensors_of(cell(x)), tensors_of(cell(x, hx))))


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_in_two_parts_is_the_sequence(kind):
    _, module = pair(kind, 4, 7, num_layers=2, dtype=torch.float64)
    x = normal(6, 3, 4, grad=False)
    y, final = module(x)
    first, between = module(x[:2])
    second, last = module(x[2:], between)
    torch.testing.assert_close(torch.cat([first, second]), y)
    torch.testing.assert_close(last, final)


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_final_states_are_the_ends_of_the_output(kind):
    _, module = pair(kind, 4, 7, num_layers=2, bidirectional=True)
    y, final = module(normal(5, 3, 4, dtype=torch.float32))
    h_n, width = tensors_of(final)[0], 3 if kind == "lstmp" else 7
    assert torch.equal(h_n[2], y[-1, :, :width])
    assert torch.equal(h_n[3], y[0, :, width:])


@pytest.mark.parametrize("form", [tuple, list])
def test_states_of_an_lstm_may_be_a_tuple_or_a_list(form):
    theirs, ours = pair("lstm", 4, 7, dtype=torch.float64)
    x, state = normal(5, 3, 4), form(initial_state(ours, 3))
    assert_same(everything(ours, x, state, inputs=[x, *state]), everything(theirs, x, state, inputs=[x, *state]))
    assert type(ours(x, state)[1]) is type(theirs(x, state)[1]) is tuple


# Shapes


@quiet
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_of_projections(layers, bidirectional):
    theirs, ours = pair("lstmp", 4, 7, num_layers=layers, bidirectional=bidirectional)
    directions = 2 if bidirectional else 1
    y, (h_n, c_n) = ours(torch.zeros(5, 2, 4))
    assert y.shape == (5, 2, 3 * directions)
    assert h_n.shape == (layers * directions, 2, 3)
    assert c_n.shape == (layers * directions, 2, 7)
    shapes = {name: p.shape for name, p in ours.named_parameters()}
    assert shapes == {name: p.shape for name, p in theirs.named_parameters()}
    assert shapes["weight_hr_l0"] == (3, 7)
    assert shapes["weight_hh_l0"] == (28, 3)
    if layers > 1:
        assert shapes["weight_ih_l1"] == (28, 3 * directions)


def test_all_weights_are_those_of_torch_nn():
    theirs, ours = pair("lstm", 4, 7, num_layers=2, bidirectional=True)
    for own, wanted in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert all(map(torch.equal, own, wanted))
    assert len(ours.all_weights) == 4


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_an_empty_batch_has_gradients(name):
    module = getattr(fast, name)(4, 7)
    y, _ = module(torch.ones(5, 0, 4))
    assert y.shape == (5, 0, 7)
    y.sum().backward()
    assert not any(p.grad.any() for p in module.parameters())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_without_inputs(kind):
    theirs, ours = pair(kind, 0, 7, table=CELLS, dtype=torch.float64)
    x, states = normal(3, 0), (normal(3, 7), normal(3, 7, seed=4))
    hx = states if kind == "lstm" else states[0]
    inputs = tensors_of(hx)
    assert_same(everything(ours, x, hx, inputs=inputs), everything(theirs, x, hx, inputs=inputs))


# Dropout and nonlinearity, with weights of one


@pytest.mark.parametrize("p", [0.0, 0.276, 0.731, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_dropout_between_layers(p, training):
    """The second layer sums what is left of the first, each number 10, scaled by 1 / (1 - p)."""
    module = ones_rnn(num_layers=2, dropout=p).train(training)
    y, h_n = module(torch.ones(1, 1, 10), torch.zeros(2, 1, 1000))
    assert y.min() == y.max()
    value = y[0, 0, 0].item()
    assert torch.equal(h_n[0], torch.full((1, 1000), 10.0))
    assert torch.equal(h_n[1], y[0])
    if not training or p == 0:
        assert value == 10000
    elif p == 1:
        assert value == 0
    else:
        left = value * (1 - p) / 10  # how many were kept
        assert left == pytest.approx(round(left), abs=1e-2)
        assert abs(left - 1000 * (1 - p)) < 100  # more than six standard deviations
        assert value == pytest.approx(10000, rel=0.4)


def test_dropout_may_change_between_calls():
    module, x = ones_rnn(num_layers=2, dropout=0.0), torch.ones(1, 1, 10)
    assert module(x)[0].unique().tolist() == [10000]
    module.dropout = 1.0
    assert module(x)[0].unique().tolist() == [0]
    module.dropout = 0.0
    assert module(x)[0].unique().tolist() == [10000]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_dropout_draws_the_masks_of_torch_nn_and_moves_the_generator_as_far(kind):
    theirs, ours = pair(kind, 4, 7, num_layers=3, dropout=0.5, dtype=torch.float64)
    x, after = normal(5, 3, 4, grad=False), []
    for module in (theirs, ours):
        torch.manual_seed(7)
        y, _ = module(x)
        after.append((y, torch.rand(3)))
    torch.testing.assert_close(after[1][0], after[0][0])
    assert torch.equal(after[1][1], after[0][1])


@pytest.mark.parametrize(("nonlinearity", "value"), [("relu", 10.0), ("tanh", 1.0)])
def test_nonlinearity(nonlinearity, value):
    module = fast.RNN(10, 1, bias=False, nonlinearity=nonlinearity)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1)
    assert module(torch.ones(1, 1, 10))[0].item() == pytest.approx(value)
    assert module.nonlinearity == nonlinearity


# Packed sequences


@quiet
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_are_the_sequences_one_by_one(kind, bidirectional):
    _, module = pair(kind, 4, 7, num_layers=2, bidirectional=bidirectional, dtype=torch.float64)
    sequences = [normal(length, 4, seed=length, grad=False) for length in (2, 7, 1, 4)]
    state = initial_state(module, 4, grad=False)
    y, final = module(utils.rnn.pack_sequence(sequences, enforce_sorted=False), state)
    for k, (own, x) in enumerate(zip(utils.rnn.unpack_sequence(y), sequences, strict=True)):
        alone = tuple(s[:, k] for s in state) if isinstance(state, tuple) else state[:, k]
        expected, last = module(x, alone)
        torch.testing.assert_close(own, expected)
        for all_final, wanted in zip(tensors_of(final), tensors_of(last), strict=True):
            torch.testing.assert_close(all_final[:, k], wanted)


def test_packed_sequences_of_equal_lengths_are_the_batch():
    _, module = pair("gru", 4, 7, bidirectional=True, dtype=torch.float64)
    x = normal(5, 3, 4, grad=False)
    y, h_n = module(utils.rnn.pack_padded_sequence(x, torch.full((3,), 5)))
    expected, wanted = module(x)
    torch.testing.assert_close(utils.rnn.pad_packed_sequence(y)[0], expected)
    torch.testing.assert_close(h_n, wanted)


def test_packing_with_batch_first_does_not_need_the_modules():
    """A PackedSequence has no batch dimension to be first."""
    theirs, ours = pair("lstm", 4, 7, batch_first=True, dtype=torch.float64)
    x = normal(3, 5, 4)

    def packed():
        return utils.rnn.pack_padded_sequence(x, torch.tensor([5, 2, 2]), batch_first=True)

    assert_same(everything(ours, packed(), inputs=[x]), everything(theirs, packed(), inputs=[x]))
    y, lengths = utils.rnn.pad_packed_sequence(ours(packed())[0], batch_first=True, total_length=8)
    assert y.shape == (3, 8, 7)
    assert lengths.tolist() == [5, 2, 2]
    assert not y[1, 2:].any()


def test_padding_never_matters():
    _, module = pair("lstm", 4, 7, bidirectional=True)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    lengths = torch.tensor([3, 5, 1])
    results = []
    for filling in (0.0, float("nan")):
        for row, length in enumerate(lengths):
            x[length:, row] = filling
        packed = utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        results.append(everything(module, packed))
    assert_same(results[1], results[0], tolerance=1e-30)


# Modules and their weights


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_pruning(kind):
    import torch.nn.utils.prune as prune

    found = []
    for module in pair(kind, 4, 7, dtype=torch.float64):
        prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)
        x = normal(5, 3, 4)
        masked = everything(module, x, inputs=[x])
        with torch.no_grad():
            module.weight_hh_l0_orig.mul_(2)
        changed = everything(module, x, inputs=[x])
        prune.remove(module, "weight_hh_l0")
        found.append([masked, changed, everything(module, x, inputs=[x])])
    for results, expected in zip(found[1], found[0], strict=True):
        assert_same(results, expected)
    assert not torch.equal(found[1][0]["output 0"], found[1][1]["output 0"])


def test_parameters_that_are_views_of_one_vector():
    theirs, ours = pair("lstm", 4, 7, num_layers=2, dtype=torch.float64)
    x = normal(5, 3, 4)
    ours(x)
    vector = utils.parameters_to_vector(theirs.parameters()).detach() * 1.5
    for module in (theirs, ours):
        utils.vector_to_parameters(vector, module.parameters())
    assert_same(everything(ours, x, inputs=[x]), everything(theirs, x, inputs=[x]))
    vector.mul_(2)  # of all at once, in the one memory
    assert_same(everything(ours, x, inputs=[x]), everything(theirs, x, inputs=[x]))


def test_conversions_that_swap_tensors():
    theirs, ours = pair("gru", 4, 7)
    x = normal(5, 3, 4)
    ours(x.float())
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        theirs.double(), ours.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert_same(everything(ours, x, inputs=[x]), everything(theirs, x, inputs=[x]))


def test_a_copy_between_forward_and_backward():
    _, module = pair("gru", 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32)
    y, _ = module(x)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.weight_hh_l0.zero_()
    twin(x)
    inputs = [x, *module.parameters()]
    expected = torch.autograd.grad(module(x)[0].sin().sum(), inputs)
    assert all(map(torch.equal, torch.autograd.grad(y.sin().sum(), inputs), expected))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_ensembles_are_mapped_over_their_weights():
    """torch.func.vmap over stacked cells is PyTorch's own, with the results of each; of layers, it has none."""
    models = [pair("gru", 4, 7, table=CELLS, dtype=torch.float64)[1] for _ in range(3)]
    for k, model in enumerate(models):
        with torch.no_grad():
            model.weight_hh.mul_(k + 1)
    stacked, _ = torch.func.stack_module_state(models)
    x = normal(2, 4, grad=False)
    h = torch.func.vmap(lambda weights: torch.func.functional_call(models[0], weights, (x,)))(stacked)
    for own, model in zip(h, models, strict=True):
        torch.testing.assert_close(own, model(x))


def test_training_lowers_the_loss():
    """The sum of a sequence's signs, from its last state."""
    torch.manual_seed(0)
    module, head = fast.LSTM(1, 16), torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        x = torch.randn(8, 32, 1)
        loss = (head(module(x)[1][0][0]) - x.sign().sum(0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
