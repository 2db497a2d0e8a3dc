"""save_safetensors and load_safetensors, with the safetensors package and PyTorch at the other end."""

import json

import numpy as np
import pytest
from conftest import KINDS, make_layer

import fastrnn

numpy_files = pytest.importorskip("safetensors.numpy")

OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "dtype": "float64"},
    {"bias": False, "batch_first": True},
]


def saved(layer, path):
    """Header, tensors as in the file that `save_safetensors` wrote."""
    fastrnn.save_safetensors(layer, path)
    with pytest.importorskip("safetensors").safe_open(path, "numpy") as file:
        return file.metadata(), numpy_files.load_file(path)


def assert_same(layer, other):
    assert type(layer) is type(other)
    assert layer._constructor_options() == other._constructor_options()
    assert list(layer.parameters) == list(other.parameters)
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(array, other.parameters[name], err_msg=name, strict=True)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "deep-bi-f64", "nobias-batchfirst"])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_the_same_to_the_bit(kind, options, tmp_path):
    layer, path = make_layer(kind, 4, 7, **options), tmp_path / "layer"
    fastrnn.save_safetensors(layer, path)
    loaded = fastrnn.load_safetensors(path, backend="reference")
    assert loaded.backend == "reference"
    assert_same(layer, loaded)


def test_subclasses_share_files_with_their_class(tmp_path):
    class Own(fastrnn.GRU):
        pass

    own = Own(3, 4, seed=1)
    fastrnn.save_safetensors(own, tmp_path / "own.safetensors")
    own.save(tmp_path / "own.npz")
    loaded = [
        fastrnn.load_safetensors(tmp_path / "own.safetensors"),
        fastrnn.GRU.load(tmp_path / "own.npz"),
        Own.load(tmp_path / "own.npz"),
    ]
    assert [type(layer) for layer in loaded] == [fastrnn.GRU, fastrnn.GRU, Own]
    for layer in loaded:
        assert np.array_equal(layer.parameters["weight_hh_l0"], own.parameters["weight_hh_l0"])
    with pytest.raises(ValueError, match="path: expected a file with class LSTM, got one with GRU"):
        fastrnn.LSTM.load(tmp_path / "own.npz")


def test_the_seed_is_that_of_dropout(tmp_path):
    fastrnn.save_safetensors(make_layer("gru", 4, 32, num_layers=2, dropout=0.5), tmp_path / "layer")
    x = np.ones((3, 2, 4), "float32")
    first, second, other = (fastrnn.load_safetensors(str(tmp_path / "layer"), seed=s)(x)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gru_reset_before"])
def test_pytorch_loads_what_is_saved(kind, tmp_path):
    files = pytest.importorskip("safetensors.torch")
    layer, path = make_layer(kind, 4, 7, num_layers=2), tmp_path / "layer.safetensors"
    fastrnn.save_safetensors(layer, path)
    module = fastrnn.to_torch(make_layer(kind, 4, 7, num_layers=2, seed=1))
    module.load_state_dict(files.load_file(path))
    assert_same(layer, fastrnn.from_torch(module))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gru_reset_before"])
def test_what_pytorch_saves_is_loaded(kind, tmp_path):
    files = pytest.importorskip("safetensors.torch")
    layer, path = make_layer(kind, 4, 7, bidirectional=True), tmp_path / "module.safetensors"
    files.save_file(fastrnn.to_torch(layer).state_dict(), path)
    other = make_layer(kind, 4, 7, bidirectional=True, seed=1)
    other.load_state_dict(numpy_files.load_file(path))
    assert_same(layer, other)
    with pytest.raises(ValueError, match=r"^path: expected a file written by save_safetensors, got .*module.safetens"):
        fastrnn.load_safetensors(path)


def test_one_error_names_all_tensors_that_are_missing_surplus_or_misshapen(tmp_path):
    torch_files = pytest.importorskip("safetensors.torch")
    torch = pytest.importorskip("torch")
    path = tmp_path / "layer"
    metadata, tensors = saved(make_layer("gru", 4, 7), path)
    tensors = {name: torch.from_numpy(array) for name, array in tensors.items()}
    del tensors["bias_ih_l0"]
    tensors["weight_hh_l0"] = torch.zeros(21, 8)
    tensors["weight_hh_l1"] = torch.zeros(21, 7)
    tensors["weight_ih_l0"] = tensors["weight_ih_l0"].to(torch.bfloat16)  # NumPy has no such dtype
    torch_files.save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="missing") as raised:
        fastrnn.load_safetensors(path)
    assert set(str(raised.value).split("; ")) == {
        "bias_ih_l0: missing",
        "weight_hh_l0: expected shape (21, 7), got (21, 8)",
        "weight_hh_l1: no such parameter",
        "weight_ih_l0: expected float32, got bfloat16",
    }


