"""``python -m fusedrnn``: the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import fusedrnn


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fusedrnn", description="Fused LSTM, GRU and RNN layers for NumPy."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    # Each program of the demo has options of its own, so they are left to it.
    commands.add_parser("demo", help="run an example; --list names them all", add_help=False)
    commands.add_parser("info", help="show what is compiled and chosen on this machine")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["demo"]:
        from .demo import programs  # which imports every part of the package

        return programs.main(given[1:])
    if parser.parse_args(given).command == "info":
        for name, value in fusedrnn.info().items():
            print(f"{name}: {value}")
    else:
        parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
