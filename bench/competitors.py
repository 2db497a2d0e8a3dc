"""The implementations that are timed, each behind the same three questions: what to call, on how many threads, and
what it computed.

A competitor is a function `prepare(problem, mode, threads) -> Runner` that raises `Unsupported` for work it cannot do.
Every import is inside its function, so that a missing package is one absent competitor and the rest still run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import numpy as np

from bench.cases import Problem


class Unsupported(Exception):
    """This competitor cannot do this work (it has no backward pass, or no kernel for the dtype)."""


@dataclass(frozen=True)
class Runner:
    """One competitor made ready for one problem, mode and thread count."""

    call: Callable[[], Any]  # one forward pass, or one forward and backward pass: what is timed
    outputs: Callable[[Any], dict[str, np.ndarray]]  # what `call` returned, by name: y, h_n, c_n, x, h_0, c_0, weight_…
    set_threads: Callable[[], None] = lambda: None  # called before every turn of this competitor
    # seconds for one call, averaged over so many in a row, where this process's clock cannot tell: of a competitor in
    # another process, or of a GPU
    sample: Callable[[int], float] | None = None


def fastrnn_layer(problem: Problem, **options) -> Any:
    """fastrnn's layer with the weights of a problem."""
    import fastrnn

    _, _, I, H = problem.sizes
    layer_class = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU, "rnn": fastrnn.RNN}[problem.cell]
    layer = layer_class(I, H, dtype=str(problem.x.dtype).removeprefix("torch."), seed=0, **options)
    layer.load_state_dict(problem.parameters)
    return layer


def fastrnn_call(layer: Any, problem: Problem, mode: str) -> Callable[[], tuple]:
    """A pass of such a layer: y, the final state and, in training, the gradients."""
    state, dstate = as_state(problem.state.values()), as_state(problem.dstate.values())

    def forward():
        return layer(problem.x, state)

    def training():
        (y, final), backward = layer.vjp(problem.x, state)
        return y, final, backward(problem.dy, dstate)

    return forward if mode == "forward" else training


def as_in_training(call: Callable[[], Any], weights: np.ndarray) -> Callable[[], Any]:
    """The call, each time after one number of the weights has changed, in place and as little as it can.

    After an optimizer's step all have: what a library makes of weights and keeps, it has to make anew.
    """
    flat = weights.reshape(-1)
    values = cycle((np.nextafter(flat[0], flat.dtype.type(np.inf)), flat[0]))

    def changed():
        flat[0] = next(values)
        return call()

    return changed


def prepare_fastrnn(problem: Problem, mode: str, threads: int, **options) -> Runner:
    """fastrnn through its public API. `options` go to the layer (the checks use `backend="reference"`)."""
    import fastrnn

    def outputs(result):
        y, final, *grads = result
        named = {"y": y} | dict(zip(problem.dstate, _as_tuple(final), strict=True))
        for gradient in grads:
            named |= {"x": gradient.x} | dict(zip(problem.state, _as_tuple(gradient.state), strict=True))
            named |= {name: gradient.parameters[name] for name in problem.parameters}
        return named

    layer = fastrnn_layer(problem, **options)
    call = fastrnn_call(layer, problem, mode)
    if mode == "training" and layer.device == "cpu":
        call = as_in_training(call, layer.parameters["weight_hh_l0"])
    return Runner(call, outputs, lambda: fastrnn.set_num_threads(threads))


def _on_host(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy().copy()


def prepare_torch(problem: Problem, mode: str, threads: int, as_returned: Callable[[Any], Any] = _on_host) -> Runner:
    """PyTorch eager: inference mode for forward; autograd to x, the initial states and every parameter for training.

    The problem may hold tensors; it runs where they are. `as_returned` makes of tensors what `outputs` returns.
    """
    import torch

    _, _, I, H = problem.sizes
    module_class = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[problem.cell]
    x = torch.as_tensor(problem.x)
    module = module_class(I, H, dtype=x.dtype, device=x.device)
    module.load_state_dict({name: torch.as_tensor(array) for name, array in problem.parameters.items()})

    training_mode = mode == "training"
    leaves = {"x": x} | {name: torch.as_tensor(array) for name, array in problem.state.items()}
    leaves = {name: tensor.clone().requires_grad_(training_mode) for name, tensor in leaves.items()}
    state = as_state(leaf for name, leaf in leaves.items() if name != "x")
    upstream = [torch.as_tensor(array) for array in (problem.dy, *problem.dstate.values())]
    leaves |= dict(module.named_parameters())

    def forward():
        with torch.inference_mode():
            return module(leaves["x"], state)

    def training():
        for leaf in leaves.values():
            leaf.grad = None
        y, final = module(leaves["x"], state)
        torch.autograd.backward((y, *_as_tuple(final)), upstream)
        return y, final

    def outputs(result):
        y, final = result
        named = {"y": y} | dict(zip(problem.dstate, _as_tuple(final), strict=True))
        if training_mode:
            named |= {name: leaf.grad for name, leaf in leaves.items()}
        return {name: as_returned(tensor) for name, tensor in named.items()}

    call = training if training_mode else forward
    if training_mode and isinstance(problem.x, np.ndarray):
        call = as_in_training(training, module.weight_hh_l0.detach().numpy())
    return Runner(call, outputs, lambda: torch.set_num_threads(threads))


def prepare_onnxruntime(problem: Problem, mode: str, threads: int) -> Runner:
    """ONNX Runtime: a model of one node, default session options but for the thread count. Forward only.

    Inputs and outputs are bound: `session.run` takes 10 µs more a call to find the same arrays, and copies outputs.
    """
    import onnxruntime

    from bench.onnx_model import one_node_model

    if mode != "forward":
        raise Unsupported("ONNX Runtime has no backward pass for recurrent layers")
    if problem.x.dtype != np.float32:
        raise Unsupported("ONNX Runtime's recurrent layers are float32 only")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(one_node_model(problem), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in {"x": problem.x, **problem.state}.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def call():
        session.run_with_iobinding(binding)
        return binding

    def outputs(result):
        y, *final = result.copy_outputs_to_cpu()
        return {"y": y[:, 0]} | dict(zip(problem.dstate, final, strict=True))

    return Runner(call, outputs)


def prepare_jax(problem: Problem, mode: str, threads: int) -> Runner:
    """JAX: a jitted `lax.scan`, in a process of its own: its threads are as many as the cores that it starts with."""
    from bench.apart import prepare_apart

    return prepare_apart("jax", problem, mode, threads)


def as_state(arrays):
    """One array alone (GRU, RNN), several as a tuple (LSTM), as layers take their state."""
    arrays = tuple(arrays)
    return arrays if len(arrays) > 1 else arrays[0]


def _as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


OURS = "fastrnn"
LABELS = {"fastrnn": "fastrnn", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX"}
COMPETITORS = {
    "fastrnn": prepare_fastrnn,
    "torch": prepare_torch,
    "onnxruntime": prepare_onnxruntime,
    "jax": prepare_jax,
}


def absent_competitors() -> dict[str, str]:
    """Peers that this Python cannot import, with the reason."""
    requirements = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx"), "jax": ()}
    absent = {}
    for name, modules in requirements.items():
        try:
            for module in modules:
                __import__(module)
        except ImportError as error:
            absent[name] = str(error)
    for module in ("jaxlib", "jax"):
        if find_spec(module) is None:  # looked for, not imported: its threads would start in this process
            absent["jax"] = f"No module named {module!r}"
    return absent
