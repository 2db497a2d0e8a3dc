"""One frame at a time: `stream.step` from Python, and the kernel alone in a compiled loop, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
from fastrnn.kernels import compiled
from fastrnn.kernels.record import of_blocks

from bench import timing
from bench.cases import CELL_TITLES, CELLS, Case, problem
from bench.checked import Layer, runner_of, streamed_layer
from bench.competitors import Runner, absent_competitors, prepare_onnxruntime
from bench.report import MISSING, markdown_table
from bench.sections import Effort
from bench.targets import Reached
from fastrnn.memory import address, empty

TITLE = "One frame at a time"
SIZES = (32, 64)
STEP, WRITTEN, KERNEL = "step", "step with out", "kernel"
CALL, BOUND = "call", "onnxruntime"  # of a whole sequence, one frame long
COLUMNS = {
    STEP: "`step(x)`",
    WRITTEN: "`step(x, out=y)`",
    KERNEL: "kernel alone",
    CALL: "call",
    BOUND: "ONNX Runtime",
}
GOALS = {("lstm", 32): 2.5e-6, ("lstm", 64): 4e-6}
# https://github.com/jatinchowdhury18/RTNeural-compare: one thread of an Intel i7-8700B, sizes known to the compiler;
# seconds a frame
RTNEURAL = {("lstm", 32): 1.04e-6, ("lstm", 64): 3.3e-6, ("gru", 32): 0.76e-6, ("gru", 64): 2.6e-6}
FRAMES = 64  # of the sequence that a stream is checked on, and of one call of the compiled loop


def measure(effort: Effort) -> list[dict]:
    return [_point(cell, H, effort.seconds) for cell in CELLS for H in (SIZES[:1] if effort.quick else SIZES)]


def _point(cell: str, H: int, seconds: float) -> dict:
    case = Case(cell, "forward", 1, FRAMES, 1, H, H)
    layer, frame = streamed_layer(case), problem(case).x[0, 0]
    stream = layer.stream()
    out = np.empty(H, layer.dtype)
    runners = {
        STEP: Runner(lambda: stream.step(frame), dict),
        WRITTEN: Runner(lambda: stream.step(frame, out=out), dict),
        KERNEL: Runner(kernel_loop(layer, frame)[0], dict),
        CALL: runner_of(replace(case, T=1)),
    }
    if "onnxruntime" not in absent_competitors():
        runners[BOUND] = prepare_onnxruntime(problem(replace(case, T=1)), case.mode, 1)
    timings = timing.measure(runners, seconds)
    timings[KERNEL] = timings[KERNEL].part(FRAMES)
    return {"cell": cell, "H": H, "timings": {name: asdict(timed) for name, timed in timings.items()}}


def kernel_loop(layer: Layer, frame: np.ndarray) -> tuple[Callable[[], None], np.ndarray]:
    """A call that runs the kernel of a step FRAMES times without Python between, and where it leaves h, (1, H).

    Every step begins with h = 0; c goes on from step to step.
    """
    cpu = layer.sequences[0].kernels()
    plan = cpu.step_plan(1)
    block = empty((plan.template.words,), np.dtype(np.int64))
    x, h, y = frame[None], np.zeros((1, layer.hidden_size), layer.dtype), np.zeros((1, layer.hidden_size), layer.dtype)
    c = [np.zeros_like(h)] if layer.cell == "lstm" else []
    record = of_blocks(plan.kernel, address(block), 0, FRAMES)  # FRAMES blocks that all lie at one place
    place = address(record)
    bound = cpu.bind_step(plan, block, x, [h, *c], [y, *c])
    alive = [record, block, x, h, y, c, bound]  # the kernel knows addresses only

    def loop(alive: list = alive) -> None:
        compiled.run_record(place)

    return loop, y


def targets(points: list[dict]) -> list[Reached]:
    found = []
    for (cell, H), seconds in GOALS.items():
        values = [
            (f"{name} {cell} H={H}", 1e6 * p["timings"][name]["median"])
            for p in points
            for name in (STEP, WRITTEN)
            if (p["cell"], p["H"]) == (cell, H)
        ]
        text = f"`stream.step` of an {CELL_TITLES[cell]} with H = {H} in at most {1e6 * seconds:g} µs"
        found.append(Reached(text, 1e6 * seconds, values, at_least=False))
    return found


def report(points: list[dict]) -> str:
    rows = []
    for p in points:
        published = RTNEURAL.get((p["cell"], p["H"]))
        rows.append(
            [CELL_TITLES[p["cell"]], p["H"]]
            + [f"{1e6 * p['timings'][name]['median']:.2f}" if name in p["timings"] else MISSING for name in COLUMNS]
            + [f"{1e6 * published:.2f}" if published else MISSING]
        )
    titles = ("cell", "H", *(f"{title}, µs" for title in COLUMNS.values()), "RTNeural, µs")
    return (
        "Microseconds a frame, I = H, one thread. *Kernel alone* is the compiled part of a step, called in a compiled "
        "loop. RTNeural's figures are [published](https://github.com/jatinchowdhury18/RTNeural-compare) for another "
        "machine, an Intel i7-8700B, and C++ with sizes known to the compiler; they were not measured here. "
        "With `out=y` a step allocates nothing, which is for programs that must not wait for memory. "
        "*ONNX Runtime* and *call* run a sequence of one frame, its arrays bound, and as any other; beside the other "
        "libraries they are in the grid.\n\n" + markdown_table(titles, rows, left=1)
    )
