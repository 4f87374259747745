"""Encoder-decoder and vector-decoder: what they generate, what they look at, what they learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusedrnn import GRU, LSTM
from fusedrnn.models import (
    Adam,
    Batch,
    Embedding,
    EncoderDecoder,
    ScaledDotProductAttention,
    SoftmaxHead,
    VectorDecoder,
    beam,
    clip_by_norm,
    sample,
)
from translation_problems import (
    MODELS,
    START,
    batch_for,
    plain_attention,
    plain_log_p,
    plain_state,
    recur,
    sequences,
    under,
)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


# Generation


def plain_best(model, inputs, longest: int) -> list[int]:
    """The greedy sequence of one row, by the plain sum, with all of it run anew at each step."""
    chosen: list[int] = []
    values = dict(model.parameters)
    while len(chosen) < longest and model.end not in chosen:
        targets = np.array([*chosen, 0])
        chosen.append(int(plain_log_p(model, values, inputs, targets)[-1].argmax()))
    return chosen


def sharpened(model, factor=6.0):
    """With probabilities that are further from equal, so that sequences differ."""
    with model.edit_parameters() as parameters:
        for array in parameters.values():
            array *= 1.7
        parameters["head.weight"] *= factor
        parameters["head.bias"][:] = 0
    return model


def given_inputs(batch):
    return (batch.inputs, batch.lengths)


def test_greedy_decoding_is_the_plain_one(model):
    sharpened(model)
    found = set()
    for seed in range(4):
        batch = batch_for(model, seed)
        decoded = model.decode(*given_inputs(batch), max_length=6)
        for b, (inputs, _, _) in enumerate(sequences(batch)):
            want = plain_best(model, inputs, 6)
            assert decoded.symbols[: decoded.lengths[b], b].tolist() == want
            found.add(tuple(want))
            values = dict(model.parameters)
            log_p = plain_log_p(model, values, inputs, np.array(want))
            total = log_p[np.arange(len(want)), want].sum()
            assert decoded.log_p[b] == pytest.approx(total, rel=1e-10)
    assert len(found) > 1


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_decoding_by_beam_is_the_beam_of_the_step_function(model, width, length_penalty):
    sharpened(model, 2.0)
    batch = batch_for(model)
    step, state = model.start_decoding(*given_inputs(batch))
    beams = beam(
        step,
        state,
        start=START,
        end=model.end,
        max_length=5,
        width=width,
        length_penalty=length_penalty,
    )
    decoded = model.decode(
        *given_inputs(batch), max_length=5, width=width, length_penalty=length_penalty
    )
    np.testing.assert_array_equal(decoded.symbols, beams.best().symbols)
    for b, (inputs, _, _) in enumerate(sequences(batch)):
        for w in range(width):
            sequence = beams.symbols[: beams.lengths[b, w], b, w]
            log_p = plain_log_p(model, dict(model.parameters), inputs, sequence)
            total = log_p[np.arange(len(sequence)), sequence].sum()
            assert beams.log_p[b, w] == pytest.approx(total, rel=1e-10)


def test_a_length_penalty_makes_sequences_longer():
    lengths = {0.0: 0, 3.0: 0}
    for seed in range(5):
        model = MODELS["one state, dot"]()
        batch = batch_for(model, seed)
        for power in lengths:
            decoded = model.decode(
                *given_inputs(batch), max_length=6, width=4, length_penalty=power
            )
            lengths[power] += int(decoded.lengths.sum())
    assert lengths[3.0] > lengths[0.0] + 15


def test_the_log_p_of_a_generated_sequence_is_its_loss(model):
    batch = batch_for(model)
    step, state = model.start_decoding(*given_inputs(batch))
    drawn = sample(step, state, start=START, end=model.end, max_length=7, seed=1)
    again = replace(batch, targets=drawn.symbols, target_lengths=drawn.lengths, weights=None)
    evaluation = model.evaluate(again)
    assert evaluation.count == drawn.lengths.sum()
    assert evaluation.loss * evaluation.count == pytest.approx(-drawn.log_p.sum(), rel=1e-12)


def test_generation_without_an_end():
    model = MODELS["vector of an encoder"]()
    assert model.end is None
    batch = batch_for(model)
    assert model.decode(*given_inputs(batch), max_length=9).lengths.tolist() == [9, 9, 9]


# The map


@pytest.mark.parametrize("name", ["one state, dot", "both directions, dot", "layers, additive"])
def test_the_attention_map_is_the_plain_one(name):
    model = MODELS[name]()
    batch = batch_for(model)
    weights = model.attention_map(batch.inputs, batch.targets, batch.lengths, batch.target_lengths)
    assert weights.shape == (4, 3, 4)
    values = dict(model.parameters)
    for b, (inputs, targets, _) in enumerate(sequences(batch)):
        memory, state = plain_state(model, values, inputs)
        u = values["target.weight"][np.concatenate(([START], targets[:-1]))]
        state = state if len(state) > 1 else state[0]
        h, _ = recur(model.decoder, under(values, "decoder"), u, state)
        want = plain_attention(model, values, h, memory)
        steps, length = want.shape
        np.testing.assert_allclose(weights[:steps, b, :length], want, rtol=1e-11)
        assert not weights[steps:, b].any() and not weights[:, b, length:].any()


# Learning


def reversal(rng, rows: int, longest=8, symbols=8) -> Batch:
    """Symbols from 2, to be written in reverse, and then the end symbol, 1."""
    lengths = rng.integers(2, longest + 1, size=rows)
    inputs = rng.integers(2, symbols, size=(longest, rows))
    targets = np.ones((longest + 1, rows), int)
    for b, n in enumerate(lengths):
        targets[:n, b] = inputs[:n, b][::-1]
    return Batch(inputs, targets, lengths, lengths + 1)


def exact(model, batch: Batch, **options) -> float:
    """The part of the sequences that is right from the first symbol to the end symbol."""
    decoded = model.decode(batch.inputs, batch.lengths, max_length=12, **options)
    right = [
        n == m and (decoded.symbols[:n, b] == batch.targets[:n, b]).all()
        for b, (n, m) in enumerate(zip(batch.target_lengths, decoded.lengths, strict=True))
    ]
    return float(np.mean(right))


def reverser(attention: bool) -> EncoderDecoder:
    return EncoderDecoder(
        Embedding(8, 16, seed=1),
        GRU(16, 16, bidirectional=True, seed=2),
        Embedding(8, 16, seed=3),
        GRU(16, 32, seed=4),
        SoftmaxHead(32, 8, seed=5),
        attention=ScaledDotProductAttention(32, 32, 16, seed=7) if attention else None,
        start=0,
        end=1,
        seed=6,
    )


def train(model, steps: int) -> None:
    optimizer = Adam(model, 1e-2)
    for k in range(steps):
        gradients = model.step(reversal(np.random.default_rng([1, k]), 32)).gradients
        clip_by_norm(gradients, 1.0)
        optimizer.step(gradients, learning_rate=1e-2 * (1 - 0.9 * k / steps))


@pytest.fixture(scope="module")
def trained():
    model = reverser(attention=True)
    train(model, 400)
    return model


HELD_OUT = reversal(np.random.default_rng(0), 200)


def test_it_learns_to_write_in_reverse(trained):
    """Which the same model without attention doesn't in that time: it came to 0.60 and 0.64."""
    assert exact(reverser(attention=True), HELD_OUT) == 0
    assert exact(trained, HELD_OUT) > 0.95
    assert exact(trained, HELD_OUT, width=4) > 0.95
    without = reverser(attention=False)
    train(without, 400)
    assert exact(without, HELD_OUT) < 0.8
    assert exact(without, HELD_OUT, width=4) < 0.8


