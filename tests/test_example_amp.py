"""examples/amp.py: the circuit is right, strings are in tune, the stream plays what was learnt."""

from __future__ import annotations

import wave
from types import SimpleNamespace

import numpy as np
import pytest

from examples import amp as example
from fusedrnn import models
from fusedrnn.demo.example import Options, missed


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def test_it_learns(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_and_the_sounds_are_there(done):
    assert (done.pictures / "amp.png").read_bytes().startswith(b"\x89PNG")
    for name in ("input", "circuit", "lstm"):
        with wave.open(str(done.pictures / f"amp_{name}.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (48000, 1, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert len(samples) == 6 * example.NOTE
        assert np.abs(samples).max() == round(0.9 * 32767)


def test_an_untrained_lstm_misses_the_bound(monkeypatch):
    monkeypatch.setattr(models, "fit", lambda *_, **__: None)
    monkeypatch.setattr(example, "NOTE", 4800)
    figures = example.run(Options(quick=True))
    assert [b.name for b in missed(figures, example.BOUNDS, quick=True)] == [
        "LSTM: error to signal, %"
    ]


# The circuit


def test_a_constant_input_ends_where_the_currents_balance():
    x = np.array([-4.0, -0.5, 0.0, 0.1, 3.0])
    v = example.solve(np.tile(x, (2000, 1)), 1e-6)[-1]
    diodes = 2 * example.SATURATION * np.sinh(v / example.THERMAL)
    np.testing.assert_allclose((x - v) / example.R, diodes, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("hertz", [100, 3000, 12000])
def test_a_small_signal_meets_a_filter_of_first_order(hertz):
    t = np.arange(4800) / example.RATE
    x = 1e-3 * np.sin(2 * np.pi * hertz * t)[:, np.newaxis]
    v = example.clip(x)[:, 0]
    # The diodes are a resistor, of V_T / (2 I_s), in parallel to C.
    conductance = 1 / example.R + 2 * example.SATURATION / example.THERMAL
    gain = 1 / example.R / (conductance + 2j * np.pi * hertz * example.C)
    want = 1e-3 * np.abs(gain) * np.sin(2 * np.pi * hertz * t + np.angle(gain))
    np.testing.assert_allclose(v[480:4320], want[480:4320], atol=3e-6)


def test_steps_of_half_the_size_change_little():
    rng = np.random.default_rng(0)
    x = example.chord(rng, 600)[:, np.newaxis]
    fine = example.resample(x, up=16)
    coarse = example.clip(x)
    dt = 1 / (16 * example.RATE)
    finer = example.resample(example.solve(fine, dt), down=16)
    assert example.error_to_signal(coarse, finer) < 1e-5


def test_parts_solved_side_by_side_are_the_whole():
    x = example.chord(np.random.default_rng(1), 1200)[:, np.newaxis]
    whole = example.solve(example.resample(x, up=8), 1 / (8 * example.RATE))
    np.testing.assert_allclose(example.clip(x), example.resample(whole, down=8), atol=1e-7)


def test_resampling_keeps_a_tone():
    t = np.arange(480)
    x = np.cos(2 * np.pi * 7 * t / 480)[:, np.newaxis]
    fine = example.resample(x, up=8)
    np.testing.assert_allclose(
        fine[:, 0], np.cos(2 * np.pi * 7 * np.arange(3840) / 3840), atol=1e-12
    )
    np.testing.assert_allclose(example.resample(fine, down=8), x, atol=1e-12)


# The signals


@pytest.mark.parametrize("hertz", [82.4, 196.0, 659.3])
def test_a_string_is_in_tune(hertz):
    y = example.string(np.random.default_rng(0), hertz, 1 << 15)
    assert np.abs(y).max() == 1
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
    near = int(hertz * len(y) / example.RATE)
    peak = near - 10 + np.argmax(spectrum[near - 10 : near + 11])
    assert peak * example.RATE / len(y) == pytest.approx(hertz, rel=0.02)
    assert np.abs(y[-1000:]).max() < np.abs(y[:1000]).max()  # it decays


def test_a_string_is_the_average_of_neighbours_a_period_before():
    y = example.string(np.random.default_rng(0), 480, 1000)
    period = int(example.RATE / 480 - 0.5)
    n = np.arange(period + 1, 1000)
    np.testing.assert_allclose(y[n], 0.499 * (y[n - period] + y[n - period - 1]), atol=1e-12)


def test_signals_differ_and_stay_within_their_volts():
    rng = np.random.default_rng(0)
    for make in (example.chord, example.sweep):
        signals = [make(rng, 4800) for _ in range(20)]
        peaks = [np.abs(s).max() for s in signals]
        assert len(set(peaks)) == 20
        assert 0.19 < min(peaks) < 1 < max(peaks) < 4.5


# What is compared


def test_the_waveshaper_is_right_where_there_is_no_memory():
    x = np.random.default_rng(0).uniform(-1, 1, (4000, 5))
    assert example.error_to_signal(example.waveshape(x, np.tanh(3 * x)), np.tanh(3 * x)) < 1e-4
    assert example.error_to_signal(0 * x, x) == 1


def test_playing_block_by_block_is_the_whole():
    rng = np.random.default_rng(0)
    x = example.chord(rng, 6400)
    amplifier = example.train(x[:1280, np.newaxis], x[:1280, np.newaxis], 3, 0)
    played, seconds = example.play(amplifier, x[:6399])
    assert len(seconds) == 99 and (seconds > 0).all()
    np.testing.assert_allclose(played, amplifier(x[:, np.newaxis])[: 99 * 64, 0], atol=1e-5)
