"""Compiled kernels: made when first called for, cached on disk, and how to run them.

A kernel is a C function of int64 arguments, addresses most of them, and has a name ("formula forward lstm 0 float32").
Kernels call each other by address, so each is compiled once, however many use it.

Numba's disk cache knows an entry point by its code and the values it closes over. Ours close over a key that carries
all that the kernel is made from, a hash of this package's sources among it: no edit can run stale code. The key is in
the names of the cache's files as well: Numba numbers the files of one index, and two processes that add to the same
index at once may give two kernels the same number.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

from numba import cfunc, njit, prange, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import overload

from . import record as r
from .affinity import part_company
from .block import PROCESSORS
from .checksum import make_checksum, unchanged
from .copying import make_copying
from .formula import make_added_sum, make_formula, make_sums
from .locks import Lock
from .options import CACHED, OPTIONS
from .packing import make_packing
from .stage import make_stage
from .target import target_hash, vector_unit
from .tile import make_tile
from .time_loops import make_loop
from .weight_gradient import make_weight_gradient
from .workers import call, gather, load_word, store_word

# importing it makes the gate functions known for vectors
from . import elementary  # noqa: F401  # isort: skip


@cache
def source_hash() -> str:
    """Of all sources that the kernels are made from."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# kind of kernel: what makes it from the words of its name, and how many int64 arguments it takes; 1 is the address of
# more of them (see `workers.call`)
_MAKERS = {
    "loop": (make_loop, 3),
    "stage": (make_stage, 1),
    "formula": (make_formula, 1),
    "sums": (make_sums, 1),
    "added_sum": (make_added_sum, 1),
    "tile": (make_tile, 1),
    "weight_gradient": (make_weight_gradient, 5),
    "packing": (make_packing, 3),
    "checksum": (make_checksum, 3),
    "copying": (make_copying, 3),
}


def _run(key, arguments):
    raise TypeError("_run is for compiled code")


@overload(_run, prefer_literal=True, jit_options=OPTIONS)
def _choose(key, arguments):
    """The implementation that the key names; its source hash is only there to tell the cache's entries apart."""
    if not isinstance(key, types.StringLiteral):
        return None
    kind, *words, _ = key.literal_value.split()
    return _MAKERS[kind][0](*words)


_lock = Lock()
_kernels: dict[str, object] = {}


if hasattr(os, "register_at_fork"):
    # Numba's own lock on compiling: a fork waits for it, or the child would, for ever
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def kernel(name: str) -> int:
    """The address of a kernel, compiled now or loaded from the cache if this process has not used it yet.

    `name`: its kind and what it is made for, as in "formula backward lstm 0 float32".
    """
    found = _kernels.get(name)
    if found is None:
        with _lock:
            found = _kernels.get(name)
            if found is None:
                unit = vector_unit()
                found = _compile(_MAKERS[name.split()[0]][1], f"{name} {source_hash()}-{unit.bits}x{unit.registers}")
                _kernels[name] = found
    return found.address


def origins() -> dict[str, bool]:
    """For each kernel that this process has used, by name, and what starts them: whether it was loaded from disk.

    The others were compiled here.
    """
    starters = {"run alone": run_alone, "run filled": run_filled}
    if together.cache_info().currsize:
        starters["run together"] = together()
    found = {name: sum(function.stats.cache_hits.values()) > 0 for name, function in starters.items()}
    with _lock:
        kernels = dict(_kernels)
    return found | {name: function.cache_hits > 0 for name, function in kernels.items()}


def cache_folder() -> Path | None:
    """Where compiled kernels are kept, or None where no folder can be written to."""
    return Path(run_alone.stats.cache_path) if CACHED["cache"] else None


def _files_of_its_own(key):
    """A decorator: the function's files in the cache carry this key in their names."""

    def rename(function):
        function.__qualname__ = f"{key} {target_hash()}".replace(" ", "_")
        return function

    return rename


