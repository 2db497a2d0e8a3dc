"""What device="cuda" needs, checked in the order in which a user would install it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from typing import Any

INSTALL = "pip install 'numba-cuda[cu13]' cupy-cuda13x ml_dtypes"
_DRIVERS = "https://www.nvidia.com/drivers"
_LEAST_DRIVER = 12000  # of CUDA 12, as `cuDriverGetVersion` has it; the packages of the extra need one for CUDA 13
_LEAST_CAPABILITY = (7, 0)  # the grid's barrier uses that memory model; packages for CUDA 13 compile from 7.5 on
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class CudaUnavailable(RuntimeError):
    """device="cuda" was asked for where it cannot work."""


class DoesNotFit(ValueError):
    """The persistent path was asked for, and this GPU is too small for the layer."""


def simulated() -> bool:
    """Whether Numba's simulator takes the GPU's place: NUMBA_ENABLE_CUDASIM=1 when Numba is first imported."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def check() -> None:
    """CudaUnavailable, naming the first thing that is missing or too old: driver, GPU, Numba-CUDA, CuPy or PyTorch."""
    if simulated():
        _check_package("numba_cuda", "Numba-CUDA")
        return
    _check_gpu()
    _check_package("numba_cuda", "Numba-CUDA")
    if not has_cupy() and not has_torch():
        raise CudaUnavailable(f'device: "cuda" needs CuPy or a PyTorch with CUDA, and found neither: {INSTALL}')


def has_cupy() -> bool:
    return importlib.util.find_spec("cupy") is not None


def has_torch() -> bool:
    """Whether there is a PyTorch that can use a GPU; imported only to see that."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _check_package(module: str, name: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise CudaUnavailable(f'device: "cuda" needs {name}, which is not installed: {INSTALL}')


def _check_gpu() -> None:
    """Ask the driver itself, through its C interface: no package is needed for that."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        raise CudaUnavailable(
            f'device: "cuda" needs an NVIDIA GPU and its driver, and {library} was not found. '
            f"With a GPU, install its driver ({_DRIVERS}), then {INSTALL}"
        ) from None
    number = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number))
    if status or number.value == 0:
        raise CudaUnavailable(
            f'device: "cuda" needs an NVIDIA GPU, and the driver reports none (status {status}, {number.value} devices)'
        )
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value < _LEAST_DRIVER:
        raise CudaUnavailable(
            f'device: "cuda" needs a driver for CUDA {_LEAST_DRIVER // 1000} or newer ({_DRIVERS}), and found one for '
            f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
        )
    newest = max(_capability(driver, device) for device in range(number.value))
    if newest < _LEAST_CAPABILITY:
        raise CudaUnavailable(
            f'device: "cuda" needs a GPU of compute capability {_LEAST_CAPABILITY[0]}.{_LEAST_CAPABILITY[1]} or newer, '
            f"and the newest here has {newest[0]}.{newest[1]}"
        )


def _capability(driver: Any, device: int) -> tuple[int, int]:
    """The compute capability of that GPU; of one that does not say, the least."""
    found = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return _LEAST_CAPABILITY
        found.append(value.value)
    return found[0], found[1]
