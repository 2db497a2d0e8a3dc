"""Compiled kernels: made when first called for, kept on disk, and how to run them.

A kernel is a C function of int64 arguments, addresses most of them, and has a name ("formula forward lstm 0 float32").
Kernels call each other by address, so each is compiled once, however many use it.
"""

import inspect
from functools import cache
from pathlib import Path

from numba import prange, types
from numba.core.ccallback import CFunc

from . import checksum
from . import record as r
from .affinity import part_company
from .block import PROCESSORS
from .calls import call
from .checksum import make_checksum
from .compiling import uninterrupted
from .copying import make_copying
from .disk_cache import keep, kept
from .formula import make_added_sum, make_formula, make_sums
from .locks import new_lock
from .packing import make_packing
from .stage import make_stage
from .tile import make_tile
from .time_loops import make_loop
from .weight_gradient import make_weight_gradient
from .words import load_word, store_word
from .workers import gather

# importing it makes the gate functions known for vectors
from . import elementary  # noqa: F401  # isort: skip


# kind of kernel: what makes its function from the words of its name
_MAKERS = {
    "loop": make_loop,
    "stage": make_stage,
    "formula": make_formula,
    "sums": make_sums,
    "added_sum": make_added_sum,
    "tile": make_tile,
    "weight_gradient": make_weight_gradient,
    "packing": make_packing,
    "checksum": make_checksum,
    "copying": make_copying,
}


_lock = new_lock()
_kernels: dict[str, object] = {}


def kernel(name: str) -> int:
    """The address of a kernel, compiled now or loaded from the cache if this process has not used it yet.

    `name`: its kind and what it is made for, as in "formula backward lstm 0 float32".
    """
    found = _kernels.get(name)
    if found is None:
        with _lock:
            found = _kernels.get(name)
            if found is None:
                found = _kernels[name] = _compile(name)
    return found.address


def origins() -> dict[str, bool]:
    """For each kernel that this process has used, by name, and what starts them: whether it was loaded from disk.

    The others were compiled here.
    """
    starters = {"run record": run_record}
    if together.cache_info().currsize:
        starters["run together"] = together()
    found = {name: sum(function.stats.cache_hits.values()) > 0 for name, function in starters.items()}
    with _lock:
        kernels = dict(_kernels)
    return found | {name: function.cache_hits > 0 for name, function in kernels.items()}


def cache_folder() -> Path | None:
    """Where compiled kernels are kept, or None where no folder can be written to."""
    folder = run_record.stats.cache_path
    return None if folder is None else Path(folder)


def _compile(name):
    kind, *words = name.split()
    function = _MAKERS[kind](*words)
    arguments = (types.int64,) * len(inspect.signature(function).parameters)
    made = CFunc(function, (arguments, types.void), {}, {"nogil": True, "error_model": "numpy"})
    keep(made, function, name)
    with uninterrupted():
        made.compile()
    return made


# where the argument block of the checksums begins in a record, in bytes: its header lies over other words of the
# record, which is right because a kernel on one thread does not touch it
_CHECKSUM_BLOCK = 8 * (r.CHANGED - checksum.CHANGED)
assert _CHECKSUM_BLOCK >= 0


@kept("boolean(int64)", nogil=True)
def run_record(record):
    """Unless weights have changed, fill a block in and run a kernel on it, as the record says (see `record.py`).

    Returns whether it did.
    """
    if load_word(record, r.PIECES) > 0:
        store_word(record, r.CHANGED, 0)
        call(load_word(record, r.CHECKSUM), (0, 1, record + _CHECKSUM_BLOCK))
        if load_word(record, r.CHANGED) != 0:
            return False
    none = load_word(record, r.NONE)
    item = load_word(record, r.TUPLE) + r.ITEMS_IN_TUPLE
    word = record + 8 * load_word(record, r.ARRAY_WORDS)
    for number in range(load_word(record, r.ARRAYS)):
        array = load_word(item, number)
        store_word(word, number, 0 if array == none else load_word(array + r.ADDRESS_IN_ARRAY, 0))
    block = load_word(record, r.BLOCK)
    fill = load_word(record, r.FILL_TABLE)
    for _ in range(load_word(record, r.FILLS)):
        value = load_word(record + load_word(fill, r.VALUE), 0) + load_word(fill, r.ADDED)
        store_word(block + load_word(fill, r.PLACE), 0, value)
        fill += 8 * r.FILL_WORDS
    kernel = load_word(record, r.KERNEL)
    block_bytes = load_word(record, r.BLOCK_BYTES)
    for team in range(load_word(record, r.TEAMS)):
        call(kernel, (0, 1, block + team * block_bytes))
    return True


def run_alone(kernel: int, block: int, block_bytes: int, teams: int) -> None:
    """Run a kernel on one thread, for each of `teams` blocks, block_bytes apart."""
    record = r.of_blocks(kernel, block, block_bytes, teams)  # must live as long as the call
    run_record(record.ctypes.data)


@cache
def together():
    """The compiled function that `run_together` calls, made when first needed: with it Numba's thread pool starts."""

    @kept("int64(int64, int64, int64, int64, int64)", nogil=True, parallel=True)
    def run_together(kernel, block, block_bytes, teams, team_size):
        for worker in prange(teams * team_size):
            team = worker // team_size
            place = block + team * block_bytes
            part_company(block + 8 * PROCESSORS)  # one word for all teams
            if gather(place, team_size):
                call(kernel, (worker - team * team_size, team_size, place))
        alone = 0
        for team in range(teams):
            place = block + team * block_bytes
            if load_word(place, 0) < 0:
                store_word(place, 0, 0)
                call(kernel, (0, 1, place))
                alone += 1
        return alone

    return run_together


def run_together(kernel: int, block: int, block_bytes: int, teams: int, team_size: int) -> int:
    """Run a kernel on `teams` blocks at once, each with `team_size` threads.

    The thread pool may grant fewer threads than asked. Then a team does not come together, and its block is done
    afterwards by one thread. Returns how many there were of these.
    """
    return together()(kernel, block, block_bytes, teams, team_size)
