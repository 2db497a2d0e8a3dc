"""Locks that a forked process finds free."""

import os
import threading
import weakref


def new_lock() -> threading.Lock:
    """In a forked child the thread that held it in the parent may not exist: there it is free.

    It is no class of our own: in a method in Python an interrupt could come when the lock is taken, and the `with` not
    yet begun that gives it back, or before it is given back. It would stay taken for ever.
    """
    lock = threading.Lock()
    _living.add(lock)
    return lock


_living: "weakref.WeakSet[threading.Lock]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_living):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # as Python's own modules do


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
