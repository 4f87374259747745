"""The picture of attention weights."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fusedrnn.models import plot_attention
from fusedrnn.models.attention_map import draw_attention

WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(4), size=3)  # T, S


def labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_each_weight_has_its_place():
    picture = draw_attention(WEIGHTS, source=["a", "b", "c", "d"], target=list("xyz"), title="map")
    axes, bar = picture.axes
    (image,) = axes.get_images()
    np.testing.assert_array_equal(image.get_array(), WEIGHTS)
    assert image.get_clim() == (0.0, 1.0)
    assert labels(axes.xaxis) == ["a", "b", "c", "d"] and labels(axes.yaxis) == ["x", "y", "z"]
    assert axes.get_xticks().tolist() == [0, 1, 2, 3] and axes.get_yticks().tolist() == [0, 1, 2]
    assert axes.yaxis_inverted(), "the first target is at the top"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("source", "target")
    assert axes.get_title() == "map" and bar.get_ylabel() == "attention weight"


def test_words_of_the_source_stand_upright():
    letters = draw_attention(WEIGHTS, source=["a", "b", "c", "d"], target=["one", "two", "three"])
    words = draw_attention(WEIGHTS, source=["the", "bus", "is", "yellow"])
    for picture, x in ((letters, 0.0), (words, 90.0)):
        axes = picture.axes[0]
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {x}
        assert {label.get_rotation() for label in axes.get_yticklabels()} == {0.0}


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_files(suffix, start, tmp_path):
    path = tmp_path / f"map.{suffix}"
    plot_attention(WEIGHTS.astype(np.float32), path)
    assert path.read_bytes().startswith(start)


def test_sizes_follow_the_number_of_symbols():
    for shape in ((1, 1), (3, 40), (200, 5)):
        width, height = draw_attention(np.full(shape, 0.5)).get_size_inches()
        assert 3 <= width <= 15.6 and 3 <= height <= 15.6
        assert (width > height) == (shape[1] > shape[0])


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        (WEIGHTS[0], {}, ValueError, r"weights: expected \(T, S\), not empty, got \(4,\)"),
        (WEIGHTS[:0], {}, ValueError, r"weights: expected \(T, S\), not empty, got \(0, 4\)"),
        (-WEIGHTS, {}, ValueError, "weights: expected numbers from 0 to 1, got -"),
        (2 - WEIGHTS, {}, ValueError, r"weights: expected numbers from 0 to 1, got 1\."),
        (WEIGHTS * np.nan, {}, ValueError, "weights: expected numbers from 0 to 1, got nan"),
        (np.ones((2, 2), int), {}, TypeError, "weights: expected an array of float32 or float64"),
        (WEIGHTS, {"source": ["a"]}, ValueError, "source: expected 4 symbols, got 1"),
        (WEIGHTS, {"target": ["a"] * 4}, ValueError, "target: expected 3 symbols, got 4"),
    ],
)
def test_errors(weights, options, error, message, tmp_path):
    path = tmp_path / "map.png"
    with pytest.raises(error, match=f"^{message}"):
        plot_attention(weights, path, **options)
    assert not path.exists()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^plots need the package matplotlib"):
        draw_attention(WEIGHTS)
