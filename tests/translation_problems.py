"""What the tests of encoder-decoders share: small models, ragged batches, and the plain sum.

The plain sum is the loss of one sequence after the other, without padding, by the reference.
"""

from __future__ import annotations

import numpy as np

from fusedrnn import GRU, LSTM, RNN, reference
from fusedrnn.models import (
    AdditiveAttention,
    Batch,
    Embedding,
    EncoderDecoder,
    Last,
    Linear,
    ScaledDotProductAttention,
    Sequential,
    SoftmaxHead,
    VectorDecoder,
)

F8 = "float64"
SYMBOLS, CLASSES = 6, 5
START, END = 0, 1
LENGTHS, TARGET_LENGTHS = [4, 1, 3], [3, 4, 1]


def translator(encoder, decoder, attention=None, width=None, source=None) -> EncoderDecoder:
    """A model of these layers; the head's input has another size where there is attention."""
    hidden = decoder._network.output_size
    return EncoderDecoder(
        Embedding(SYMBOLS, 3, dtype=F8, seed=1) if source is None else source,
        encoder,
        Embedding(CLASSES, 2, dtype=F8, seed=2),
        decoder,
        SoftmaxHead(hidden if width is None else width, CLASSES, dtype=F8, seed=3),
        attention=attention,
        start=START,
        end=END,
        seed=4,
    )


def dot(query=4, memory=4):
    return ScaledDotProductAttention(query, memory, 3, dtype=F8, seed=7)


MODELS = {
    "one state, dot": lambda: translator(
        LSTM(3, 4, dtype=F8, seed=5), LSTM(2, 4, dtype=F8, seed=6), dot(), 3
    ),
    "both directions, dot": lambda: translator(
        GRU(3, 2, bidirectional=True, dtype=F8, seed=5), GRU(2, 4, dtype=F8, seed=6), dot(), 5
    ),
    "layers, additive": lambda: translator(
        LSTM(3, 2, 2, bidirectional=True, dtype=F8, seed=5),
        LSTM(2, 3, 2, dtype=F8, seed=6),
        AdditiveAttention(3, 4, 5, dtype=F8, seed=7),
        4,
    ),
    "other cells, no attention": lambda: translator(
        GRU(3, 4, dtype=F8, seed=5), LSTM(2, 3, proj_size=2, dtype=F8, seed=6)
    ),
    "as many states of two directions": lambda: translator(
        RNN(3, 2, bidirectional=True, dtype=F8, seed=5), RNN(2, 2, 2, dtype=F8, seed=6)
    ),
    "numbers": lambda: translator(
        GRU(3, 4, dtype=F8, seed=5),
        GRU(2, 4, dtype=F8, seed=6),
        dot(),
        4,
        Linear(2, 3, dtype=F8, seed=1),
    ),
    "vector": lambda: VectorDecoder(
        3,
        Embedding(CLASSES, 2, dtype=F8, seed=2),
        LSTM(2, 4, 2, dtype=F8, seed=6),
        SoftmaxHead(4, CLASSES, dtype=F8, seed=3),
        start=START,
        end=END,
        seed=4,
    ),
    "vector of an encoder": lambda: VectorDecoder(
        4,
        Embedding(CLASSES, 2, dtype=F8, seed=2),
        GRU(2, 3, dtype=F8, seed=6),
        SoftmaxHead(3, CLASSES, dtype=F8, seed=3),
        encoder=Sequential(
            Embedding(SYMBOLS, 3, dtype=F8, seed=1), GRU(3, 4, dtype=F8, seed=5), Last(dtype=F8)
        ),
        start=START,
        seed=4,
    ),
}


