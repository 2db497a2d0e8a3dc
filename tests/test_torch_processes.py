"""The modules of fastrnn.torch in several processes: DistributedDataParallel, DataLoader workers, spawned processes."""

import gc
import io
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from torch_pairs import fast, normal, torch

import fastrnn

PROCESSES, STEPS, ROWS, LENGTH = 2, 6, 8, 5  # ROWS of all processes together


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(17, 6)
        self.encoder = fast.GRU(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.decoder = fast.LSTM(16, 5, batch_first=True)
        self.head = torch.nn.Linear(5, 3)

    def forward(self, tokens):
        y, _ = self.encoder(self.embedding(tokens))
        _, (h_n, _) = self.decoder(y)
        return self.head(h_n[0])


def training_data():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(17, (STEPS, ROWS, LENGTH), generator=generator)
    return tokens, tokens.sum(-1) % 3


def train(model, tokens, labels):
    """The loss of each step, and the parameters after the last one."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for batch, wanted in zip(tokens, labels, strict=True):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch), wanted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach().clone() for parameter in model.parameters()]


def train_a_share(rank, folder):
    """One process: its rows of each batch."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)  # as torchrun does: processes that share a machine would wait for each other's threads
    fastrnn.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    try:
        torch.save(train_together(rank), f"{folder}/{rank}")
        # PyTorch's own deadlock: a model that outlives its group takes the group's threads down while it holds the
        # interpreter, for which one of them may wait
        gc.collect()
    finally:
        torch.distributed.destroy_process_group()


def train_together(rank):
    model = torch.nn.parallel.DistributedDataParallel(Classifier())
    tokens, labels = training_data()
    return train(model, tokens[:, rank::PROCESSES], labels[:, rank::PROCESSES])


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
def test_two_processes_learn_as_one_does(tmp_path):
    """The loss curve of two processes with half of each batch is that of one process with all of it."""
    torch.multiprocessing.spawn(train_a_share, (str(tmp_path),), nprocs=PROCESSES)
    losses, parameters = train(Classifier(), *training_data())
    shares = [torch.load(tmp_path / str(rank)) for rank in range(PROCESSES)]
    together = [sum(each) / PROCESSES for each in zip(*(share for share, _ in shares), strict=True)]
    assert together == pytest.approx(losses, rel=0, abs=1e-5)
    assert abs(losses[0] - losses[-1]) > 1e-3  # it did learn
    for ours, first, second in zip(parameters, *(after for _, after in shares), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, ours, rtol=0, atol=1e-4)


class Encoded(torch.utils.data.Dataset):
    """Features that a frozen layer computes in the workers."""

    def __init__(self, module):
        self.module = module
        self.x = normal(12, 5, 4, dtype=torch.float32, grad=False)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        with torch.no_grad():
            y, _ = self.module(self.x[index])
        return y, os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_workers_of_a_data_loader_that_fork(name, threads):
    """Also after the parent has run kernels in threads, which do not exist in the children."""
    module = getattr(fast, name)(4, 7)
    threads(2)
    large = getattr(fast, name)(64, 128)
    large(torch.zeros(20, 32, 64))
    data = Encoded(module)
    expected = torch.stack([data[k][0] for k in range(len(data))])
    loader = torch.utils.data.DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        batches = list(loader)
        assert torch.equal(torch.cat([y for y, _ in batches]), expected)
        processes = {pid for _, pids in batches for pid in pids.tolist()}
        assert len(processes) == 2
        assert os.getpid() not in processes
    y, _ = module(data.x)  # the parent's kernels still work
    assert y.shape == (12, 5, 7)


def gradients(module, x):
    """In another process: what kind of module came, its result and its gradients."""
    y, _ = module(x)
    y.sin().sum().backward()
    return type(module), y.detach(), [parameter.grad for parameter in module.parameters()]


def test_modules_are_sent_to_spawned_processes():
    module = fast.GRU(4, 7, num_layers=2, bidirectional=True)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    module(x)  # it has kernels by now: they are not sent
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        kind, y, grads = pool.submit(gradients, module, x).result()
    _, expected, wanted = gradients(module, x)
    assert kind is fast.GRU
    assert torch.equal(y, expected)
    assert all(map(torch.equal, grads, wanted))


def test_weights_in_shared_memory():
    """As for training in several processes without locks: moved there after the kernels have seen them elsewhere."""
    module = fast.LSTM(4, 7)
    x = normal(5, 3, 4, dtype=torch.float32, grad=False)
    expected = module(x)[0]
    module.share_memory()
    assert torch.equal(module(x)[0], expected)
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    assert not torch.equal(module(x)[0], expected)


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


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_saved_weights_load_into_torch_nn_and_back(name):
    ours, theirs = getattr(fast, name)(4, 7), getattr(torch.nn, name)(4, 7)
    for source, target in ((ours, theirs), (theirs, ours)):
        torch.nn.init.normal_(source.get_parameter(next(iter(source.state_dict()))))
        buffer = io.BytesIO()
        torch.save(source.state_dict(), buffer)
        buffer.seek(0)
        target.load_state_dict(torch.load(buffer, weights_only=True))
        x = normal(3, 4, dtype=torch.float32, grad=False)
        torch.testing.assert_close(target(x)[0], source(x)[0])
