"""Every wrong argument is refused with an error that names it, what was expected and what came; nothing changes."""

import io
import pickle
import re
import zipfile
from functools import partial

import numpy as np
import pytest

import fastrnn

BACKENDS = ["reference", "cpu"]
T, B, I, H = 6, 4, 3, 5


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


# Constructors

CONSTRUCTOR_ERRORS = {
    "input_size zero": ({"input_size": 0}, ValueError, "input_size: expected an integer of at least 1, got 0"),
    "input_size bool": ({"input_size": True}, TypeError, "input_size: expected an integer, got True (bool)"),
    "hidden_size negative": ({"hidden_size": -1}, ValueError, "hidden_size: expected an integer of at least 1, got -1"),
    "hidden_size float": ({"hidden_size": 5.0}, TypeError, "hidden_size: expected an integer, got 5.0 (float)"),
    "dropout endless": ({"dropout": 10**400}, ValueError, "dropout: expected a number from 0 to 1, got 1000000"),
    "hidden_size endless": ({"hidden_size": 10**10}, MemoryError, "hidden_size = 10000000000, num_layers = 1: "),
    "hidden_size huge": ({"hidden_size": 10**7}, MemoryError, "parameters do not fit into memory: Unable to allocate"),
    "num_layers endless": ({"num_layers": 10**9}, MemoryError, "num_layers = 1000000000: "),
    "num_layers zero": ({"num_layers": 0}, ValueError, "num_layers: expected an integer of at least 1, got 0"),
    "num_layers text": ({"num_layers": "2"}, TypeError, "num_layers: expected an integer, got '2' (str)"),
    "bias text": ({"bias": "relu"}, TypeError, "bias: expected True or False, got 'relu' (str)"),
    "batch_first int": ({"batch_first": 1}, TypeError, "batch_first: expected True or False, got 1 (int)"),
    "bidirectional None": ({"bidirectional": None}, TypeError, "bidirectional: expected True or False, got None"),
    "dropout above 1": ({"dropout": 1.5}, ValueError, "dropout: expected a number from 0 to 1, got 1.5"),
    "dropout negative": ({"dropout": -0.1}, ValueError, "dropout: expected a number from 0 to 1, got -0.1"),
    "dropout nan": ({"dropout": float("nan")}, ValueError, "dropout: expected a number from 0 to 1, got nan"),
    "dropout bool": ({"dropout": True}, TypeError, "dropout: expected a number from 0 to 1, got True (bool)"),
    "dropout text": ({"dropout": "0.5"}, TypeError, "dropout: expected a number from 0 to 1, got '0.5' (str)"),
    "device cuda:0": ({"device": "cuda:0"}, ValueError, 'device: expected "cpu" or "cuda", got "cuda:0"'),
    "device unknown": ({"device": "tpu"}, ValueError, 'device: expected "cpu" or "cuda", got "tpu"'),
    "device None": ({"device": None}, TypeError, 'device: expected "cpu" or "cuda", got None (NoneType)'),
    "dtype int": ({"dtype": "int32"}, TypeError, 'dtype: expected "float32" or "float64", got \'int32\' (str)'),
    "dtype half": ({"dtype": np.float16}, TypeError, 'dtype: expected "float32" or "float64", got <class'),
    "dtype swapped": ({"dtype": ">f4"}, TypeError, 'dtype: expected "float32" or "float64", got \'>f4\' (str)'),
    "dtype unknown": ({"dtype": "real"}, TypeError, 'dtype: expected "float32" or "float64", got \'real\' (str)'),
    "dtype None": ({"dtype": None}, TypeError, 'dtype: expected "float32" or "float64", got None (NoneType)'),
    "seed negative": ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
    "seed float": ({"seed": 1.0}, TypeError, "seed: expected an integer, got 1.0 (float)"),
    "backend unknown": ({"backend": "numpy"}, ValueError, 'backend: expected "cpu" or "reference", got "numpy"'),
    "backend bool": ({"backend": False}, TypeError, 'backend: expected "cpu" or "reference", got False (bool)'),
    "unknown keyword": ({"hiden_size": 5}, TypeError, "unexpected keyword argument 'hiden_size'"),
}


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
@pytest.mark.parametrize("wrong", CONSTRUCTOR_ERRORS)
def test_constructors_refuse(kind, wrong):
    options, error, message = CONSTRUCTOR_ERRORS[wrong]
    with pytest.raises(error, match=re.escape(message)):
        kind(**({"input_size": I, "hidden_size": H} | options))


