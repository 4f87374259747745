"""examples/many_to_many.py: it learns, and only from what is there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from examples import many_to_many as example
from fusedrnn import models
from fusedrnn.demo.example import Options, missed

TEXT = """
The cat sat on the mat.  The Cat, sat on the mat. It runs
over two lines! Too short.

x = f(1) + {2: [3]}; return -x

A paragraph without an end
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def test_it_learns(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_is_there(done):
    assert (done.pictures / "many_to_many.png").read_bytes().startswith(b"\x89PNG")


def test_the_bounds_are_out_of_reach_for_other_models(done):
    _, held_out = example.data(0)
    values = [done.figures["F1, one letter"], done.figures["F1, forward"]]
    blank_everywhere = example.f1(np.ones(held_out.blanks.shape), held_out.blanks)
    body = example.BODIES["both directions"](0)
    untrained = models.SequenceModel(body, models.SoftmaxHead(example.UNITS, 2, seed=0))
    values += [
        blank_everywhere,
        example.f1(example.probabilities(untrained, held_out), held_out.blanks),
    ]
    for bound in example.BOUNDS[2:]:
        assert bound.at_least is not None
        assert not any(bound.met(value, quick=True) for value in values)


def test_sentences():
    assert example.sentences(TEXT) == [
        "the cat sat on the mat",
        "it runs over two lines",
        "a paragraph without an end",
    ]


def test_letters_and_blanks():
    given = example.encode(["a bc d", "xyz"])
    assert given.lengths.tolist() == [4, 3]
    assert given.letters.T.tolist() == [[0, 1, 2, 3], [23, 24, 25, 0]]
    nothing = example.NOT_COUNTED
    assert given.blanks.T.tolist() == [[1, 0, 1, nothing], [0, 0, nothing, nothing]]
    assert given.text(0, given.blanks[:, 0] == 1) == "a bc d"
    assert given.text(1, np.array([True, False, False, False])) == "x yz"


def test_what_does_not_count_is_ignored_by_the_head():
    assert models.SoftmaxHead(1, 2).ignore_index == example.NOT_COUNTED


def test_no_sentence_is_both_seen_and_held_out():
    given, held_out = example.data(0)
    assert len(held_out.lengths) == example.HELD_OUT < len(given.lengths)
    seen, asked = (
        {part.text(n, part.blanks[:, n] == 1) for n in range(len(part.lengths))}
        for part in (given, held_out)
    )
    assert len(seen) == len(given.lengths) and len(asked) == example.HELD_OUT
    assert not seen & asked


def test_data_depend_on_the_seed_only():
    first, second, other = (example.data(seed)[1] for seed in (0, 0, 1))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.text(0, first.blanks[:, 0] == 1) != other.text(0, other.blanks[:, 0] == 1)


@pytest.mark.parametrize("name", example.BODIES)
def test_only_two_directions_and_windows_see_what_comes(name):
    body, given = example.BODIES[name](0), example.encode(["one two", "one twa"])
    y, _ = body(given.letters, lengths=given.lengths)
    assert y.shape == (6, 2, example.UNITS)
    changed = (y[:, 0] != y[:, 1]).any(axis=1).tolist()
    sees_ahead = "directions" in name
    assert changed == [sees_ahead] * 5 + [True]


def test_f1():
    blanks = np.array([1, 1, 0, 0, example.NOT_COUNTED])
    assert example.f1(np.array([0.9, 0.1, 0.9, 0.1, 0.9]), blanks) == 0.5
    assert example.f1(np.array([0.9, 0.9, 0.1, 0.1, 0.9]), blanks) == 1.0
    assert example.f1(np.zeros(5), blanks) == 0.0


def test_the_same_seed_gives_the_same_bits():
    few = example.data(0)[0].take(np.s_[:32])
    name = "convolution, both directions"
    first, second = (example.train(name, few, Options(quick=True)).parameters for _ in range(2))
    for parameter, array in first.items():
        np.testing.assert_array_equal(array, second[parameter])
