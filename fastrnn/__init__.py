"""LSTM, GRU and plain RNN layers in kernels compiled for the machine they run on."""

from .checking import check
from .layers import GRU, LSTM, RNN
from .threads import get_num_threads, set_num_threads

__all__ = ["GRU", "LSTM", "RNN", "__version__", "check", "get_num_threads", "set_num_threads"]

__version__ = "0.1.0"