CELL_ERRORS = {
    "proj_size too large": (fastrnn.LSTM, {"proj_size": 5}, ValueError, "proj_size: expected less than hidden_size"),
    "proj_size negative": (fastrnn.LSTM, {"proj_size": -1}, ValueError, "proj_size: expected an integer of at least 0"),
    "proj_size bool": (fastrnn.LSTM, {"proj_size": False}, TypeError, "proj_size: expected an integer, got False"),
    "forget_bias text": (
        fastrnn.LSTM,
        {"forget_bias": "1"},
        TypeError,
        "forget_bias: expected a finite number, got '1'",
    ),
    "forget_bias bool": (
        fastrnn.LSTM,
        {"forget_bias": True},
        TypeError,
        "forget_bias: expected a finite number, got T",
    ),
    "forget_bias nan": (fastrnn.LSTM, {"forget_bias": float("nan")}, ValueError, "expected a number that is finite in"),
    "forget_bias large": (fastrnn.LSTM, {"forget_bias": 1e39}, ValueError, "that is finite in float32, got 1e+39"),
    "forget_bias without": (
        fastrnn.LSTM,
        {"forget_bias": 1.0, "bias": False},
        ValueError,
        "forget_bias: expected None",
    ),
    "gru has no forget_bias": (fastrnn.GRU, {"forget_bias": 1.0}, TypeError, "unexpected keyword argument"),
    "gru has no proj_size": (fastrnn.GRU, {"proj_size": 0}, TypeError, "unexpected keyword argument 'proj_size'"),
    "rnn has no proj_size": (fastrnn.RNN, {"proj_size": 0}, TypeError, "unexpected keyword argument 'proj_size'"),
    "lstm has no reset_after": (fastrnn.LSTM, {"reset_after": True}, TypeError, "unexpected keyword argument"),
    "reset_after int": (fastrnn.GRU, {"reset_after": 1}, TypeError, "reset_after: expected True or False, got 1"),
    "nonlinearity": (fastrnn.RNN, {"nonlinearity": "elu"}, ValueError, 'nonlinearity: expected "tanh" or "relu", got'),
    "nonlinearity type": (fastrnn.RNN, {"nonlinearity": np.tanh}, TypeError, 'nonlinearity: expected "tanh" or "relu"'),
}


@pytest.mark.parametrize("wrong", CELL_ERRORS)
def test_constructors_refuse_for_their_cell(wrong):
    kind, options, error, message = CELL_ERRORS[wrong]
    with pytest.raises(error, match=re.escape(message)):
        kind(I, H, **options)


# Calls


@pytest.fixture(params=BACKENDS)
def make(request):
    """A function that makes two layers with dropout, so that a changed generator would show."""
    return lambda kind, **options: kind(I, H, 2, dropout=0.5, seed=0, backend=request.param, **options)


X = zeros(T, B, I)
X_ERRORS = {
    "list": (X.tolist(), TypeError, "x: expected a NumPy array, got list"),
    "None": (None, TypeError, "x: expected a NumPy array, got NoneType"),
    "scalar": (np.float32(1), TypeError, "x: expected a NumPy array, got float32"),
    "masked": (np.ma.masked_equal(X, 1), TypeError, "x: expected a NumPy array without a mask, got MaskedArray"),
    "float64": (X.astype("float64"), TypeError, "x: expected float32, got float64"),
    "float16": (X.astype("float16"), TypeError, "x: expected float32, got float16"),
    "int64": (X.astype("int64"), TypeError, "x: expected float32, got int64"),
    "bool": (X.astype("bool"), TypeError, "x: expected float32, got bool"),
    "complex": (X.astype("complex64"), TypeError, "x: expected float32, got complex64"),
    "object": (X.astype("object"), TypeError, "x: expected float32, got object"),
    "byte-swapped": (X.astype(">f4"), TypeError, "x: expected float32, got >f4"),
    "one dimension": (zeros(I), ValueError, "x: expected 3 dimensions (T, B, I), or 2 (T, I), got shape (3,)"),
    "four dimensions": (zeros(1, T, B, I), ValueError, "x: expected 3 dimensions (T, B, I), or 2 (T, I), got shape"),
    "too wide": (zeros(T, B, I + 1), ValueError, "x: expected the last dimension to be input_size = 3, got shape"),
    "no features": (zeros(T, B, 0), ValueError, "x: expected the last dimension to be input_size = 3, got shape"),
}


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
@pytest.mark.parametrize("wrong", X_ERRORS)
def test_layers_refuse_x(make, kind, wrong):
    x, error, message = X_ERRORS[wrong]
    _assert_refused(make(kind), lambda layer: layer(x), error, message, x)
    _assert_refused(make(kind), lambda layer: layer.vjp(x), error, message, x)


