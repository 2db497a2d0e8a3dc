"""`python -m bench --device cuda`: the device tests, the limits of the GPU, and the layers beside cuDNN.

It ends in time: what there is no time for is left out and named, and the results files are whole after each case.

The results file, `bench/results/NAME.json`, holds "machine", "software", "source", "date" and "environment" as those of
`bench.results`, and

    "gpu":      the device
    "tests":    {"tests", "failures", "errors", "skipped": counts, "failed", "left": names}, null if they were left out
    "limits":   {"device": what the plan of the persistent path depends on, "multiply_add": {dtype or "tf32": FLOP/s},
                 "bandwidth": B/s, "launch": s, "barrier": {blocks: s}}
    "points":   [{"case": as in `bench.results`,
                  "timings": {contender: {"median", "p10", "p90": seconds for one call, "rounds", "repetitions",
                              "samples": seconds for one call in each round}},
                  "refused": {contender: why it has no time}}]
    "left":     names of the cases for which there was no time
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import machine, parity, timing
from bench.cases import CELLS, MODES, Case, problem
from bench.gpu import PROGRAM, clock, contenders, floors, grid
from bench.gpu.grid import BATCHES, CONTENDERS, HIDDEN, STEPS
from bench.results import FOLDER, write

SCHEMA = 1
EXIT_WRONG_RESULTS, EXIT_NO_GPU = 1, 2
TESTS = Path(__file__).resolve().parents[2] / "tests" / "cuda_device_cases.py"
TESTS_SHARE = 0.5  # of the time; no test begins later
TESTS_SECONDS = "FASTRNN_DEVICE_TESTS_SECONDS"  # in their environment
LAST_TEST = 90  # seconds that the last one to begin may take, before it counts as hung
SECONDS_PER_CASE = 0.25  # for all contenders of a case


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--hidden", nargs="+", type=_positive, metavar="H", default=HIDDEN)
    parser.add_argument("--batches", nargs="+", type=_positive, metavar="B", default=BATCHES)
    parser.add_argument("--steps", type=_positive, metavar="T", default=STEPS)
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS), default=tuple(CONTENDERS))
    parser.add_argument("--minutes", type=float, default=7.5, help="for everything (7.5); what is left out is named")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--tests-only", action="store_true", help="measure nothing, write nothing")
    parser.add_argument("--plan", action="store_true", help="say what would be done; needs no GPU")
    parser.add_argument("--report-only", action="store_true", help="measure nothing: write the page from the results")
    parser.add_argument("--name", help="of the results file; by default the GPU's")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes < float("inf"):
        parser.error(f"argument --minutes: expected a number above 0, got {options.minutes}")
    if options.no_tests and options.tests_only:
        parser.error("--no-tests and --tests-only leave nothing to do")
    if options.report_only and not options.name:
        parser.error("--report-only: which results? name them with --name")
    return options


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    cases = grid.grid(options.cells, options.modes, options.hidden, options.batches, options.steps)
    if options.plan:
        print(*plan(options, cases), sep="\n")
        return 0
    if options.report_only:
        return report(FOLDER / f"{options.name}.json")
    missing = what_is_missing()
    if missing:
        print(f"{PROGRAM}: error: {missing}", file=sys.stderr)
        return EXIT_NO_GPU
    deadline = time.monotonic() + 60 * options.minutes
    tests = None if options.no_tests else run_tests(60 * options.minutes * TESTS_SHARE)
    failed = tests is not None and not passed(tests)
    if failed:
        print("not all device tests passed: no time below counts before they do", file=sys.stderr)
    if options.tests_only:
        return EXIT_WRONG_RESULTS if failed else 0
    results = measure(options, cases, tests, deadline)
    path = FOLDER / f"{results['name']}.json"
    if is_whole(options):
        report(path)
    refused = [
        f"{grid.name(Case(**point['case']))}: {point['refused']}" for point in results["points"] if point["refused"]
    ]
    for line in refused:
        print("no time:", line, file=sys.stderr)
    return EXIT_WRONG_RESULTS if failed or refused else 0


def plan(options: argparse.Namespace, cases: list[Case]) -> Iterator[str]:
    """What a run with these options does, a line each."""
    if not options.no_tests:
        minutes = TESTS_SHARE * options.minutes
        yield f"the device tests of {TESTS.parent.name}/{TESTS.name}, of which none begins after {minutes:g} minutes"
    if options.tests_only:
        return
    yield "the limits: products in every dtype, a copy, a launch, the barrier"
    yield f"{len(cases)} cases until {options.minutes:g} minutes are over, each by {', '.join(options.contenders)}"
    yield from (f"  {grid.name(case)}" for case in cases)


def what_is_missing() -> str | None:
    """Why nothing can be run here; None if it can."""
    from fastrnn.cuda import requirements

    if requirements.simulated():
        return "NUMBA_ENABLE_CUDASIM is set, and the simulator's times mean nothing"
    try:
        requirements.check()
    except requirements.CudaUnavailable as missing:
        return str(missing)
    if not requirements.has_torch():
        return "needs a PyTorch with CUDA, through which cuDNN is measured"
    return None


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the device tests in a process of their own; counts, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={record}", str(TESTS)]
        environment = os.environ | {TESTS_SECONDS: str(seconds)}
        limit = seconds + LAST_TEST
        try:
            status = subprocess.run(command, cwd=machine.ROOT, env=environment, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            return broken(f"not done after {limit:.0f} s")
        if not record.exists():
            return broken(f"pytest ended with {status}")
        return counts(ElementTree.parse(record).getroot())


def broken(how: str) -> dict[str, Any]:
    """Counts where pytest itself came to no end."""
    return {"tests": 0, "failures": 0, "errors": 1, "skipped": 0, "failed": [how], "left": []}


def counts(root: ElementTree.Element) -> dict[str, Any]:
    """From pytest's record of a run."""
    suites = list(root.iter("testsuite"))
    found: dict[str, Any] = {
        key: sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    }

    def those(*outcomes: str) -> list[str]:
        return [
            case.get("name", "")
            for case in root.iter("testcase")
            if any(case.find(outcome) is not None for outcome in outcomes)
        ]

    return found | {"failed": those("failure", "error"), "left": those("skipped")}


