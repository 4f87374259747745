"""What a model has learned: bits per symbol on held-out text, and continuations."""

from __future__ import annotations

from dataclasses import dataclass

from .. import models
from . import ngrams
from .continuations import Comparison, compare, pairs, share_won
from .corpus import Corpus
from .example import Bound
from .model import bits_per_symbol
from .ngrams import NGrams

GAIN, WON = "bits per symbol below the bigram's", "good continuations that win"

#: With ``--quick``. Five seeds gave 1.02 to 1.10 bits for characters, 0.38 to 0.46 for words, and
#: all good continuations won. An untrained model is more than 3 bits behind the bigram.
BOUNDS = (Bound(GAIN, at_least=0.2), Bound(WON, at_least=0.8))


@dataclass(frozen=True)
class Judgement:
    """What was measured."""

    bits: dict[str, float]  # held out, per symbol, by the name of the model; n-grams first
    comparisons: list[Comparison]

    def figures(self, name: str) -> dict[str, float]:
        """Return what `BOUNDS` are for, of the model with this name."""
        won = share_won([comparison.of_model for comparison in self.comparisons])
        return {GAIN: self.bits["bigram"] - self.bits[name], WON: won}


def judge(
    model: models.SequenceModel, name: str, baseline: NGrams, corpus: Corpus, quick: bool
) -> Judgement:
    """Return what a model and the n-grams make of the text that is held out."""
    bits = {n_gram: baseline.bits(corpus.test, n) for n, n_gram in enumerate(ngrams.NAMES)}
    bits[name] = bits_per_symbol(model, corpus.test, ngrams.CONTEXT)
    chosen = pairs(corpus.vocabulary.unit, quick)
    return Judgement(bits, compare(model, baseline, corpus.vocabulary, chosen))
