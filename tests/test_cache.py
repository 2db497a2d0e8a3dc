"""Compiled kernels are found again by the next process, and never after their sources have changed; they can be
compiled ahead."""

import compileall
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastrnn.commands import warmup

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
compiled.together()
print(json.dumps({"file": fastrnn.__file__, "y": float(y[0, 0, 0]), "loaded": compiled.origins()}))
"""

EVERYTHING = """
import json
import numpy as np
import fastrnn
from fastrnn.kernels import compiled

fastrnn.set_num_threads(2)
for size, options in ((3, {}), (3, {"num_layers": 2, "bidirectional": True}), (200, {})):
    layer = fastrnn.RNN(size, size, seed=0, **options)
    x = np.ones((9, 8, size), np.float32)
    for lengths in (None, [9, 2, 0, 4, 4, 8, 1, 9]):
        layer(x, lengths=lengths)
        (y, state), backward = layer.vjp(x, lengths=lengths)
        backward(y, state)
        backward = layer.vjp(x, lengths=lengths)[1]
        backward(None, state)
    fastrnn.diagnostics.gradient_flow(layer, x)
fastrnn.RNN(3, 3).stream().step(x[0, 0, :3].copy())
print(json.dumps(compiled.origins()))
"""

NOWHERE = """
import json
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from fastrnn.kernels import compiled
from fastrnn.memory import address
import numpy as np

found = address(np.zeros(3))
texts = [str(each.message) for each in caught if each.category is RuntimeWarning]
print(json.dumps({"folder": str(compiled.cache_folder()), "loaded": compiled.origins(), "warnings": texts}))
"""

HASHES = """
import json
from pathlib import Path
from fastrnn.kernels import disk_cache

hashes = {}
for path in sorted(Path(disk_cache.__file__).parent.glob("*.py")):
    before = path.read_bytes()
    path.write_bytes(before + b"#")
    hashes[path.name] = disk_cache.source_hash.__wrapped__()
    path.write_bytes(before)
print(json.dumps({"unchanged": disk_cache.source_hash.__wrapped__(), **hashes}))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package as it is when installed, and an empty cache: the folder of both."""
    folder = tmp_path_factory.mktemp("installed")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastrnn", folder / "fastrnn", ignore=ignore)
    shutil.copytree(ROOT / "kernels", folder / "fastrnn" / "kernels", ignore=ignore)
    return folder


def environment(package, **variables):
    places = {"PYTHONPATH": str(package), "NUMBA_CACHE_DIR": str(package / "cache"), "FASTRNN_NUM_THREADS": "1"}
    return os.environ | places | variables


def start(package, program, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=package,
        env=environment(package, **variables),
        stdout=subprocess.PIPE,
        text=True,
    )


def warm_up(package, *options, **variables):
    return subprocess.run(
        [sys.executable, "-m", "fastrnn", "warmup", *options],
        cwd=package,
        env=environment(package, **variables),
        capture_output=True,
        text=True,
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
    assert all(again["loaded"].values())
    # files of its own for each: processes that add to one index at once may overwrite each other's
    assert len(list((package / "cache").glob("kernels_*/*.nbi"))) == len(again["loaded"])

    cells.write_text(edited, encoding="utf-8")
    changed = run(package)
    assert changed["y"] == pytest.approx(sigmoid, abs=1e-6)
    assert not any(changed["loaded"].values())

    cells.write_text(original, encoding="utf-8")
    restored = run(package)
    assert restored["y"] == first["y"]
    assert all(restored["loaded"].values())


def test_an_edit_of_any_kernel_source_counts(package):
    hashes = result(start(package, HASHES))
    sources = [path.name for path in (ROOT / "kernels").glob("*.py")]
    assert set(hashes) == {"unchanged", *sources}
    assert len(set(hashes.values())) == len(hashes)


# Ahead


RNN = ("--cell", "rnn_tanh", "--dtype", "float32")


def counts(done):
    """(kernels compiled, kernels found) by the last line."""
    assert done.returncode == 0, done.stderr
    last = re.match(r"(\d+) kernels compiled, (\d+) were in the cache", done.stdout.splitlines()[-1])
    return int(last[1]), int(last[2])


def test_after_a_warm_up_nothing_is_compiled(package):
    forward = warm_up(package, *RNN, "--forward-only", "--verbose")
    for name in ("formula forward rnn_tanh 0 float32", "stage", "loop forward", "run together"):
        assert re.search(rf"^    (compiled    |in the cache)  {name}$", forward.stdout, re.M), name
    assert "backward" not in forward.stdout
    assert str(package / "cache") in forward.stdout
    compiled, found = counts(warm_up(package, *RNN))
    assert compiled > 0
    assert found == sum(counts(forward))
    assert counts(warm_up(package, *RNN)) == (0, compiled + found)
    loaded = result(start(package, EVERYTHING, NUMBA_NUM_THREADS="2"))
    assert [name for name in loaded if not loaded[name]] == []
    assert len(loaded) == compiled + found


def test_the_caches_name_may_be_one_that_the_terminal_cannot_show(package, tmp_path):
    options = ("--cell", "rnn_relu", "--dtype", "float32", "--forward-only")
    done = warm_up(package, *options, NUMBA_CACHE_DIR=str(tmp_path / "ü"), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The cache lies in " in done.stdout


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_warm_up(package, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    wanted = str(tmp_path / "file" / "cache")
    done = warm_up(package, NUMBA_CACHE_DIR=wanted)
    assert done.returncode == 1
    assert done.stderr == (
        f"python -m fastrnn warmup: error: NUMBA_CACHE_DIR: expected a folder that can be written to, got {wanted!r}\n"
    )


READ_ONLY = """
import tempfile

