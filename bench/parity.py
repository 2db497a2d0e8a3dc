"""The gate in front of the clock: no competitor is timed whose outputs or gradients are wrong.

All are held against one oracle, fastrnn's NumPy reference in float64, and so against each other: where PyTorch and
ONNX Runtime pass, the oracle itself is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np

from bench.cases import Case, problem
from bench.competitors import Runner, Unsupported, prepare_fastrnn

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
"""Largest error allowed, as a share of the array's largest entry. Rounding alone brings PyTorch to 2e-6 on these cases,
its largest being a bias gradient summed over 3200 frames; a wrong gate, a missing term or a race errs by 1e-2."""


def expected(case: Case) -> dict[str, np.ndarray]:
    """Outputs (and for training gradients) of a case, in float64."""
    wide = Case(case.cell, case.mode, 1, case.T, case.B, case.I, case.H, "float64")
    return _expected(wide)


@lru_cache(maxsize=1)  # the thread counts of a case follow each other and share it
def _expected(wide: Case) -> dict[str, np.ndarray]:
    runner = prepare_fastrnn(problem(wide), wide.mode, 1, backend="reference")
    return runner.outputs(runner.call())


def gate(
    names: Iterable[str], prepare: Callable[[str], Runner], wrong: Callable[[str, Runner], str | None]
) -> tuple[dict[str, Runner], dict[str, str]]:
    """The runners of those that may be timed, and for each of the others why it may not.

    prepare  makes a runner; Unsupported, from here or from `wrong`, leaves it out of both
    wrong    what is wrong with the runner's results
    """
    runners, refused = {}, {}
    for name in names:
        try:
            runner = prepare(name)
            reason = wrong(name, runner)
        except Unsupported:
            continue
        except Exception as error:  # one that fails is one refused: reported, and the run ends in error
            reason = f"{type(error).__name__}: {error}"
        if reason:
            refused[name] = reason
        else:
            runners[name] = runner
    return runners, refused


def check(runner: Runner, oracle: dict[str, np.ndarray], dtype: str) -> str | None:
    """Call the runner once and compare everything it computed. None when all agree, else what does not."""
    computed = runner.outputs(runner.call())
    if computed.keys() != oracle.keys():
        return f"computed {sorted(computed)}, expected {sorted(oracle)}"
    wrong = []
    for name, right in oracle.items():
        array = np.asarray(computed[name])
        if array.shape != right.shape:
            wrong.append(f"{name}: shape {array.shape}, expected {right.shape}")
            continue
        error = np.max(np.abs(array - right)) / np.max(np.abs(right))
        if not error <= TOLERANCE[dtype]:  # written so that NaN fails
            wrong.append(f"{name}: error {error:.1e}, allowed {TOLERANCE[dtype]:.0e}")
    return "; ".join(wrong) or None
