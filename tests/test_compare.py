"""What `python -m fastrnn compare` is made of: tasks, model, contenders, processes, folder; and the command itself."""

import errno
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import pytest

from fastrnn.__main__ import main
from fastrnn.experiments import text
from fastrnn.experiments.compare import command, learners, results
from fastrnn.experiments.compare.contenders import CONTENDERS, matching_size
from fastrnn.experiments.compare.jobs import Job, do
from fastrnn.experiments.compare.learners import hidden_size, make_learner
from fastrnn.experiments.compare.processes import Event, perform
from fastrnn.experiments.compare.scaling import RADII, scaled_matrices, spectral_radius
from fastrnn.experiments.compare.sequence_model import SequenceModel
from fastrnn.experiments.compare.settings import DEFAULT, QUICK, TASKS, as_mapping, differences, from_mapping
from fastrnn.experiments.compare.store import Store, plain, write
from fastrnn.experiments.compare.tasks import Adding, Copying, Parity

TINY = replace(QUICK, hidden=5, length=6, delay=2, parity_length=5, text_steps=8, probe_steps=6, scaling_steps=12)
TINY = TINY.changed(updates=4, batch=3)
SMALL = ("--hidden", "5", "--length", "6", "--delay", "2", "--parity-length", "5", "--updates", "4", "--batch", "3")


def generator(seed=0):
    return np.random.default_rng(seed)


# Tasks


@pytest.mark.parametrize("length", [2, 3, 10, 11])
def test_adding_asks_for_the_sum_of_the_marked_numbers(length):
    x, targets = Adding(length).examples(200, generator())
    assert (x.shape, x.dtype, targets.shape, targets.dtype) == ((length, 200, 2), np.float32, (1, 200), np.float32)
    assert 0 <= x[:, :, 0].min() < x[:, :, 0].max() < 1
    for b in range(200):
        first, second = (t for t in range(length) if x[t, b, 1])
        assert first < length // 2 <= second
        assert targets[0, b] == x[first, b, 0] + x[second, b, 0]
        assert set(x[:, b, 1]) <= {0, 1}


def test_addings_marks_fall_everywhere():
    x, _ = Adding(7).examples(500, generator())
    assert (x[:, :, 1].sum(axis=1) > 0).all()


def test_addings_baseline_is_what_the_mean_achieves():
    _, targets = Adding(8).examples(100_000, generator())
    assert np.mean((targets - 1.0) ** 2) == pytest.approx(Adding(8).baseline, rel=0.02)
    assert Adding(8).baseline == pytest.approx(0.1667, abs=1e-4)


@pytest.mark.parametrize("delay", [1, 2, 9])
def test_copying_asks_for_the_first_ten_symbols_at_the_end(delay):
    task = Copying(delay)
    x, targets = task.examples(50, generator())
    assert x.shape == (delay + 20, 50, 10)
    assert targets.shape == (delay + 20, 50)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.sum(axis=2), 1)
    read = x.argmax(axis=2)
    assert set(np.unique(read[:10])) == set(range(8))
    np.testing.assert_array_equal(read[10 : 9 + delay], 8)  # blanks
    np.testing.assert_array_equal(read[9 + delay], 9)  # the signal
    np.testing.assert_array_equal(read[-10:], 8)
    np.testing.assert_array_equal(targets[:-10], 8)
    np.testing.assert_array_equal(targets[-10:], read[:10])


def test_copyings_baseline_is_the_published_one():
    assert Copying(100).baseline == pytest.approx(10 * math.log(8) / 120)
    # sure of blanks, and one in eight for a symbol: the mean of -ln p over the steps
    _, targets = Copying(4).examples(5, generator())
    nats = np.where(targets == 8, 0.0, math.log(8))
    assert nats.mean() == pytest.approx(Copying(4).baseline)


def test_parity_asks_whether_the_ones_so_far_are_odd():
    x, targets = Parity(9).examples(40, generator())
    for b, t in itertools.product(range(40), range(9)):
        assert targets[t, b] == sum(int(x[k, b, 0]) for k in range(t + 1)) % 2
    assert set(np.unique(x)) == {0, 1}
    assert Parity(9).baseline == pytest.approx(math.log(2))


