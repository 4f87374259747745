"""What the programs in ``examples/`` have in common: their options, their bounds, their table.

An example is a module with a docstring, whose first line says what it shows, and::

    BOUNDS = (Bound("held-out accuracy", at_least=0.96, quick=0.9),)

    def run(options: Options) -> dict[str, float]:
        ...  # trains, prints what it does, and returns what it measured

    if __name__ == "__main__":
        sys.exit(main(run, BOUNDS, __doc__))

``--quick`` is for tests: seconds in place of a minute, with bounds of its own. The exit status is 1
where a bound is missed: a bound is something that an untrained or broken model can't meet.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models import CheckpointError, blas
from ._options import seed


@dataclass(frozen=True)
class Options:
    """What a user asked for.

    Attributes
    ----------
    quick : bool
        Smaller, in seconds.
    seed : int
        Of everything random.
    pictures : Path or None
        The directory for pictures; None: no pictures.
    """

    quick: bool = False
    seed: int = 0
    pictures: Path | None = None

    def picture(self, name: str) -> Path | None:
        """Return the path of a picture, or None where none is wanted; says where it goes."""
        if self.pictures is None:
            return None
        path = self.pictures / f"{name}.png"
        print(f"picture: {path}")
        return path


@dataclass(frozen=True)
class Bound:
    """What a figure must reach: at least, or at most; with ``--quick`` perhaps something else."""

    name: str
    at_least: float | None = None
    at_most: float | None = None
    quick: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.name}: expected one of at_least and at_most")

    def limit(self, quick: bool) -> float:
        """Return the number."""
        full = self.at_least if self.at_least is not None else self.at_most
        assert full is not None
        return self.quick if quick and self.quick is not None else full

    def met(self, value: float, quick: bool) -> bool:
        """Return whether a value reaches it; NaN never does."""
        if self.at_least is not None:
            return value >= self.limit(quick)
        return value <= self.limit(quick)

    def text(self, quick: bool) -> str:
        """Return it as shown: ">= 0.96"."""
        return f"{'<=' if self.at_least is None else '>='} {self.limit(quick):g}"


Run = Callable[[Options], Mapping[str, float]]


def missed(figures: Mapping[str, float], bounds: Sequence[Bound], quick: bool) -> list[Bound]:
    """Return the bounds that the figures don't reach; a figure that isn't there doesn't."""
    return [b for b in bounds if not b.met(figures.get(b.name, math.nan), quick)]


def table(figures: Mapping[str, float], bounds: Sequence[Bound], quick: bool) -> str:
    """Return the figures beside their bounds.

    Examples
    --------
    >>> print(table({"loss": 0.5}, [Bound("loss", at_most=0.4)], quick=False))
    | figure | value | bound           |
    |--------|------:|-----------------|
    | loss   |   0.5 | <= 0.4, missed! |
    """
    by_name = {bound.name: bound for bound in bounds}
    rows = []
    for name, value in figures.items():
        bound = by_name.get(name)
        wanted = "" if bound is None else bound.text(quick)
        if bound is not None and not bound.met(value, quick):
            wanted += ", missed!"
        rows.append((name, f"{value:.4g}", wanted))
    heads = ("figure", "value", "bound")
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(3)]
    lines = [
        "|" + "|".join(f" {c:{'>' if i == 1 else '<'}{w}} " for i, (c, w) in cells) + "|"
        for cells in (enumerate(zip(row, widths, strict=True)) for row in (heads, *rows))
    ]
    rule = [f"{'-' * (w + 1)}{':' if i == 1 else '-'}" for i, w in enumerate(widths)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def main(
    run: Run,
    bounds: Sequence[Bound],
    doc: str | None,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> int:
    """Run an example from the command line; return its exit status."""
    text = doc or ""
    parser = argparse.ArgumentParser(
        prog=prog, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds in place of a minute")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="save pictures there (needs matplotlib)"
    )
    parsed = parser.parse_args(arguments)
    options = Options(parsed.quick, parsed.seed, parsed.pictures)
    print(text.partition("\n")[0], flush=True)
    begin = time.perf_counter()
    try:
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
        with blas.one_thread():
            figures = run(options)
    except (CheckpointError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"\n{table(figures, bounds, options.quick)}\n")
    print(f"{time.perf_counter() - begin:.0f} s")
    return int(bool(missed(figures, bounds, options.quick)))
