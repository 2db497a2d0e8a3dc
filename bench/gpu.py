"""`python -m bench.gpu`: on a machine with an NVIDIA GPU, the device tests, the floors, and the layers beside cuDNN.

It ends within its budget: what does not fit is left out, and the results say so. The results file,
`bench/results/NAME-gpu.json`, holds "software", "source", "date" and "environment" as those of `bench.results`, and

    "device"   name, multiprocessors and compute capability
    "tests"    [{"name", "error": the largest relative norm, or null, "failure": what was wrong, or null}]
    "floors"   {"barrier": seconds of one, or null, "bytes": B/s, "flops": {precision: FLOP/s}}
    "points"   [{"cell", "mode", "T", "B", "H", "timings": {name: as in `bench.results`}, "refused": {name: why}}]
    "skipped"  names of the tests and points for which no time was left
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from bench import gpu_cases, machine
from bench.gpu_report import load, write_page
from bench.pytorch import save
from bench.results import FOLDER

SCHEMA = 1
EXIT_WRONG_RESULTS = 1
EXIT_REFUSED = 2
PARTS = ("tests", "floors", "speed")
BUDGET = 450  # seconds


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; leaves the docs alone")
    parser.add_argument("--cells", nargs="+", choices=gpu_cases.CELLS, default=gpu_cases.CELLS)
    parser.add_argument("--seconds", type=float, default=BUDGET, help=f"for all together ({BUDGET})")
    parser.add_argument("--name", help="of the results file; by default the GPU's, with -gpu behind it")
    parser.add_argument("--plan", action="store_true", help="print what would run, on any machine, and end")
    parser.add_argument("--report-only", action="store_true", help="measure nothing: write the docs from the results")
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error(f"--seconds: expected more than 0, got {options.seconds:g}")
    if options.report_only and not options.name:
        parser.error("--report-only: expected --name too, that of a results file")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run and write; the exit status."""
    options = parse(arguments)
    if options.plan:
        print(plan(options))
        return 0
    if options.report_only:
        path = FOLDER / f"{options.name}.json"
        if not path.exists():
            return refuse(f"--name: no results {options.name!r} in {FOLDER.name}/")
        print("wrote", write_page(load(path)))
        return 0
    missing = what_is_missing()
    if missing:
        return refuse(missing)
    return run(options)


def refuse(why: str) -> int:
    print(f"python -m bench.gpu: error: {why}", file=sys.stderr)
    return EXIT_REFUSED


def what_is_missing() -> str | None:
    """Why nothing can be measured here; None if it can."""
    from fastrnn.cuda import requirements

    if requirements.simulated():
        return "NUMBA_ENABLE_CUDASIM is set, and a simulator is not a GPU"
    try:
        requirements.check()
    except requirements.CudaUnavailable as error:
        return str(error)
    if not requirements.has_torch():
        return "cuDNN is measured through a PyTorch with CUDA, which is not installed: https://pytorch.org"
    return None


def plan(options: argparse.Namespace) -> str:
    """What a run does, in its order."""
    lines = [f"at most {options.seconds:g} s; what does not fit is left out"]
    if "tests" in options.only:
        lines += [f"test   {name}" for name in gpu_cases.device_tests(options.cells)]
    if "floors" in options.only:
        lines += [f"floor  {name}" for name in gpu_cases.FLOORS]
    if "speed" in options.only:
        points = gpu_cases.grid(options.cells)
        lines += [f"time   {point.id}: {', '.join(gpu_cases.NAMES)}" for point in points]
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    """All parts, one after the other, and the files."""
    from fastrnn.kernels.cuda.launch import device_description

    from bench import gpu_floors, gpu_speed, gpu_tests

    deadline = time.monotonic() + options.seconds
    description = machine.describe()
    device = device_description()
    name = options.name or machine.words(device.partition(",")[0]) + "-gpu"
    results = {"schema": SCHEMA, "name": name, "device": device, **description}
    results["software"] |= gpu_speed.versions()
    results |= {"tests": [], "floors": None, "points": [], "skipped": []}
    path = FOLDER / f"{name}.json"
    if "tests" in options.only:
        tests = {each: lambda each=each: gpu_tests.run(each) for each in gpu_cases.device_tests(options.cells)}
        results["tests"] = in_time(tests, deadline, results["skipped"])
    if "floors" in options.only:
        results["floors"] = gpu_floors.measure()
    save(results, path)  # it outlives whatever the rest may meet
    if "speed" in options.only:
        points = {each.id: lambda each=each: gpu_speed.measure(each) for each in gpu_cases.grid(options.cells)}
        results["points"] = in_time(points, deadline, results["skipped"])
    save(results, path)
    print("wrote", path)
    if set(options.only) == set(PARTS) and set(options.cells) == set(gpu_cases.CELLS):
        print("wrote", write_page(results))
    wrong = [f"{test['name']}: {test['failure']}" for test in results["tests"] if test["failure"]]
    wrong += [f"{who}: {why}" for point in results["points"] for who, why in point["refused"].items()]
    for line in wrong:
        print("failed:", line, file=sys.stderr)
    if results["skipped"]:
        print(f"no time for {len(results['skipped'])} of them; --seconds gives more", file=sys.stderr)
    return EXIT_WRONG_RESULTS if wrong else 0


def in_time(
    work: dict[str, Callable[[], dict]],
    deadline: float,
    skipped: list[str],
    clock: Callable[[], float] = time.monotonic,
) -> list[dict]:
    """What each piece of work gives, as long as it can be expected to end in time: as the longest one so far would."""
    found, longest = [], 0.0
    for name, each in work.items():
        start = clock()
        if start + longest > deadline:
            skipped.append(name)
            continue
        found.append(each())
        longest = max(longest, clock() - start)
        print(f"{name}: {clock() - start:.1f} s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
