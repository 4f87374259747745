"""Where a training is after a step: all that the next step needs, and its file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np

from . import checkpoint
from ._registry import config
from ._tree import Array, difference, flatten, restore
from .data import Batch, Source, checksum
from .history import Record
from .optimizers import Optimizer

FORMAT = "fusedrnn training 1"
#: What may be changed on purpose where a training goes on: the rest would make it another one.
CHANGEABLE = ("schedule", "budget", "clip_norm", "patience", "record_every", "validation")
#: The arrays of a batch, which say which data it is of.
BATCH_FIELDS = ("inputs", "targets", "lengths", "target_lengths", "weights")
SMOOTHING = 0.95  # of the loss that is shown: a mean over some 1 / (1 - 0.95) = 20 steps


class Trainable(Protocol):
    """A model, as training sees it: `SequenceModel`, `EncoderDecoder` or your own.

    One of your own may have an attribute `configuration`, of what JSON can hold: a training goes on
    from a checkpoint only where it is the same.
    """

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name."""
        ...

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of these."""
        ...

    @property
    def random_state(self) -> Mapping[str, tuple[int, int]]:
        """What dropout draws next, by name."""
        ...

    @random_state.setter
    def random_state(self, value: Mapping[str, tuple[int, int]]) -> None: ...

    def step(self, batch: Batch, state: Any = None) -> Any:
        """Return `loss`, `count` (of the targets, over which it is the mean), `state`, `gradients`.

        The gradients are a dict by the parameters' names, and new arrays.
        """
        ...

    def evaluate(self, batch: Batch, state: Any = None) -> Any:
        """Return `loss`, `count` and `state`, without dropout."""
        ...


@dataclass
class Run:
    """Numbers and arrays of a training in progress, besides those of model and optimizer."""

    # The position: so many steps are done, and this batch is the next.
    step: int = 0
    epoch: int = 0
    index: int = 0
    state: Any = None  # of the model, after the last step

    # The smoothed loss is a mean with weights that decay; the sum of all weights would be 1.
    smoothed_loss: float = 0.0
    smoothed_weight: float = 0.0

    # Sums since the last record.
    loss_sum: float = 0.0
    count_sum: float = 0.0
    norm_sum: float = 0.0
    steps_since: int = 0

    # The best validation so far, and how many have followed it.
    best_loss: float | None = None
    best_step: int | None = None
    best: dict[str, Array] | None = None  # parameters
    worse: int = 0

    learning_rate: float = 0.0  # of the last step
    validation_loss: float | None = None  # of the last validation
    targets: float = 0.0  # counted in all
    seconds: float = 0.0  # of training in all
    records: list[Record] = field(default_factory=list)

    def add_step(self, loss: float, count: float, norm: float, state: Any) -> None:
        """Take in what a step has given."""
        self.step += 1
        self.state = state
        self.steps_since += 1
        self.norm_sum += norm
        if count > 0:
            self.targets += count
            self.count_sum += count
            self.loss_sum += loss * count
            self.smoothed_weight = SMOOTHING * self.smoothed_weight + (1.0 - SMOOTHING)
            share = (1.0 - SMOOTHING) / self.smoothed_weight
            self.smoothed_loss += share * (loss - self.smoothed_loss)

    def advance(self, batches: int) -> bool:
        """Go on to the next batch; return whether an epoch has ended."""
        self.index += 1
        if self.index == batches:
            self.epoch, self.index = self.epoch + 1, 0
        return self.index == 0

    def add_validation(self, loss: float, parameters: Mapping[str, Array]) -> None:
        """Take in a validation of these parameters."""
        self.validation_loss = loss
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.worse = loss, self.step, 0
            self.best = {name: np.array(p) for name, p in parameters.items()}
        else:
            self.worse += 1

    def forget_validations(self) -> None:
        """Let the next validation be the first: those before were on other data."""
        self.best_loss = self.best_step = self.best = self.validation_loss = None
        self.worse = 0

    def add_record(self, validation_loss: float | None) -> None:
        """Make a record of the steps since the last one."""
        self.records.append(
            {
                "step": self.step,
                "epoch": self.epoch,
                "training_loss": self.loss_sum / self.count_sum if self.count_sum > 0 else None,
                "validation_loss": validation_loss,
                "learning_rate": self.learning_rate,
                "gradient_norm": self.norm_sum / self.steps_since,
                "seconds": self.seconds,
            }
        )
        self.loss_sum = self.count_sum = self.norm_sum = 0.0
        self.steps_since = 0


class RunFile:
    """The file that a training can go on from.

    Parameters
    ----------
    path : str or path
    model, optimizer, data
        What the training works with; the file is for training of the same kind only.
    settings : mapping
        What else the result depends on, as JSON can hold it.
    changed : collection of str
        Which of `CHANGEABLE` may be others than in the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Trainable,
        optimizer: Optimizer,
        data: Source,
        settings: Mapping[str, Any],
        changed: Collection[str] = (),
    ) -> None:
        self.path, self._model, self._optimizer, self._data = path, model, optimizer, data
        self._changed = frozenset(changed)
        configuration = {
            "model": _describe_model(model),
            "optimizer": optimizer.configuration,
            "data": describe_data(data, "data"),
            **settings,
        }
        self._configuration = json.loads(json.dumps(configuration))  # tuples become lists

    def write(self, run: Run) -> None:
        """Replace the file as a whole."""
        arrays: dict[str, Array] = {}
        values: dict[str, Any] = {
            "run": {f.name: getattr(run, f.name) for f in fields(run)},
            "parameters": dict(self._model.parameters),
            "random_state": dict(self._model.random_state),
            "optimizer": self._optimizer.state_dict(),
        }
        if not self._data.batch(run.epoch, run.index).carry:
            values["run"]["state"] = None  # nobody will ask for it
        structure = {name: flatten(value, name, arrays) for name, value in values.items()}
        metadata = {"configuration": self._configuration, "values": {"dict": structure}}
        checkpoint.write(self.path, FORMAT, metadata, arrays)

    def read(self) -> Run:
        """Bring model and optimizer to where they were, and return the rest.

        Raises
        ------
        CheckpointError
            If the file can't be read, or is of another training.
        """
        metadata, arrays = checkpoint.read(self.path, FORMAT)
        with checkpoint.reading(self.path):
            configuration = metadata["configuration"]
            self._check(configuration)
            values = restore(metadata["values"], arrays)
            run = Run(**values["run"])
            if configuration["validation"] != self._configuration["validation"]:
                run.forget_validations()
            self._optimizer.load_state_dict(values["optimizer"])
            self._model.load_parameters(values["parameters"])
            self._model.random_state = values["random_state"]
            return run

    def _check(self, configuration: Mapping[str, Any]) -> None:
        """Raise CheckpointError if the file is of another training, but for what may be changed."""
        ours, theirs = (
            {name: value for name, value in c.items() if name not in self._changed}
            for c in (self._configuration, configuration)
        )
        if found := difference(ours, theirs, "training"):
            names = [name for name in CHANGEABLE if re.match(rf"training\.{name}\b", found)]
            hint = f" (changed={(names[0],)} goes on all the same)" if names else ""
            raise checkpoint.CheckpointError(f"{self.path}: is of another {found}{hint}")


