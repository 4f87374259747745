"""The language demo: its symbols, its baselines, its model, its files."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from demo_problems import SMALL, TINY, read_data, train
from fusedrnn import models
from fusedrnn.demo import continuations, corpus, ngrams, picture, saved
from fusedrnn.demo.corpus import UNITS, Corpus, Vocabulary
from fusedrnn.demo.judgement import BOUNDS, GAIN, WON, judge
from fusedrnn.demo.model import LAYERS, Config, bits_per_symbol, build, log2_probability, sample
from fusedrnn.demo.ngrams import NGrams
from fusedrnn.demo.saved import Language
from fusedrnn.models import CheckpointError, checkpoint

CELLS = sorted(LAYERS)


def random_symbols(size, shape, seed=0):
    return np.random.default_rng(seed).integers(size, size=shape).astype(np.intp)


# Text


def test_vocabulary_encodes_and_decodes():
    vocabulary = Vocabulary.of("banana\n", "character")
    assert vocabulary.known == ("\n", "a", "b", "n")
    assert len(vocabulary) == 5
    assert vocabulary.decode(vocabulary.encode("nab\n")) == "nab\n"
    assert vocabulary.encode("axb").tolist() == [2, 0, 3]
    assert vocabulary.decode(np.array([0])) == corpus.UNKNOWN


def test_rare_words_are_unknown():
    vocabulary = Vocabulary.of("a cat, a dog, a cat", "word", least=2)
    assert vocabulary.known == (" a", " cat", ",")
    assert vocabulary.encode("a cat, a dog").tolist() == [0, 2, 3, 1, 0]
    assert vocabulary.decode(vocabulary.encode(" a dog, a cat")) == f" a {corpus.UNKNOWN}, a cat"


@pytest.mark.parametrize("unit", UNITS)
def test_tokens_joined_are_the_text(unit):
    text = corpus.read_text()
    plain = text if unit == "character" else corpus.plain(text)
    assert "".join(corpus.tokens(text, unit)) == plain
    for part in (' x ** y  !== "z"\n ', "\n\n\n - a_1...\n   b ------", " ", ""):
        whole = part if unit == "character" else corpus.plain(part)
        assert "".join(corpus.tokens(part, unit)) == whole
        assert corpus.tokens(whole, unit) == corpus.tokens(part, unit)


def test_only_layout_is_lost_with_words():
    assert corpus.plain("A  b\n  c.\n\n\n  D\n=======") == "A b c.\n\nD ==="
    text = corpus.read_text()
    words = re.findall(r"\w+", text)
    assert re.findall(r"\w+", corpus.plain(text)) == words
    assert [t.strip() for t in corpus.tokens(text, "word") if t.strip().isidentifier()] == [
        word for word in words if word.isidentifier()
    ]


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_decoded_encodes_to_the_same_symbols(unit):
    data = read_data(unit)
    again = data.vocabulary.encode(data.vocabulary.decode(data.test))
    np.testing.assert_array_equal(again, data.test)
    assert len(data.vocabulary) == max(data.train.max(), data.test.max()) + 1


def test_text_is_split_nine_to_one():
    text = corpus.read_text()
    first, second = corpus.split(text)
    assert first + second == text
    assert len(first) == len(text) * 9 // 10
    assert len(text) > 300_000


# N-grams


def test_ngrams_by_hand():
    # "aabab" over V = 3 symbols, a = 1, b = 2. Unigram: N(a) = 3, N(b) = 2, N = 5, D = 2.
    # After a: a once, b twice; after b: a once. After ab: a once; after aa: b once; ba: b once.
    baseline = NGrams(np.array([1, 1, 2, 1, 2]), 3)
    unigram = [(2 / 3) / 7, (3 + 2 / 3) / 7, (2 + 2 / 3) / 7]
    after_a = [2 * unigram[0] / 5, (1 + 2 * unigram[1]) / 5, (2 + 2 * unigram[2]) / 5]
    after_b = [unigram[0] / 2, (1 + unigram[1]) / 2, unigram[2] / 2]
    after_ab = [after_b[0] / 2, (1 + after_b[1]) / 2, after_b[2] / 2]

    def p(n, *history):
        return baseline.probability(np.array([[*history, c] for c in range(3)]), n)

    np.testing.assert_allclose(p(0), [1 / 3] * 3, rtol=1e-15)
    np.testing.assert_allclose(p(1), unigram, rtol=1e-15)
    np.testing.assert_allclose(p(2, 1), after_a, rtol=1e-15)
    np.testing.assert_allclose(p(2, 0, 2), after_b, rtol=1e-15)  # looks at one symbol only
    np.testing.assert_allclose(p(2, 0), unigram, rtol=1e-15)  # never seen
    np.testing.assert_allclose(p(3, 1, 2), after_ab, rtol=1e-15)
    np.testing.assert_allclose(p(3, 2, 2), after_b, rtol=1e-15)  # never seen

    # Of "abba" every n is scored on the last two characters.
    text = np.array([1, 2, 2, 1])
    assert baseline.bits(text, 0) == pytest.approx(math.log2(3), rel=1e-14)
    assert baseline.bits(text, 1) == pytest.approx(
        -(math.log2(unigram[2]) + math.log2(unigram[1])) / 2, rel=1e-14
    )
    assert baseline.bits(text, 3) == pytest.approx(
        -(math.log2(after_ab[2]) + math.log2(after_b[1])) / 2, rel=1e-14
    )


@pytest.mark.parametrize("unit", UNITS)
def test_ngrams_are_distributions(unit):
    data = read_data(unit)
    size = len(data.vocabulary)
    baseline = NGrams(data.train, size)
    histories = [data.test[:2], data.train[-2:], np.array([size - 1, 0])]
    for history in histories:
        grams = np.column_stack((np.tile(history, (size, 1)), np.arange(size)))
        for n in range(4):
            p = baseline.probability(grams, n)
            assert p.sum() == pytest.approx(1.0, rel=1e-12)
            assert p.min() > 0.0


@pytest.mark.parametrize(("unit", "low", "high"), [("character", 2.2, 2.8), ("word", 4.5, 5.5)])
def test_baselines_of_the_text_improve_with_order(unit, low, high):
    data = read_data(unit)
    baseline = NGrams(data.train, len(data.vocabulary))
    bits = [baseline.bits(data.test, n) for n in range(4)]
    assert bits[0] == pytest.approx(math.log2(len(data.vocabulary)))
    assert bits == sorted(bits, reverse=True)
    assert low < bits[-1] < high


# Model


@pytest.mark.parametrize("cell", CELLS)
def test_configuration_of_a_model(cell):
    for config in (replace(TINY, cell=cell, layers=2, dropout=0.25), replace(SMALL, cell=cell)):
        model = build(config, 5, seed=3)
        assert Config.of(model) == config
        assert (model.head.classes, model.body["embedding"].symbols) == (5, 5)
        same = build(config, 5, seed=3)
        for name, parameter in model.parameters.items():
            np.testing.assert_array_equal(parameter, same.parameters[name])
        weight = "body.layer.weight_ih_l0"
        other = build(config, 5, seed=4)
        assert (model.parameters[weight] != other.parameters[weight]).all()


def test_an_lstm_begins_with_open_forget_gates():
    model = build(replace(TINY, layers=2), 5, dtype="float64")
    for k in range(2):
        bias = model.parameters[f"body.layer.bias_ih_l{k}"].reshape(4, TINY.hidden)
        bound = TINY.hidden**-0.5
        np.testing.assert_array_less(abs(bias - np.array([[0.0], [1.0], [0.0], [0.0]])), bound)


def test_held_out_bits_are_the_loss_of_the_same_symbols(monkeypatch):
    model = build(TINY, 5, dtype="float64")
    text = random_symbols(5, 40)
    whole = bits_per_symbol(model, text, 1)
    monkeypatch.setattr("fusedrnn.demo.model.EVALUATION_STEPS", 7)
    assert bits_per_symbol(model, text, 1) == pytest.approx(whole, rel=1e-14)
    loss = model.step(models.Batch(text[:-1, np.newaxis], text[1:, np.newaxis])).loss
    assert whole == pytest.approx(loss / math.log(2), rel=1e-14)
    log_p = model.predict(text[:-1, np.newaxis])[0][np.arange(39), 0, text[1:]] / math.log(2)
    assert bits_per_symbol(model, text, 10) == pytest.approx(-log_p[9:].mean(), rel=1e-14)
    assert bits_per_symbol(model, text, 39) == pytest.approx(-log_p[-1], rel=1e-14)


def test_samples_follow_seed_and_temperature():
    model = build(SMALL, 20, seed=0)
    prompt = np.array([3, 1])
    first = sample(model, prompt, 30, 1.0, seed=5)
    assert first.tolist() == sample(model, prompt, 30, 1.0, seed=5).tolist()
    assert first.tolist() != sample(model, prompt, 30, 1.0, seed=6).tolist()
    coldest = sample(model, prompt, 10, 1e-300, seed=0)
    log_p, _ = model.predict(np.append(prompt, coldest)[:, np.newaxis])
    assert coldest.tolist() == log_p[1:-1, 0].argmax(axis=1).tolist()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("cell", CELLS)
def test_short_training_beats_the_unigram(cell, unit):
    data = read_data(unit)
    model = build(replace(SMALL, cell=cell), len(data.vocabulary), seed=0)
    history = train(model, models.Adam(model, 1e-2), 150, unit)
    assert history.stopped == "budget"
    baseline = NGrams(data.train, len(data.vocabulary))
    bits = bits_per_symbol(model, data.test[:5000], 2)
    assert bits < baseline.bits(data.test[:5000], 1) - 0.3


# Continuations


def test_the_probability_of_a_continuation_is_a_product():
    model = build(TINY, 5, seed=1, dtype="float64")
    context, continuation = np.array([3, 1, 4]), np.array([2, 0])
    first = model.predict(context[:, np.newaxis])[0][-1, 0, 2]
    second = model.predict(np.array([[3], [1], [4], [2]]))[0][-1, 0, 0]
    assert log2_probability(model, context, continuation) == pytest.approx(
        (first + second) / math.log(2), rel=1e-14
    )
    every = [log2_probability(model, context, np.array([i, j])) for i in range(5) for j in range(5)]
    assert sum(2.0**value for value in every) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("unit", UNITS)
def test_pairs_are_fair(unit):
    """All symbols are known, and a bad continuation isn't bad for its length."""
    quick = read_data(unit).vocabulary
    for pair in continuations.PAIRS[unit]:
        context, good, bad = (quick.encode(text) for text in pair[:3])
        assert len(context) >= ngrams.CONTEXT
        assert 1 <= len(bad) <= len(good)
        for continuation in (pair.good, pair.bad):
            whole = quick.encode(pair.context + continuation)
            parts = np.append(context, quick.encode(continuation))
            np.testing.assert_array_equal(whole, parts)
            assert pair.hard or whole.all()
    assert 0 < len(continuations.pairs(unit, quick=True)) < len(continuations.pairs(unit, False))


