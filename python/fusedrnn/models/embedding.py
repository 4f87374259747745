"""A vector for each symbol."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import size as checked_size
from .._network import Array
from ..functional import Gradients
from ._module import Stateless, no_state
from ._positions import check_shape, integers
from ._registry import register

# Of the indices that are made at once for the gradient: 2 MiB, so that they stay in a cache.
CHUNK_ELEMENTS = 1 << 18


@register
class Embedding(Stateless):
    """A vector for each symbol: x_t = E[symbol_t], a row of E.

    Backward, row k of dE is the sum of dx_t over all t where symbol k stands.

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

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, None]:
        """Return the vectors, and None for a state; the arguments are those of `forward`."""
        y, _, _ = self.forward(x, state)
        return y, None

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, None, Any]:
        """Return y, None for a state, and a tape for `backward`.

        Parameters
        ----------
        x : array of integers (...)
            The symbols, 0 to symbols - 1.
        state : None
        lengths
            Not used: every position is on its own.

        Returns
        -------
        y : array (..., size)
        state : None
        tape

        Raises
        ------
        ValueError, TypeError
            For symbols that aren't integers or aren't there, or a state.
        """
        no_state(state)
        x = integers(x, "x")
        if x.size and not (x.min() >= 0 and x.max() < self.symbols):
            wrong = x[(x < 0) | (x >= self.symbols)].flat[0]
            raise ValueError(f"x: expected symbols from 0 to {self.symbols - 1}, got {wrong}")
        return self.parameters["weight"][x], None, x

    def backward(self, tape: Any, dy: Any, dstate: Any = None) -> Gradients:
        """Return the gradients.

        Parameters
        ----------
        tape
            From `forward`.
        dy : array (..., size)
        dstate : None

        Returns
        -------
        Gradients
            Of the parameters; symbols have none, so that of x is None.

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype.
        """
        no_state(dstate, "dstate")
        dy = _core.as_array(dy, "dy", self._dtype_name)
        check_shape(dy, "dy", (*tape.shape, self.size))
        d_weight = np.zeros((self.symbols, self.size), self.dtype)
        rows, columns = dy.reshape(-1, self.size), np.arange(self.size)
        symbols = tape.reshape(-1, 1).astype(np.intp)
        # `add.at` is fast for numbers one by one, not for rows. It adds in the order of positions.
        step = max(CHUNK_ELEMENTS // self.size, 1)
        for part in (slice(start, start + step) for start in range(0, len(rows), step)):
            places = symbols[part] * self.size + columns
            np.add.at(d_weight.reshape(-1), places.reshape(-1), rows[part].reshape(-1))
        return Gradients(None, None, {"weight": d_weight})