def refuse(*args, **options):
    raise PermissionError(13, "Permission denied")

tempfile.TemporaryFile = refuse  # with one, Numba finds out whether a folder can be written to
"""


@pytest.mark.parametrize("named", [True, False], ids=["named", "in-tree"])
def test_what_was_compiled_ahead_is_found_where_nobody_may_write(package, tmp_path, named):
    """As in an image that was made by another user."""
    shutil.copytree(package / "fastrnn", tmp_path / "fastrnn", ignore=shutil.ignore_patterns("__pycache__"))
    folder = {"NUMBA_CACHE_DIR": str(tmp_path / "cache") if named else ""}
    first = result(start(tmp_path, PROGRAM, **folder))
    for path in tmp_path.rglob("*.py"):  # what some ways of copying do to times
        os.utime(path, (int(path.stat().st_mtime),) * 2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.nb?")}
    assert files
    again = result(start(tmp_path, READ_ONLY + PROGRAM, PYTHONWARNINGS="error", **folder))
    assert again["y"] == first["y"]
    assert [name for name, found in again["loaded"].items() if not found] == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.nb?")} == files


def test_the_warm_up_needs_to_write_only_what_is_not_there(package, tmp_path):
    """The same, and the command in place of a program."""
    folder = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "again.py").write_text(f"{READ_ONLY}\nfrom fastrnn.__main__ import main\nraise SystemExit(main())\n")

    def again(*cell):
        command = [sys.executable, str(tmp_path / "again.py"), "warmup", "--cell", *cell, "--dtype", "float32"]
        places = environment(package, **folder)
        return subprocess.run([*command, "--forward-only"], cwd=package, env=places, capture_output=True, text=True)

    assert warm_up(package, "--cell", "rnn_relu", "--dtype", "float32", "--forward-only", **folder).returncode == 0
    files = set(tmp_path.rglob("*.nb?"))
    done = again("rnn_relu")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n0 kernels compiled, " in done.stdout
    done = again("rnn_relu", "rnn_tanh")
    assert done.returncode == 1
    assert "error: NUMBA_CACHE_DIR: expected a folder that can be written to" in done.stderr
    assert set(tmp_path.rglob("*.nb?")) == files


def no_file_larger_than(size):
    """To be called in a child: its files are cut off there, with an error like that of a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files has no limit there")
def test_with_a_full_disk_kernels_are_compiled_anew_and_a_warning_says_so(package, tmp_path):
    options = {
        "cwd": package,
        "env": environment(package, NUMBA_CACHE_DIR=str(tmp_path)),
        "preexec_fn": lambda: no_file_larger_than(1000),
        "capture_output": True,
        "text": True,
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], **options)
    found = json.loads(done.stdout)
    assert found["y"] == pytest.approx(0.6351490, abs=1e-6)
    assert done.stderr.count("RuntimeWarning: fastrnn: compiled kernels cannot be kept on disk") == 1
    assert "NUMBA_CACHE_DIR" in done.stderr
    done = subprocess.run([sys.executable, "-m", "fastrnn", "warmup", *RNN], **options)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("python -m fastrnn warmup: error: ")
    assert os.strerror(errno.EFBIG) in error


NORMS = """
import json
import sys
import numpy as np
from fastrnn.kernels.norms import norms

print(json.dumps(norms(np.full((1, 1, 4), 2.0, sys.argv[1])).tolist()))
"""


