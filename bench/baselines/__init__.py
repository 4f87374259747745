"""Who is compared: one file per peer, and what each of them provides.

A peer's file imports it, and provides ``prepare(problem, threads)``, which returns its
`Contestant`s for a case or raises `Unsupported`. A peer that can't be imported is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..problem import Array

OURS = "fusedrnn"
# By the names of their distributions, except the reference.
PEERS = (OURS, "torch", "onnxruntime", "openvino", "reference")
# The others are compared for interest: the reference is float64 and written to be read.
RIVALS = ("torch", "onnxruntime", "openvino")

# Layers in a stack of ours: one step of it tells the time of the kernels from that of the call.
STACK = 3
STREAM, ONE_THREAD, STACKED = "stream", "1 thread", f"{STACK} layers"  # variants of ours
# Variants beside a module: what isn't torch, sequences that are padded, as many steps in sequences
# of one length, and no other work before the call.
ARRAYS, LENGTHS, DENSE, ALONE = "arrays", "lengths", "dense", "alone"
GRAPH = "graph"  # of anyone's call on a GPU: as the replay of a CUDA graph


def ours(*variant: str) -> str:
    """Return the name of a contestant of ours: "fusedrnn", or "fusedrnn:stream 3 layers"."""
    return ":".join(filter(None, (OURS, " ".join(filter(None, variant)))))


class Unsupported(Exception):
    """A peer can't do this case; the message says why."""


@dataclass(frozen=True)
class Contestant:
    """One way to do a case.

    Attributes
    ----------
    name : str
        The peer, or the peer, a colon and a variant.
    run : callable
        The call that is timed, on the input with this index.
    arrays : callable
        Its results by the reference's names, from what `run` returned.
    around : callable
        Returns a context for a block of calls, which is not timed: settings of the process.
    poisoned : callable, optional
        `run` into arrays full of NaN, where the peer can be given arrays; verified, not timed.
    before : callable, optional
        Called before each call that is timed, and not timed itself.
    reset : callable
        Called before each run that is verified, where calls depend on those before.
    expected : callable, optional
        What the reference says to input i, where it isn't the problem's own answer.
    """

    name: str
    run: Callable[[int], Any]
    arrays: Callable[[Any], dict[str, Array]]
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    poisoned: Callable[[int], Any] | None = None
    before: Callable[[], None] | None = None
    reset: Callable[[], None] = lambda: None
    expected: Callable[[int], dict[str, Array]] | None = None


def load(peer: str) -> ModuleType | str:
    """Return a peer's module, or why there is none."""
    try:
        return importlib.import_module(f"{__name__}.{peer}")
    except ImportError as error:
        return f"not installed ({error})"


def version(distribution: str) -> str | None:
    """Return the version of what is installed, or None; without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
