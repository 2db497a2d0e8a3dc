"""The bench of fastrnn.torch: its cases agree, its tables say what was measured. No time is judged."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from torch_pairs import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is run from the repository, never installed

import fastrnn
from bench import pytorch, pytorch_cases, pytorch_report
from bench.pytorch_cases import ARRAYS, EMPTY, ORIGINAL, SECTIONS, SWAPPED, WHOLE, TorchCase
from bench.timing import summarize

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def threads_as_before():
    ours, theirs = fastrnn.get_num_threads(), torch.get_num_threads()
    yield
    fastrnn.set_num_threads(ours)
    torch.set_num_threads(theirs)


@pytest.mark.parametrize("section", SECTIONS)
def test_all_calls_of_a_case_compute_the_same(section):
    found = list(pytorch_cases.cases((section,), (1,), quick=True))
    assert found
    for case in found:
        assert case.disagreement() is None, case.id
        assert {ORIGINAL, SWAPPED} <= set(case.calls)


def test_a_wrong_call_is_found():
    right, wrong = lambda: [[1.0, 2.0]], lambda: [[1.0, 2.1]]
    case = TorchCase("modules", "gru", "forward", 1, "T1", {"one": right, "two": wrong})
    assert case.disagreement() == "one and two: result 0 differs by 5.0e-02, allowed 1e-04"
    nan = TorchCase("modules", "gru", "forward", 1, "T1", {"one": right, "two": lambda: [[1.0, float("nan")]]})
    assert nan.disagreement() is not None


def test_the_command_measures_and_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pytorch, "FOLDER", tmp_path)
    monkeypatch.setattr(pytorch.timing, "MIN_ROUNDS", 1)
    options = ["--quick", "--threads", "1", "--sections", "lengths", "--seconds-per-case", "0.001", "--name", "made"]
    assert pytorch.main(options) == 0
    saved = json.loads((tmp_path / "made-pytorch.json").read_text())
    assert saved["source"].keys() == {"commit", "modified"}
    assert [point["section"] for point in saved["points"]] == ["lengths"] * 4
    assert saved["points"][0]["timings"].keys() == {ORIGINAL, SWAPPED, ARRAYS, WHOLE}
    assert "wrote" in capsys.readouterr().out


def test_wrong_results_are_not_timed(tmp_path, monkeypatch, capsys):
    broken = TorchCase("modules", "gru", "forward", 1, "T1", {"one": lambda: [[1.0]], "two": lambda: [[2.0]]})
    monkeypatch.setattr(pytorch, "FOLDER", tmp_path)
    monkeypatch.setattr(pytorch_cases, "cases", lambda *arguments: iter([broken]))
    assert pytorch.main(["--quick", "--name", "made"]) == pytorch.EXIT_WRONG_RESULTS
    assert json.loads((tmp_path / "made-pytorch.json").read_text())["points"] == []
    assert "wrong results: modules-gru-forward-T1-1t: one and two: result 0 differs" in capsys.readouterr().err


def timed(milliseconds):
    """By name; the last of three rounds is a slow moment."""
    return {name: asdict(summarize([1e-3 * ms, 1e-3 * ms, 3e-3 * ms], 1)) for name, ms in milliseconds.items()}


def made_up():
    common = {"cell": "gru", "mode": "training", "threads": 2, "size": "T1"}
    return {
        "name": "made-up",
        "machine": {"cpu": "Imaginary", "microarchitecture": "dream1", "vector": "AVX", "cores": 2},
        "software": {"torch": "1", "numpy": "2", "numba": "3"},
        "source": {"commit": "0123456789abcdef", "modified": False},
        "date": "2000-01-01 00:00 UTC",
        "points": [
            common | {"section": "modules", "timings": timed({ORIGINAL: 3.0, SWAPPED: 2.0})},
            common
            | {
                "section": "lengths",
                "timings": timed({ORIGINAL: 9.0, SWAPPED: 6.0, ARRAYS: 5.0, WHOLE: 8.0}),
                "work": {ORIGINAL: 50, SWAPPED: 50, ARRAYS: 50, WHOLE: 100},
            },
            common
            | {
                "section": "overhead",
                "timings": timed({ORIGINAL: 0.09, SWAPPED: 0.04, ARRAYS: 0.02, EMPTY: 0.01}),
            },
            common | {"section": "model", "timings": timed({ORIGINAL: 8.0, SWAPPED: 2.0})},
        ],
    }


def test_the_tables_say_what_was_measured():
    text = pytorch_report.block(made_up())
    assert "| not slower than the original | 1 | 1 |" in text
    assert "| mixed lengths at most 1.1 times what their total length deserves | 1 | 0 |" in text
    assert "| a call at most 15 µs over the NumPy layer's | 1 | 0 |" in text
    assert "| the model's training step at least 3 times as fast on 2 threads | 1 | 1 |" in text
    assert "| GRU | training | T1 | 2 | 3.00 | 2.00 | 1.50x |" in text
    assert "| 1.25 | 1.50 |" in text  # 5 ms of 4 deserved, 6 of 4
    assert "| GRU | training | 90.0 | 40.0 | 20.0 | 10.0 | 20.0 |" in text
    assert "`0123456789ab`" in text


def test_the_page_is_that_of_the_results_beside_it():
    page = (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8")
    block = page.partition(pytorch_report.BEGIN)[2].partition(pytorch_report.END)[0].strip()
    files = sorted((ROOT / "bench" / "results").glob("*-pytorch.json"))
    assert len(files) <= 1
    results = json.loads(files[0].read_text(encoding="utf-8")) if files else None
    assert block == pytorch_report.block(results)