def test_batch_first_layers_name_their_layout(make):
    layer = make(fastrnn.LSTM, batch_first=True)
    _assert_refused(layer, lambda layer: layer(zeros(I)), ValueError, "x: expected 3 dimensions (B, T, I), or 2 (T, I)")


STATE = zeros(2, B, H)
H_ERRORS = {
    "list": (STATE.tolist(), TypeError, "{}: expected a NumPy array, got list"),
    "float64": (STATE.astype("float64"), TypeError, "{}: expected float32, got float64"),
    "int32": (STATE.astype("int32"), TypeError, "{}: expected float32, got int32"),
    "unbatched": (zeros(2, H), ValueError, "{}: expected shape (2, 4, 5), got (2, 5)"),
    "one layer": (zeros(1, B, H), ValueError, "{}: expected shape (2, 4, 5), got (1, 4, 5)"),
    "batch": (zeros(2, 1, H), ValueError, "{}: expected shape (2, 4, 5), got (2, 1, 5)"),
    "width": (zeros(2, B, H + 1), ValueError, "{}: expected shape (2, 4, 5), got (2, 4, 6)"),
    "batch first": (zeros(B, 2, H), ValueError, "{}: expected shape (2, 4, 5), got (4, 2, 5)"),
}


@pytest.mark.parametrize("kind", [fastrnn.GRU, fastrnn.RNN])
@pytest.mark.parametrize("wrong", H_ERRORS)
def test_layers_refuse_the_state_and_its_gradient(make, kind, wrong):
    value, error, message = H_ERRORS[wrong]
    _assert_refused(make(kind), lambda layer: layer(X, value), error, message.format("h_0"), X, value)
    _assert_backward_refused(make(kind), (None, value), error, message.format("dh_n"))


@pytest.mark.parametrize("kind", [fastrnn.GRU, fastrnn.RNN])
def test_layers_with_one_state_refuse_a_tuple(make, kind):
    message = "{}: expected a NumPy array, got tuple"
    _assert_refused(make(kind), lambda layer: layer(X, (STATE,)), TypeError, message.format("h_0"))
    _assert_backward_refused(make(kind), (None, (STATE, STATE)), TypeError, message.format("dh_n"))


@pytest.mark.parametrize("wrong", H_ERRORS)
def test_lstm_refuses_either_part_of_the_state_and_its_gradient(make, wrong):
    value, error, message = H_ERRORS[wrong]
    for parts, name in [((value, STATE), "h"), ((STATE, value), "c")]:
        _assert_refused(make(fastrnn.LSTM), partial(_call, state=parts), error, message.format(f"{name}_0"), parts)
        _assert_backward_refused(make(fastrnn.LSTM), (None, parts), error, message.format(f"d{name}_n"))


LSTM_STATE_ERRORS = {
    "array": (STATE, TypeError, "{}: expected a tuple ({}), got ndarray"),
    "dict": ({"h": STATE, "c": STATE}, TypeError, "{}: expected a tuple ({}), got dict"),
    "one": ((STATE,), ValueError, "{}: expected a tuple ({}), got 1 entries"),
    "three": ((STATE, STATE, STATE), ValueError, "{}: expected a tuple ({}), got 3 entries"),
}


@pytest.mark.parametrize("wrong", LSTM_STATE_ERRORS)
def test_lstm_refuses_what_is_not_a_pair(make, wrong):
    value, error, message = LSTM_STATE_ERRORS[wrong]
    _assert_refused(make(fastrnn.LSTM), lambda layer: layer(X, value), error, message.format("state", "h_0, c_0"))
    _assert_backward_refused(make(fastrnn.LSTM), (None, value), error, message.format("dstate", "dh_n, dc_n"))


