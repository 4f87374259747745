"""Small models and data for the tests of the demo."""

from __future__ import annotations

import functools

from fusedrnn.demo import command, training
from fusedrnn.demo.adam import Adam
from fusedrnn.demo.model import Config, Model
from fusedrnn.demo.training import Recipe, Report

TINY = Config(hidden=4, embedding=3)
SMALL = Config(hidden=32, embedding=16)


@functools.cache
def read_data() -> command.Data:
    return command._read(None)


def run_steps(model: Model, adam: Adam, steps: int, **options) -> Report:
    recipe = Recipe(streams=16, steps=32, learning_rate=1e-2)
    budget = training.for_steps(steps)
    return training.train(model, adam, read_data().train, budget, recipe=recipe, seed=0, **options)
