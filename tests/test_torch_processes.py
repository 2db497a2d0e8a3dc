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
