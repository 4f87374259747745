"""A trained language model in files: ``model.safetensors`` (or ``.npz``) and one beside it.

``model.safetensors`` is what `fusedrnn.models.save` writes, and `fusedrnn.models.load` reads it;
its metadata hold the vocabulary, too. ``model.adam.safetensors`` holds Adam's state, without which
the training would not go on as if it had never stopped. It isn't a checkpoint of `models.fit`: that
is for going on with the same training, on the same data and to the same end, while here another one
begins with what this one has learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import models
from ..models import CheckpointError, checkpoint
from ..models.data import checksum
from .corpus import UNITS, Vocabulary
from .model import Config

ADAM = "fusedrnn demo adam 1"


@dataclass(frozen=True)
class Language:
    """A model and what its symbols mean."""

    model: models.SequenceModel
    vocabulary: Vocabulary
    text: str  # a hash of the text that the model has seen


def adam_path(path: Path) -> Path:
    """Return where Adam's state is.

    Examples
    --------
    >>> adam_path(Path("model.npz")).name
    'model.adam.npz'
    """
    return path.with_name(f"{path.stem}.adam{path.suffix}")


def check_writable(path: Path) -> None:
    """Raise CheckpointError if the files can't be written, before the work is done for them."""
    checkpoint.check_writable(path)
    checkpoint.check_writable(adam_path(path))


def save(path: Path, language: Language, adam: models.Adam) -> None:
    """Write both files; each is replaced as a whole.

    Raises
    ------
    CheckpointError
        If a file can't be written.
    """
    model, vocabulary = language.model, language.vocabulary
    metadata = {
        "config": models.config(model),
        "random_state": dict(model.random_state),
        "language": {
            "unit": vocabulary.unit,
            "known": list(vocabulary.known),
            "text": language.text,
        },
    }
    checkpoint.write(path, checkpoint.MODEL, metadata, dict(model.parameters))
    state = adam.state_dict()
    arrays = {f"{kind}.{name}": a for kind in ("m", "v") for name, a in state[kind].items()}
    whose = {"steps": state["steps"], "model": _checksum(model)}
    checkpoint.write(adam_path(path), ADAM, whose, arrays)


def load(path: Path) -> Language:
    """Read the file of the model.

    Raises
    ------
    CheckpointError
        If it can't be read, or isn't one of this demo.
    """
    model = models.load(path)
    metadata, _ = checkpoint.read(path, checkpoint.MODEL)
    with checkpoint.reading(path):
        if "language" not in metadata:
            raise CheckpointError(f"{path}: is not a language model of this demo")
        values = metadata["language"]
        if values["unit"] not in UNITS:
            raise ValueError(f"unit {values['unit']!r}")
        vocabulary = Vocabulary(values["unit"], tuple(values["known"]))
        Config.of(model)  # raises where the parts are others
        for part in (model.head.classes, model.body["embedding"].symbols):
            if part != len(vocabulary):
                raise ValueError(f"expected {len(vocabulary)} symbols, got {part}")
        return Language(model, vocabulary, values["text"])


def load_adam(path: Path, adam: models.Adam) -> bool:
    """Let Adam go on from where it was; return False where there is no such file.

    Raises
    ------
    CheckpointError
        If the file can't be read, or is that of another model.
    """
    path = adam_path(path)
    if not path.exists():
        return False
    metadata, arrays = checkpoint.read(path, ADAM)
    with checkpoint.reading(path):
        if metadata["model"] != _checksum(adam.model):
            raise CheckpointError(f"{path}: is of another model; without it, Adam starts anew")
        state: dict[str, Any] = {"steps": metadata["steps"], "m": {}, "v": {}}
        for name, array in arrays.items():
            kind, _, parameter = name.partition(".")
            state[kind][parameter] = array
        adam.load_state_dict(state)
    return True


def _checksum(model: Any) -> int:
    """Return a number that tells models apart."""
    return checksum(*model.parameters.values())
