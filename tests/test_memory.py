"""The memory that a layer takes from the system, and keeps."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import fastrnn


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_gradient_of_x_keeps_no_other_memory_alive(bidirectional):
    layer = fastrnn.GRU(5, 7, bidirectional=bidirectional)
    x = np.ones((9, 4, 5), np.float32)
    (y, _), backward = layer.vjp(x)
    dx = backward(y).x
    owner = dx if dx.base is None else dx.base
    assert owner.nbytes == x.nbytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is freed is kept by glibc")
def test_a_loop_of_training_asks_the_system_for_no_memory():
    program = """
import resource
import numpy as np, fastrnn
fastrnn.set_num_threads(1)
layer, x = fastrnn.RNN(256, 256, seed=0), np.ones((100, 32, 256), "float32")
def train():
    (y, _), backward = layer.vjp(x)
    backward(y)
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    train()
before = pages()
for _ in range(4):
    train()
print((pages() - before) // 4)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    pages = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(pages.stdout) < 100  # y alone has 800
