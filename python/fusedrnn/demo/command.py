"""The next character or word of Python's help, by LSTM, GRU or RNN, beside n-gram models.

Problem type: many to many, aligned: after each symbol of a text, the probability of each next one,
log p(s_1 .. s_n) = sum_t log p(s_t | s_1 .. s_{t-1}). The text is what Python's help() shows; a
tenth of it is held out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..models import CheckpointError, blas, checkpoint, plots
from . import saved
from ._options import count, positive, seed
from .corpus import UNITS
from .language import run
from .model import LAYERS
from .recipe import RECIPES

SECONDS = 90.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line; return its exit status."""
    start = time.perf_counter()
    parsed = _parse(arguments)
    try:
        _check(parsed)
        blas.restart_with_one_thread()
        with blas.one_thread():
            return int(not run(parsed, start))
    except (CheckpointError, ImportError, OSError) as error:
        return _fail(str(error))
    except MemoryError as error:
        return _fail(f"not enough memory for this model: {error}")
    except FloatingPointError as error:
        return _fail(f"training failed at {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fusedrnn demo language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    characters, words = (RECIPES[unit].config for unit in UNITS)
    hidden = f"{characters.hidden}, or {words.hidden} with words"
    # Without defaults of argparse's, so that --load can tell what was asked for.
    add("--unit", choices=UNITS, help=f"what a symbol is (default: {UNITS[0]})")
    add("--cell", choices=sorted(LAYERS), help=f"kind of layer (default: {characters.cell})")
    add("--hidden", type=count, metavar="N", help=f"units (default: {hidden})")
    add("--layers", type=count, metavar="N", help=f"stacked layers (default: {characters.layers})")
    add("--seconds", type=positive, metavar="S", help=f"for everything (default: {SECONDS:g})")
    default = " (default: %(default)s)"
    add("--seed", type=seed, default=0, metavar="N", help="of weights and samples" + default)
    add("--temperature", type=positive, default=0.7, metavar="X", help="of the samples" + default)
    add("--save", type=Path, metavar="FILE", help="write the model: .npz or .safetensors")
    add("--load", type=Path, metavar="FILE", help="continue with a model that --save wrote")
    add("--pictures", type=Path, metavar="DIR", help="save a picture there (needs matplotlib)")
    quick = "a small model, some seconds; the exit status is 1 if it has learned too little"
    add("--quick", action="store_true", help=quick)
    parsed = parser.parse_args(arguments)
    if parsed.quick and parsed.seconds is not None:
        parser.error("--seconds: not with --quick, which takes as many steps as it takes")
    parsed.seconds = SECONDS if parsed.seconds is None else parsed.seconds
    return parsed


def _check(parsed: argparse.Namespace) -> None:
    """Raise an error for what would fail after the training."""
    if parsed.save is not None:
        saved.check_writable(parsed.save)
    if parsed.load is not None:
        checkpoint.check_suffix(parsed.load)
    if parsed.pictures is not None:
        plots.figure()  # raises ImportError without matplotlib
        parsed.pictures.mkdir(parents=True, exist_ok=True)
