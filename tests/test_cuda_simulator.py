"""device="cuda" in Numba's CUDA simulator, which reads its switch when Numba is imported: so in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("cuda_simulator_cases.py")

pytest.importorskip("numba_cuda", reason="Numba-CUDA is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes, NumPy's bfloat16, is not installed")
pytest.importorskip("torch", reason="PyTorch is not installed")


def test_the_kernels_in_the_simulator():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=CASES.parent.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
