"""The caller's kind of array: how it becomes one of the library that works, and how results become it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, Arrays, CupyArrays, NumpyArrays, TorchArrays
from .requirements import has_cupy, simulated

_CUDA_DEVICE_TYPES = (2, 13)  # of DLPack: memory of a GPU, and memory that the driver moves


class Kind(NamedTuple):
    """arrays: the library that works. taken: the caller's array as one of that. given: the way back."""

    arrays: Arrays
    taken: Callable[[Array], Array]
    given: Callable[[Array], Array]


_libraries: dict[str, Arrays] = {}


def library(name: str) -> Arrays:
    """The library of that name, imported when first asked for."""
    if name not in _libraries:
        makers = {"cupy": CupyArrays, "torch": TorchArrays, "numpy": NumpyArrays}
        _libraries[name] = makers[name]()
    return _libraries[name]


def own_library() -> Arrays:
    """Where a layer keeps its parameters: CuPy, or PyTorch where there is no CuPy."""
    if simulated():
        return library("numpy")
    return library("cupy" if has_cupy() else "torch")


def kind_of(name: str, value: Any) -> Kind:
    """The kind of an argument; TypeError if it is not an array on a GPU."""
    root = type(value).__module__.partition(".")[0]
    if simulated():
        if isinstance(value, np.ndarray):
            return Kind(library("numpy"), _same, _same)
        raise TypeError(f"{name}: expected a NumPy array, as the CUDA simulator is on, got {_type(value)}")
    if root == "torch" and hasattr(value, "is_cuda"):
        if not value.is_cuda:
            raise TypeError(f"{name}: expected a tensor on a CUDA device, got one on {value.device}")
        return Kind(library("torch"), _detached, _same)
    if root == "cupy" and hasattr(value, "__dlpack__"):
        return Kind(library("cupy"), _same, _same)
    own = own_library()
    if not isinstance(value, np.ndarray):
        if root in ("numba", "numba_cuda") and hasattr(value, "__cuda_array_interface__"):
            return Kind(own, own.shared, _as_numba)
        if hasattr(value, "__dlpack__"):
            device_type, number = value.__dlpack_device__()
            if device_type not in _CUDA_DEVICE_TYPES:
                raise TypeError(f"{name}: expected an array on a GPU, got one on DLPack device {device_type}:{number}")
            namespace = value.__array_namespace__() if hasattr(value, "__array_namespace__") else None
            return Kind(own, own.shared, namespace.from_dlpack if namespace else _same)
        if hasattr(value, "__cuda_array_interface__"):
            return Kind(own, own.shared, _same)
    raise TypeError(f"{name}: expected an array on a GPU (CuPy, PyTorch, Numba or DLPack), got {_type(value)}")


def same_kind(name: str, value: object, kind: Kind) -> Array:
    """`value` for the library of `kind`, whatever kind it is itself."""
    other = kind_of(name, value)
    taken = other.taken(value)
    return taken if other.arrays is kind.arrays else kind.arrays.shared(taken)


def _same(array: Array) -> Array:
    return array


def _detached(tensor: Array) -> Array:
    return tensor.detach()


def _as_numba(array: Array) -> Array:
    from fastrnn.kernels.cuda.launch import as_numba_array

    return as_numba_array(array)


def _type(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"
