"""Compiled kernels are found again by the next process, and never after their sources have changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import json
import numpy as np
import fastrnn
from fastrnn.kernels import compiled

layer = fastrnn.RNN(1, 1, seed=0)
for parameter in layer.parameters.values():
    parameter[...] = 0.25
y, _ = layer(np.ones((1, 1, 1), np.float32))
kernels = compiled._kernels.values()
hits = [kernel.cache_hits for kernel in kernels]
hits.append(sum(compiled.run_alone.stats.cache_hits.values()))
print(json.dumps({"file": fastrnn.__file__, "y": float(y[0, 0, 0]), "hits": hits}))
"""

HASHES = """
import json
from pathlib import Path
from fastrnn.kernels import compiled

hashes = {}
for path in sorted(Path(compiled.__file__).parent.glob("*.py")):
    before = path.read_bytes()
    path.write_bytes(before + b"#")
    hashes[path.name] = compiled.source_hash.__wrapped__()
    path.write_bytes(before)
print(json.dumps({"unchanged": compiled.source_hash.__wrapped__(), **hashes}))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package as it is when installed, and an empty cache: the folder of both."""
    folder = tmp_path_factory.mktemp("installed")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastrnn", folder / "fastrnn", ignore=ignore)
    shutil.copytree(ROOT / "kernels", folder / "fastrnn" / "kernels", ignore=ignore)
    return folder


def start(package, program):
    places = {"PYTHONPATH": str(package), "NUMBA_CACHE_DIR": str(package / "cache"), "FASTRNN_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=package, env=os.environ | places, stdout=subprocess.PIPE, text=True
    )


def result(process):
    output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def run(package):
    found = result(start(package, PROGRAM))
    assert Path(found["file"]).is_relative_to(package)
    return found


def test_edited_kernels_are_compiled_again_and_others_are_not(package):
    cells = package / "fastrnn" / "kernels" / "cells.py"
    original = cells.read_text(encoding="utf-8")
    edited = original.replace("return (tanh(a),)", "return (sigmoid(a),)")
    assert edited != original
    tanh, sigmoid = 0.6351490, 0.6791787  # of 0.75: W x + b_ih + b_hh, with h' = 0

    both = [start(package, PROGRAM) for _ in range(2)]  # two processes that fill the cache at once
    for first in map(result, both):
        assert first["y"] == pytest.approx(tanh, abs=1e-6)
    again = run(package)
    assert again["y"] == first["y"]
    assert min(again["hits"]) == 1

    cells.write_text(edited, encoding="utf-8")
    changed = run(package)
    assert changed["y"] == pytest.approx(sigmoid, abs=1e-6)
    assert max(changed["hits"]) == 0

    cells.write_text(original, encoding="utf-8")
    restored = run(package)
    assert restored["y"] == first["y"]
    assert min(restored["hits"]) == 1


def test_an_edit_of_any_kernel_source_counts(package):
    hashes = result(start(package, HASHES))
    sources = [path.name for path in (ROOT / "kernels").glob("*.py")]
    assert set(hashes) == {"unchanged", *sources}
    assert len(set(hashes.values())) == len(hashes)
