"""PyTorch's recurrent modules to layers, and layers to modules."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import validation
from fastrnn.extras import need

from .layouts import CLASSES, Layer, family

if TYPE_CHECKING:
    import torch

_SHARED = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_OPTIONS = {"lstm": (*_SHARED, "proj_size"), "gru": _SHARED, "rnn": (*_SHARED, "nonlinearity")}


def from_torch(
    module: "torch.nn.RNNBase", *, device: str = "cpu", seed: int | None = None, backend: str | None = None
) -> Layer:
    """A layer with the options, the parameters (copied) and the training flag of a torch.nn.LSTM, GRU or RNN.

    The values are those that the module would use now: parametrised weights are computed (as whenever they are looked
    at, a spectral norm in training goes on by one step). `device`, `seed` (that of dropout) and `backend` are those of
    the layer.

    TypeError for another module, or parameters that are not all float32 or all float64. ValueError for parameters
    that are missing or None, for those without values, on PyTorch's meta device, and for those that a hook computes
    before each call, as the older torch.nn.utils.weight_norm and prune do: nothing tells whether their present values
    are the next ones.
    """
    need("torch", "from_torch")
    import torch
    from torch.nn.utils.parametrize import is_parametrized

    classes = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
    cell = next((cell for cell, theirs in classes.items() if isinstance(module, theirs)), None)
    if cell is None:
        raise TypeError(f"module: expected a torch.nn.LSTM, GRU or RNN, got {validation.full_name(module)}")
    tensors: dict[str, Any] = {name: getattr(module, name, None) for name in module._flat_weights_names}
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing:
        raise ValueError(f"module: expected all its parameters, got none for {', '.join(missing)}")
    dtype = str(tensors["weight_ih_l0"].dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise TypeError(f"module: expected parameters of float32 or float64, got {dtype}")
    options = {name: getattr(module, name) for name in _OPTIONS[cell]}
    options["bidirectional"] = bool(module.bidirectional)  # PyTorch takes numbers for it
    layer = CLASSES[cell](**options, dtype=dtype, device=device, seed=seed, backend=backend)
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    hooked = [name for name in tensors if name not in own and not is_parametrized(module, name)]
    if hooked:
        expected = "parameters, or parametrised ones"
        raise ValueError(f"module: expected {expected}, got {', '.join(hooked)} computed by a hook: remove it first")
    if empty:
        raise ValueError(f"module: expected parameters with values, got {', '.join(empty)} on the meta device")
    layer.load_state_dict(tensors)
    return layer.train(module.training)


def to_torch(layer: Layer) -> "torch.nn.RNNBase":
    """A torch.nn.LSTM, GRU or RNN on the CPU with the options, the parameters (copied) and the training flag.

    PyTorch's random generator is left as it is. ValueError for a GRU with reset_after=False: PyTorch has none.
    """
    cell = family(layer)
    if layer.cell == "gru_reset_before":
        raise ValueError("layer: expected a GRU with reset_after=True, the only one in PyTorch, got reset_after=False")
    need("torch", "to_torch")
    import torch

    options = {name: getattr(layer, name) for name in _OPTIONS[cell]}
    options["dtype"] = getattr(torch, layer.dtype.name)
    # made without values: drawing them would move PyTorch's generator
    module = getattr(torch.nn, CLASSES[cell].__name__)(**options, device="meta").to_empty(device="cpu")
    arrays = layer.state_dict()
    if layer.dtype.name == "bfloat16":  # which PyTorch does not take from NumPy; its numbers are float32's
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return module.train(layer.training)
