"""accelerate and restore: which modules of a model are swapped, what stays as it was, and what the report says."""

import copy
import pickle

import pytest
from torch_pairs import assert_same, everything, fast, normal, tensors_of, torch

from fastrnn.validation import full_name

nn = torch.nn


class Tagger(nn.Module):
    """A small model of its own: a recurrent layer among others, a nested block, a cell."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 4)
        self.encoder = nn.GRU(4, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.blocks = nn.ModuleList([nn.ModuleDict({"rnn": nn.LSTM(12, 5, batch_first=True)}), nn.Linear(5, 5)])
        self.cell = nn.LSTMCell(5, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens):
        y, _ = self.encoder(self.embedding(tokens))
        y, _ = self.blocks[0]["rnn"](y)
        state = None
        for y_t in self.blocks[1](y).unbind(1):
            state = self.cell(y_t, state)
        return self.head(state[0])


TOKENS = torch.arange(15).reshape(3, 5) % 11


def test_the_report_names_what_was_swapped():
    model = Tagger()
    report = fast.accelerate(model)
    assert list(report.swapped) == ["encoder", "blocks.0.rnn", "cell"]
    assert report.swapped["encoder"] is model.encoder
    assert report.left == {}
    assert str(report) == (
        "swapped encoder: GRU(4, 6, num_layers=2, batch_first=True, bidirectional=True)\n"
        "swapped blocks.0.rnn: LSTM(12, 5, batch_first=True)\n"
        "swapped cell: LSTMCell(5, 3)"
    )


def test_the_swapped_model_computes_the_same():
    model = Tagger().double()
    expected = everything(model, TOKENS)
    modules = dict(model.named_modules())
    tensors = [*model.named_parameters(), *model.named_buffers()]
    fast.accelerate(model)
    assert all(module is modules[name] for name, module in model.named_modules())
    assert all(model.get_parameter(name) is tensor for name, tensor in tensors)
    assert_same(everything(model, TOKENS), expected)
    fast.restore(model)
    assert_same(everything(model, TOKENS), expected, tolerance=1e-30)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_the_model_itself_may_be_the_layer(name):
    model = getattr(nn, name)(4, 7)
    alias = model
    report = fast.accelerate(model)
    assert type(alias) is getattr(fast, name)
    assert report.swapped == {"": alias}
    assert str(report) == f"swapped the model itself: {name}(4, 7)"
    assert fast.restore(model).swapped == {"": alias}
    assert type(alias) is getattr(nn, name)


def test_a_second_time_changes_nothing():
    model = Tagger()
    fast.accelerate(model)
    again = fast.accelerate(model)
    assert again.swapped == {}
    assert again.left["encoder"] == "is fastrnn.torch.recurrent.GRU already"
    assert str(again).splitlines()[0] == "left    encoder: is fastrnn.torch.recurrent.GRU already"
    assert type(model.encoder) is fast.GRU


def test_restore_says_what_it_left():
    model = nn.Sequential(nn.LSTM(4, 7), fast.GRU(7, 7))
    report = fast.restore(model)
    assert report.swapped == {"1": model[1]}
    assert report.left == {"0": "is torch.nn.modules.rnn.LSTM already"}
    assert type(model[1]) is nn.GRU


@pytest.mark.parametrize("function", [fast.accelerate, fast.restore])
def test_subclasses_of_ours_stay(function):
    class Mine(fast.LSTM):
        pass

    model = nn.Sequential(Mine(4, 7))
    report = function(model)
    assert report.swapped == {}
    own = f"{__name__}.{Mine.__qualname__}"
    assert report.left == {"0": f"is {own}, a subclass of fastrnn.torch.recurrent.LSTM, and stays one"}
    assert type(model[0]) is Mine


def test_a_model_without_recurrent_modules():
    assert str(fast.accelerate(nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 3)))) == "no recurrent module found"


def test_a_shared_module_is_swapped_in_all_its_places():
    shared = nn.GRU(4, 4)
    model = nn.ModuleDict({"first": shared, "second": shared})
    report = fast.accelerate(model)
    assert report.swapped == {"first": shared}
    assert type(model["second"]) is fast.GRU


def test_shared_weights_stay_shared():
    model = nn.ModuleList([nn.GRU(4, 4), nn.GRU(4, 4)])
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    x = normal(5, 3, 4, dtype=torch.float32)

    def run():
        model.zero_grad()
        model[1](model[0](x)[0])[0].sin().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    expected = run()
    fast.accelerate(model)
    assert model[1].weight_hh_l0 is model[0].weight_hh_l0
    assert_same(run(), expected)


def test_hooks_and_attributes_are_kept():
    model, seen = nn.LSTM(4, 7), []
    model.register_forward_pre_hook(lambda module, args: seen.append("before"))
    model.register_forward_hook(lambda module, args, outputs: seen.append("after"))
    model.register_full_backward_hook(lambda module, dx, dy: seen.append("backward"))
    model.weight_ih_l0.register_hook(lambda grad: seen.append("weight"))
    model.register_state_dict_post_hook(lambda module, state, prefix, metadata: seen.append("saved"))
    model.register_buffer("scale", torch.ones(2))
    model.note = "mine"
    model.eval()
    fast.accelerate(model)
    model(normal(5, 3, 4, dtype=torch.float32))[0].sum().backward()
    model.state_dict()
    assert sorted(seen) == ["after", "backward", "before", "saved", "weight"]
    assert seen[:2] == ["before", "after"]
    assert (model.note, model.training, list(model.scale)) == ("mine", False, [1, 1])


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_an_optimizer_keeps_working(optimizer):
    """Swapped in the middle of training: the losses go on as they would have."""
    losses = []
    for swap in (False, True):
        model = Tagger().double()
        steps = optimizer(model.parameters(), lr=0.05)
        losses.append([])
        for step in range(8):
            if swap and step == 4:
                fast.accelerate(model)
            steps.zero_grad()
            loss = nn.functional.cross_entropy(model(TOKENS), torch.tensor([0, 1, 1]))
            loss.backward()
            steps.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[1][-1] < losses[1][0]


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_modules(norm):
    torch.manual_seed(0)
    model = nn.GRU(4, 4, dtype=torch.float64)
    getattr(nn.utils.parametrizations, norm)(model, "weight_hh_l0")
    model.eval()
    x = normal(5, 3, 4)
    expected = everything(model, x, inputs=[x])
    report = fast.accelerate(model)
    assert report.swapped == {"": model}
    assert isinstance(model, fast.GRU)
    assert_same(everything(model, x, inputs=[x]), expected)
    assert nn.utils.parametrize.is_parametrized(model, "weight_hh_l0")
    assert fast.restore(model).swapped == {"": model}
    assert not isinstance(model, fast.GRU)
    assert_same(everything(model, x, inputs=[x]), expected)
    fast.accelerate(model)
    nn.utils.parametrize.remove_parametrizations(model, "weight_hh_l0")
    assert type(model) is fast.GRU
    torch.testing.assert_close(model(x)[0], expected["output 0"])


class Custom(nn.LSTM):
    def forward(self, input, hx=None):
        y, state = super().forward(input, hx)
        return 2 * y, state


class GRU(nn.Module):
    """Somebody else's, of that name."""


