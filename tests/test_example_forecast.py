"""examples/forecast.py: forecasts from the past alone, baselines that are right, and a GRU."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import fusedrnn
from examples import forecast as example
from fusedrnn import models
from fusedrnn.demo.example import Options, missed


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


ALL = [example.read_sunspots(), example.read_co2(), example.make_sine(0)]
each_series = pytest.mark.parametrize("series", ALL, ids=lambda series: series.name)


def test_it_learns(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_is_there(done):
    assert (done.pictures / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_an_untrained_gru_misses_every_bound(monkeypatch):
    monkeypatch.setattr(models, "fit", lambda *_, **__: None)
    figures = example.run(Options(quick=True))
    assert missed(figures, example.BOUNDS, quick=True) == list(example.BOUNDS)


def test_sunspots_are_those_of_silso():
    series = example.read_sunspots()
    known = dict(zip(series.time, series.x, strict=True))
    assert (min(known), max(known), len(known)) == (1700, 2008, 309)
    assert (known[1700], known[1957], known[2008]) == (5.0, 190.2, 2.9)
    assert series.time[series.train_end] == 1921 and series.time[series.choice_end] == 1956


def test_co2_is_in_monthly_increments():
    series = example.read_co2()
    assert len(series.x) == 525 and np.isfinite(series.x).all()
    assert series.time[0] == pytest.approx(1958 + 3 / 12)  # April, after the first month
    assert series.time[-1] == pytest.approx(2001 + 11 / 12)
    values = series.before + series.x
    np.testing.assert_allclose(values[:-1], series.before[1:], rtol=1e-13)
    assert series.before[0] == 316.1 and 370 < values[-1] < 372
    assert series.time[series.train_end] == pytest.approx(1984 + 2 / 12)
    assert series.time[series.choice_end] == pytest.approx(1992 + 2 / 12)


def test_the_sine_has_its_noise():
    series = example.make_sine(0)
    noise = series.x - np.sin(2 * np.pi * series.time / 25)
    assert noise.std() == pytest.approx(example.NOISE, rel=0.1)
    np.testing.assert_array_equal(series.x, example.make_sine(0).x)
    assert (series.x != example.make_sine(1).x).all()


def test_windows_end_where_they_should():
    x = np.arange(10)
    np.testing.assert_array_equal(
        example.windows(x, np.array([3, 10]), 3).T, [[0, 1, 2], [7, 8, 9]]
    )


@each_series
def test_forecasts_are_from_the_past_and_compared_with_what_followed(series):
    origins = series.origins
    assert origins[0] == series.choice_end
    assert origins[-1] + series.horizon == len(series.x)
    values = series.x if series.before is None else series.before + series.x
    truth = series.truth()
    for n in (0, len(origins) - 1):
        np.testing.assert_allclose(truth[:, n], values[origins[n] :][: series.horizon], rtol=1e-12)

    def oracle(history, steps):
        np.testing.assert_array_equal(history[:, 0], series.x[: series.choice_end])
        np.testing.assert_array_equal(history[-1], series.x[origins - 1])
        return example.windows(series.x, origins + steps, steps)

    np.testing.assert_array_equal(series.forecast(oracle), truth)


@each_series
def test_persistence_keeps_the_last_value(series):
    values = series.x if series.before is None else series.before + series.x
    forecast = series.forecast(example.baselines(series)[example.PERSISTENCE])
    np.testing.assert_allclose(
        forecast, np.tile(values[series.origins - 1], (series.horizon, 1)), rtol=1e-12
    )


@each_series
def test_seasonal_persistence_repeats_the_last_season(series):
    forecast = example.baselines(series)[example.SEASONAL]
    history = np.arange(60.0)[:, np.newaxis]
    got = forecast(history, series.horizon)[:, 0]
    want = [60 - series.season + k % series.season for k in range(series.horizon)]
    np.testing.assert_array_equal(got, want)


def test_an_autoregression_of_two_terms_continues_a_sine():
    t = np.arange(200)
    x = np.sin(0.3 * t + 1)
    np.testing.assert_allclose(
        example.least_squares(x[:100], 2), [-1, 2 * np.cos(0.3), 0], atol=1e-12
    )
    series = replace(example.make_sine(0), x=np.sin(2 * np.pi * np.arange(600) / 25))
    _, forecaster = example.autoregression(series)
    np.testing.assert_allclose(series.forecast(forecaster), series.truth(), atol=1e-9)


def test_the_order_is_the_best_one_step_ahead_in_the_second_part():
    series = example.read_sunspots()
    best, _ = example.autoregression(series)
    x, errors = series.x, []
    for order in range(1, example.HIGHEST_ORDER + 1):
        coefficients = example.least_squares(x[: series.train_end], order)
        second = range(series.train_end, series.choice_end)
        one = [coefficients @ [*x[t - order : t], 1] - x[t] for t in second]
        errors.append(np.mean(np.square(one)))
    assert best == 1 + int(np.argmin(errors)) == 15
    assert example.autoregression(series, roots=True)[0] == 9


@pytest.mark.parametrize("name", ["AR", "AR of roots", "GRU"])
def test_nothing_is_learned_from_the_last_part(name):
    series = example.read_sunspots()
    changed = series.x.copy()
    changed[series.choice_end :] = 500.0
    history = example.windows(series.x, np.array([series.choice_end]), 100)

    def forecast(of):
        if name == "GRU":
            return example.train(of, 3, 0)(history, 5)
        return example.autoregression(of, roots=name == "AR of roots")[1](history, 5)

    np.testing.assert_array_equal(forecast(series), forecast(replace(series, x=changed)))


def test_mean_and_deviation_are_those_of_the_first_part(monkeypatch):
    series = example.read_sunspots()
    given = []
    monkeypatch.setattr(models, "fit", lambda model, data, *_, **named: given.append((data, named)))
    example.train(series, 1, 0)
    ((data, named),) = given
    first = series.x[: series.train_end]
    want = (series.x - first.mean()) / first.std()
    sequences = np.concatenate(
        [
            np.vstack([b.inputs, b.targets[-1:]])
            for b in (data.batch(0, k) for k in range(len(data)))
        ],
        axis=1,
    )[..., 0]
    parts = np.lib.stride_tricks.sliding_window_view(
        want[: series.train_end].astype(np.float32), example.WINDOW + 1
    )
    assert sorted(map(tuple, sequences.T)) == sorted(map(tuple, parts))
    check = named["validation"].batch(0, 0)
    np.testing.assert_allclose(check.targets[:, 0, 0], want[1 : series.choice_end], rtol=1e-5)
    assert check.weights.sum() == series.choice_end - series.train_end
    assert check.weights[-35:].all()


def test_predictions_are_fed_back():
    model = models.SequenceModel(fusedrnn.GRU(1, 4, seed=0), models.RegressionHead(4, 1, seed=0))
    x = np.random.default_rng(0).normal(size=(6, 3, 1)).astype(np.float32)
    got = example.feed_back(model, x, 4)
    for k in range(4):
        np.testing.assert_allclose(got[k], model.predict(x)[0][-1], atol=1e-6)
        x = np.concatenate([x, got[k : k + 1]])


def test_the_same_seed_gives_the_same_bits():
    series = example.make_sine(0)
    first, second, other = (series.forecast(example.train(series, 3, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != other).all()
