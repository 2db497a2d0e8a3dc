"""Bad input to the modules of fastrnn.torch: the very exceptions of torch.nn, and no change to the module."""

import warnings

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

pack = torch.nn.utils.rnn.pack_padded_sequence


def outcome(call):
    """The exception, as type and text, or None."""
    try:
        call()
    except Exception as error:
        return type(error), str(error)
    return None


def assert_same_error(pair_of_modules, call):
    """`call(module)` raises the same with both."""
    theirs, ours = pair_of_modules
    expected = outcome(lambda: call(theirs))
    assert expected is not None, "torch.nn takes this"
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    assert outcome(lambda: call(ours)) == expected
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    return expected


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


def as_hx(kind, h, c=None):
    return (h, h if c is None else c) if kind.startswith("lstm") else h


INPUTS = {
    "one dimension": zeros(4),
    "four dimensions": zeros(5, 3, 4, 1),
    "no dimension": torch.tensor(1.0),
    "too narrow": zeros(5, 3, 3),
    "too wide": zeros(5, 3, 5),
    "narrow, without batch": zeros(5, 3),
    "float64": zeros(5, 3, 4, dtype=torch.float64),
    "bfloat16": zeros(5, 3, 4, dtype=torch.bfloat16),
    "integers": zeros(5, 3, 4, dtype=torch.int64),
    "complex": zeros(5, 3, 4, dtype=torch.complex64),
    "another device": torch.zeros(5, 3, 4, device="meta"),
    "a list": [[0.0] * 4],
    "an array": zeros(5, 3, 4).numpy(),
    "None": None,
    "sparse": zeros(5, 3, 4).to_sparse(),
}


@quiet
@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_inputs(kind, given):
    assert_same_error(pair(kind, 4, 7), lambda module: module(given))


@quiet
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "x_shape"),
    [
        ((2, 3, 7), (5, 3, 4)),
        ((1, 2, 7), (5, 3, 4)),
        ((1, 3, 8), (5, 3, 4)),
        ((1, 7), (5, 3, 4)),
        ((1, 3, 7), (5, 4)),
        ((2, 7), (5, 4)),
        ((3, 7), (5, 3, 4)),
        ((1, 3, 7, 1), (5, 3, 4)),
    ],
    ids=str,
)
def test_shapes_of_states(kind, shape, x_shape):
    assert_same_error(pair(kind, 4, 7), lambda module: module(zeros(*x_shape), as_hx(kind, zeros(*shape))))


@quiet
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_states_of_a_stack_have_its_number_of_rows(kind, layers):
    modules = pair(kind, 4, 7, num_layers=layers, bidirectional=True, batch_first=True)
    width = 3 if kind == "lstmp" else 7
    for rows in (1, layers, 2 * layers + 1):
        if rows != 2 * layers:
            hx = as_hx(kind, zeros(rows, 3, width), zeros(rows, 3, 7))
            assert_same_error(modules, lambda module, hx=hx: module(zeros(3, 5, 4), hx))


@pytest.mark.parametrize(
    "hx",
    [
        zeros(1, 3, 7),
        (zeros(1, 3, 7),),
        (zeros(1, 3, 7), zeros(1, 3, 6)),
        (zeros(1, 3, 6), zeros(1, 3, 7)),
        (zeros(1, 3, 7), None),
        (zeros(1, 3, 7), zeros(1, 3, 7, dtype=torch.float64)),
        (zeros(1, 3, 7, dtype=torch.float64), zeros(1, 3, 7, dtype=torch.float64)),
        (zeros(1, 7), zeros(1, 3, 7)),
        5,
        (),
    ],
    ids=["one tensor", "one of two", "c", "h", "None", "dtype of c", "dtypes", "dimensions", "a number", "nothing"],
)
def test_states_of_an_lstm(hx):
    assert_same_error(pair("lstm", 4, 7), lambda module: module(zeros(5, 3, 4), hx))


@pytest.mark.parametrize("kind", ["gru", "rnn_tanh"])
@pytest.mark.parametrize(
    "hx", [(zeros(1, 3, 7),), (), zeros(1, 3, 7, dtype=torch.float64), 5], ids=["tuple", "nothing", "dtype", "5"]
)
def test_states_of_a_gru_or_rnn(kind, hx):
    assert_same_error(pair(kind, 4, 7), lambda module: module(zeros(5, 3, 4), hx))


