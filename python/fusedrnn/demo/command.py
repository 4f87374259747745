"""The command ``demo``: its options, and what it prints."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import blas, ngrams
from .adam import Adam
from .checkpoint import Checkpoint, CheckpointError, check_suffix, check_writable, load, save
from .corpus import Symbols, Vocabulary, read_text, split
from .model import LAYERS, Config, Model
from .progress import open_progress, tqdm_installed
from .speed import Case, compare
from .training import Recipe, Report, for_seconds, train

PROMPT = 'The "'
SAMPLE_LENGTH = 400
REFERENCE_SHARE = 0.1  # of --seconds, at most, for timing the NumPy reference
SAFETY = 1.2  # the evaluation after training gets so much more time than the one before took


@dataclass(frozen=True)
class Data:
    """The text as symbols."""

    vocabulary: Vocabulary
    train: Symbols
    test: Symbols
    hash: str


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of ``python -m fusedrnn``."""
    parser = commands.add_parser(
        "demo",
        help="train a language model of characters on Python's own documentation",
        description="Train an LSTM, GRU or RNN to predict the next character of the topics of "
        "Python's help(), and compare it with n-gram models on held-out text.",
    )
    add = parser.add_argument
    default = Config()
    # Without a default of argparse's, so that --load can tell what was asked for.
    add("--cell", choices=sorted(LAYERS), help=f"kind of layer (default: {default.cell})")
    add("--hidden", type=_count, metavar="N", help=f"units (default: {default.hidden})")
    add("--layers", type=_count, metavar="N", help=f"stacked layers (default: {default.layers})")
    seconds, seed, temperature = "for everything", "of weights and samples", "of the samples"
    default_text = " (default: %(default)s)"
    add("--seconds", type=_positive, default=90.0, metavar="S", help=seconds + default_text)
    add("--seed", type=_seed, default=0, metavar="N", help=seed + default_text)
    add("--temperature", type=_positive, default=0.7, metavar="X", help=temperature + default_text)
    add("--save", type=Path, metavar="FILE", help="write the model: .npz or .safetensors")
    add("--load", type=Path, metavar="FILE", help="continue with a model that --save wrote")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return the exit status."""
    start = time.perf_counter()
    try:
        if arguments.save is not None:
            check_writable(arguments.save)
        if arguments.load is not None:
            check_suffix(arguments.load)
        blas.restart_with_one_thread()
        with blas.one_thread():
            _run(arguments, start)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"error: not enough memory for this model: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace, start: float) -> None:
    checkpoint = None if arguments.load is None else load(arguments.load)
    config = _config(arguments, checkpoint)
    data = _read(checkpoint)
    model = Model(config, len(data.vocabulary), arguments.seed)
    adam = Adam(model.parameters)
    if checkpoint is not None:
        _restore(arguments.load, checkpoint, model, adam, data)

    recipe = Recipe()
    name = config.cell.upper()
    _print_head(model, data)
    bits = _baselines(data)
    before = time.perf_counter()
    untrained = _evaluate(model, data)
    _print_sample(arguments, model, data, f"before training ({untrained:.3f} bits per character)")
    reserve = SAFETY * (time.perf_counter() - before)

    _print(f"One step of the {name} alone, forward and backward:")
    limit = REFERENCE_SHARE * arguments.seconds
    _print(compare(Case(config, recipe.steps, recipe.streams), limit))

    budget = for_seconds(start + arguments.seconds - reserve - time.perf_counter())
    report = _train(arguments, model, adam, data, recipe, budget)
    if arguments.save is not None:
        save(arguments.save, Checkpoint.of(model, adam, data.vocabulary, data.hash))
        _print(f"Saved to {arguments.save}.")
    _print_sample(arguments, model, data, "after training")
    bits[name] = _evaluate(model, data)
    _print_table(bits, name)
    _print(f"{time.perf_counter() - start:.0f} s in all, {report.seconds:.0f} s of them training.")


def _config(arguments: argparse.Namespace, checkpoint: Checkpoint | None) -> Config:
    """Return what to build: as asked for, as the file says, or the default."""
    config = Config() if checkpoint is None else checkpoint.config
    asked = {
        option: getattr(arguments, option)
        for option in ("cell", "hidden", "layers")
        if getattr(arguments, option) is not None
    }
    if checkpoint is None:
        return Config(**asked)
    for option, value in asked.items():
        if value != getattr(config, option):
            raise CheckpointError(
                f"--{option} {value} does not fit {arguments.load}, "
                f"which has {getattr(config, option)}; leave the option out"
            )
    return config


def _read(checkpoint: Checkpoint | None) -> Data:
    text = read_text()
    train_text, test_text = split(text)
    vocabulary = Vocabulary.of(train_text) if checkpoint is None else checkpoint.vocabulary
    return Data(
        vocabulary,
        vocabulary.encode(train_text),
        vocabulary.encode(test_text),
        hashlib.sha256(text.encode()).hexdigest(),
    )


def _restore(path: Path, checkpoint: Checkpoint, model: Model, adam: Adam, data: Data) -> None:
    try:
        checkpoint.restore(model, adam)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _print(f"Continuing with {path}, after {adam.t:,} steps.")
    if checkpoint.text != data.hash:
        _print(
            "Note: it was trained with another version of Python, whose text differs; it may "
            "have seen parts of what is held out here."
        )


def _train(
    arguments: argparse.Namespace,
    model: Model,
    adam: Adam,
    data: Data,
    recipe: Recipe,
    budget: Callable[[int], float],
) -> Report:
    if not tqdm_installed():
        _print("For a progress bar: pip install tqdm, or 'fusedrnn[demo]'.")
    progress = open_progress()
    try:
        report = train(
            model,
            adam,
            data.train,
            budget,
            recipe=recipe,
            seed=arguments.seed + adam.t,
            show=progress.show,
        )
    finally:
        progress.close()
    passes = report.characters / len(data.train)
    _print(
        f"{report.steps:,} steps of {recipe.streams} x {recipe.steps} characters, {passes:.1f} "
        f"passes over the text, {report.characters / report.seconds:,.0f} characters/s."
    )
    _print(f"Time of training: {model.stopwatch.shares()}.")
    if report.interrupted:
        _print("Interrupted: this is how far it got. Ctrl-C again stops at once.")
    return report


def _baselines(data: Data) -> dict[str, float]:
    tables = ngrams.estimate(data.train, len(data.vocabulary))
    return {name: ngrams.bits_per_character(t, data.test) for name, t in tables.items()}


def _evaluate(model: Model, data: Data) -> float:
    return model.bits_per_character(data.test, ngrams.CONTEXT)


def _print_head(model: Model, data: Data) -> None:
    config = model.config
    weights = sum(p.size for p in model.parameters.values())
    _print(
        f"Text: the topics of Python's help(), {len(data.train):,} characters to train on, "
        f"{len(data.test):,} held out, {len(data.vocabulary)} symbols.\n"
        f"Model: embedding {config.embedding}, {config.cell.upper()} with {config.layers} x "
        f"{config.hidden} units, softmax; {weights:,} weights."
    )


def _print_sample(arguments: argparse.Namespace, model: Model, data: Data, when: str) -> None:
    prompt = data.vocabulary.encode(PROMPT)
    drawn = model.sample(prompt, SAMPLE_LENGTH, arguments.temperature, arguments.seed)
    text = PROMPT + data.vocabulary.decode(drawn)
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, 90) or [""]]
    shown = "\n".join(f"  | {line}" for line in lines)
    _print(f"\nSample {when}, temperature {arguments.temperature:g}:\n{shown}\n")


def _print_table(bits: dict[str, float], name: str) -> None:
    width = max(map(len, bits))
    rows = "\n".join(f"| {key:{width}} | {value:27.3f} |" for key, value in bits.items())
    _print(f"| {'model':{width}} | held-out bits per character |")
    _print(f"| {'-' * width} | {'-' * 26}: |\n{rows}\n")
    gain = bits["trigram"] - bits[name]
    if gain > 0.0:
        _print(f"The {name} beats the trigram by {gain:.3f} bits per character.")
    else:
        _print(
            f"The {name} does NOT beat the trigram: it is {-gain:.3f} bits per character behind."
        )


def _print(text: str) -> None:
    """Print what the terminal can show of a text."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _count(text: str) -> int:
    """Read an option that counts something."""
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _seed(text: str) -> int:
    """Read a seed."""
    value = _whole(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"expected 0 to 2^63 - 1, got {value}")
    return value


def _positive(text: str) -> float:
    """Read a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0.0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value