def _compile(arity, key):
    """An entry point that C can call; one for each arity, because Numba needs the parameters spelt out."""
    if arity == 1:

        def entry(arguments):
            _run(key, arguments)

    elif arity == 3:

        def entry(a, b, c):
            _run(key, (a, b, c))

    elif arity == 5:

        def entry(a, b, c, d, e):
            _run(key, (a, b, c, d, e))

    else:
        raise ValueError(f"arity: expected 1, 3 or 5, got {arity}")

    return cfunc(types.void(*[types.int64] * arity), nogil=True, **CACHED)(_files_of_its_own(key)(entry))


def _make_run_alone(stamp):
    @njit("void(int64, int64, int64, int64)", nogil=True, **CACHED)
    @_files_of_its_own(f"run_alone {source_hash()}")
    def run_alone(kernel, block, block_bytes, teams):
        if stamp == 0:  # never: the stamp is here to be closed over, like the keys above
            return
        for team in range(teams):
            call(kernel, (0, 1, block + team * block_bytes))

    return run_alone


def _make_run_together(stamp):
    @njit("int64(int64, int64, int64, int64, int64)", nogil=True, parallel=True, **CACHED)
    @_files_of_its_own(f"run_together {source_hash()}")
    def run_together(kernel, block, block_bytes, teams, team_size):
        if stamp == 0:
            return 0
        for worker in prange(teams * team_size):
            team = worker // team_size
            place = block + team * block_bytes
            part_company(place + 8 * PROCESSORS)
            if gather(place, team_size):
                call(kernel, (worker - team * team_size, team_size, place))
        alone = 0
        for team in range(teams):
            place = block + team * block_bytes
            if load_word(place) < 0:
                store_word(place, 0)
                call(kernel, (0, 1, place))
                alone += 1
        return alone

    return run_together


def _make_run_filled(stamp):
    @njit("boolean(int64)", nogil=True, **CACHED)
    @_files_of_its_own(f"run_filled {source_hash()}")
    def run_filled(record):
        if stamp == 0:
            return False
        if not unchanged(load_word(record + 8 * r.PIECE_TABLE), load_word(record + 8 * r.PIECES)):
            return False
        none = load_word(record + 8 * r.NONE)
        item = load_word(record + 8 * r.TUPLE) + r.ITEMS_IN_TUPLE
        word = record + 8 * load_word(record + 8 * r.ARRAY_WORDS)
        for place in range(0, 8 * load_word(record + 8 * r.ARRAYS), 8):
            array = load_word(item + place)
            store_word(word + place, 0 if array == none else load_word(array + r.ADDRESS_IN_ARRAY))
        block = load_word(record + 8 * r.BLOCK)
        fill = load_word(record + 8 * r.FILL_TABLE)
        for _ in range(load_word(record + 8 * r.FILLS)):
            value = load_word(record + load_word(fill + 8 * r.VALUE)) + load_word(fill + 8 * r.ADDED)
            store_word(block + load_word(fill + 8 * r.PLACE), value)
            fill += 8 * r.FILL_WORDS
        kernel = load_word(record + 8 * r.KERNEL)
        block_bytes = load_word(record + 8 * r.BLOCK_BYTES)
        for team in range(load_word(record + 8 * r.TEAMS)):
            call(kernel, (0, 1, block + team * block_bytes))
        return True

    return run_filled


_stamp = int(source_hash()[:15], 16) | 1
# (kernel, block, block_bytes, teams): run a kernel on one thread, for each of `teams` blocks, block_bytes apart
run_alone = _make_run_alone(_stamp)
# (record): unless weights have changed, fill a block in and run a kernel on it, as the record says (see `record.py`);
# returns whether it did
run_filled = _make_run_filled(_stamp)


@cache
def together():
    """The compiled function that `run_together` calls, made when first needed: with it Numba's thread pool starts."""
    return _make_run_together(_stamp)


def run_together(kernel: int, block: int, block_bytes: int, teams: int, team_size: int) -> int:
    """Run a kernel on `teams` blocks at once, each with `team_size` threads.

    The thread pool may grant fewer threads than asked. Then a team does not come together, and its block is done
    afterwards by one thread. Returns how many there were of these.
    """
    return together()(kernel, block, block_bytes, teams, team_size)
