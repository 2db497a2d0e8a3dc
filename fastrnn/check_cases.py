"""The layers and inputs that `python -m fastrnn check` runs: every cell, type and option, in awkward sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .layers import GRU, LSTM, RNN, Recurrent

CELLS: dict[str, tuple[Callable[..., Recurrent], dict[str, Any]]] = {
    "lstm": (LSTM, {}),
    "lstm_projected": (LSTM, {}),
    "gru": (GRU, {}),
    "gru_reset_before": (GRU, {"reset_after": False}),
    "rnn_tanh": (RNN, {}),
    "rnn_relu": (RNN, {"nonlinearity": "relu"}),
}
DTYPES = ("float32", "float64")
DEVICE_DTYPES = {"cpu": DTYPES, "cuda": (*DTYPES, "float16", "bfloat16")}
_SEED = 2  # with it even the relu layer of one unit is active; else every gradient would be 0


@dataclass(frozen=True)
class Case:
    """One layer and the shape of its input."""

    cell: str
    dtype: str
    T: int
    B: int
    I: int
    H: int
    P: int = 0
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    batched: bool = True
    padded: bool = False  # sequences of different lengths
    recompute: bool = False  # as for `vjp`

    def __str__(self) -> str:
        sizes = {"T": self.T, "B": self.B if self.batched else 0, "I": self.I, "H": self.H, "P": self.P}
        parts = [f"{name}{size}" for name, size in sizes.items() if size]
        options = {
            f"L{self.layers}": self.layers > 1,
            "bi": self.bidirectional,
            "nobias": not self.bias,
            "batch_first": self.batch_first,
            "unbatched": not self.batched,
            "padded": self.padded,
            "recompute": self.recompute,
        }
        return "-".join(parts + [name for name, given in options.items() if given])

    def layer(self, device: str = "cpu") -> Recurrent:
        kind, options = CELLS[self.cell]
        if self.P:
            options = options | {"proj_size": self.P}
        flags = {"bias": self.bias, "batch_first": self.batch_first, "bidirectional": self.bidirectional}
        return kind(self.I, self.H, self.layers, dtype=self.dtype, device=device, seed=_SEED, **flags, **options)

    def x(self) -> np.ndarray:
        lengths = ((self.B, self.T) if self.batch_first else (self.T, self.B)) if self.batched else (self.T,)
        numbers = np.random.default_rng(_SEED).standard_normal((*lengths, self.I))
        # NumPy does not know bfloat16 by name
        return numbers.astype("float32" if self.dtype == "bfloat16" else self.dtype)

    def lengths(self) -> np.ndarray | None:
        return np.random.default_rng(_SEED).integers(0, self.T + 1, self.B) if self.padded else None


def cases(cells: Sequence[str], dtypes: Sequence[str], threads: int) -> list[Case]:
    """Every option and awkward sizes for each cell and dtype; `threads` is the most that will be used."""
    variations: list[dict[str, Any]] = [
        {"T": 1, "B": 1, "I": 1, "H": 1, "P": 1},
        {"T": 5, "B": 3, "I": 7, "H": 17, "P": 5, "batch_first": True},  # odd
        {"T": 4, "B": 16, "I": 32, "H": 64, "P": 32, "layers": 3, "bias": False},  # whole vectors only
        {"T": 7, "I": 5, "H": 19, "P": 3, "bidirectional": True, "B": 1, "batched": False},
        # more rows than a tile has, whole tiles and a remainder, and enough work to be shared by threads:
        {"T": 9, "B": 4 * threads + 1, "I": 37, "H": 67, "P": 19},  # the batch
        {"T": 8, "B": 2, "I": 83, "H": 151, "P": 45},  # the hidden units
        {"T": 9, "B": 5, "I": 37, "H": 67, "P": 19, "layers": 2, "bidirectional": True},
        {"T": 11, "B": 4 * threads + 3, "I": 37, "H": 67, "P": 19, "bidirectional": True, "padded": True},
        # several segments, and a block of weight gradients that goes on from one to the other:
        {"T": 53, "B": 13, "I": 7, "H": 17, "P": 5, "layers": 2, "recompute": True},
    ]
    chosen = []
    for cell in cells:
        for dtype in dtypes:
            for variation in variations:
                sizes = dict(variation)
                if cell == "lstm_projected":
                    sizes["H"] = max(sizes["H"], sizes["P"] + 1)
                else:
                    del sizes["P"]
                chosen.append(Case(cell, dtype, **sizes))
    return chosen
