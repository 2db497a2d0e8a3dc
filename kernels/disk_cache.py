"""Compiled code on disk: Numba's cache, in files of our own naming, and without it where there is no place for them.

The names carry all that a function is made from, a hash of this package's sources among it: no edit can run stale code.
Each function has an index of its own, and each signature a file of its own: Numba numbers those of one index, and two
processes that add to the same index at once may give two of them the same number.
"""

import hashlib
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from numba import njit
from numba.core.caching import FunctionCache, NullCache

from .compiling import uninterrupted
from .target import target_hash

# what keeps compiled code from being written, or found; the first time only
_problems: list[str] = []


@cache
def source_hash() -> str:
    """Of all sources that the kernels are made from."""
    paths = sorted(Path(__file__).parent.glob("*.py"))
    if not paths:
        raise OSError("the sources are not in files")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def problem() -> str | None:
    """Why compiled code is not kept, if anything stood in the way so far."""
    return _problems[0] if _problems else None


def _not_kept(why: object) -> None:
    if not _problems:
        _problems.append(str(why))
        warnings.warn(
            f"fastrnn: compiled kernels cannot be kept on disk ({why}), so every process compiles its own, which takes "
            "seconds; the environment variable NUMBA_CACHE_DIR can name another folder",
            RuntimeWarning,
            stacklevel=2,
        )


class _Files(FunctionCache):
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
        name = hashlib.sha256(repr(sig).encode()).hexdigest()[:8]
        self._cache_file._data_name_pattern = f"{self._impl.filename_base}.{name}.{{number:d}}.nbc"
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _not_kept(error)


def files_of(function, name: str):
    """Numba's cache of this function, in files of its own; `name` says what is made from the sources."""
    try:
        function.__qualname__ = f"{name} {source_hash()} {target_hash()}".replace(" ", "_")
        return _Files(function)
    except (OSError, RuntimeError) as error:  # there is no folder
        _not_kept(error)
        return NullCache()


def kept(*signature, **options):
    """A decorator for what is called from Python: compiled for this signature at once; or, without one, when called."""

    def decorate(function):
        dispatcher = njit(**options)(function)
        dispatcher._cache = files_of(function, function.__name__)  # what `cache=True` does, with other files
        if signature:
            with uninterrupted():
                dispatcher.compile(*signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorate
