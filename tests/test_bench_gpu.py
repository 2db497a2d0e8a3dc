"""`python -m bench --device cuda` where there is no GPU: its plan, its arguments, its refusal, its time, its page, its
gate in front of the clock, and the machine code of what it adds. What it finds on a GPU is for a GPU to show.
"""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path

import pytest
from ptx import assembled, compiled, ptxas

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is run from the repository, never installed

from bench import __main__ as bench
from bench import timing
from bench.cases import Case, problem
from bench.competitors import Runner
from bench.gpu import command, contenders, floors, grid, report
from bench.gpu.grid import CONTENDERS
from fastrnn.cuda.requirements import DoesNotFit

ROOT = Path(__file__).resolve().parent.parent
SMALL = Case("lstm", "training", 1, 4, 3, 5, 6)
LIMITS = {
    "device": {"multiprocessors": 132, "shared_bytes": 227 << 10, "registers": 1 << 16},
    "multiply_add": {"float32": 50e12, "tf32": 400e12, "float16": 800e12, "bfloat16": 800e12},
    "bandwidth": 3e12,
    "launch": 2e-6,
    "barrier": {2: 1e-6, 132: 2e-6},
}


def timed(milliseconds):
    """So long in the best round; the median is longer."""
    return asdict(timing.summarize([1e-3 * share * milliseconds for share in (1.25, 1.0, 2.0)], 1))


def synthetic(points, **changed):
    return {
        "schema": command.SCHEMA,
        "name": "made-up",
        "machine": {},
        "software": {"python": "3.10.0", "torch": None},
        "source": {"commit": "0123456789abcdef", "modified": False},
        "date": "2000-01-01 00:00 UTC",
        "gpu": "Imaginary 9000",
        "tests": {"tests": 9, "failures": 0, "errors": 0, "skipped": 0, "failed": [], "left": []},
        "limits": LIMITS,
        "points": points,
        "left": [],
    } | changed


# What would be done