@pytest.mark.parametrize(("dtype", "shown"), [("float64", "float64"), ("float16", "float16"), ("int32", "I32")])
def test_wrong_dtypes_alone_are_a_type_error(dtype, shown, tmp_path):
    path = tmp_path / "layer"
    metadata, tensors = saved(make_layer("rnn_relu", 4, 7), path)
    numpy_files.save_file(tensors | {"bias_hh_l0": np.zeros(7, dtype)}, path, metadata=metadata)
    with pytest.raises(TypeError, match=f"^bias_hh_l0: expected float32, got {shown}$"):
        fastrnn.load_safetensors(path)


@pytest.mark.parametrize("header", ["", "LSTM", "[1]", '{"format": 1, "class": "LSTM"}'])
def test_damaged_headers_are_refused(header, tmp_path):
    numpy_files.save_file({"weight_ih_l0": np.zeros(1)}, tmp_path / "layer", metadata={"fastrnn": header})
    with pytest.raises(ValueError, match=r"^path: expected a file whose header has format, class and options, got "):
        fastrnn.load_safetensors(tmp_path / "layer")


HEADERS = {
    "format": ({"format": 2}, r"^path: expected file format 1, got 2$"),
    "class": ({"class": "Linear"}, r"^path: expected a file with class LSTM, GRU or RNN, got one with Linear$"),
    "options": ({"options": []}, r"^path: expected the options of LSTM in the file's header, got \[\]$"),
    "no sizes": ({"options": {"input_size": 4}}, "^path: expected the options of LSTM in the file's header, got "),
    "foreign": (
        {"options": {"input_size": 4, "hidden_size": 7, "evil": 1}},
        "^path: expected the options of LSTM in the file's header, got .*evil",
    ),
    "option": (
        {"options": {"input_size": 4, "hidden_size": 0}},
        r"^path: expected .*; hidden_size: expected an integer of at least 1",
    ),
}


@pytest.mark.parametrize(("changes", "message"), HEADERS.values(), ids=HEADERS)
def test_headers_are_checked(changes, message, tmp_path):
    path = tmp_path / "layer"
    metadata, tensors = saved(make_layer("lstm", 4, 7), path)
    header = json.loads(metadata["fastrnn"]) | changes
    numpy_files.save_file(tensors, path, metadata={"fastrnn": json.dumps(header)})
    with pytest.raises(ValueError, match=message):
        fastrnn.load_safetensors(path)


def test_files_that_cannot_be_written_are_errors_of_the_system(tmp_path):
    layer = make_layer("gru", 4, 7)
    (tmp_path / "file").touch()
    for path, kind in (
        (tmp_path / "none" / "layer", FileNotFoundError),
        (tmp_path, IsADirectoryError),
        (tmp_path / "file" / "layer", NotADirectoryError),
    ):
        with pytest.raises(kind) as raised:
            fastrnn.save_safetensors(layer, path)
        with pytest.raises(kind) as wanted:
            path.write_bytes(b"")
        assert raised.value.filename == str(wanted.value.filename)
        assert raised.value.strerror == wanted.value.strerror
        assert raised.value.errno == wanted.value.errno


def test_other_files_are_refused(tmp_path):
    layer = make_layer("gru", 4, 7)
    layer.save(tmp_path / "layer.npz")
    (tmp_path / "empty").touch()
    for name in ("layer.npz", "empty"):
        with pytest.raises(ValueError, match=rf"^path: expected a safetensors file, got '.*{name}'"):
            fastrnn.load_safetensors(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        fastrnn.load_safetensors(tmp_path / "none")
    with pytest.raises(TypeError, match=r"^layer: expected a fastrnn LSTM, GRU or RNN, got dict$"):
        fastrnn.save_safetensors(layer.state_dict(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
