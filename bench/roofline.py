"""The least time a case can take on this machine, from the machine's own measured limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.cases import Case


@dataclass(frozen=True)
class Limits:
    """What the machine was measured to do at best; every key `threads` is a number of threads working at once."""

    multiply_add: dict[str, dict[int, float]]  # dtype -> threads -> FLOP/s
    bandwidth: dict[int, list[tuple[int, float]]]  # threads -> [(bytes each thread reads over and over, B/s of all)]

    def read_seconds(self, size: int, threads: int) -> float:
        """Time to read `size` bytes once, split over the threads, where the caches already hold what they can.

        Between two measured sizes the bandwidth is interpolated over the logarithm of the size.
        """
        sizes, rates = zip(*self.bandwidth[threads], strict=True)
        return size / float(np.interp(np.log(size / threads), np.log(sizes), rates))

    def sizes_around(self, case: Case) -> set[int]:
        """The measured sizes between which those lie that each thread reads in a case."""
        sizes = [size for size, _ in self.bandwidth[case.threads]]
        found: set[int] = set()
        for read in {case.recurrent_bytes, case.input_bytes, case.recurrent_bytes + case.input_bytes}:
            above = next((k for k, size in enumerate(sizes) if size >= read / case.threads), len(sizes) - 1)
            found |= set(sizes[max(above - 1, 0) : above + 1])
        return found

    def covers(self, case: Case) -> bool:
        return case.threads in self.bandwidth and case.threads in self.multiply_add.get(case.dtype, {})


def least_seconds(case: Case, limits: Limits) -> float:
    """Whichever takes longer: the products at the multiply-add peak, or reading the weights.

    R must be read at every step, W once for all steps together; in training once more each for the way back, and the
    gradients of both are written once, counted like a read. At large batches the products rule, at batch 1 the reading.
    """
    products = case.flops / limits.multiply_add[case.dtype][case.threads]
    passes = 1 if case.mode == "forward" else 2
    reading = passes * (
        case.T * limits.read_seconds(case.recurrent_bytes, case.threads)
        + limits.read_seconds(case.input_bytes, case.threads)
    )
    if case.mode == "training":
        reading += limits.read_seconds(case.recurrent_bytes + case.input_bytes, case.threads)
    return max(products, reading)
