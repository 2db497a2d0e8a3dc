"""Ctrl-C where it would do harm."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Whoever interrupts this process is heard at the end: for imports of Numba, and compilations.

    In their midst a KeyboardInterrupt would leave modules half imported or LLVM's objects half made, and no later call
    could compile; or LLVM, whose callbacks may not raise, would swallow it. Only Python's main thread hears of signals.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, object]] = []
    try:
        signal.signal(signal.SIGINT, lambda *received: heard.append(received))
    except ValueError:  # within another interpreter than the process's first
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if heard:
            handler(*heard[-1])  # type: ignore[arg-type]