def test_the_trigram_s_probability_of_a_continuation():
    data = read_data()
    baseline = NGrams(data.train, len(data.vocabulary))
    pair = continuations.Pair("xyz", "ab", "c")
    model = build(TINY, len(data.vocabulary), seed=0)
    [comparison] = continuations.compare(model, baseline, data.vocabulary, [pair])
    grams = np.array([data.vocabulary.encode(text) for text in ("yza", "zab", "yzc")])
    a, b, c = baseline.probability(grams, 3)
    assert comparison.of_trigram == pytest.approx((math.log2(a * b), math.log2(c)), rel=1e-14)
    assert "| xyz     | good | ab " in continuations.table([comparison], "LSTM")


@pytest.mark.parametrize("unit", UNITS)
def test_an_untrained_model_meets_no_bound(unit):
    data = read_data(unit)
    model = build(SMALL, len(data.vocabulary), seed=0)
    baseline = NGrams(data.train, len(data.vocabulary))
    figures = judge(model, "LSTM", baseline, data, quick=True).figures("LSTM")
    assert figures[GAIN] < -3.0
    assert figures[WON] < 0.8
    assert not any(bound.met(figures[bound.name], True) for bound in BOUNDS)


# Files


@pytest.fixture(name="language", scope="module")
def fixture_language():
    data = read_data()
    model = build(replace(SMALL, dropout=0.25), len(data.vocabulary), seed=0)
    adam = models.Adam(model, 1e-2)
    train(model, adam, 5)
    return Language(model, data.vocabulary, data.hash), adam


