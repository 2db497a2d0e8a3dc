"""`python -m fastrnn compare`: RNN, GRU and LSTM side by side, and the claims about them tested."""

import argparse
import platform
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn import __version__
from fastrnn.blas import use_one_thread
from fastrnn.commands import INTERRUPTED
from fastrnn.commands.display import Display, best_display, count
from fastrnn.commands.numbers import above_zero, integer
from fastrnn.host import commit, cpu_name, memory
from fastrnn.processor import processors

from . import learners, results
from .board import Board, describe
from .contenders import CONTENDERS
from .costs import measure_costs
from .jobs import Job, do
from .processes import interrupt_ignored, perform
from .report import check_page, write_docs, write_report
from .results import Results
from .settings import DEFAULT, QUICK, TASKS, Settings, as_mapping, differences
from .store import Store, plain, write

SEEDS, QUICK_SEEDS = 5, 2
_LONGEST, _LARGEST = 100_000, 4096  # steps, units: beyond, nothing here would end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options. `arguments.refuse(reason)` then ends the program over a wrong one."""
    parser.set_defaults(refuse=parser.error)
    size, training = partial(integer, most=_LARGEST), DEFAULT.training
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for results, report and plots; what is done "
                        "already is not done again (fastrnn-comparison, with -quick behind it if so)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="shorter sequences, fewer updates and seeds: some minutes")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, metavar="TASK",
                        help=f"of {', '.join(TASKS)} (all)")  # fmt: skip
    parser.add_argument(
        "--contenders", nargs="+", choices=tuple(CONTENDERS), metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (all)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=size, metavar="N", help=f"trainings of each ({SEEDS}; quick: {QUICK_SEEDS})")
    parser.add_argument("--processes", type=size, metavar="N", help="at once (one for each processor)")
    group = parser.add_argument_group("sizes")
    group.add_argument("--hidden", type=size, metavar="N", help=f"units of a layer ({DEFAULT.hidden})")
    group.add_argument("--equal-parameters", action="store_true", help="give all as many parameters as the LSTM, "
                       "instead of as many units")  # fmt: skip
    for option, (name, least, what) in _LENGTHS.items():
        defaults = f"({getattr(DEFAULT, name)}; quick: {getattr(QUICK, name)})"
        limits = partial(integer, least=least, most=_LONGEST)
        group.add_argument(option, dest=name, type=limits, metavar="N", help=f"{what} {defaults}")
    group = parser.add_argument_group("training, of every task alike")
    updates = f"{min(t.updates for t in training.values())} to {max(t.updates for t in training.values())}, by task"
    group.add_argument("--updates", type=integer, metavar="N", help=f"of the parameters ({updates}; quick: fewer)")
    group.add_argument("--batch", type=size, metavar="N", help=f"sequences in an update ({training['adding'].batch})")
    group.add_argument("--learning-rate", type=above_zero, metavar="X", help="of Adam at its peak "
                       f"({training['adding'].learning_rate:g})")  # fmt: skip
    group = parser.add_argument_group("what comes of it")
    group.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="run nothing: report on this results.json, to --out, --docs or both",
    )
    group.add_argument("--docs", type=Path, metavar="PAGE", help="fill the marked blocks of this Markdown page too, "
                       "and put results and plots into the folder of its name beside it")  # fmt: skip
    parser.add_argument("--plain", action="store_true", help="plain text, even where rich is installed")


_LENGTHS = {  # option: the field of the settings, the least that makes sense, and what it is
    "--length": ("length", 2, "steps of the adding problem"),
    "--delay": ("delay", 1, "steps for which copying waits"),
    "--parity-length": ("parity_length", 2, "steps of the parity task"),
}