def replaced(module):
    module.forward = lambda x: (x, None)
    return module


def mixed(module):
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.double())
    return module


LEFT = {
    "a subclass": (lambda: Custom(4, 7), "is {module}.Custom, a subclass that may compute something else"),
    "a subclass of a cell": (
        lambda: type("Mine", (nn.GRUCell,), {"__module__": "m"})(4, 7),
        "is m.Mine, a subclass that may compute something else",
    ),
    "another's": (GRU, "is {module}.GRU, none of torch.nn's"),
    "bfloat16": (
        lambda: nn.LSTM(4, 7, dtype=torch.bfloat16),
        "its weights are torch.bfloat16, and the kernels are for torch.float32 and torch.float64",
    ),
    "float16": (
        lambda: nn.GRUCell(4, 7).half(),
        "its weights are torch.float16, and the kernels are for torch.float32 and torch.float64",
    ),
    "meta": (lambda: nn.RNN(4, 7, device="meta"), "its weights are on meta, and the kernels are for the CPU"),
    "mixed": (lambda: mixed(nn.GRU(4, 7)), "its weights have different dtypes: torch.float32, torch.float64"),
    "a replaced forward": (lambda: replaced(nn.GRU(4, 7)), "its forward was replaced"),
}


@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=LEFT)
def test_what_is_left_is_as_it_was_and_named(make, reason):
    module = make()
    given = type(module), dict(vars(module))
    model = nn.ModuleDict({"theirs": module, "good": nn.GRU(4, 7)})
    report = fast.accelerate(model)
    assert report.left == {"theirs": reason.format(module=__name__)}
    assert report.swapped == {"good": model["good"]}
    assert f"left    theirs: {report.left['theirs']}" in str(report).splitlines()
    assert (type(module), vars(module)) == given


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_left():
    scripted = torch.jit.script(nn.LSTM(4, 7))
    report = fast.accelerate(nn.ModuleDict({"scripted": scripted, "linear": torch.jit.script(nn.Linear(2, 2))}))
    assert report.swapped == {}
    assert report.left == {"scripted": "is TorchScript, compiled from LSTM"}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_modules_are_left():
    quantised = torch.ao.nn.quantized.dynamic.LSTM(4, 7)
    report = fast.accelerate(nn.Sequential(quantised))
    assert report.swapped == {}
    assert report.left["0"].endswith("LSTM, none of torch.nn's")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore::DeprecationWarning")
def test_restored_modules_can_be_quantised():
    model = nn.Sequential(nn.LSTM(4, 7))
    fast.accelerate(model)
    quantise = torch.ao.quantization.quantize_dynamic
    assert type(quantise(model)[0]) is fast.LSTM
    fast.restore(model)
    assert type(quantise(model)[0]) is torch.ao.nn.quantized.dynamic.LSTM


@pytest.mark.parametrize("function", [fast.accelerate, fast.restore])
@pytest.mark.parametrize("given", [None, {}, [nn.LSTM(2, 2)], torch.zeros(1), nn.LSTM])
def test_what_is_no_module_is_an_error(function, given):
    with pytest.raises(TypeError, match=f"^model: expected a torch.nn.Module, got {full_name(given)}$"):
        function(given)


def test_a_swapped_model_is_copied_and_pickled():
    model = Tagger()
    fast.accelerate(model)
    expected = model(TOKENS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.encoder) is fast.GRU
        assert torch.equal(twin(TOKENS), expected)
    plain = Tagger()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(TOKENS), expected)


def test_a_swapped_model_may_be_moved_afterwards():
    """What the kernels are not for is then torch.nn's, and comes back with the weights."""
    model = Tagger()
    expected = model(TOKENS)
    fast.accelerate(model)
    model.to(torch.bfloat16)(TOKENS)
    assert model.float()(TOKENS).dtype == torch.float32
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=2e-2)
    assert tensors_of(model.to("meta").encoder(torch.empty(1, 1, 4, device="meta")))[0].device.type == "meta"
