"""Cells as other frameworks write them: plain loops over gates in their own orders and layouts.

Each takes one sequence x (T, I) from a zero state, in float64, and returns y (T, H).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import fusedrnn

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
PHI: dict[str, Callable] = {"rnn_tanh": np.tanh, "rnn_relu": lambda a: np.maximum(a, 0)}
LAYERS: dict[str, Callable] = {
    "lstm": fusedrnn.LSTM,
    "gru": fusedrnn.GRU,
    "rnn_tanh": fusedrnn.RNN,
    "rnn_relu": lambda *sizes, **options: fusedrnn.RNN(*sizes, nonlinearity="relu", **options),
}

# Sums of some ten products in other orders, through a few steps that don't enlarge errors.
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def normal(*shape: int, seed=0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def loaded(cell: str, parameters, **options):
    """Return a float64 layer of the sizes of the parameters, which it is given."""
    layers = sum(name.startswith("weight_ih") and "reverse" not in name for name in parameters)
    layer = LAYERS[cell](
        parameters["weight_ih_l0"].shape[1],
        parameters["weight_hh_l0"].shape[1],
        layers,
        bias="bias_ih_l0" in parameters,
        bidirectional="weight_ih_l0_reverse" in parameters,
        dtype="float64",
        **options,
    )
    layer.load_parameters(parameters)
    return layer


def output(cell: str, parameters, x: np.ndarray) -> np.ndarray:
    return loaded(cell, parameters)(x)[0]


def both_ways(run: Callable, forward, backward, x: np.ndarray) -> np.ndarray:
    """Join a run with one over the sequence from its end, as every framework does."""
    return np.concatenate((run(forward, x), run(backward, x[::-1])[::-1]), axis=1)


def concatenated(matrix, bias, x, *, gates: str, parts: str, forget_bias=0.0) -> np.ndarray:
    """An LSTM with the product matrix [h, x], gates along the rows."""
    H = len(matrix) // 4
    h, c, y = np.zeros(H), np.zeros(H), []
    for x_t in x:
        joined = np.concatenate((h, x_t) if parts == "hx" else (x_t, h))
        a = {gate: matrix[k * H : (k + 1) * H] @ joined for k, gate in enumerate(gates)}
        if bias is not None:
            a = {gate: a[gate] + bias[k * H : (k + 1) * H] for k, gate in enumerate(gates)}
        (new,) = set(gates) - set("ifo")
        f, i, o = sigmoid(a["f"] + forget_bias), sigmoid(a["i"]), sigmoid(a["o"])
        c = f * c + i * np.tanh(a[new])
        h = o * np.tanh(c)
        y.append(h)
    return np.array(y)


def keras(cell: str, weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Keras's layers: the gates i f c o, or z r h, along the columns, and x to the left."""
    kernel, recurrent, *bias = weights
    H, G = len(recurrent), GATES[cell]
    zero = np.zeros((2, G * H) if cell == "gru" else G * H)
    b = bias[0] if bias else zero
    h, c, y = np.zeros(H), np.zeros(H), []
    for x_t in x:
        if cell == "gru":
            x_z, x_r, x_h = np.split(x_t @ kernel + b[0], 3)
            h_z, h_r, h_h = np.split(h @ recurrent + b[1], 3)
            z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
            h = z * h + (1 - z) * np.tanh(x_h + r * h_h)
        elif cell == "lstm":
            i, f, new, o = np.split(x_t @ kernel + h @ recurrent + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
            h = sigmoid(o) * np.tanh(c)
        else:
            h = PHI[cell](x_t @ kernel + h @ recurrent + b)
        y.append(h)
    return np.array(y)


def onnx(cell: str, weights: tuple, x: np.ndarray) -> np.ndarray:
    """One direction of ONNX's operators: the gates i o f c, or z r h, along the rows."""
    W, R, B = weights
    H, G = R.shape[1], GATES[cell]
    W, R = W.reshape(G, H, -1), R.reshape(G, H, H)
    Wb, Rb = np.zeros((2, G, H)) if B is None else B.reshape(2, G, H)
    h, C, y = np.zeros(H), np.zeros(H), []
    for x_t in x:
        if cell == "gru":
            z, r = (sigmoid(W[k] @ x_t + R[k] @ h + Wb[k] + Rb[k]) for k in (0, 1))
            new = np.tanh(W[2] @ x_t + r * (R[2] @ h + Rb[2]) + Wb[2])
            h = (1 - z) * new + z * h
        elif cell == "lstm":
            i, o, f, c = (W[k] @ x_t + R[k] @ h + Wb[k] + Rb[k] for k in range(4))
            C = sigmoid(f) * C + sigmoid(i) * np.tanh(c)
            h = sigmoid(o) * np.tanh(C)
        else:
            h = PHI[cell](W[0] @ x_t + R[0] @ h + Wb[0] + Rb[0])
        y.append(h)
    return np.array(y)
