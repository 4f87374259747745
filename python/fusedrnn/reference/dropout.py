"""Dropout between layers, with a counter-based random generator.

Element e of layer k, in the call (seed, call), where e is the C-order index in the layer's output
[T, B, D*H] (with a projection [T, B, D*P]), which lengths don't shorten::

    word = one of the eight 32-bit words of
           Philox4x64-10(key = (seed, call), counter = (1 + e // 8, k, 0, 0)):
           of its 64-bit number (e % 8) // 2 the low half if e is even, else the high half
    keep = word >= round(p 2^32)
    mask = 1 / (1 - p) if keep else 0
    y    = mask x

The backward pass is the same product: d_x = mask d_y. The mask depends on nothing but e, k and
the key: not on lengths, threads, chunks or the order of evaluation.

Sources: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting,
JMLR 15, 2014; between the layers only: Zaremba, Sutskever and Vinyals, Recurrent Neural Network
Regularization, 2014 (arXiv:1409.2329). Philox: Salmon et al., Parallel Random Numbers: As Easy as
1, 2, 3, SC 2011.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .cell import Array


def check_dropout(p: float, key: tuple[int, int]) -> None:
    """Raise ValueError if `p` is not a probability or `key` not two 64-bit words.

    Examples
    --------
    >>> check_dropout(1.5, (0, 0))
    Traceback (most recent call last):
    ValueError: dropout: expected a probability in [0, 1], got 1.5
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: expected a probability in [0, 1], got {p}")
    if len(key) != 2 or not all(0 <= word < 2**64 for word in key):
        raise ValueError(f"dropout_key: expected two integers in [0, 2**64), got {key}")


def dropout_words(count: int, key: tuple[int, int], layer: int) -> npt.NDArray[np.uint64]:
    """Return the random 32-bit words of elements 0 to count - 1.

    Parameters
    ----------
    count : int
    key : (seed, call)
        Two integers in [0, 2^64).
    layer : int
        The layer whose output is dropped, from 0.

    Returns
    -------
    array (count,), each element in [0, 2^32)

    Examples
    --------
    >>> [hex(word) for word in dropout_words(2, (0, 0), 0)]
    ['0x8e4d89b', '0x2f4ba64']
    """
    seed, call = (int(word) for word in key)
    # NumPy adds one to the counter before it makes the first block, hence 1 + e // 8 above.
    generator = np.random.Philox(key=seed + (call << 64), counter=layer << 64)
    numbers = generator.random_raw((count + 1) // 2)
    low = numbers & np.uint64(0xFFFFFFFF)
    high = numbers >> np.uint64(32)
    return np.stack((low, high), axis=1).reshape(-1)[:count]


def dropout_mask(shape: tuple[int, ...], p: float, key: tuple[int, int], layer: int) -> Array:
    """Return the factors by which dropout multiplies the output of a layer.

    Parameters
    ----------
    shape : (T, B, D*H), or (T, B, D*P) with a projection
    p : float
        The probability that an element is dropped, 0 <= p <= 1.
    key : (seed, call)
        Two integers in [0, 2^64).
    layer : int
        The layer, from 0.

    Returns
    -------
    array of that shape, each element 0 or 1 / (1 - p)

    Examples
    --------
    >>> dropout_mask((1, 2, 4), 0.5, (3, 0), 0)
    array([[[2., 2., 0., 0.],
            [2., 0., 0., 2.]]])
    """
    check_dropout(p, key)
    keep = dropout_words(math.prod(shape), key, layer) >= np.uint64(round(p * 2**32))
    scale = 1 / (1 - p) if p < 1 else 0.0  # p = 1 keeps nothing
    return np.where(keep, scale, 0.0).reshape(shape)
