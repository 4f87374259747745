"""Fused LSTM, GRU and RNN layers for NumPy: forward and back-propagation through time.

>>> import numpy as np
>>> import fusedrnn
>>> lstm = fusedrnn.LSTM(input_size=3, hidden_size=4, seed=0)
>>> y, (h, c) = lstm(np.zeros((5, 2, 3), dtype=np.float32))  # T, B, I
>>> y.shape
(5, 2, 4)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _core, cuda, functional, reference, weights
from . import _device as _gpu
from ._lend import LentThreads, lend_threads
from ._stream import Stream
from ._threads import get_num_threads, set_num_threads
from .functional import Gradients, Tape
from .layers import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Gradients",
    "LentThreads",
    "Stream",
    "Tape",
    "cuda",
    "functional",
    "get_num_threads",
    "info",
    "lend_threads",
    "reference",
    "set_num_threads",
    "weights",
]
__version__: str = _core.info()["version"]

# Imported when they are asked for: they take time, and torch has to be there.
_SUBMODULES = ("models", "torch")

if TYPE_CHECKING:
    from . import models as models
    from . import torch as torch
else:

    def __getattr__(name: str) -> Any:
        if name not in _SUBMODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f".{name}", __name__)
        except ImportError as error:
            raise AttributeError(f"{name}: {error}") from error


def __dir__() -> list[str]:
    return sorted((*__all__, *_SUBMODULES))


def info() -> dict[str, Any]:
    """Return what is compiled, what is chosen, and how many threads there are.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction set in use (the environment variable ``FUSEDRNN_ISA``
        forces one); ``isa_compiled`` and ``isa_available``, the sets that this build has and that
        this machine can execute; ``threads``; ``thread_pool``, "own", or "OpenMP" where they are
        borrowed from torch (see `fusedrnn.torch`); ``cpus``, a dict: how many CPUs this process is
        ``allowed`` to run on, the physical ``cores`` that these belong to, and the ``quota`` of its
        control groups, in CPUs, or None; ``cells``; ``compiler``; ``cuda``, a dict:
        ``built``, whether the package has that side; ``devices``; ``error``, why there are none, or
        None; the versions of CUDA's ``runtime`` and ``driver``; ``products``, where the large
        matrix products come from; ``emulated``, true only in builds for tests.

    Examples
    --------
    >>> import fusedrnn
    >>> fusedrnn.info()["cells"]
    ['lstm', 'gru', 'rnn_tanh', 'rnn_relu']
    """
    return {**_core.info(), "cuda": _gpu.info()}