@pytest.mark.parametrize("suffix", checkpoint.SUFFIXES)
def test_a_saved_model_continues_as_if_never_stopped(suffix, tmp_path):
    data = read_data()
    model = build(replace(SMALL, dropout=0.25), len(data.vocabulary), seed=0)
    adam = models.Adam(model, 1e-2)
    train(model, adam, 5)
    path = tmp_path / f"model{suffix}"
    saved.save(path, Language(model, data.vocabulary, "hash"), adam)
    names = {f"model{suffix}", f"model.adam{suffix}"}
    assert {entry.name for entry in tmp_path.iterdir()} == names

    loaded = saved.load(path)
    other = loaded.model
    assert (Config.of(other), loaded.vocabulary) == (Config.of(model), data.vocabulary)
    assert loaded.text == "hash"
    other_adam = models.Adam(other, 1e-2)
    assert saved.load_adam(path, other_adam)
    text = data.test[:2000]
    assert bits_per_symbol(other, text, 2) == bits_per_symbol(model, text, 2)
    train(model, adam, 3)
    train(other, other_adam, 3)
    for name, parameter in model.parameters.items():
        np.testing.assert_array_equal(parameter, other.parameters[name], err_msg=name)


def test_a_saved_model_is_one_of_models(language, tmp_path):
    path = tmp_path / "model.npz"
    saved.save(path, *language)
    model = models.load(path)
    assert models.config(model) == models.config(language[0].model)
    assert model.random_state == language[0].model.random_state


