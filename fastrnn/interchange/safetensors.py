"""Layers in safetensors files: the parameters under PyTorch's names, class and options in the metadata."""

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import validation
from fastrnn.extras import need
from fastrnn.files import header_of, layer_of, new_file, parsed_header

from .layouts import CLASSES, Layer, family

if TYPE_CHECKING:
    from safetensors import safe_open

_KEY = "fastrnn"  # of the header in the metadata
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def save_safetensors(layer: Layer, path: str | os.PathLike[str]) -> None:
    """Write the layer's class, options and parameters to a safetensors file at exactly `path`.

    Any reader of safetensors gets the parameters under PyTorch's names. What is not kept is as in `layer.save`.

    OSError, as `open` raises it, if the file cannot be written.
    """
    family(layer)  # refuses what is no layer
    path = validation.path(path)
    need("safetensors", "save_safetensors")
    from safetensors.numpy import save

    with new_file(path) as file:
        file.write(save(layer.state_dict(), metadata={_KEY: header_of(layer)}))


def load_safetensors(
    path: str | os.PathLike[str], *, device: str = "cpu", seed: int | None = None, backend: str | None = None
) -> Layer:
    """Make a layer from a file that `save_safetensors` wrote. `seed` is then that of dropout.

    A file of other origin, say of a PyTorch module's state_dict, does not tell class and options; make the layer, then
    `layer.load_state_dict(safetensors.numpy.load_file(path))`.

    ValueError if it is another kind of file; one lists every tensor that is missing, surplus or misshapen. TypeError if
    only their dtypes are wrong.
    """
    path = validation.path(path)
    need("safetensors", "load_safetensors")
    from safetensors import SafetensorError, safe_open

    open(path, "rb").close()  # errors that name the path
    try:
        opened = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"path: expected a safetensors file, got {os.fspath(path)!r}: {error}") from error
    with opened as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise ValueError(f"path: expected a file written by save_safetensors, got {os.fspath(path)!r}")
        header = parsed_header(metadata[_KEY])
        tensors = {name: _Tensor(file, name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        kinds = {kind.__name__: kind for kind in CLASSES.values()}
        if not isinstance(header["class"], str) or header["class"] not in kinds:
            raise ValueError(f"path: expected a file with class LSTM, GRU or RNN, got one with {header['class']}")
        sizes = [math.prod(tensor.shape) for tensor in tensors.values()]
        layer = layer_of(header, kinds[header["class"]], sizes, device=device, seed=seed, backend=backend)
        layer.load_state_dict(tensors)
        return layer


class _Tensor:
    """A tensor in an open file, read when an array is made of it: NumPy cannot read all that a file may hold."""

    def __init__(self, file: "safe_open", name: str) -> None:
        entry = file.get_slice(name)
        self.shape = tuple(entry.get_shape())
        self.dtype = _DTYPES.get(entry.get_dtype(), entry.get_dtype())
        self._file = file
        self._name = name

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._file.get_tensor(self._name)
