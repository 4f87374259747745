"""Training: `fit` a model to data until a budget is spent, and `evaluate` it.

In each step::

    step     = model.step(batch, state)                  loss and gradients
    norm     = clip_by_norm(step.gradients, clip_norm)
    fraction = the part of the budget that is spent, 0 to 1
    optimizer.step(step.gradients, learning_rate * schedule(fraction))

where the state is that after the batch before, if this batch goes on where that has ended
(truncated back-propagation through time), and None if not.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._arguments import flag, number, size
from . import blas, schedules
from ._interrupts import interruptible
from ._run import CHANGEABLE, Run, RunFile, Trainable, describe_data
from .checkpoint import check_writable
from .data import Array, Source
from .history import History
from .optimizers import Optimizer, clip_by_norm, global_norm
from .progress import Progress, Report, Silent, open_progress
from .schedules import Schedule, constant


def fit(
    model: Trainable,
    data: Source,
    optimizer: Optimizer,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    validation: Source | None = None,
    schedule: Schedule | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    restore_best: bool = True,
    record_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    changed: Collection[str] = (),
    progress: bool | Progress = True,
    on_step: Callable[[Report], object] | None = None,
) -> History:
    """Train a model until a budget is spent, the validation loss stops falling, or Ctrl-C.

    The first Ctrl-C ends the training after the current step, the second acts as always. NumPy's
    BLAS is limited to one thread meanwhile, where threadpoolctl is installed.

    Parameters
    ----------
    model : Trainable
        `SequenceModel`, `EncoderDecoder`, or anything with the same calls.
    data : Source
        `Minibatches`, `Streams`, or anything with the same calls.
    optimizer : Optimizer
        Of this model. It goes on from where it is.
    epochs, steps, seconds : int, int, float; exactly one of them
        The budget, in all: after a break, what was done before it counts. There is at least one
        step.
    validation : Source, optional
        Data for a validation after each epoch and at the end: all batches of the epoch 0.
    schedule : function from fraction to factor, optional
        Of the learning rate, by the part of the budget that is spent; `schedules` has some.
    clip_norm : float, optional
        The largest norm of all gradients together.
    patience : int, optional
        The training ends when so many validations in a row are no better than the best.
    restore_best : bool
        Whether the model has at the end the parameters of the best validation, if there was one;
        else it has the last.
    record_every : int, optional
        Make a record of the history, with a validation, each so many steps, and not after each
        epoch.
    checkpoint : str or path, optional
        A file, ``.safetensors`` or ``.npz``, from which the training can go on as if there had
        been no break, to the bit. It is replaced as a whole, so that a process can be killed at
        any moment.
    checkpoint_every : int, optional
        Write it each so many steps, and not after each record; at the end always.
    resume : bool
        Go on from the file; if there is none, start anew. All that the result depends on must be
        what it was: model, optimizer, data, validation data, `schedule` (with one that isn't
        constant the budget, too), `clip_norm`, `patience` and `record_every`.
    changed : collection of str
        What is other than in the file on purpose, of "schedule", "budget", "clip_norm", "patience",
        "record_every" and "validation".
    progress : bool or Progress
        Whether to show a bar on a terminal, or lines elsewhere; or the display to show it on.
    on_step : callable, optional
        Gets a `Report` after every step.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        Before any training, if a setting is wrong, data or validation data are empty or don't fit,
        or the file exists and `resume` is False.
    CheckpointError
        If the file can't be written or read, is broken, or is that of another training: of other
        data, of a model or an optimizer with other settings, or one with other arguments that
        aren't `changed`. The file stays as it is.
    FloatingPointError
        If a loss or gradient is NaN or infinite, or a parameter overflows; with the step. The
        parameters are those before that step, and the file stays as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import GRU, models
    >>> x = np.sin(np.arange(500, dtype=np.float32) / 5)[:, np.newaxis]
    >>> model = models.SequenceModel(GRU(1, 16, seed=0), models.RegressionHead(16, 1, seed=0))
    >>> data = models.Streams(x, streams=4, steps=20, seed=0)
    >>> history = models.fit(model, data, models.Adam(model, 0.01), epochs=20, progress=False)
    >>> losses = history.column("training_loss")
    >>> len(losses), losses[-1] < losses[0] / 20
    (20, True)
    """
    training = _Training(
        model,
        data,
        optimizer,
        _Budget.of(epochs, steps, seconds),
        validation=validation,
        schedule=constant() if schedule is None else schedule,
        clip_norm=None if clip_norm is None else number(clip_norm, "clip_norm", positive=True),
        patience=None if patience is None else size(patience, "patience"),
        restore_best=flag(restore_best, "restore_best"),
        record_every=None if record_every is None else size(record_every, "record_every"),
    )
    training.open(checkpoint, checkpoint_every, flag(resume, "resume"), _changed(changed, resume))
    display = open_progress() if progress is True else progress or Silent()
    try:
        with blas.one_thread(), interruptible() as interrupted:
            return training.train(interrupted, display, on_step)
    finally:
        display.close()


def evaluate(model: Trainable, data: Source) -> float:
    """Return the mean loss over all targets of the epoch 0, without dropout.

    Parameters
    ----------
    model : Trainable
    data : Source

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is no target.
    """
    total, targets, state = 0.0, 0.0, None
    for index in range(len(data)):
        batch = data.batch(0, index)
        evaluation = model.evaluate(batch, state if batch.carry else None)
        state = evaluation.state
        if evaluation.count > 0:
            total += float(evaluation.loss) * float(evaluation.count)
            targets += float(evaluation.count)
    if targets == 0:
        raise ValueError("data: expected at least one target, got none")
    return total / targets


@dataclass(frozen=True)
class _Budget:
    """How long to train."""

    kind: str  # "epochs", "steps" or "seconds"
    amount: float

    @classmethod
    def of(cls, epochs: int | None, steps: int | None, seconds: float | None) -> _Budget:
        """Return the one budget that is given."""
        amounts: dict[str, Any] = {"epochs": epochs, "steps": steps, "seconds": seconds}
        given = [kind for kind, amount in amounts.items() if amount is not None]
        if len(given) != 1:
            raise ValueError(
                "budget: expected exactly one of epochs, steps and seconds, "
                f"got {' and '.join(given) or 'none'}"
            )
        kind, amount = given[0], amounts[given[0]]
        return cls(kind, number(amount, kind) if kind == "seconds" else size(amount, kind))

    def fraction(self, run: Run, batches: int) -> float:
        """Return the part that is spent, 0 to 1."""
        if run.step == 0:
            return 0.0  # so there is at least one step
        done = {
            "epochs": run.epoch + run.index / batches,
            "steps": run.step,
            "seconds": run.seconds,
        }[self.kind]
        return min(done / self.amount, 1.0) if self.amount > 0 else 1.0


@dataclass
class _Training:
    """The work of `fit`, step by step."""

    model: Trainable
    data: Source
    optimizer: Optimizer
    budget: _Budget
    validation: Source | None
    schedule: Schedule
    clip_norm: float | None
    patience: int | None
    restore_best: bool
    record_every: int | None
    file: RunFile | None = None
    checkpoint_every: int | None = None
    run: Run = field(default_factory=Run)
    saved: int | None = None  # the step whose checkpoint is in the file
    started: float = 0.0  # on the clock of time.perf_counter

    def __post_init__(self) -> None:
        """Check what can be checked before any training."""
        if self.optimizer.model is not self.model:
            raise ValueError("optimizer: expected one of this model, got another model's")
        if not callable(self.schedule):
            raise TypeError(f"schedule: expected a function, got {type(self.schedule).__name__}")
        for source, name in ((self.data, "data"), (self.validation, "validation")):
            if source is not None and len(source) < 1:
                raise ValueError(f"{name}: expected at least one batch, got {len(source)}")
        if self.validation is not None:
            self.model.evaluate(self.validation.batch(0, 0))  # raises where it doesn't fit
        elif self.patience is not None:
            raise ValueError("patience: expected None without validation data")

    def open(
        self,
        path: str | os.PathLike[str] | None,
        every: int | None,
        resume: bool,
        changed: Collection[str],
    ) -> None:
        """Prepare the checkpoint, and go on from it if there is one."""
        if path is None:
            if resume or every is not None:
                name = "resume" if resume else "checkpoint_every"
                raise ValueError(f"{name}: expected a checkpoint with it, got None")
            return
        check_writable(path)
        exists = os.path.exists(path)
        if exists and not resume:
            raise ValueError(f"checkpoint: expected a new file, or resume=True, got {path}")
        self.checkpoint_every = None if every is None else size(every, "checkpoint_every")
        self.file = RunFile(path, self.model, self.optimizer, self.data, self._settings(), changed)
        if exists:
            self.run = self.file.read()
            self.saved = self.run.step

    def _settings(self) -> dict[str, Any]:
        """Return what the result depends on besides model, optimizer and data."""
        moves = not schedules.is_constant(self.schedule)  # with the part of the budget
        return {
            "schedule": schedules.description(self.schedule),
            "budget": {self.budget.kind: self.budget.amount} if moves else None,
            "clip_norm": self.clip_norm,
            "patience": self.patience,
            "record_every": self.record_every,
            "validation": (
                None if self.validation is None else describe_data(self.validation, "validation")
            ),
        }

    def train(
        self,
        interrupted: threading.Event,
        display: Progress,
        on_step: Callable[[Report], object] | None,
    ) -> History:
        """Train to the end."""
        self.started = time.perf_counter() - self.run.seconds
        while (stopped := self._stopped(interrupted)) is None:
            loss, norm = self._step()
            self._after_step(epoch_ended=self.run.advance(len(self.data)))
            report = self._report(loss, norm)
            display.show(report)
            if on_step is not None:
                on_step(report)
        self._save()
        # Not in the file, as it would not be there if the training had gone on.
        if stopped != "interrupt" and self.run.steps_since > 0:
            self._record()
        if self.restore_best and self.run.best is not None:
            self.model.load_parameters(self.run.best)
        return History(self.run.records, stopped, self.run.best_step, self.run.best_loss)

    def _stopped(self, interrupted: threading.Event) -> str | None:
        """Return why the training is over, or None."""
        if self._fraction() >= 1.0:
            return "budget"
        if self.patience is not None and self.run.worse >= self.patience:
            return "patience"
        return "interrupt" if interrupted.is_set() else None

    def _fraction(self) -> float:
        return self.budget.fraction(self.run, len(self.data))

    def _step(self) -> tuple[float, float]:
        """Make one step; return its loss and the norm of its gradients."""
        run = self.run
        try:
            batch = self.data.batch(run.epoch, run.index)
            step = self.model.step(batch, run.state if batch.carry else None)
            loss, count, norm = float(step.loss), float(step.count), 0.0
            if count > 0:  # without a target nothing is to be learned
                _check_finite(loss, "loss")
                norm = self._clip(step.gradients)
                factor = float(self.schedule(self._fraction()))
                run.learning_rate = self.optimizer.learning_rate * factor
                self.optimizer.step(step.gradients, run.learning_rate)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {run.step + 1}: {error}") from error
        run.add_step(loss, count, norm, step.state)
        run.seconds = time.perf_counter() - self.started
        return loss, norm

    def _clip(self, gradients: Mapping[str, Array]) -> float:
        if self.clip_norm is None:
            return global_norm(gradients)
        return clip_by_norm(gradients, self.clip_norm)

    def _after_step(self, epoch_ended: bool) -> None:
        """Make a record and write the checkpoint, if it is time."""
        step = self.run.step
        due = epoch_ended if self.record_every is None else step % self.record_every == 0
        if due:
            self._record()
        if due if self.checkpoint_every is None else step % self.checkpoint_every == 0:
            self._save()

    def _record(self) -> None:
        """Validate, if there is something to validate on, and make a record."""
        run, loss = self.run, None
        if self.validation is not None:
            loss = evaluate(self.model, self.validation)
            try:
                _check_finite(loss, "validation loss")
            except FloatingPointError as error:
                raise FloatingPointError(f"step {run.step}: {error}") from None
            run.add_validation(loss, self.model.parameters)
        run.seconds = time.perf_counter() - self.started
        run.add_record(loss)

    def _save(self) -> None:
        """Write the checkpoint, if there is one and it isn't that of this step."""
        if self.file is not None and self.saved != self.run.step:
            self.file.write(self.run)
            self.saved = self.run.step

    def _report(self, loss: float, norm: float) -> Report:
        run = self.run
        return Report(
            fraction=self._fraction(),
            step=run.step,
            epoch=run.epoch,
            loss=loss,
            smoothed_loss=run.smoothed_loss,
            validation_loss=run.validation_loss,
            learning_rate=run.learning_rate,
            gradient_norm=norm,
            targets=run.targets,
            seconds=run.seconds,
        )


def _changed(changed: Collection[str], resume: bool) -> frozenset[str]:
    """Return what may be changed where a training goes on, checked."""
    if isinstance(changed, str) or not isinstance(changed, Collection):
        raise TypeError(f"changed: expected a collection of names, got {type(changed).__name__}")
    names = frozenset(changed)
    if not names <= set(CHANGEABLE):
        wrong = sorted(map(str, names - set(CHANGEABLE)))[0]
        raise ValueError(f"changed: expected some of {', '.join(CHANGEABLE)}, got {wrong!r}")
    if names and not resume:
        raise ValueError("changed: expected resume=True with it, got False")
    return names


def _check_finite(value: float, name: str) -> None:
    """Raise FloatingPointError for NaN and infinity."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{name}: expected a finite number, got {value}")
