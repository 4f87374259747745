"""A picture of attention: where the decoder looks for each symbol that it predicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from .plots import figure

#: Inches of a square of the map, and of what stands around it.
SQUARE, MARGIN, SMALLEST, LARGEST = 0.28, 1.6, 1.4, 14.0


def plot_attention(
    weights: Any,
    path: str | os.PathLike[str],
    *,
    source: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draw the attention weights of one sequence into a file: a row for each target symbol.

    Parameters
    ----------
    weights : array (T, S)
        Of the S source symbols for each of T target symbols, 0 to 1; one sequence of
        `EncoderDecoder.attention_map`, without what stands past its lengths.
    path : str or path
        The suffix says which kind of file: ``.png``, ``.svg``, ``.pdf``.
    source, target : sequences of str, optional
        The S and T symbols, as the axes show them; numbers if not given.
    title : str

    Raises
    ------
    ValueError
        If the weights aren't a matrix of numbers from 0 to 1, or there are more or fewer symbols.
    TypeError
        If they are no array of float32 or float64.
    ImportError
        Without matplotlib.
    """
    draw_attention(weights, source=source, target=target, title=title).savefig(path)


def draw_attention(
    weights: Any,
    *,
    source: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    title: str = "",
) -> Any:
    """Return the figure of `plot_attention`."""
    matrix = _core.as_array(weights, "weights")
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"weights: expected (T, S), not empty, got {matrix.shape}")
    wrong = matrix[~((matrix >= 0) & (matrix <= 1 + 1e-5))]
    if wrong.size:
        raise ValueError(f"weights: expected numbers from 0 to 1, got {wrong[0]}")
    names = {"source": source, "target": target}
    for (name, symbols), count in zip(names.items(), matrix.shape[::-1], strict=True):
        if symbols is not None and len(symbols) != count:
            raise ValueError(f"{name}: expected {count} symbols, got {len(symbols)}")
    height, width = (float(np.clip(SQUARE * n, SMALLEST, LARGEST)) for n in matrix.shape)
    picture = figure(width + MARGIN, height + MARGIN)
    axes = picture.subplots()
    image = axes.imshow(matrix, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    _label(axes.xaxis, source, "source")
    _label(axes.yaxis, target, "target")
    if title:
        axes.set_title(title)
    picture.colorbar(image, ax=axes, label="attention weight")
    return picture


def _label(axis: Any, symbols: Sequence[str] | None, name: str) -> None:
    """Write the symbols along an axis."""
    axis.set_label_text(name)
    if symbols is not None:
        longest = max(map(len, symbols))
        upright = axis.axis_name == "x" and longest > 2
        axis.set_ticks(range(len(symbols)), symbols, rotation=90 if upright else 0)
        axis.set_tick_params(length=0)
