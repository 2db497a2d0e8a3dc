"""Jobs in parallel processes: what they report, and what becomes of one whose process dies."""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

Report = Callable[[Any], None]
Function = Callable[[Any, Report], Any]


@dataclass(frozen=True)
class Event:
    """What happened to a job.

    kind    "started"; "reported", with what the job said of itself; "finished", with its result; or "failed", with
            the reason in words
    """

    job: Any
    kind: str
    value: Any = None


def perform(jobs: Sequence[Any], function: Function, processes: int) -> Generator[Event, None, None]:
    """Call `function(job, report)` for each job, in at most `processes` processes at once. Yields what happens.

    A job that raises, or whose process dies, is "failed" and the others go on. When the iteration is closed, or raises,
    the processes are ended. Function, jobs and results are pickled. Ctrl-C is the caller's alone: the
    processes ignore it.
    """
    waiting = list(reversed(jobs))
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < processes:
                with _interrupt_held():  # or the process would be in no list that is ended
                    workers.append(_Worker(function))
                yield workers[-1].give(waiting.pop())
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                event = worker.receive()
                yield event
                if event.kind in ("finished", "failed"):
                    if waiting and worker.alive:
                        yield worker.give(waiting.pop())
                    else:
                        workers.remove(worker)
                        worker.end()
    finally:
        with interrupt_ignored():  # a second Ctrl-C would leave some running
            for worker in workers:
                worker.end()


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, function: Function) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the threads of Numba and BLAS
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.alive = True
        self.job: Any = None

    def give(self, job: Any) -> Event:
        self.job = job
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died: `receive` will find that out
            self.connection.send(job)
        return Event(job, "started")

    def receive(self) -> Event:
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.alive = False
            self.process.join()
            return Event(self.job, "failed", _end_in_words(self.process.exitcode))
        return Event(self.job, kind, value)

    def end(self) -> None:
        self.connection.close()
        if self.alive:
            self.process.terminate()
        self.process.join()
        self.process.close()


@contextmanager
def interrupt_ignored() -> Iterator[None]:
    """Do not hear Ctrl-C: what is done is its consequence already, or soon over."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Hold back Ctrl-C, which a terminal sends to all: a process started here is born deaf to it.

    The caller hears it afterwards. Ignored meanwhile, it would be lost.
    """
    held = []
    resource_tracker.ensure_running()  # which unblocks the signal once it has started
    handler = signal.signal(signal.SIGINT, lambda *_: held.append(True))  # another thread may be the one to get it
    try:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, function: Function) -> None:
    """Do jobs until there is nobody to ask for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # and no longer only hold it
    try:
        while True:
            job = connection.recv()
            try:
                answer = "finished", function(job, lambda value: connection.send(("reported", value)))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception:
                answer = "failed", traceback.format_exc().rstrip()
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _end_in_words(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its process was killed by {signal.Signals(-exitcode).name}"
    return f"its process ended with status {exitcode}"
