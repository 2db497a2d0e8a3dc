"""A recurrent layer with a linear head, for the made-up tasks.

In the shapes: `T` steps, `B` batch, `I` inputs of a step, `H` hidden units, `S` steps with an answer, `V` outputs.
"""

import numpy as np

from fastrnn import GRU, LSTM, RNN
from fastrnn.experiments.losses import softmax_cross_entropy, squared_error

Layer = LSTM | GRU | RNN


class SequenceModel:
    """Answers at the last S steps of a sequence: with a number, or with one of several classes.

    layer      the recurrent layer
    classes    V; 0 for a number, judged by its squared error, else judged by cross entropy
    generator  of the head's initial weights, uniform in ±1/sqrt(H)
    """

    def __init__(self, layer: Layer, classes: int, generator: np.random.Generator) -> None:
        self.layer = layer
        self.classes = classes
        outputs, bound = classes or 1, layer.hidden_size**-0.5
        self.head_weight = generator.uniform(-bound, bound, (outputs, layer.hidden_size)).astype(layer.dtype)
        self.head_bias = np.zeros(outputs, layer.dtype)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """{name: array}: head_weight (V, H), head_bias (V,), and those of the layer. Live."""
        return {"head_weight": self.head_weight, "head_bias": self.head_bias} | dict(self.layer.parameters)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(array.size for array in self.parameters.values())

    def loss(self, x: np.ndarray, targets: np.ndarray) -> float:
        """The mean loss, as in `gradients`."""
        y, _ = self.layer(x)
        return self._judge(y, targets)[0]

    def loss_with_erased(self, x: np.ndarray, targets: np.ndarray, step: int, part: int) -> float:
        """The same where after `step` steps a part of the state is set to 0: 0 for h, 1 for the LSTM's c."""
        before, state = self.layer(x[:step])
        parts = list(state) if isinstance(state, tuple) else [state]
        parts[part] = np.zeros_like(parts[part])
        after, _ = self.layer(x[step:], tuple(parts) if isinstance(state, tuple) else parts[0])
        return self._judge(np.concatenate([before, after]), targets)[0]

    def gradients(self, x: np.ndarray, targets: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The mean loss over the answers, and its gradient for each parameter.

        x        (T, B, I)
        targets  (S, B): numbers, or classes as integers
        """
        (y, _), backward = self.layer.vjp(x)
        loss, doutputs, scored = self._judge(y, targets)
        dy = np.zeros_like(y)
        dy[-len(targets) :] = (doutputs @ self.head_weight).reshape(*targets.shape, -1)
        own = {"head_weight": doutputs.T @ scored, "head_bias": doutputs.sum(axis=0)}
        return loss, own | backward(dy).parameters

    def _judge(self, y: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The loss, its gradient for the outputs (S*B, V), and what these were made from, (S*B, H)."""
        scored = y[-len(targets) :].reshape(-1, y.shape[-1])
        outputs = scored @ self.head_weight.T + self.head_bias
        if self.classes:
            return *softmax_cross_entropy(outputs, targets.ravel()), scored
        loss, differences = squared_error(outputs[:, 0], targets.ravel())
        return loss, differences[:, None], scored
