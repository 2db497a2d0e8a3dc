"""A model of text, one character after the other: embedding, recurrent layers, softmax over the vocabulary.

In the shapes: `T` steps, `B` batch, `V` characters in the vocabulary, `E` width of the embedding, `H` hidden units.
"""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fastrnn import GRU, LSTM, RNN
from fastrnn.dropout import Mask
from fastrnn.files import read_arrays, write_arrays

from .losses import BITS_PER_NAT, cross_entropy, softmax_cross_entropy
from .text import Batch, Vocabulary

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

_FILE_FORMAT = 1
_SCORED_AT_ONCE = 256  # steps


class CharacterModel:
    """p(next character | all before it).

    vocabulary      the characters it knows
    cell            "lstm", "gru" or "rnn", the tanh RNN
    hidden_size     H
    num_layers      of the recurrent layers
    embedding_size  E: each character is a vector of this width at the input
    dropout         probability with which, in `gradients`, each element of each layer's output is zeroed (the others
                    are scaled by 1 / (1 - dropout)); less than 1
    dtype           "float32" or "float64"
    seed            of the initial parameters and of dropout; None for different ones each time
    backend         of the recurrent layers
    forget_bias     where the LSTM's forget gates start (see `LSTM`); the other cells have none
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        cell: str = "lstm",
        hidden_size: int = 256,
        num_layers: int = 1,
        *,
        embedding_size: int = 64,
        dropout: float = 0.0,
        dtype: str = "float32",
        seed: int | None = None,
        backend: str | None = None,
        forget_bias: float | None = 1.0,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"cell: expected {', '.join(CELLS)}, got {cell!r}")
        self.vocabulary = vocabulary
        self.options: dict[str, Any] = {
            "cell": cell,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "embedding_size": embedding_size,
            "dropout": dropout,
            "dtype": dtype,
            "forget_bias": forget_bias,
        }
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number from 0 to below 1, got {dropout}")
        between = dropout if num_layers > 1 else 0.0
        options = {"dropout": between, "dtype": dtype, "seed": seed, "backend": backend}
        if cell == "lstm":
            options["forget_bias"] = forget_bias
        self.layer = CELLS[cell](embedding_size, hidden_size, num_layers, **options)
        self._dropout = dropout
        generator, self._dropout_generator = np.random.default_rng(seed).spawn(2)
        size, bound = len(vocabulary), hidden_size**-0.5
        self.embedding = generator.standard_normal((size, embedding_size)).astype(dtype)
        self.head_weight = generator.uniform(-bound, bound, (size, hidden_size)).astype(dtype)
        self.head_bias = np.zeros(size, dtype)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """{name: array}: embedding (V, E), head_weight (V, H), head_bias (V,), and those of the layers. Live."""
        own = {"embedding": self.embedding, "head_weight": self.head_weight, "head_bias": self.head_bias}
        return own | dict(self.layer.parameters)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(array.size for array in self.parameters.values())

    def logits(self, inputs: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """Unnormalised log-probabilities of what follows each input, (T, B, V), and the final state.

        inputs  (T, B) integers
        state   of the layers, as they take and return it; None for zeros
        """
        self.layer.eval()
        y, state = self.layer(self.embedding[inputs], state)
        return y @ self.head_weight.T + self.head_bias, state

    def gradients(
        self, inputs: np.ndarray, targets: np.ndarray, state: Any = None
    ) -> tuple[float, dict[str, np.ndarray], Any]:
        """The mean loss in nats per character, its gradient for each parameter, and the final state.

        inputs, targets  (T, B) integers
        state            as in `logits`; the gradient does not go back beyond it
        """
        self.layer.train()
        (y, state), backward = self.layer.vjp(self.embedding[inputs], state)
        mask = self._mask(y)
        y_flat = (y * mask).reshape(-1, y.shape[-1])
        logits = y_flat @ self.head_weight.T
        logits += self.head_bias
        nats, dlogits = softmax_cross_entropy(logits, targets.ravel())
        dy = (dlogits @ self.head_weight).reshape(y.shape)
        dy *= mask
        layer_gradients = backward(dy)
        own = {
            "embedding": self._embedding_gradient(inputs.ravel(), layer_gradients.x),
            "head_weight": dlogits.T @ y_flat,
            "head_bias": dlogits.sum(axis=0),
        }
        return nats, own | layer_gradients.parameters, state

    def _mask(self, y: np.ndarray) -> np.ndarray:
        """Factors for the elements of y: 0 where dropout drops one. All 1, of shape (), without dropout."""
        if not self._dropout:
            return np.ones((), y.dtype)
        return Mask(self._dropout_generator, y.shape, self._dropout).factors(y.dtype)

    def _embedding_gradient(self, inputs: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """For each character (V, E), the sum of dx (T, B, E) over where it stands in inputs (T*B,)."""
        order = np.argsort(inputs, kind="stable")
        present, starts = np.unique(inputs[order], return_index=True)
        gradient = np.zeros_like(self.embedding)
        gradient[present] = np.add.reduceat(dx.reshape(-1, dx.shape[-1])[order], starts, axis=0)
        return gradient

    def gradients_over(self, batches: Iterable[Batch]) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
        """Loss and gradients of one batch after the other, the state carried from each to the next."""
        state = None
        for inputs, targets, first in batches:
            nats, gradients, state = self.gradients(inputs, targets, None if first else state)
            yield nats, gradients

    def bits_per_character(self, indices: np.ndarray, context: np.ndarray) -> float:
        """The mean of -log2 p over `indices` (N,), having read `context`, of at least one character, and them."""
        sequence = np.concatenate([context, indices])
        unscored = len(context) - 1
        nats = []
        state = None
        for start in range(0, len(sequence) - 1, _SCORED_AT_ONCE):
            piece = sequence[start : start + _SCORED_AT_ONCE + 1]
            logits, state = self.logits(piece[:-1, None], state)
            nats.append(cross_entropy(logits[:, 0], piece[1:]))
        return BITS_PER_NAT * float(np.mean(np.concatenate(nats)[unscored:], dtype=np.float64))

    def sample(self, length: int, *, start: str = "\n", temperature: float = 1.0, seed: int | None = None) -> str:
        """Continue the text `start`, one character at a time, for `length` characters.

        temperature  divides the logits: below 1 the likely gets likelier; at 0 always the likeliest is taken
        seed         of the choice; None for a different one each time
        """
        if not start:
            raise ValueError("start: expected at least one character")
        generator = np.random.default_rng(seed)
        stream = self.layer.stream()
        for index in self.vocabulary.encode(start):
            y = stream.step(self.embedding[index])
        sampled = np.empty(length, np.intp)
        for n in range(length):
            sampled[n] = _choose(self.head_weight @ y + self.head_bias, temperature, generator)
            y = stream.step(self.embedding[sampled[n]])
        return self.vocabulary.decode(sampled)

    def warm_up(self, batch: int, steps: int) -> None:
        """Have everything compiled that training on such batches, scoring and sampling call."""
        zeros = np.zeros((steps, batch), np.intp)
        self.gradients(zeros, zeros)
        zero = np.zeros(1, np.intp)
        self.bits_per_character(zero, zero)
        self.sample(1, start=self.vocabulary.characters[0], seed=0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary, the options and the parameters to an .npz file at exactly `path`.

        The file appears, or an older one is replaced, only when all is written.
        """
        header = {
            "format": _FILE_FORMAT,
            "class": type(self).__name__,
            "vocabulary": self.vocabulary.characters,
            "options": self.options,
        }
        write_arrays(path, json.dumps(header), self.parameters)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str | None = None) -> "CharacterModel":
        """Make a model from a file that `save` wrote. ValueError if it is another kind of file."""
        try:
            text, arrays = read_arrays(path)
            header = json.loads(text)
            if header["format"] != _FILE_FORMAT or header["class"] != cls.__name__:
                raise ValueError("not this class and format")
            model = cls(Vocabulary(header["vocabulary"]), **header["options"], backend=backend)
            model._load_parameters(arrays)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"path: expected a saved character model, got {os.fspath(path)!r}") from error
        return model

    def _load_parameters(self, arrays: dict[str, np.ndarray]) -> None:
        parameters = self.parameters
        if arrays.keys() != parameters.keys():
            raise ValueError(f"expected {', '.join(parameters)}, got {', '.join(arrays)}")
        for name, parameter in parameters.items():
            if (arrays[name].shape, arrays[name].dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(f"{name}: expected {parameter.shape}, got {arrays[name].shape}")
            parameter[...] = arrays[name]


def _choose(logits: np.ndarray, temperature: float, generator: np.random.Generator) -> int:
    """Draw from softmax(logits / temperature), for logits (V,)."""
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # of a tiny temperature: e^-inf is 0, as it should be
        weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    cumulated = np.cumsum(weights)
    return int(np.searchsorted(cumulated[:-1], generator.random() * cumulated[-1], side="right"))
