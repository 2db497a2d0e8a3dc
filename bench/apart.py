"""A competitor in a process of its own, for libraries whose threads cannot be set while they run.

The process is pinned to as many cores as it may use threads before it imports the library, and times its calls itself,
so that no message between processes is timed. One process serves all cases of a competitor and thread count.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from bench.cases import Problem
from bench.competitors import Runner, Unsupported
from fastrnn.processor import processors


def prepare_apart(competitor: str, problem: Problem, mode: str, threads: int) -> Runner:
    """The competitor's runner in its process. It is of use until the next is made there.

    Unsupported where the system cannot pin a process to fewer cores than there are.
    """
    if threads < processors() and not hasattr(os, "sched_setaffinity"):
        raise Unsupported("its threads cannot be limited here")
    ask = _process(competitor, threads)
    ask("prepare", problem, mode, threads)
    return Runner(
        call=lambda: ask("call"),
        outputs=lambda _: ask("outputs"),
        sample=lambda repetitions: ask("sample", repetitions),
    )


@cache
def _process(competitor: str, threads: int):
    """Start the process; returns `ask(question, *arguments)`, which gives its answer or raises its exception."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, competitor, threads), daemon=True)
    process.start()
    theirs.close()

    def ask(*question: Any) -> Any:
        try:
            ours.send(question)
            answer, error = ours.recv()
        except (EOFError, OSError):
            _process.cache_clear()  # the next case gets a new one
            raise RuntimeError(f"the process of {competitor} has ended") from None
        if error is not None:
            raise RuntimeError(error)
        return answer

    return ask


def _serve(connection: Connection, competitor: str, threads: int) -> None:
    """Answer questions until the other end is closed."""
    if threads < processors():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    from bench import timing
    from bench.jax_model import prepare_jax

    prepare = {"jax": prepare_jax}[competitor]
    runner: Runner | None = None
    result = None
    while True:
        try:
            question, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = None
            if question == "prepare":
                runner = result = None  # the memory of the last one
                runner = prepare(*arguments)
            elif question == "call":
                result = runner.call()
            elif question == "outputs":
                answer = runner.outputs(result)
            elif question == "sample":
                answer = timing.sample(runner, *arguments)
                timing.wait_until_quiet()  # whoever is timed next has the cores
            connection.send((answer, None))
        except Exception as error:
            connection.send((None, "".join(traceback.format_exception_only(error)).strip()))
