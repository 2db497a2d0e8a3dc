"""Locks that a forked process finds free."""

import os
import threading
import weakref
from typing import Any


def new_lock() -> threading.Lock:
    """In a forked child the thread that held it in the parent may not exist: there it is free.

    It is no class of our own: in a method in Python an interrupt could come when the lock is taken, and the `with` not
    yet begun that gives it back, or before it is given back. It would stay taken for ever.
    """
    lock = threading.Lock()
    free_in_children(lock)
    return lock


def free_in_children(lock: Any) -> None:
    """In forked processes too, a lock of Python's, RLock or Lock, that somebody else has made."""
    _living.add(lock)


_living: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_living):
        lock._at_fork_reinit()  # as Python's own modules do


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
