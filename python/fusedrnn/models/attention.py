r"""Attention: for each query, a mean of the memory, weighted by what fits the query.

With queries h_t (T of them), a memory of S vectors m_s, and a score e_ts of each pair:

    alpha_ts = softmax_s(e_ts)      context_t = sum_s alpha_ts m_s

    scaled dot product   e_ts = (W_q h_t) . (W_k m_s) / sqrt(A)
    additive             e_ts = v . tanh(W_q h_t + W_k m_s + b)

and backward, with dc for the gradient of the context:

    d_alpha_ts = dc_t . m_s        d_e_ts = alpha_ts (d_alpha_ts - sum_s' alpha_ts' d_alpha_ts')
    dm_s = sum_t alpha_ts dc_t + W_k^T dk_s        dh_t = W_q^T dq_t

    scaled dot product   dq_t = sum_s d_e_ts k_s / sqrt(A)     dk_s = sum_t d_e_ts q_t / sqrt(A)
    additive             u_ts = tanh(q_t + k_s + b)            da_ts = d_e_ts v (1 - u_ts^2)
                         dq_t = sum_s da_ts                    dk_s = sum_t da_ts
                         db = sum_ts da_ts                     dv = sum_ts d_e_ts u_ts

Past the length of its sequence the memory has weight 0 and isn't read; where there is none at all
the context is 0. Past the number of queries of its sequence nothing of queries or dc is read, and
weights and contexts are 0.

Queries need nothing of each other, so a decoder that attends *after* its recurrence runs over all
its steps in one call.

Sources: Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and
Translate, ICLR 2015 (additive); Luong, Pham and Manning, Effective Approaches to Attention-based
Neural Machine Translation, EMNLP 2015 (after the recurrence); Vaswani et al., Attention Is All You
Need, NeurIPS 2017, section 3.2.1 (scaled dot product).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import size as checked_size
from .._network import Array
from ._module import Stateless
from ._padding import Padding
from ._positions import check_shape
from ._registry import register
from ._sums import sum_outer, sum_over

# Of the additive scores' array [B, T, S, A], which is made for a few queries at a time: 4 MiB in
# float32, so that it stays in a cache.
CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class AttentionGradients:
    """What `Attention.backward` returns."""

    query: Array  # (T, B, Q)
    memory: Array  # (S, B, M)
    parameters: dict[str, Array]


@dataclass(frozen=True)
class _Tape:
    query: Array  # [B, T, Q]
    memory: Array  # [B, S, M], 0 past the lengths, as the queries
    q: Array  # [B, T, A]
    k: Array  # [B, S, A]
    alpha: Array  # [B, T, S]
    parameters: Any
    padding: Padding  # of queries and contexts (T, B, ...)
    padding_of_memory: Padding  # (S, B, ...)


class Attention(Stateless):
    """What both kinds have in common; not to be made itself."""

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        size: int,
        *,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self._query_size = checked_size(query_size, "query_size")
        self._memory_size = checked_size(memory_size, "memory_size")
        self._size = checked_size(size, "size")
        super().__init__(dtype=dtype, seed=seed)

    @property
    def query_size(self) -> int:
        """Q, the size of a query."""
        return self._query_size

    @property
    def memory_size(self) -> int:
        """M, the size of a vector of the memory, and of the context."""
        return self._memory_size

    @property
    def size(self) -> int:
        """A, the size of the space in which queries and memory are compared."""
        return self._size

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"query": (self.size, self.query_size), "key": (self.size, self.memory_size)}

    def _initial(self, rng: np.random.Generator) -> dict[str, Array]:
        return {
            name: rng.uniform(-(shape[-1] ** -0.5), shape[-1] ** -0.5, shape)
            for name, shape in self._shapes().items()
        }

    def __call__(
        self, query: Any, memory: Any, *, lengths: Any = None, query_lengths: Any = None
    ) -> Array:
        """Return the context (T, B, M); the arguments are those of `forward`."""
        context, _ = self.forward(query, memory, lengths=lengths, query_lengths=query_lengths)
        return context

    def keys(self, memory: Any) -> Array:
        """Return W_k m (S, B, A): what `attend` needs of a memory, for many calls with it.

        Parameters
        ----------
        memory : array (S, B, M)

        Returns
        -------
        array (S, B, A)

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype.
        """
        memory = self._read(memory, "memory", ("S", "B", self.memory_size))
        keys: Array = memory @ self.parameters["key"].T
        return keys

    def attend(
        self,
        query: Any,
        memory: Any,
        *,
        lengths: Any = None,
        query_lengths: Any = None,
        keys: Any = None,
    ) -> tuple[Array, Array]:
        """Return the context, and the weights that made it: for pictures, and step by step.

        Parameters
        ----------
        query, memory, lengths, query_lengths
            As in `forward`.
        keys : array (S, B, A), optional
            From `keys`, of this memory, so that it needn't be multiplied again.

        Returns
        -------
        context : array (T, B, M)
        alpha : array (T, B, S)
            Their sum over S is 1; 0 past the lengths of memory and queries.

        Raises
        ------
        ValueError, TypeError
            As from `forward`.
        """
        context, tape = self._forward(query, memory, lengths, query_lengths, keys)
        return context, tape.alpha.swapaxes(0, 1)

    def forward(
        self, query: Any, memory: Any, *, lengths: Any = None, query_lengths: Any = None
    ) -> tuple[Array, Any]:
        """Return the context of each query, and a tape for `backward`.

        Parameters
        ----------
        query : array (T, B, Q)
            Not read past the query lengths.
        memory : array (S, B, M)
            Not read past the lengths.
        lengths : array of integers (B,), optional
            How many vectors the memory of each sequence has, from 0 to S.
        query_lengths : array of integers (B,), optional
            How many queries each sequence has, from 0 to T.

        Returns
        -------
        context : array (T, B, M)
            0 past the query lengths.
        tape

        Raises
        ------
        ValueError, TypeError
            For a wrong shape, dtype or length.
        """
        return self._forward(query, memory, lengths, query_lengths, None)

    def backward(self, tape: Any, dcontext: Any) -> AttentionGradients:
        """Return the gradients of queries, memory and parameters.

        Parameters
        ----------
        tape
            From `forward`.
        dcontext : array (T, B, M)
            Not read past the query lengths.

        Returns
        -------
        AttentionGradients

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype.
        """
        dcontext = _core.as_array(dcontext, "dcontext", self._dtype_name)
        batch, steps, _ = tape.query.shape
        check_shape(dcontext, "dcontext", (steps, batch, self.memory_size))
        dc, alpha = tape.padding.without(dcontext).swapaxes(0, 1), tape.alpha
        d_alpha = dc @ tape.memory.swapaxes(1, 2)
        d_e = alpha * (d_alpha - (alpha * d_alpha).sum(axis=-1, keepdims=True))
        dq, dk, parameters = self._scores_backward(d_e, tape)
        p = tape.parameters
        d_memory = alpha.swapaxes(1, 2) @ dc + dk @ p["key"]
        found = {
            "query": sum_outer(dq, tape.query),
            "key": sum_outer(dk, tape.memory),
            **parameters,
        }
        gradients = AttentionGradients(
            query=(dq @ p["query"]).swapaxes(0, 1),
            memory=d_memory.swapaxes(0, 1),
            parameters={name: found[name] for name in p},
        )
        tape.padding.clear(gradients.query)
        tape.padding_of_memory.clear(gradients.memory)
        return gradients

    def _forward(
        self, query: Any, memory: Any, lengths: Any, query_lengths: Any, keys: Any
    ) -> tuple[Array, _Tape]:
        """Return what `forward` does, with keys that may be known already."""
        query = self._read(query, "query", ("T", "B", self.query_size))
        memory = self._read(memory, "memory", ("S", "B", self.memory_size))
        if query.shape[1] != memory.shape[1]:
            wanted = (memory.shape[0], query.shape[1], self.memory_size)
            raise ValueError(f"memory: expected {wanted}, got {memory.shape}")
        padding_of_memory = Padding.of(lengths, memory.shape[:2])
        padding = Padding.of(query_lengths, query.shape[:2], "query_lengths")
        p = self.parameters
        if keys is not None:
            keys = _core.as_array(keys, "keys", self._dtype_name)
            check_shape(keys, "keys", (*memory.shape[:2], self.size))
            k = padding_of_memory.without(keys).swapaxes(0, 1)
        query = padding.without(query).swapaxes(0, 1)
        memory = padding_of_memory.without(memory).swapaxes(0, 1)
        if keys is None:
            k = memory @ p["key"].T
        q = query @ p["query"].T
        alpha = _softmax(self._scores(q, k, p), padding_of_memory.outside)
        padding.clear(alpha.swapaxes(0, 1))
        context = (alpha @ memory).swapaxes(0, 1)
        padding.clear(context)
        return context, _Tape(query, memory, q, k, alpha, p, padding, padding_of_memory)

    @abc.abstractmethod
    def _scores(self, q: Array, k: Array, p: Any) -> Array:
        """Return e [B, T, S] of q [B, T, A] and k [B, S, A]."""

    @abc.abstractmethod
    def _scores_backward(self, d_e: Array, tape: _Tape) -> tuple[Array, Array, dict[str, Array]]:
        """Return dq, dk and the gradients of the score's own parameters."""

    def _read(self, value: Any, name: str, shape: tuple[Any, ...]) -> Array:
        array = _core.as_array(value, name, self._dtype_name)
        if array.ndim != 3 or array.shape[-1] != shape[-1]:
            text = f"({shape[0]}, {shape[1]}, {shape[2]})"
            raise ValueError(f"{name}: expected {text}, got {array.shape}")
        return array