@quiet
@pytest.mark.parametrize("sorted_lengths", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_with_wrong_states(kind, sorted_lengths):
    modules = pair(kind, 4, 7)
    lengths = torch.tensor([5, 3, 2] if sorted_lengths else [2, 5, 3])
    packed = pack(zeros(5, 3, 4), lengths, enforce_sorted=sorted_lengths)
    width = 3 if kind == "lstmp" else 7
    wrong = [(2, 3, width), (1, 2, width), (1, 3, width + 1), (1, width)]
    if sorted_lengths:  # unsorted, both pick the rows of the order from more
        wrong.append((1, 4, width))
    for shape in wrong:
        hx = as_hx(kind, zeros(*shape), zeros(*shape[:-1], 7))
        assert_same_error(modules, lambda module, hx=hx: module(packed, hx))
    for hx in (5, ()):
        assert_same_error(modules, lambda module, hx=hx: module(packed, hx))
    narrow = pack(zeros(5, 3, 3), lengths, enforce_sorted=sorted_lengths)
    assert_same_error(modules, lambda module: module(narrow))


def test_packed_sequences_take_the_rows_that_their_order_names():
    theirs, ours = pair("lstm", 4, 7, dtype=torch.float64)
    packed = pack(normal(5, 3, 4, grad=False), torch.tensor([2, 5, 3]), enforce_sorted=False)
    state = (normal(1, 4, 7), normal(1, 4, 7, seed=5))
    assert_same(everything(ours, packed, state, inputs=state), everything(theirs, packed, state, inputs=state))


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_packed_sequences_of_another_dtype(kind):
    packed = pack(zeros(5, 3, 4, dtype=torch.float64), torch.tensor([5, 3, 2]))
    assert_same_error(pair(kind, 4, 7), lambda module: module(packed))


BATCH_SIZES = {
    "more rows than there are": torch.tensor([5, 4]),
    "many more": torch.tensor([8] * 40),
    "more than memory has": torch.tensor([2**62, 2**62]),
    "a sum that overflows": torch.tensor([2**62] * 4 + [8]),
    "growing": torch.tensor([3, 5]),
    "none at first": torch.tensor([0, 8]),
    "negative": torch.tensor([9, -1]),
    "no steps": torch.tensor([], dtype=torch.int64),
    "int32": torch.tensor([5, 3], dtype=torch.int32),
    "floats": torch.tensor([5.0, 3.0]),
    "two dimensions": torch.tensor([[5, 3]]),
}


@pytest.mark.parametrize("sizes", BATCH_SIZES.values(), ids=BATCH_SIZES)
def test_packed_sequences_whose_parts_do_not_fit(sizes):
    packed = torch.nn.utils.rnn.PackedSequence(zeros(8, 4), sizes)
    assert_same_error(pair("gru", 4, 7), lambda module: module(packed))


@pytest.mark.parametrize("sizes", [[3, 2], [5, 3, 0], [8, 0]])
def test_packed_sequences_that_torch_nn_takes_though_their_parts_do_not_fit(sizes):
    theirs, ours = pair("gru", 4, 7, dtype=torch.float64)
    packed = torch.nn.utils.rnn.PackedSequence(normal(8, 4, grad=False), torch.tensor(sizes))
    assert_same(everything(ours, packed), everything(theirs, packed))


CELL_ARGUMENTS = {
    "three dimensions": (zeros(2, 3, 4), None),
    "no dimension": (torch.tensor(1.0), None),
    "narrow": (zeros(3, 3), None),
    "narrow, without batch": (zeros(3), None),
    "dtype": (zeros(3, 4, dtype=torch.float64), None),
    "integers": (zeros(3, 4, dtype=torch.int64), None),
    "None": (None, None),
    "batch of h": (zeros(3, 4), zeros(2, 7)),
    "width of h": (zeros(3, 4), zeros(3, 6)),
    "dimensions of h": (zeros(3, 4), zeros(1, 3, 7)),
    "dtype of h": (zeros(3, 4), zeros(3, 7, dtype=torch.float64)),
    "h with a batch": (zeros(4), zeros(2, 7)),
    "a number": (zeros(3, 4), 5),
    "no h": (zeros(3, 4), ()),
}


@pytest.mark.parametrize(("x", "h"), CELL_ARGUMENTS.values(), ids=CELL_ARGUMENTS)
@pytest.mark.parametrize("kind", CELLS)
def test_arguments_of_cells(kind, x, h):
    hx = as_hx(kind, h) if isinstance(h, torch.Tensor) else h
    assert_same_error(pair(kind, 4, 7, table=CELLS), lambda cell: cell(x, hx))


@pytest.mark.parametrize("hx", [zeros(3, 7), (zeros(3, 7),), (zeros(3, 7), zeros(3, 6))], ids=["h", "(h,)", "width"])
def test_states_of_an_lstm_cell(hx):
    assert_same_error(pair("lstm", 4, 7, table=CELLS), lambda cell: cell(zeros(3, 4), hx))


def test_the_nonlinearity_of_a_cell():
    modules = pair("rnn_tanh", 4, 7, table=CELLS)
    for cell in modules:
        cell.nonlinearity = "gelu"
    assert_same_error(modules, lambda cell: cell(zeros(3, 4)))


CONSTRUCTIONS = {
    "input_size": ("LSTM", (0, 7), {}),
    "hidden_size": ("GRU", (4, 0), {}),
    "hidden_size float": ("GRU", (4, 7.0), {}),
    "num_layers": ("LSTM", (4, 7), {"num_layers": 0}),
    "dropout": ("LSTM", (4, 7), {"dropout": 1.5}),
    "dropout bool": ("LSTM", (4, 7), {"dropout": True}),
    "proj_size": ("LSTM", (4, 7), {"proj_size": 7}),
    "proj_size negative": ("LSTM", (4, 7), {"proj_size": -1}),
    "proj_size of a GRU": ("GRU", (4, 7), {"proj_size": 3}),
    "nonlinearity": ("RNN", (4, 7), {"nonlinearity": "gelu"}),
    "an unknown option": ("RNN", (4, 7), {"batchfirst": True}),
    "an unknown option of a cell": ("GRUCell", (4, 7), {"nonlinearity": "tanh"}),
    "no size": ("LSTM", (), {}),
    "no hidden_size": ("LSTMCell", (4,), {}),
}


@pytest.mark.parametrize(("name", "sizes", "options"), CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_construction(name, sizes, options):
    expected = outcome(lambda: getattr(torch.nn, name)(*sizes, **options))
    assert expected is not None
    assert outcome(lambda: getattr(fast, name)(*sizes, **options)) == expected


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_the_warning_of_dropout_in_one_layer(name):
    texts = []
    for module in (torch.nn, fast):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            getattr(module, name)(4, 7, dropout=0.5)
        texts.append([(w.category, str(w.message)) for w in caught])
    assert texts[1] == texts[0]
    assert "dropout option adds dropout after all but last" in texts[1][0][1]


def test_missing_and_surplus_weights():
    state = torch.nn.LSTM(4, 7).state_dict()
    state["weight_hh_l1"] = state.pop("weight_hh_l0")
    theirs, ours = pair("lstm", 4, 7)
    expected = outcome(lambda: theirs.load_state_dict(state))
    assert expected is not None
    assert outcome(lambda: ours.load_state_dict(state)) == expected


EMPTY = {"no steps": (0, 3, 4), "no rows": (5, 0, 4), "no steps, without batch": (0, 4), "nothing": (0, 0, 4)}


@quiet
@pytest.mark.parametrize("shape", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("kind", KINDS)
def test_empty_input_is_as_in_torch_nn(kind, shape):
    """An error, or the same empty results."""
    theirs, ours = pair(kind, 4, 7, num_layers=2)
    x = zeros(*shape)
    assert outcome(lambda: ours(x)) == outcome(lambda: theirs(x))
    if outcome(lambda: theirs(x)) is None:
        for result, expected in zip(tensors_of(ours(x)), tensors_of(theirs(x)), strict=True):
            assert result.shape == expected.shape
            assert torch.equal(result, expected)


@pytest.mark.parametrize("kind", CELLS)
def test_an_empty_batch_of_a_cell(kind):
    theirs, ours = pair(kind, 4, 7, table=CELLS)
    x = zeros(0, 4)
    assert outcome(lambda: ours(x)) == outcome(lambda: theirs(x))
    for result, expected in zip(tensors_of(ours(x)), tensors_of(theirs(x)), strict=True):
        assert result.shape == expected.shape == (0, 7)


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_after_an_error_the_module_computes_as_before(kind):
    _, ours = pair(kind, 4, 7, num_layers=2)
    x, state = zeros(5, 3, 4), initial_state(ours, 3, dtype=torch.float32)
    expected = tensors_of(ours(x, state))
    assert outcome(lambda: ours(zeros(5, 2, 4), state)) is not None
    assert all(map(torch.equal, tensors_of(ours(x, state)), expected))


NOT_STRIDED = {
    "sparse": torch.Tensor.to_sparse,
    "compressed": torch.Tensor.to_sparse_csr,
    "mkldnn": torch.Tensor.to_mkldnn,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("parameter", [False, True], ids=["tensor", "parameter"])
@pytest.mark.parametrize("convert", NOT_STRIDED.values(), ids=NOT_STRIDED)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_weights_that_are_not_strided(kind, convert, parameter):
    """torch.nn takes some."""
    theirs, ours = pair(kind, 4, 7)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    for name in ("weight_hh_l0", "weight_ih_l0"):
        ours(x)  # so that the kernels know its strided weights
        found = []
        for module in (theirs, ours):
            weight = convert(getattr(module, name).detach())
            if parameter:
                weight = torch.nn.Parameter(weight)
            try:
                found.append(torch.func.functional_call(module, {name: weight}, (x,))[0])
            except Exception as error:
                found.append((type(error), str(error)))
        if isinstance(found[0], torch.Tensor):
            assert torch.equal(*found)
        else:
            assert found[1] == found[0]


WRONG_WEIGHTS = {  # of layers with 4 inputs and 7 hidden units
    "width": ("weight_ih", lambda w: torch.zeros(len(w), 40)),
    "narrow": ("weight_ih", lambda w: torch.zeros(len(w), 1)),
    "hidden": ("weight_hh", lambda w: torch.zeros(len(w), 5)),
    "gates": ("weight_hh", lambda w: torch.zeros(2 * len(w), 7)),
    "bias": ("bias_hh", lambda w: torch.zeros(len(w) + 1)),
    "no bias": ("bias_hh", lambda w: None),
}


@quiet
@pytest.mark.parametrize("after_a_call", [False, True])
@pytest.mark.parametrize(("name", "change"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_do_not_belong_together(kind, name, change, after_a_call):
    modules = pair(kind, 4, 7, dtype=torch.float64)
    x = normal(5, 3, 4)
    for module in modules:
        if after_a_call:
            module(x)
        weight = change(module.weight_ih_l0)
        setattr(module, f"{name}_l0", None if weight is None else torch.nn.Parameter(weight.double()))
    before = {n: p.clone() for n, p in modules[1].named_parameters()}
    expected = outcome(lambda: modules[0](x))
    assert expected is not None
    assert outcome(lambda: modules[1](x)) == expected
    assert all(torch.equal(p, before[n]) for n, p in modules[1].named_parameters())


@pytest.mark.parametrize("kind", ["gru", "rnn_tanh"])
def test_weights_of_a_stack_that_do_not_belong_together(kind):
    modules = pair(kind, 4, 7, num_layers=2, bidirectional=True)
    for module in modules:
        module.weight_ih_l1 = torch.nn.Parameter(torch.zeros(len(module.weight_ih_l0), 7))
    assert_same_error(modules, lambda module: module(zeros(5, 3, 4)))


@pytest.mark.parametrize(("name", "change"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
@pytest.mark.parametrize("kind", CELLS)
def test_weights_of_a_cell_that_do_not_belong_together(kind, name, change):
    modules = pair(kind, 4, 7, table=CELLS)
    for module in modules:
        weight = change(module.weight_ih)
        setattr(module, name, None if weight is None else torch.nn.Parameter(weight))
    expected = outcome(lambda: modules[0](zeros(3, 4)))
    assert outcome(lambda: modules[1](zeros(3, 4))) == expected
    if expected is None:  # a bias that is not there counts as zeros
        assert_same(everything(modules[1], zeros(3, 4)), everything(modules[0], zeros(3, 4)))


@pytest.mark.parametrize(("attribute", "value"), [("hidden_size", 5), ("input_size", 3), ("bidirectional", True)])
def test_sizes_that_are_not_those_of_the_weights(attribute, value):
    modules = pair("gru", 4, 7)
    for module in modules:
        module(zeros(5, 3, 4))
        setattr(module, attribute, value)
    h = zeros(1, 3, 5)
    assert_same_error(modules, lambda module: module(zeros(5, 3, module.input_size), h))


def test_functional_calls_with_weights_that_do_not_fit():
    weights = {"weight_ih_l0": zeros(21, 5)}
    assert_same_error(pair("gru", 4, 7), lambda module: torch.func.functional_call(module, weights, (zeros(5, 3, 4),)))


def test_a_weight_that_was_deleted():
    theirs, ours = pair("gru", 4, 7)
    for module in (theirs, ours):
        del module.bias_hh_l0
    x = normal(5, 3, 4, dtype=torch.float32)
    torch.testing.assert_close(ours(x), theirs(x))  # torch.nn remembers it


def test_an_upstream_gradient_of_another_shape():
    for module in pair("gru", 4, 7):
        y, _ = module(zeros(5, 3, 4))
        with pytest.raises(RuntimeError, match="Mismatch in shape"):
            torch.autograd.backward(y, zeros(5, 3, 8))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRUCell"])
def test_nested_tensors_get_pytorchs_error(name):
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
    errors = []
    for library in (torch.nn, fast):
        with pytest.raises(Exception, match=r".") as raised:  # whatever PyTorch's is
            getattr(library, name)(4, 6)(x)
        errors.append((type(raised.value), str(raised.value)))
    assert errors[0] == errors[1]
