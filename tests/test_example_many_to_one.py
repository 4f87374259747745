"""examples/many_to_one.py: it learns, from rows in order, on a proper split."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

import fusedrnn
from examples import many_to_one as example
from fusedrnn import models
from fusedrnn.demo.example import Options, missed


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def new_model():
    body = models.Sequential(fusedrnn.LSTM(8, example.UNITS, seed=0), models.Last())
    return models.SequenceModel(body, models.SoftmaxHead(example.UNITS, 10, seed=0))


def test_it_learns(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


@pytest.mark.parametrize("name", ["many_to_one", "many_to_one_confusion"])
def test_the_pictures_are_there(done, name):
    assert (done.pictures / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_bound_is_out_of_reach_without_memory_and_without_training(done):
    bound = example.BOUNDS[0]
    assert bound.name == example.LSTM
    untrained = example.accuracy(new_model(), example.data(0))
    for value in (done.figures[example.LAST_ROW], untrained):
        assert not bound.met(value, quick=True) and not bound.met(value, quick=False)


def test_images_are_sequences_of_rows():
    split, digits = example.data(0), load_digits()
    assert split.x.shape == (8, 1347, 8) and split.test_x.shape == (8, 450, 8)
    assert split.x.dtype == np.float32
    pairs = zip(digits.images, digits.target, strict=True)
    known = {image.tobytes(): digit for image, digit in pairs}
    for n in range(450):
        image = split.test_x[:, n].astype(np.float64) * 16
        assert known[image.tobytes()] == split.test_digits[n]


@pytest.mark.parametrize("seed", [0, None])
def test_no_image_is_both_seen_and_held_out(seed):
    split = example.data(seed)
    images = [x.transpose(1, 0, 2) for x in (split.x, split.test_x)]
    seen, held_out = ({image.tobytes() for image in part} for part in images)
    assert not seen & held_out and len(seen) + len(held_out) == 1797


def test_the_last_quarter_of_the_file_is_held_out_for_other_hands():
    split = example.data(None)
    np.testing.assert_array_equal(split.test_digits, load_digits().target[1347:])


def test_splits_depend_on_the_seed_only():
    first, second, other = (example.data(seed) for seed in (0, 0, 1))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.test_digits != other.test_digits).any()


def test_the_same_seed_gives_the_same_bits():
    split = example.data(0)
    few = split._replace(x=split.x[:, :64], digits=split.digits[:64])
    first, second = (example.train(few, Options(quick=True)).parameters for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_what_it_believes_after_the_last_row_is_its_answer():
    model, x = new_model(), example.data(0).test_x[:, :5]
    p = example.beliefs(model, x)
    assert p.shape == (8, 5, 10)
    np.testing.assert_allclose(p.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(p[-1], np.exp(model.predict(x)[0]), atol=1e-6)
