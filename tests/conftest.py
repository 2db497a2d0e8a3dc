"""What several test files use: layers of every kind, random problems for them, and all that a run computes."""

import os
import signal
from typing import NamedTuple

import numpy as np
import pytest

import fastrnn

# Teams of up to four threads are tested on any machine. Numba reads this when it is first imported: not by now.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(4, os.cpu_count() or 1)))

# A shell has what a script runs in the background ignore Ctrl-C, and some tests wait for it to be heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

KINDS = ("lstm", "lstmp", "gru", "gru_reset_before", "rnn_tanh", "rnn_relu")
DTYPES = ("float32", "float64")


def make_layer(kind, I, H, **options):
    """A layer of that kind; the projected LSTM's P is a third of H."""
    options = {"seed": 0} | options
    if kind.startswith("lstm"):
        return fastrnn.LSTM(I, H, proj_size=-(-H // 3) if kind == "lstmp" else 0, **options)
    if kind.startswith("gru"):
        return fastrnn.GRU(I, H, reset_after=kind == "gru", **options)
    return fastrnn.RNN(I, H, nonlinearity=kind.removeprefix("rnn_"), **options)


class Problem(NamedTuple):
    """Inputs of a run and gradients of its outputs; states as tuples (h,) or (h, c)."""

    x: np.ndarray
    state: tuple
    dy: np.ndarray
    dstate: tuple

    def rows(self, rows):
        """The same for some rows of the batch."""
        x, state, dy, dstate = self
        return Problem(x[:, rows], tuple(s[:, rows] for s in state), dy[:, rows], tuple(d[:, rows] for d in dstate))


def random_problem(layer, T, B, seed=1):
    """Standard normal numbers in every place."""
    rng = np.random.default_rng(seed)
    R, rows = layer.proj_size or layer.hidden_size, layer.num_layers * layer.num_directions
    widths = (R, layer.hidden_size) if isinstance(layer, fastrnn.LSTM) else (R,)

    def normal(*shape):
        return rng.standard_normal(shape).astype(layer.dtype)

    state, dstate = (tuple(normal(rows, B, n) for n in widths) for _ in range(2))
    return Problem(normal(T, B, layer.input_size), state, normal(T, B, layer.num_directions * R), dstate)


def as_state(values):
    return tuple(values) if len(values) == 2 else values[0]


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def outputs(layer, problem, lengths=None):
    """{name: array} of calling the layer."""
    y, state = layer(problem.x, as_state(problem.state), lengths)
    return {"y": y} | dict(zip(("h_n", "c_n"), as_tuple(state), strict=False))


def everything(layer, problem, lengths=None, *, recompute=False):
    """{name: array} of calling the layer, of its vjp, and of all gradients."""
    results = outputs(layer, problem, lengths)
    (y, state), backward = layer.vjp(problem.x, as_state(problem.state), lengths, recompute=recompute)
    # copies: the caller may compare them with later runs, whatever happens to the memory
    results |= {"vjp y": y.copy()} | dict(zip(("vjp h_n", "vjp c_n"), as_tuple(state), strict=False))
    gradients = backward(problem.dy, as_state(problem.dstate))
    results |= {"dx": gradients.x} | dict(zip(("dh_0", "dc_0"), as_tuple(gradients.state), strict=False))
    return results | {f"d{name}": gradient for name, gradient in gradients.parameters.items()}


def judged_by_reference(layer, problem):
    """What the reference computes in float64, from the layer's own numbers."""
    options = {name: getattr(layer, name) for name in layer._options}
    twin = type(layer)(
        layer.input_size, layer.hidden_size, layer.num_layers, dtype="float64", backend="reference", seed=0, **options
    )
    twin.load_state_dict({name: array.astype(np.float64) for name, array in layer.state_dict().items()})
    wide = [
        tuple(np.asarray(a, np.float64) for a in part) if isinstance(part, tuple) else part.astype(np.float64)
        for part in problem
    ]
    return everything(twin, type(problem)(*wide))


def too_far(found, truth, bound):
    """{name: relative norm of the difference} of those beyond the bound; a NaN is beyond it."""
    assert found.keys() == truth.keys()
    errors = {
        name: np.linalg.norm(found[name].astype(np.float64) - right) / max(np.linalg.norm(right), 1e-30)
        for name, right in truth.items()
    }
    return {name: error for name, error in errors.items() if not error <= bound}


def most_blocks(run, hidden, output, batch, device, patches):
    """In the place of `best_plan`: as many blocks as there may be, though fewer would be estimated to be faster."""
    from fastrnn.kernels.cuda.plan import divide, stage_sizes

    sizes = stage_sizes(run, hidden, output)
    return divide(sizes, device.multiprocessors, patches[0]._replace(columns=patches[0].columns // len(sizes)))


def bits(array):
    """The same memory as integers."""
    return array.view(f"u{array.itemsize}")


def assert_same_bits(results, expected):
    assert results.keys() == expected.keys()
    assert [name for name in results if not np.array_equal(bits(results[name]), bits(expected[name]))] == []


@pytest.fixture
def threads():
    """Sets the number of threads; afterwards it is as before."""
    before = fastrnn.get_num_threads()
    yield fastrnn.set_num_threads
    fastrnn.set_num_threads(before)


@pytest.fixture(scope="session")
def keras(tmp_path_factory):
    """Keras, computing with PyTorch."""
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        return pytest.importorskip("keras")
