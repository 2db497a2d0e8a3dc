"""The kernels' sigmoid and tanh on all 2³² float32 numbers: `python -m bench.elementary`.

Prints the largest error of each in units in the last place, and where; writes `bench/results/elementary.json`. The exit
status is 1 if an error is above 2, a function falls anywhere, or NaN does not stay NaN. References are the C library's,
in float64.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache

import fastrnn.kernels.elementary  # noqa: F401  what makes them functions of vectors
import numpy as np
from fastrnn.kernels import functions
from fastrnn.kernels.simd import vectors
from fastrnn.kernels.target import vector_unit
from numba import njit

from bench import machine
from bench.results import FOLDER, write
from fastrnn.processor import processors

LIMIT = 2.0
"""The largest error allowed, in units in the last place."""
INFINITY = 0x7F800000
"""The bits of float32's inf: those above it, up to the sign, are NaN."""
NEGATIVE = 0x80000000
_AT_ONCE = 1 << 14  # numbers whose values and references stay in the cache


@njit
def _sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


# the kernels' function, and the same in float64
FUNCTIONS = {
    "sigmoid": (functions.sigmoid, _sigmoid),
    "tanh": (functions.tanh, njit(lambda x: math.tanh(x))),
}


@cache
def evaluator(function: Callable, dtype: str, lanes: int) -> Callable:
    """A compiled `evaluate(x, out)`: one of the kernels' functions on contiguous arrays, `lanes` numbers at a time."""
    vector = vectors(dtype, lanes)
    load, store, size = vector.load, vector.store, vector.itemsize

    @njit(nogil=True)
    def evaluate(x, out):
        source, target = x.ctypes.data, out.ctypes.data
        for i in range(0, len(x), lanes):
            store(target + i * size, len(x) - i, function(load(source + i * size, len(x) - i)))

    return evaluate


@dataclass(frozen=True)
class Verdict:
    """On one function over some inputs; an input is given by its bits, -1 means there is none."""

    error: float  # the largest, in units in the last place
    worst: int  # where
    falls: int  # how many inputs have a value below that of their smaller neighbour
    falls_at: int  # one of them
    not_nan: int  # a NaN whose value is a number

    @property
    def good(self) -> bool:
        return self.error <= LIMIT and self.falls == 0 and self.not_nan < 0


def _reciprocal_units() -> np.ndarray:
    """For each exponent field of a float64, 1 / (the last place of a float32 of that size)."""
    exponents = np.arange(2048) - 1023
    return np.ldexp(1.0, np.minimum(23 - exponents, 149))


@cache
def _judge(name: str) -> Callable:
    """A compiled `judge(first, count)` of inputs with the bits first, first + 1, ..., all of one sign."""
    function, reference = FUNCTIONS[name]
    evaluate = evaluator(function, "float32", vector_unit().lanes(4))
    units = _reciprocal_units()
    infinity, negative, at_once = INFINITY, NEGATIVE, _AT_ONCE

    @njit(nogil=True, error_model="numpy")
    def judge(first, count):
        bits = np.empty(at_once, np.uint32)
        x = bits.view(np.float32)
        y = np.empty(at_once, np.float32)
        expected = np.empty(at_once, np.float64)
        expected_bits = expected.view(np.int64)
        error, worst, falls, falls_at, not_nan = -1.0, -1, 0, -1, -1
        up = 1.0 if first < negative else -1.0  # among negative numbers, larger bits are smaller numbers
        before = -math.inf
        for start in range(first, first + count, at_once):
            here = min(at_once, first + count - start)
            for i in range(here):
                bits[i] = start + i
            evaluate(x[:here], y[:here])
            for i in range(here):
                # beyond the largest float32 the next place would be 2¹²⁸: that is what inf stands for
                expected[i] = min(reference(np.float64(x[i])), 2.0**128)
            for i in range(here):
                if (start + i) & (negative - 1) > infinity:
                    if not math.isnan(y[i]):
                        not_nan = start + i
                    continue
                value = min(np.float64(y[i]), 2.0**128)
                distance = abs(value - expected[i]) * units[expected_bits[i] >> 52 & 2047]
                if math.isnan(y[i]):
                    distance = math.inf
                if distance > error:
                    error, worst = distance, start + i
                if not up * value >= before:
                    falls, falls_at = falls + 1, start + i
                before = up * value
        return error, worst, falls, falls_at, not_nan

    return judge


def judge(name: str, ranges: Iterable[tuple[int, int]]) -> Verdict:
    """The verdict on ranges of inputs (bits of the first, how many), each within one sign; ranges run in parallel."""
    compiled = _judge(name)
    compiled(0, 1)
    with ThreadPoolExecutor(processors()) as pool:
        parts = list(pool.map(lambda part: Verdict(*compiled(*part)), ranges))
    worst = max(parts, key=lambda part: part.error)
    return Verdict(
        worst.error,
        worst.worst,
        sum(part.falls for part in parts),
        max(part.falls_at for part in parts),
        max(part.not_nan for part in parts),
    )


def all_numbers(size: int = 1 << 24) -> list[tuple[int, int]]:
    """Ranges that cover all 2³² inputs; each begins with the last one of the range before."""
    ranges = []
    for sign in (0, NEGATIVE):
        for first in range(sign, sign + NEGATIVE, size):
            overlap = int(first > sign)
            ranges.append((first - overlap, size + overlap))
    return ranges


def number(bits: int) -> float:
    """The float32 with these bits."""
    return float(np.uint32(bits).view(np.float32))


def main(arguments: list[str] | None = None) -> int:
    """Judge every function on every number; the exit status."""
    purpose = "Judge the kernels' sigmoid and tanh on every float32 number, and write the results."
    argparse.ArgumentParser(prog="python -m bench.elementary", description=purpose).parse_args(arguments)
    verdicts = {name: judge(name, all_numbers()) for name in FUNCTIONS}
    for name, verdict in verdicts.items():
        print(
            f"{name}: at most {verdict.error:.3f} ulp, at {number(verdict.worst).hex()} = {number(verdict.worst):.9g}"
        )
        if verdict.falls:
            print(f"{name}: falls {verdict.falls} times, once at {number(verdict.falls_at).hex()}")
        if verdict.not_nan >= 0:
            print(f"{name}: a number for the NaN with bits {verdict.not_nan:#x}")
    found = {name: asdict(verdict) | {"worst": number(verdict.worst).hex()} for name, verdict in verdicts.items()}
    results = {**machine.describe(), "inputs": 2**32, "functions": found}
    print("wrote", write(results, FOLDER / "elementary.json"))
    return 0 if all(verdict.good for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
