"""A picture of the training: its loss, and what it must beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ..models import History, plots


def draw(history: History, bits: Mapping[str, float], name: str, unit: str, path: Path) -> None:
    """Draw the training loss, and the held-out bits of all models, into a file.

    Parameters
    ----------
    history : History
    bits : mapping of str to float
        The held-out bits per symbol by the name of the model; one has `name`.
    name, unit : str
        The trained model, and what a symbol is.
    path : Path

    Raises
    ------
    ValueError
        If there is no record.
    ImportError
        Without matplotlib.
    """
    records = [r for r in history.records if r["training_loss"] is not None]
    if not records:
        raise ValueError("history: expected at least one record, got none")
    steps = [r["step"] for r in records]
    losses = [r["training_loss"] / math.log(2.0) for r in records]
    picture = plots.figure(8.0, 5.0)
    axes = picture.subplots()
    axes.plot(steps, losses, color=plots.BLUE, label=f"{name}, training")
    for model, value in bits.items():
        if model == name:
            label = f"{name}, held out: {value:.2f}"
            axes.axhline(value, color=plots.ORANGE, label=label)
        else:
            axes.axhline(value, color=plots.GREY, lw=0.8)
            place = {"xy": (1, value), "xycoords": axes.get_yaxis_transform()}
            offset = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{model} {value:.2f}", **place, **offset, color=plots.GREY)
    axes.legend(frameon=False)
    axes.set_xlim(left=0, right=steps[-1])
    axes.set_xlabel("steps")
    plots.tidy(axes, f"bits per {unit}")
    picture.savefig(path)