_OF_A_RUN = (
    "quick", "tasks", "contenders", "seeds", "processes", "hidden", "equal_parameters", "length", "delay",
    "parity_length", "updates", "batch", "learning_rate",
)  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Do what the options say. Returns the exit status."""
    if arguments.docs is not None:
        _check_page(arguments)
    if find_spec("matplotlib") is None:
        arguments.refuse("the plots need matplotlib: pip install matplotlib")
    show = best_display(arguments.plain)
    if arguments.source is not None:
        return _report_only(arguments, show)
    settings = _settings(arguments)
    tasks = _in_order(arguments.tasks or TASKS, TASKS)
    contenders = _in_order(arguments.contenders or CONTENDERS, CONTENDERS)
    seeds = arguments.seeds or (QUICK_SEEDS if arguments.quick else SEEDS)
    baselines = _baselines(arguments, settings, tasks)
    processes = arguments.processes or processors()
    _check_memory(arguments, settings, processes)
    store = _open(arguments, settings)
    jobs = make_jobs(tasks, contenders, seeds)
    work = f"{count(len(jobs), 'job')} in {count(processes, 'process', 'es')}"
    show.say(f"{settings.size}: {work}, results in {store.folder}")
    try:
        failed = _do_jobs(show, store, settings, jobs, baselines, processes)
        costs = _costs(show, store, settings)
        found = _gather(store, settings, jobs, costs, baselines, failed)
        _report(show, found, store.folder, arguments.docs)
    except KeyboardInterrupt:
        with interrupt_ignored():
            done = sum(_result(store, job) is not None for job in jobs)
            show.say(f"Interrupted: {done} of {len(jobs)} jobs are done; the same command goes on from there")
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads standard output any more
        raise
    except OSError as error:
        print(f"The comparison ended, and what is done is kept: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def make_jobs(tasks: Sequence[str], contenders: Sequence[str], seeds: int) -> list[Job]:
    """All that is to be done, seed by seed, so that an interrupted comparison has some of everything."""
    return [
        job
        for seed in range(seeds)
        for job in (
            *(Job(seed, task, contender, closely=seed == 0) for task in tasks for contender in contenders),
            *([Job(seed)] if "rnn" in contenders else []),
        )
    ]


def _settings(arguments: argparse.Namespace) -> Settings:
    settings = replace(QUICK if arguments.quick else DEFAULT, equal_parameters=arguments.equal_parameters)
    names = ("hidden", *(name for name, _, _ in _LENGTHS.values()))
    settings = replace(settings, **{name: getattr(arguments, name) for name in names if getattr(arguments, name)})
    names = ("updates", "batch", "learning_rate")
    return settings.changed(**{name: getattr(arguments, name) for name in names if getattr(arguments, name)})


def _baselines(arguments: argparse.Namespace, settings: Settings, tasks: Sequence[str]) -> dict[str, float]:
    """Of the made-up tasks what no memory achieves, of the text what counting does."""
    found = {task: settings.task(task).baseline for task in tasks if task != "text"}
    if "text" in tasks:
        try:
            learners.check_text(settings)
            found["text"] = learners.trigram()
        except ImportError:
            arguments.refuse("argument --tasks: text: this Python lacks its language reference, pydoc_data.topics")
        except ValueError as error:
            arguments.refuse(str(error))
    return plain(found)


def _check_memory(arguments: argparse.Namespace, settings: Settings, processes: int) -> None:
    needed, there = processes * learners.memory(settings), memory()
    if there is not None and needed > there:
        arguments.refuse(
            f"--length, --hidden, --batch: {processes} processes would need about {needed / 1e9:,.0f} GB of memory, "
            f"and there are {there / 1e9:,.0f}"
        )


def _open(arguments: argparse.Namespace, settings: Settings) -> Store:
    """The folder, made if need be, and only if what is in it belongs to these settings."""
    folder = arguments.out or Path("fastrnn-comparison" + ("-quick" if arguments.quick else ""))
    store = Store(folder)
    try:
        there = store.settings
        different = differences(there, as_mapping(settings)) if there is not None else []
        if different:
            arguments.refuse(
                f"argument --out: {str(folder)!r} holds results of other settings ({'; '.join(different)}): "
                "take the same, or another folder"
            )
        store.begin(as_mapping(settings))  # again, too: this finds out whether it can be written to
    except OSError as error:
        arguments.refuse(f"argument --out: {str(folder)!r}: {error.strerror}")
    except ValueError as error:
        arguments.refuse(f"argument --out: {str(folder)!r}: {error}")
    return store


def _in_order(chosen: Iterable[str], order: Iterable[str]) -> list[str]:
    """Without repeats, in the usual order."""
    wanted = set(chosen)
    return [name for name in order if name in wanted]


def _machine() -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "processors": processors(),
        "fastrnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": version("numba"),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _do_jobs(
    show: Display, store: Store, settings: Settings, jobs: Sequence[Job], baselines: dict[str, float], processes: int
) -> list[str]:
    """Do what is not done yet. Returns a line for each job that failed."""
    failed = []
    with show.live() as live:
        board = Board(live, jobs, baselines)
        left = []
        for job in jobs:
            there = _result(store, job)
            if there is None:
                left.append(job)
            else:
                board.have(job, there.loss if isinstance(there, results.Run) else None)
        board.show()
        with closing(perform([(settings, job) for job in left], do, processes)) as events:
            for event in events:
                event = replace(event, job=event.job[1])
                if event.kind == "finished":
                    store.save(event.job.name, event.value)
                elif event.kind == "failed":
                    failed.append(f"{describe(event.job)}: {event.value.splitlines()[-1]}")
                board.take(event)
    return failed


def _result(store: Store, job: Job) -> results.Run | list[results.Scaled] | None:
    """What the job came to; None if it is not done, or what there is in place of its result is none."""
    found = store.load(job.name)
    if found is None:
        return None
    try:
        if job.task is None:
            return [results.Scaled(**each) for each in found["scaled"]]
        return results.run_from({**found, "task": job.task, "contender": job.contender, "seed": job.seed})
    except (TypeError, KeyError):
        return None


def _costs(show: Display, store: Store, settings: Settings) -> dict[str, results.Cost]:
    """Measured after the rest, with the processors free; or as measured before."""
    found = store.load("costs")
    if found is not None and found.keys() == CONTENDERS.keys():
        with suppress(TypeError):  # of what is something else
            return results.costs_from(found)
    use_one_thread()
    with show.waiting("Timing a step of each"):
        found = plain(measure_costs(settings))
    store.save("costs", found)
    return results.costs_from(found)


def _gather(
    store: Store,
    settings: Settings,
    jobs: Sequence[Job],
    costs: dict[str, results.Cost],
    baselines: dict[str, float],
    failed: list[str],
) -> Results:
    runs: list[results.Run] = []
    scaled: list[results.Scaled] = []
    for job in jobs:
        found = _result(store, job)
        if isinstance(found, results.Run):
            runs.append(found)
        elif found is not None:
            scaled += found
    looked_at = next((run.task for run in runs), None)
    runs = [run if run.task == looked_at else run.without_details() for run in runs]
    return Results(settings, runs, scaled, costs, baselines, _machine(), failed)


def _report(show: Display, found: Results, folder: Path | None, page: Path | None) -> None:
    if folder is not None:
        write(folder / "results.json", results.as_json(found))
        for path in write_report(show, found, folder):
            show.say(f"wrote {path}")
    if page is not None:
        for path in write_docs(found, page):
            show.say(f"wrote {path}")


def _report_only(arguments: argparse.Namespace, show: Display) -> int:
    for name in _OF_A_RUN:
        if getattr(arguments, name):
            arguments.refuse(f"argument --{name.replace('_', '-')}: not allowed with --from, which runs nothing")
    if arguments.out is None and arguments.docs is None:
        arguments.refuse("argument --from: it needs --out, --docs or both, to say where to write")
    try:
        found = results.load(arguments.source)
    except OSError as error:
        arguments.refuse(f"argument --from: {str(arguments.source)!r}: {error.strerror}")
    except ValueError as error:
        arguments.refuse(f"argument --from: {error}")
    if arguments.out is not None:
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            arguments.refuse(f"argument --out: {str(arguments.out)!r}: {error.strerror}")
    try:
        _report(show, found, arguments.out, arguments.docs)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"The report could not be written: {error}", file=sys.stderr)
        return 1
    return 0


def _check_page(arguments: argparse.Namespace) -> None:
    """Before anything is run."""
    page = arguments.docs
    try:
        check_page(page.read_text(encoding="utf-8"))
    except OSError as error:
        arguments.refuse(f"argument --docs: {str(page)!r}: {error.strerror}")
    except ValueError as error:
        arguments.refuse(f"argument --docs: {str(page)!r}: {error}")
