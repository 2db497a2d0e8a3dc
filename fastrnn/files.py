"""Layers in files: what is written of one beside its parameters, and NumPy's .npz files."""

import contextlib
import io
import json
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import validation

if TYPE_CHECKING:
    from .layers import Recurrent

    _Layer = TypeVar("_Layer", bound=Recurrent)

FORMAT = 1
_KEY = "fastrnn"  # of the header in an .npz file
_FEW_ARRAYS, _FEW_NUMBERS = 100, 1 << 20  # so many may be missing: then the parameters are named


def header_of(layer: "Recurrent") -> str:
    """Format, class and options of a layer, as JSON."""
    return json.dumps({"format": FORMAT, "class": _class_name(type(layer)), "options": layer._constructor_options()})


def _class_name(kind: "type[Recurrent]") -> str:
    """LSTM, GRU or RNN, also of a subclass: any of them may load what another saved."""
    return next(each.__name__ for each in kind.__mro__ if each.__module__ == f"{__package__}.layers")


def parsed_header(text: str) -> dict[str, Any]:
    """What `header_of` wrote. ValueError if it is something else."""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict) or not header.keys() >= {"format", "class", "options"}:
        raise ValueError(f"path: expected a file whose header has format, class and options, got {text!r}")
    return header


def layer_of(header: Mapping[str, Any], kind: "type[_Layer]", sizes: Collection[int], **where: Any) -> "_Layer":
    """A layer of that class as the header describes it, with parameters of its own.

    sizes  of the arrays in the file: no header can ask for much more memory than these fill
    where  device, seed, backend
    """
    if header["format"] != FORMAT:
        raise ValueError(f"path: expected file format {FORMAT}, got {header['format']!r}")
    if header["class"] != _class_name(kind):
        raise ValueError(f"path: expected a file with class {_class_name(kind)}, got one with {header['class']}")
    options, known = header["options"], {*kind._names_of_options()}
    if not isinstance(options, dict) or not {"input_size", "hidden_size"} <= options.keys() <= known:
        raise ValueError(f"path: expected the options of {kind.__name__} in the file's header, got {options!r}")
    arrays, numbers = _least(**options)
    if arrays > len(sizes) + _FEW_ARRAYS or numbers > sum(sizes) + _FEW_NUMBERS:
        expected = f"at least {arrays:,} arrays of {numbers:,} numbers, as the file's header says"
        raise ValueError(f"path: expected {expected}, got {len(sizes):,} of {sum(sizes):,}")
    try:
        return kind(**options, **where)
    except (TypeError, ValueError) as error:
        if str(error).partition(":")[0] not in options:
            raise  # about an argument
        raise ValueError(f"path: expected options that a layer can have here in the file's header; {error}") from error


def _least(input_size: Any, hidden_size: Any, num_layers: Any = 1, proj_size: Any = 0, **_: Any) -> tuple[int, int]:
    """Arrays and numbers that such a layer has; none if the options are no integers, which the layer will refuse."""
    if not all(isinstance(each, int) for each in (input_size, hidden_size, num_layers, proj_size)):
        return 0, 0
    return 2 * num_layers, hidden_size * (input_size + num_layers * (proj_size or hidden_size))


def write(layer: "Recurrent", path: str | os.PathLike[str]) -> None:
    """As `layer.save`."""
    # these files know no bfloat16, whose numbers are float32's
    kept = np.dtype(np.float32) if layer.dtype.name == "bfloat16" else layer.dtype
    write_arrays(path, header_of(layer), {n: array.astype(kept, copy=False) for n, array in layer.state_dict().items()})


def write_arrays(path: str | os.PathLike[str], header: str, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file at exactly `path`, which appears, or replaces an older one, only when all is written."""
    with new_file(validation.path(path)) as file:
        np.savez(file, **{_KEY: np.array(header)}, **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write that appears at `path`, or takes the place of an older one there, only when all is written.

    What is no regular file, as a device, is written to; a link stays one.
    """
    if not os.path.basename(path):  # a folder's name, of one that is there or not
        open(path, "wb").close()
    target = os.path.realpath(path)
    # others may be writing there too, and the name itself may be as long as names can be
    partial = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.partial")
    if os.path.exists(target) and not (os.path.isfile(target) and os.access(os.path.dirname(target), os.W_OK)):
        whole = io.BytesIO()
        yield whole
        with open(path, "wb") as file:
            file.write(whole.getbuffer())
        return
    try:
        with open(partial, "xb") as file:
            yield file
        if os.path.exists(target):
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError) and error.filename == partial:
            error.filename = os.fspath(path)
        raise


def read(path: str | os.PathLike[str], kind: "type[_Layer]", **where: Any) -> "_Layer":
    """As `kind.load`."""
    text, arrays = read_arrays(path)
    layer = layer_of(parsed_header(text), kind, [array.size for array in arrays.values()], **where)
    if layer.dtype.name == "bfloat16":
        arrays = {name: array.astype(layer.dtype) for name, array in arrays.items()}
    try:
        layer.load_state_dict(arrays)
    except (TypeError, ValueError) as error:
        raise ValueError(f"path: expected the arrays that the file's header says; {error}") from error
    return layer


def read_arrays(path: str | os.PathLike[str]) -> tuple[str, dict[str, np.ndarray]]:
    """The header and the arrays that `write_arrays` wrote. ValueError if it is another kind of file, or damaged."""
    with open(validation.path(path), "rb") as file:
        if zipfile.is_zipfile(file):
            file.seek(0)
            try:
                with np.load(file, allow_pickle=False) as archive:
                    arrays = dict(archive) if _KEY in archive else {}
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, MemoryError) as error:
                # (a header of a few bytes may ask for any memory)
                raise ValueError(f"path: expected a file written by save, got {os.fspath(path)!r}: {error}") from error
            if arrays:
                return str(arrays.pop(_KEY)), arrays
    raise ValueError(f"path: expected a file written by save, got {os.fspath(path)!r}")
