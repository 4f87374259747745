"""What the demo prints."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Mapping

from .. import models
from ..models import Report
from . import continuations
from .corpus import Corpus
from .judgement import Judgement
from .model import Config
from .recipe import Recipe

PROMPT = 'The "'
SAMPLE_LENGTH = {"character": 400, "word": 100}


def show(text: str) -> None:
    """Print what the terminal can show of a text."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def head(corpus: Corpus, config: Config, model: models.SequenceModel) -> None:
    """Print what is trained on what."""
    unit = corpus.vocabulary.unit
    weights = sum(p.size for p in model.parameters.values())
    unknown = float((corpus.test == 0).mean())
    show(
        f"Text: the topics of Python's help(), {len(corpus.train):,} {unit}s to train on, "
        f"{len(corpus.test):,} held out, {len(corpus.vocabulary):,} symbols."
    )
    if unit == "word":
        show(
            "A word comes with the space before it; marks and breaks are words, too.\n"
            f"{100 * unknown:.1f}% of the words held out are rare ones, which share a symbol."
        )
    dropout = f", dropout {config.dropout:g}" if config.dropout > 0 else ""
    show(
        f"Model: embedding {config.embedding}, {config.cell.upper()} with {config.layers} x "
        f"{config.hidden} units, softmax{dropout}; {weights:,} weights."
    )


def sample(text: str, when: str, temperature: float) -> None:
    """Print a text that the model goes on with after `PROMPT`."""
    text = PROMPT + text
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, 90) or [""]]
    shown = "\n".join(f"  | {line}" for line in lines)
    show(f"\nSample {when}, temperature {temperature:g}:\n{shown}\n")


def training(last: Report, stopped: str, length: int, unit: str, recipe: Recipe) -> None:
    """Print how the training went; the text has so many symbols."""
    show(
        f"{last.step:,} steps of {recipe.streams} x {recipe.steps} {unit}s, "
        f"{last.targets / length:.1f} passes over the text, "
        f"{last.targets / last.seconds:,.0f} {unit}s/s."
    )
    if stopped == "interrupt":
        show("Interrupted: this is how far it got. Ctrl-C again stops at once.")


def judgement(found: Judgement, name: str, unit: str) -> None:
    """Print how good the model is on held-out text, and what it makes of continuations."""
    show(f"{_bits_table(found.bits, unit)}\n")
    gain = found.bits["trigram"] - found.bits[name]
    if gain > 0.0:
        show(f"The {name} beats the trigram by {gain:.3f} bits per {unit}.")
    else:
        show(f"The {name} does NOT beat the trigram: it is {-gain:.3f} bits per {unit} behind.")
    comparisons = found.comparisons
    show(f"\n{continuations.table(comparisons, name)}\n")
    won = {
        name: continuations.share_won([c.of_model for c in comparisons]),
        "trigram": continuations.share_won([c.of_trigram for c in comparisons]),
    }
    shown = ", ".join(f"{share * len(comparisons):.0f} by the {n}" for n, share in won.items())
    show(f"Good continuations preferred to bad ones, of {len(comparisons)}: {shown}.")


def perplexity(bits: float) -> float:
    """Return 2^bits: among so many equally probable symbols the choice would be as hard.

    Examples
    --------
    >>> perplexity(3.0), perplexity(1e9)
    (8.0, inf)
    """
    return 2.0**bits if bits < sys.float_info.max_exp else math.inf


def _bits_table(bits: Mapping[str, float], unit: str) -> str:
    width = max(map(len, bits))
    heads = f"held-out bits per {unit}", f"perplexity per {unit}"
    first, second = (len(text) for text in heads)
    rows = [
        f"| {name:{width}} | {value:{first}.3f} | {perplexity(value):{second},.2f} |"
        for name, value in bits.items()
    ]
    rule = f"|-{'-' * width}-|-{'-' * first}:|-{'-' * second}:|"
    return "\n".join([f"| {'model':{width}} | {heads[0]} | {heads[1]} |", rule, *rows])
