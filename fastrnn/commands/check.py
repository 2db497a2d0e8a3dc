"""`python -m fastrnn check`: every cell, type and option on this machine's kernels, against the reference."""

import argparse
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fastrnn import __version__
from fastrnn.blas import use_one_thread
from fastrnn.check_cases import CELLS, DEVICE_DTYPES, Case, cases
from fastrnn.check_report import Quantity
from fastrnn.checking import check_on_device, expect, judge
from fastrnn.host import cpu_name
from fastrnn.threads import available, get_num_threads, set_num_threads

from .display import Display, Row, best_display, count
from .numbers import integer

_NAMED = 6  # how many quantities the list of failures names for each configuration
_SECONDS = 0.1  # what a configuration may take, before there is an experience of it


class Result(NamedTuple):
    """What came of a case: for each number of threads the quantities, or the exception."""

    case: Case
    quantities: dict[int, tuple[Quantity, ...]]
    exceptions: dict[int, Exception]

    @property
    def ok(self) -> bool:
        return not self.exceptions and all(q.ok for quantities in self.quantities.values() for q in quantities)

    def worst_of_each(self) -> list[Quantity]:
        """Each quantity where it is worst among the numbers of threads."""
        return [max(same, key=Quantity.badness) for same in zip(*self.quantities.values(), strict=True)]

    def failures(self) -> Iterator[str]:
        """Lines that say what failed."""
        for threads, exception in self.exceptions.items():
            yield f"{self._name(threads)}: {type(exception).__name__}: {exception}".splitlines()[0]
        for threads, quantities in self.quantities.items():
            failed = [f"{q.name} ({q.note})" if q.note else q.name for q in quantities if not q.ok]
            more = [f"{len(failed) - _NAMED} more"] if len(failed) > _NAMED else []
            if failed:
                yield f"{self._name(threads)}: {', '.join(failed[:_NAMED] + more)}"

    def _name(self, threads: int) -> str:
        return f"{self.case.cell} {self.case.dtype} {self.case}, {count(threads, 'thread')}"


def run_case(case: Case, threads: Sequence[int]) -> Result:
    layer = case.layer()
    expected = expect(layer, case.x(), None, 0, case.lengths())
    result = Result(case, {}, {})
    for number in threads:
        set_num_threads(number)
        try:
            result.quantities[number] = judge(layer, expected, recompute=case.recompute).quantities
        except Exception as exception:  # a kernel that this machine cannot compile, say: the others are still of use
            result.exceptions[number] = exception
    return result


