"""Small models and data for the tests of the language demo."""

from __future__ import annotations

import functools

from fusedrnn import models
from fusedrnn.demo.corpus import Corpus
from fusedrnn.demo.model import Config
from fusedrnn.demo.recipe import QUICK

TINY = Config(hidden=4, embedding=3)
SMALL = Config(hidden=32, embedding=16)


@functools.cache
def read_data(unit: str = "character") -> Corpus:
    return Corpus.read(unit, QUICK[unit].least)


def train(model: models.SequenceModel, adam: models.Adam, steps: int, unit: str = "character"):
    """Train for some steps; the data go on with Adam's steps."""
    data = models.Streams(read_data(unit).train, streams=16, steps=32, seed=adam.steps)
    return models.fit(model, data, adam, steps=steps, clip_norm=1.0, progress=False)
