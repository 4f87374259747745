"""The specification: every cell, layer and gradient in plain NumPy, float64.

Slow, obvious and independent of everything else in this package. The call shapes are those of
`fusedrnn.functional`; whatever comes in, everything is computed in float64.
Sequences of a batch may have lengths of their own, and an LSTM may have a projection.

======================  =========================================================
`CELLS`                 name -> `Cell` (gates, states, step, step_backward)
`infer`                 run without dropout
`forward`               run for training, with a tape
`backward`              gradients from a tape
`parameter_shapes`      names and shapes of the parameters
`dropout_mask`          the mask of a call and a layer
`sigmoid`               the logistic function
`linear`                the head: o = V y + c
`cross_entropy`         loss and gradient of o
`squared_error`         loss and gradient of o
`linear_cross_entropy`  loss and gradients of y, V and c
`linear_squared_error`  loss and gradients of y, V and c
`convolution`           a window that slides over time
`attention`             a weighted mean of a memory, and the weights
======================  =========================================================

The scores of attention are `dot_product_score` and `additive_score`.

Examples
--------
>>> import numpy as np
>>> from fusedrnn import reference
>>> shapes = reference.parameter_shapes("gru", input_size=3, hidden_size=4)
>>> parameters = {name: np.full(shapes[name], 0.5) for name in shapes}
>>> y, h, tape = reference.forward("gru", np.ones((5, 2, 3)), parameters)
>>> gradients = reference.backward(tape, np.ones_like(y))
>>> y.shape, h.shape, gradients.x.shape
((5, 2, 4), (1, 2, 4), (5, 2, 3))
"""

from .attention import additive_score, attention, dot_product_score
from .cell import Cell, Weights, sigmoid
from .convolution import convolution
from .dropout import dropout_mask
from .head import (
    cross_entropy,
    linear,
    linear_cross_entropy,
    linear_squared_error,
    squared_error,
)
from .parameters import parameter_shapes
from .registry import CELLS
from .sequence import Gradients, Tape, backward, forward, infer

__all__ = [
    "CELLS",
    "Cell",
    "Gradients",
    "Tape",
    "Weights",
    "additive_score",
    "attention",
    "backward",
    "convolution",
    "cross_entropy",
    "dot_product_score",
    "dropout_mask",
    "forward",
    "infer",
    "linear",
    "linear_cross_entropy",
    "linear_squared_error",
    "parameter_shapes",
    "sigmoid",
    "squared_error",
]


def __dir__() -> list[str]:
    return sorted(__all__)
