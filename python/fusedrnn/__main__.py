"""``python -m fusedrnn``: the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import fusedrnn

from . import demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Every command adds its own parser, with the function that runs it as the default of ``run``.
    """
    parser = argparse.ArgumentParser(
        prog="python -m fusedrnn", description="Fused LSTM, GRU and RNN layers for NumPy."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add_parser in (demo.add_parser, _add_info_parser):
        add_parser(commands)
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 0
    status: int = parsed.run(parsed)
    return status


def _add_info_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "info", help="show what is compiled and chosen on this machine", description=_info.__doc__
    )
    parser.set_defaults(run=_info)


def _info(_: argparse.Namespace) -> int:
    """Show what is compiled and chosen on this machine."""
    for name, value in fusedrnn.info().items():
        print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
