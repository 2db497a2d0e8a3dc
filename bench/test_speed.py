"""The bench's cases under pytest-benchmark: `pytest bench -k "lstm and B1"`, competitors of a case side by side.

Results are checked before they are timed; no time is a failure. The competitors do not take turns here as they do in
`python -m bench`, which is where published figures come from.
"""

from __future__ import annotations

import pytest

from bench import parity
from bench.cases import problem, table
from bench.competitors import COMPETITORS, Unsupported, absent_competitors
from bench.timing import wait_until_quiet

ABSENT = absent_competitors()


@pytest.mark.benchmark(min_rounds=5, max_time=0.5, disable_gc=True, warmup=True, warmup_iterations=2)
@pytest.mark.parametrize("name", COMPETITORS)
@pytest.mark.parametrize("case", table(), ids=lambda case: case.id)
def test_speed(case, name, benchmark):
    if name in ABSENT:
        pytest.skip(ABSENT[name])
    try:
        runner = COMPETITORS[name](problem(case), case.mode, case.threads)
    except Unsupported as error:
        pytest.skip(str(error))
    if runner.sample is not None:
        pytest.skip("it times its calls in a process of its own")
    runner.set_threads()
    wrong = parity.check(runner, parity.expected(case), case.dtype)
    assert wrong is None, wrong
    benchmark.group = case.id
    wait_until_quiet()
    benchmark(runner.call)