def test_it_looks_at_what_it_writes(trained):
    """At the symbol of the source, or beside it: the encoder's states know their neighbours."""
    weights = trained.attention_map(
        HELD_OUT.inputs, HELD_OUT.targets, HELD_OUT.lengths, HELD_OUT.target_lengths
    )
    seen = weights.argmax(axis=-1)
    close = [
        abs(seen[t, b] - (n - 1 - t)) <= 1 for b, n in enumerate(HELD_OUT.lengths) for t in range(n)
    ]
    assert np.mean(close) > 0.95


def signs(rng, rows: int, count=6) -> Batch:
    """Numbers, whose signs are to be written, 2 or 3, and then the end symbol, 1."""
    numbers = rng.choice([-1, 1], size=(rows, count)) * rng.uniform(0.3, 1.5, size=(rows, count))
    targets = np.ones((count + 1, rows), int)
    targets[:count] = np.where(numbers.T > 0, 3, 2)
    return Batch(numbers.astype(np.float32), targets)


def test_it_learns_to_write_a_vector_down():
    """Written by chance 1 of 64 is right."""
    model = VectorDecoder(
        6,
        Embedding(4, 8, seed=1),
        LSTM(8, 24, seed=2),
        SoftmaxHead(24, 4, seed=3),
        start=0,
        end=1,
        seed=4,
    )
    optimizer = Adam(model, 1e-2)
    for k in range(300):
        gradients = model.step(signs(np.random.default_rng([1, k]), 32)).gradients
        clip_by_norm(gradients, 1.0)
        optimizer.step(gradients)
    held_out = signs(np.random.default_rng(0), 200)
    decoded = model.decode(held_out.inputs, max_length=9)
    assert decoded.symbols.shape[0] >= 7
    right = (decoded.lengths == 7) & (decoded.symbols[:7] == held_out.targets).all(axis=0)
    assert right.mean() > 0.95
