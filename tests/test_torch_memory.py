"""The memory of the tensors that the modules of fastrnn.torch have seen: moved, given away, and let go in time."""

import pytest
from torch_pairs import fast, normal, torch

from fastrnn.torch import layer as layer_module

# What is read may lie elsewhere by the time of the backward pass


@pytest.mark.parametrize("moved", ["weights", "x", "states"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRUCell", "LSTMCell"])
def test_memory_may_move_between_forward_and_backward(name, moved):
    """What is shared with another process gets other memory. Sizes are such that the former is gone."""
    torch.manual_seed(0)
    original = getattr(torch.nn, name)(256, 256)
    ours = getattr(fast, name)(256, 256)
    ours.load_state_dict(original.state_dict())
    found = []
    for module in (original, ours):
        x = normal(32, 256, dtype=torch.float32) if "Cell" in name else normal(8, 32, 256, dtype=torch.float32)
        shape = (32, 256) if "Cell" in name else (1, 32, 256)
        states = [normal(*shape, dtype=torch.float32) for _ in range(2 if "LSTM" in name else 1)]
        result = module(x, tuple(states) if len(states) == 2 else states[0])
        loss = sum(each.sin().sum() for each in torch.utils._pytree.tree_leaves(result))
        for tensor in {"weights": list(module.parameters()), "x": [x], "states": states}[moved]:
            tensor.detach().share_memory_()
        junk = [torch.full((n,), float("nan")) for n in (256 * 256, 1024 * 256, 32 * 256)]
        loss.backward()
        del junk
        found.append([tensor.grad for tensor in (x, *states, *module.parameters())])
    for expected, computed in zip(*found, strict=True):
        torch.testing.assert_close(computed, expected, rtol=1e-3, atol=1e-4)


def gradients_after(change, module, *, again=False):
    """Of a pass forward; `change` is made to the module, x and the states before the pass back, or the second one."""
    torch.manual_seed(1)
    cell = isinstance(module, torch.nn.RNNCellBase)
    x = torch.randn((3, 4) if cell else (5, 3, 4)).double().requires_grad_()
    shape = (3, 4) if cell else (1, 3, 4)
    states = [torch.randn(shape).double().requires_grad_() for _ in range(2 if "LSTM" in type(module).__name__ else 1)]
    result = module(x, tuple(states) if len(states) == 2 else states[0])
    loss = sum(each.sin().sum() for each in torch.utils._pytree.tree_leaves(result))
    if again:
        loss.backward(retain_graph=True)
        for tensor in (x, *states, *module.parameters()):
            tensor.grad = None
    change(module, x, states)
    loss.backward()
    return [tensor.grad for tensor in (x, *states, *module.parameters())]


def other_weights(module, x, states):
    for parameter in module.parameters():
        parameter.data = parameter.data * 1.5


def other_inputs(module, x, states):
    for tensor in (x, *states):
        tensor.data = tensor.data * 1.5


def from_a_vector(module, x, states):
    vector = torch.nn.utils.parameters_to_vector(module.parameters())
    torch.nn.utils.vector_to_parameters(vector.detach() * 1.5, module.parameters())


CHANGES = {
    "weights": other_weights,
    "vector": from_a_vector,
    "float": lambda module, *_: module.float(),
    "half": lambda module, *_: module.half(),
    "bfloat16": lambda module, *_: module.bfloat16(),
}


@pytest.mark.parametrize("again", [False, True], ids=["first", "retained"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "GRUCell", "LSTMCell"])
def test_tensors_may_be_given_other_memory_between_forward_and_backward(name, change, again):
    """The gradients are those of the numbers that the forward pass read: they are still there."""
    assert_same_after(CHANGES[change], name, again=again)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_so_may_what_they_read_beside_the_weights(name):
    """PyTorch's own cells see some of it: their gradients would be those of neither."""
    assert_same_after(other_inputs, name)


def assert_same_after(change, name, **options):
    original = getattr(torch.nn, name)(4, 4).double()
    ours = getattr(fast, name)(4, 4).double()
    ours.load_state_dict(original.state_dict())
    expected, computed = (gradients_after(change, module, **options) for module in (original, ours))
    for one, other in zip(computed, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


# What is kept for the backward pass, and how long


def freed(build):
    """Whether y's memory is gone, for torch.nn's module and ours, when `build(module)` has returned what is kept."""
    found = []
    for library in (torch.nn, fast):
        module = library.LSTM(4, 6)
        kept, y = build(module)
        memory = torch.multiprocessing.reductions.StorageWeakRef(y.untyped_storage())
        del y
        found.append(memory.expired())
        del kept
    return found


def test_a_loss_that_is_kept_keeps_no_y_alive():
    def trained(module):
        y, _ = module(normal(5, 3, 4, dtype=torch.float32, grad=False))
        loss = y[-1].pow(2).mean()
        loss.backward()
        return loss, y

    assert freed(trained) == [True, True]


def test_a_checkpoint_keeps_no_y_alive():
    def checkpointed(module):
        seen = []

        def segment(x):
            seen.append(module(x)[0])
            return seen[-1].pow(2).mean()

        x = normal(5, 3, 4, dtype=torch.float32)
        return torch.utils.checkpoint.checkpoint(segment, x, use_reentrant=False), seen.pop()

    assert freed(checkpointed) == [True, True]


def test_gradients_of_a_batch_use_up_what_was_kept():
    module = fast.LSTM(4, 6)
    y, _ = module(normal(5, 3, 4, dtype=torch.float32, grad=False))
    node = y.grad_fn
    torch.autograd.grad(y, module.weight_ih_l0, torch.ones(2, *y.shape), is_grads_batched=True)
    assert node.kept == []
    assert node.y is None


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_zeros_without_memory(name):
    module = getattr(fast, name)(4, 6)
    x = normal(5, 3, 4, dtype=torch.float32)
    y, _ = module(x)
    y.backward(torch._efficientzerotensor(y.shape))
    assert not x.grad.any()


def test_what_a_training_step_kept_is_let_go_after_many_calls_without_one():
    module = fast.GRU(4, 6)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    module(x)[0].sum().backward()
    idle = layer_module._of_modules[module][0]._cpu._memory._idle
    assert len(idle) == 1
    with torch.no_grad():
        for _ in range(99):
            module(x)
        assert len(idle) == 1
        module(x)
    assert len(idle) == 0
    module(x)[0].sum().backward()
    assert len(idle) == 1
