"""examples/translate.py: it learns, and its dates are written right."""

from __future__ import annotations

import datetime
import doctest
from types import SimpleNamespace

import numpy as np
import pytest

from examples import translate as example
from fusedrnn.demo.example import Options, missed

QUICK = Options(quick=True)
DATE = datetime.date(2004, 2, 1)  # a Sunday


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def test_it_learns(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_is_there(done):
    assert (done.pictures / "translate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("attention", [True, False])
def test_the_bounds_are_out_of_reach_without_training(attention):
    _, held_out = example.data(QUICK)
    model = example.new_model(0, attention=attention)
    value = example.exact(example.translate(model, held_out), held_out)
    assert not any(bound.met(value, quick=True) for bound in example.BOUNDS)


def test_the_examples_in_docstrings():
    found = doctest.testmod(example)
    assert found.attempted > 0 and found.failed == 0


def test_forms():
    assert [example.human(DATE, form) for form in example.FORMS] == [
        "1 February 2004",
        "1 Feb 04",
        "01-Feb-04",
        "Sun, 01 Feb 2004",
        "Sunday, 1 February 2004",
        "1st of February, 2004",
        "Sunday the 1st of February 2004",
        "February 1, 2004",
        "February 1st, 04",
        "Feb 1 '04",
        "Sun Feb 01 2004",
        "1.2.2004",
        "01.02.04",
        "2004, February 1",
    ]


def test_ordinals():
    march = [datetime.date(1998, 3, day) for day in range(1, 32)]
    assert " ".join(example.human(date, "{th}") for date in march) == (
        "1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th 13th 14th 15th 16th 17th 18th 19th "
        "20th 21st 22nd 23rd 24th 25th 26th 27th 28th 29th 30th 31st"
    )


def test_two_digits_say_which_year():
    last = example.FIRST + datetime.timedelta(example.DAYS - 1)
    assert last == datetime.date(2049, 12, 31)
    years = range(example.FIRST.year, last.year + 1)
    assert len({year % 100 for year in years}) == len(years) == 100


def test_no_text_has_two_meanings():
    days = [example.FIRST + datetime.timedelta(day) for day in range(0, example.DAYS, 11)]
    meanings: dict[str, datetime.date] = {}
    for form in example.FORMS:
        for date in days:
            assert meanings.setdefault(example.human(date, form), date) == date


def test_dates_are_symbols():
    given = example.dates(np.array([0, 400, 36_524]), np.random.default_rng(0))
    assert given.answers == ["1950-01-01", "1951-02-05", "2049-12-31"]
    for n, (text, answer) in enumerate(zip(given.texts, given.answers, strict=True)):
        source = given.source[: given.lengths[n], n]
        assert "".join(example.SOURCE[k] for k in source) == text
        assert "".join(example.TARGET[k] for k in given.target[:, n]) == answer + "|"


@pytest.mark.parametrize("options", [QUICK, Options(seed=1)])
def test_no_day_is_both_seen_and_held_out(options):
    known, held_out = example.data(options)
    assert not set(known.answers) & set(held_out.answers)
    assert len(set(held_out.answers)) == len(held_out.answers) >= 300
    forms = {text.translate(str.maketrans("123456789", "000000000")) for text in known.texts}
    assert len(forms) > 100  # of month, weekday and number of digits


def test_the_same_seed_gives_the_same_bits():
    known, other = example.data(QUICK)[1], example.data(Options(quick=True, seed=1))[1]
    assert known.texts == example.data(QUICK)[1].texts != other.texts
    first, second = example.new_model(3), example.new_model(3)
    for model in (first, second):
        example.train(model, known, QUICK)
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(array, second.parameters[name])
