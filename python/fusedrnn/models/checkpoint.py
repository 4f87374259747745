"""Arrays and JSON in one file, ``.npz`` or ``.safetensors``, and models as such files.

A file is written beside its place, brought to the disk, and then renamed: so whatever happens, and
even if the process is killed or the power fails, there is a whole file at the path, the old one or
the new one. ``.npz`` needs NumPy alone, ``.safetensors`` the package safetensors. The JSON is the
array ``metadata`` of an ``.npz``, and in the metadata of a ``.safetensors``.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import importlib.util
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._registry import build, config

Array = npt.NDArray[Any]

SUFFIXES = (".npz", ".safetensors")
METADATA = "metadata"
MODEL = "fusedrnn model 1"


class CheckpointError(ValueError):
    """A file cannot be written, or cannot be read, or does not fit."""


def save(path: str | os.PathLike[str], model: Any) -> None:
    """Write a model to a file: its parameters, its configuration, and what dropout draws next.

    Parameters
    ----------
    path : str or path
        The name ends in ``.safetensors`` or ``.npz``. A file that is there is replaced.
    model : a module of `fusedrnn.models`, or a layer

    Raises
    ------
    CheckpointError
        If the file can't be written.
    TypeError
        If the model is of a kind that isn't known.

    Examples
    --------
    >>> import os, tempfile
    >>> import fusedrnn
    >>> layer = fusedrnn.GRU(8, 16, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(os.path.join(folder, "gru.npz"), layer)
    ...     copy = load(os.path.join(folder, "gru.npz"))
    >>> copy
    GRU(8, 16)
    >>> all((copy.parameters[name] == p).all() for name, p in layer.parameters.items())
    True
    """
    metadata = {"config": config(model), "random_state": dict(model.random_state)}
    write(path, MODEL, metadata, dict(model.parameters))


def load(path: str | os.PathLike[str]) -> Any:
    """Return the model that `save` has written to a file.

    Parameters
    ----------
    path : str or path
        The name ends in ``.safetensors`` or ``.npz``.

    Returns
    -------
    Module or model
        With the parameters and the random state that it had.

    Raises
    ------
    CheckpointError
        If the file can't be read, or isn't one of a model.

    Examples
    --------
    See `save`.
    """
    metadata, arrays = read(path, MODEL)
    with reading(path):
        model = build(metadata["config"])
        model.load_parameters(arrays)
        model.random_state = {
            name: (int(seed), int(calls))
            for name, (seed, calls) in metadata["random_state"].items()
        }
        return model


def write(
    path: str | os.PathLike[str],
    format: str,
    metadata: Mapping[str, Any],
    arrays: Mapping[str, Array],
) -> None:
    """Write arrays and JSON to a file, which is replaced as a whole.

    Parameters
    ----------
    path : str or path
        The name ends in ``.safetensors`` or ``.npz``.
    format : str
        What `read` has to expect.
    metadata : mapping
        JSON can hold it.
    arrays : mapping of str to array

    Raises
    ------
    CheckpointError
        If the file can't be written.
    """
    suffix = check_suffix(path)
    text = json.dumps({"format": format, **metadata}, allow_nan=False)
    whole = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    write_atomically(
        path, _to_npz(text, whole) if suffix == ".npz" else _to_safetensors(text, whole)
    )


def read(path: str | os.PathLike[str], format: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the metadata and the arrays of a file that `write` has written.

    Raises
    ------
    CheckpointError
        If the file can't be read, or isn't one of this format.
    """
    suffix = check_suffix(path)
    with reading(path):
        text, arrays = _from_npz(path) if suffix == ".npz" else _from_safetensors(path)
        metadata: dict[str, Any] = json.loads(text)
        if metadata["format"] != format:
            raise CheckpointError(f"{path}: expected format {format!r}, got {metadata['format']!r}")
        return metadata, arrays


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every error in the block into a CheckpointError that names the file and the reason."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # each library has its own exceptions for a broken file
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: broken, or not a file of fusedrnn ({reason})") from error


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix, if files of this name can be written and read here."""
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if suffix == ".safetensors" and importlib.util.find_spec("safetensors") is None:
        raise CheckpointError(
            f"{path}: needs the package safetensors (pip install safetensors); .npz does not"
        )
    return suffix


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError if a file can't be written there, before the work is done for it."""
    check_suffix(path)
    place = Path(path)
    if place.is_dir():
        raise CheckpointError(f"{path}: is a directory")
    if not place.parent.is_dir():
        raise CheckpointError(f"{path}: there is no directory {place.parent}")
    if not os.access(place.parent, os.W_OK):
        raise CheckpointError(f"{path}: no permission to write in {place.parent}")


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file; whatever happens, the path holds a whole one: the old or the new.

    Raises
    ------
    CheckpointError
        If the file can't be written.
    """
    place = Path(os.path.realpath(path))  # the file that a link leads to
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        _remove_leftovers(place)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
        _sync_directory(place.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk, where a system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(place: Path) -> None:
    """Remove what processes that were killed while they wrote this file have left."""
    for leftover in place.parent.glob(f".{glob.escape(place.name)}.*.tmp"):
        process = leftover.name.split(".")[-2]
        if process.isdecimal() and not _runs(int(process)):
            leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Return whether there may be such a process."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _to_npz(text: str, arrays: Mapping[str, Array]) -> bytes:
    file = io.BytesIO()
    contents: dict[str, Any] = {METADATA: np.array(text), **arrays}
    np.savez(file, **contents)
    return file.getvalue()


def _from_npz(path: str | os.PathLike[str]) -> tuple[str, dict[str, Array]]:
    with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return str(arrays.pop(METADATA)), arrays


def _to_safetensors(text: str, arrays: Mapping[str, Array]) -> bytes:
    numpy: Any = importlib.import_module("safetensors.numpy")
    data: bytes = numpy.save(dict(arrays), metadata={METADATA: text})
    return data


def _from_safetensors(path: str | os.PathLike[str]) -> tuple[str, dict[str, Array]]:
    safetensors: Any = importlib.import_module("safetensors")
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata()[METADATA], arrays
