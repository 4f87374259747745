"""Gated recurrent unit, with the reset gate applied after the product R_n h.

With W = weight_ih, R = weight_hh, b = bias_ih, s = bias_hh, each in three blocks r z n:

Forward::

    a  = W x + b                    a = (a_r, a_z, a_n)
    m  = R h + s                    m = (m_r, m_z, m_n)
    r  = sigmoid(a_r + m_r)
    z  = sigmoid(a_z + m_z)
    n  = tanh(a_n + r m_n)
    h' = (1 - z) n + z h

Backward, with d_v = dL/dv, sigmoid' = y (1 - y) and tanh' = 1 - y^2 of the output y::

    d_n   = d_h' (1 - z)
    d_z   = d_h' (h - n)
    d_a_n = d_n (1 - n^2)
    d_m_n = d_a_n r
    d_r   = d_a_n m_n
    d_a_r = d_m_r = d_r r (1 - r)
    d_a_z = d_m_z = d_z z (1 - z)
    d_x   = W^T d_a
    d_h   = R^T d_m + d_h' z
    d_W   = sum over the batch of d_a x^T
    d_R   = sum over the batch of d_m h^T
    d_b   = sum over the batch of d_a
    d_s   = sum over the batch of d_m

s_n stands inside the product with r, so b_n and s_n can't be summed into one bias.

Sources: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical
Machine Translation, 2014 (arXiv:1406.1078). The reset after the product, the gate order and the
two biases: torch.nn.GRU and cuDNN.
"""

from __future__ import annotations

import numpy as np

from .cell import Array, Arrays, Cell, Weights, sigmoid


def step(x: Array, state: Arrays, weights: Weights) -> tuple[Arrays, Arrays]:
    """One step forward, by the equations at the top of this file.

    Parameters
    ----------
    x : array (B, I)
    state : (h,), h (B, H)
    weights : Weights, with G = 3

    Returns
    -------
    state : (h',), h' (B, H)
    saved : tuple of arrays, for `step_backward`

    Examples
    --------
    With zero weights z is 1/2 and n is 0, so h' = h / 2:

    >>> import numpy as np
    >>> zero = Weights(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), np.zeros(3))
    >>> (h,), saved = step(np.ones((1, 1)), (np.ones((1, 1)),), zero)
    >>> h
    array([[0.5]])
    """
    (h,) = state
    W, R, b, s, _ = weights
    a = x @ W.T + b  # [B, 3H]
    m = h @ R.T + s  # [B, 3H]
    a_r, a_z, a_n = np.split(a, 3, axis=1)
    m_r, m_z, m_n = np.split(m, 3, axis=1)
    r = sigmoid(a_r + m_r)
    z = sigmoid(a_z + m_z)
    n = np.tanh(a_n + r * m_n)
    h_next = (1 - z) * n + z * h
    return (h_next,), (x, h, r, z, n, m_n)


def step_backward(
    saved: Arrays, weights: Weights, d_state: Arrays
) -> tuple[Array, Arrays, Weights]:
    """One step backward, by the equations at the top of this file.

    Parameters
    ----------
    saved : what `step` returned second
    weights : Weights, the same as in `step`
    d_state : (d_h',), d_h' (B, H)

    Returns
    -------
    d_x : array (B, I)
    d_state : (d_h,), d_h (B, H), of the state before the step
    d_weights : Weights

    Examples
    --------
    >>> import numpy as np
    >>> zero = Weights(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), np.zeros(3))
    >>> _, saved = step(np.ones((1, 1)), (np.ones((1, 1)),), zero)
    >>> d_x, (d_h,), d_weights = step_backward(saved, zero, (np.ones((1, 1)),))
    >>> d_h, d_weights.bias_ih, d_weights.bias_hh
    (array([[0.5]]), array([0.  , 0.25, 0.5 ]), array([0.  , 0.25, 0.25]))
    """
    x, h, r, z, n, m_n = saved
    (d_h_next,) = d_state
    W, R, *_ = weights
    d_n = d_h_next * (1 - z)
    d_z = d_h_next * (h - n)
    d_a_n = d_n * (1 - n**2)
    d_m_n = d_a_n * r
    d_r = d_a_n * m_n
    d_a_r = d_m_r = d_r * r * (1 - r)
    d_a_z = d_m_z = d_z * z * (1 - z)
    d_a = np.concatenate((d_a_r, d_a_z, d_a_n), axis=1)  # [B, 3H]
    d_m = np.concatenate((d_m_r, d_m_z, d_m_n), axis=1)  # [B, 3H]
    d_x = d_a @ W
    d_h = d_m @ R + d_h_next * z
    d_W = d_a.T @ x
    d_R = d_m.T @ h
    d_b = d_a.sum(axis=0)
    d_s = d_m.sum(axis=0)
    return d_x, (d_h,), Weights(d_W, d_R, d_b, d_s)


GRU = Cell("gru", ("r", "z", "n"), ("h",), step, step_backward)