@register
class ScaledDotProductAttention(Attention):
    r"""Attention by the product of projections: e = (W_q h) . (W_k m) / sqrt(A).

    Parameters
    ----------
    query_size, memory_size : int
        Q and M, at least 1.
    size : int
        A, the size of the space in which queries and memory are compared.
    dtype : "float32" or "float64"
        Of everything.
    seed : int, optional
        For the initial parameters; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``query`` (A, Q) and ``key`` (A, M). Initially U(-1/sqrt(n), 1/sqrt(n)), n = Q or M.

    Raises
    ------
    ValueError
        For a size below 1, or another dtype.
    TypeError
        For a size that isn't an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import ScaledDotProductAttention
    >>> attention = ScaledDotProductAttention(1, 1, 1, dtype="float64")
    >>> attention.load_parameters({"query": np.eye(1), "key": np.eye(1)})
    >>> memory = np.array([0.0, 1.0]).reshape(2, 1, 1)  # S, B, M
    >>> context, alpha = attention.attend(np.log(3.0).reshape(1, 1, 1), memory)
    >>> alpha.ravel().round(6), context.ravel().round(6)
    (array([0.25, 0.75]), array([0.75]))
    """

    def _scores(self, q: Array, k: Array, p: Any) -> Array:
        e: Array = q @ k.swapaxes(1, 2)
        e *= self.size**-0.5
        return e

    def _scores_backward(self, d_e: Array, tape: _Tape) -> tuple[Array, Array, dict[str, Array]]:
        d_e = d_e * self.dtype.type(self.size**-0.5)
        return d_e @ tape.k, d_e.swapaxes(1, 2) @ tape.q, {}


