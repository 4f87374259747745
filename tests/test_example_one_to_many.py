"""examples/one_to_many.py: it learns, and its numbers are spelled right."""

from __future__ import annotations

import doctest
from types import SimpleNamespace

import numpy as np
import pytest

from examples import one_to_many as example
from fusedrnn.demo.example import Options, missed

QUICK = Options(quick=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def test_it_learns(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_is_there(done):
    assert (done.pictures / "one_to_many.png").read_bytes().startswith(b"\x89PNG")


def test_the_bound_is_out_of_reach_without_memory_and_without_training(done):
    bound = example.BOUNDS[0]
    assert bound.name == example.EXACT
    numbers = np.arange(50)
    untrained = example.write(example.new_model(5.0, seed=0), example.vectors(numbers))
    values = [done.figures[example.HALF_OPEN], done.figures[example.NO_VECTOR]]
    for value in [*values, example.exact(untrained, numbers)]:
        assert not bound.met(value, quick=True) and not bound.met(value, quick=False)


def test_the_examples_in_docstrings():
    found = doctest.testmod(example)
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (7, "seven"),
        (10, "ten"),
        (19, "nineteen"),
        (20, "twenty"),
        (45, "forty-five"),
        (100, "one hundred"),
        (111, "one hundred eleven"),
        (1000, "one thousand"),
        (8012, "eight thousand twelve"),
        (9090, "nine thousand ninety"),
    ],
)
def test_names(number, name):
    assert example.spell(number) == name


def test_each_number_has_a_name_of_its_own():
    names = {example.spell(number) for number in range(10_000)}
    assert len(names) == 10_000
    assert {len(name) for name in names} >= {3, 42} and max(map(len, names)) == 42
    assert example.LONGEST > 42


def test_vectors_hold_the_digits():
    v = example.vectors(np.array([4012, 7]))
    assert v.shape == (2, 40) and v.dtype == np.float32 and (v.sum(axis=1) == 4).all()
    assert v.reshape(2, 4, 10).argmax(axis=2).tolist() == [[4, 0, 1, 2], [0, 0, 0, 7]]


def test_names_are_symbols_with_an_end():
    symbols, lengths = example.names(np.array([6, 20]))
    assert lengths.tolist() == [4, 7] and symbols.shape == (7, 2)
    written = ["".join(example.CHARACTERS[k] for k in symbols[:, n]) for n in range(2)]
    assert written == ["six||||", "twenty|"]


def test_no_number_is_both_seen_and_asked_for(monkeypatch):
    seen, asked = [], []
    monkeypatch.setattr(example, "train", lambda model, numbers, options: seen.append(numbers))
    monkeypatch.setattr(example, "write", lambda model, given: ["?"] * len(given))
    monkeypatch.setattr(example, "exact", lambda written, numbers: asked.append(numbers) or 0.0)
    for options, count in ((QUICK, 1000), (Options(), 10_000)):
        example.run(options)
        for numbers in seen:
            both = np.concatenate((numbers, asked[-1]))
            assert sorted(both) == list(range(count)) and len(asked[-1]) == count // 5
        seen.clear()


def test_what_it_believes_is_what_it_writes():
    model = example.new_model(5.0, seed=0)
    p = example.beliefs(model, 12)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    written = "".join(example.CHARACTERS[k] for k in p.argmax(axis=1))
    (expected,) = example.write(model, example.vectors(np.array([12])))
    assert written.rstrip("|") == expected and len(written) <= example.LONGEST


def test_the_same_seed_gives_the_same_bits():
    first, second = example.new_model(5.0, seed=3), example.new_model(5.0, seed=3)
    for model in (first, second):
        example.train(model, np.arange(48), QUICK)
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(array, second.parameters[name])
