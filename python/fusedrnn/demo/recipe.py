"""How each model is made and trained: sizes, streams, learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from .model import Config


@dataclass(frozen=True)
class Recipe:
    """How to train: truncated back-propagation through time over parallel streams of the text.

    Every step reads T symbols of each of B streams and carries the state on to the next step, so
    the model sees all that came before while gradients go back T symbols.
    """

    config: Config  # of a new model
    streams: int = 16  # B
    steps: int = 32  # T
    learning_rate: float = 5e-3  # at its highest
    clip_norm: float = 1.0
    least: int = 1  # how often a character or word must occur in the text to be a symbol
    budget: int | None = None  # steps of training; None: as many as the time allows


#: The best of a few that were tried, by the unit.
#:
#: Characters: few streams and short segments make many steps; twice as many streams and characters
#: per step were a third of a bit behind after the same time. Learning rates of 4e-3 to 9e-3 are
#: within 0.06 bits.
#:
#: Words: there are only 90,000, so more units learn them by heart sooner than they generalise, and
#: the head takes most of the time, V times the units.
RECIPES = {
    "character": Recipe(Config(hidden=256)),
    "word": Recipe(Config(hidden=128, dropout=0.2), streams=8, learning_rate=1e-2, least=2),
}

#: For ``--quick``: 4 to 5 seconds of one core.
QUICK = {
    "character": Recipe(Config(hidden=96), learning_rate=1e-2, budget=800),
    "word": Recipe(Config(hidden=64), learning_rate=2e-2, least=8, budget=500),
}