def test_signatures_of_one_function_that_are_compiled_at_once_are_kept_apart(package, tmp_path):
    """Two processes that find an empty index write one each: the later stands, and so may the earlier's."""

    def norm(dtype):
        options = {"cwd": package, "env": environment(package, NUMBA_CACHE_DIR=str(tmp_path))}
        done = subprocess.run([sys.executable, "-c", NORMS, dtype], capture_output=True, check=True, **options)
        return json.loads(done.stdout)

    assert norm("float32") == [4.0]
    (index,) = tmp_path.glob("kernels_*/norms.norms*.nbi")
    earlier = index.read_bytes()
    index.unlink()
    assert norm("float64") == [4.0]
    index.write_bytes(earlier)
    assert norm("float32") == [4.0]
    assert norm("float64") == [4.0]


@pytest.mark.parametrize("damage", [b"\0", b"no pickle", b"", None], ids=["cut", "other", "turned", "unreadable"])
def test_a_damaged_file_of_the_cache_is_as_none(package, tmp_path, damage):
    """None: one that must not be read; b"": with all bits turned."""
    if damage is None and os.name == "posix" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = result(start(package, PROGRAM, **folder))
    for pattern in ("*stage*.nbc", "*run_record*.nbi"):
        (path,) = tmp_path.glob(f"kernels_*/{pattern}")
        if damage is None:
            path.chmod(0)
        else:
            path.write_bytes(damage or bytes(255 - byte for byte in path.read_bytes()))
    again = result(start(package, PROGRAM, **folder))
    assert again["y"] == first["y"]
    assert {name for name, found in again["loaded"].items() if not found} == {"stage", "run record"}


def test_who_does_not_read_on_is_no_error_of_the_warm_up(monkeypatch):
    def close():
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(warmup, "_passes", lambda arguments: [("threads", close)])
    with pytest.raises(BrokenPipeError):
        warmup.run(None)


@pytest.fixture
def nowhere(package, tmp_path):
    """Another copy, and variables with which no folder is left for the cache."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package / "fastrnn", tmp_path / "fastrnn", ignore=ignore)
    for folder in ("fastrnn", "fastrnn/kernels"):
        (tmp_path / folder / "__pycache__").write_text("not a folder")
    lost = str(tmp_path / "fastrnn" / "__pycache__")
    return tmp_path, {"NUMBA_CACHE_DIR": "", "HOME": lost, "XDG_CACHE_HOME": lost, "LOCALAPPDATA": lost}


def test_without_sources_kernels_are_compiled_anew_and_a_warning_says_why(package, tmp_path):
    """As where the package was compiled ahead and its sources left out: no other folder would help."""
    shutil.copytree(package / "fastrnn", tmp_path / "fastrnn", ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(tmp_path / "fastrnn", legacy=True, quiet=1)
    for path in tmp_path.rglob("*.py"):
        path.unlink()
    found = result(start(tmp_path, NOWHERE))
    assert found["loaded"] == {"run record": False}
    (text,) = found["warnings"]
    assert "the package's sources" in text
    assert "NUMBA_CACHE_DIR" not in text
    done = warm_up(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("python -m fastrnn warmup: error: the package's sources")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the user's cache folder is not named by variables")
def test_without_any_folder_kernels_are_compiled_anew_and_a_warning_says_so(nowhere):
    package, variables = nowhere
    found = result(start(package, NOWHERE, **variables))
    assert found["folder"] == "None"
    assert found["loaded"] == {"run record": False}
    (text,) = found["warnings"]
    assert "NUMBA_CACHE_DIR" in text
    done = warm_up(package, **variables)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("python -m fastrnn warmup: error: neither ")


@pytest.mark.parametrize("name", ["_data_name_pattern", "_source_stamp"])
def test_a_numba_whose_files_have_other_names_keeps_nothing_and_a_warning_says_so(name, monkeypatch):
    from fastrnn.kernels import disk_cache

    made = disk_cache.FunctionCache.__init__

    def otherwise(self, function):
        made(self, function)
        delattr(self._cache_file, name)

    monkeypatch.setattr(disk_cache.FunctionCache, "__init__", otherwise)
    monkeypatch.setattr(disk_cache, "_problems", [])
    files = disk_cache.files_of(lambda: None, "nothing")
    assert files.load_overload(None, None) is None
    with pytest.warns(RuntimeWarning, match=rf"cannot be kept on disk \(Numba .* has no '{name}' of its files"):
        files.save_overload(None, None)


def test_a_numba_that_keeps_nothing_of_the_kind_is_said(monkeypatch):
    from fastrnn.kernels import disk_cache

    monkeypatch.setattr(disk_cache, "_problems", [])
    with pytest.warns(RuntimeWarning, match=r"cannot be kept on disk \(Numba .* keeps them otherwise"):
        disk_cache.keep(type("Made", (), {})(), lambda: None, "nothing")
