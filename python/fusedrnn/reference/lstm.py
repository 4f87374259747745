"""Long short-term memory, with or without a projection of h.

With W = weight_ih, R = weight_hh, b = bias_ih, s = bias_hh, each in four blocks i f g o, and
V = weight_hr:

Forward::

    a  = W x + b + R h + s          a = (a_i, a_f, a_g, a_o)
    i  = sigmoid(a_i)
    f  = sigmoid(a_f)
    g  = tanh(a_g)
    o  = sigmoid(a_o)
    c' = f c + i g
    m  = o tanh(c')
    h' = V m                        h' = m without a projection

Backward, with d_v = dL/dv, sigmoid' = y (1 - y) and tanh' = 1 - y^2 of the output y::

    d_m   = V^T d_h'                d_m = d_h' without a projection
    d_o   = d_m tanh(c')
    d_c'  = d_c' + d_m o (1 - tanh(c')^2)
    d_i   = d_c' g
    d_f   = d_c' c
    d_g   = d_c' i
    d_c   = d_c' f
    d_a_i = d_i i (1 - i)
    d_a_f = d_f f (1 - f)
    d_a_g = d_g (1 - g^2)
    d_a_o = d_o o (1 - o)
    d_x   = W^T d_a
    d_h   = R^T d_a
    d_W   = sum over the batch of d_a x^T
    d_R   = sum over the batch of d_a h^T
    d_b   = d_s = sum over the batch of d_a
    d_V   = sum over the batch of d_h' m^T

A projection, V [P, H], makes h and y smaller than c: P elements instead of H.

Sources: Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997; the
forget gate: Gers, Schmidhuber and Cummins, Learning to Forget, Neural Computation 12(10), 2000;
the projection: Sak, Senior and Beaufays, Long Short-Term Memory Based Recurrent Neural Network
Architectures for Large Vocabulary Speech Recognition, 2014 (arXiv:1402.1128), without its
peepholes and its non-recurrent projection. Gate order, the two biases and where the projection
stands: torch.nn.LSTM.
"""

from __future__ import annotations

import numpy as np

from .cell import Array, Arrays, Cell, Weights, sigmoid


def step(x: Array, state: Arrays, weights: Weights) -> tuple[Arrays, Arrays]:
    """One step forward, by the equations at the top of this file.

    Parameters
    ----------
    x : array (B, I)
    state : (h, c), each (B, H), but h (B, P) with a projection
    weights : Weights, with G = 4

    Returns
    -------
    state : (h', c'), shaped like (h, c)
    saved : tuple of arrays, for `step_backward`

    Examples
    --------
    With zero weights every gate is 1/2 and g is 0, so c' = c / 2:

    >>> import numpy as np
    >>> zero = Weights(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(4), np.zeros(4))
    >>> (h, c), saved = step(np.ones((1, 1)), (np.zeros((1, 1)), np.ones((1, 1))), zero)
    >>> c
    array([[0.5]])

    and a projection of 2 to one element makes h' = 2 o tanh(c') = tanh(c'):

    >>> (h, c), _ = step(
    ...     np.ones((1, 1)),
    ...     (np.zeros((1, 1)), np.ones((1, 1))),
    ...     zero._replace(weight_hr=np.array([[2.0]])),
    ... )
    >>> bool(h == np.tanh(c))
    True
    """
    h, c = state
    W, R, b, s, V = weights
    a = x @ W.T + b + h @ R.T + s  # [B, 4H]
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    i = sigmoid(a_i)
    f = sigmoid(a_f)
    g = np.tanh(a_g)
    o = sigmoid(a_o)
    c_next = f * c + i * g
    m = o * np.tanh(c_next)
    h_next = m @ V.T if len(V) else m
    return (h_next, c_next), (x, h, c, i, f, g, o, c_next)


def step_backward(
    saved: Arrays, weights: Weights, d_state: Arrays
) -> tuple[Array, Arrays, Weights]:
    """One step backward, by the equations at the top of this file.

    Parameters
    ----------
    saved : what `step` returned second
    weights : Weights, the same as in `step`
    d_state : (d_h', d_c'), shaped like (h', c')

    Returns
    -------
    d_x : array (B, I)
    d_state : (d_h, d_c), shaped like (h, c), of the state before the step
    d_weights : Weights

    Examples
    --------
    >>> import numpy as np
    >>> zero = Weights(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(4), np.zeros(4))
    >>> _, saved = step(np.ones((1, 1)), (np.zeros((1, 1)), np.ones((1, 1))), zero)
    >>> d_x, (d_h, d_c), d_weights = step_backward(saved, zero, (np.zeros((1, 1)), np.ones((1, 1))))
    >>> d_c, d_weights.bias_ih
    (array([[0.5]]), array([0.  , 0.25, 0.5 , 0.  ]))
    """
    x, h, c, i, f, g, o, c_next = saved
    d_h_next, d_c_next = d_state
    W, R, _, _, V = weights
    m = o * np.tanh(c_next)
    d_m = d_h_next @ V if len(V) else d_h_next
    d_o = d_m * np.tanh(c_next)
    d_c_next = d_c_next + d_m * o * (1 - np.tanh(c_next) ** 2)
    d_i = d_c_next * g
    d_f = d_c_next * c
    d_g = d_c_next * i
    d_c = d_c_next * f
    d_a_i = d_i * i * (1 - i)
    d_a_f = d_f * f * (1 - f)
    d_a_g = d_g * (1 - g**2)
    d_a_o = d_o * o * (1 - o)
    d_a = np.concatenate((d_a_i, d_a_f, d_a_g, d_a_o), axis=1)  # [B, 4H]
    d_x = d_a @ W
    d_h = d_a @ R
    d_W = d_a.T @ x
    d_R = d_a.T @ h
    d_b = d_s = d_a.sum(axis=0)
    d_V = d_h_next.T @ m if len(V) else V
    return d_x, (d_h, d_c), Weights(d_W, d_R, d_b, d_s, d_V)


LSTM = Cell("lstm", ("i", "f", "g", "o"), ("h", "c"), step, step_backward, projects=True)
