"""What `python -m bench.pytorch` times: PyTorch's modules against those of fastrnn.torch, in PyTorch's own use.

Each case has calls by name, which do the same work; before they are timed, their results are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
import fastrnn.torch
from bench.cases import CELLS, MODES, QUICK_SIZES, SIZES
from bench.competitors import Runner, as_in_training

TOLERANCE = 1e-4  # of the largest entry, in float32: after an Adam step too; a wrong gate errs by 1e-2
SECTIONS = ("modules", "lengths", "overhead", "model")
ORIGINAL, SWAPPED, ARRAYS, WHOLE = "torch", "fastrnn.torch", "fastrnn", "whole batch"
EMPTY = "computes nothing"

MIXED = {"T": 100, "B": 32, "I": 256, "H": 256, "least": 10}  # lengths uniform from `least` to T
QUICK_MIXED = {"T": 20, "B": 6, "I": 16, "H": 16, "least": 2}
MODEL = {"T": 50, "B": 32, "vocabulary": 1000, "E": 128, "H": 128}
QUICK_MODEL = {"T": 6, "B": 4, "vocabulary": 20, "E": 8, "H": 8}


@dataclass
class TorchCase:
    """One point: `calls` by name, each returning tensors or arrays that should agree, but for those of `unlike`."""

    section: str
    cell: str
    mode: str
    threads: int
    size: str
    calls: dict[str, Callable[[], list]]
    unlike: tuple[str, ...] = ()
    work: dict[str, int] = field(default_factory=dict)  # rows of all steps, by name, where they differ

    @property
    def id(self) -> str:
        return f"{self.section}-{self.cell}-{self.mode}-{self.size}-{self.threads}t"

    def runners(self) -> dict[str, Runner]:
        return {name: Runner(call, lambda result: {}, self.set_threads) for name, call in self.calls.items()}

    def set_threads(self) -> None:
        torch.set_num_threads(self.threads)
        fastrnn.set_num_threads(self.threads)

    def disagreement(self) -> str | None:
        """What two calls compute differently; None if nothing."""
        self.set_threads()
        found = {name: [_copy(each) for each in call()] for name, call in self.calls.items()}
        first, *others = [name for name in found if name not in self.unlike]
        for other in others:
            for k, (one, two) in enumerate(zip(found[first], found[other], strict=True)):
                error = np.abs(one - two).max() / max(np.abs(one).max(), 1e-30)
                if not error <= TOLERANCE:  # written so that NaN fails
                    return f"{first} and {other}: result {k} differs by {error:.1e}, allowed {TOLERANCE:.0e}"
        return None


def _copy(value) -> np.ndarray:
    return value.detach().numpy().copy() if isinstance(value, torch.Tensor) else np.array(value)


def cases(sections: tuple[str, ...], threads: tuple[int, ...], quick: bool) -> Iterator[TorchCase]:
    """All cases of these sections, one after the other: their memory is not needed at once."""
    for number in threads:
        if "modules" in sections:
            for cell in CELLS:
                for size in QUICK_SIZES if quick else SIZES:
                    for mode in MODES:
                        yield _modules(cell, mode, number, size)
        if "lengths" in sections:
            for cell in ("lstm", "gru"):
                for mode in MODES:
                    yield _lengths(cell, mode, number, **(QUICK_MIXED if quick else MIXED))
        if "overhead" in sections and number == 1:
            for cell in CELLS:
                for mode in MODES:
                    yield _overhead(cell, mode)
        if "model" in sections:
            yield _model(number, **(QUICK_MODEL if quick else MODEL))


def _pair(cell: str, I: int, H: int) -> tuple[torch.nn.RNNBase, torch.nn.RNNBase]:
    torch.manual_seed(0)
    name = cell.upper()
    original, swapped = (getattr(package, name)(I, H) for package in (torch.nn, fastrnn.torch))
    swapped.load_state_dict(original.state_dict())
    return original, swapped


def _layer(cell: str, original: torch.nn.RNNBase) -> fastrnn.LSTM | fastrnn.GRU | fastrnn.RNN:
    layer = getattr(fastrnn, cell.upper())(original.input_size, original.hidden_size)
    layer.load_state_dict(original.state_dict())
    return layer


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _of_module(module: torch.nn.RNNBase, mode: str, x, dy: torch.Tensor) -> list:
    """y; in training also the gradients of x and of the parameters."""
    data = x if isinstance(x, torch.Tensor) else x.data
    if mode == "forward":
        with torch.inference_mode():
            return [_output(module, x)]
    module.zero_grad()
    data.grad = None
    y = _output(module, x)
    y.backward(dy)
    return [y.detach(), data.grad, *(parameter.grad for parameter in module.parameters())]


def _output(module: torch.nn.RNNBase, x) -> torch.Tensor:
    y, _ = module(x)
    return y if isinstance(y, torch.Tensor) else y.data


def _of_frozen(module: torch.nn.RNNBase, x) -> list:
    """y of a module whose weights want no gradients."""
    return [_output(module, x)]


def _of_layer(layer, mode: str, x: np.ndarray, dy: np.ndarray, lengths: np.ndarray | None = None) -> list:
    if mode == "forward":
        return [layer(x, lengths=lengths)[0]]
    (y, _), backward = layer.vjp(x, lengths=lengths)
    gradients = backward(dy)
    return [y, gradients.x, *gradients.parameters.values()]


def _changing(layer: Any, mode: str, call: Callable[[], list]) -> Callable[[], list]:
    """The call; in training of weights of which one changes before each, of a module or a layer."""
    if mode == "forward":
        return call
    if isinstance(layer, torch.nn.Module):
        return as_in_training(call, layer.weight_hh_l0.detach().numpy())
    return as_in_training(call, layer.parameters["weight_hh_l0"])


def _modules(cell: str, mode: str, threads: int, size: tuple[int, int, int, int]) -> TorchCase:
    T, B, I, H = size
    original, swapped = _pair(cell, I, H)
    x, dy = _normal(T, B, I).requires_grad_(mode == "training"), _normal(T, B, H)
    calls: dict[str, Callable[[], list]] = {}
    for name, module in ((ORIGINAL, original), (SWAPPED, swapped)):
        calls[name] = _changing(module, mode, partial(_of_module, module, mode, x, dy))
    return TorchCase("modules", cell, mode, threads, f"T{T}-B{B}-I{I}-H{H}", calls)


def _lengths(cell: str, mode: str, threads: int, T: int, B: int, I: int, H: int, least: int) -> TorchCase:
    """Packed sequences in both modules, padded ones in the NumPy layer, and there a batch without padding."""
    original, swapped = _pair(cell, I, H)
    lengths = np.random.default_rng(0).integers(least, T + 1, B)
    lengths[::-1].sort()
    x, dy = _normal(T, B, I), _normal(T, B, H)
    packed = pack_padded_sequence(x, torch.tensor(lengths))
    dy_packed = pack_padded_sequence(dy, torch.tensor(lengths)).data
    packed.data.requires_grad_(mode == "training")
    mixed, whole = (_layer(cell, original) for _ in range(2))
    arrays = x.numpy(), dy.numpy()
    calls: dict[str, Callable[[], list]] = {
        name: _changing(module, mode, partial(_of_module, module, mode, packed, dy_packed))
        for name, module in ((ORIGINAL, original), (SWAPPED, swapped))
    }
    calls[ARRAYS] = _changing(mixed, mode, partial(_of_layer, mixed, mode, *arrays, lengths))
    calls[WHOLE] = _changing(whole, mode, partial(_of_layer, whole, mode, *arrays))
    total = int(lengths.sum())
    work = {ORIGINAL: total, SWAPPED: total, ARRAYS: total, WHOLE: T * B}
    size = f"T{least}to{T}-B{B}-I{I}-H{H}"
    return TorchCase("lengths", cell, mode, threads, size, calls, (ARRAYS, WHOLE), work)


def _overhead(cell: str, mode: str) -> TorchCase:
    original, swapped = _pair(cell, 64, 64)
    x, dy = _normal(1, 1, 64).requires_grad_(mode == "training"), _normal(1, 1, 64)
    arrays = x.detach().numpy(), dy.numpy()
    calls: dict[str, Callable[[], list]] = {}
    for name, module in ((ORIGINAL, original), (SWAPPED, swapped)):
        if mode == "forward":  # to enter and leave `inference_mode` takes 1.5 µs that are none of the module's
            calls[name] = partial(_of_frozen, module.requires_grad_(False), x)
        else:
            calls[name] = _changing(module, mode, partial(_of_module, module, mode, x, dy))
    layer = _layer(cell, original)
    calls[ARRAYS] = _changing(layer, mode, partial(_of_layer, layer, mode, *arrays))
    empty = _Empty(original)
    calls[EMPTY] = partial(_of_frozen, empty, x) if mode == "forward" else partial(_of_module, empty, mode, x, dy)
    return TorchCase("overhead", cell, mode, 1, "T1-B1-I64-H64", calls, (EMPTY,))


class _Nothing(torch.autograd.Function):
    """Outputs and gradients that nobody has written, in NumPy's arrays, and the node in the graph of any layer."""

    @staticmethod
    def forward(ctx, shapes: list[tuple[int, ...]], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return _unwritten(shapes)

    @staticmethod
    def backward(ctx, *doutputs: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        return None, *_unwritten([tensor.shape for tensor in ctx.saved_tensors])


def _unwritten(shapes: list[tuple[int, ...]]) -> tuple[torch.Tensor, ...]:
    return tuple([torch.from_numpy(np.empty(shape, np.float32)) for shape in shapes])


class _Empty(torch.nn.Module):
    """What PyTorch itself takes for a module with the parameters and outputs of another."""

    def __init__(self, original: torch.nn.RNNBase) -> None:
        super().__init__()
        self._hidden_size = original.hidden_size
        self._states = 2 if isinstance(original, torch.nn.LSTM) else 1
        for name, parameter in original.named_parameters():
            wanted = parameter.requires_grad
            self.register_parameter(name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=wanted))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        T, B, _ = x.shape
        shapes = [(T, B, self._hidden_size), *[(1, B, self._hidden_size)] * self._states]
        y, *states = _Nothing.apply(shapes, x, *self._parameters.values()) if x.requires_grad else _unwritten(shapes)
        return y, states


class _Tagger(torch.nn.Module):
    """A label for each token: embedding, two bidirectional GRU layers, linear."""

    def __init__(self, vocabulary: int, E: int, H: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, E)
        self.gru = torch.nn.GRU(E, H, num_layers=2, bidirectional=True)
        self.head = torch.nn.Linear(2 * H, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])


def _model(threads: int, T: int, B: int, vocabulary: int, E: int, H: int) -> TorchCase:
    """A step of training: forward, loss, backward, Adam."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(vocabulary, (T, B), generator=generator)
    labels = torch.randint(10, (T, B), generator=generator)
    calls: dict[str, Callable[[], list]] = {}
    for name in (ORIGINAL, SWAPPED):
        torch.manual_seed(0)
        model = _Tagger(vocabulary, E, H)
        if name == SWAPPED:
            fastrnn.torch.accelerate(model)
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)

        def step(model=model, adam=adam) -> list:
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(tokens).reshape(-1, 10), labels.reshape(-1))
            loss.backward()
            adam.step()
            return [loss.detach()]

        calls[name] = step
    return TorchCase("model", "gru", "training", threads, f"T{T}-B{B}-E{E}-H{H}", calls)
