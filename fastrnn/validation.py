"""Checks of arguments: each error names the argument, what was expected and what came.

In the shapes: `T` steps, `B` batch, `I` input features, `H` hidden units, `L` layers, `D` directions, `R` width of h.
"""

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

State = Any  # the caller's: the LSTM's is a tuple of two arrays (h, c), the others' is an array h

Lengths = Any  # the caller's: a one-dimensional array, list or tuple of integers, or None

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def full_name(value: Any) -> str:
    """What a value is, in an error where several libraries have a class of that name."""
    return class_name(type(value))


def class_name(kind: type) -> str:
    """With its module, unless it is Python's own."""
    module = kind.__module__.removesuffix(".layers")
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def path(value: Any, name: str = "path") -> str:
    """TypeError or ValueError unless it names a file; bytes are decoded."""
    try:
        place = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name}: expected a str, bytes or os.PathLike, got {type(value).__name__}") from None
    if "\0" in place:
        raise ValueError(f"{name}: expected a name without null characters, got {place!r}")
    return place


def array(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """`value` as a plain ndarray, no copy; TypeError unless it is a NumPy array of exactly `dtype`."""
    if type(value) is not np.ndarray:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a NumPy array without a mask, got {type(value).__name__}")
        value = np.asarray(value)
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
    return value


def shaped_array(name: str, value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """As `array`; ValueError unless it has exactly `shape`."""
    return shaped(name, array(name, value, dtype), shape)


def shaped(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`value`; ValueError unless it has exactly `shape`."""
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    return value


def contiguous(value: np.ndarray) -> np.ndarray:
    """`value` itself if it is C-contiguous and aligned to its items, else a copy that is."""
    flags = value.flags
    return value if flags.c_contiguous and flags.aligned else np.array(value, order="C")


def size(name: str, value: Any, *, least: int) -> int:
    """An integer of at least `least`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r} ({type(value).__name__})")
    return bool(value)


def probability(name: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number from 0 to 1, got {value!r} ({type(value).__name__})")
    if not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
    return float(value)


def _largest(dtype: np.dtype) -> float:
    if dtype.name == "bfloat16":  # whose limits NumPy does not know
        from ml_dtypes import finfo

        return float(finfo(dtype).max)
    return float(np.finfo(dtype).max)


def finite(name: str, value: Any, dtype: np.dtype) -> float:
    """A number that is finite in `dtype` too."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a finite number, got {value!r} ({type(value).__name__})")
    if not abs(value) <= _largest(dtype):  # type: ignore[operator]  # integers may be too large for float
        raise ValueError(f"{name}: expected a number that is finite in {dtype}, got {value}")
    return float(value)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    expected = " or ".join(f'"{c}"' for c in choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")
    if value not in choices:
        raise ValueError(f'{name}: expected {expected}, got "{value}"')
    return value


def dtypes(device: str) -> tuple[np.dtype, ...]:
    """What a device computes with; bfloat16 where NumPy is told of it by the package ml_dtypes."""
    if device == "cpu":
        return DTYPES
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return (*DTYPES, np.dtype(np.float16))
    return (*DTYPES, np.dtype(np.float16), np.dtype(bfloat16))


def float_dtype(value: Any, dtypes: Sequence[np.dtype] = DTYPES) -> np.dtype:
    """One of `dtypes`, from its name, its NumPy type or its np.dtype, or PyTorch's of that name."""
    name = str(value)
    if name.startswith("torch."):
        value = name.removeprefix("torch.")
    if isinstance(value, str | type | np.dtype):
        for dtype in dtypes:
            if value in (dtype.name, dtype.type, dtype):
                return dtype
    *first, last = (f'"{dtype.name}"' for dtype in dtypes)
    raise TypeError(f"dtype: expected {', '.join(first)} or {last}, got {value!r} ({type(value).__name__})")


def sequence_lengths(name: str, value: Any, steps: int, batch: int) -> np.ndarray:
    """The lengths (B,) int64, each from 0 to T, of the sequences of an x of T = `steps`."""
    if not isinstance(value, np.ndarray | list | tuple):
        raise TypeError(f"{name}: expected a list, tuple or NumPy array of integers, got {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got {type(value).__name__}")
    try:
        lengths = np.asarray(value)
    except ValueError as error:  # entries of different lengths
        raise TypeError(f"{name}: expected a list, tuple or NumPy array of integers, got {value!r}") from error
    if lengths.shape != (batch,):
        raise ValueError(f"{name}: expected shape ({batch},), one for each sequence, got {lengths.shape}")
    if batch and lengths.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {lengths.dtype}")
    wrong = (lengths < 0) | (lengths > steps)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{name}: expected 0 to {steps}, the steps of x, got {lengths[row]} at index {row}")
    return lengths.astype(np.int64)


def parameter_values(mapping: Any, parameters: Mapping[str, np.ndarray], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Copies of the arrays or PyTorch tensors of `mapping`, which must match `parameters` in names and shapes.

    One error lists all that is wrong: ValueError, or TypeError if only types and dtypes are.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping: expected a mapping of names to arrays, got {type(mapping).__name__}")
    wrong_values = [f"{name}: missing" for name in parameters if name not in mapping]
    wrong_types = []
    for name, value in mapping.items():
        if name not in parameters:
            wrong_values.append(f"{name}: no such parameter")
        elif not hasattr(value, "__array__") or not hasattr(value, "dtype") or isinstance(value, np.generic | type):
            wrong_types.append(f"{name}: expected an array, got {type(value).__name__}")
        elif hasattr(value, "detach") and (value.is_meta or str(value.layout) != "torch.strided"):
            wrong_types.append(f"{name}: expected a dense tensor with values, got {value.layout} on {value.device}")
        elif isinstance(value, np.ma.MaskedArray):
            wrong_types.append(f"{name}: expected an array without a mask, got {type(value).__name__}")
        else:
            shape, given = tuple(parameters[name].shape), str(value.dtype).removeprefix("torch.")
            if given != dtype.name:
                wrong_types.append(f"{name}: expected {dtype}, got {given}")
            if tuple(value.shape) != shape:
                wrong_values.append(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    if wrong_values:
        raise ValueError("; ".join(wrong_values + wrong_types))
    if wrong_types:
        raise TypeError("; ".join(wrong_types))
    copies = {name: _host_copy(value, dtype) for name, value in mapping.items()}
    for name, array in copies.items():
        if array.shape != parameters[name].shape:  # an object that says one thing and gives another
            raise ValueError(f"{name}: expected shape {parameters[name].shape}, got an array of {array.shape}")
    return copies


def _host_copy(value: Any, dtype: np.dtype) -> np.ndarray:
    """A copy, because a value may be a view of one of the parameters."""
    if hasattr(value, "detach"):  # a PyTorch tensor; NumPy has no bfloat16 for it, whose numbers are float32's
        value = value.detach().cpu().resolve_neg()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()  # its __array__ is NumPy 1's
    elif hasattr(value, "copy_to_host"):  # an array of Numba's on a GPU
        value = value.copy_to_host()
    elif hasattr(value, "__cuda_array_interface__"):  # a CuPy array
        value = value.get()
    return np.asarray(value).astype(dtype)


def state_arrays(argument: str, names: tuple[str, ...], state: State) -> tuple[Any, ...]:
    """The arrays called `names` of the state passed as `argument`, themselves unchecked."""
    if len(names) == 1:
        return (state,)
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{argument}: expected a tuple ({', '.join(names)}), got {type(state).__name__}")
    if len(state) != len(names):
        raise ValueError(f"{argument}: expected a tuple ({', '.join(names)}), got {len(state)} entries")
    return tuple(state)
