"""P(continuation | context) for good and bad continuations: what a model knows of the language.

::

    log P(c_1 .. c_n | context) = sum_k log p(c_k | context, c_1 .. c_{k-1})

A bad one is what fits a shorter memory: it isn't longer than the good one, and it goes well with
the symbols right before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from .. import models
from . import ngrams
from .corpus import Symbols, Vocabulary
from .model import log2_probability
from .ngrams import NGrams


class Pair(NamedTuple):
    """A context and two continuations; `hard` is one that takes more than seconds to learn."""

    context: str
    good: str
    bad: str
    hard: bool = False


#: By the unit. Characters spell first; grammar and meaning come later.
PAIRS: dict[str, tuple[Pair, ...]] = {
    "character": (
        Pair(" the value of the expr", "ession", "int"),
        Pair(" written in Pyth", "on", "er"),
        Pair(" and otherw", "ise", "ith"),
        Pair(" the meth", "od", "er"),
        Pair(" the argu", "ments", "ing"),
        Pair(" is a dict", "ionary", "ate", hard=True),
        Pair(" the value of the", " expression", " statement", hard=True),
        Pair(" must return an", " integer", " string", hard=True),
        Pair("This method is", " called", " object", hard=True),
        Pair("The following operations", " are", " is", hard=True),
    ),
    "word": (
        Pair(" the value of the", " expression", " statement"),
        Pair("This method is", " called", " object"),
        Pair("These methods", " are", " is"),
        Pair(" is not a", " string", " are"),
        Pair("The default value", " is", " the"),
        Pair(" must return an", " integer", " string", hard=True),
        Pair("If the list is", " empty", " class", hard=True),
        Pair(" (usually a class", ")", ".", hard=True),
    ),
}


class Odds(NamedTuple):
    """log2 P of both continuations."""

    good: float
    bad: float


@dataclass(frozen=True)
class Comparison:
    """What two models think of a pair."""

    pair: Pair
    of_model: Odds
    of_trigram: Odds


def pairs(unit: str, quick: bool) -> list[Pair]:
    """Return what is compared."""
    return [pair for pair in PAIRS[unit] if not (quick and pair.hard)]


def compare(
    model: models.SequenceModel, baseline: NGrams, vocabulary: Vocabulary, pairs: Sequence[Pair]
) -> list[Comparison]:
    """Return what a model and the trigram think of pairs."""
    found = []
    for pair in pairs:
        context, *continuations = (vocabulary.encode(text) for text in pair[:3])
        of_model = [log2_probability(model, context, c) for c in continuations]
        of_trigram = [_log2_of_trigram(baseline, context, c) for c in continuations]
        found.append(Comparison(pair, Odds(*of_model), Odds(*of_trigram)))
    return found


def share_won(odds: Sequence[Odds]) -> float:
    """Return how many of the good continuations are the more probable, as a part of all.

    Examples
    --------
    >>> share_won([Odds(-3.0, -5.0), Odds(-6.0, -4.0)])
    0.5
    """
    return sum(good > bad for good, bad in odds) / len(odds)


def table(comparisons: Sequence[Comparison], name: str) -> str:
    """Return P(continuation | context) as a table of text; `name` is the model's."""
    rows = [("context", "", "continuation", name, "trigram")]
    for c in comparisons:
        context = c.pair.context.strip()
        for kind in ("good", "bad"):
            p, q = (f"{2.0 ** getattr(odds, kind):.2g}" for odds in (c.of_model, c.of_trigram))
            rows.append((context, kind, getattr(c.pair, kind).strip(), p, q))
            context = ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    layout = "| {:{}} | {:{}} | {:{}} | {:>{}} | {:>{}} |"
    lines = [layout.format(*chain(*zip(row, widths, strict=True))) for row in rows]
    rule = "|".join("-" * (w + 1) + (":" if k > 2 else "-") for k, w in enumerate(widths))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _log2_of_trigram(baseline: NGrams, context: Symbols, continuation: Symbols) -> float:
    grams = ngrams.windows(np.concatenate((context, continuation)), ngrams.ORDER)
    return float(np.log2(baseline.probability(grams[-len(continuation) :], ngrams.ORDER)).sum())