@register
class AdditiveAttention(Attention):
    r"""Attention by a small network: e = v . tanh(W_q h + W_k m + b).

    Parameters
    ----------
    query_size, memory_size, size, dtype, seed
        As in `ScaledDotProductAttention`.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``query`` (A, Q), ``key`` (A, M), ``bias`` (A,) and ``v`` (A,). Initially
        U(-1/sqrt(n), 1/sqrt(n)), n the last axis.

    Raises
    ------
    ValueError, TypeError
        As `ScaledDotProductAttention` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.models import AdditiveAttention
    >>> attention = AdditiveAttention(3, 4, 5, seed=0)
    >>> query, memory = np.ones((2, 1, 3), np.float32), np.ones((7, 1, 4), np.float32)
    >>> attention.attend(query, memory, lengths=[4])[1][0, 0]  # equal ones
    array([0.25, 0.25, 0.25, 0.25, 0.  , 0.  , 0.  ], dtype=float32)
    """

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super()._shapes(), "bias": (self.size,), "v": (self.size,)}

    def _scores(self, q: Array, k: Array, p: Any) -> Array:
        e = np.empty((*q.shape[:2], k.shape[1]), self.dtype)
        for part in self._parts(q, k):
            e[:, part] = self._u(q[:, part], k, p) @ p["v"]
        return e

    def _scores_backward(self, d_e: Array, tape: _Tape) -> tuple[Array, Array, dict[str, Array]]:
        p = tape.parameters
        dq, dk = np.empty_like(tape.q), np.zeros_like(tape.k)
        dv = np.zeros(self.size)  # as _sums.py has it
        for part in self._parts(tape.q, tape.k):
            u = self._u(tape.q[:, part], tape.k, p)  # again: to keep it would take the most memory
            e = d_e[:, part]
            dv += sum_outer(e.reshape(-1, 1), u)[0]
            np.multiply(u, u, out=u)
            np.subtract(1, u, out=u)  # 1 - u^2; times e v it is da, of which v is left for the sums
            dq[:, part] = p["v"] * (e[:, :, np.newaxis] @ u)[:, :, 0]
            u *= e[..., np.newaxis]
            dk += p["v"] * u.sum(axis=1)
        bias = sum_over(dq.reshape(-1, self.size))
        return dq, dk, {"bias": bias, "v": dv.astype(self.dtype)}

    def _u(self, q: Array, k: Array, p: Any) -> Array:
        """Return tanh(q + k + b) [B, t, S, A]."""
        u: Array = q[:, :, np.newaxis] + (k + p["bias"])[:, np.newaxis]
        np.tanh(u, out=u)
        return u

    def _parts(self, q: Array, k: Array) -> list[slice]:
        """Return the queries that are worked on at once."""
        one = max(q.shape[0] * k.shape[1] * self.size, 1)
        step = max(CHUNK_ELEMENTS // one, 1)
        return [slice(t, t + step) for t in range(0, q.shape[1], step)]


def _softmax(e: Array, outside: npt.NDArray[np.bool_] | None) -> Array:
    """Return the softmax over S of e [B, T, S]; 0 of what is `outside` [S, B]."""
    if outside is not None:
        e = np.where(outside.T[:, np.newaxis], e.dtype.type(-np.inf), e)
    lowest = np.finfo(e.dtype).min  # where nothing is inside, the largest must not be -inf
    e -= e.max(axis=-1, keepdims=True, initial=lowest)
    np.exp(e, out=e)
    total = e.sum(axis=-1, keepdims=True)
    alpha: Array = np.divide(e, total, out=np.zeros_like(e), where=total != 0)
    return alpha
