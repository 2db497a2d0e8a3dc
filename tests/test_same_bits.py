"""The same bits, whatever the batch, the number of threads, the vector width, or how a sequence is cut.

Run as a program, with layers as arguments, it prints the vector width and digests of all their results, as JSON.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    DTYPES,
    KINDS,
    as_state,
    as_tuple,
    assert_same_bits,
    bits,
    everything,
    make_layer,
    outputs,
    random_problem,
)
from fastrnn.kernels.block import X_CHUNK
from fastrnn.kernels.target import vector_unit

from fastrnn.plans import Plan

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# Threads

# T, B, I, H and directions that make threads share a call this way
SHARING = {
    "by_units": (9, 2, 130, 129, 1),
    "by_rows": (21, 18, 40, 37, 1),
    "by_directions": (15, 3, 40, 60, 2),
}
# four threads, two to a direction
SHARING_BOTH = {
    "by_directions_and_units": (9, 2, 130, 129, 2),
    "by_directions_and_rows": (15, 9, 40, 60, 2),
}


@pytest.fixture
def teams(monkeypatch):
    """A list of (threads, blocks) for every run of a time loop; packing is left out."""
    from fastrnn.kernels import compiled

    loops = {compiled.kernel("loop forward"), compiled.kernel("loop backward")}
    started, run = [], Plan.run

    def spy(plan, *values):
        done = run(plan, *values)
        if done and plan.kernel in loops:
            started.append((plan.workers, plan.template.number))
        return done

    monkeypatch.setattr(Plan, "run", spy)
    return started


@every_dtype
@every_kind
@pytest.mark.parametrize("sharing", SHARING)
def test_two_threads_compute_what_one_does(kind, dtype, sharing, threads, teams):
    T, B, I, H, D = SHARING[sharing]
    layer = make_layer(kind, I, H, bidirectional=D == 2, dtype=dtype)
    problem = random_problem(layer, T, B)
    threads(1)
    expected = everything(layer, problem)
    assert set(teams) == {(1, D)}
    teams.clear()
    threads(2)
    assert_same_bits(everything(layer, problem), expected)
    assert teams == [(2, D)] * 3  # the call, and forward and backward of the vjp


@every_kind
@pytest.mark.parametrize(
    ("number", "sharing"),
    [*product([3, 4], ["by_units", "by_rows"]), (3, "by_directions"), *product([4], SHARING_BOTH)],
)
def test_larger_teams_compute_what_one_thread_does(kind, sharing, number, threads, teams):
    T, B, I, H, D = (SHARING | SHARING_BOTH)[sharing]
    layer = make_layer(kind, I, H, bidirectional=D == 2)
    problem = random_problem(layer, T, B)
    threads(1)
    expected = everything(layer, problem)
    teams.clear()
    threads(number)
    assert_same_bits(everything(layer, problem), expected)
    assert {started for started, _ in teams} == {number // D * D}


@every_kind
def test_more_threads_than_groups_of_units(kind, threads, teams):
    """Some of the team have no units, but meet the others."""
    layer = make_layer(kind, 12000, vector_unit().lanes(4) + 1)  # two groups
    problem = random_problem(layer, 6, 2)
    threads(1)
    expected = everything(layer, problem)
    threads(4)
    assert_same_bits(everything(layer, problem), expected)
    assert teams[-3:] == [(4, 1)] * 3


# Batches


@every_dtype
@every_kind
@pytest.mark.parametrize("B", [2, 3, 7, 13, 26])
def test_a_row_alone_is_that_row_of_a_batch(kind, dtype, B):
    layer = make_layer(kind, 11, 37, bidirectional=True, dtype=dtype)
    problem = random_problem(layer, 5, B)
    together = everything(layer, problem)
    of_a_row = [name for name, array in together.items() if array.ndim == 3]
    assert {"y", "h_n", "vjp y", "dx", "dh_0"} <= set(of_a_row)
    for row in {0, 1, B // 2, B - 1}:
        alone = everything(layer, problem.rows(slice(row, row + 1)))
        for name in of_a_row:
            np.testing.assert_array_equal(bits(together[name][:, row]), bits(alone[name][:, 0]), err_msg=name)


# Cuts


@every_dtype
@every_kind
@pytest.mark.parametrize("cut", [1, 4, 10])
def test_a_sequence_in_two_calls_is_the_sequence_in_one(kind, dtype, cut):
    layer = make_layer(kind, 11, 37, num_layers=2, dtype=dtype)
    problem = random_problem(layer, 11, 3)
    whole = outputs(layer, problem)
    first, state = layer(problem.x[:cut], as_state(problem.state))
    second, state = layer(problem.x[cut:], state)
    assert_same_bits({"y": np.concatenate([first, second])}, {"y": whole.pop("y")})
    assert_same_bits(dict(zip(("h_n", "c_n"), as_tuple(state), strict=False)), whole)


@every_dtype
@every_kind
@pytest.mark.parametrize("cut", [1, 4, 10])
def test_gradients_in_time_do_not_depend_on_a_cut(kind, dtype, cut):
    layer = make_layer(kind, 11, 37, num_layers=2, dtype=dtype)
    problem = random_problem(layer, 11, 3)
    whole = everything(layer, problem)
    (_, state), backward = layer.vjp(problem.x[:cut], as_state(problem.state))
    _, backward_of_the_rest = layer.vjp(problem.x[cut:], state)
    second = backward_of_the_rest(problem.dy[cut:], as_state(problem.dstate))
    first = backward(problem.dy[:cut], second.state)
    results = {"dx": np.concatenate([first.x, second.x])}
    results |= dict(zip(("dh_0", "dc_0"), as_tuple(first.state), strict=False))
    assert_same_bits(results, {name: whole[name] for name in results})


@every_dtype
@every_kind
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_sums_of_the_inputs_may_be_made_in_chunks_of_any_size(kind, dtype, steps, threads, monkeypatch):
    from fastrnn import planner, sharing

    T, B, I, H, _ = SHARING["by_rows"]
    whole = make_layer(kind, I, H, bidirectional=True, dtype=dtype)
    problem = random_problem(whole, T, B)
    threads(2)
    expected = everything(whole, problem)
    sequence = whole.sequences[0]
    numbers = B * sequence.layout.cell.gates * sequence.kernels().weights.forward_layout.padded  # of a step
    monkeypatch.setattr(sharing.Sharing, "rows_for_sums_within", lambda rules, parts: planner.NEVER)
    monkeypatch.setattr(planner, "_X_SUMS_BYTES", steps * numbers * whole.dtype.itemsize)
    in_chunks = make_layer(kind, I, H, bidirectional=True, dtype=dtype)
    assert_same_bits(everything(in_chunks, problem), expected)
    plans = in_chunks.sequences[0].kernels()._planner._plans
    assert {plan.template._words[X_CHUNK] for (kind, *_), plan in plans.items() if kind.forward} == {steps * B}
    assert steps < T


@every_dtype
@every_kind
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_step_may_make_its_sums_of_the_inputs_itself(kind, dtype, rows, number, threads, monkeypatch):
    """From so many rows on; as sequences end, or begin backwards, some steps do and some do not."""
    from fastrnn import planner, sharing

    lengths = np.random.default_rng(9).integers(0, 25, 18)
    threads(1)
    results = []
    for least in (planner.NEVER, rows):
        monkeypatch.setattr(sharing.Sharing, "rows_for_sums_within", lambda rules, parts, least=least: least)
        layer = make_layer(kind, 40, 37, bidirectional=True, dtype=dtype)
        problem = random_problem(layer, 25, len(lengths))
        results.append([everything(layer, problem), everything(layer, problem, lengths)])
        threads(number)
    for apart, within in zip(*results, strict=True):
        assert_same_bits(within, apart)


@every_dtype
@every_kind
@pytest.mark.parametrize("B", [1, 3])
def test_a_stream_is_the_whole_sequence(kind, dtype, B):
    layer = make_layer(kind, 11, 37, num_layers=2, dtype=dtype)
    problem = random_problem(layer, 9, B)
    y, state = layer(problem.x)
    stream = layer.stream(B)
    for _ in range(2):
        steps = [np.array(stream.step(x_t)) for x_t in problem.x]
        assert_same_bits({"y": np.stack(steps)}, {"y": y})
        names = ("h", "c")
        assert_same_bits(
            *[dict(zip(names, as_tuple(each), strict=False)) for each in (stream.state, state)],
        )
        stream.reset()


@every_kind
def test_a_stream_of_one_takes_frames_without_a_batch(kind):
    layer = make_layer(kind, 11, 37)
    x = random_problem(layer, 9, 1).x[:, 0]
    stream = layer.stream()
    steps = np.stack([np.array(stream.step(x_t)) for x_t in x])
    assert_same_bits({"y": steps}, {"y": layer(x)[0]})


# Widths

# T, B, I, H
SIZES = ((1, 1, 1, 2), (3, 2, 5, 7), (2, 13, 9, 40), (4, 5, 17, 33), (600, 1, 3, 4))
# bits of a vector: a processor that has no wider ones, and the layers compiled for it. With a cold cache each costs
# seconds: so every cell comes once. Without fused multiply-adds in hardware it is twice the time.
NARROWER = {
    256: (
        "haswell",
        [
            "lstm float32",
            "lstmp float64",
            "gru float64",
            "gru_reset_before float32",
            "rnn_tanh float32",
            "rnn_relu float64",
        ],
    ),
    128: ("nehalem", ["gru_reset_before float32", "lstm float64"]),
}


def digests(layers):
    """{case: {result: digest}}."""
    found = {}
    for name, size in product(layers, SIZES):
        kind, dtype = name.split()
        T, B, I, H = size
        layer = make_layer(kind, I, H, bidirectional=True, dtype=dtype)
        results = everything(layer, random_problem(layer, T, B))
        found[f"{kind}-T{T}-B{B}-I{I}-H{H}-{dtype}"] = {
            name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in results.items()
        }
    return found


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the processors named are x86")
@pytest.mark.parametrize("width", NARROWER)
def test_narrower_vectors_compute_the_same(width):
    host = vector_unit().bits
    if width >= host:
        pytest.skip(f"this machine's vectors have {host} bits")
    processor, layers = NARROWER[width]
    # without NUMBA_CPU_FEATURES Numba would add the host's features to those of the processor named
    target = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, __file__, *layers]
    done = subprocess.run(command, env=os.environ | target, capture_output=True, text=True, check=True)
    narrow = json.loads(done.stdout)
    assert narrow["bits"] == width
    assert narrow["digests"] == digests(layers)


# What `vector_unit` would say of a processor with wider vectors. LLVM makes several of the host's of each.
AS_IF_WIDER = """
import sys
from fastrnn.kernels import target
wide = target.VectorUnit(512, 32)
target.vector_unit = lambda: wide
sys.path.insert(0, {tests!r})
import test_same_bits
test_same_bits.tell({layers!r})
"""


def test_wider_vectors_compute_the_same(tmp_path):
    if vector_unit().bits >= 512:
        pytest.skip("this machine's vectors have 512 bits")
    layers = ["lstm float32", "gru float64"]
    program = AS_IF_WIDER.format(tests=str(Path(__file__).parent), layers=layers)
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}  # what is made here is not what this processor is known to need
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | cache, capture_output=True, text=True, check=True)
    wide = json.loads(done.stdout)
    assert wide["bits"] == 512
    assert wide["digests"] == digests(layers)


def tell(layers):
    """For another process."""
    print(json.dumps({"bits": vector_unit().bits, "digests": digests(layers)}))


if __name__ == "__main__":
    tell(sys.argv[1:])
