"""Vanilla recurrent network (Elman), with phi = tanh or phi = relu.

With W = weight_ih, R = weight_hh, b = bias_ih, s = bias_hh:

Forward::

    a  = W x + b + R h + s
    h' = phi(a)                     phi(a) = tanh(a) or max(a, 0)

Backward, with d_v = dL/dv and phi' written in the output h'::

    d_a = d_h' phi'                 phi' = 1 - h'^2 or (1 if h' > 0 else 0)
    d_x = W^T d_a
    d_h = R^T d_a
    d_W = sum over the batch of d_a x^T
    d_R = sum over the batch of d_a h^T
    d_b = d_s = sum over the batch of d_a

relu has no derivative at 0; 0 is taken there, as in torch. A NaN stays a NaN in both directions.

Sources: Elman, Finding Structure in Time, Cognitive Science 14(2), 1990; Goodfellow, Bengio and
Courville, Deep Learning, 2016, equations 10.8, 10.9 and 10.20 to 10.28. Two biases: torch.nn.RNN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .cell import Array, Arrays, Cell, Weights


def tanh(a: Array) -> Array:
    """Return tanh(a), of any shape."""
    return np.tanh(a)


def d_tanh(y: Array) -> Array:
    """Return the derivative of tanh at the point where its value is `y`."""
    return 1 - y**2


def relu(a: Array) -> Array:
    """Return max(a, 0), of any shape."""
    return np.maximum(a, 0.0)


def d_relu(y: Array) -> Array:
    """Return the derivative of relu at the point where its value is `y`: 1 if y > 0 else 0."""
    return np.heaviside(y, 0.0)  # not `y > 0`, which would turn a NaN into 0


def step(
    x: Array, state: Arrays, weights: Weights, phi: Callable[[Array], Array]
) -> tuple[Arrays, Arrays]:
    """One step forward, by the equations at the top of this file.

    Parameters
    ----------
    x : array (B, I)
    state : (h,), h (B, H)
    weights : Weights, with G = 1
    phi : the activation

    Returns
    -------
    state : (h',), h' (B, H)
    saved : tuple of arrays, for `step_backward`

    Examples
    --------
    >>> import numpy as np
    >>> weights = Weights(np.array([[2.0]]), np.array([[3.0]]), np.array([1.0]), np.array([0.0]))
    >>> (h,), saved = step(np.array([[5.0]]), (np.array([[7.0]]),), weights, relu)
    >>> h
    array([[32.]])
    """
    (h,) = state
    W, R, b, s, _ = weights
    a = x @ W.T + b + h @ R.T + s  # [B, H]
    h_next = phi(a)
    return (h_next,), (x, h, h_next)


def step_backward(
    saved: Arrays, weights: Weights, d_state: Arrays, d_phi: Callable[[Array], Array]
) -> tuple[Array, Arrays, Weights]:
    """One step backward, by the equations at the top of this file.

    Parameters
    ----------
    saved : what `step` returned second
    weights : Weights, the same as in `step`
    d_state : (d_h',), d_h' (B, H)
    d_phi : the derivative of the activation, as a function of its value

    Returns
    -------
    d_x : array (B, I)
    d_state : (d_h,), d_h (B, H), of the state before the step
    d_weights : Weights

    Examples
    --------
    >>> import numpy as np
    >>> weights = Weights(np.array([[2.0]]), np.array([[3.0]]), np.array([1.0]), np.array([0.0]))
    >>> _, saved = step(np.array([[5.0]]), (np.array([[7.0]]),), weights, relu)
    >>> d_x, (d_h,), d_weights = step_backward(saved, weights, (np.array([[1.0]]),), d_relu)
    >>> d_x, d_h, d_weights.weight_ih, d_weights.weight_hh
    (array([[2.]]), array([[3.]]), array([[5.]]), array([[7.]]))
    """
    x, h, h_next = saved
    (d_h_next,) = d_state
    W, R, *_ = weights
    d_a = d_h_next * d_phi(h_next)  # [B, H]
    d_x = d_a @ W
    d_h = d_a @ R
    d_W = d_a.T @ x
    d_R = d_a.T @ h
    d_b = d_s = d_a.sum(axis=0)
    return d_x, (d_h,), Weights(d_W, d_R, d_b, d_s)


RNN_TANH = Cell(
    "rnn_tanh", ("a",), ("h",), partial(step, phi=tanh), partial(step_backward, d_phi=d_tanh)
)
RNN_RELU = Cell(
    "rnn_relu", ("a",), ("h",), partial(step, phi=relu), partial(step_backward, d_phi=d_relu)
)
