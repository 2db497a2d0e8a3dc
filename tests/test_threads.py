"""How many threads, and what must hold with many of them: right results, a free interpreter, life after fork.

Run as a program, with the name of one of its functions, it does what cannot be done in the tests' own process.
"""

import contextlib
import copy
import ctypes
import os
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import assert_same_bits, everything, make_layer, outputs, random_problem

import fastrnn
from fastrnn import threads as fastrnn_threads

# T, B, I, H, D that two threads share: by hidden units, by rows of the batch, by directions
SHARED = {"by_units": (9, 2, 130, 129, 1), "by_rows": (9, 16, 40, 60, 1), "by_directions": (9, 3, 70, 90, 2)}


def shared(sharing, kind="gru"):
    """A layer and a problem."""
    T, B, I, H, D = SHARED[sharing]
    layer = make_layer(kind, I, H, bidirectional=D == 2)
    return layer, random_problem(layer, T, B)


def run_program(name, **environment):
    """Run this file as a program; its output. What hangs is an error, in many times what it should take."""
    done = subprocess.run(
        [sys.executable, __file__, name],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# How many


@pytest.mark.parametrize("number", [2.0, "2", None, True, [2]])
def test_the_number_of_threads_must_be_an_integer(number, threads):
    threads(2)
    with pytest.raises(TypeError, match="number: expected an integer, got"):
        fastrnn.set_num_threads(number)
    assert fastrnn.get_num_threads() == 2


def test_processors_that_are_taken_away_are_not_counted(monkeypatch):
    monkeypatch.setattr(fastrnn_threads._pool, "number", None)
    monkeypatch.setattr(fastrnn_threads, "_set_from_outside", lambda: None)
    for number in (2, 1, 2):
        monkeypatch.setattr(fastrnn_threads, "processors", lambda number=number: number)
        assert fastrnn.get_num_threads() == fastrnn_threads.available() == number


@pytest.mark.parametrize("number", [0, -1])
def test_the_number_of_threads_must_be_positive(number, threads):
    threads(2)
    with pytest.raises(ValueError, match=f"number: expected an integer of at least 1, got {number}"):
        fastrnn.set_num_threads(number)
    assert fastrnn.get_num_threads() == 2


def test_the_number_of_threads_may_be_a_numpy_integer(threads):
    threads(np.int64(2))
    assert type(fastrnn.get_num_threads()) is int


def show_number():
    print(fastrnn.get_num_threads())


def test_the_default_is_the_processors_this_process_may_use():
    environment = {name: value for name, value in os.environ.items() if name != "FASTRNN_NUM_THREADS"}
    command = [sys.executable, __file__, "show_number"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert int(done.stdout) == usable


@pytest.mark.parametrize("number", ["1", "100"])
def test_the_environment_sets_the_default(number):
    assert run_program("show_number", FASTRNN_NUM_THREADS=number) == [number]


@pytest.mark.parametrize("value", ["0", "two", ""])
def test_the_environments_number_must_be_positive(value):
    command = [sys.executable, __file__, "show_number"]
    done = subprocess.run(
        command, env=os.environ | {"FASTRNN_NUM_THREADS": value}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "ValueError: FASTRNN_NUM_THREADS: expected a whole number of at least 1, got" in done.stderr


def test_a_wrong_environment_variable_is_told_at_the_first_call_however_small():
    code = "import fastrnn, numpy; fastrnn.RNN(1, 1)(numpy.zeros((1, 1, 1), 'float32'))"
    for command, status, line in (
        (["-c", code], 1, "ValueError: FASTRNN_NUM_THREADS: expected a whole number of at least 1, got 'two'"),
        (
            ["-m", "fastrnn", "warmup"],
            2,
            "error: FASTRNN_NUM_THREADS: expected a whole number of at least 1, got 'two'",
        ),
    ):
        environment = os.environ | {"FASTRNN_NUM_THREADS": "two"}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert done.stderr.splitlines()[-1].endswith(line)


@pytest.fixture
def started(monkeypatch):
    """A list of the numbers of threads that kernels were run on."""
    numbers, run = [], fastrnn_threads.run

    def spy(kernel, block, threads, *args, **kwargs):
        numbers.append(threads)
        run(kernel, block, threads, *args, **kwargs)

    monkeypatch.setattr(fastrnn_threads, "run", spy)
    return numbers


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_forwards_units_are_divided_where_the_weights_nearly_fill_a_cache(kind, threads, monkeypatch):
    """And not backwards; the results are those of one thread."""
    H = 4 * 2 * 16  # four groups of the longest vectors for each of two threads
    layer = make_layer(kind, 40, H)
    kernels = layer.sequences[0].kernels()
    weights = kernels.sharing._bytes
    problem = random_problem(layer, 9, 23)
    threads(1)
    expected = everything(layer, problem)
    threads(2)
    for cache, forward in ((weights / 0.7, True), (weights / 0.5, False)):
        monkeypatch.setattr("fastrnn.sharing.KEPT_BY_A_CORE", cache)
        shares = [kernels.sharing.share(9 * B, B, forward=True)[1] for B in (23, 24, 25)]
        assert shares == [forward, forward, False]
        assert kernels.sharing.share(9 * 23, 23, forward=False) == (2, False)
        assert_same_bits(everything(layer, problem), expected)


@pytest.mark.parametrize("sharing", SHARED)
def test_more_threads_than_numba_has_are_not_used(sharing, threads, started):
    from numba import config

    layer, problem = shared(sharing)
    threads(1)
    expected = everything(layer, problem)
    started.clear()
    threads(1000)
    assert_same_bits(everything(layer, problem), expected)
    assert 2 <= max(started) <= config.NUMBA_NUM_THREADS


def test_numbas_own_number_of_threads_stays_as_it_is(threads):
    import numba

    layer, problem = shared("by_units")
    before = numba.get_num_threads()
    numba.set_num_threads(3)
    threads(2)
    outputs(layer, problem)
    assert numba.get_num_threads() == 3
    numba.set_num_threads(before)


def test_little_work_is_done_by_one_thread(threads, started):
    layer = make_layer("lstm", 3, 4, bidirectional=True)
    threads(2)
    everything(layer, random_problem(layer, 5, 2))
    assert set(started) <= {1}


# A team that does not come together


@pytest.mark.parametrize(
    ("sharing", "alone"),
    [("by_units", [0]), ("by_rows", [0]), ("by_directions", [0]), ("by_directions", [1]), ("by_directions", [0, 1])],
)
def test_a_team_that_was_given_up_leaves_its_work_to_one_thread(sharing, alone, threads, monkeypatch):
    """The first word of a block counts arrivals; negative, it says that someone has stopped waiting."""
    from fastrnn.kernels import compiled

    layer, problem = shared(sharing)
    threads(1)
    expected = everything(layer, problem)
    run_together = compiled.run_together
    given_up = []

    def run_some(kernel, block, block_bytes, teams, team_size):
        for team in alone:
            ctypes.c_int64.from_address(block + team * block_bytes).value = -(2**40)
            given_up.append(team)
        run_together(kernel, block, block_bytes, teams, team_size)
        return 0  # and nothing is learnt from it

    monkeypatch.setattr(compiled, "run_together", run_some)
    threads(2)
    assert_same_bits(everything(layer, problem), expected)
    assert given_up == 3 * alone  # the call, and forward and backward of the vjp


def test_calls_of_several_threads_have_masks_of_their_own():
    layer = fastrnn.GRU(8, 16, 2, dropout=0.5, seed=0)
    x, seen = np.ones((32, 4, 8), np.float32), []

    def call():
        for _ in range(50):
            seen.append(layer.vjp(x, recompute=True)[0][0].tobytes())

    workers = [threading.Thread(target=call) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(seen)) == len(seen) == 200


def few_granted():
    """OpenMP grants one thread of two: the other share never arrives, and waiting for it ends."""
    layer, problem = shared("by_units")
    fastrnn.set_num_threads(1)
    expected = outputs(layer, problem)
    fastrnn.set_num_threads(2)
    from fastrnn.kernels import compiled

    asked, run_together = [], compiled.run_together
    compiled.run_together = lambda *arguments: asked.append(1) or run_together(*arguments)
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(3):
            assert_same_bits(outputs(layer, problem), expected)
    assert len(asked) == 1  # it takes seconds to find out
    assert [w.category for w in caught] == [RuntimeWarning]
    assert "fewer threads than asked for" in str(caught[0].message)
    fastrnn_threads._pool.rests_until = 0
    outputs(layer, problem)
    assert len(asked) == 2
    print(_threading_layer())


def test_a_pool_that_falls_short_rests_longer_each_time_until_it_does_not(threads, monkeypatch):
    from fastrnn.kernels import compiled

    layer, problem = shared("by_units")
    threads(2)
    expected = outputs(layer, problem)
    granted, now, run_together = [], [0.0], compiled.run_together
    monkeypatch.setattr(compiled, "run_together", lambda *arguments: run_together(*arguments) or int(not granted))
    monkeypatch.setattr(fastrnn_threads.time, "monotonic", lambda: now[0])
    pool = fastrnn_threads._Pool()
    pool.compiled, pool.number = compiled, 2
    monkeypatch.setattr(fastrnn_threads, "_pool", pool)

    def rest():
        with pytest.warns(RuntimeWarning, match="fewer threads than asked for"):
            assert_same_bits(outputs(layer, problem), expected)
        pool.fell_short()  # another call of the same time: no second warning, no longer rest
        rest, now[0] = pool.rests_until - now[0], pool.rests_until
        return rest

    assert [rest() for _ in range(7)] == [30, 60, 120, 240, 480, 600, 600]
    granted.append(True)
    outputs(layer, problem)
    granted.clear()
    assert rest() == 30


def test_fewer_threads_than_asked_for_do_the_work():
    assert run_program("few_granted", OMP_THREAD_LIMIT="1") == [_threading_layer()]


def test_a_pool_that_does_not_start_does_not_block_the_calls_after(threads, monkeypatch):
    from fastrnn.kernels import compiled

    layer, problem = shared("by_rows")
    threads(2)
    expected = outputs(layer, problem)

    def fail(*arguments):
        raise ValueError("No threading layer could be loaded.")

    with monkeypatch.context() as patch:
        patch.setattr(fastrnn_threads._pool, "guard", None)  # as before the first call
        patch.setattr(compiled, "run_together", fail)
        patch.setattr("numba.threading_layer", fail)
        for _ in range(2):
            with pytest.raises(ValueError, match="No threading layer"):
                outputs(layer, problem)
            assert not fastrnn_threads._pool.lock.locked()
    assert_same_bits(outputs(layer, problem), expected)


def test_no_interrupt_comes_between_taking_a_lock_and_the_block_that_gives_it_back():
    """Python looks for signals where its functions begin and end: a lock taken in one could stay taken for ever."""
    from fastrnn.kernels.locks import new_lock

    lock, called = new_lock(), []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        with lock:
            taken = lock.locked()
    finally:
        sys.setprofile(None)
    assert taken
    assert not lock.locked()
    assert not called


def _threading_layer():
    import numba

    numba.get_num_threads()  # starts the threads
    return numba.threading_layer()


# Where a team's threads run


def _affinities():
    """Which processors each thread of this process may use."""
    found = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            found[thread] = os.sched_getaffinity(thread)
    return found


needs_affinity = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's way to place threads")


@pytest.fixture
def part_company():
    """`kernels.affinity.part_company` from Python; it returns the team's word afterwards."""
    from fastrnn.kernels import affinity
    from numba import njit

    from fastrnn.memory import address

    @njit
    def call(taken):
        affinity.part_company(taken)

    def run(before):
        word = np.array([before], np.int64)
        call(address(word))
        return int(word[0])

    return run


@needs_affinity
def test_a_thread_leaves_the_processor_of_another(part_company):
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1 or max(allowed) > 63:
        pytest.skip("needs a choice of processors")
    for free in allowed:
        assert part_company(~(1 << free)) == -1, "it did not come to the only free one"
        assert os.sched_getaffinity(0) == allowed


@needs_affinity
def test_a_thread_stays_where_it_is_alone_or_has_nowhere_to_go(part_company):
    allowed = os.sched_getaffinity(0)
    word = part_company(0)
    assert bin(word % 2**64).count("1") == 1
    assert part_company(-1) == -1
    assert os.sched_getaffinity(0) == allowed


@needs_affinity
def test_threads_may_use_the_same_processors_after_a_call(threads):
    layer, problem = shared("by_rows")
    threads(2)
    outputs(layer, problem)
    before = _affinities()
    for _ in range(50):
        outputs(layer, problem)
    after = _affinities()
    assert {thread: after.get(thread, allowed) for thread, allowed in before.items()} == before


@needs_affinity
def test_threads_of_two_teams_run_apart(threads):
    """Two directions, one thread each: they look at the same word, the first team's."""
    from fastrnn.kernels import block as b

    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a choice of processors")
    layer = make_layer("gru", 64, 64, bidirectional=True)
    problem = random_problem(layer, 50, 8)
    threads(2)
    for _ in range(20):
        outputs(layer, problem)
        plans = layer.sequences[0].kernels()._planner._plans.values()
        (plan,) = [plan for plan in plans if plan.workers == 2]
        words = plan._idle[-1].block.reshape(2, -1)[:, b.PROCESSORS]
        assert words[1] == 0
        assert bin(int(words[0]) % 2**64).count("1") == 2


@needs_affinity
def test_a_team_on_one_processor_finishes(threads):
    layer, problem = shared("by_units")
    threads(1)
    expected = everything(layer, problem)
    threads(2)
    outputs(layer, problem)
    before = _affinities()
    try:
        for thread, allowed in before.items():
            os.sched_setaffinity(thread, {min(allowed)})
        assert_same_bits(everything(layer, problem), expected)
    finally:
        for thread in _affinities().keys() & before:
            os.sched_setaffinity(thread, before[thread])


# Many callers


def run_at_once(functions):
    """Run the functions, each in a Python thread, all begun at the same moment; the first error, if any, is raised."""
    barrier, errors = threading.Barrier(len(functions)), []

    def run(function):
        barrier.wait()
        try:
            function()
        except BaseException as error:  # raised again by the main thread
            errors.append(error)

    workers = [threading.Thread(target=run, args=(function,)) for function in functions]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def check_callers(layers_and_problems, repetitions):
    expected = []
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(1)
    for layer, problem in layers_and_problems:
        fresh = type(layer)(layer.input_size, layer.hidden_size, bidirectional=layer.bidirectional)
        fresh.load_state_dict(layer.state_dict())
        expected.append(everything(fresh, problem))
    fastrnn.set_num_threads(before)

    def caller(number):
        def call():
            for _ in range(repetitions):
                assert_same_bits(everything(*layers_and_problems[number]), expected[number])

        return call

    run_at_once([caller(number) for number in range(len(layers_and_problems))])


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("sharing", SHARED)
def test_many_python_threads_may_call_one_layer(sharing, number, threads):
    layer, _ = shared(sharing)
    T, B, *_ = SHARED[sharing]
    threads(number)
    check_callers([(layer, random_problem(layer, T, B, seed=seed)) for seed in range(5)], repetitions=4)


@pytest.mark.parametrize("number", [1, 2])
def test_many_python_threads_may_call_different_layers(number, threads):
    threads(number)
    check_callers([shared(sharing, kind) for sharing in SHARED for kind in ("lstm", "gru")], repetitions=4)


def test_many_python_threads_may_call_one_layer_with_more_sizes_than_it_has_plans_for(threads):
    from fastrnn.planner import _MOST_PLANS

    threads(1)
    layer = fastrnn.RNN(3, 4)
    x = np.random.default_rng(0).standard_normal((2, 3 * _MOST_PLANS, 3)).astype(np.float32)
    expected, _ = layer(x)

    def caller(seed):
        def call():
            for batch in np.random.default_rng(seed).integers(1, x.shape[1] + 1, 300):
                np.testing.assert_array_equal(layer(x[:, :batch])[0], expected[:, :batch])

        return call

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        run_at_once([caller(seed) for seed in range(6)])
    finally:
        sys.setswitchinterval(before)


def test_large_plans_are_kept_only_as_memory_allows(threads, monkeypatch):
    from fastrnn import planner

    threads(1)
    monkeypatch.setattr(planner, "_MOST_BYTES", 1 << 20)
    layer = fastrnn.LSTM(3, 40)
    for batch in (1, 400, 500, 600, 700, 5000, 2, 3):
        x = np.ones((2, batch, 3), np.float32)
        (y, _), backward = layer.vjp(x)
        assert_same_bits({"y": y}, {"y": np.repeat(layer(x[:, :1])[0], batch, axis=1)})
        backward(y)
        there = layer.sequences[0].kernels()._planner._plans.values()
        assert len(there) <= 2 or sum(plan.work_bytes for plan in there) <= 1 << 20
    assert len(there) > 2


def test_both_plans_of_a_training_loop_are_kept_whatever_they_take(threads, monkeypatch):
    from fastrnn import planner

    threads(1)
    monkeypatch.setattr(planner, "_MOST_BYTES", 1)
    layer, x = fastrnn.LSTM(3, 40), np.ones((2, 5, 3), np.float32)
    seen = []
    for _ in range(3):
        (y, _), backward = layer.vjp(x)
        backward(y)
        seen.append([*layer.sequences[0].kernels()._planner._plans.values()])
    assert [len(plans) for plans in seen] == [2, 2, 2]
    assert seen[0] == seen[1] == seen[2]


def test_a_size_in_use_keeps_its_plan_while_others_come_and_go(threads):
    from fastrnn.passes import FORWARD_KIND
    from fastrnn.planner import _MOST_PLANS

    threads(1)
    layer = fastrnn.RNN(3, 4)
    kernels = layer.sequences[0].kernels()
    plan = kernels.plan(FORWARD_KIND, 1, 1, False)
    for batch in range(2, 4 * _MOST_PLANS):
        layer(np.zeros((2, batch, 3), np.float32))
        layer(np.zeros((2, 1, 3), np.float32))
    assert kernels.plan(FORWARD_KIND, 1, 1, False) is plan
    assert len(kernels._planner._plans) == _MOST_PLANS


def test_calls_do_not_wait_for_each_other_to_look_at_large_weights(threads, monkeypatch):
    """Large enough for all threads to take the checksums."""
    threads(1)
    layer = fastrnn.RNN(8, 800)
    x = np.ones((2, 3, 8), np.float32)
    expected, _ = layer(x)

    class Forbidden:
        def __enter__(self):
            raise AssertionError("the lock was taken")

        def __exit__(self, *exception):
            pass

    weights = layer.sequences[0].kernels().weights
    assert weights._known.source.watched.together
    monkeypatch.setattr(weights, "_lock", Forbidden())
    np.testing.assert_array_equal(layer(x)[0], expected)
    layer.parameters["weight_hh_l0"][0, 0] += 1
    with pytest.raises(AssertionError, match="the lock was taken"):
        layer(x)


def test_each_of_many_callers_may_bring_weights_of_its_own(threads):
    """While others make the layer look at theirs, or at its own parameters."""
    threads(1)
    layer, problem = shared("by_rows")
    kernels, own = layer.sequences[0].kernels(), layer.sequences[0].parameters.directions
    sources = [None, *({name: scale * array for name, array in own[0].items()} for scale in (0.5, -1, 2))]
    sources = [None if source is None else [source] for source in sources]

    def run(source):
        y, states_n, saved = kernels.forward(problem.x, problem.state, True, None, source)
        dx, _, _ = kernels.backward(saved, problem.dy, problem.dstate, source)
        return {"y": y, "state": states_n[0], "dx": dx}

    expected = [run(source) for source in sources]
    assert len({results["y"].tobytes() for results in expected}) == len(sources)

    def caller(number):
        def call():
            for _ in range(20):
                assert_same_bits(run(sources[number]), expected[number])

        return call

    run_at_once([caller(number) for number in range(len(sources))] * 2)


def test_a_running_call_keeps_the_weights_it_began_with(threads, monkeypatch):
    """Between packing and the time loop, another call finds changed weights and packs them."""
    from fastrnn.kernels import compiled

    layer, problem = shared("by_rows")
    threads(2)
    expected = outputs(layer, problem)
    loop, run = compiled.kernel("loop forward"), fastrnn_threads.run
    others = []

    def interrupted(kernel, *args, **kwargs):
        if kernel == loop and not others:
            others.append(None)
            for parameter in layer.parameters.values():
                parameter *= 2
            others.append(outputs(layer, problem))
        run(kernel, *args, **kwargs)

    monkeypatch.setattr(fastrnn_threads, "run", interrupted)
    assert_same_bits(outputs(layer, problem), expected)
    assert not np.array_equal(others[1]["y"], expected["y"])
    assert_same_bits(outputs(layer, problem), others[1])


def first_calls():
    """The first calls of a process, from several threads at once: everything is imported and loaded in them."""
    fastrnn.set_num_threads(2)
    work = [shared(sharing, kind) for sharing in SHARED for kind in ("lstm", "gru")]
    results = {}

    def caller(number):
        def call():
            for repetition in range(5):
                results[number, repetition] = everything(*work[number])

        return call

    run_at_once([caller(number) for number in range(len(work))])
    fastrnn.set_num_threads(1)
    for number, (layer, problem) in enumerate(work):
        expected = everything(layer, problem)
        for repetition in range(5):
            assert_same_bits(results[number, repetition], expected)
    print(_threading_layer())


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_the_first_calls_may_come_from_many_threads_at_once(layer):
    if layer == "omp":
        pytest.importorskip("numba.np.ufunc.omppool", reason="this Numba has no OpenMP")
    assert run_program("first_calls", NUMBA_THREADING_LAYER=layer) == [layer]


def test_the_interpreter_is_free_while_a_kernel_runs(threads, monkeypatch):
    """Another Python thread counts meanwhile. None is made to give way, the interval is endless: the kernel must."""
    from fastrnn.kernels import compiled

    layer = make_layer("lstm", 256, 256)
    problem = random_problem(layer, 200, 8)
    threads(1)
    outputs(layer, problem)
    counter, advances, stop = [0], [], threading.Event()

    def count():
        while not stop.is_set():
            counter[0] += 1
            time.sleep(0)

    run = compiled.run_record

    def watched(record):
        before = counter[0]
        done = run(record)
        advances.append(counter[0] - before)
        return done

    monkeypatch.setattr(compiled, "run_record", watched)
    interval = sys.getswitchinterval()
    other = threading.Thread(target=count)
    sys.setswitchinterval(1000)
    try:
        other.start()
        for _ in range(50):  # on a busy machine the other thread may not get a processor at once
            outputs(layer, problem)
            if max(advances) > 0:
                break
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(interval)
    assert max(advances) > 0


# After fork


def test_a_process_forked_while_another_thread_compiles_can_compile():
    """Numba has one lock for that."""
    import fastrnn.kernels.compiled  # noqa: F401  which sees to it
    from numba.core.compiler_lock import global_compiler_lock

    taken = threading.Event()

    def compile_for_a_while():
        with global_compiler_lock:
            taken.set()
            time.sleep(0.3)

    other = threading.Thread(target=compile_for_a_while)
    other.start()
    taken.wait()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if global_compiler_lock._lock.acquire(blocking=False) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    other.join()
    with global_compiler_lock:
        pass


def fork_and_check(depth, started, parents_used):
    """Compute in a child process, `depth` generations down; each must exit well."""
    layer, problem = shared("by_units")
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"child at depth {depth} ended with status {status}"
        return
    # os._exit: what the parent has buffered must not be written twice
    try:
        started.clear()
        fastrnn.set_num_threads(1)
        expected = everything(layer, problem)
        fastrnn.set_num_threads(2)
        assert_same_bits(everything(layer, problem), expected)
        assert not parents_used or set(started) <= {1}, started
        if depth > 1:
            fork_and_check(depth - 1, started, parents_used)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _fork(use, parents_used=None):
    """After such use: by this package of so many threads, or by others if `parents_used` says so."""
    started, run = [], fastrnn_threads.run

    def spy(kernel, block, threads, *args, **kwargs):
        started.append(threads)
        run(kernel, block, threads, *args, **kwargs)

    fastrnn_threads.run = spy
    layer, problem = shared("by_units")
    if use:
        fastrnn.set_num_threads(use)
        expected = everything(layer, problem)
        assert max(started, default=1) == use
    fork_and_check(2, started, parents_used=use == 2 if parents_used is None else parents_used)
    if use:
        assert_same_bits(everything(layer, problem), expected)
        assert max(started, default=1) == use
    print("done")


def fork_after_two_threads():
    _fork(2)


def fork_after_one_thread():
    _fork(1)


def fork_before_any_call():
    _fork(0)


def fork_after_another_use_of_numbas_threads():
    from numba import njit, prange

    @njit(parallel=True)
    def total(n):
        result = 0
        for i in prange(n):
            result += i
        return result

    total(10)
    _fork(0, parents_used=True)


def fork_after_another_packages_openmp():
    """Numba's own pool has not been started, but shares the runtime with PyTorch's."""
    import torch

    torch.set_num_threads(2)
    assert (torch.ones(3_000_000) * 2).sum() > 0
    _fork(0, parents_used=True)


def _in_child(queue):
    layer, problem = shared("by_units")
    queue.put(outputs(layer, problem)["y"])


def multiprocessing_fork():
    import multiprocessing

    fastrnn.set_num_threads(2)
    layer, problem = shared("by_units")
    expected = outputs(layer, problem)["y"]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_in_child, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        assert_same_bits({"y": queue.get()}, {"y": expected})
    for child in children:
        child.join()
        assert child.exitcode == 0
    print("done")


def fork_while_another_thread_packs():
    """A lock that was held at the fork, by a thread that the child does not have, must not stop the child."""
    from fastrnn.kernels import compiled

    layer, problem = shared("by_rows")
    expected = outputs(layer, problem)["y"]
    kernels = [sequence.kernels() for sequence in layer.sequences]
    with contextlib.ExitStack() as held:
        held.enter_context(compiled._lock)
        for each in kernels:
            held.enter_context(each.weights._lock)
            held.enter_context(each._planner._lock)
        child = os.fork()
        if child == 0:
            compiled.kernel("sums 2 float32")
            for each in kernels:  # all that the locks are for
                each._planner._plans.clear()
                each.weights._known = each.weights._known._replace(packed={})
            os._exit(0 if np.array_equal(outputs(layer, problem)["y"], expected) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    print("done")


def fork_while_another_thread_starts_the_pool():
    from numba.np.ufunc import parallel

    layer, problem = shared("by_units")
    fastrnn.set_num_threads(1)
    expected = outputs(layer, problem)  # the first call of the process is over
    fastrnn.set_num_threads(2)
    starting, go_on, launch = threading.Event(), threading.Event(), parallel._launch_threads

    def slow():
        starting.set()
        go_on.wait()
        launch()

    parallel._launch_threads = slow
    other = threading.Thread(target=outputs, args=(layer, problem))
    other.start()
    starting.wait()
    child = os.fork()
    if child == 0:
        assert_same_bits(outputs(layer, problem), expected)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    go_on.set()
    other.join()
    print("done")


def fork_while_another_thread_draws_dropout():
    layer = fastrnn.LSTM(3, 4, 2, dropout=0.5, seed=0)
    x = np.ones((3, 2, 3), np.float32)
    for each in (layer, copy.deepcopy(layer)):
        fastrnn.set_num_threads(1)
        taken, done = threading.Event(), threading.Event()

        def hold(lock=each._generator.bit_generator.lock, taken=taken, done=done):
            with lock:
                taken.set()
                done.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait()
        child = os.fork()
        if child == 0:
            each(x)
            each.vjp(x, recompute=True)
            os._exit(0)
        done.set()
        holder.join()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    print("done")


FORKS = [
    "fork_while_another_thread_draws_dropout",
    "fork_while_another_thread_packs",
    "fork_after_two_threads",
    "fork_after_one_thread",
    "fork_before_any_call",
    "fork_while_another_thread_starts_the_pool",
    "fork_after_another_use_of_numbas_threads",
    "fork_after_another_packages_openmp",
    "multiprocessing_fork",
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("program", "layer"), [*((program, "default") for program in FORKS), ("fork_after_two_threads", "workqueue")]
)
def test_forked_processes_compute(program, layer):
    if program == "fork_after_another_packages_openmp":
        pytest.importorskip("torch")
    assert run_program(program, NUMBA_THREADING_LAYER=layer) == ["done"]


if __name__ == "__main__":
    globals()[sys.argv[1]]()
