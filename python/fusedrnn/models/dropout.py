"""Dropout between modules, with the layers' counter-based random numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _layer
from .._arguments import probability, random_state, word
from .._network import Array
from ..functional import Gradients
from ..reference.dropout import dropout_words
from ._module import RandomState
from ._part import Part
from ._registry import register


@register
class Dropout(Part):
    """y = mask x in training, with dx = mask dy; y = x in inference.

    x has any shape. Each element of the mask is 0 with probability p, and 1 / (1 - p) otherwise.
    The masks follow from the seed and the number of the call, as in the layers
    (`fusedrnn.reference.dropout`); lengths don't change them.

    Parameters
    ----------
    p : float
        The probability that an element is zeroed, 0 to 1.
    dtype : "float32" or "float64"
    seed : int, optional
        Fresh entropy if not given.

    Raises
    ------
    ValueError
        For a probability outside 0 to 1, or another dtype.
    TypeError
        For a probability that is no number, or a seed that is no integer.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Dropout
    >>> dropout = Dropout(0.5, dtype="float64", seed=3)
    >>> y, _, tape = dropout.forward(np.ones((1, 2, 4)))
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    >>> dropout.random_state
    {'': (3, 1)}
    """

    def __init__(
        self, p: float, *, dtype: npt.DTypeLike = "float32", seed: int | None = None
    ) -> None:
        self._p = probability(p, "p")
        entropy = np.random.SeedSequence().generate_state(1, np.uint64)[0]
        self._seed = int(entropy) if seed is None else word(seed, "seed")
        self._calls = 0
        super().__init__(dtype=dtype, seed=seed)

    @property
    def p(self) -> float:
        """The probability that an element is zeroed."""
        return self._p

    @property
    def random_state(self) -> RandomState:
        """{"": (seed, calls)}, from which the next mask follows. May be set."""
        with _layer._lock:
            state = self._seed, self._calls
        return {"": state} if self.p > 0 else {}

    @random_state.setter
    def random_state(self, value: Mapping[str, tuple[int, int]]) -> None:
        checked = random_state(value, self.random_state)
        if checked:
            with _layer._lock:
                self._seed, self._calls = checked[""]

    def _infer(self, x: Array, state: None, lengths: Any) -> tuple[Array, None]:
        return x.copy(), None

    def _forward(self, x: Array, state: None, lengths: Any) -> tuple[Array, None, Any]:
        if self.p == 0:
            return x.copy(), None, None
        with _layer._lock:  # two threads must not draw the same mask
            key = self._seed, self._calls
            self._calls += 1
        mask = self._mask(x.shape, key)
        return x * mask, None, mask

    def _mask(self, shape: tuple[int, ...], key: tuple[int, int]) -> Array:
        """Return the reference's `dropout_mask`, at once in this dtype: twice as fast."""
        keep = dropout_words(math.prod(shape), key, 0) >= np.uint64(round(self.p * 2**32))
        mask = keep.reshape(shape).astype(self.dtype)
        mask *= 1 / (1 - self.p) if self.p < 1 else 0.0
        return mask

    def _backward(self, kept: Any, dy: Array, dstate: None) -> Gradients:
        return Gradients(dy.copy() if kept is None else kept * dy, None, {})
