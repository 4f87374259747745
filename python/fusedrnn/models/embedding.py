"""A vector for each symbol."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._arguments import size as checked_size
from .._network import Array
from ..functional import Gradients
from ._part import Part
from ._positions import integers
from ._registry import register

# Of the indices that are made at once for the gradient: 2 MiB, so that they stay in a cache.
CHUNK_ELEMENTS = 1 << 18


@register
class Embedding(Part):
    """A vector for each symbol: y_t = E[x_t], a row of E; of x (...) a y (..., size).

    x are integers, 0 to symbols - 1. Backward, row k of dE is the sum of dy_t over all t where
    symbol k stands; symbols have no gradient, so that of x is None.

    Parameters
    ----------
    symbols : int
        How many symbols there are, at least 1.
    size : int
        The size of a vector, at least 1.
    dtype : "float32" or "float64"
        Of everything.
    seed : int, optional
        For the initial parameters; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``weight`` (symbols, size). Initially N(0, 1).

    Raises
    ------
    ValueError
        For a size below 1, or another dtype.
    TypeError
        For a size that isn't an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import Embedding
    >>> embedding = Embedding(4, 3, seed=0)
    >>> y, _, tape = embedding.forward(np.array([[2, 0], [2, 1]]))  # T, B
    >>> y.shape
    (2, 2, 3)
    >>> embedding.backward(tape, np.ones_like(y)).parameters["weight"][:, 0]
    array([1., 1., 2., 0.], dtype=float32)
    """

    _feature_axes = 0

    def __init__(
        self,
        symbols: int,
        size: int,
        *,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self._symbols = checked_size(symbols, "symbols")
        self._size = checked_size(size, "size")
        super().__init__(dtype=dtype, seed=seed)

    @property
    def symbols(self) -> int:
        """How many symbols there are."""
        return self._symbols

    @property
    def size(self) -> int:
        """The size of the vectors."""
        return self._size

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.symbols, self.size)}

    def _initial(self, rng: np.random.Generator) -> dict[str, Array]:
        return {"weight": rng.standard_normal((self.symbols, self.size))}

    def _read(self, x: Any) -> npt.NDArray[Any]:
        return integers(x, "x")

    def _forward(
        self, x: npt.NDArray[Any], state: None, lengths: Any
    ) -> tuple[Array, None, npt.NDArray[Any]]:
        if x.size and not (x.min() >= 0 and x.max() < self.symbols):
            wrong = x[(x < 0) | (x >= self.symbols)].flat[0]
            raise ValueError(f"x: expected symbols from 0 to {self.symbols - 1}, got {wrong}")
        return self.parameters["weight"][x], None, x

    def _backward(self, kept: npt.NDArray[Any], dy: Array, dstate: None) -> Gradients:
        d_weight = np.zeros((self.symbols, self.size))  # as _sums.py has it
        rows, columns = dy.reshape(-1, self.size), np.arange(self.size)
        symbols = kept.reshape(-1, 1).astype(np.intp)
        # `add.at` is fast for numbers one by one, not for rows. It adds in the order of positions.
        step = max(CHUNK_ELEMENTS // self.size, 1)
        for part in (slice(start, start + step) for start in range(0, len(rows), step)):
            places = symbols[part] * self.size + columns
            values = rows[part].astype(d_weight.dtype)
            np.add.at(d_weight.reshape(-1), places.reshape(-1), values.reshape(-1))
        return Gradients(None, None, {"weight": d_weight.astype(self.dtype)})