@pytest.mark.parametrize("task", [Adding(4), Copying(1), Parity(3)], ids=lambda task: type(task).__name__)
def test_examples_are_those_of_their_generator(task):
    one, same, other = (task.examples(6, generator(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.targets, same.targets)
    assert not np.array_equal(one.x, other.x)


# The model


class Double:
    """A contender's layer in float64."""

    def __init__(self, name):
        self.name = name

    def layer(self, inputs, hidden, seed):
        layer = CONTENDERS[self.name].layer(inputs, hidden, seed)
        return type(layer)(inputs, hidden, dtype="float64", seed=seed, backend="reference")


def double_model(name, task, hidden=4):
    return SequenceModel(Double(name).layer(task.inputs, hidden, 0), task.classes, generator(1))


@pytest.mark.parametrize("task", [Adding(5), Copying(1), Parity(4)], ids=lambda task: type(task).__name__)
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_gradients_agree_with_finite_differences(name, task):
    model = double_model(name, task)
    x, targets = task.examples(3, generator(2))
    x = x.astype(np.float64)
    targets = targets.astype(np.float64) if not task.classes else targets
    loss, gradients = model.gradients(x, targets)
    assert loss == pytest.approx(model.loss(x, targets), rel=1e-12)
    assert gradients.keys() == model.parameters.keys()
    for name, parameter in model.parameters.items():
        some = generator(3).choice(parameter.size, min(parameter.size, 12), replace=False)
        for index in (np.unravel_index(k, parameter.shape) for k in some):
            value, step = parameter[index], 1e-6
            parameter[index] = value + step
            above = model.loss(x, targets)
            parameter[index] = value - step
            below = model.loss(x, targets)
            parameter[index] = value
            expected = (above - below) / (2 * step)
            assert gradients[name][index] == pytest.approx(expected, rel=1e-5, abs=1e-8), (name, index)


def test_the_loss_is_that_of_the_answers():
    model = double_model("gru", Adding(5))
    x, targets = Adding(5).examples(7, generator())
    y, _ = model.layer(x.astype(np.float64))
    answers = y[-1] @ model.head_weight[0] + model.head_bias
    assert model.loss(x.astype(np.float64), targets.astype(np.float64)) == pytest.approx(
        np.mean((answers - targets) ** 2)
    )


@pytest.mark.parametrize(("name", "part"), [("rnn", 0), ("gru", 0), ("lstm", 0), ("lstm", 1)])
def test_erasing_sets_one_part_of_the_state_to_zero(name, part):
    """Step by step, from the states that the stream shows."""
    task = Adding(6)
    layer = CONTENDERS[name].layer(2, 4, 0)
    model = SequenceModel(layer, 0, generator(1))
    x, targets = task.examples(1, generator(2))
    stream = layer.stream()
    for t in range(6):
        if t == 3:
            state = stream.state
            parts = list(state) if isinstance(state, tuple) else [state]
            parts[part] = np.zeros_like(parts[part])
            stream.reset(tuple(parts) if len(parts) > 1 else parts[0])
        y = stream.step(x[t])
    expected = float((y[0] @ model.head_weight[0] + model.head_bias[0] - targets[0, 0]) ** 2)
    assert model.loss_with_erased(x, targets, 3, part) == pytest.approx(expected, rel=1e-5)
    assert model.loss(x, targets) != pytest.approx(expected, rel=1e-5)


# Contenders


def test_the_lstms_differ_in_their_forget_bias_only():
    one, default = (CONTENDERS[name].layer(2, 3, 0).parameters for name in ("lstm", "lstm-default"))
    forget = slice(3, 6)
    total = one["bias_ih_l0"][forget] + one["bias_hh_l0"][forget]
    np.testing.assert_array_equal(total, 1)
    for name in one:
        same = one[name] == default[name]
        assert same.all() if name.startswith("weight") else same.reshape(4, 3)[[0, 2, 3]].all()


@pytest.mark.parametrize("task", TASKS)
def test_sizes_are_equal_or_parameters_are(task):
    settings = replace(TINY, hidden=16)
    assert {hidden_size(task, name, settings) for name in CONTENDERS} == {16}
    matched = replace(settings, equal_parameters=True)
    wanted = make_learner(task, "lstm", settings, 0).num_parameters
    for name in CONTENDERS:
        size = hidden_size(task, name, matched)
        counts = [
            make_learner(task, name, replace(settings, hidden=n), 0).num_parameters for n in (size - 1, size, size + 1)
        ]
        assert counts[1] == make_learner(task, name, matched, 0).num_parameters
        assert min(abs(count - wanted) for count in counts) == abs(counts[1] - wanted)
    assert hidden_size(task, "rnn", matched) > hidden_size(task, "gru", matched) > 16


@pytest.mark.parametrize(("wanted", "size"), [(0, 1), (1, 1), (7, 3), (12, 3), (13, 4), (16, 4)])
def test_the_nearest_size_is_found(wanted, size):
    assert matching_size(lambda n: n * n, wanted) == size


# Jobs


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_a_training_gives_all_that_a_run_has(task, contender):
    reports = []
    found = do((TINY, Job(1, task, contender, closely=True)), reports.append)
    run = results.run_from({**found, "task": task, "contender": contender, "seed": 1})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert run.updates == [0, 1, 2, 3, 4]
    assert len(run.losses) == 5
    assert [fraction for fraction, _ in reports] == [0.25, 0.5, 0.75, 1.0]
    assert run.diverged is None
    assert set(run.erased) == (set() if task == "text" else {"h", "c"} if "lstm" in contender else {"h"})
    for look in (run.start, run.trained):
        steps = {"adding": 6, "copying": 22, "parity": 5, "text": 6}[task]
        assert look.lags == list(range(steps))
        assert look.norms[0] == 1
        assert look.norm_at(3) == look.norms[3]
        assert look.eigenvalues is not None
        states = 10 if "lstm" in contender else 5
        assert np.shape(look.eigenvalues["jacobian"]) == (states, 2)
        gates = {"rnn": {"h"}, "gru": {"r", "z"}}.get(contender, {"i", "f", "o"})
        assert set(look.gates) == gates
        assert (look.matrix is None) == (contender != "rnn")
        if contender != "rnn":
            assert all(0 < gate["mean"] < 1 for gate in look.gates.values())
            assert {np.shape(trace) for trace in look.traces.values()} == {(5, steps)}
            assert (look.marks is not None) == (task == "adding")


def test_a_training_is_that_of_its_seed():
    def once(seed):
        return do((TINY, Job(seed, "parity", "gru")), lambda _: None)["losses"]

    assert once(0) == once(0)
    assert once(0) != once(1)


def test_a_training_learns():
    settings = replace(TINY, hidden=16, parity_length=4).changed(updates=300, batch=16, learning_rate=0.02)
    found = do((settings, Job(0, "parity", "gru")), lambda _: None)
    assert found["losses"][0] > 0.6
    assert found["loss"] < 0.1 * Parity(4).baseline


@pytest.mark.filterwarnings("error")  # it would be drawn across the display
def test_a_training_that_diverges_is_a_result():
    settings = TINY.changed(learning_rate=float(np.finfo(np.float32).max))
    found = do((settings, Job(0, "adding", "rnn")), lambda _: None)
    assert re.match(r"update \d: loss", found["diverged"])
    json.dumps(found, allow_nan=False)


def test_scaled_matrices_decay_with_their_radius_at_rest():
    rows = [results.Scaled(**row) for row in plain(scaled_matrices(TINY, 0))["scaled"]]
    assert len(rows) == 4 * len(RADII)
    for row in rows:
        if not row.driven and row.matrix == "orthogonal":
            np.testing.assert_allclose(row.norms, row.radius ** np.array(row.lags), rtol=1e-3)
            assert row.decay == pytest.approx(row.radius, rel=1e-3)
        assert (row.lyapunov is not None) == row.driven


def test_spectral_radius():
    assert spectral_radius(np.array([[0.0, -2.0], [2.0, 0.0]])) == pytest.approx(2)
    assert spectral_radius(np.array([[0.5, 100.0], [0.0, -0.25]])) == pytest.approx(0.5)


# Processes


def square_or_die(job, report):
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "exit":
        os._exit(3)
    if job == "raise":
        raise ValueError("not this one")
    report(("half", job))
    return job * job


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_dies_or_raises_is_reported_and_the_others_go_on(processes):
    jobs = [1, "die", 2, "raise", "exit", 3]
    events = list(perform(jobs, square_or_die, processes))
    ends = {event.job: event for event in events if event.kind in ("finished", "failed")}
    assert {job: ends[job].value for job in (1, 2, 3)} == {1: 1, 2: 4, 3: 9}
    assert {job: ends[job].kind for job in ("die", "raise", "exit")} == dict.fromkeys(
        ("die", "raise", "exit"), "failed"
    )
    assert ends["die"].value == "its process was killed by SIGKILL"
    assert ends["exit"].value == "its process ended with status 3"
    assert ends["raise"].value.endswith("ValueError: not this one")
    assert [event.job for event in events if event.kind == "started"] == jobs
    assert sorted(event.value for event in events if event.kind == "reported") == [
        ("half", 1),
        ("half", 2),
        ("half", 3),
    ]


def wait_for_ever(job, report):
    report(os.getpid())
    time.sleep(600)


def test_processes_end_with_the_iteration():
    pids = []
    with closing(perform([1, 2], wait_for_ever, 2)) as events:
        for event in events:
            if event.kind == "reported":
                pids.append(event.value)
            if len(pids) == 2:
                break
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def ignores_interrupts(job, report):
    signal.raise_signal(signal.SIGINT)
    return "still there"


def test_processes_leave_ctrl_c_to_their_parent():
    handler = signal.getsignal(signal.SIGINT)
    events = list(perform([1], ignores_interrupts, 1))
    assert events[-1].value == "still there"
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_while_a_process_is_being_started_is_heard(monkeypatch):
    started = []

    def start_and_interrupt(process):
        started.append(process)
        start(process)
        signal.raise_signal(signal.SIGINT)

    start = SpawnProcess.start
    monkeypatch.setattr(SpawnProcess, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt), closing(perform([1, 2], wait_for_ever, 2)) as events:
        list(events)
    assert len(started) == 1
    with pytest.raises(ValueError, match="process object is closed"):
        started[0].is_alive()


def test_ctrl_c_while_processes_are_ended_does_not_leave_any(monkeypatch):
    def end_and_interrupt(process):
        ended.append(process.pid)
        signal.raise_signal(signal.SIGINT)
        terminate(process)

    ended, terminate = [], SpawnProcess.terminate
    monkeypatch.setattr(SpawnProcess, "terminate", end_and_interrupt)
    events = perform([1, 2], wait_for_ever, 2)
    next(event for event in events if event.kind == "reported")
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    assert len(ended) == 2
    for pid in ended:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# The folder


def test_results_are_written_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write(path, {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_several_may_write_one_file(tmp_path):
    def write_often(number):
        for _ in range(50):
            write(tmp_path / "job.json", {"from": number})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, range(4)))
    assert json.loads((tmp_path / "job.json").read_text())["from"] in range(4)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_store_gives_back_what_it_took(tmp_path):
    store = Store(tmp_path / "new")
    assert store.settings is None
    store.begin(as_mapping(TINY))
    assert Store(tmp_path / "new").settings == as_mapping(TINY)
    assert store.load("adding-gru-0") is None
    store.save("adding-gru-0", {"loss": 0.25})
    assert store.load("adding-gru-0") == {"loss": 0.25}


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_half_a_result_is_none(content, tmp_path):
    store = Store(tmp_path)
    store.begin(as_mapping(TINY))
    (tmp_path / "jobs" / "adding-gru-0.json").write_text(content)
    assert store.load("adding-gru-0") is None


def test_settings_come_back_from_json():
    for settings in (DEFAULT, QUICK, TINY):
        assert from_mapping(json.loads(json.dumps(as_mapping(settings)))) == settings
        assert differences(as_mapping(settings), as_mapping(settings)) == []
    assert differences(as_mapping(DEFAULT), as_mapping(replace(DEFAULT, length=7))) == ["length: 100 there, 7 here"]


def test_numbers_are_made_plain():
    found = plain({"a": np.float32(1 / 3), "b": [np.nan, np.inf], "c": np.arange(2), "d": None, "e": True, "f": "g"})
    assert found == {"a": 0.3333, "b": [None, None], "c": [0, 1], "d": None, "e": True, "f": "g"}


# The command


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Runs the command, tiny, in this process's folder; the jobs one after the other in this process."""
    monkeypatch.setattr(command, "perform", in_this_process)
    monkeypatch.setattr(command, "use_one_thread", lambda: True)
    monkeypatch.setattr(command, "measure_costs", lambda settings: {})
    monkeypatch.setattr(command, "write_report", lambda show, found, folder: [])

    def run(*options, sizes=SMALL, out=tmp_path / "out"):
        return main(["compare", "--out", str(out), "--tasks", "adding", "--seeds", "2", *sizes, *options])

    return run


def in_this_process(jobs, function, processes):
    """`perform` without processes, and with made-up results."""
    for settings, job in jobs:
        yield Event((settings, job), "started")
        yield Event((settings, job), "finished", RESULT if job.task else {"scaled": []})


LOOK = {"lags": [0, 3], "norms": [1.0, 0.5], "decay": 0.8, "half_life": 3.0}
RESULT = {
    "hidden": 5, "parameters": 10, "layer_parameters": 8, "seconds": 1.0, "loss": 0.5, "diverged": None,
    "updates": [0], "losses": [0.5], "erased": {},
    "start": LOOK, "trained": LOOK,
}  # fmt: skip


def names(folder):
    return sorted(path.stem for path in (folder / "jobs").iterdir() if path.stem != "costs")


def test_what_is_done_is_not_done_again(compare, tmp_path, capsys):
    assert compare("--contenders", "gru") == 0
    assert names(tmp_path / "out") == ["adding-gru-0", "adding-gru-1"]
    first = capsys.readouterr().out
    assert "2 jobs in" in first
    assert "[2/2] adding, GRU, seed 1: loss 0.5 after 1 s" in first
    assert compare("--contenders", "gru", "rnn", "--seeds", "1") == 0
    second = capsys.readouterr().out
    assert "GRU" not in second  # it was there
    assert names(tmp_path / "out") == ["adding-gru-0", "adding-gru-1", "adding-rnn-0", "scaling-0"]
    loaded = results.load(tmp_path / "out" / "results.json")
    assert [(run.contender, run.seed) for run in loaded.runs] == [("rnn", 0), ("gru", 0)]


def test_other_settings_are_refused(compare, capsys):
    assert compare("--contenders", "gru") == 0
    with pytest.raises(SystemExit, match=r"^2$"):
        compare("--contenders", "gru", "--length", "8")
    assert "holds results of other settings (length: 6 there, 8 here)" in capsys.readouterr().err


def test_an_interrupt_leaves_what_is_done_and_the_next_run_goes_on(compare, tmp_path, monkeypatch, capsys):
    def interrupted(jobs, function, processes):
        for k, event in enumerate(in_this_process(jobs, function, processes)):
            if k == 4:  # the third job has begun
                signal.raise_signal(signal.SIGINT)
            yield event

    monkeypatch.setattr(command, "perform", interrupted)
    assert compare("--contenders", "gru", "lstm") == 130
    output, errors = capsys.readouterr()
    assert output.endswith("Interrupted: 2 of 4 jobs are done; the same command goes on from there\n")
    assert errors == ""
    assert len(names(tmp_path / "out")) == 2
    monkeypatch.setattr(command, "perform", in_this_process)
    assert compare("--contenders", "gru", "lstm") == 0
    assert len(names(tmp_path / "out")) == 4


def test_a_job_that_fails_is_named_and_done_by_the_next_run(compare, tmp_path, monkeypatch, capsys):
    def failing(jobs, function, processes):
        yield Event(jobs[0], "failed", "its process was killed by SIGKILL")
        yield from in_this_process(jobs[1:], function, processes)

    monkeypatch.setattr(command, "perform", failing)
    assert compare("--contenders", "gru") == 1
    assert "FAILED adding, GRU, seed 0: its process was killed by SIGKILL" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["adding-gru-1"]
    assert results.load(tmp_path / "out" / "results.json").failed == [
        "adding, GRU, seed 0: its process was killed by SIGKILL"
    ]
    monkeypatch.setattr(command, "perform", in_this_process)
    assert compare("--contenders", "gru") == 0
    assert names(tmp_path / "out") == ["adding-gru-0", "adding-gru-1"]


FOREIGN = {
    "nothing": {},
    "a part": {"loss": 1},
    "more": RESULT | {"more": 1},
    "no look": RESULT | {"start": None},
    "another look": RESULT | {"trained": {"lags": [0]}},
    "of matrices": {"scaled": [{"seed": 0}]},
    "no list": {"scaled": 1},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_result_is_done_anew(content, compare, tmp_path, capsys):
    assert compare("--contenders", "rnn") == 0
    expected = results.load(tmp_path / "out" / "results.json")
    for name in ("adding-rnn-0", "scaling-1", "costs"):
        (tmp_path / "out" / "jobs" / f"{name}.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert compare("--contenders", "rnn") == 0
    assert "[4/4] " in capsys.readouterr().out
    assert results.load(tmp_path / "out" / "results.json") == expected
    assert json.loads((tmp_path / "out" / "jobs" / "adding-rnn-0.json").read_text()) == RESULT


@pytest.mark.parametrize("when", ["costs", "report"])
def test_an_interrupt_after_the_jobs(when, compare, monkeypatch, capsys):
    function = {"costs": "measure_costs", "report": "write_report"}[when]
    monkeypatch.setattr(command, function, lambda *arguments: signal.raise_signal(signal.SIGINT))
    assert compare("--contenders", "gru") == 130
    output, errors = capsys.readouterr()
    assert output.endswith("Interrupted: 2 of 2 jobs are done; the same command goes on from there\n")
    assert errors == ""


def test_a_second_interrupt_changes_nothing(compare, monkeypatch, capsys):
    def interrupted(settings):
        monkeypatch.setattr(Store, "load", lambda *arguments: (signal.raise_signal(signal.SIGINT), load(*arguments))[1])
        signal.raise_signal(signal.SIGINT)

    load = Store.load
    monkeypatch.setattr(command, "measure_costs", interrupted)
    assert compare("--contenders", "gru") == 130
    output, errors = capsys.readouterr()
    assert output.endswith("Interrupted: 2 of 2 jobs are done; the same command goes on from there\n")
    assert errors == ""


def test_a_report_that_cannot_be_written_is_an_error_in_one_line(compare, monkeypatch, tmp_path, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.md")

    monkeypatch.setattr(command, "write_report", full)
    assert compare("--contenders", "gru") == 1
    reason = f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: 'report.md'"
    assert capsys.readouterr().err == f"The comparison ended, and what is done is kept: {reason}\n"
    assert main(["compare", "--from", str(tmp_path / "out" / "results.json"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"The report could not be written: {reason}\n"


def test_a_report_alone_makes_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "write_report", lambda *arguments: [])
    kept = Path(__file__).resolve().parent.parent / "docs" / "lstm-vs-gru" / "results.json"
    folder = tmp_path / "new" / "folder"
    assert main(["compare", "--from", str(kept), "--out", str(folder)]) == 0
    (found,) = folder.iterdir()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["compare", "--from", str(kept), "--out", str(found)])
    assert f"error: argument --out: {str(found)!r}: File exists" in capsys.readouterr().err


def test_a_full_disk_ends_the_comparison_in_one_line(compare, monkeypatch, capsys):
    def full(store, name, result):
        raise OSError("no space left")

    monkeypatch.setattr(Store, "save", full)
    assert compare("--contenders", "gru") == 1
    assert capsys.readouterr().err == "The comparison ended, and what is done is kept: no space left\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--length", "1"], "argument --length: expected an integer of at least 2, got '1'"),
        (["--length", "1000000"], "argument --length: expected an integer of at most 100000, got '1000000'"),
        (["--delay", "0"], "argument --delay: expected an integer of at least 1, got '0'"),
        (["--parity-length", "no"], "argument --parity-length: expected an integer of at least 2, got 'no'"),
        (["--hidden", "0"], "argument --hidden: expected an integer of at least 1, got '0'"),
        (["--hidden", "5000"], "argument --hidden: expected an integer of at most 4096, got '5000'"),
        (["--hidden", "4096", "--length", "100000"], "--length, --hidden, --batch: "),
        (["--seeds", "0"], "argument --seeds: expected an integer of at least 1, got '0'"),
        (["--processes", "0"], "argument --processes: expected an integer of at least 1, got '0'"),
        (["--updates", "0"], "argument --updates: expected an integer of at least 1, got '0'"),
        (["--learning-rate", "nan"], "argument --learning-rate: expected a number above 0, got 'nan'"),
        (["--tasks", "sorting"], "argument --tasks: invalid choice: 'sorting'"),
        (["--contenders", "qrnn"], "argument --contenders: invalid choice: 'qrnn'"),
        (["--out", "{tmp}/file"], "argument --out: '{tmp}/file': Not a directory"),
        (["--out", "{tmp}/file/more"], "argument --out: '{tmp}/file/more': Not a directory"),
        (["--out", "{tmp}"], "argument --out: '{tmp}': it is neither empty nor a comparison's"),
        (["--docs", "{tmp}/no.md"], "argument --docs: '{tmp}/no.md': No such file or directory"),
        (["--docs", "{tmp}/file"], "argument --docs: '{tmp}/file': it has no block between"),
        (["--from", "{tmp}/no.json", "--out", "{tmp}"], "argument --from: '{tmp}/no.json': No such file"),
        (["--from", "{tmp}/file", "--out", "{tmp}"], "argument --from: expected the results of a comparison"),
        (["--from", "{tmp}/file"], "argument --from: it needs --out, --docs or both"),
        (["--from", "{tmp}/file", "--quick"], "argument --quick: not allowed with --from, which runs nothing"),
        (["--from", "{tmp}/file", "--seeds", "3"], "argument --seeds: not allowed with --from, which runs nothing"),
    ],
)
def test_wrong_arguments_are_refused(options, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "perform", None)  # nothing may be started
    (tmp_path / "file").write_text("something else")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["compare", *(option.format(tmp=tmp_path) for option in options)])
    captured = capsys.readouterr()
    assert f"error: {reason.format(tmp=tmp_path)}" in captured.err
    assert captured.out == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", ["{}", "nonsense", '{"format": 0, "settings": {}}'])
def test_a_folder_of_something_else_is_refused(content, tmp_path, capsys):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["compare", "--out", str(tmp_path)])
    assert f"argument --out: {str(tmp_path)!r}: its " in capsys.readouterr().err
    assert (tmp_path / "settings.json").read_text() == content


