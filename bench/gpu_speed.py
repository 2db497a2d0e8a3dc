"""The layers beside cuDNN, through PyTorch, timed by CUDA events; results are compared before they are timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version

import numpy as np
import torch

import fastrnn
from bench.gpu_cases import BOUNDS, CUDNN, NAMES, Point
from bench.timing import interleaved, summarize

SECONDS = 0.25  # for the rounds of one point
MIN_ROUNDS, MAX_ROUNDS = 3, 50
WARM_UP = 3  # calls: the first compile, the third is captured as a graph
WITNESS = "cuDNN float32"  # what the others are compared with
TF32_BOUND = 2e-2  # its products have the digits of float16
Call = Callable[[], list[torch.Tensor]]


def precision(tf32: bool) -> None:
    """Whether float32 products may use TF32, in cuDNN and in cuBLAS."""
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32


def versions() -> dict[str, str]:
    """Of what the times depend on beside `bench.machine.PACKAGES`."""
    return {
        "CUDA": torch.version.cuda,
        "cuDNN": str(torch.backends.cudnn.version()),
        "numba-cuda": version("numba-cuda"),
    }


def elapsed(call: Callable[[], object]) -> float:
    """Seconds between two events on the stream, before and behind the call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """The shortest of some calls, after an untimed one."""
    call()
    return min(elapsed(call) for _ in range(rounds))


def measure(point: Point) -> dict:
    """Timings of all that agree with cuDNN's float32, and why others were refused."""
    gc.collect()  # a layer is part of a circle, and the memory of the last point's layers is needed now
    calls, refused = make_calls(point)
    if WITNESS not in calls:
        calls.clear()
    for name in [name for name in calls if name != WITNESS]:
        wrong = disagreement(name, run(name, calls[name]), run(WITNESS, calls[WITNESS]))
        if wrong:
            refused[name] = wrong
            del calls[name]
    for name, call in calls.items():
        for _ in range(WARM_UP):
            run(name, call)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.monotonic() + SECONDS
    for round_ in range(MAX_ROUNDS):
        if round_ >= MIN_ROUNDS and time.monotonic() > deadline:
            break
        for name in interleaved(list(calls), round_):
            precision(NAMES[name][1] == "TF32")
            samples[name].append(elapsed(calls[name]))
    sizes = {"cell": point.cell, "mode": point.mode, "T": point.T, "B": point.B, "H": point.H}
    timings = {name: asdict(summarize(found, 1)) for name, found in samples.items()}
    return sizes | {"timings": timings, "refused": refused}


def run(name: str, call: Call) -> list[torch.Tensor]:
    precision(NAMES[name][1] == "TF32")
    return call()


def disagreement(name: str, found: list[torch.Tensor], expected: list[torch.Tensor]) -> str | None:
    """What differs by more than the numbers' type explains."""
    _, way, dtype = NAMES[name]
    allowed = TF32_BOUND if way == "TF32" else 2 * BOUNDS[dtype]  # both have rounded
    for k, (one, two) in enumerate(zip(found, expected, strict=True)):
        error = float(torch.linalg.vector_norm(one.float() - two) / torch.linalg.vector_norm(two))
        if not error <= allowed:  # written so that NaN fails
            return f"result {k} differs from {WITNESS} by {error:.1e}, allowed {allowed:.0e}"
    return None


def make_calls(point: Point, device: str = "cuda") -> tuple[dict[str, Call], dict[str, str]]:
    """By name, what returns y and in training the gradients of x and the parameters; and whoever cannot do it."""
    torch.manual_seed(0)
    module = getattr(torch.nn, point.cell.upper())(point.H, point.H).to(device)
    x, dy = (torch.randn(point.T, point.B, point.H, device=device) for _ in range(2))
    calls: dict[str, Call] = {}
    refused: dict[str, str] = {}
    for name, (whose, way, dtype) in NAMES.items():
        numbers = getattr(torch, dtype)
        try:
            if whose == CUDNN:
                calls[name] = of_module(point, module, x.to(numbers), dy.to(numbers))
            else:
                calls[name] = of_layer(point, way, dtype, module, x.to(numbers), dy.to(numbers))
            run(name, calls[name])
        except Exception as error:  # whatever it is, the others are still measured
            if not (way == "persistent" and isinstance(error, ValueError)):  # too large for the chip: no failure
                refused[name] = f"{type(error).__name__}: {error}"
            calls.pop(name, None)
    return calls, refused


def of_module(point: Point, module: torch.nn.RNNBase, x: torch.Tensor, dy: torch.Tensor) -> Call:
    own = getattr(torch.nn, point.cell.upper())(point.H, point.H).to(x.device, x.dtype)
    own.load_state_dict(module.state_dict())
    x = x.clone().requires_grad_(point.mode == "training")

    def forward() -> list[torch.Tensor]:
        with torch.inference_mode():
            return [own(x)[0]]

    def training() -> list[torch.Tensor]:
        y, _ = own(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *own.parameters()], dy)]

    return forward if point.mode == "forward" else training


def of_layer(point: Point, path: str, dtype: str, module: torch.nn.RNNBase, x: torch.Tensor, dy: torch.Tensor) -> Call:
    layer = getattr(fastrnn, point.cell.upper())(point.H, point.H, device="cuda", dtype=dtype, backend=path, seed=0)
    layer.load_state_dict(
        {name: np.asarray(p.detach().cpu()).astype(layer.dtype) for name, p in module.named_parameters()}
    )

    def forward() -> list[torch.Tensor]:
        return [layer(x)[0]]

    def training() -> list[torch.Tensor]:
        (y, _), backward = layer.vjp(x)
        gradients = backward(dy)
        return [y, gradients.x, *gradients.parameters.values()]

    return forward if point.mode == "forward" else training