def test_adam_may_be_missing_but_not_another(language, tmp_path):
    path = tmp_path / "model.npz"
    saved.save(path, *language)
    model = saved.load(path).model
    train(model, models.Adam(model, 1e-2), 1)
    adam = models.Adam(model, 1e-2)
    with pytest.raises(CheckpointError, match=r"model\.adam\.npz: is of another model"):
        saved.load_adam(path, adam)
    saved.adam_path(path).unlink()
    assert not saved.load_adam(path, adam)
    assert adam.steps == 0


def test_other_files_are_refused(language, tmp_path):
    path = tmp_path / "model.npz"
    models.save(path, language[0].model)
    with pytest.raises(CheckpointError, match=r"model\.npz: is not a language model of this demo"):
        saved.load(path)
    fewer = replace(language[0], vocabulary=Vocabulary("character", ("a", "b")))
    saved.save(path, fewer, language[1])
    with pytest.raises(CheckpointError, match=r"model\.npz: broken, .*expected 3 symbols"):
        saved.load(path)
    metadata, arrays = checkpoint.read(path, checkpoint.MODEL)
    metadata["language"]["unit"] = "sentence"
    del metadata["format"]
    checkpoint.write(path, checkpoint.MODEL, metadata, arrays)
    with pytest.raises(CheckpointError, match=r"model\.npz: broken, .*unit 'sentence'"):
        saved.load(path)


# Picture


def test_the_picture_has_all_models(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    figure = picture.plots.figure
    monkeypatch.setattr(
        picture.plots, "figure", lambda *size: drawn.append(figure(*size)) or drawn[0]
    )
    records = [{"step": 25 * k, "training_loss": 3.0 / k} for k in (1, 2, 3)]
    path = tmp_path / "a.png"
    bits = {"bigram": 3.25, "LSTM": 2.0}
    picture.draw(models.History(records), bits, "LSTM", "word", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(y, np.array([3.0, 1.5, 1.0]) / math.log(2))
    assert list(x) == [25, 50, 75]
    assert [text.get_text() for text in axes.texts] == ["bigram 3.25"]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["LSTM, training", "LSTM, held out: 2.00"]
    with pytest.raises(ValueError, match="history: expected at least one record, got none"):
        picture.draw(models.History(), bits, "LSTM", "word", path)


def test_a_corpus_of_another_vocabulary():
    data = Corpus.read_as(Vocabulary("character", ("e", "t")))
    assert set(data.train) == {0, 1, 2}
    assert data.hash == read_data().hash
