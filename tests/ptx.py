"""Compiling the CUDA kernels without a GPU: Numba to PTX, ptxas to machine code, and what both say of the result."""

import re
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock


class Resources(NamedTuple):
    """What ptxas reports of a kernel."""

    registers: int
    spilled_bytes: int
    stack_bytes: int
    static_shared_bytes: int


def ptxas():
    """The assembler of the package nvidia-cuda-nvcc, or one on the path; None if there is none."""
    try:
        import nvidia.cu13 as package
    except ImportError:
        return shutil.which("ptxas")
    found = [path for folder in package.__path__ if (path := Path(folder, "bin", "ptxas")).exists()]
    return str(found[0]) if found else shutil.which("ptxas")


@contextmanager
def without_a_device():
    """Numba asks the current device for its compute capability while it compiles: it is told 8.0, and not to load
    the kernel.
    """
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import devices

    device = SimpleNamespace(compute_capability=(8, 0))
    with ExitStack() as stack:
        for where, name, value in (
            (devices, "get_context", lambda: SimpleNamespace(device=device)),
            (dispatcher, "get_current_device", lambda: device),
            (dispatcher._Kernel, "bind", lambda kernel: None),
        ):
            stack.enter_context(mock.patch.object(where, name, value))
        yield


def compiled(kernel, arguments):
    """{compute capability: PTX} of a kernel of so many int64 arguments, and whether its launch is cooperative."""
    from numba.cuda import types

    signature = (types.int64,) * arguments
    with without_a_device():
        kernel.compile(signature)
        one = kernel.overloads[signature]
        return {capability: one.inspect_asm(capability) for capability in ((8, 0), (9, 0))}, one.cooperative


def assembled(text, capability, folder):
    """Assemble PTX and read what it needs."""
    source = folder / "kernel.ptx"
    source.write_text(text)
    architecture = "sm_{}{}".format(*capability)
    command = [ptxas(), f"-arch={architecture}", "-v", str(source), "-o", str(folder / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stack, *spilled = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr
    ).groups()
    shared = re.search(r"(\d+) bytes smem", done.stderr)
    registers = re.search(r"Used (\d+) registers", done.stderr)
    return Resources(int(registers[1]), sum(map(int, spilled)), int(stack), int(shared[1]) if shared else 0)


class Flow:
    """The instructions of the one function in some PTX, and which may follow each."""

    def __init__(self, text):
        body = text[text.index("{") + 1 : text.rindex("}")]
        lines = [line.strip() for line in body.splitlines()]
        lines = [line for line in lines if line and not line.startswith(("//", "."))]
        labels, self.instructions = {}, []
        for line in lines:
            if line.endswith(":"):
                labels[line[:-1]] = len(self.instructions)
            else:
                self.instructions.append(line)
        self._next = []
        for number, line in enumerate(self.instructions):
            branch = re.match(r"(@!?%p\d+ +)?bra(\.uni)?\s+(\S+);", line)
            after = [] if re.match(r"(ret|exit|trap)\b", line) else [number + 1]
            if branch:
                after = ([number + 1] if branch[1] else []) + [labels[branch[3]]]
            self._next.append([n for n in after if n < len(self.instructions)])

    def numbers(self, pattern):
        return [n for n, line in enumerate(self.instructions) if re.search(pattern, line)]

    def reachable(self, start, avoiding):
        """The instructions that can run after `start` before one that matches `avoiding` does."""
        walls, seen, todo = set(self.numbers(avoiding)), set(), list(self._next[start])
        while todo:
            number = todo.pop()
            if number not in seen and number not in walls:
                seen.add(number)
                todo += self._next[number]
        return seen
