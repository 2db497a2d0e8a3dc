"""The command line: `python -m bench` measures everything and writes the results and the docs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.util import find_spec

from bench import details, machine, parity, results, timing
from bench.cases import CELLS, DTYPES, MODES, QUICK_SIZES, SIZES, Case, default_threads, problem, table
from bench.checked import WrongResults
from bench.comparison import times_faster
from bench.competitors import COMPETITORS, LABELS, Runner, absent_competitors
from bench.options import add_threads, refuse_threads
from bench.report import PAGE, shown_on, write_docs
from bench.sections import Effort, sections
from fastrnn.commands import INTERRUPTED

EXIT_WRONG_RESULTS = 1
GRID = "grid"
SHARE_OF_CASE = 5  # a point of another section takes so much less time than a case with all its competitors


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    purpose = "Measure everything, and write the results and the docs."
    parser = argparse.ArgumentParser(prog="python -m bench", description=purpose, allow_abbrev=False)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda has options of its own: --device cuda --help"
    )
    names = (GRID, *sections())
    parser.add_argument("--sections", nargs="+", choices=names, metavar="S", help=f"some of {', '.join(names)}")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS, help="of the grid")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="of the grid")
    add_threads(parser)
    parser.add_argument(
        "--cases", metavar="PATTERN", help="only cases with these fields in their id: T100-B1, 'H*-f32-1t'"
    )
    parser.add_argument("--quick", action="store_true", help="three small sizes, little time for each")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seconds-per-case", type=float, metavar="S", help="time for all competitors of a case (2.5)")
    parser.add_argument("--name", help="of the results file; by default the processor's")
    parser.add_argument(
        "--report-only", action="store_true", help="measure nothing: write the docs from the results file"
    )
    parser.add_argument(
        "--page",
        default=PAGE,
        metavar="P",
        help="docs/P.md and docs/P-details.md, and the table in the README that is marked with P (performance)",
    )
    parser.add_argument("--no-docs", action="store_true", help="write the results file only")
    options = parser.parse_args(arguments)
    refuse_threads(parser, options)
    if options.seconds_per_case is None:
        options.seconds_per_case = 0.2 if options.quick else 2.5
    chosen = is_selection(options) or options.dtype != "float32"
    if options.sections is None:  # whoever asks for a part of the grid wants no more than that
        options.sections = (GRID,) if chosen else names
    if chosen and GRID not in options.sections:
        parser.error(
            "--cells, --modes, --threads, --cases and --dtype choose from the grid, which --sections leaves out"
        )
    if options.page != os.path.basename(options.page):
        parser.error(f"argument --page: expected the name of a page in docs/, got {options.page!r}")
    return options


def split_device(arguments: list[str] | None) -> tuple[str, list[str]]:
    """What --device says, and the other arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench", add_help=False, allow_abbrev=False)
    parser.add_argument("--device")
    options, others = parser.parse_known_args(arguments)
    return options.device, others


def default_name(options: argparse.Namespace, description: dict) -> str:
    """The machine's name, and what sets this run apart from a full one, so that it does not replace its file."""
    name = machine.slug(description["machine"])
    if options.dtype != "float32":
        name += f"-grid-{options.dtype}"  # "-float64" alone is the section's
    if options.quick:
        name += "-quick"
    if is_selection(options):
        name += "-selected"
    return name


def is_selection(options: argparse.Namespace) -> bool:
    """Whether some cells, modes, thread counts or cases are left out."""
    whole = set(options.cells) == set(CELLS) and set(options.modes) == set(MODES) and not options.cases
    return not whole or (options.threads is not None and set(options.threads) != set(default_threads()))


def measure_case(case: Case, absent: dict[str, str], seconds: float) -> results.Measurement:
    """Check every competitor on the case, then time those that passed, interleaved."""
    numbers, oracle = problem(case), parity.expected(case)

    def prepare(name: str) -> Runner:
        runner = COMPETITORS[name](numbers, case.mode, case.threads)
        runner.set_threads()
        return runner

    present = [name for name in COMPETITORS if name not in absent]
    runners, refused = parity.gate(present, prepare, lambda _, runner: parity.check(runner, oracle, case.dtype))
    return results.Measurement(case, timing.measure(runners, seconds) if runners else {}, refused)


