"""The device tests of `python -m bench.gpu`; Numba's simulator runs those that need no stream and no real memory."""

from __future__ import annotations

import gc
from functools import partial
from unittest.mock import patch

import numpy as np

import fastrnn
from bench.cases import Case, Problem, problem
from bench.competitors import prepare_fastrnn
from bench.gpu_cases import BOUNDS, STRESS_STEPS
from fastrnn.cuda import layer as cuda_layer
from fastrnn.cuda.kinds import own_library
from fastrnn.cuda.persistent import PersistentLoop

PARITY_SIZES = ((33, 5, 19, 168), (7, 1, 64, 1024), (3, 65, 7, 31))  # T, B, I, H
STRESS_DELAY = 16  # polls
STREAMS = 8
Named = dict[str, np.ndarray]


def run(name: str) -> dict:
    """One of `gpu_cases.device_tests`: its largest relative error, where it has one, and what failed, if anything."""
    kind, cell, path, *dtype = name.split()
    error: float | None = None
    gc.collect()  # a layer is part of a circle, and the memory of the last test's layers is needed now
    try:
        if kind == "parity":
            error = max(parity(cell, path, dtype[0], size) for size in PARITY_SIZES)
            failure = None if error <= BOUNDS[dtype[0]] else f"error {error:.1e}, allowed {BOUNDS[dtype[0]]:.0e}"
        else:
            failure = {"streams": streams, "memory": memory, "stress": stress}[kind](cell, path)
    except Exception as raised:  # whatever it is, it is what this test found, and the others still run
        failure = f"{type(raised).__name__}: {raised}"
    return {"name": name, "error": error, "failure": failure}


def parity(cell: str, path: str, dtype: str, size: tuple[int, int, int, int]) -> float:
    """The largest relative norm of the difference from the float64 reference, over all outputs and gradients."""
    numbers = rounded(problem(Case(cell, "training", 1, *size)), dtype)
    oracle = prepare_fastrnn(as_type(numbers, np.float64), "training", 1, backend="reference")
    expected = oracle.outputs(oracle.call())
    found = everything(on_gpu(numbers, path, dtype), numbers)
    errors = [np.linalg.norm(found[n] - right) / max(np.linalg.norm(right), 1e-30) for n, right in expected.items()]
    return float(np.max(errors))  # NaN, if there is one


def as_type(numbers: Problem, dtype: np.dtype | type) -> Problem:
    def each(arrays: Named) -> Named:
        return {name: array.astype(dtype) for name, array in arrays.items()}

    x, dy = numbers.x.astype(dtype), numbers.dy.astype(dtype)
    return Problem(numbers.cell, each(numbers.parameters), x, each(numbers.state), dy, each(numbers.dstate))


def rounded(numbers: Problem, dtype: str) -> Problem:
    """In the layer's type as NumPy has it; these numbers are the truth."""
    return as_type(numbers, layer_dtype(dtype))


def layer_dtype(dtype: str) -> np.dtype:
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def on_gpu(numbers: Problem, path: str, dtype: str):
    """A layer with the problem's parameters."""
    _, _, I, H = numbers.sizes
    layer = getattr(fastrnn, numbers.cell.upper())(I, H, dtype=dtype, device="cuda", backend=path, seed=0)
    layer.load_state_dict(numbers.parameters)
    return layer


def everything(layer, numbers: Problem) -> Named:
    """Outputs and gradients in float64, named as `prepare_fastrnn` names them."""
    arrays = own_library()
    names = [name.partition("_")[0] for name in numbers.state]

    def up(array: np.ndarray):
        return arrays.from_host_as(array, layer.dtype.name)

    def down(array) -> np.ndarray:
        return arrays.to_host(array).astype(np.float64)

    def state(values: Named):
        found = tuple(map(up, values.values()))
        return found if len(found) == 2 else found[0]

    def parts(value, suffix: str) -> Named:
        values = value if isinstance(value, tuple) else (value,)
        return {f"{name}_{suffix}": down(each) for name, each in zip(names, values, strict=True)}

    (y, state_n), backward = layer.vjp(up(numbers.x), state(numbers.state))
    gradients = backward(up(numbers.dy), state(numbers.dstate))
    of_parameters = {name: down(gradient) for name, gradient in gradients.parameters.items()}
    return {"y": down(y), "x": down(gradients.x)} | parts(state_n, "n") | parts(gradients.state, "0") | of_parameters


def differing(one: Named, two: Named) -> str | None:
    """Names of what has not the same bits."""
    names = [name for name, array in one.items() if not np.array_equal(array, two[name])]
    return f"differing bits in {', '.join(names)}" if names else None


def stress(cell: str, path: str, size: tuple[int, int, int, int] = (STRESS_STEPS, 2, 8, 512)) -> str | None:
    """So many steps with blocks that come late, each time another one: the bits must be those of blocks in time."""
    numbers = problem(Case(cell, "training", 1, *size))
    expected = everything(on_gpu(numbers, path, "float32"), numbers)
    for delay in (STRESS_DELAY, STRESS_DELAY + 1):
        with patch.object(cuda_layer, "PersistentLoop", partial(PersistentLoop, delay=delay)):
            wrong = differing(expected, everything(on_gpu(numbers, path, "float32"), numbers))
        if wrong:
            return f"delays up to {delay} polls: {wrong}"
    return None


def streams(cell: str, path: str) -> str | None:
    """One layer on many streams at once, without a wait in between: each gives the same bits."""
    import torch

    numbers = problem(Case(cell, "forward", 1, 200, 4, 64, 256))
    layer = on_gpu(numbers, path, "float32")
    x = torch.from_numpy(numbers.x).cuda()
    layer(x)  # compiles
    torch.cuda.synchronize()
    expected = layer(x)[0].cpu()
    each = [torch.cuda.Stream() for _ in range(STREAMS)]
    found = []
    for _ in range(4):  # the third call of each is captured as a graph, the fourth replays it
        for stream in each:
            with torch.cuda.stream(stream):
                found.append(layer(x)[0])
    torch.cuda.synchronize()
    wrong = sum(not torch.equal(y.cpu(), expected) for y in found)
    return f"{wrong} of {len(found)} calls differ" if wrong else None


def memory(cell: str, path: str) -> str | None:
    """A sequence too long for the GPU is an error that leaves layer and memory as they were."""
    import torch

    numbers = problem(Case(cell, "forward", 1, 5, 2, 1, 512))
    layer = on_gpu(numbers, path, "float32")
    x = torch.from_numpy(numbers.x).cuda()
    expected = layer(x)[0].cpu()
    steps = torch.cuda.get_device_properties(x.device).total_memory // (4 * 512) + 1
    long = torch.zeros((steps, 1, 1), device=x.device)
    before = torch.cuda.memory_allocated()
    try:
        layer(long)
    except MemoryError:
        pass
    else:
        return f"{steps} steps were expected not to fit"
    if torch.cuda.memory_allocated() != before:
        return f"{torch.cuda.memory_allocated() - before} bytes are still taken"
    return None if torch.equal(layer(x)[0].cpu(), expected) else "the layer gives other results afterwards"
