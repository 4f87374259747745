"""Sequence models on the fused layers: parts, losses, decoding, optimizers, training.

Everything here is NumPy around the fused layers, which are modules as they are:

>>> import numpy as np
>>> from fusedrnn import LSTM, models
>>> body = models.Sequential(models.Embedding(10, 8, seed=0), LSTM(8, 16, seed=0), models.Last())
>>> model = models.SequenceModel(body, models.SoftmaxHead(16, 2, seed=0))
>>> symbols = np.random.default_rng(0).integers(0, 10, (12, 64))  # T, N
>>> data = models.Minibatches(symbols, symbols[3] % 2, batch_size=16, seed=0)
>>> history = models.fit(model, data, models.Adam(model, 0.01), epochs=20, progress=False)
>>> losses = history.column("training_loss")
>>> losses[-1] < losses[0]
True

===============  =================================================================================
parts            `Embedding`, `Linear`, `Conv1d`, `Tanh`, `Relu`, `Dropout`, `Last`, `Mean`,
                 `ScaledDotProductAttention`, `AdditiveAttention`, `Sequential`; and
                 `fusedrnn.LSTM`, `GRU`, `RNN`
heads            `SoftmaxHead`, `RegressionHead`
losses           `linear_cross_entropy`, `linear_squared_error`, `cross_entropy`, `squared_error`,
                 `IGNORE_INDEX`
models           `SequenceModel`, `EncoderDecoder`, `VectorDecoder`
decoding         `greedy`, `beam`, `sample`, `language_step`, `read_prompt`, `select_state`
optimizers       `SGD`, `Adam`, `AdamW`, `RMSprop`, `clip_by_norm`, `global_norm`,
                 `schedules`
training         `fit`, `evaluate`, `History`; data: `Batch`, `Minibatches`, `Streams`
pictures         `plot_history`, `plot_attention`
files            `save`, `load`, `CheckpointError`; `config`, `build`, `register`
===============  =================================================================================
"""

from __future__ import annotations

from . import schedules
from ._generation import select_state
from ._module import Module
from ._registry import build, config, register
from .activation import Relu, Tanh
from .attention import AdditiveAttention, AttentionGradients, ScaledDotProductAttention
from .attention_map import plot_attention
from .beam_search import Beams, beam
from .checkpoint import CheckpointError, load, save
from .convolution import Conv1d
from .data import Batch, Minibatches, Source, Streams
from .decoding import Decoded, greedy, language_step, read_prompt, sample
from .dropout import Dropout
from .embedding import Embedding
from .encoder_decoder import EncoderDecoder, VectorDecoder
from .heads import RegressionHead, SoftmaxHead
from .history import History
from .linear import Linear
from .losses import (
    IGNORE_INDEX,
    HeadGradients,
    LinearLoss,
    Loss,
    cross_entropy,
    linear_cross_entropy,
    linear_squared_error,
    squared_error,
)
from .optimizers import SGD, Adam, AdamW, RMSprop, clip_by_norm, global_norm
from .plots import plot_history
from .pooling import Last, Mean
from .progress import Progress, Report
from .sequence_model import Evaluation, SequenceModel, Step
from .sequential import Sequential
from .training import evaluate, fit

__all__ = [
    "IGNORE_INDEX",
    "SGD",
    "Adam",
    "AdamW",
    "AdditiveAttention",
    "AttentionGradients",
    "Batch",
    "Beams",
    "CheckpointError",
    "Conv1d",
    "Decoded",
    "Dropout",
    "Embedding",
    "EncoderDecoder",
    "Evaluation",
    "HeadGradients",
    "History",
    "Last",
    "Linear",
    "LinearLoss",
    "Loss",
    "Mean",
    "Minibatches",
    "Module",
    "Progress",
    "RMSprop",
    "RegressionHead",
    "Relu",
    "Report",
    "ScaledDotProductAttention",
    "SequenceModel",
    "Sequential",
    "SoftmaxHead",
    "Source",
    "Step",
    "Streams",
    "Tanh",
    "VectorDecoder",
    "beam",
    "build",
    "clip_by_norm",
    "config",
    "cross_entropy",
    "evaluate",
    "fit",
    "global_norm",
    "greedy",
    "language_step",
    "linear_cross_entropy",
    "linear_squared_error",
    "load",
    "plot_attention",
    "plot_history",
    "read_prompt",
    "register",
    "sample",
    "save",
    "schedules",
    "select_state",
    "squared_error",
]


def __dir__() -> list[str]:
    return sorted(__all__)
