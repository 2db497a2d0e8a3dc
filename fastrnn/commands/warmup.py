"""`python -m fastrnn warmup`: compile kernels ahead and keep them on disk, for the first calls of later processes."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fastrnn.check_cases import CELLS, DTYPES, Case
from fastrnn.layers import Recurrent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = f"only these, of {', '.join(CELLS)}"
    parser.add_argument("--cell", nargs="+", choices=tuple(CELLS), default=tuple(CELLS), metavar="CELL", help=names)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES, help="only these")
    parser.add_argument("--forward-only", action="store_true", help="what inference needs, without gradients")
    parser.add_argument("--verbose", action="store_true", help="name every kernel")


def run(arguments: argparse.Namespace) -> int:
    """Do what the options say. Returns the exit status: 1 if compiled kernels cannot be kept."""
    problem = _warm_up(arguments)
    if problem:
        print(f"python -m fastrnn warmup: error: {problem}", file=sys.stderr)
        return 1
    return 0


def _warm_up(arguments: argparse.Namespace) -> str | None:
    """Compile, and say so; what stands in the way, if anything does."""
    start = time.perf_counter()
    from fastrnn.kernels import compiled, disk_cache

    try:
        disk_cache.source_hash()
    except OSError as error:
        return str(error)
    problem = _not_kept()
    if problem:
        return problem
    print(f"The cache lies in {compiled.cache_folder() or 'folders that cannot be written to'}", flush=True)
    shown: set[str] = set()
    for title, work in _passes(arguments):
        before = time.perf_counter()
        work()
        _show(title, compiled.origins(), shown, time.perf_counter() - before, arguments.verbose)
        problem = _not_kept()
        if problem:
            return problem
    origins = compiled.origins()
    found = sum(origins.values())
    print(f"{len(origins) - found} kernels compiled, {found} were in the cache ({time.perf_counter() - start:.1f} s)")
    return None


def _not_kept() -> str | None:
    """Why what had to be compiled so far was not kept where it should be, if it was not."""
    from fastrnn.kernels import compiled, disk_cache

    if all(compiled.origins().values()):  # as in an image that was made by another user
        return None
    folder, wanted = compiled.cache_folder(), os.environ.get("NUMBA_CACHE_DIR")
    if wanted and (folder is None or not folder.absolute().is_relative_to(Path(wanted).absolute())):
        return f"NUMBA_CACHE_DIR: expected a folder that can be written to, got {wanted!r}"
    if folder is None:
        return (
            "neither the package's own folder nor the user's cache folder can be written to; "
            "the environment variable NUMBA_CACHE_DIR can name another"
        )
    return disk_cache.problem()  # the disk may be full, say


def _passes(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], object]]]:
    """What to run, each with a title: together they call for every kernel that the options ask for."""
    from fastrnn.kernels import compiled

    yield "threads", compiled.together
    yield "lengths", partial(compiled.kernel, "copying")
    for cell in dict.fromkeys(arguments.cell):
        for dtype in dict.fromkeys(arguments.dtype):
            # one layer has all kernels of its cell and dtype, whatever its sizes and options are
            case = Case(cell, dtype, T=2, B=2, I=3, H=5, P=2 if cell == "lstm_projected" else 0)
            layer, x = case.layer(), case.x()
            yield f"{cell} {dtype} forward", partial(layer, x)
            if not arguments.forward_only:
                yield f"{cell} {dtype} training", partial(_train, layer, x)
                # the second direction's time runs the other way in memory
                yield f"{cell} {dtype} diagnostics", partial(_diagnose, replace(case, bidirectional=True).layer(), x)


def _train(layer: Recurrent, x: np.ndarray) -> None:
    (y, _), backward = layer.vjp(x)
    backward(y)


def _diagnose(layer: Recurrent, x: np.ndarray) -> None:
    from fastrnn import diagnostics

    diagnostics.gradient_flow(layer, x)


def _show(title: str, origins: dict[str, bool], shown: set[str], seconds: float, verbose: bool) -> None:
    """A line for a pass, and with `verbose` one for each kernel that it was the first to use."""
    new = {name: found for name, found in origins.items() if name not in shown}
    shown.update(new)
    found = sum(new.values())
    print(f"{title:36} {len(new) - found:3} compiled {found:3} in the cache {seconds:6.1f} s", flush=True)
    if verbose:
        for name, was_there in new.items():
            print(f"    {'in the cache' if was_there else 'compiled    '}  {name}", flush=True)
