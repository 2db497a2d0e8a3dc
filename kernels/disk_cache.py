"""Compiled code on disk: Numba's cache, in files of our own naming, and without it where there is no place for them.

Numba keeps it in the first of some folders that can be written to. Those before that are looked into as well: an image
may have them filled, for users who can only read them.

The names carry all that a function is made from, a hash of this package's sources among it, and what it is made by and
for: no edit can run stale code, and environments with different versions of Numba, or interpreters with other objects,
may share a folder.
Each function has an index of its own, and each signature a file of its own: Numba numbers those of one index, and two
processes that add to the same index at once may give two of them the same number.
"""

import hashlib
import inspect
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numba
from numba import config, njit
from numba.core.caching import (
    FunctionCache,
    InTreeCacheLocator,
    NullCache,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)

from . import record
from .compiling import uninterrupted
from .target import target_hash

# what keeps compiled code from being written, or found; the first time only
_problems: list[str] = []


@cache
def source_hash() -> str:
    """Of all sources that the kernels are made from."""
    paths = sorted(Path(__file__).parent.glob("*.py"))
    if not paths:
        raise OSError("the package's sources, which tell whether what is kept is stale, are not in files")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def environment_hash() -> str:
    """Of what the sources are compiled by and for."""
    parts = (target_hash(), numba.__version__, record.ITEMS_IN_TUPLE, record.ADDRESS_IN_ARRAY)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def problem() -> str | None:
    """Why compiled code is not kept, if anything stood in the way so far."""
    return _problems[0] if _problems else None


def _not_kept(why: object, remedy: str = "") -> None:
    if not _problems:
        _problems.append(str(why))
        warnings.warn(
            f"fastrnn: compiled kernels cannot be kept on disk ({why}), so every process compiles its own, which takes "
            f"seconds{remedy}",
            RuntimeWarning,
            stacklevel=2,
        )


class _Folder(FunctionCache):
    """The files of one function in one folder: the first that can be written to."""

    def __init__(self, function):
        super().__init__(function)
        for name in ("_source_stamp", "_data_name_pattern", "_index_path"):
            if not hasattr(self._cache_file, name):
                raise OSError(f"Numba {numba.__version__} has no {name!r} of its files")
        # the names say it; some versions of Numba take the file's time, which may change when it is copied
        self._cache_file._source_stamp = None

    @property
    def path(self):
        """Of the index."""
        return Path(self._cache_file._index_path)

    def _index_key(self, sig, codegen):
        """Not also by what a function closes over: among that are functions, which no other process would recognise."""
        return sig, codegen.magic_tuple()

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged pickle may raise anything
            with suppress(OSError):
                self.flush()  # what cannot be read is as if it were not there
            return None

    def save_overload(self, sig, data):
        """OSError where it cannot."""
        name = hashlib.sha256(repr(sig).encode()).hexdigest()[:8]
        self._cache_file._data_name_pattern = f"{self._impl.filename_base}.{name}.{{number:d}}.nbc"
        super().save_overload(sig, data)


class _NoFolder(NullCache):
    """In the place of a folder where there is none."""

    def __init__(self, why: Exception) -> None:
        self._why = why

    def save_overload(self, sig, data):
        raise OSError(*self._why.args)


class _Files(NullCache):
    """The files of one function.

    ready    folders that are read, and not written to, before
    written  the one that is
    """

    def __init__(self, ready, written):
        self._ready = ready
        self._written = written

    @property
    def cache_path(self):
        """Where code is kept: None if nowhere."""
        return self._written.cache_path

    def load_overload(self, sig, target_context):
        for folder in (*self._ready, self._written):
            found = folder.load_overload(sig, target_context)
            if found is not None:
                return found
        return None

    def save_overload(self, sig, data):
        try:
            self._written.save_overload(sig, data)
        except OSError as error:
            _not_kept(error, "; the environment variable NUMBA_CACHE_DIR can name another folder")


def files_of(function, name: str) -> _Files:
    """Numba's cache of this function, in files of its own; `name` says what is made from the sources."""
    try:
        function.__qualname__ = f"{name} {source_hash()} {environment_hash()}".replace(" ", "_")
    except OSError as error:
        _not_kept(error)
        return _Files([], NullCache())
    try:
        written = _Folder(function)
    except (OSError, RuntimeError) as error:  # there is none
        written = _NoFolder(error)
    return _Files(list(_ready(function, written.cache_path)), written)


def _ready(function, written):
    """The folders that come before the one that is written to, if they have something of this function."""
    for locator in (UserProvidedCacheLocator, InTreeCacheLocator, UserWideCacheLocator):
        if locator is UserProvidedCacheLocator and not config.CACHE_DIR:
            continue
        if locator(function, inspect.getfile(function)).get_cache_path() == written:
            return
        try:
            folder = _reader(locator)(function)
        except OSError:
            return
        if folder.path.exists():
            yield folder


@cache
def _reader(locator):
    """Of the folder that this locator of Numba's names, whether it can be written to or not."""
    existing = type("Existing", (locator,), {"ensure_cache_path": lambda self: None})
    implementation = type("Implementation", (FunctionCache._impl_class,), {"_locator_classes": [existing]})
    return type("Reader", (_Folder,), {"_impl_class": implementation})


def keep(made, function, name: str) -> None:
    """Have Numba keep what it makes of the function, as its `cache=True` does, in files of our own."""
    if not hasattr(made, "_cache"):
        _not_kept(f"Numba {numba.__version__} keeps them otherwise")
    made._cache = files_of(function, name)


def kept(*signature, **options):
    """A decorator for what is called from Python: compiled for this signature at once; or, without one, when called."""

    def decorate(function):
        dispatcher = njit(**options)(function)
        keep(dispatcher, function, function.__name__)
        if signature:
            with uninterrupted():
                dispatcher.compile(*signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorate
