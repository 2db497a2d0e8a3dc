"""`python -m bench.pytorch`: what fastrnn.torch gains inside PyTorch; writes the results and docs/pytorch.md's tables.

The results file, `bench/results/NAME.json`, holds "machine", "software", "source", "date" and "environment" as those of
`bench.results`, and

    "points": [{"section", "cell", "mode", "threads", "size",
                "timings": {name: {"median", "p10", "p90": seconds for one call, "rounds", "repetitions",
                                   "samples": seconds for one call in each round}},
                "work": {name: rows of all steps}, where they differ}]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from bench import machine, timing
from bench.cases import default_threads
from bench.options import add_threads, refuse_threads
from bench.results import FOLDER, write

SCHEMA = 1
EXIT_WRONG_RESULTS = 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    from bench.pytorch_cases import SECTIONS

    parser = argparse.ArgumentParser(prog="python -m bench.pytorch", description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    add_threads(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes, little time for each; leaves the docs alone")
    parser.add_argument("--seconds-per-case", type=float, metavar="S", help="time for all calls of a case (1)")
    parser.add_argument("--name", help="of the results file, before -pytorch; by default the processor's")
    parser.add_argument("--report-only", action="store_true", help="measure nothing: write the docs from the results")
    options = parser.parse_args(arguments)
    refuse_threads(parser, options)
    if options.seconds_per_case is None:
        options.seconds_per_case = 0.05 if options.quick else 1.0
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; the exit status."""
    from bench.pytorch_cases import SECTIONS
    from bench.pytorch_report import write_page

    options = parse(arguments)
    description = machine.describe()
    whole = not options.quick and set(options.sections) == set(SECTIONS) and options.threads is None
    name = f"{options.name or machine.slug(description['machine'])}-pytorch"  # no other benchmark's results
    if not whole and not options.name:
        name += "-selected"
    path = FOLDER / f"{name}.json"
    if options.report_only:
        if not path.exists():
            raise SystemExit(f"no results {name!r} in {FOLDER.name}/")
        print("wrote", write_page(json.loads(path.read_text(encoding="utf-8"))))
        return 0
    results = {
        "schema": SCHEMA,
        "name": name,
        **description,
        "settings": {"seconds_per_case": options.seconds_per_case},
    }
    results["points"], wrong = measure(options)
    write(results, path)
    print("wrote", path)
    if whole and not wrong:
        print("wrote", write_page(results))
    for line in wrong:
        print("wrong results:", line, file=sys.stderr)
    return EXIT_WRONG_RESULTS if wrong else 0


def measure(options: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """The points, and what was not timed because results disagreed."""
    from bench.pytorch_cases import cases

    points, wrong = [], []
    for case in cases(tuple(options.sections), tuple(options.threads or default_threads()), options.quick):
        disagreement = case.disagreement()
        if disagreement:
            wrong.append(f"{case.id}: {disagreement}")
            continue
        timings = timing.measure(case.runners(), options.seconds_per_case)
        shown = ", ".join(f"{name} {1e3 * timed.median:.4g} ms" for name, timed in timings.items())
        print(f"{case.id}: {shown}", flush=True)
        points.append(
            {
                "section": case.section,
                "cell": case.cell,
                "mode": case.mode,
                "threads": case.threads,
                "size": case.size,
                "timings": {name: asdict(timed) for name, timed in timings.items()},
            }
            | ({"work": case.work} if case.work else {})
        )
    return points, wrong


if __name__ == "__main__":
    sys.exit(main())