def batch_for(model, seed=0, lengths=LENGTHS, target_lengths=TARGET_LENGTHS, steps=(4, 4)) -> Batch:
    rng = np.random.default_rng(seed)
    rows = len(TARGET_LENGTHS)
    inputs = rng.integers(SYMBOLS, size=(steps[0], rows))
    if isinstance(model, EncoderDecoder) and isinstance(model.source, Linear):
        inputs = rng.normal(size=(steps[0], rows, 2))
    if isinstance(model, VectorDecoder) and model.encoder is None:
        inputs, lengths = rng.normal(size=(rows, 3)), None
    targets = rng.integers(CLASSES, size=(steps[1], rows))
    weights = rng.uniform(0.5, 2.0, size=targets.shape)
    return Batch(
        inputs,
        targets,
        None if lengths is None else np.array(lengths),
        None if target_lengths is None else np.array(target_lengths),
        weights,
    )


# The plain sum


def under(parameters, name: str) -> dict[str, np.ndarray]:
    """The parameters of a part."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}


def recur(layer, parameters, x, state=None):
    """y (T, H) and the last state of one sequence, by the reference."""
    y, last = reference.infer(layer._network.cell, x, parameters, state)
    return y, last if isinstance(last, tuple) else (last,)


def plain_state(model, values, inputs):
    """The memory (S, M) and z_0 of one sequence."""
    if isinstance(model, VectorDecoder):
        memory, vector = None, inputs
        if model.encoder is not None:
            x = values["encoder.0.weight"][inputs]
            vector = recur(model.encoder["1"], under(values, "encoder.1"), x)[0][-1]
    else:
        source = under(values, "source")
        x = inputs @ source["weight"].T + source["bias"] if inputs.ndim == 2 else None
        x = source["weight"][inputs] if x is None else x
        memory, last = recur(model.encoder, under(values, "encoder"), x)
        vector = np.concatenate([state.ravel() for state in last])
        if "bridge.weight" not in values:
            return memory, last
    z = np.tanh(values["bridge.weight"] @ vector + values["bridge.bias"])
    network = model.decoder._network
    layers, states = network.num_layers, reference.CELLS[network.cell].states
    sizes = [network.output_size, network.hidden_size][: len(states)]
    parts = np.split(z, np.cumsum([layers * n for n in sizes])[:-1])
    return memory, tuple(part.reshape(layers, -1) for part in parts)


def plain_attention(model, values, h, memory):
    """a (T, S) of one sequence."""
    p = under(values, "attention")
    query, key = h @ p["query"].T, memory @ p["key"].T
    if isinstance(model.attention, ScaledDotProductAttention):
        scores = query @ key.T / np.sqrt(query.shape[1])
    else:
        scores = np.tanh(query[:, None] + key[None] + p["bias"]) @ p["v"]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def plain_log_p(model, values, inputs, targets):
    """log p (T, K) of one sequence without padding."""
    memory, state = plain_state(model, values, inputs)
    before = np.concatenate(([model.start], targets[:-1]))
    u = values["target.weight"][before]
    state = state if len(state) > 1 else state[0]
    h, _ = recur(model.decoder, under(values, "decoder"), u, state)
    if model.attention is not None:
        context = plain_attention(model, values, h, memory) @ memory
        h = np.tanh(np.concatenate((context, h), axis=1) @ values["combine.weight"].T)
    o = h @ values["head.weight"].T + values["head.bias"]
    return o - np.log(np.exp(o).sum(axis=1, keepdims=True))


def sequences(batch: Batch):
    """The inputs, targets and weights of each sequence, without padding."""
    for b in range(batch.targets.shape[1]):
        steps = len(batch.targets) if batch.target_lengths is None else batch.target_lengths[b]
        if batch.inputs.dtype.kind == "f" and batch.inputs.ndim == 2:
            inputs = batch.inputs[b]
        else:
            inputs = batch.inputs[: None if batch.lengths is None else batch.lengths[b], b]
        yield inputs, batch.targets[:steps, b], batch.weights[:steps, b]


def plain_loss(model, batch: Batch) -> float:
    values, total, count = dict(model.parameters), 0.0, 0.0
    for inputs, targets, weights in sequences(batch):
        log_p = plain_log_p(model, values, inputs, targets)
        total -= (weights * log_p[np.arange(len(targets)), targets]).sum()
        count += weights.sum()
    return total / count
