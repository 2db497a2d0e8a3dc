"""Numba's compiler in this process: one compilation at a time, with nobody in its way and no fork in its midst."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from numba.core.compiler_lock import global_compiler_lock

from .interrupts import interrupts_wait

if hasattr(os, "register_at_fork"):
    # a fork waits for a compilation to end, or the child would wait for its lock for ever
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Numba's lock, and keep the cyclic garbage collector and interrupts away.

    The collector would go through Numba's and LLVM's many objects again and again: 4 % of the first call of a cell, and
    a quarter of that of another, which finds most kernels compiled. Whoever switches it off meanwhile, in another
    thread, finds it on again.
    """
    with interrupts_wait(), global_compiler_lock:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()
