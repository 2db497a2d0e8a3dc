"""How many threads the kernels use, and starting them safely."""

import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType

import numpy as np

from . import validation
from .kernels.block import WORKER_WORDS
from .kernels.locks import new_lock
from .memory import address
from .processor import processors


@cache
def _set_from_outside() -> int | None:
    value = os.environ.get("FASTRNN_NUM_THREADS")
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"FASTRNN_NUM_THREADS: expected a whole number of at least 1, got {value!r}")
    return int(value)


# seconds
_FIRST_REST = 30.0
_LONGEST_REST = 600.0


class _Pool:
    """What is known of Numba's thread pool in this process."""

    def __init__(self) -> None:
        self.number: int | None = None  # what the program has set
        self.most: int | None = None  # what Numba allows, once it is imported
        self.compiled: ModuleType | None = None  # what runs kernels: imported late, as Numba is, and looked up once
        self.rests_until = 0.0  # it has not granted as many threads as were asked for, which takes seconds to find out:
        self.rest = _FIRST_REST  # for so many seconds (of time.monotonic) nobody will ask again, if that happens now
        self.asked = False  # this package has started it, or a thread is just doing so
        self.lost = False  # this process was forked from one that used OpenMP: it must not be entered again
        self.lock = new_lock()
        self.guard: AbstractContextManager[object] | None = (
            None  # a context to enter the pool in, once the threading layer is known
        )

    def fell_short(self) -> None:
        """It granted fewer threads than were asked for: it rests, for longer each time until it grants them again."""
        now = time.monotonic()
        with self.lock:
            if now < self.rests_until:  # as a call at the same time has found out
                return
            rest = self.rest
            self.rests_until = now + rest
            self.rest = min(2 * rest, _LONGEST_REST)
        warnings.warn(
            "fastrnn: fewer threads than asked for came to work; for the next "
            f"{rest:.0f} s calls run on one thread (fastrnn.set_num_threads(1) asks for no more)",
            RuntimeWarning,
            stacklevel=3,
        )

    def after_fork(self) -> None:
        self.lost = self.lost or self.asked or _numba_has_threads() or _openmp_is_loaded()


def _numba_has_threads() -> bool:
    """Whether Numba's pool has been started, by this package or by other code."""
    threading_layer = getattr(sys.modules.get("numba"), "threading_layer", None)
    if threading_layer is None:  # nobody has imported it, or somebody is just doing so
        return False
    try:
        threading_layer()
    except ValueError:  # its way to say no
        return False
    return True


def _openmp_is_loaded() -> bool:
    """Whether another package, such as PyTorch, has loaded OpenMP, and may have used it: its threads are one pool."""
    try:
        with open("/proc/self/maps", "rb") as file:
            libraries = file.read()
    except OSError:  # not Linux
        return False
    return any(name in libraries for name in (b"libgomp", b"libomp", b"libiomp"))


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.after_fork)


def get_num_threads() -> int:
    """The most threads that one call of a layer uses; small work takes fewer.

    ValueError if the environment variable FASTRNN_NUM_THREADS is not a whole number of at least 1.
    """
    return _pool.number or _set_from_outside() or processors()


def set_num_threads(number: int) -> None:
    """Use at most `number` threads in one call of a layer, in this process.

    The default is the environment variable FASTRNN_NUM_THREADS, or else the number of processors this process may run
    on at that call, and no more than its container may use the time of. More than Numba's pool has (NUMBA_NUM_THREADS)
    are never used. Results have the same bits for any number. TypeError unless it is an integer, ValueError unless it
    is at least 1.
    """
    _pool.number = validation.size("number", number, least=1)


def available() -> int:
    """How many threads a call may really start now."""
    if _pool.lost:
        return 1
    number = get_num_threads()
    if number == 1:
        return 1
    if _pool.most is None:
        from numba import config

        _pool.most = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return min(number, _pool.most)


def runs_alone(threads: int, teams: int) -> bool:
    """Whether one thread does all the blocks, one after the other."""
    return threads == 1 or threads < teams


def _compiled() -> ModuleType:
    """`kernels.compiled`, imported at the first call, for Numba comes with it."""
    if _pool.compiled is None:
        from .kernels import compiled

        _pool.compiled = compiled
    return _pool.compiled


def run(kernel: int, block: int, threads: int, block_bytes: int = 0, teams: int = 1) -> None:
    """Run a kernel on `teams` argument blocks, `block_bytes` apart, and return when all are done.

    The threads are divided between the blocks; with fewer threads than blocks, one thread does one after the other.
    """
    compiled = _compiled()
    if runs_alone(threads, teams) or time.monotonic() < _pool.rests_until:
        compiled.run_alone(kernel, block, block_bytes, teams)
        return
    _pool.asked = True
    import numba

    team_size = threads // teams
    # Numba's workqueue layer (where OpenMP and TBB are missing) aborts on concurrent use: one call at a time there, and
    # everywhere until the layer is known
    with _pool.guard or _pool.lock:
        # so that Numba does not wake threads that get nothing to do; the setting is this Python thread's own
        before = numba.get_num_threads()
        try:
            numba.set_num_threads(teams * team_size)
            alone = compiled.run_together(kernel, block, block_bytes, teams, team_size)
        finally:
            numba.set_num_threads(before)
        if _pool.guard is None:
            _pool.guard = _pool.lock if numba.threading_layer() == "workqueue" else nullcontext()
    if alone:
        _pool.fell_short()
    else:
        _pool.rest = _FIRST_REST


def run_words(kernel: str, words: Sequence[int], threads: int) -> None:
    """Run the kernel of that name on one argument block: these words, behind those of the workers."""
    block = np.array([0] * WORKER_WORDS + [*words], np.int64)
    run(_compiled().kernel(kernel), address(block), threads)