def test_lstm_refuses_half_an_initial_state(make):
    layer = make(fastrnn.LSTM)
    message = "{}: expected a NumPy array, got NoneType"
    _assert_refused(layer, lambda layer: layer(X, (None, STATE)), TypeError, message.format("h_0"))
    _assert_refused(layer, lambda layer: layer(X, (STATE, None)), TypeError, message.format("c_0"))


def test_projected_lstm_tells_its_two_widths_apart(make):
    layer, h, c = make(fastrnn.LSTM, proj_size=2), zeros(2, B, 2), zeros(2, B, H)
    layer(X, (h, c))
    _assert_refused(layer, lambda layer: layer(X, (c, c)), ValueError, "h_0: expected shape (2, 4, 2), got (2, 4, 5)")
    _assert_refused(layer, lambda layer: layer(X, (h, h)), ValueError, "c_0: expected shape (2, 4, 5), got (2, 4, 2)")


@pytest.mark.parametrize("kind", [fastrnn.GRU, fastrnn.RNN])
def test_without_batch_dimension_the_state_must_have_none_either(make, kind):
    message = "h_0: expected shape (2, 5), got (2, 1, 5)"
    _assert_refused(make(kind), lambda layer: layer(zeros(T, I), zeros(2, 1, H)), ValueError, message)


DY_ERRORS = {
    "list": (zeros(T, B, H).tolist(), TypeError, "dy: expected a NumPy array, got list"),
    "float64": (zeros(T, B, H, dtype="float64"), TypeError, "dy: expected float32, got float64"),
    "steps": (zeros(T + 1, B, H), ValueError, "dy: expected shape (6, 4, 5), got (7, 4, 5)"),
    "batch first": (zeros(B, T, H), ValueError, "dy: expected shape (6, 4, 5), got (4, 6, 5)"),
    "unbatched": (zeros(T, H), ValueError, "dy: expected shape (6, 4, 5), got (6, 5)"),
}


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
@pytest.mark.parametrize("wrong", DY_ERRORS)
def test_backward_refuses_dy(make, kind, wrong):
    dy, error, message = DY_ERRORS[wrong]
    _assert_backward_refused(make(kind), (dy,), error, message)


def test_backward_names_the_shape_the_caller_sees(make):
    (_, _), backward = make(fastrnn.GRU, batch_first=True).vjp(zeros(B, T, I))
    with pytest.raises(ValueError, match=re.escape("dy: expected shape (4, 6, 5), got (6, 4, 5)")):
        backward(zeros(T, B, H))
    (_, _), backward = make(fastrnn.GRU, batch_first=True).vjp(zeros(T, I))
    with pytest.raises(ValueError, match=re.escape("dy: expected shape (6, 5), got (6, 4, 5)")):
        backward(zeros(T, B, H))


@pytest.mark.parametrize("mode", [1, None, "eval"])
def test_train_refuses_what_is_not_a_flag(make, mode):
    layer = make(fastrnn.RNN)
    _assert_refused(layer, lambda layer: layer.train(mode), TypeError, "mode: expected True or False, got")
    with pytest.raises(TypeError, match="training: expected True or False, got"):
        layer.training = mode
    assert layer.training is True


# Parameters


def _values(layer, **changes):
    """A mapping that would load but for `changes`: {name: array, or None for its absence}."""
    values = {name: np.full_like(array, 7) for name, array in layer.parameters.items()} | changes
    return {name: array for name, array in values.items() if array is not None}


class _Untrue:
    """What says that it has another shape than it has."""

    def __init__(self, shape, array):
        self.shape, self.dtype, self._array = shape, array.dtype, array

    def __array__(self, *_, **__):
        return self._array


class _Arraylike:
    def __array__(self, dtype=None, copy=None):
        return zeros(15)


