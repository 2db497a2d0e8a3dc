"""The contenders made ready for a case, on arrays that PyTorch holds on the GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.cases import Problem
from bench.competitors import Runner, Unsupported, prepare_fastrnn, prepare_torch
from bench.gpu.grid import Contender
from fastrnn.cuda.requirements import DoesNotFit

if TYPE_CHECKING:
    import torch

DEVICE = "cuda"
# relative norm of the difference from float64, for each type in which numbers are stored; TF32 has float16's digits
BOUNDS = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 2e-2}


def device_problem(problem_on_host: Problem, dtype: str) -> Problem:
    """The same numbers on the GPU."""
    import torch

    def up(array: Any) -> torch.Tensor:
        return torch.as_tensor(array).to(DEVICE, getattr(torch, dtype))

    def up_all(arrays: dict[str, Any]) -> dict[str, Any]:
        return {name: up(array) for name, array in arrays.items()}

    x, dy = up(problem_on_host.x), up(problem_on_host.dy)
    parts = (up_all(part) for part in (problem_on_host.parameters, problem_on_host.state, problem_on_host.dstate))
    parameters, state, dstate = parts
    return Problem(problem_on_host.cell, parameters, x, state, dy, dstate)


def prepare(contender: Contender, problem: Problem, mode: str) -> Runner:
    """The contender on the numbers of `problem`, in its own dtype."""
    numbers = device_problem(problem, contender.dtype)
    if contender.path is None:
        runner = prepare_torch(numbers, mode, 1, as_returned=_as_it_is)
    else:
        runner = prepare_fastrnn(numbers, mode, 1, device=DEVICE, backend=contender.path)
    # called before every turn of a contender: here it is the switches, not the threads, that are set
    return replace(runner, set_threads=lambda: use_tf32(contender.tf32))


def expected(problem: Problem, mode: str, dtype: str) -> dict[str, torch.Tensor]:
    """What PyTorch computes in float64 on the GPU, from the numbers that a contender with this dtype has."""
    rounded = device_problem(problem, dtype)
    runner = prepare_torch(device_problem(rounded, "float64"), mode, 1, as_returned=_as_it_is)
    return runner.outputs(runner.call())


def wrong(runner: Runner, truth: dict[str, torch.Tensor], contender: Contender) -> str | None:
    """What does not agree with the truth; None if all does. Unsupported if the GPU is too small for its path."""
    runner.set_threads()
    try:
        computed = runner.outputs(runner.call())
    except DoesNotFit as error:
        raise Unsupported(str(error)) from error
    if computed.keys() != truth.keys():
        return f"computed {sorted(computed)}, expected {sorted(truth)}"
    bound = BOUNDS["float16" if contender.tf32 else contender.dtype]
    errors = {name: relative_error(computed[name], right) for name, right in truth.items()}
    too_large = [
        f"{name}: error {error:.1e}, allowed {bound:.0e}" for name, error in errors.items() if not error <= bound
    ]
    return "; ".join(too_large) or None


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference relative to the norm of the truth; NaN if there is any."""
    if found.shape != truth.shape:
        return float("inf")
    return float((found.double() - truth).norm() / truth.norm())


def use_tf32(on: bool) -> None:
    """Whether PyTorch's products and cuDNN may round float32 to TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach()
