"""What the demo does: a language model beside n-gram models, trained and judged."""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from .. import models
from ..models import CheckpointError, History, Report, progress, schedules
from . import picture, report, saved, speed
from .corpus import UNITS, Corpus
from .example import missed, table
from .judgement import BOUNDS, Judgement, judge
from .model import Config, build, sample
from .ngrams import NGrams
from .recipe import QUICK, RECIPES, Recipe
from .saved import Language

REFERENCE_SHARE = 0.1  # of --seconds, at most, for timing the NumPy reference
SAFETY = 1.2  # what comes after the training gets so much more time than the same before it took
RECORD_EVERY = 25  # steps


@dataclass(frozen=True)
class Setting:
    """What the demo works with."""

    options: argparse.Namespace
    recipe: Recipe
    corpus: Corpus
    model: models.SequenceModel
    adam: models.Adam
    baseline: NGrams

    @property
    def config(self) -> Config:
        """What the model is made of."""
        return Config.of(self.model)

    @property
    def name(self) -> str:
        """The model's, in tables."""
        return self.config.cell.upper()

    @property
    def unit(self) -> str:
        """What a symbol is: "character" or "word"."""
        return self.corpus.vocabulary.unit


def run(options: argparse.Namespace, start: float) -> bool:
    """Run the demo; return whether what ``--quick`` must reach is reached.

    Parameters
    ----------
    options : argparse.Namespace
        Of the command line.
    start : float
        When the time of ``--seconds`` began, by `time.perf_counter`.

    Raises
    ------
    CheckpointError
        If a file can't be read, or written, or doesn't fit the options.
    """
    setting = _prepare(options)
    data = models.Streams(
        setting.corpus.train,
        setting.recipe.streams,
        setting.recipe.steps,
        seed=options.seed + setting.adam.steps,
    )
    before = time.perf_counter()
    bits = _judge(setting).bits[setting.name]
    _show_sample(setting, f"before training ({bits:.3f} bits per {setting.unit})")
    reserve = SAFETY * (time.perf_counter() - before)

    _show_speed(setting, data)
    history, last = _train(setting, data, start + options.seconds - reserve)
    if options.save is not None:
        language = Language(setting.model, setting.corpus.vocabulary, setting.corpus.hash)
        saved.save(options.save, language, setting.adam)
        adam = saved.adam_path(options.save)
        report.show(f"Saved to {options.save}; --load goes on from there, with {adam} beside it.")
    _show_sample(setting, "after training")
    judgement = _judge(setting)
    report.judgement(judgement, setting.name, setting.unit)
    if options.pictures is not None and history.records:
        path = options.pictures / "language.png"
        picture.draw(history, judgement.bits, setting.name, setting.unit, path)
        report.show(f"picture: {path}")
    seconds = time.perf_counter() - start
    report.show(f"{seconds:.0f} s in all, {last.seconds:.0f} s of them training.")
    if not options.quick:
        return True
    figures = judgement.figures(setting.name)
    report.show(f"\n{table(figures, BOUNDS, quick=True)}")
    return not missed(figures, BOUNDS, quick=True)


def _prepare(options: argparse.Namespace) -> Setting:
    """Return a new model, or that of a file, and what it needs."""
    recipes = QUICK if options.quick else RECIPES
    if options.load is None:
        recipe = recipes[options.unit or UNITS[0]]
        corpus = Corpus.read(options.unit or UNITS[0], recipe.least)
        asked = {name: getattr(options, name) for name in ("cell", "hidden", "layers")}
        config = replace(recipe.config, **{k: v for k, v in asked.items() if v is not None})
        model = build(config, len(corpus.vocabulary), options.seed)
        adam = models.Adam(model, recipe.learning_rate)
    else:
        language = saved.load(options.load)
        _check_options(options, language)
        recipe = recipes[language.vocabulary.unit]
        corpus, model = Corpus.read_as(language.vocabulary), language.model
        adam = models.Adam(model, recipe.learning_rate)
        _continue(options.load, language, adam, corpus)
    report.head(corpus, Config.of(model), model)
    baseline = NGrams(corpus.train, len(corpus.vocabulary))
    return Setting(options, recipe, corpus, model, adam, baseline)


def _judge(setting: Setting) -> Judgement:
    quick = setting.options.quick
    return judge(setting.model, setting.name, setting.baseline, setting.corpus, quick)


def _check_options(options: argparse.Namespace, language: Language) -> None:
    """Raise CheckpointError if an option asks for another model than that of the file."""
    config = Config.of(language.model)
    found = {
        "unit": language.vocabulary.unit,
        **{name: getattr(config, name) for name in ("cell", "hidden", "layers")},
    }
    for name, value in found.items():
        asked = getattr(options, name)
        if asked is not None and asked != value:
            raise CheckpointError(
                f"--{name} {asked} does not fit {options.load}, which has {value}; "
                "leave the option out"
            )


def _continue(path: Path, language: Language, adam: models.Adam, corpus: Corpus) -> None:
    """Let Adam go on from where it was."""
    if saved.load_adam(path, adam):
        report.show(f"Continuing with {path}, after {adam.steps:,} steps.")
    else:
        report.show(
            f"Continuing with {path}; there is no {saved.adam_path(path)}, so Adam starts anew."
        )
    if language.text != corpus.hash:
        report.show(
            "Note: it was trained with another version of Python, whose text differs; it may "
            "have seen parts of what is held out here."
        )


def _show_sample(setting: Setting, when: str) -> None:
    options, vocabulary = setting.options, setting.corpus.vocabulary
    prompt = vocabulary.encode(report.PROMPT)
    length = report.SAMPLE_LENGTH[setting.unit]
    drawn = sample(setting.model, prompt, length, options.temperature, options.seed)
    report.sample(vocabulary.decode(drawn), when, options.temperature)


def _show_speed(setting: Setting, data: models.Streams) -> None:
    """Print where the time of a step goes, and how fast the layer is beside the reference."""
    report.show(f"Time of a training step: {speed.shares(setting.model, data.batch(0, 0))}.")
    if not setting.options.quick:
        report.show(f"One step of the {setting.name} alone, forward and backward:")
        case = speed.Case(setting.config, setting.recipe.steps, setting.recipe.streams)
        report.show(speed.compare(case, REFERENCE_SHARE * setting.options.seconds))


def _train(setting: Setting, data: models.Streams, end: float) -> tuple[History, Report]:
    """Train to a moment, or with --quick for some steps; return how it went."""
    if not progress.tqdm_installed():
        report.show("For a progress bar: pip install tqdm, or 'fusedrnn[demo]'.")
    unit, recipe = setting.unit, setting.recipe
    seconds = max(end - time.perf_counter(), 0.0) if recipe.budget is None else None
    reports: deque[Report] = deque(maxlen=1)

    def describe(now: Report) -> str:
        bits = now.smoothed_loss / math.log(2.0)
        rate = now.targets / max(now.seconds, 1e-9)
        return f"loss {bits:.3f} bits/{unit}, {rate:,.0f} {unit}s/s"

    history = models.fit(
        setting.model,
        data,
        setting.adam,
        steps=recipe.budget,
        seconds=seconds,
        schedule=schedules.warmup_cosine(),
        clip_norm=recipe.clip_norm,
        record_every=RECORD_EVERY,
        progress=progress.open_progress(describe=describe),
        on_step=reports.append,
    )
    last = reports[-1]
    report.training(last, history.stopped, len(setting.corpus.train), unit, recipe)
    return history, last
