"""The bench itself: order of the samples, statistics, the parity gate, the files and tables. No time is judged."""

import gc
import json
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is run from the repository, never installed

from bench import __main__ as command
from bench import comparison, competitors, details, grid_targets, machine, parity, plot, report, results, timing
from bench.cases import CELLS, MODES, SIZES, Case, default_threads, problem, table
from bench.competitors import Runner, Unsupported
from bench.limit_kernels import vector_set
from bench.results import Measurement, Results
from bench.roofline import Limits, least_seconds
from bench.sections import sections
from bench.timing import Timing

SMALL = Case("lstm", "training", 1, 3, 2, 5, 7)
LIMITS = Limits(
    multiply_add={"float32": {1: 100e9, 2: 200e9}},
    bandwidth={1: [(16 * 1024, 200e9), (1024 * 1024, 100e9)], 2: [(16 * 1024, 400e9), (1024 * 1024, 200e9)]},
)


def timed(milliseconds):
    samples = [round(1e-3 * share * milliseconds, 9) for share in (0.9, 1.0, 1.1)]
    return Timing(1e-3 * milliseconds, 0.9e-3 * milliseconds, 1.1e-3 * milliseconds, 3, 1, samples)


def synthetic(*measurements):
    """A results file's worth of made-up results."""
    return Results(
        name="made-up",
        machine={
            "cpu": "Imaginary 9000",
            "microarchitecture": "dream1",
            "cores": 2,
            "vector": "AVX-512",
            "vector_bits": 512,
            "system": "Linux x86_64",
            "load_average": 0.0,
        },
        software={"python": "3.10.0", "fastrnn": "0.1.0", "torch": "2.0.0", "onnxruntime": None},
        source={"commit": "0123456789abcdef", "modified": True},
        date="2000-01-01 00:00 UTC",
        environment={"OMP_NUM_THREADS": "2"},
        settings={"seconds_per_case": 1.5},
        limits=LIMITS,
        absent={},
        measurements=list(measurements),
    )


FORWARD = Measurement(
    Case("lstm", "forward", 1, 100, 32, 256, 256),
    {"fastrnn": timed(50.0), "torch": timed(110.0), "onnxruntime": timed(100.0)},
)
TRAINING = Measurement(Case("lstm", "training", 1, 100, 32, 256, 256), {"fastrnn": timed(100.0), "torch": timed(80.0)})
FRAME = Measurement(
    Case("gru", "forward", 2, 1, 1, 64, 64),
    {"fastrnn": timed(0.01), "torch": timed(0.08), "onnxruntime": timed(0.011)},
)


# The cases


def test_the_table_holds_every_combination_once():
    cases = table(threads=(1, 2))
    assert len({case.id for case in cases}) == len(cases) == len(CELLS) * len(MODES) * len(SIZES) * 2


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("lstm", 32), ("T100-B1", 36), ("H64", 24), ("H*-f32-1t", 48), ("B", 0), ("gru-training", 16)],
)
def test_cases_are_chosen_by_whole_fields_of_their_id(pattern, count):
    assert len(table(threads=(1, 2), pattern=pattern)) == count


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_flops_count_two_for_each_weight_and_frame_and_training_three_times(cell, gates):
    case = Case(cell, "forward", 1, T=5, B=3, I=7, H=11)
    assert case.flops == 2 * 5 * 3 * gates * 11 * (7 + 11)
    assert replace(case, mode="training").flops == 3 * case.flops


def test_modes_threads_and_dtypes_share_their_numbers():
    first = problem(SMALL)
    for other in (replace(SMALL, mode="forward"), replace(SMALL, threads=2), replace(SMALL, dtype="float64")):
        np.testing.assert_array_equal(problem(other).x, first.x)
        np.testing.assert_array_equal(problem(other).parameters["weight_hh_l0"], first.parameters["weight_hh_l0"])


# Interleaved timing


