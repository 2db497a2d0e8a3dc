"""The sections of the bench beside the grid: what they measure, their targets and their page. No time is judged."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is run from the repository, never installed

from bench import __main__ as command
from bench import checked, details, fresh, parity
from bench.cases import CELLS, MODES, Case, problem
from bench.competitors import fastrnn_layer
from bench.sections import Effort, anatomy, growth, memory, precision, sections, startup, stream, updates
from bench.targets import LISTED, Reached
from bench.timing import summarize
from fastrnn.matrices import Packing

QUICK = Effort(seconds=0.0, quick=True)
HEAD = {
    "machine": {"cpu": "Imaginary 9000", "microarchitecture": "dream1", "cores": 2, "vector": "AVX-512"},
    "software": {"python": "3.10.0", "jax": None},
    "source": {"commit": "0123456789abcdef", "modified": True},
    "date": "2000-01-01 00:00 UTC",
    "environment": {"OMP_NUM_THREADS": "2"},
}
HEAD["machine"]["load_average"] = 0.0


def as_results(**points):
    """The results files of some sections."""
    settings = {"settings": {"seconds": 0.1, "took": 7.0}}
    return {name: HEAD | settings | {"name": f"made-up-{name}", "points": found} for name, found in points.items()}


def timed(**seconds):
    """By name; the last of ten rounds is a slow moment."""
    return {name: asdict(summarize([each] * 9 + [3 * each], 1)) for name, each in seconds.items()}


def rows(page, *fields):
    """The table rows of a page that begin with these fields."""
    start = "| " + " | ".join(fields) + " |"
    return [line for line in page.splitlines() if line.startswith(start)]


def fake_fresh(kind, *arguments, environment=None):
    """What a fresh process would say: 5 values a step in training, 2 for PyTorch, and 1 MiB."""
    if kind == "import":
        return {"numba": 0.5, "fastrnn": 0.1}
    if kind == "first":
        cold = not any(Path(environment["NUMBA_CACHE_DIR"]).iterdir())
        (Path(environment["NUMBA_CACHE_DIR"]) / "kernels").touch()
        return {"forward": 7.0, "backward": 9.0} if cold else {"forward": 0.2, "backward": 0.1}
    competitor, _, mode, T, B, _, H = arguments
    values = (5 if competitor == "fastrnn" else 20) if mode == "training" else 0
    return {"peak": 2**20 + 4 * values * T * B * H, "returned": 0}


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(fresh, "measure", fake_fresh)
    monkeypatch.setattr(memory.sys, "platform", "linux")


# Targets


def test_targets_count_and_name_what_falls_short():
    least = Reached("at least two", 2.0, [("a", 2.0), ("b", 1.0), ("c", 0.5), ("d", 3.0)])
    assert least.row() == ("at least two", "2 of 4", "50%")
    assert least.shortfall() == "- at least two; furthest from it: `c` (0.50), `b` (1.00)"
    most = Reached("at most two", 2.0, [("a", 2.0), ("b", 1.0), ("c", 2.5), ("d", 3.0)], at_least=False)
    assert most.row() == ("at most two", "2 of 4", "50%")
    assert most.shortfall() == "- at most two; furthest from it: `d` (3.00), `c` (2.50)"
    assert Reached("nothing", 1.0, []).row() == ("nothing", "0 of 0", "-")
    assert Reached("all", 1.0, [("a", 1.0)]).shortfall() is None
    assert Reached("none", 1.0, [("a", 0.5)] * (LISTED + 3)).shortfall().endswith("and 3 more")


def test_nan_meets_no_target():
    for at_least in (True, False):
        assert Reached("", 1.0, [("a", float("nan"))], at_least).missed()


# What is measured


def test_a_stream_is_timed_from_python_and_without():
    points = stream.measure(QUICK)
    assert [(p["cell"], p["H"]) for p in points] == [(cell, 32) for cell in CELLS]
    assert all(p["timings"].keys() - {stream.BOUND} == stream.COLUMNS.keys() - {stream.BOUND} for p in points)
    assert all(timed["median"] > 0 for p in points for timed in p["timings"].values())


def test_updates_are_timed_with_and_without_a_change():
    points = updates.measure(QUICK)
    assert [(p["cell"], p["mode"]) for p in points] == [(cell, mode) for cell in CELLS for mode in MODES]
    assert all(p["timings"].keys() == {updates.KEPT, updates.CHANGED} for p in points)
    assert all(timed["median"] > 0 for p in points for timed in p["timings"].values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_weights_change_before_each_call_where_they_should(cell, mode, monkeypatch):
    kept, changed = updates.calls(Case(cell, mode, 1, 3, 2, 4, 4))
    packed, run = [], Packing.run
    monkeypatch.setattr(Packing, "run", lambda *arguments: packed.append(1) or run(*arguments))
    for call, number in ((kept, 0), (changed, 3)):  # for both passes at once
        call()
        packed.clear()
        for _ in range(3):
            call()
        assert len(packed) == number


def test_the_page_of_updates_has_the_difference():
    timings = timed(**{updates.KEPT: 5e-6, updates.CHANGED: 7.5e-6})
    point = {"cell": "gru", "mode": "forward", "size": "T1-B1-I4-H4", "timings": timings}
    assert rows(updates.report([point]), "GRU", "forward") == ["| GRU | forward | T1-B1-I4-H4 | 5.0 | 7.5 | 2.5 |"]


@pytest.mark.parametrize("cell", CELLS)
def test_the_kernels_loop_computes_what_the_stream_does(cell):
    layer = checked.streamed_layer(Case(cell, "forward", 1, 3, 1, 4, 4))
    frame = np.random.default_rng(0).standard_normal(4, dtype="float32")
    loop, h = stream.kernel_loop(layer, frame)
    loop()
    steps = layer.stream()
    for _ in range(stream.FRAMES):
        state = steps.state
        steps.reset((np.zeros_like(state[0]), state[1]) if cell == "lstm" else None)
        expected = steps.step(frame)
    np.testing.assert_array_equal(h[0], expected)


def test_growth_compares_each_size_with_another_of_its_series():
    points = growth.measure(QUICK)
    assert {p["series"] for p in points} == {"steps", "units"}
    assert {(p["cell"], p["mode"]) for p in points} == {(cell, mode) for cell in CELLS for mode in MODES}
    for p in points:
        if p["size"] == p["against"]:
            assert p["timing"] == p["base"]
        elif p["series"] == "steps":
            assert p["work"] == 2
    times = timed(timing=6.0, base=2.0)
    assert growth.times(times) == 3.0
    assert growth.per_work(times | {"work": 2}) == 1.5


def test_the_full_series_have_the_sizes_of_their_targets():
    series = growth._series(quick=False)
    assert {each.name for each in series} == growth.TEXTS.keys()
    for each in series:
        assert len(each.sizes) == len(each.against) == len(set(each.sizes))
    assert max(T for each in series for T, _, _ in each.sizes) == 1_000_000
    assert max(B for each in series for _, B, _ in each.sizes) == 4096
    odd = [(each, n) for each in series if each.name == "odd units" for n, size in enumerate(each.sizes)]
    compared = {each.sizes[n][2]: each.sizes[each.against[n]][2] for each, n in odd}
    assert {H: base for H, base in compared.items() if base != H} == {17: 16, 100: 96, 257: 256}


def test_a_step_is_timed_whole_and_without_its_products():
    points = anatomy.measure(QUICK)
    assert [(p["cell"], p["B"], p["H"]) for p in points] == [
        (cell, *size) for cell in CELLS for size in ((4, 32), (1, 32))
    ]
    for p in points:
        assert all(p["timings"][name]["median"] > 0 for name in (anatomy.STEP, anatomy.FORMULA))
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[p["cell"]]
        assert p["flops"] == 2 * gates * p["B"] * 32 * 32 * (2 if p["B"] > 1 else 1)
        assert p["bytes"] == 4 * gates * 32 * 32 * (2 if p["B"] > 1 else 1)
    # 4 µs of products at half the peak, which with 1 µs of formula could take 2
    p = {"cell": "gru", "B": 16, "H": 128, "flops": 400, "bytes": 1, "limit": 2e8}
    p |= {"timings": timed(**{anatomy.STEP: 5e-6, anatomy.FORMULA: 1e-6})}
    assert rows(anatomy.report([p]), "GRU", "16", "128") == ["| GRU | 16 | 128 | 5.00 | 20% | 0 | 50% | 40% | 67% |"]
    assert rows(anatomy.report([p | {"B": 1}]), "GRU", "1")[0].startswith("| GRU | 1 | 128 | 5.00 | 20% | 0 | 0 | ")


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(("B", "products"), [(1, True), (5, True), (5, False)])
def test_the_step_that_is_timed_is_the_cells(name, B, products):
    """By the cell's formula on sums that NumPy makes of the layer's weights."""
    case = Case(name, "forward", 1, 1, B, 7, 7)
    step = anatomy.Step(case)
    cell, stage = step.cell, step.cell.forward[0]
    sums = [step.planes[plane].astype("float64") for plane in stage.begins]
    if products:
        weights = fastrnn_layer(problem(case)).parameters
        W, R = (weights[f"weight_{which}_l0"].reshape(-1, 7, 7) for which in ("ih", "hh"))
        x, h = step.operands
        for gate, total in zip(cell.input_gates if B > 1 else (), sums, strict=False):
            total += x @ W[gate].T
        for gate, total in zip(stage.gates, sums[-len(stage.gates) :], strict=True):
            total += h @ R[gate].T
    values = sums + [step.planes[plane].astype("float64") for plane in stage.reads]
    taken = len(sums)
    expected = np.vectorize(lambda *numbers: stage.outputs(numbers[:taken], numbers[taken:])[0])(*values)
    anatomy.again()(1, *step(products=products))
    np.testing.assert_allclose(step.planes["h"], expected, atol=1e-5)


def test_both_dtypes_are_timed():
    points = precision.measure(QUICK)
    assert len(points) == len(CELLS) * len(MODES)
    assert all(p["timings"].keys() == {"float32", "float64"} for p in points)
    p = {
        "timings": timed(float32=1.0, float64=4.0),
        "cell": "gru",
        "mode": "forward",
        "size": "S",
    }
    (target,) = precision.targets([p])
    assert target.missed() == [("gru forward S", 0.25)]


def test_memory_is_the_difference_between_two_lengths(faked):
    points = memory.measure(QUICK)
    assert len(points) == len(CELLS) * len(MODES)
    (lstm,) = [p for p in points if (p["cell"], p["mode"]) == ("lstm", "training")]
    assert lstm["memory"]["fastrnn"]["values"] == pytest.approx(memory.promised("lstm", "training")) == 5
    training, forward = memory.targets(points)
    assert training.missed()[0][0].startswith("rnn ")  # 5 values are more than a plain cell's
    assert not forward.missed()


def test_first_calls_are_measured_with_and_without_kernels_on_disk(faked):
    points = startup.measure(QUICK)
    by_disk = {p["disk"]: p["seconds"] for p in points if p["what"] == "first calls"}
    assert by_disk.pop(startup.WITH_SCIPY, by_disk["kernels"]) == by_disk["kernels"]
    assert by_disk == {"nothing": {"forward": 7.0, "backward": 9.0}, "kernels": {"forward": 0.2, "backward": 0.1}}
    short = [target.text for target in startup.targets(points) if target.missed()]
    assert short == ["first forward pass with nothing on disk in at most 6 s"]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_fresh_processes_answer():
    T, B, I, H = 400, 8, 64, 64
    found = fresh.measure("memory", "fastrnn", "rnn", "training", T, B, I, H, environment=fresh.GIVEN_BACK)
    # of the order of what is kept for the backward pass, one value of 4 bytes for each step, row and unit
    assert 2 * T * B * H < found["peak"] < 40 * T * B * H
    y, state, weights = T * B * H, 2 * B * H, H * (I + H + 2)
    assert found["returned"] == 4 * (2 * y + state + weights)
    assert fresh.measure("import").keys() == {"numba", "fastrnn"}
    assert fresh.measure("first", "rnn", 4, "hidden").keys() == {"forward", "backward"}


# Wrong results


def test_what_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", {"float32": 0.0, "float64": 0.0})
    with pytest.raises(checked.WrongResults, match=r"^lstm-training-T5-B2-I3-H4-f32-1t: "):
        checked.runner_of(Case("lstm", "training", 1, 5, 2, 3, 4))
    with pytest.raises(checked.WrongResults, match=r"^stream of gru-forward-T5-B1-I4-H4-f32-1t: y: "):
        checked.streamed_layer(Case("gru", "forward", 1, 5, 1, 4, 4))


def test_the_command_reports_what_is_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(parity, "TOLERANCE", {"float32": 0.0, "float64": 0.0})
    monkeypatch.setattr(details, "FOLDER", tmp_path)
    arguments = ["--sections", "stream", "--quick", "--name", "trial"]
    assert command.main(arguments) == command.EXIT_WRONG_RESULTS
    assert "wrong results: stream of lstm-" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The command and the page


def test_a_section_has_a_file_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(details, "FOLDER", tmp_path)
    assert command.main(["--sections", "stream", "--quick", "--name", "trial"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["trial-stream.json"]
    data = json.loads((tmp_path / "trial-stream.json").read_text(encoding="utf-8"))
    assert data["section"] == "stream"
    assert {"machine", "software", "source", "date", "environment"} <= data.keys()
    assert details.load("trial") == {"stream": data}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"grid", *sections()}),
        (["--quick"], {"grid", *sections()}),
        (["--cells", "gru"], {"grid"}),
        (["--dtype", "float64"], {"grid"}),
        (["--sections", "memory", "growth"], {"memory", "growth"}),
    ],
)
def test_a_part_of_the_grid_is_measured_without_the_rest(arguments, expected):
    assert set(command.parse(arguments).sections) == expected


def test_the_page_shows_what_was_measured_and_says_what_was_not(faked, tmp_path):
    timed = {"median": 2e-6, "p10": 1e-6, "p90": 3e-6, "rounds": 5, "repetitions": 1}
    names = (stream.STEP, stream.WRITTEN, stream.KERNEL)
    streams = [{"cell": cell, "H": H, "timings": dict.fromkeys(names, timed)} for cell in CELLS for H in stream.SIZES]
    run = as_results(stream=streams, memory=memory.measure(QUICK), startup=startup.measure(QUICK))
    path = details.write_page(run, tmp_path)
    page = path.read_text(encoding="utf-8")
    assert rows(page, "LSTM", "32") == ["| LSTM | 32 | 2.00 | 2.00 | 2.00 | - | - | 1.04 |"]
    assert rows(page, "RNN", "64") == ["| RNN | 64 | 2.00 | 2.00 | 2.00 | - | - | - |"]
    assert rows(page, "LSTM", "training", "T40-B4-I16-H16")[0].startswith(
        "| LSTM | training | T40-B4-I16-H16 | 5 | 5.00 | 1.0"
    )
    assert rows(page, "LSTM", "nothing") == ["| LSTM | nothing | 7.00 | 9.00 |"]
    assert len(rows(page, "`import fastrnn` adds at most 0.15 s to `import numba`", "1 of 1")) == 1
    assert "furthest from it: `lstm forward` (7.00)" in page
    assert page.count("Not measured yet.") == len(sections()) - 3
    for module in sections().values():
        assert f"## {module.TITLE}\n" in page
    for fact in ("Imaginary 9000", "commit `0123456789ab` with local changes", "OMP_NUM_THREADS=2", "it took 7 s"):
        assert fact in page
    assert "jax" not in page


def test_without_any_results_the_page_says_so():
    page = details.page({})
    assert page.count("Not measured yet.") == len(sections())
    assert "## Targets" not in page
