"""A language model over words in PyTorch, by torch's LSTM and by fusedrnn's in its place.

    p(w_{t+1} | w_1 .. w_t) = softmax(E drop(y_t) + b)      y = LSTM(drop(E_{w_t}))

E is the embedding and also the head's matrix (Press and Wolf, Using the Output Embedding to Improve
Language Models, EACL 2017). Truncated back-propagation through time: batches follow each other in
the text, the state goes from one to the next and gradients don't. Gradients are clipped by norm.

``python examples/torch_dropin.py`` trains twice from the same weights: as it stands, and after
``fusedrnn.torch.accelerate(model)``. Both have the same losses, within rounding, at every step. The
text is that of Python's `help()`, which every CPython carries.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fusedrnn.torch
from fusedrnn.demo import corpus

UNKNOWN = 0  # the symbol of words that are rare, or that the training text lacks
FEWEST = 3  # times a word must occur to have a symbol of its own
CLIP = 0.25
RATE = 2.0  # of gradient descent; at 5 rounding grows to differences of 0.1


@dataclass(frozen=True)
class Settings:
    """How large, and how long."""

    size: int  # I = H, and the width of the embedding
    layers: int
    batch: int  # B
    steps: int  # T, of a batch
    batches: int  # at most
    epochs: int
    dropout: float = 0.2


FULL = Settings(size=256, layers=2, batch=20, steps=35, batches=10_000, epochs=2)
QUICK = Settings(size=32, layers=2, batch=10, steps=20, batches=40, epochs=1)

# Of the losses, in nats a word. Rounding differs, and every step of training passes on, and may
# enlarge, what the last one left. The largest differences found were 2.3e-5, and 8.1e-6 with QUICK.
TOLERANCE = 1e-3


class LanguageModel(torch.nn.Module):
    """Embedding, LSTM, and a head on the embedding's own weights, with dropout in between.

    Dropout stands between the modules, where both runs draw the same masks. The LSTM's own, between
    its layers, would be drawn by torch in one run and by fusedrnn in the other.
    """

    def __init__(self, words: int, settings: Settings) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(words, settings.size)
        self.dropout = torch.nn.Dropout(settings.dropout)
        self.lstm = torch.nn.LSTM(settings.size, settings.size, settings.layers)
        self.head = torch.nn.Linear(settings.size, words)
        torch.nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the scores (T, B, words) of each next word, and the state after the last one."""
        y, state = self.lstm(self.dropout(self.embedding(words)), state)
        return self.head(self.dropout(y)), state


def read_words() -> tuple[Tensor, Tensor, int]:
    """Return the text to train on, the text to test on, and the number of symbols."""
    train, test = (re.findall(r"\w+|[^\w\s]", part) for part in corpus.split(corpus.read_text()))
    known = [word for word, count in Counter(train).items() if count >= FEWEST]
    symbols = {word: k for k, word in enumerate(known, start=UNKNOWN + 1)}
    encoded = (
        torch.tensor([symbols.get(word, UNKNOWN) for word in part]) for part in (train, test)
    )
    return *encoded, len(symbols) + 1


def batches(text: Tensor, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets (T, B): column b reads on where it stopped in the last batch."""
    columns = text[: len(text) // settings.batch * settings.batch].view(settings.batch, -1).t()
    for k in range(min(settings.batches, (len(columns) - 1) // settings.steps)):
        begin = k * settings.steps
        end = begin + settings.steps
        yield columns[begin:end], columns[begin + 1 : end + 1]


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log p of the targets, in nats a word."""
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


@dataclass(frozen=True)
class Curve:
    """What a training run found."""

    losses: list[float]  # of each step
    test_loss: float
    words_per_second: float  # by the median step


def train(text: Tensor, test: Tensor, words: int, settings: Settings, fused: bool) -> Curve:
    """Train a new model, the same one for the same settings."""
    torch.manual_seed(0)
    model = LanguageModel(words, settings)
    if fused:
        fusedrnn.torch.accelerate(model, strict=True)  # this is all
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses, seconds = [], []
    for _ in range(settings.epochs):
        state = None
        for inputs, targets in batches(text, settings):
            begin = time.perf_counter()
            scores, state = model(inputs, state)
            state = tuple(part.detach() for part in state)
            loss = loss_of(scores, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
            seconds.append(time.perf_counter() - begin)
            tell(fused, losses, settings)
    per_step = settings.batch * settings.steps
    return Curve(losses, evaluate(model, test, settings), per_step / statistics.median(seconds))


def evaluate(model: LanguageModel, text: Tensor, settings: Settings) -> float:
    """Return the mean loss on a text, without dropout."""
    model.eval()
    losses, state = [], None
    with torch.inference_mode():
        for inputs, targets in batches(text, settings):
            scores, state = model(inputs, state)
            losses.append(loss_of(scores, targets).item())
    return statistics.fmean(losses)


def tell(fused: bool, losses: list[float], settings: Settings) -> None:
    """Print the loss now and then."""
    if len(losses) % (10 if settings is QUICK else 100) == 0:
        print(f"{name_of(fused)}: step {len(losses)}, loss {losses[-1]:.4f}", file=sys.stderr)


def name_of(fused: bool) -> str:
    """Return the name of a run."""
    return "fusedrnn" if fused else "torch"


def main() -> None:
    """Train, compare, and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, in seconds")
    parser.add_argument("--plain", action="store_true", help="by torch alone")
    options = parser.parse_args()
    settings = QUICK if options.quick else FULL

    text, test, words = read_words()
    print(f"{len(text)} words to train on, {len(test)} to test on, {words} symbols")
    curves = {}
    for fused in (False,) if options.plain else (False, True):
        curves[fused] = curve = train(text, test, words, settings, fused)
        print(
            f"{name_of(fused)}: loss {curve.losses[0]:.4f} at first, {curve.losses[-1]:.4f} at "
            f"last, {curve.test_loss:.4f} on the test text; {curve.words_per_second:.0f} words/s"
        )
        assert curve.losses[-1] < curve.losses[0], "the model learns nothing"
    if options.plain:
        return

    plain, ours = curves[False], curves[True]
    pairs = zip([*plain.losses, plain.test_loss], [*ours.losses, ours.test_loss], strict=True)
    apart = max(abs(a - b) for a, b in pairs)
    print(f"losses of all {len(plain.losses)} steps and of the test: at most {apart:.1e} apart")
    assert apart <= TOLERANCE, f"losses: expected at most {TOLERANCE:.0e} apart, got {apart:.1e}"
    print(f"fusedrnn / torch: {ours.words_per_second / plain.words_per_second:.2f} in words/s")


if __name__ == "__main__":
    main()