LOAD_ERRORS = {
    "list": ({"bias_hh_l0": [0.0] * 15}, TypeError, "bias_hh_l0: expected an array, got list"),
    "None inside": ({"bias_hh_l0": "zeros"}, TypeError, "bias_hh_l0: expected an array, got str"),
    "masked": (
        {"bias_hh_l0": np.ma.masked_equal(zeros(15), 1)},
        TypeError,
        "bias_hh_l0: expected an array without a mask, got MaskedArray",
    ),
    "untrue": (
        {"weight_ih_l0": zeros(15, 3) + 1, "bias_hh_l0": _Untrue((15,), zeros(7))},
        ValueError,
        "bias_hh_l0: expected shape (15,), got an array of (7,)",
    ),
    "without dtype": ({"bias_hh_l0": _Arraylike()}, TypeError, "bias_hh_l0: expected an array, got _Arraylike"),
    "scalar": ({"bias_hh_l0": np.float32(0)}, TypeError, "bias_hh_l0: expected an array, got float32"),
    "type": ({"bias_hh_l0": np.float32}, TypeError, "bias_hh_l0: expected an array, got type"),
    "float64": ({"bias_hh_l0": zeros(15, dtype="float64")}, TypeError, "bias_hh_l0: expected float32, got float64"),
    "int64": ({"bias_hh_l0": zeros(15, dtype="int64")}, TypeError, "bias_hh_l0: expected float32, got int64"),
    "shape": ({"bias_hh_l0": zeros(1)}, ValueError, "bias_hh_l0: expected shape (15,), got (1,)"),
    "transposed": ({"weight_ih_l0": zeros(3, 15)}, ValueError, "weight_ih_l0: expected shape (15, 3), got (3, 15)"),
    "missing": ({"bias_hh_l0": None}, ValueError, "bias_hh_l0: missing"),
    "surplus": ({"weight_hr_l0": zeros(2, 5)}, ValueError, "weight_hr_l0: no such parameter"),
    "several": (
        {"bias_ih_l0": None, "bias": zeros(2), "bias_hh_l1": zeros(2), "weight_hh_l1": zeros(15, 5, dtype="float64")},
        ValueError,
        "bias_ih_l0: missing; bias_hh_l1: expected shape (15,), got (2,); bias: no such parameter; "
        "weight_hh_l1: expected float32, got float64",
    ),
}


@pytest.mark.parametrize("wrong", LOAD_ERRORS)
def test_load_state_dict_refuses_and_loads_nothing(make, wrong):
    changes, error, message = LOAD_ERRORS[wrong]
    layer = make(fastrnn.GRU)
    values = _values(layer, **changes)
    _assert_refused(layer, lambda layer: layer.load_state_dict(values), error, message, values)


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("to_meta", "torch.strided on meta"),
        ("to_sparse", "torch.sparse_coo on cpu"),
        ("to_sparse_csr", "torch.sparse_csr on cpu"),
    ],
)
def test_load_state_dict_refuses_tensors_without_memory_of_their_own(make, how, shown):
    torch = pytest.importorskip("torch")
    layer, tensor = make(fastrnn.GRU), torch.zeros(15, 5)
    values = _values(layer, weight_hh_l0=tensor.to("meta") if how == "to_meta" else getattr(tensor, how)())
    message = f"weight_hh_l0: expected a dense tensor with values, got {shown}"
    _assert_refused(layer, lambda layer: layer.load_state_dict(values), TypeError, message)


def test_load_state_dict_writes_to_no_parameter_if_one_was_made_read_only(make):
    layer = make(fastrnn.GRU)
    values = {name: array + 1 for name, array in layer.state_dict().items()}
    layer.parameters["weight_hh_l1"].setflags(write=False)
    message = "weight_hh_l1: expected to be written to, got an array made read-only"
    _assert_refused(layer, lambda layer: layer.load_state_dict(values), ValueError, message)


def test_load_state_dict_refuses_what_is_not_a_mapping(make):
    layer = make(fastrnn.GRU)
    pairs = list(_values(layer).items())
    message = "mapping: expected a mapping of names to arrays, got list"
    _assert_refused(layer, lambda layer: layer.load_state_dict(pairs), TypeError, message)


# Files


@pytest.fixture
def path(tmp_path):
    return tmp_path / "layer.npz"


def test_load_refuses_another_class(path):
    fastrnn.GRU(I, H).save(path)
    with pytest.raises(ValueError, match="path: expected a file with class LSTM, got one with GRU"):
        fastrnn.LSTM.load(path)


