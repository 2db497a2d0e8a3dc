"""Who is compared: the cells, each with its start."""

from collections.abc import Callable
from dataclasses import dataclass

from fastrnn import GRU, LSTM, RNN

from .sequence_model import Layer


@dataclass(frozen=True)
class Contender:
    """A cell, and how it starts."""

    title: str
    cell: str  # "rnn", "gru" or "lstm"
    forget_bias: float | None = None  # of an LSTM; None: PyTorch's start

    def layer(self, input_size: int, hidden_size: int, seed: int) -> Layer:
        """One float32 layer with its initial parameters."""
        if self.cell == "lstm":
            return LSTM(input_size, hidden_size, seed=seed, forget_bias=self.forget_bias)
        return {"rnn": RNN, "gru": GRU}[self.cell](input_size, hidden_size, seed=seed)


CONTENDERS = {
    "rnn": Contender("RNN (tanh)", "rnn"),
    "gru": Contender("GRU", "gru"),
    "lstm": Contender("LSTM, forget bias 1", "lstm", 1.0),
    "lstm-default": Contender("LSTM, PyTorch's start", "lstm"),
}


def matching_size(parameters: Callable[[int], int], wanted: int) -> int:
    """The hidden size at which `parameters(size)`, which grows with it, comes nearest to `wanted`."""
    size = 1
    while parameters(size + 1) <= wanted:
        size += 1
    return size if wanted - parameters(size) <= parameters(size + 1) - wanted else size + 1
