"""What a process that compiles kernels notices of it: in its garbage collector, its signals, and where it must not."""

import gc
import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_waits_while_a_kernel_is_compiled(collects):
    from fastrnn.kernels.compiling import uninterrupted

    def look():
        with uninterrupted():
            seen.append(gc.isenabled())
            raise LookupError

    seen, before = [], gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(LookupError):
            look()
        assert seen == [False]
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()


INTERRUPTED = """
import signal
import sys
import numpy as np
import fastrnn

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            signal.raise_signal(signal.SIGINT)

assert "numba" not in sys.modules
sys.meta_path.insert(0, Interrupter())
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
layer = fastrnn.RNN(1, 1, seed=0)
x = np.ones((2, 1, 1), np.float32)
call = eval(sys.argv[2])
try:
    call()
except KeyboardInterrupt:
    print("heard")
call()
print("went on")
"""


@pytest.mark.parametrize(
    "call", ["layer(x)", "layer(x, lengths=[1])", "layer.vjp(x, recompute=True)", "layer.stream()"], ids=str
)
@pytest.mark.parametrize("module", ["numba.core.base", "fastrnn.kernels.compiled"])
def test_an_interrupt_of_the_first_call_waits_until_numba_is_imported(module, call):
    command = [sys.executable, "-c", INTERRUPTED, module, f"lambda: {call}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n")) == (0, ["heard", "went on", ""]), done.stderr


@pytest.mark.parametrize("error", [None, LookupError])
def test_an_interrupt_waits_until_a_kernel_is_compiled(error):
    from fastrnn.kernels.compiling import uninterrupted

    def compile_it():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            went_on.append(True)
            if error is not None:
                raise error

    went_on, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_it()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if error is None:
            compile_it()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert went_on


def test_without_a_compiler_there_are_no_kernels():
    program = "import fastrnn, numpy; fastrnn.GRU(2, 3, backend={!r})(numpy.zeros((1, 1, 2), numpy.float32))"
    for backend, last in (("reference", ""), ("cpu", "RuntimeError: NUMBA_DISABLE_JIT: expected 0 or none")):
        command = [sys.executable, "-c", program.format(backend)]
        environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.stderr.splitlines() or [""])[-1].startswith(last)
        assert (done.returncode == 0) == (not last)


@pytest.mark.parametrize("command", ["check", "warmup", "demo", "compare"])
def test_commands_say_in_a_line_that_numba_may_not_compile(command):
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    arguments = [sys.executable, "-m", "fastrnn", command]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[1].startswith("python -m fastrnn: error: NUMBA_DISABLE_JIT: expected 0 or none")