def _describe_model(model: Trainable) -> dict[str, Any]:
    """Return what must be the same for training to go on."""
    configuration: Any
    try:
        configuration = config(model)
    except TypeError:  # a model of one's own
        configuration = _configuration(model, "model")
    return {
        "class": type(model).__qualname__,
        "parameters": {name: [p.dtype.name, *p.shape] for name, p in model.parameters.items()},
        "configuration": configuration,
    }


def describe_data(data: Source, name: str) -> dict[str, Any]:
    """Return what must be the same for training to go on."""
    batch = data.batch(0, 0)
    given = {key: getattr(batch, key, None) for key in BATCH_FIELDS}
    return {
        "batches": len(data),
        "configuration": _configuration(data, name),
        "first_batch": {key: _describe(v) for key, v in given.items() if v is not None},
    }


def _configuration(owner: Any, name: str) -> Any:
    """Return what a model or source of one's own says of itself, or None."""
    configuration = getattr(owner, "configuration", None)
    try:
        json.dumps(configuration)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}.configuration: expected what JSON can hold: {error}") from None
    return configuration


def _describe(value: Any) -> Any:
    """Return the shape and checksum of an array, or of each in a tuple, list or mapping."""
    if isinstance(value, Mapping):
        return {str(key): _describe(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_describe(part) for part in value]
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        if isinstance(value, Sequence):  # of arrays that differ in shape
            return [_describe(part) for part in value]
        return type(value).__qualname__  # another library's reason not to be read
    if array.dtype.kind not in "biufc":
        return type(value).__qualname__
    return {"shape": list(array.shape), "dtype": array.dtype.name, "checksum": checksum(array)}
