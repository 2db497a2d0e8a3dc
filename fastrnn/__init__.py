"""LSTM, GRU and plain RNN layers in kernels compiled for the machine they run on."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .checking import check
from .gradients import Gradients
from .layers import GRU, LSTM, RNN
from .network import Backward
from .threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from . import diagnostics
    from .interchange.keras import from_keras_weights, to_keras_weights
    from .interchange.onnx_export import to_onnx
    from .interchange.onnx_import import from_onnx
    from .interchange.onnx_layer import OnnxLayer
    from .interchange.safetensors import load_safetensors, save_safetensors
    from .interchange.torch import from_torch, to_torch
    from .stream import Stream

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Backward",
    "Gradients",
    "OnnxLayer",
    "Stream",
    "__version__",
    "check",
    "diagnostics",
    "from_keras_weights",
    "from_onnx",
    "from_torch",
    "get_num_threads",
    "load_safetensors",
    "save_safetensors",
    "set_num_threads",
    "to_keras_weights",
    "to_onnx",
    "to_torch",
]

__version__ = "0.1.0"

# names that are imported when they are first used, and from where; "" for modules
_LATE = {
    "OnnxLayer": "interchange.onnx_layer",
    "Stream": "stream",
    "diagnostics": "",
    "from_keras_weights": "interchange.keras",
    "from_onnx": "interchange.onnx_import",
    "from_torch": "interchange.torch",
    "load_safetensors": "interchange.safetensors",
    "save_safetensors": "interchange.safetensors",
    "to_keras_weights": "interchange.keras",
    "to_onnx": "interchange.onnx_export",
    "to_torch": "interchange.torch",
}


if not TYPE_CHECKING:  # to which it would make every name one of ours

    def __getattr__(name: str) -> Any:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        where = _LATE[name]
        value = getattr(import_module(f".{where}", __name__), name) if where else import_module(f".{name}", __name__)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
