"""Weights of other frameworks as parameters of the layers here, and back.

The layers follow torch. For one direction of one layer, with G gates, others store::

    convention     gates LSTM, GRU   weights of x and h                    biases
    torch          ifgo, rzn         (G*H, I), (G*H, H)                    (G*H,), (G*H,)
    Keras          ifco, zrh         (I, G*H), (H, G*H)                    (G*H,); of a GRU (2, G*H)
    ONNX           iofc, zrh         (D, G*H, I), (D, G*H, H)              (D, 2*G*H): both, joined
    concatenated   any               one (G*H, H + I), or its transpose    (G*H,)

where D is the number of directions. The equations are the same in all of them, with W = weight_ih,
R = weight_hh, b = bias_ih and s = bias_hh::

    a = W x + b + R h + s

    LSTM    i, f, o = sigmoid(a)    g = tanh(a)    c' = f c + i g    h' = o tanh(c')
    GRU     r, z = sigmoid(a)       n = tanh(W_n x + b_n + r (R_n h + s_n))
            h' = (1 - z) n + z h
    RNN     h' = tanh(a) or max(a, 0)

What has other equations can't be represented, and is refused: peepholes, clipping, coupled gates,
other activations, and a GRU that resets h before its product with R, tanh(W_n x + b_n + R_n (r h)).

===================  ============================================================
`CONVENTIONS`        the orders of the gates, as data
`reorder_gates`      a weight or bias with its gates in another order
`from_concatenated`  one matrix over [h, x] or [x, h], any order
`from_keras`         what ``get_weights()`` returns
`to_keras`           what ``set_weights()`` takes
`from_onnx`          W, R and B of a node LSTM, GRU or RNN
`to_onnx`            W, R, B and the attributes of such a node
===================  ============================================================

Examples
--------
>>> import fusedrnn
>>> one, other = fusedrnn.LSTM(3, 4, dtype="float64"), fusedrnn.LSTM(3, 4, dtype="float64")
>>> arrays = fusedrnn.weights.to_keras("lstm", one.parameters)
>>> [array.shape for array in arrays]
[(3, 16), (4, 16), (16,)]
>>> other.load_parameters(fusedrnn.weights.from_keras("lstm", arrays))
>>> bool((other.parameters["weight_hh_l0"] == one.parameters["weight_hh_l0"]).all())
True
"""

from __future__ import annotations

from .concatenated import from_concatenated
from .conventions import CONVENTIONS, Convention, reorder_gates
from .keras import from_keras, to_keras
from .onnx import OnnxWeights, from_onnx, to_onnx

__all__ = [
    "CONVENTIONS",
    "Convention",
    "OnnxWeights",
    "from_concatenated",
    "from_keras",
    "from_onnx",
    "reorder_gates",
    "to_keras",
    "to_onnx",
]


def __dir__() -> list[str]:
    return sorted(__all__)