def test_everyone_is_in_every_round_and_follows_everyone_else():
    rounds = [timing.interleaved(["a", "b", "c"], k) for k in range(40)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    followed = {pair for order in rounds for pair in pairwise(order)}
    assert len(followed) == 6
    assert rounds == [timing.interleaved(["a", "b", "c"], k) for k in range(40)]


def test_each_sample_follows_a_pause_its_threads_and_an_untimed_call(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 0.0)
    monkeypatch.setattr(timing, "AWAKE", 0.0)
    monkeypatch.setattr(timing, "sample", lambda runner, repetitions: runner.call() or 0.01)
    log = []

    def runner(name):
        return Runner(lambda: log.append(name), outputs=dict, set_threads=lambda: log.append(f"threads of {name}"))

    timings = timing.measure({"a": runner("a"), "b": runner("b")}, 0.0, settle=lambda: log.append("pause"))
    turn = {name: ["pause", f"threads of {name}", name, name] for name in "ab"}
    assert log[: 2 * len(turn["a"])] == turn["a"] + turn["b"]  # warm-up: two calls each
    orders = [timing.interleaved(["a", "b"], k) for k in range(timing.MIN_ROUNDS)]
    assert log[2 * len(turn["a"]) :] == [entry for order in orders for name in order for entry in turn[name]]
    assert timings["a"].rounds == len(timings["a"].samples) == timing.MIN_ROUNDS


def test_short_calls_are_repeated_and_long_ones_make_no_untimed_call(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 0.0)
    monkeypatch.setattr(timing, "AWAKE", 0.0)
    repeated = {"short": [], "long": []}
    duration = {"short": 1e-5, "long": 1.0}

    def sample(runner, repetitions):
        name = runner.call()
        repeated[name].append(repetitions)
        return duration[name]

    monkeypatch.setattr(timing, "sample", sample)
    calls = []
    runners = {name: Runner(lambda name=name: calls.append(name) or name, outputs=dict) for name in repeated}
    timings = timing.measure(runners, 0.0, settle=lambda: None)
    assert timings["short"].repetitions == 100
    assert timings["long"].repetitions == 1
    rounds = timing.MIN_ROUNDS
    assert repeated == {"short": [1, 1] + [100] * rounds, "long": [1, 1] + [1] * rounds}
    assert (calls.count("short"), calls.count("long")) == (2 + 2 * rounds, 2 + rounds)


def test_garbage_is_not_collected_while_sampling_and_is_again_after(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 0.0)
    collecting = []
    timing.measure({"a": Runner(lambda: collecting.append(gc.isenabled()), outputs=dict)}, 0.0, settle=lambda: None)
    assert collecting[0]
    assert not collecting[-1]
    assert gc.isenabled()


@pytest.mark.parametrize(("spinning", "windows"), [(0, 1), (3, 4), (10**6, timing.QUIET_TIMEOUT / timing.QUIET_WINDOW)])
def test_the_pause_lasts_as_long_as_threads_spin_but_not_forever(monkeypatch, spinning, windows):
    class Clock:
        wall = cpu = slept = 0

        def perf_counter(self):
            return self.wall

        def process_time(self):
            return self.cpu

        def sleep(self, seconds):
            self.slept += 1
            self.wall += seconds
            self.cpu += seconds if self.slept <= spinning else 0.0

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    timing.wait_until_quiet()
    assert clock.slept == pytest.approx(windows, abs=1)


def test_statistics():
    summary = timing.summarize([float(k) for k in range(11)], repetitions=3)
    assert summary == Timing(5.0, p10=1.0, p90=9.0, rounds=11, repetitions=3, samples=[float(k) for k in range(11)])
    assert summary.part(4) == Timing(1.25, 0.25, 2.25, 11, 3, [k / 4 for k in range(11)])


def test_who_is_faster_is_asked_round_by_round():
    # a slow moment that begins within the second round, after the first of the two
    first = timing.summarize([2.0, 2.0, 6.0, 6.0, 6.0], 1)
    second = timing.summarize([1.0, 3.0, 3.0, 3.0, 1.0], 1)
    assert timing.ratio(first, second) == 2.0
    assert timing.ratio(second, first) == 0.5
    assert timing.difference(first, second) == 3.0
    # by medians, who is timed one round earlier would win
    early = timing.summarize([2.0, 2.0, 2.0, 6.0, 6.0], 1)
    late = timing.summarize([2.0, 2.0, 6.0, 6.0, 6.0], 1)
    assert (early.median, late.median) == (2.0, 6.0)
    assert timing.ratio(early, late) == 1.0
    with pytest.raises(ValueError, match="timed together, got samples of 5 and 1 rounds"):
        timing.ratio(first, timing.summarize([1.0], 1))


def test_files_without_rounds_have_ratios_of_medians():
    one, other = (Timing(median, 0.1, 9.0, 5, 1) for median in (3.0, 2.0))
    assert timing.ratio(one, other) == 1.5
    assert timing.difference(one, other) == 1.0


# The competitors and the parity gate


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", competitors.COMPETITORS)
def test_every_competitor_computes_the_same(name, cell, mode):
    if name in (absent := competitors.absent_competitors()):
        pytest.skip(absent[name])
    case = replace(SMALL, cell=cell, mode=mode)
    options = {"backend": "reference"} if name == "fastrnn" else {}
    try:
        runner = competitors.COMPETITORS[name](problem(case), mode, 1, **options)
    except Unsupported:
        assert (name, mode) == ("onnxruntime", "training")
        return
    oracle = parity.expected(case)
    outputs = {"y", "h_n"} | ({"c_n"} if cell == "lstm" else set())
    gradients = {"x", "h_0", *problem(case).parameters} | ({"c_0"} if cell == "lstm" else set())
    assert oracle.keys() == outputs | (gradients if mode == "training" else set())
    assert parity.check(runner, oracle, "float32") is None
    assert parity.check(runner, oracle, "float32") is None  # gradients do not pile up from call to call


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_missing_package_is_an_absent_competitor(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert name in competitors.absent_competitors()


def test_the_process_of_a_competitor_hands_errors_back_and_serves_on():
    if "jax" in (absent := competitors.absent_competitors()):
        pytest.skip(absent["jax"])
    case = replace(SMALL, cell="rnn", mode="forward")
    with pytest.raises(RuntimeError, match="KeyError: 'unknown'"):
        competitors.COMPETITORS["jax"](replace(problem(case), cell="unknown"), "forward", 1)
    runner = competitors.COMPETITORS["jax"](problem(case), "forward", 1)
    assert parity.check(runner, parity.expected(case), "float32") is None
    assert runner.sample(3) > 0


def test_a_competitor_that_times_itself_is_not_timed_from_outside():
    runner = Runner(lambda: time.sleep(0.01), outputs=dict, sample=lambda repetitions: 2.0)
    assert timing.measure({"a": runner}, 0.0, settle=lambda: None)["a"].median == 2.0


@pytest.mark.parametrize("name", ["y", "c_n", "h_0", "weight_hh_l0", "bias_ih_l0"])
@pytest.mark.parametrize("wrong", [lambda a: a + 0.01 * abs(a).max(), lambda a: a * np.nan, lambda a: a[:-1]])
def test_the_gate_refuses_a_wrong_array(name, wrong):
    oracle = parity.expected(SMALL)
    runner = Runner(lambda: None, outputs=lambda _: oracle | {name: wrong(oracle[name])})
    assert parity.check(runner, oracle, "float32").startswith(f"{name}: ")


def test_the_gate_refuses_a_missing_array():
    oracle = parity.expected(SMALL)
    runner = Runner(lambda: None, outputs=lambda _: {k: v for k, v in oracle.items() if k != "c_0"})
    assert "c_0" in parity.check(runner, oracle, "float32")


def test_a_wrong_competitor_gets_no_time_and_the_run_ends_in_error(monkeypatch, tmp_path, capsys):
    oracle = parity.expected(SMALL)

    def prepare(result):
        return lambda problem, mode, threads: Runner(lambda: None, outputs=lambda _: result)

    def fail(problem, mode, threads):
        raise RuntimeError("no kernel")

    entries = {"fastrnn": prepare(oracle), "torch": prepare({"y": oracle["y"]}), "onnxruntime": fail}
    monkeypatch.setattr(command, "COMPETITORS", entries)
    monkeypatch.setattr(command, "absent_competitors", dict)
    monkeypatch.setattr(command, "table", lambda *_: [SMALL])
    monkeypatch.setattr(command.machine, "measure_limits", lambda *_, **__: LIMITS)
    monkeypatch.setattr(command.machine, "raise_limits", lambda limits, case: limits)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    arguments = ["--sections", "grid", "--no-docs", "--name", "trial", "--seconds-per-case", "0"]
    assert command.main(arguments) == command.EXIT_WRONG_RESULTS
    (measurement,) = results.load(tmp_path / "trial.json").measurements
    assert measurement.timings.keys() == {"fastrnn"}
    assert measurement.refused.keys() == {"torch", "onnxruntime"}
    assert measurement.refused["onnxruntime"] == "RuntimeError: no kernel"
    assert "WRONG" in capsys.readouterr().err


def test_a_run_that_is_not_whole_has_a_name_of_its_own_and_leaves_the_docs():
    description = machine.describe()
    names = {
        command.default_name(command.parse(arguments), description)
        for arguments in ([], ["--quick"], ["--cells", "gru"], ["--dtype", "float64"], ["--cases", "H64", "--quick"])
    }
    assert len(names) == 5
    whole = machine.slug(description["machine"])
    assert not names & {f"{whole}-{section}" for section in sections()}
    assert not command.is_selection(command.parse(["--threads", *map(str, default_threads())]))


def test_an_option_cut_short_is_refused_not_half_understood(capsys):
    with pytest.raises(SystemExit):
        command.main(["--dev", "cuda"])
    assert "unrecognized arguments: --dev" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none", "elementary"])
def test_the_docs_are_not_written_from_a_file_that_is_no_run(name):
    with pytest.raises(SystemExit, match=f"no results of the grid called '{name}'; there are: [a-z]"):
        command.main(["--report-only", "--name", name, "--no-docs"])


# The machine


def test_limits_are_positive_and_plausible():
    limits = machine.measure_limits(["float32", "float64"], [1], [16 * 1024, 256 * 1024], seconds=0.002, samples=2)
    for rates in limits.multiply_add.values():
        assert 1e8 < rates[1] < 1e13
    assert [size for size, _ in limits.bandwidth[1]] == [16 * 1024, 256 * 1024]
    assert all(1e8 < rate < 1e13 for _, rate in limits.bandwidth[1])


def test_a_limit_is_the_most_ever_seen(monkeypatch):
    """At the sizes between which the case reads: W and R of 24 KB for each thread, and both, 48 KB."""
    monkeypatch.setattr(machine, "multiply_add_peak", lambda dtype, n, seconds, samples: 1e9 * n)
    monkeypatch.setattr(machine, "read_bandwidth", lambda size, n, seconds, samples: 5e9)
    curve = [(8 << 10, 1e9), (16 << 10, 9e9), (32 << 10, 2e9), (64 << 10, 3e9), (128 << 10, 4e9)]
    before = Limits({"float32": {1: 5e8, 2: 3e9}}, {1: curve, 2: curve})
    raised = machine.raise_limits(before, FRAME.case)
    assert raised.multiply_add == {"float32": {1: 5e8, 2: 3e9}}
    assert raised.bandwidth == {
        1: curve, 2: [(8 << 10, 1e9), (16 << 10, 9e9), (32 << 10, 5e9), (64 << 10, 5e9), (128 << 10, 4e9)]
    }  # fmt: skip
    raised = machine.raise_limits(before, replace(FRAME.case, threads=1))
    assert raised.multiply_add == {"float32": {1: 1e9, 2: 3e9}}


def test_the_kernels_compute_what_they_claim():
    from bench import limit_kernels

    vectors, lanes = limit_kernels.CHAINS + 2, limit_kernels.lanes("float64")
    buffer = np.zeros(vectors * lanes)
    buffer[: limit_kernels.CHAINS * lanes] = np.arange(limit_kernels.CHAINS * lanes)
    buffer[-2 * lanes : -lanes], buffer[-lanes:] = 2.0, 1.0
    limit_kernels.multiply_add_kernel("float64")(buffer, 3)  # x -> 2 x + 1, three times
    np.testing.assert_array_equal(buffer[: -2 * lanes], 8 * np.arange(limit_kernels.CHAINS * lanes) + 7)

    turn = limit_kernels.READS * limit_kernels.lanes("float32")
    numbers, sums = np.arange(4 * turn, dtype=np.float32), np.zeros(turn, np.float32)
    limit_kernels.reading_kernel()(numbers, sums, 2)
    np.testing.assert_array_equal(sums, 2 * numbers.reshape(4, turn).sum(axis=0))


@pytest.mark.parametrize(
    ("features", "size"), [({"avx512f": True, "avx2": True}, 64), ({"avx2": True}, 32), ({"neon": True}, 16), ({}, 16)]
)
def test_the_vector_width_follows_the_processor(features, size):
    assert vector_set(features)[1] == size


def test_the_description_is_json_without_paths():
    text = json.dumps(machine.describe())
    assert str(Path(__file__).parent.parent) not in text
    assert machine.slug({"cpu": "A(R) B-9 CPU", "microarchitecture": "znver4", "vector": "AVX-512", "cores": 2}) == (
        "a-b-9-znver4-avx512-2c"
    )


# The roofline


def test_large_batches_are_limited_by_products_and_single_frames_by_reading():
    assert least_seconds(FORWARD.case, LIMITS) == pytest.approx(FORWARD.case.flops / 100e9)
    weights = 3 * 64 * 64 * 4  # R, and as large W, of FRAME: 24 KB for each of two threads
    bandwidth = np.interp(np.log(24 * 1024), np.log([16 * 1024, 1024 * 1024]), [400e9, 200e9])
    assert least_seconds(FRAME.case, LIMITS) == pytest.approx(2 * weights / bandwidth)


def test_reading_repeats_r_at_every_step_and_w_once():
    limits = replace(LIMITS, bandwidth={1: [(1, 1e9), (2, 1e9)]})
    weights = 4 * 64 * 64 * 4
    case = Case("lstm", "forward", 1, 100, 1, 64, 64)
    assert least_seconds(case, limits) == pytest.approx(101 * weights / 1e9)
    assert least_seconds(replace(case, mode="training"), limits) == pytest.approx((2 * 101 + 2) * weights / 1e9)


# Ratios, results and the report


def test_ratios_are_to_the_best_peer_and_above_one_where_fastrnn_is_faster():
    assert comparison.times_faster(FORWARD) == pytest.approx(2.0)
    assert comparison.times_faster(FORWARD, "torch") == pytest.approx(2.2)
    assert comparison.times_faster(TRAINING) == pytest.approx(0.8)
    assert comparison.times_faster(TRAINING, "onnxruntime") is None
    assert comparison.geometric_mean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert comparison.geometric_mean([None]) is None


def test_targets_of_the_grid_speak_of_the_points_they_are_meant_for():
    def on(threads, milliseconds, mode="forward", **sizes):
        """So long in the best round; the median is longer, and must not count."""
        case = replace(FORWARD.case, threads=threads, mode=mode, **sizes)
        ours = timing.summarize([1e-3 * share * milliseconds for share in (1.4, 1.0, 1.6)], 1)
        return Measurement(case, {"fastrnn": ours, "torch": timed(12.0)})

    peak = FORWARD.case.flops / LIMITS.multiply_add["float32"][1]
    run = synthetic(on(1, 1e3 * peak / 0.9), on(2, 1e3 * peak / 0.9 / 1.9), on(2, 2.0, T=1, B=1), on(1, 1.0, T=1, B=1))
    values = {target.text: target.points for target in grid_targets.targets(run)}

    def of(start):
        (found,) = [points for text, points in values.items() if text.startswith(start)]
        return [value for _, value in found]

    assert of("forward at 88%") == pytest.approx([0.9, 0.9 * 1.9 / 2], rel=1e-5)
    assert of("training at 80%") == []
    assert of("two threads at least 1.8") == pytest.approx([1.9], rel=1e-5)
    assert of("two threads not slower") == pytest.approx([1.9, 0.5], rel=1e-5)
    ratios = [comparison.times_faster(m) for m in run.measurements]
    assert of("forward, geometric mean") == pytest.approx([comparison.geometric_mean(ratios)])
    assert of("one frame in a call") == []  # ONNX Runtime was not there


def test_a_peer_that_was_never_timed_has_no_column():
    run = synthetic(TRAINING)
    assert run.peers == ["torch"]
    assert "JAX |" not in report.performance_page(run)
    run.absent["jax"] = "No module named 'jax'"
    assert "- JAX was not there: No module named 'jax'." in report.performance_page(run)


def test_results_survive_the_file(tmp_path):
    written = synthetic(FORWARD, Measurement(TRAINING.case, {}, {"torch": "y: error 1.0e+00, allowed 1e-05"}))
    path = written.save(tmp_path)
    assert results.load(path) == written
    assert '"samples": [ 0.045, 0.05, 0.055 ]' in path.read_text(encoding="utf-8")  # a list of numbers on one line
    assert [path.name for path in tmp_path.iterdir()] == ["made-up.json"]


def rows(page, *fields):
    """The table rows of a page that begin with these fields."""
    start = "| " + " | ".join(fields) + " |"
    return [line for line in page.splitlines() if line.startswith(start)]


def test_the_page_states_ratios_targets_and_where_they_come_from(tmp_path):
    run = synthetic(FORWARD, TRAINING, FRAME)
    report.write_docs(run, tmp_path)
    page = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    gflops = FORWARD.case.flops / 0.05 / 1e9
    assert rows(page, "100", "32", "256", "256", "1", "50.0", "110", "100") == [
        f"| 100 | 32 | 256 | 256 | 1 | 50.0 | 110 | 100 | 2.00x | {gflops:.1f} | {gflops / 90:.0%} | 20% |"
    ]
    assert rows(page, "LSTM", "forward", "1") == ["| LSTM | forward | 1 | 2.20x | 2.00x | 2.00x | 2.00x |"]
    assert rows(page, "LSTM", "training", "1") == ["| LSTM | training | 1 | 0.80x | - | 0.80x | 0.80x |"]
    assert rows(page, "training not slower than PyTorch") == ["| training not slower than PyTorch | 0 of 1 | 0% |"]
    forward = "forward at least 1.15 times as fast as the best peer"
    assert rows(page, forward) == [f"| {forward} | 1 of 2 | 50% |"]
    assert "`gru-forward-T1-B1-I64-H64-f32-2t` (1.10)" in page
    for fact in ("Imaginary 9000", "dream1", "torch 2.0.0", "onnxruntime absent", "0123456789ab", "with local changes"):
        assert fact in page
    for fact in ("2000-01-01 00:00 UTC", "OMP_NUM_THREADS=2", "1, 2"):
        assert fact in page


def test_the_page_says_what_the_machines_limit_leaves_to_be_reached():
    hopeless = replace(FORWARD, timings={"fastrnn": timed(35.0), "jax": timed(36.0), "torch": timed(99.0)})
    page = report.performance_page(synthetic(FORWARD, hopeless, TRAINING, FRAME))  # the frame's H is too small
    least = FORWARD.case.flops / 100e9
    limits = [1e-3 * best / least for best in (90.0, 0.9 * 36.0)]
    ours = (100 / 50 * 36 / 35) ** 0.5
    assert limits[0] > 1.15 > limits[1]
    mean = (limits[0] * limits[1]) ** 0.5
    assert rows(page, "forward", "1", "2") == [f"| forward | 1 | 2 | {ours:.2f}x | {mean:.2f}x | 2x | 1 |"]
    assert rows(page, "training", "1", "1") == [f"| training | 1 | 1 | 0.80x | {0.072 / least / 3:.2f}x | 5x | 1 |"]
    assert not rows(page, "forward", "2", "1")


def test_what_was_not_timed_has_no_ratio_to_the_limit():
    alone = replace(FORWARD, timings={"fastrnn": timed(35.0)})
    run = synthetic(alone)
    assert comparison.times_faster_at_limit(alone, run) is None
    assert comparison.undisturbed_times_faster(alone) is None
    other = replace(FORWARD, case=replace(FORWARD.case, dtype="float64"))
    assert comparison.times_faster_at_limit(other, run) is None
    assert comparison.undisturbed_times_faster(replace(FORWARD, timings={"torch": timed(35.0)})) is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--sections", "stream", "--cells", "gru"], "choose from the grid, which --sections leaves out"),
        (["--sections", "growth", "memory", "--dtype", "float64"], "choose from the grid, which --sections leaves out"),
        (["--report-only", "--page", "../x"], "argument --page: expected the name of a page in docs/, got '../x'"),
    ],
)
def test_options_that_could_have_no_effect_or_another_are_refused(arguments, error, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(arguments)
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_an_interrupt_ends_the_bench_in_a_word(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert command.main([]) == 130
    assert capsys.readouterr().err == "Interrupted\n"


@pytest.mark.parametrize("arguments", [["--sections", "stream"], ["--report-only"]])
def test_another_machines_page_is_not_replaced_by_a_part_or_by_old_results(arguments, monkeypatch):
    monkeypatch.setattr(command, "shown_on", lambda page: {"other-machine", "other-machine-stream"})
    options = command.parse(arguments)
    with pytest.raises(
        SystemExit, match=r"docs/performance\.md shows other-machine, and these results are called mine: "
    ):
        command.refuse_page(options, "mine")
    command.refuse_page(options, "other-machine")
    command.refuse_page(command.parse([]), "mine")


def test_a_refused_competitor_is_named_on_the_page():
    run = synthetic(Measurement(FORWARD.case, {"fastrnn": timed(1.0)}, {"torch": "y: error 1.0e+00, allowed 1e-05"}))
    page = report.performance_page(run)
    assert "**PyTorch gave wrong results" in page
    assert rows(page, "100", "32", "256", "256", "1", "1.00", "-", "-")


def test_the_readme_keeps_its_text_around_the_block(tmp_path):
    readme = tmp_path / "README.md"
    begin, end = report.markers(report.PAGE)
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    report.write_docs(synthetic(FORWARD, TRAINING, FRAME), tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"\n{end}\nafter\n")
    assert "old" not in text
    assert rows(text, "LSTM", "forward") == ["| LSTM | forward | 2.20x | 2.00x | 2.00x to 2.00x |"]
    assert report.insert_block("no markers", "block", begin, end) is None


def test_another_machines_page_leaves_the_first_machines_and_its_table_as_they_are(tmp_path):
    readme = tmp_path / "README.md"
    (begin, end), (other_begin, other_end) = report.markers(report.PAGE), report.markers("elsewhere")
    readme.write_text(f"{begin}\nold\n{end}\n", encoding="utf-8")
    written = report.write_docs(synthetic(FORWARD, TRAINING, FRAME), tmp_path, "elsewhere")
    assert {path.name for path in written} == {"elsewhere.md", "elsewhere.png", "elsewhere.svg"}
    readme.write_text(f"{begin}\nold\n{end}\n{other_begin}\nold too\n{other_end}\n", encoding="utf-8")
    written = report.write_docs(synthetic(FORWARD, TRAINING, FRAME), tmp_path, "elsewhere")
    assert readme in written
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"{begin}\nold\n{end}\n{other_begin}\n")
    assert "old too" not in text
    assert "](docs/elsewhere.md)" in text
    page = (tmp_path / "docs" / "elsewhere.md").read_text(encoding="utf-8")
    assert "](elsewhere.png)" in page
    assert "](elsewhere-details.md)" in page
    assert "performance.png" not in page
    path = details.write_page({}, tmp_path, "elsewhere")
    assert path.name == report.details_page("elsewhere")
    assert "[Performance](elsewhere.md)" in path.read_text(encoding="utf-8")


def test_every_peer_has_a_mark_and_a_name():
    assert plot.SHAPES.keys() == plot.COLOURS.keys() == competitors.COMPETITORS.keys() - {competitors.OURS}
    assert competitors.LABELS.keys() == competitors.COMPETITORS.keys()


def test_the_plot_is_drawn_for_any_selection(tmp_path):
    pytest.importorskip("matplotlib")
    for measurements in ([FORWARD], [FORWARD, TRAINING, FRAME], [Measurement(FORWARD.case, {}, {"torch": "wrong"})]):
        written = plot.draw(synthetic(*measurements), tmp_path / "plot")
        assert all(path.stat().st_size > 1000 for path in written)
    assert plot.draw(synthetic(), tmp_path / "plot") == []
