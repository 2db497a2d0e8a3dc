"""What of PyTorch's global state concerns a call: who follows its operators, and autocast."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext


def kernels_may_run() -> bool:
    """Whether nobody has to see each of PyTorch's operators at work: the kernels are none of them.

    Tracing (torch.jit.trace, torch.onnx.export), function transforms (torch.func), forward-mode derivatives and
    dispatch modes (make_fx, FakeTensorMode, FlopCounterMode) have to; and modes that see PyTorch's functions, but for
    the one that `torch.set_default_device` and `with device` are.
    """
    return not (
        torch._C._get_tracing_state()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or (torch._C._len_torch_function_stack() and not _only_devices())
    )


def _only_devices() -> bool:
    """Whether the modes that see PyTorch's functions only set the device of new tensors."""
    return all([isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()])


# What Dynamo does with the frames of this thread: None where it is not at work. After it has given up on a frame, it
# still takes those that the frame calls, one by one, where nobody says that they are being compiled.
dynamo_at_work = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: None)


def graph_is_recorded() -> bool:
    """Whether what is computed becomes a node in the graph: in inference mode not even where `enable_grad` is inside.

    torch.compile cannot trace this.
    """
    return torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def transforms_in_graph() -> bool:
    """Whether what torch.compile is tracing is under a transform of torch.func: our operators have rules for none.

    To it a constant (see `dynamo.py`), as is `one_dnn_runs`.
    """
    return torch._C._are_functorch_transforms_active()


def is_mapped(gradients: tuple[Tensor | None, ...]) -> bool:
    """Whether PyTorch maps the operators of a backward pass over a batch of gradients (vmap, is_grads_batched)."""
    if torch._C._are_functorch_transforms_active():
        return True
    return any([g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in gradients])


def autocast_applies(dtype: torch.dtype) -> bool:
    """To weights of that dtype: it leaves float64 alone."""
    return dtype == torch.float32 and torch.is_autocast_enabled("cpu")


def one_dnn_runs(dtype: torch.dtype) -> bool:
    """Whether torch.nn takes oneDNN's LSTM for inputs of that dtype."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return torch._C._get_mkldnn_enabled()


def autocast_dtypes(
    cell: str, projected: bool, x: Tensor, states: tuple[Tensor, ...], *, one_dnn: bool
) -> tuple[torch.dtype, ...] | None:
    """The dtypes that y and the final states have in torch.nn under autocast; None for what is left to torch.nn.

    Its products have the low precision, and what is computed from them and a state has the wider of both. With
    `one_dnn`, where torch.nn calls oneDNN's LSTM, all have the low one.
    """
    low = torch.get_autocast_dtype("cpu")
    state = states[0].dtype if states else x.dtype
    supported = (torch.bfloat16, torch.float32)
    if low != torch.bfloat16 or x.dtype not in supported or state not in supported:
        return None
    for other in states:
        if other.dtype != state:
            return None
    if cell == "gru":
        return state, state
    if cell != "lstm" or one_dnn:
        return (low,) * (3 if cell == "lstm" else 2)
    h = low if projected else state
    return h, h, state