def progress(measurement: results.Measurement) -> str:
    """One line for one case."""
    medians = [f"{LABELS[name]} {1e3 * timed.median:.4g} ms" for name, timed in measurement.timings.items()]
    wrong = [f"{LABELS[name]} WRONG ({reason})" for name, reason in measurement.refused.items()]
    ratio = times_faster(measurement)
    faster = [f"{ratio:.2f}x as fast as the best peer"] if ratio else []
    return f"{measurement.case.id}: " + ", ".join([*medians, *faster, *wrong])


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; the exit status."""
    try:
        return run(arguments)
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return INTERRUPTED


def run(arguments: list[str] | None) -> int:
    """As `main`."""
    device, others = split_device(arguments)
    if device == "cuda":
        from bench.gpu import command

        return command.main(others)
    options = parse(arguments)
    description = machine.describe()
    name = options.name or default_name(options, description)
    whole = options.report_only or not (options.quick or is_selection(options) or options.dtype != "float32")
    if whole and not options.no_docs:
        refuse_page(options, name)
    if options.report_only:
        grid, wrong = load(name), []
    else:
        grid = measure(options, name, description) if GRID in options.sections else None
        wrong = measure_details(options, name, description)
    if whole and not options.no_docs:
        pages = write_docs(grid, name=options.page) if grid else []
        for path in [*pages, details.write_page(details.load(name), name=options.page)]:
            print("wrote", path)
    elif not options.no_docs:
        print(f"not a whole run: the docs stay as they are (--report-only --name {name} writes them from this one)")
    wrong += [progress(measurement) for measurement in (grid.measurements if grid else []) if measurement.refused]
    for line in wrong:
        print("wrong results:", line, file=sys.stderr)
    return EXIT_WRONG_RESULTS if wrong else 0


def refuse_page(options: argparse.Namespace, name: str) -> None:
    """End the program, before anything is measured, where the page could not be written, or where it is another
    machine's and these results are only of some sections, or made before."""
    if find_spec("matplotlib") is None:
        raise SystemExit("the docs need matplotlib, for a plot; --no-docs leaves them as they are")
    shown = shown_on(options.page)
    other = shown and not any(each == name or each.startswith(f"{name}-") for each in shown)
    if other and (options.report_only or set(options.sections) != {GRID, *sections()}):
        raise SystemExit(
            f"docs/{options.page}.md shows {min(shown, key=len)}, and these results are called {name}: --page P writes "
            "another page, docs/P.md; --no-docs none"
        )


def measure_details(options: argparse.Namespace, name: str, description: dict) -> list[str]:
    """Measure the other sections that are asked for; what was wrong, in words."""
    effort = Effort(options.seconds_per_case / SHARE_OF_CASE, options.quick)
    try:
        details.measure(options.sections, name, effort, description)
    except WrongResults as error:
        return [str(error)]
    return []


def load(name: str) -> results.Results | None:
    """Results of the grid measured before; None if only other sections were."""
    found = results.names(results.FOLDER)
    if name in found:
        return results.load(results.FOLDER / f"{name}.json")
    if details.load(name):
        return None
    raise SystemExit(f"no results of the grid called {name!r}; there are: {', '.join(found)}")


def measure(options: argparse.Namespace, name: str, description: dict) -> results.Results:
    """Measure the machine, then case by case; the results file is whole after each."""
    cases = table(
        options.cells,
        options.modes,
        options.threads,
        QUICK_SIZES if options.quick else SIZES,
        options.dtype,
        options.cases,
    )
    if not cases:
        raise SystemExit("no case matches")
    absent = absent_competitors()
    for competitor, reason in absent.items():
        print(f"{LABELS[competitor]} is absent: {reason}")
    load = description["machine"]["load_average"]
    if machine.busy(description["machine"]):
        print(f"warning: other programs are running (load average {load}); with them on the cores no time is reliable")
    print("measuring the machine's limits", flush=True)
    start = time.perf_counter()
    threads = sorted({case.threads for case in cases})
    run = results.Results(
        name=name,
        **description,
        settings={"seconds_per_case": options.seconds_per_case},
        limits=machine.measure_limits([options.dtype], threads, samples=2 if options.quick else 5),
        absent=absent,
    )
    for number, case in enumerate(cases, start=1):
        run.measurements.append(measure_case(case, absent, options.seconds_per_case))
        timing.wait_until_quiet()
        run.limits = machine.raise_limits(run.limits, case)  # one look at the start may fall on a busy moment
        run.settings["took"] = time.perf_counter() - start
        path = run.save(results.FOLDER)
        print(f"[{number}/{len(cases)}] {progress(run.measurements[-1])}", flush=True)
    print("wrote", path)
    return run


if __name__ == "__main__":
    sys.exit(main())
