"""What the tests of fastrnn.torch share: pairs of modules with the same weights, and all that one of them computes."""

import pytest

torch = pytest.importorskip("torch")

import fastrnn.torch as fast  # noqa: E402  only now that PyTorch is there

KINDS = {
    "lstm": ("LSTM", {}),
    "lstmp": ("LSTM", {"proj_size": 3}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}
CELLS = {
    "lstm": ("LSTMCell", {}),
    "gru": ("GRUCell", {}),
    "rnn_tanh": ("RNNCell", {"nonlinearity": "tanh"}),
    "rnn_relu": ("RNNCell", {"nonlinearity": "relu"}),
}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest magnitude

# PyTorch, of its own modules
quiet = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def pair(kind, *sizes, table=KINDS, **options):
    """torch.nn's module and ours, with the same weights."""
    name, fixed = table[kind]
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*sizes, **fixed, **options)
    ours = getattr(fast, name)(*sizes, **fixed, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def spied_calls(monkeypatch):
    """For each forward pass of kernels made from now on, whether it keeps what a backward pass needs."""
    from fastrnn.cpu import CpuLayer

    saves, forward = [], CpuLayer.forward

    def noted(self, x, states, save, *others):
        saves.append(save)
        return forward(self, x, states, save, *others)

    monkeypatch.setattr(CpuLayer, "forward", noted)
    return saves


def normal(*shape, dtype=torch.float64, seed=1, grad=True):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_(grad)


def initial_state(module, batch=None, **options):
    """Random states for a recurrent module, without a batch dimension for None."""
    rows = module.num_layers * (2 if module.bidirectional else 1)
    widths = (module.proj_size or module.hidden_size, module.hidden_size)
    lead = (rows,) if batch is None else (rows, batch)
    states = tuple(normal(*lead, width, seed=seed, **options) for seed, width in enumerate(widths))
    return states if isinstance(module, torch.nn.LSTM) else states[0]


def tensors_of(value):
    """All tensors in what a module takes or returns."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    return [tensor for each in value or () for tensor in tensors_of(each)]


def everything(module, *arguments, inputs=(), seed=2):
    """Outputs, and the gradients under random upstream ones: of `inputs` and of each parameter, or None."""
    module.zero_grad()
    for tensor in inputs:
        tensor.grad = None
    torch.manual_seed(seed)
    outputs = tensors_of(module(*arguments))
    reached = [output for output in outputs if output.requires_grad]
    if reached:
        upstream = [normal(*o.shape, dtype=o.dtype, seed=k, grad=False) for k, o in enumerate(reached)]
        torch.autograd.backward(reached, upstream)
    named = {f"output {k}": output.detach() for k, output in enumerate(outputs)}
    named |= {f"input {k}": tensor.grad for k, tensor in enumerate(inputs)}
    return named | {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_same(results, expected, tolerance=None):
    assert results.keys() == expected.keys()
    for name, wanted in expected.items():
        got = results[name]
        assert (got is None) == (wanted is None), name
        if wanted is not None:
            assert got.dtype == wanted.dtype, name
            assert got.shape == wanted.shape, name
            scale = wanted.abs().max().item() if wanted.numel() else 0.0
            allowed = (tolerance or TOLERANCES[wanted.dtype]) * max(scale, 1e-30)
            torch.testing.assert_close(got, wanted, rtol=0, atol=allowed, msg=lambda text, name=name: f"{name}: {text}")
