"""What a training did, as plain data: for a table, a file or a plot."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from .checkpoint import write_atomically

#: A row of a history; see `History`.
Record = dict[str, Any]


@dataclass
class History:
    """The records of a training, and how it ended.

    Each record is a dict:

    ==================  ===========================================================================
    ``step``            how many steps were done
    ``epoch``           how many epochs were complete
    ``training_loss``   the mean over all targets since the record before
    ``validation_loss`` the mean over the validation data; None without
    ``learning_rate``   of the last step
    ``gradient_norm``   the mean of the steps since the record before, before clipping
    ``seconds``         of training in all
    ==================  ===========================================================================

    Parameters
    ----------
    records : list of dict
    stopped : str
        Why the training ended: ``"budget"``, ``"patience"`` or ``"interrupt"``.
    best_step : int or None
        After which step the validation loss was lowest.
    best_loss : float or None
        That loss.

    Examples
    --------
    >>> history = History([{"step": 10, "training_loss": 0.5}, {"step": 20, "training_loss": 0.25}])
    >>> history.column("training_loss")
    [0.5, 0.25]
    >>> History.from_json(history.to_json()) == history
    True
    """

    records: list[Record] = field(default_factory=list)
    stopped: str = "budget"
    best_step: int | None = None
    best_loss: float | None = None

    def column(self, name: str) -> list[Any]:
        """Return one value of each record."""
        return [record[name] for record in self.records]

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the history as JSON, and write it to a file if a path is given."""
        text = json.dumps(asdict(self), indent=1)
        if path is not None:
            write_atomically(path, text.encode())
        return text

    @classmethod
    def from_json(cls, text: str) -> History:
        """Return the history that `to_json` has made a text of."""
        return cls(**json.loads(text))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw losses, gradient norm and learning rate over the steps into a file, with matplotlib.

        Raises
        ------
        ValueError
            If there is no record.
        ImportError
            Without matplotlib.
        """
        from .plots import plot_history  # which needs matplotlib

        plot_history(self, path)
