"""The one table of benchmark cases, the numbers fed to every competitor, and the floating-point work of a case."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from fastrnn.processor import processors

CELLS = ("lstm", "gru", "rnn")
MODES = ("forward", "training")
DTYPES = ("float32", "float64")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CELL_TITLES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
FORMULAS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}  # what the cells are called in kernels/cells.py

SIZES = (
    (1, 1, 64, 64),
    (100, 1, 64, 64),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 16, 128, 128),
    (100, 32, 256, 256),
    (50, 64, 512, 512),
    (25, 128, 1024, 1024),
)
"""(T, B, I, H): one frame; sequences at batch 1 whose R lies in L1, L2, L3; then batches up to training size."""

QUICK_SIZES = ((1, 1, 64, 64), (100, 1, 64, 64), (100, 16, 128, 128))


@dataclass(frozen=True)
class Case:
    """One point to measure: a cell, what is run, how much of it, and on how many threads."""

    cell: str
    mode: str
    threads: int
    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"

    @property
    def size(self) -> str:
        return f"T{self.T}-B{self.B}-I{self.I}-H{self.H}"

    @property
    def id(self) -> str:
        return f"{self.cell}-{self.mode}-{self.size}-{self.dtype.replace('float', 'f')}-{self.threads}t"

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products; a training pass counts as three forward passes."""
        forward = 2 * self.T * self.B * GATES[self.cell] * self.H * (self.I + self.H)
        return forward if self.mode == "forward" else 3 * forward

    @property
    def recurrent_bytes(self) -> int:
        """Bytes of R (G*H, H)."""
        return GATES[self.cell] * self.H * self.H * np.dtype(self.dtype).itemsize

    @property
    def input_bytes(self) -> int:
        """Bytes of W (G*H, I)."""
        return GATES[self.cell] * self.H * self.I * np.dtype(self.dtype).itemsize

    def matches(self, pattern: str) -> bool:
        """Whether `pattern` (with shell wildcards) occurs in the id as whole dash-separated fields."""
        return fnmatch(f"-{self.id}-", f"*-{pattern}-*")


def default_threads() -> tuple[int, ...]:
    """1, 2 and every core, as far as this machine has them."""
    cores = processors()
    return tuple(sorted({n for n in (1, 2, cores) if n <= cores}))


def table(cells=CELLS, modes=MODES, threads=None, sizes=SIZES, dtype="float32", pattern=None) -> list[Case]:
    """Every case of the given cells, modes, thread counts and sizes whose id matches `pattern`."""
    cases = [
        Case(cell, mode, n, *size, dtype=dtype)
        for cell in cells
        for size in sizes
        for mode in modes
        for n in (threads or default_threads())
    ]
    return [case for case in cases if pattern is None or case.matches(pattern)]


@dataclass(frozen=True)
class Problem:
    """The arrays every competitor gets for one case, in PyTorch's names, gate orders and shapes."""

    cell: str
    parameters: dict[str, np.ndarray]  # weight_ih_l0 (G*H, I), weight_hh_l0 (G*H, H), bias_ih_l0, bias_hh_l0 (G*H)
    x: np.ndarray  # (T, B, I)
    state: dict[str, np.ndarray]  # h_0 (1, B, H) and, for the LSTM, c_0 (1, B, H)
    dy: np.ndarray  # (T, B, H)
    dstate: dict[str, np.ndarray]  # h_n (1, B, H) and, for the LSTM, c_n (1, B, H)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return (*self.x.shape, self.dy.shape[-1])


def problem(case: Case, seed: int = 0) -> Problem:
    """Draw weights uniform in ±1/sqrt(H); inputs, initial states and upstream gradients from the normal distribution.

    Thread counts and modes share their numbers; a float64 case has the float32 case's numbers, widened.
    """
    random = np.random.default_rng([seed, CELLS.index(case.cell), case.T, case.B, case.I, case.H])
    rows, bound = GATES[case.cell] * case.H, case.H**-0.5

    def uniform(*shape):
        return random.uniform(-bound, bound, shape).astype(np.float32).astype(case.dtype)

    def normal(*shape):
        return random.standard_normal(shape, dtype=np.float32).astype(case.dtype)

    states = ("h", "c") if case.cell == "lstm" else ("h",)
    return Problem(
        cell=case.cell,
        parameters={
            "weight_ih_l0": uniform(rows, case.I),
            "weight_hh_l0": uniform(rows, case.H),
            "bias_ih_l0": uniform(rows),
            "bias_hh_l0": uniform(rows),
        },
        x=normal(case.T, case.B, case.I),
        state={f"{s}_0": normal(1, case.B, case.H) for s in states},
        dy=normal(case.T, case.B, case.H),
        dstate={f"{s}_n": normal(1, case.B, case.H) for s in states},
    )