def passed(tests: dict[str, Any]) -> bool:
    """Whether all ran and none failed: one that was left out has shown nothing."""
    return tests["tests"] > 0 and not (tests["failures"] or tests["errors"] or tests["skipped"])


def is_whole(options: argparse.Namespace) -> bool:
    """Whether nothing is left out by the options."""
    return (
        set(options.cells) == set(CELLS)
        and set(options.modes) == set(MODES)
        and set(options.hidden) == set(HIDDEN)
        and set(options.batches) == set(BATCHES)
        and options.steps == STEPS
        and set(options.contenders) == set(CONTENDERS)
        and not options.no_tests
    )


def measure(
    options: argparse.Namespace, cases: list[Case], tests: dict[str, Any] | None, deadline: float
) -> dict[str, Any]:
    """The limits, then case by case; the results file is whole after each."""
    import torch
    from fastrnn.kernels.cuda.launch import device_description

    description = machine.describe()
    description["software"] |= {
        "numba-cuda": version("numba-cuda"),
        "CUDA": torch.version.cuda,
        "cuDNN": str(torch.backends.cudnn.version()),
    }
    name = machine.words(f"gpu {torch.cuda.get_device_name()}") + ("" if is_whole(options) else "-selected")
    name = options.name or name
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        **description,
        "gpu": device_description(),
        "tests": tests,
        "limits": None,
        "points": [],
        "left": [],
    }
    path = FOLDER / f"{name}.json"
    write(results, path)  # the tests' results outlive whatever the rest may meet
    print("measuring the GPU's limits", flush=True)
    results["limits"] = floors.measure()
    measure_cases(results, cases, options.contenders, deadline, path)
    print("wrote", path)
    return results


def measure_cases(
    results: dict[str, Any],
    cases: list[Case],
    names: list[str],
    deadline: float,
    path: Path,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Fill in "points", as long as the next one can be expected to end in time, and "left"."""
    longest = 0.0
    for number, case in enumerate(cases, start=1):
        start = now()
        if start + longest > deadline:
            results["left"] = [grid.name(each) for each in cases[number - 1 :]]
            print(f"no time for {len(results['left'])} cases; --minutes gives more")
            break
        results["points"].append(measure_case(case, names))
        longest = max(longest, now() - start)
        write(results, path)
        print(f"[{number}/{len(cases)}] {progress(results['points'][-1])}", flush=True)
    write(results, path)


def measure_case(case: Case, names: list[str]) -> dict[str, Any]:
    """Check every contender on the case, then time those that passed, interleaved."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # of the case before
    try:
        numbers = contenders.device_problem(problem(case), case.dtype)  # once: the contenders convert it where it is
        dtypes = {CONTENDERS[name].dtype for name in names}
        truths = {dtype: contenders.expected(numbers, case.mode, dtype) for dtype in dtypes}
    except torch.OutOfMemoryError:
        return {"case": asdict(case), "timings": {}, "refused": dict.fromkeys(names, "no memory for the float64 truth")}
    runners, refused = parity.gate(
        names,
        lambda name: contenders.prepare(CONTENDERS[name], numbers, case.mode),
        lambda name, runner: contenders.wrong(runner, truths[CONTENDERS[name].dtype], CONTENDERS[name]),
    )
    runners = {name: replace(runner, sample=partial(clock.sample, runner.call)) for name, runner in runners.items()}
    truths.clear()
    timings = timing.measure(runners, SECONDS_PER_CASE, clock.settle) if runners else {}
    contenders.use_tf32(False)
    return {
        "case": asdict(case),
        "timings": {name: asdict(timed) for name, timed in timings.items()},
        "refused": refused,
    }


def progress(point: dict[str, Any]) -> str:
    """One line for one case."""
    medians = [f"{CONTENDERS[name].label} {1e3 * timed['median']:.4g} ms" for name, timed in point["timings"].items()]
    wrong = [f"{CONTENDERS[name].label} REFUSED ({reason})" for name, reason in point["refused"].items()]
    return f"{grid.name(Case(**point['case']))}: " + ", ".join([*medians, *wrong])


def report(path: Path) -> int:
    """Write the page from a results file."""
    from bench.gpu.report import write_page

    if not path.exists():
        raise SystemExit(f"no results {path.stem!r} in {path.parent.name}/")
    results = json.loads(path.read_text(encoding="utf-8"))
    if results.get("schema") != SCHEMA or "points" not in results or "gpu" not in results:
        raise SystemExit(f"{path}: not results of {PROGRAM} in schema {SCHEMA}")
    print("wrote", write_page(results))
    return 0
