"""LSTM, GRU and RNN: layers that own their parameters.

Denormals count as zero in them, and results are the same bits for every number of threads: see
`fusedrnn.functional`.
"""

from __future__ import annotations

import numpy.typing as npt

from ._layer import Layer

__all__ = ["GRU", "LSTM", "RNN"]


class LSTM(Layer):
    r"""Long short-term memory (Hochreiter & Schmidhuber 1997), with torch's conventions.

    .. math::
        i, f, o &= \sigma(W_k x + b_{ih,k} + R_k h + b_{hh,k}) \\
        g &= \tanh(W_g x + b_{ih,g} + R_g h + b_{hh,g}) \\
        c' &= f c + i g, \qquad h' = o \tanh(c')

    With `proj_size` h is projected (Sak, Senior & Beaufays 2014):
    :math:`h' = W_{hr} (o \tanh(c'))`.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L; each layer's output is the next one's input.
    bias : bool
        Whether there are biases b_ih and b_hh.
    batch_first : bool
        Whether x and y have the batch as first axis. States never do.
    dropout : float
        The probability that `forward` zeroes an element between layers.
    bidirectional : bool
        Whether a second direction runs from the last step to the first (D = 2).
    proj_size : int
        P below H: the size of h after its projection; 0 for none. Then P stands in place of H in
        y, in the state h (not c), and in the columns of ``weight_hh``.
    dtype : "float32" or "float64"
        Of everything: inputs must have it.
    seed : int, optional
        For the initial parameters and dropout; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``weight_ih_l{k}`` (4*H, I_k), ``weight_hh_l{k}`` (4*H, H), ``bias_ih_l{k}`` and
        ``bias_hh_l{k}`` (4*H), with a projection ``weight_hr_l{k}`` (P, H), the same with
        ``_reverse`` for the second direction; gates in the order i f g o; I_k = D*H, or D*P, for
        k > 0. Initially U(-1/sqrt(H), 1/sqrt(H)).

    Raises
    ------
    ValueError
        For a size below 1, a `proj_size` outside [0, H), a dropout outside [0, 1], another dtype.
    TypeError
        For a size that isn't an integer or a flag that isn't a bool.
    MemoryError
        Where the parameters don't fit in memory.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> lstm = fusedrnn.LSTM(3, 4, seed=0)
    >>> x = np.ones((5, 2, 3), dtype=np.float32)  # T, B, I
    >>> y, (h, c) = lstm(x)
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    >>> y, state, tape = lstm.forward(x)
    >>> gradients = lstm.backward(tape, np.ones_like(y))
    >>> gradients.parameters["weight_hh_l0"].shape
    (16, 4)
    >>> y, (h, c) = fusedrnn.LSTM(3, 4, proj_size=2, seed=0)(x)
    >>> y.shape, h.shape, c.shape
    ((5, 2, 2), (1, 2, 2), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            "lstm",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
            proj_size=proj_size,
        )

    @property
    def proj_size(self) -> int:
        """P, the size of h after its projection; 0 where there is none."""
        return self._network.proj_size


class GRU(Layer):
    r"""Gated recurrent unit (Cho et al. 2014), reset after the product as in torch and cuDNN.

    .. math::
        r, z &= \sigma(W_k x + b_{ih,k} + R_k h + b_{hh,k}) \\
        n &= \tanh(W_n x + b_{ih,n} + r (R_n h + b_{hh,n})) \\
        h' &= (1 - z) n + z h

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As in `LSTM`.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        As in `LSTM`, with 3*H rows in the order r z n.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `LSTM` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> gru = fusedrnn.GRU(3, 4, num_layers=2, bidirectional=True, seed=0)
    >>> y, h = gru(np.ones((5, 2, 3), dtype=np.float32))
    >>> y.shape, h.shape
    ((5, 2, 8), (4, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            "gru",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )


class RNN(Layer):
    r"""Vanilla recurrent network (Elman 1990).

    .. math::
        h' = f(W x + b_{ih} + R h + b_{hh}), \qquad f = \tanh \text{ or } \mathrm{relu}

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As in `LSTM`.
    nonlinearity : "tanh" or "relu"

    Attributes
    ----------
    parameters : mapping of str to read-only array
        As in `LSTM`, with H rows.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `LSTM` does; ValueError also for another nonlinearity.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> rnn = fusedrnn.RNN(3, 4, nonlinearity="relu", seed=0)
    >>> y, h = rnn(np.ones((5, 3), dtype=np.float32))  # one sequence
    >>> y.shape, h.shape
    ((5, 4), (1, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        if not isinstance(nonlinearity, str) or nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            f"rnn_{nonlinearity}",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )

    @property
    def nonlinearity(self) -> str:
        """The function f, "tanh" or "relu"."""
        return self._network.cell.removeprefix("rnn_")
