"""LSTM, GRU and RNN for PyTorch, on the kernels of fastrnn: drop-ins for torch.nn's modules of the same names.

    import fastrnn.torch

    lstm = fastrnn.torch.LSTM(64, 128, num_layers=2)   # is a torch.nn.LSTM, with its arguments, weights and results
    print(fastrnn.torch.accelerate(model))             # or: swap those of an existing model, in place

Needs PyTorch. What runs where, and what differs: docs/pytorch.md.
"""

from fastrnn.extras import need

need("torch", "fastrnn.torch")

from .acceleration import Report, accelerate, restore  # noqa: E402  # only now that PyTorch is there
from .cells import GRUCell, LSTMCell, RNNCell  # noqa: E402  # only now that PyTorch is there
from .fx import let_fx_keep_whole  # noqa: E402  # only now that PyTorch is there
from .recurrent import GRU, LSTM, RNN  # noqa: E402  # only now that PyTorch is there

let_fx_keep_whole(__name__)

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "Report", "accelerate", "restore"]
