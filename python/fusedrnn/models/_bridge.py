"""From what is known at the end of an input to the first state of a decoder.

The states of a layer, (L*D, B, H) each, are joined to one vector (B, n) for each sequence, and a
vector is split into states::

    join(h, c) = [h[0], h[1], ..., c[0], c[1], ...]        split is its inverse

    z_0 = split(tanh(W v + b))        v (B, n) any vector, or join(last state of an encoder)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._layer import Layer
from .._network import CELLS, Array
from ..functional import Gradients
from .linear import Linear

Shapes = tuple[tuple[int, int], ...]  # (L*D, H) of each state


def state_shapes(layer: Layer) -> Shapes:
    """Return (L*D, H) of each state of a layer; h (L*D, P) where it is projected."""
    network = layer._network
    count = network.num_layers * network.directions
    sizes = [network.output_size] + [network.hidden_size] * (CELLS[network.cell][1] - 1)
    return tuple((count, size) for size in sizes)


def elements(shapes: Shapes) -> int:
    """Return n, the size of all states of a sequence together."""
    return sum(count * size for count, size in shapes)


def join(state: Any) -> Array:
    """Return a state as one vector for each sequence.

    Examples
    --------
    >>> import numpy as np
    >>> join((np.array([[[1.0, 2.0]], [[3.0, 4.0]]]), np.array([[[5.0]]])))
    array([[1., 2., 3., 4., 5.]])
    """
    arrays = state if isinstance(state, tuple) else (state,)
    return np.concatenate([layer for array in arrays for layer in array], axis=1)


def split(vectors: Array, shapes: Shapes) -> Any:
    """Return vectors (B, n) as the state of a layer with these shapes, a tuple if it has several.

    Examples
    --------
    >>> import numpy as np
    >>> h, c = split(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]), ((2, 2), (1, 1)))
    >>> h.tolist(), c.tolist()
    ([[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0]]])
    """
    ends = np.cumsum([count * size for count, size in shapes])
    parts = [
        np.ascontiguousarray(part.reshape(len(part), count, size).transpose(1, 0, 2))
        for part, (count, size) in zip(np.split(vectors, ends[:-1], axis=1), shapes, strict=True)
    ]
    return tuple(parts) if len(parts) > 1 else parts[0]


def forward(linear: Linear, vectors: Any, shapes: Shapes) -> tuple[Any, Any]:
    """Return z_0, a state of these shapes, and a tape for `backward`."""
    y, _, tape = linear.forward(vectors)
    np.tanh(y, out=y)
    return split(y, shapes), (tape, y)


def backward(linear: Linear, tape: Any, d_state: Any) -> Gradients:
    """Return the gradients of the vectors (`x`) and the parameters of the linear layer."""
    linear_tape, y = tape
    return linear.backward(linear_tape, join(d_state) * (1 - y * y))
