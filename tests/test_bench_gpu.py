"""The bench of the GPU layers where there is no GPU: its plan, its refusals, its time, its tables, its own kernel."""

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ptx import compiled

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is run from the repository, never installed

from bench import gpu, gpu_cases, gpu_report
from bench.cases import CELLS, MODES

ROOT = Path(__file__).resolve().parent.parent


def no_driver(name):
    raise OSError(f"{name}: cannot open shared object file")


def test_without_a_gpu_it_refuses_in_one_line(monkeypatch, capsys):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert gpu.main([]) == 2
    told = capsys.readouterr().err
    assert told.startswith('python -m bench.gpu: error: device: "cuda" needs an NVIDIA GPU and its driver')
    assert told.count("\n") == 1


def test_a_simulator_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert gpu.main([]) == 2
    assert "a simulator is not a GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds: expected more than 0, got 0"),
        (["--seconds", "nan"], "--seconds: expected more than 0, got nan"),
        (["--only", "all"], "argument --only: invalid choice: 'all'"),
        (["--cells", "transformer"], "argument --cells: invalid choice: 'transformer'"),
        (["--report-only"], "--report-only: expected --name too"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        gpu.main(arguments)
    assert message in capsys.readouterr().err


def test_a_run_writes_what_it_found(tmp_path, monkeypatch, capsys):
    """All but the GPU: what is run there is put in its place."""
    pytest.importorskip("torch")
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    from bench import gpu_floors, gpu_speed, gpu_tests

    (point,) = made_up()["points"]
    failed = {"name": "made up", "error": None, "failure": "RuntimeError: no"}
    monkeypatch.setattr(gpu, "what_is_missing", lambda: None)
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    monkeypatch.setattr("fastrnn.kernels.cuda.launch.device_description", lambda: "Imaginary X1, 10 multiprocessors")
    monkeypatch.setattr(gpu_tests, "run", lambda name: failed)
    monkeypatch.setattr(gpu_floors, "measure", lambda: made_up()["floors"])
    monkeypatch.setattr(gpu_speed, "measure", lambda each: point)
    assert gpu.main(["--cells", "lstm"]) == gpu.EXIT_WRONG_RESULTS
    results = gpu_report.load(tmp_path / "imaginary-x1-gpu.json")
    assert len(results["tests"]) == len(gpu_cases.device_tests(["lstm"]))
    assert len(results["points"]) == 80
    assert results["skipped"] == []
    assert results["software"].keys() >= {"cuDNN", "numba-cuda"}
    told = capsys.readouterr().err
    assert "failed: made up: RuntimeError: no" in told
    assert "failed: cuDNN bfloat16: result 0 differs" in told
    assert "Imaginary X1" in gpu_report.block(results)


def test_results_that_are_not_there(capsys):
    assert gpu.main(["--report-only", "--name", "nowhere"]) == 2
    assert "--name: no results 'nowhere' in results/" in capsys.readouterr().err


def test_the_plan_is_all_that_is_asked_for(capsys):
    assert gpu.main(["--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    points = [line for line in lines if line.startswith("time ")]
    assert len(points) == len(set(points)) == 8 * 5 * 3 * 2
    assert all("T512" in line for line in points)
    for name in ("stress lstm persistent", "parity rnn plain bfloat16", "streams lstm plain", "memory lstm plain"):
        assert f"test   {name}" in lines
    assert gpu.main(["--plan", "--only", "tests", "--cells", "gru"]) == 0
    assert "time" not in (chosen := capsys.readouterr().out).partition("\n")[2]
    assert "lstm" not in chosen


def test_the_first_points_are_of_every_kind():
    first = gpu_cases.grid()[: len(gpu_cases.grid()) // 3]
    assert {point.H for point in first} == set(gpu_cases.HIDDEN)
    assert {point.B for point in first} == set(gpu_cases.BATCHES)
    assert {point.cell for point in first} == set(CELLS)


def test_what_does_not_fit_into_the_time_is_left_out_and_told():
    now = [0.0]

    def taking(seconds):
        def work():
            now[0] += seconds
            return {"took": seconds}

        return work

    skipped = []
    work = {"a": taking(4.0), "b": taking(3.0), "c": taking(2.0)}
    assert gpu.in_time(work, 8.0, skipped, clock=lambda: now[0]) == [{"took": 4.0}, {"took": 3.0}]
    assert skipped == ["c"]


def timed(**milliseconds):
    return {name.replace("_", " "): {"median": 1e-3 * value} for name, value in milliseconds.items()}


def made_up():
    timings = timed(plain_float32=6, persistent_float32=2, plain_float16=1, cuDNN_float32=3, cuDNN_float16=2)
    return {
        "name": "made-up-gpu",
        "device": "Imaginary, 10 multiprocessors, compute capability 9.0",
        "software": {"torch": "1", "numba": "2", "CUDA": "3", "cuDNN": "4", "numba-cuda": "5"},
        "source": {"commit": "0123456789abcdef", "modified": True},
        "date": "2000-01-01 00:00 UTC",
        "tests": [
            {"name": "parity lstm plain float32", "error": 1.5e-6, "failure": None},
            {"name": "stress lstm persistent", "error": None, "failure": "differing bits in y"},
        ],
        "floors": {
            "barrier": 1e-6,
            "bytes": 1e12,
            "flops": {"float32": 1e13, "TF32": 1e14, "float16": 1e14, "bfloat16": 1e14},
        },
        "points": [
            {
                "cell": "lstm",
                "mode": "forward",
                "T": 512,
                "B": 1,
                "H": 64,
                "timings": timings,
                "refused": {"cuDNN bfloat16": "result 0 differs"},
            }
        ],
        "skipped": ["gru-forward-T512-B1-H64"],
    }


def test_the_tables_say_what_was_measured():
    text = gpu_report.block(made_up())
    assert "| parity lstm plain float32 | 1.5e-06 | passed |" in text
    assert "| stress lstm persistent | - | differing bits in y |" in text
    assert "| a barrier of all multiprocessors | 1.00 µs |" in text
    assert "| forward | float32 | 1 | 1.50x | 1.50x |" in text
    assert "| forward | float16 | 1 | 2.00x | 2.00x |" in text
    # 512 barriers of 1 µs are a quarter of 2 ms
    assert "| LSTM | forward | 64 | 1 | 6.00 | 2.00 | 1.00 | - | 3.00 | - | 2.00 | failed | 1.50x | 26% |" in text
    assert "No time was left for 1: gru-forward-T512-B1-H64." in text
    assert "`0123456789ab`, with local changes" in text


def test_the_page_is_that_of_the_results_beside_it():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    block = page.partition(gpu_report.BEGIN)[2].partition(gpu_report.END)[0].strip()
    files = sorted((ROOT / "bench" / "results").glob("*-gpu.json"))
    assert len(files) <= 1
    assert block == gpu_report.block(json.loads(files[0].read_text(encoding="utf-8")) if files else None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_what_disagrees_is_found(cell, mode):
    torch = pytest.importorskip("torch")
    from bench import gpu_speed

    point = gpu_cases.Point(cell, mode, 2, 5, 3)
    module = getattr(torch.nn, cell.upper())(5, 5)
    x, dy = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    expected, same = (gpu_speed.of_module(point, module, x, dy)() for _ in range(2))
    assert len(expected) == (1 if mode == "forward" else 6)
    assert gpu_speed.disagreement("plain float32", same, expected) is None
    same[-1] = same[-1] * 1.001
    assert "differs from cuDNN float32 by 1.0e-03" in gpu_speed.disagreement("plain float32", same, expected)
    assert gpu_speed.disagreement("plain bfloat16", same, expected) is None
    same[-1] = same[-1] * float("nan")
    assert gpu_speed.disagreement("plain bfloat16", same, expected) is not None


def test_the_kernel_that_only_meets_waits_for_all_blocks():
    pytest.importorskip("torch")
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    from bench import gpu_floors

    texts, cooperative = compiled(gpu_floors.meet, 1)
    assert cooperative
    for text in texts.values():
        assert len(re.findall(r"red\.release\.gpu", text)) == 1
        assert re.search(r"ld\.acquire\.gpu", text)


SIMULATED = """
import sys
sys.path.insert(0, {root!r})
from bench import gpu_tests
gpu_tests.PARITY_SIZES = ((3, 2, 3, 5),)
names = "parity lstm plain float32", "parity gru persistent float32", "parity rnn plain bfloat16"
found = [gpu_tests.run(name) for name in names]
assert all(test["failure"] is None and 0 < test["error"] < 2e-2 for test in found), found
assert gpu_tests.stress("gru", "persistent", (3, 1, 2, 3)) is None
gpu_tests.BOUNDS["float32"] = 1e-12
assert "allowed 1e-12" in gpu_tests.run("parity lstm plain float32")["failure"]
assert gpu_tests.run("streams lstm plain")["failure"]  # there is no stream here: an error is a failure of its test
"""


def test_the_device_tests_in_the_simulator(tmp_path):
    pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-c", SIMULATED.format(root=str(ROOT))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