@pytest.mark.parametrize("use", [fastrnn.LSTM.load, fastrnn.LSTM(I, H).save, fastrnn.load_safetensors])
def test_no_file_has_a_null_character_in_its_name(use):
    with pytest.raises(ValueError, match=r"path: expected a name without null characters, got 'a\\x00b'"):
        use("a\0b")


def _write_text(path):
    path.write_text("not a layer")


def _write_nothing(path):
    path.write_bytes(b"")


def _write_npy(path):
    with open(path, "wb") as file:
        np.save(file, zeros(3))


def _write_npz(path):
    np.savez(path, weight_ih_l0=zeros(3))


def _write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({}))


def _write_half(path):
    fastrnn.GRU(I, H).save(path)
    path.write_bytes(path.read_bytes()[:-100])


def _write_damaged(path):
    layer = fastrnn.GRU(I, H)
    layer.save(path)
    weights = layer.parameters["weight_hh_l0"].tobytes()
    path.write_bytes(path.read_bytes().replace(weights, weights[::-1]))


def _write_broken_stream(path):
    arrays = {name: np.zeros(1000) for name in ("fastrnn", "a")}
    np.savez_compressed(path, **arrays)
    data = bytearray(path.read_bytes())
    start = data.index(b"fastrnn.npy") + 40  # within what is compressed
    data[start : start + 8] = bytes(8)
    path.write_bytes(data)


def _write_what_asks_for_any_memory(path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 60, 4)})
    np.savez(path, fastrnn=np.array("{}"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", header.getvalue())


WRITERS = [
    _write_what_asks_for_any_memory,
    _write_broken_stream,
    _write_text,
    _write_nothing,
    _write_npy,
    _write_npz,
    _write_zip,
    _write_half,
    _write_damaged,
]


@pytest.mark.parametrize("write", WRITERS)
def test_load_refuses_other_files(path, write):
    write(path)
    with pytest.raises(ValueError, match=r"path: expected a file written by save, got .*layer\.npz"):
        fastrnn.GRU.load(path)


@pytest.mark.parametrize("wrong", [None, 3, io.BytesIO()], ids=["None", "int", "BytesIO"])
def test_files_are_named_by_paths(wrong):
    layer = fastrnn.GRU(I, H)
    calls = [layer.save, fastrnn.GRU.load, lambda path: fastrnn.save_safetensors(layer, path), fastrnn.load_safetensors]
    if wrong is not None:
        calls.append(lambda path: fastrnn.to_onnx(layer, path))
    for call in calls:
        with pytest.raises(
            TypeError, match=f"^path: expected a str, bytes or os.PathLike, got {type(wrong).__name__}$"
        ):
            call(wrong)


def test_load_refuses_a_missing_file(path):
    with pytest.raises(FileNotFoundError):
        fastrnn.GRU.load(path)


def test_load_refuses_files_of_a_later_format(path, monkeypatch):
    monkeypatch.setattr("fastrnn.files.FORMAT", 2)
    fastrnn.GRU(I, H).save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="path: expected file format 1, got 2"):
        fastrnn.GRU.load(path)


def test_load_refuses_a_file_that_lacks_a_parameter(path):
    fastrnn.GRU(I, H).save(path)
    with np.load(path) as archive:
        kept = {name: archive[name] for name in archive if name != "bias_hh_l0"}
    np.savez(path, **kept)
    with pytest.raises(
        ValueError, match=r"^path: expected the arrays that the file's header says; bias_hh_l0: missing$"
    ):
        fastrnn.GRU.load(path)


def _call(layer, state):
    layer(X, state)


def _assert_refused(layer, act, error, message, *given):
    """`act(layer)` raises; the layer, dropout generator included, and the `given` arguments stay as they were."""
    before = pickle.dumps((layer, given))
    with pytest.raises(error, match=re.escape(message)):
        act(layer)
    assert pickle.dumps((layer, given)) == before


def _assert_backward_refused(layer, arguments, error, message):
    """`backward` raises, and can then still be called with good arguments."""
    (y, _), backward = layer.vjp(X)
    _assert_refused(layer, lambda layer: backward(*arguments), error, message, *arguments)
    backward(np.ones_like(y))
