"""A trained model in a file, ``.npz`` or ``.safetensors``.

Arrays: every parameter by its name, ``adam.m.NAME`` and ``adam.v.NAME``. The rest is JSON, in the
array ``metadata`` of an ``.npz`` and in the metadata of a ``.safetensors``.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .adam import Adam
from .corpus import Vocabulary
from .head import Array
from .model import LAYERS, Config, Model

FORMAT = "fusedrnn demo 1"
SUFFIXES = (".npz", ".safetensors")
METADATA = "metadata"


class CheckpointError(ValueError):
    """A file cannot be written, or cannot be read, or does not fit."""


@dataclass(frozen=True)
class Checkpoint:
    """What goes into the file."""

    config: Config
    vocabulary: Vocabulary
    text: str  # a hash of the text that the model has seen
    adam_steps: int
    arrays: Mapping[str, Array]

    @classmethod
    def of(cls, model: Model, adam: Adam, vocabulary: Vocabulary, text: str) -> Checkpoint:
        """Return the checkpoint of a model in training; it shares the arrays."""
        arrays = dict(model.parameters)
        arrays |= {f"adam.m.{name}": m for name, m in adam.m.items()}
        arrays |= {f"adam.v.{name}": v for name, v in adam.v.items()}
        return cls(model.config, vocabulary, text, adam.t, arrays)

    def restore(self, model: Model, adam: Adam) -> None:
        """Copy the arrays into a model of the same configuration and its optimizer.

        A file may leave out Adam's arrays: then Adam starts anew.
        """
        model.load(self._part("", model.parameters))
        if any(name.startswith("adam.") for name in self.arrays):
            for prefix, moments in (("adam.m.", adam.m), ("adam.v.", adam.v)):
                for name, array in self._part(prefix, moments).items():
                    moments[name][...] = array
            adam.t = self.adam_steps

    def _part(self, prefix: str, like: Mapping[str, Array]) -> dict[str, Array]:
        """Return the arrays of these names, checked."""
        part = {}
        for name, expected in like.items():
            array = self.arrays.get(prefix + name)
            if array is None or array.shape != expected.shape or array.dtype != expected.dtype:
                got = "nothing" if array is None else f"{array.dtype} {array.shape}"
                raise CheckpointError(
                    f"{prefix}{name}: expected {expected.dtype} {expected.shape}, got {got}"
                )
            part[name] = array
        return part


def check_suffix(path: Path) -> None:
    """Raise CheckpointError unless files of this name can be written and read here."""
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if path.suffix == ".safetensors" and importlib.util.find_spec("safetensors") is None:
        raise CheckpointError(
            f"{path}: needs the package safetensors (pip install safetensors); .npz does not"
        )


def check_writable(path: Path) -> None:
    """Raise CheckpointError if a file cannot be written there; called before the training."""
    check_suffix(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a directory")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(f"{path}: no permission to write in {path.parent}")


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file; whatever happens, the path holds a whole one: the old or the new."""
    check_suffix(path)
    data = _to_npz(checkpoint) if path.suffix == ".npz" else _to_safetensors(checkpoint)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> Checkpoint:
    """Read a file that `save` wrote."""
    check_suffix(path)
    try:
        metadata, arrays = _from_npz(path) if path.suffix == ".npz" else _from_safetensors(path)
        values = json.loads(metadata)
        if values["format"] != FORMAT:
            raise CheckpointError(f"{path}: expected format {FORMAT!r}, got {values['format']!r}")
        config = Config(**{field.name: values["config"][field.name] for field in fields(Config)})
        if config.cell not in LAYERS or min(config.hidden, config.layers, config.embedding) < 1:
            raise ValueError(f"config {asdict(config)}")
        vocabulary = Vocabulary(values["vocabulary"])
        return Checkpoint(config, vocabulary, values["text"], values["adam_steps"], arrays)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # each library has its own exceptions for a broken file
        raise CheckpointError(f"{path}: is not a file of this demo ({error})") from error


def _metadata(checkpoint: Checkpoint) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "config": asdict(checkpoint.config),
            "vocabulary": checkpoint.vocabulary.characters,
            "text": checkpoint.text,
            "adam_steps": checkpoint.adam_steps,
        }
    )


def _to_npz(checkpoint: Checkpoint) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {METADATA: np.array(_metadata(checkpoint)), **checkpoint.arrays}
    np.savez(file, **arrays)
    return file.getvalue()


def _from_npz(path: Path) -> tuple[str, dict[str, Array]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return str(arrays.pop(METADATA)), arrays


def _to_safetensors(checkpoint: Checkpoint) -> bytes:
    numpy: Any = importlib.import_module("safetensors.numpy")
    data: bytes = numpy.save(dict(checkpoint.arrays), metadata={METADATA: _metadata(checkpoint)})
    return data


def _from_safetensors(path: Path) -> tuple[str, dict[str, Array]]:
    safetensors: Any = importlib.import_module("safetensors")
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata()[METADATA], arrays
