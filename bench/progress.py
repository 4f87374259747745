"""How far a run is: a tqdm bar on a terminal, a plain line for each case elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any


class Progress:
    """Counts what is done, on standard error."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._bar: Any = None
        if sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
            tqdm = importlib.import_module("tqdm")
            self._bar = tqdm.tqdm(total=total, unit="case", dynamic_ncols=True)

    def step(self, text: str) -> None:
        """Count one more, and say what it was."""
        self._done += 1
        if self._bar is None:
            print(f"[{self._done}/{self._total}] {text}", file=sys.stderr, flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    def note(self, text: str) -> None:
        """Say something that stays."""
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
