"""Locks that a forked process finds free."""

import os
import threading
import weakref


class Lock:
    """As `threading.Lock`. In a forked child the thread that held it in the parent may not exist: there it is free."""

    def __init__(self) -> None:
        self._renew()
        _living.add(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


_living: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_living):
        lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
