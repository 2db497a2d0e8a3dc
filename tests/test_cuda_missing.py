"""device="cuda" where something is missing: one clear error, never the CPU in its place."""

import ctypes
import importlib.util
import os
import re
import subprocess
import sys

import pytest

import fastrnn
from fastrnn.__main__ import main
from fastrnn.cuda import requirements

INSTALL = re.escape("pip install 'numba-cuda[cu13]' cupy-cuda13x ml_dtypes")


class Driver:
    """The functions of the driver that are asked."""

    def __init__(self, status, devices, version=13000, capabilities=((9, 0), (9, 0))):
        self.status, self.devices, self.version, self.capabilities = status, devices, version, capabilities

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, number):
        number._obj.value = self.devices
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capabilities[device][attribute - 75]
        return 0


@pytest.fixture
def machine(monkeypatch):
    """Makes a machine with these packages and this driver; None: no driver."""

    def make(driver, packages=()):
        def load(name):
            if driver is None:
                raise OSError(f"{name}: cannot open shared object file")
            return driver

        monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in packages else None)

    return make


@pytest.mark.parametrize(
    ("driver", "packages", "message"),
    [
        (None, (), f"needs an NVIDIA GPU and its driver, and libcuda.so.1 was not found.*then {INSTALL}"),
        (Driver(100, 0), (), r"needs an NVIDIA GPU, and the driver reports none \(status 100, 0 devices\)"),
        (Driver(0, 0), (), "needs an NVIDIA GPU, and the driver reports none"),
        (Driver(0, 1, 11080), (), r"needs a driver for CUDA 12 or newer \(.*\), and found one for CUDA 11\.8"),
        (
            Driver(0, 2, capabilities=((5, 2), (6, 1))),
            (),
            r"needs a GPU of compute capability 7\.0 or newer, and the newest here has 6\.1",
        ),
        (Driver(0, 1), (), f"needs Numba-CUDA, which is not installed: {INSTALL}"),
        (Driver(0, 1), ("numba_cuda",), f"needs CuPy or a PyTorch with CUDA, and found neither: {INSTALL}"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the library has another name")
def test_the_first_thing_missing_is_named_when_the_layer_is_made(driver, packages, message, machine):
    machine(driver, packages)
    for make in (lambda: fastrnn.LSTM(2, 3, device="cuda"), requirements.check):
        with pytest.raises(RuntimeError, match=f'device: "cuda" {message}'):
            make()


def test_all_there(machine):
    machine(Driver(0, 2, 12000, ((6, 1), (7, 0))), ("numba_cuda", "cupy"))
    requirements.check()


def test_wrong_arguments_are_told_first(machine):
    machine(None)
    with pytest.raises(ValueError, match="hidden_size"):
        fastrnn.GRU(2, 0, device="cuda")
    with pytest.raises(ValueError, match='device: expected "cpu" or "cuda", got "cuda:1"'):
        fastrnn.GRU(2, 3, device="cuda:1")
    with pytest.raises(TypeError, match='dtype: expected "float32" or "float64", got'):
        fastrnn.GRU(2, 3, dtype="float16")


def test_the_command_takes_no_threads_for_a_gpu(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["check", "--device", "cuda", "--threads", "2"])
    assert "error: argument --threads: is for --device cpu" in capsys.readouterr().err


def test_the_command_says_so_too(machine, capsys):
    machine(None)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["check", "--device", "cuda"])
    assert "error: argument --device:" in (told := capsys.readouterr().err)
    assert "needs an NVIDIA GPU and its driver" in told


def test_numbas_cuda_is_not_imported_before_all_is_there(tmp_path):
    program = (
        "import fastrnn, sys\n"
        "try:\n    fastrnn.LSTM(2, 3, device='cuda')\nexcept RuntimeError as error:\n    print(type(error).__name__)\n"
        "print([name for name in sys.modules if name.startswith(('numba.cuda', 'cupy', 'torch'))])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    if "CudaUnavailable" not in done.stdout:
        pytest.skip("there is a GPU")
    assert done.stdout.split("\n")[1] == "[]"