@pytest.fixture
def language(monkeypatch):
    """Sets the text, or the exception in its place."""

    def forget():
        learners.language.cache_clear()
        learners.trigram.cache_clear()

    def set_text(value):
        def read():
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(text, "language_reference", read)
        forget()

    yield set_text
    forget()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (ImportError(), "argument --tasks: text: this Python lacks its language reference"),
        ("too short " * 20, "error: batch, steps: 32 texts of 64 steps need 2049 characters, got 194"),
    ],
    ids=["missing", "short"],
)
def test_a_text_that_does_not_do_is_refused(value, reason, language, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "perform", None)
    language(value)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["compare", "--out", str(tmp_path / "out")])
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def command_line(folder, *options):
    sizes = ("--hidden", "5", "--length", "6", "--delay", "2", "--parity-length", "5", "--batch", "3")
    return [sys.executable, "-m", "fastrnn", "compare", "--out", str(folder), "--processes", "2", *sizes, *options]


def test_a_whole_comparison_in_processes_of_its_own(tmp_path):
    """From the command line to the files, with all tasks."""
    options = ("--quick", "--seeds", "1", "--updates", "4", "--contenders", "rnn", "lstm")
    finished = subprocess.run(
        command_line(tmp_path / "out", *options), capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "[9/9] " in finished.stdout
    assert "(e) The LSTM has three inputs" in finished.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results.json", "report.md", "learning.png", "gradients.svg", "eigenvalues.png", "scaling.png"} <= written
    found = results.load(tmp_path / "out" / "results.json")
    assert {(run.task, run.contender) for run in found.runs} == set(itertools.product(TASKS, ("rnn", "lstm")))
    assert found.costs["lstm"].training > 0


@pytest.fixture
def endless(tmp_path):
    """A comparison whose trainings do not end, and the processes that do them."""
    options = ("--tasks", "adding", "--contenders", "gru", "lstm", "--updates", "1000000000")
    with subprocess.Popen(
        command_line(tmp_path / "out", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        yield process, children(process.pid, 2)
        process.kill()


def children(pid, count):
    """The processes that do jobs, once there are so many."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [child for child in map(int, pids()) if parent_of(child) == pid]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{len(found)} of {count} processes")


def pids():
    return (path.name for path in Path("/proc").iterdir() if path.name.isdecimal())


def parent_of(pid):
    """Of a process that multiprocessing has made to do jobs, else None."""
    try:
        made = b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) if made else None
    except OSError:  # it has just ended
        return None


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")


@needs_proc
def test_an_interrupted_comparison_ends_with_its_processes(endless):
    process, workers = endless
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert output.endswith("Interrupted: 0 of 10 jobs are done; the same command goes on from there\n")
    assert [parent_of(worker) for worker in workers] == [None, None]


@needs_proc
def test_a_killed_process_is_reported_and_another_takes_its_place(endless):
    process, workers = endless
    os.kill(workers[0], signal.SIGKILL)
    lines = iter(process.stdout)
    line = next(line for line in lines if line.startswith("FAILED"))
    assert re.fullmatch(r"FAILED adding, (GRU|LSTM, .*), seed 0: its process was killed by SIGKILL\n", line)
    assert workers[1] in children(process.pid, 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
