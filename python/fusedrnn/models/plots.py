"""Plots, drawn by matplotlib straight into files: no window, no global state.

`figure` gives an empty figure in the style of all plots here; `plot_history` draws a training.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from .history import History

# Of Okabe and Ito's palette, whose colours stay apart for the colour-blind.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def figure(width: float = 8.0, height: float = 5.0) -> Any:
    """Return an empty `matplotlib.figure.Figure`, to be saved with its `savefig`.

    Parameters
    ----------
    width, height : float
        In inches, of 100 pixels in a PNG.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        matplotlib: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError("plots need the package matplotlib (pip install matplotlib)") from error
    return matplotlib.Figure(figsize=(width, height), dpi=100, layout="constrained")


def tidy(axes: Any, ylabel: str) -> None:
    """Give axes a label, a light grid, and no frame on the right and above."""
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes: Any) -> None:
    """Give the y-axis a logarithmic scale with labels at 1, 2 and 5 of each power of ten."""
    ticker: Any = importlib.import_module("matplotlib.ticker")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def log_if_wide(axes: Any, values: list[float], ratio: float = 20.0) -> None:
    """Give the y-axis a logarithmic scale if the values are above 0 and far apart."""
    if min(values) > 0 and max(values) > ratio * min(values):
        logarithmic(axes)


def plot_history(history: History, path: str | os.PathLike[str]) -> None:
    """Draw losses, gradient norm and learning rate over the steps into a file.

    Parameters
    ----------
    history : History
    path : str or path
        The suffix says which kind of file: ``.png``, ``.svg``, ``.pdf``.

    Raises
    ------
    ValueError
        If there is no record.
    ImportError
        Without matplotlib.
    """
    draw_history(history).savefig(path)


def draw_history(history: History) -> Any:
    """Return the figure of `plot_history`."""
    if not history.records:
        raise ValueError("history: expected at least one record, got none")
    picture = figure(8.0, 6.5)
    losses, norms, rates = picture.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    _draw_losses(losses, history)
    _draw(norms, history, "gradient_norm", color=GREY)
    _draw(rates, history, "learning_rate", color=GREEN)
    log_if_wide(norms, history.column("gradient_norm"))
    rates.set_ylim(bottom=0)
    tidy(norms, "gradient norm")
    tidy(rates, "learning rate")
    rates.set_xlabel("steps")
    picture.align_ylabels()
    return picture


def _draw_losses(axes: Any, history: History) -> None:
    """Draw the losses of training and validation, and mark the best validation."""
    losses = _draw(axes, history, "training_loss", color=BLUE, label="training")
    losses += _draw(axes, history, "validation_loss", color=ORANGE, label="validation")
    if history.best_step is not None and history.best_loss is not None:
        label = f"best: {history.best_loss:.4g} at step {history.best_step:,}"
        circle = {"color": ORANGE, "markerfacecolor": "none", "markersize": 11}
        axes.plot(history.best_step, history.best_loss, "o", label=label, **circle)
    if losses:
        log_if_wide(axes, losses)
        axes.legend(frameon=False)
    tidy(axes, "loss")


def _draw(axes: Any, history: History, name: str, **style: Any) -> list[float]:
    """Draw a column of the history where it has values, and return these."""
    points = [(r["step"], r[name]) for r in history.records if r[name] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="." if len(points) <= 50 else "", **style)
    return [value for _, value in points]