def run_case_on_gpu(case: Case) -> Result:
    """As `run_case`; it has no threads, and counts as one."""
    result = Result(case, {}, {})
    try:
        result.quantities[1] = check_on_device(case.layer("cuda"), case.x()).quantities
    except Exception as exception:  # as above
        result.exceptions[1] = exception
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options. `arguments.refuse(reason)` then ends the program over a wrong one."""
    parser.set_defaults(refuse=parser.error)
    names = f"only these, of {', '.join(CELLS)}"
    parser.add_argument("--cell", nargs="+", choices=tuple(CELLS), default=tuple(CELLS), metavar="CELL", help=names)
    parser.add_argument("--dtype", choices=DEVICE_DTYPES["cuda"], help="only this one")
    parser.add_argument("--device", choices=tuple(DEVICE_DTYPES), default="cpu", help="where the layers run (cpu)")
    parser.add_argument("--threads", type=integer, metavar="N", help="of the kernels (1, and one for each processor)")
    parser.add_argument("--verbose", action="store_true", help="show every output and gradient")
    parser.add_argument("--plain", action="store_true", help="plain text, even where rich is installed")


def run(arguments: argparse.Namespace) -> int:
    """Do what the options say. Returns the exit status: 1 if anything is outside its bound."""
    show = best_display(arguments.plain)
    before = get_num_threads()
    threads = _numbers_of_threads(arguments.threads)
    known = DEVICE_DTYPES[arguments.device]
    if arguments.dtype and arguments.dtype not in known:
        arguments.refuse(f"argument --dtype: expected {' or '.join(known)} on the CPU, got {arguments.dtype!r}")
    on_gpu = arguments.device == "cuda"
    if on_gpu:
        if arguments.threads:
            arguments.refuse("argument --threads: is for --device cpu")
        from fastrnn.cuda import requirements

        try:
            requirements.check()
        except requirements.CudaUnavailable as missing:
            arguments.refuse(f"argument --{missing}")  # it begins with "device:"
    dtypes = (arguments.dtype,) if arguments.dtype else known
    use_one_thread()
    for line in _gpu() if on_gpu else _machine(threads):
        show.say(line)
    show.say("Kernels that were never used on this machine are compiled first, which may take a minute or two.\n")

    start = time.perf_counter()
    results = []
    try:
        set_num_threads(max(threads))
        chosen = cases(tuple(dict.fromkeys(arguments.cell)), dtypes, available())
        if on_gpu:
            chosen = [case for case in chosen if not (case.padded or case.recompute)]  # not built there
        with show.progress("Checking") as report:
            for number, case in enumerate(chosen):
                each = (time.perf_counter() - start) / number if number else _SECONDS
                report(number / len(chosen), f"{case.cell} {case.dtype}", each * (len(chosen) - number))
                results.append(run_case_on_gpu(case) if on_gpu else run_case(case, threads))
            report(1.0, count(len(results), "configuration"), 0.0)
    finally:
        set_num_threads(before)

    show.table("", *_table(results, arguments.verbose), words=2)
    show.say("\nT steps of B sequences, I inputs, H units, P of them projected.")
    show.say("Errors are relative to the largest value of the float64 reference.")
    if not arguments.verbose:
        show.say("Each row names the output or gradient nearest to its bound; --verbose shows all.")
    return _conclude(show, results, time.perf_counter() - start)


def _conclude(show: Display, results: list[Result], seconds: float) -> int:
    failed = [result for result in results if not result.ok]
    if not failed:
        show.say(f"\nAll {len(results)} configurations are within their bounds ({seconds:.1f} s).")
        return 0
    show.say(f"\n{len(failed)} of {count(len(results), 'configuration')} FAILED ({seconds:.1f} s):")
    for result in failed:
        for line in result.failures():
            show.say(f"  {line}")
    for exception in [e for result in failed for e in result.exceptions.values()][:1]:
        print("\nThe first exception:", file=sys.stderr)
        traceback.print_exception(exception)
    return 1


def _table(results: list[Result], verbose: bool) -> tuple[Sequence[str], list[Row]]:
    """Columns and rows, with a heading for each cell and dtype."""
    columns = ("configuration, shapes" if verbose else "configuration", "quantity" if verbose else "worst")
    return (*columns, "error", "bound", ""), list(_rows(results, verbose))


def _rows(results: list[Result], verbose: bool) -> Iterator[Row]:
    last = ""
    for result in results:
        heading = f"{result.case.cell} {result.case.dtype}"
        if heading != last:
            yield heading
        last = heading
        verdict = "ok" if result.ok else "FAILED"
        quantities = result.worst_of_each()
        if verbose or not quantities:
            yield (str(result.case), "", "", "", verdict)
        else:
            yield (str(result.case), *_figures(max(quantities, key=Quantity.badness)), verdict)
        if verbose:
            for quantity in quantities:
                yield (f"  {quantity.shape}", *_figures(quantity), "" if quantity.ok else "FAILED")


def _figures(quantity: Quantity) -> tuple[str, str, str]:
    return (quantity.name, f"{quantity.error:.1e}", f"{quantity.bound:.1e}")


def _numbers_of_threads(asked: int | None) -> list[int]:
    """With which numbers of threads to check: as many as there are, if more are asked for."""
    before = get_num_threads()
    try:
        set_num_threads(asked or before)
        return [available()] if asked else sorted({1, available()})
    finally:
        set_num_threads(before)


def _machine(threads: Sequence[int]) -> Iterator[str]:
    import numba
    from numba.core.registry import cpu_target

    from fastrnn.kernels.target import vector_unit

    versions = f"fastrnn {__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    yield f"{versions}, Numba {numba.__version__}, {platform.system()} {platform.machine()}"
    unit = vector_unit()
    _, name, _ = cpu_target.target_context.codegen().magic_tuple()
    yield f"CPU {cpu_name()} (LLVM: {name}), {unit.bits}-bit vectors, {unit.registers} vector registers"
    yield f"Threads: {' and '.join(map(str, threads))}"


def _gpu() -> Iterator[str]:
    from fastrnn.kernels.cuda.launch import device_description

    yield f"fastrnn {__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    yield f"GPU {device_description()}"
