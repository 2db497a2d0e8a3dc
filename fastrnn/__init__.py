"""LSTM, GRU and plain RNN layers in kernels compiled for the machine they run on."""

from typing import TYPE_CHECKING, Any

from .checking import check
from .layers import GRU, LSTM, RNN
from .threads import get_num_threads, set_num_threads

__all__ = ["GRU", "LSTM", "RNN", "__version__", "check", "get_num_threads", "set_num_threads"]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import diagnostics as diagnostics


def __getattr__(name: str) -> Any:
    """`fastrnn.diagnostics` is imported when it is first asked for."""
    if name == "diagnostics":
        from importlib import import_module

        return import_module(".diagnostics", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