def test_the_grid_is_whole_and_its_first_third_of_every_kind():
    cases = grid.grid()
    assert len({grid.name(case) for case in cases}) == len(cases) == 3 * 2 * 8 * 5
    assert {case.T for case in cases} == {512}
    first = cases[: len(cases) // 3]
    assert {case.H for case in first} == set(grid.HIDDEN)
    assert {case.B for case in first} == set(grid.BATCHES)


def test_the_plan_needs_no_gpu(capsys):
    sizes = ["--hidden", "64", "168", "--batches", "8", "--steps", "10"]
    assert bench.main(["--device", "cuda", "--plan", "--cells", "gru", *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the device tests of tests/cuda_device_cases.py, of which none begins after 3.75 minutes"
    assert [line.strip() for line in lines[3:]] == [
        f"gru-{mode}-T10-B8-I{H}-H{H}" for H in (64, 168) for mode in ("forward", "training")
    ]
    assert command.main(["--plan", "--tests-only"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--cells", "qrnn"], "argument --cells: invalid choice: 'qrnn'"),
        (["--hidden", "0"], "argument --hidden: expected an integer of at least 1, got '0'"),
        (["--batches", "few"], "argument --batches: expected an integer of at least 1, got 'few'"),
        (["--contenders", "cudnn-float64"], "argument --contenders: invalid choice: 'cudnn-float64'"),
        (["--minutes", "0"], "argument --minutes: expected a number above 0, got 0.0"),
        (["--minutes", "nan"], "argument --minutes: expected a number above 0, got nan"),
        (["--no-tests", "--tests-only"], "--no-tests and --tests-only leave nothing to do"),
        (["--report-only"], "--report-only: which results? name them with --name"),
    ],
)
def test_wrong_arguments_are_refused(arguments, reason, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        command.main(arguments)
    assert f"error: {reason}" in capsys.readouterr().err


def test_nothing_is_run_in_the_simulator(capsys, monkeypatch):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert bench.main(["--device=cuda"]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "python -m bench --device cuda: error: NUMBA_ENABLE_CUDASIM is set, and the simulator's times mean nothing\n"
    )
    assert captured.out == ""


def test_nothing_is_run_without_what_is_needed(capsys, monkeypatch):
    from fastrnn.cuda import requirements

    def missing():
        raise requirements.CudaUnavailable("needs a GPU")

    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.setattr(requirements, "check", missing)
    assert command.main([]) == 2
    assert capsys.readouterr() == ("", "python -m bench --device cuda: error: needs a GPU\n")
    monkeypatch.setattr(requirements, "check", lambda: None)
    monkeypatch.setattr(requirements, "has_torch", lambda: False)
    assert command.main([]) == 2
    assert "needs a PyTorch with CUDA" in capsys.readouterr().err


# The device tests


def test_the_device_tests_can_be_collected():
    pytest.importorskip("torch")
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    program = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", str(command.TESTS)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for subject in ("plain_path", "persistent_path", "delayed_blocks", "streams_beside", "does_not_fit", "training"):
        assert subject in done.stdout


def test_tests_that_fail_or_are_skipped_count_as_not_passed():
    text = (
        '<testsuites><testsuite tests="3" failures="{}" errors="0" skipped="{}">'
        '<testcase name="good"/><testcase name="bad"><failure/></testcase>'
        '<testcase name="late"><skipped/></testcase></testsuite></testsuites>'
    )
    counted = command.counts(ElementTree.fromstring(text.format(1, 0)))
    assert counted == {"tests": 3, "failures": 1, "errors": 0, "skipped": 0, "failed": ["bad"], "left": ["late"]}
    assert not command.passed(counted)
    assert command.passed(counted | {"failures": 0})
    assert not command.passed(counted | {"failures": 0, "skipped": 1})
    assert not command.passed(counted | {"failures": 0, "tests": 0})


def test_device_tests_that_do_not_end_or_cannot_start_are_failures(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "TESTS", tmp_path / "absent.py")
    assert not command.passed(command.run_tests(60))

    def hang(*arguments, timeout, **options):
        raise subprocess.TimeoutExpired("pytest", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert command.run_tests(60)["failed"] == ["not done after 150 s"]


def test_what_there_is_no_time_for_is_named_and_the_rest_saved(tmp_path, monkeypatch):
    now, sizes = [0.0], iter((4.0, 3.0, 2.0))
    cases = [Case("gru", "forward", 1, 5, 1, H, H) for H in (2, 3, 4)]

    def taking(case, names):
        now[0] += next(sizes)
        return {"case": asdict(case), "timings": {}, "refused": {}}

    monkeypatch.setattr(command, "measure_case", taking)
    results = synthetic([])
    command.measure_cases(results, cases, [], 8.0, tmp_path / "found.json", now=lambda: now[0])
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["left"] == results["left"]
    assert [point["case"]["H"] for point in results["points"]] == [2, 3]
    assert results["left"] == ["gru-forward-T5-B1-I4-H4"]


# The gate in front of the clock, on the CPU


@pytest.mark.parametrize("name", ["cudnn-float32", "cudnn-bfloat16"])
@pytest.mark.parametrize("mode", ["forward", "training"])
def test_results_are_compared_with_float64_on_the_same_device(name, mode, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(contenders, "DEVICE", "cpu")
    numbers = problem(SMALL)
    truth = contenders.expected(numbers, mode, CONTENDERS[name].dtype)
    assert ("weight_hh_l0" in truth) == (mode == "training")
    runner = contenders.prepare(CONTENDERS[name], numbers, mode)
    assert contenders.wrong(runner, truth, CONTENDERS[name]) is None
    off = truth | {"y": 1.1 * truth["y"]}
    assert re.match(r"y: error [\d.e-]+, allowed", contenders.wrong(runner, off, CONTENDERS[name]))
    without = {key: value for key, value in truth.items() if key != "h_n"}
    assert contenders.wrong(runner, without, CONTENDERS[name]).startswith("computed [")
    nan = truth | {"y": truth["y"] * float("nan")}
    assert contenders.wrong(runner, nan, CONTENDERS[name]) is not None


def test_fastrnn_gives_the_same_names_as_pytorch_does(monkeypatch):
    """Here from NumPy arrays, on the CPU."""
    pytest.importorskip("torch")
    from bench.competitors import prepare_fastrnn

    monkeypatch.setattr(contenders, "DEVICE", "cpu")
    for mode in ("forward", "training"):
        runner = prepare_fastrnn(problem(SMALL), mode, 1)
        assert runner.outputs(runner.call()).keys() == contenders.expected(problem(SMALL), mode, "float32").keys()


def test_a_case_times_those_that_agree(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(contenders, "DEVICE", "cpu")
    monkeypatch.setitem(contenders.BOUNDS, "bfloat16", 1e-9)
    monkeypatch.setattr(timing, "measure", lambda runners, *_: {name: timing.summarize([1.0], 1) for name in runners})
    point = command.measure_case(SMALL, ["cudnn-float32", "cudnn-bfloat16", "plain-float32"])
    assert point["case"] == asdict(SMALL)
    assert set(point["timings"]) == {"cudnn-float32"}
    assert "allowed 1e-09" in point["refused"]["cudnn-bfloat16"]
    assert re.match("ValueError: backend", point["refused"]["plain-float32"])  # the paths are those of device="cuda"


def test_a_contender_whose_layer_does_not_fit_is_none(monkeypatch):
    pytest.importorskip("torch")

    def too_large():
        raise DoesNotFit("backend: too large")

    monkeypatch.setattr(contenders, "DEVICE", "cpu")
    monkeypatch.setattr(contenders, "prepare", lambda *_: Runner(too_large, dict))
    point = command.measure_case(SMALL, ["persistent-float32"])
    assert (point["timings"], point["refused"]) == ({}, {})


def test_a_run_writes_what_it_found(tmp_path, monkeypatch, capsys):
    """All but the GPU: what is run there is put in its place."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    refusing = {"case": asdict(SMALL), "timings": {}, "refused": {"cudnn-float16": "RuntimeError: no"}}
    tests = synthetic([])["tests"] | {"failures": 1, "failed": ["test_x"]}
    monkeypatch.setattr(command, "what_is_missing", lambda: None)
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "run_tests", lambda seconds: tests)
    monkeypatch.setattr(command, "measure_case", lambda case, names: refusing)
    monkeypatch.setattr(floors, "measure", lambda: json.loads(json.dumps(LIMITS)))
    monkeypatch.setattr("fastrnn.kernels.cuda.launch.device_description", lambda: "Imaginary X1, 10 multiprocessors")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Imaginary X1")
    assert command.main(["--cells", "lstm", "--hidden", "64"]) == command.EXIT_WRONG_RESULTS
    results = json.loads((tmp_path / "gpu-imaginary-x1-selected.json").read_text(encoding="utf-8"))
    assert len(results["points"]) == 5 * 2
    assert results["software"].keys() >= {"cuDNN", "numba-cuda"}
    told = capsys.readouterr().err
    assert "not all device tests passed" in told
    assert "no time: lstm-training-T4-B3-I5-H6: {'cudnn-float16': 'RuntimeError: no'}" in told
    assert "Imaginary X1" in report.page(results)


# The limits and the page


def test_the_least_time_is_the_longest_of_what_cannot_be_avoided():
    case = Case("lstm", "forward", 1, 512, 1, 64, 64)
    assert floors.least_seconds(case, "float32", "persistent", LIMITS) < 1e-5  # one block needs no barrier
    several = Case("lstm", "training", 1, 512, 1, 1024, 1024)
    assert floors.least_seconds(several, "float32", "persistent", LIMITS) == pytest.approx(2 * 512 * 1e-6)
    assert floors.least_seconds(case, "float32", "plain", LIMITS) == pytest.approx(512 * 2 * 2e-6)
    assert floors.least_seconds(case, "float32", None, LIMITS) < 1e-5
    large = Case("lstm", "training", 1, 512, 256, 2048, 2048)
    assert floors.least_seconds(large, "float32", "plain", LIMITS) == pytest.approx(large.flops / 50e12)


def test_the_page_holds_what_was_measured(tmp_path):
    case = Case("gru", "forward", 1, 512, 8, 512, 512)
    point = {
        "case": asdict(case),
        "timings": {"plain-float32": timed(4.0), "persistent-float32": timed(1.0), "cudnn-float32": timed(2.0)},
        "refused": {"cudnn-float16": "y: error 1.0e+00, allowed 2e-02"},
    }
    tests = {"tests": 9, "failures": 1, "errors": 0, "skipped": 1, "failed": ["test_x"], "left": ["test_y"]}
    (tmp_path / "docs").mkdir()
    results = json.loads(json.dumps(synthetic([point], tests=tests, left=["gru-forward-T512-B16-I64-H64"])))
    page = report.write_page(results, tmp_path).read_text(encoding="utf-8")
    assert "| GRU | forward | fastrnn plain, float32 | 1 | 0.50x | 0.50x |" in page
    assert "| GRU | forward | fastrnn persistent, float32 | 1 | 2.00x | 2.00x |" in page
    assert "| GRU | forward | fastrnn plain, float16 | 0 | - | - |" in page
    assert "| 512 | 8 | 512 | 5.00 (51%) | 1.25 (51%) | - | - | 2.50 (" in page
    assert "the device test `test_x` failed" in page
    assert "no time was left for the device test `test_y`" in page
    assert "cuDNN, float16 has no time for `gru-forward-T512-B8-I512-H512`: y: error" in page
    assert "no time was left for 1 cases" in page
    assert "| the barrier of 132 blocks | 2.00 µs |" in page


def test_the_page_is_that_of_the_results_beside_it():
    """There are none before somebody has run it on a GPU."""
    files = sorted((ROOT / "bench" / "results").glob("gpu-*.json"))
    pages = [report.page(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    page = ROOT / "docs" / "gpu-performance.md"
    assert page.exists() == bool(pages)
    assert not pages or page.read_text(encoding="utf-8") in pages


def test_only_its_own_results_become_a_page(tmp_path):
    path = tmp_path / "other.json"
    with pytest.raises(SystemExit, match="no results 'other'"):
        command.report(path)
    path.write_text('{"schema": 1, "points": []}')
    with pytest.raises(SystemExit, match="not results of python -m bench --device cuda"):
        command.report(path)


# The kernel that only waits


def test_the_barriers_kernel_is_launched_cooperatively(tmp_path):
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    if ptxas() is None:
        pytest.skip("ptxas is not installed")
    texts, cooperative = compiled(floors.meeting_kernel(), 1)
    assert cooperative
    for capability, text in texts.items():
        assert len(re.findall(r"red\.release\.gpu\.global\.add", text)) >= 1
        assert len(re.findall(r"ld\.acquire\.gpu\.global", text)) >= 1
        assert assembled(text, capability, tmp_path).spilled_bytes == 0
