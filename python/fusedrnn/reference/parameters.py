"""Names and shapes of the parameters, and the network that a dict of parameters describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .cell import Array, Cell, Weights
from .registry import find_cell


@dataclass(frozen=True)
class Network:
    """Stacked layers of one cell, in one direction or both."""

    cell: Cell
    input_size: int
    hidden_size: int
    bias: bool
    layers: tuple[tuple[Weights, ...], ...]  # [layer][direction]

    @property
    def directions(self) -> int:
        """The number D of directions, 1 or 2."""
        return len(self.layers[0])


def parameter_name(kind: str, layer: int, direction: int) -> str:
    """Return torch's name of a parameter.

    Parameters
    ----------
    kind : "weight_ih", "weight_hh", "bias_ih" or "bias_hh"
    layer : int, from 0
    direction : 0 (forward in time) or 1 (backward)

    Examples
    --------
    >>> parameter_name("weight_ih", 2, 1)
    'weight_ih_l2_reverse'
    """
    return f"{kind}_l{layer}" + ("_reverse" if direction else "")


def parameter_shapes(
    cell: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bias: bool = True,
    bidirectional: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all parameters, in torch's order.

    Per layer, then per direction: ``weight_ih [G*H, I_k]``, ``weight_hh [G*H, H]``,
    ``bias_ih [G*H]``, ``bias_hh [G*H]``, with G gates, I_0 = `input_size`, and I_k = D*H for
    k > 0. Source: torch.nn.RNNBase.

    Parameters
    ----------
    cell : str
        A name of `CELLS`.
    input_size, hidden_size, num_layers : int
        I, H and the number of layers, each at least 1.
    bias, bidirectional : bool

    Returns
    -------
    dict : name -> shape

    Examples
    --------
    >>> parameter_shapes("gru", 2, 5)  # doctest: +NORMALIZE_WHITESPACE
    {'weight_ih_l0': (15, 2), 'weight_hh_l0': (15, 5),
     'bias_ih_l0': (15,), 'bias_hh_l0': (15,)}
    """
    rows = len(find_cell(cell).gates) * hidden_size
    directions = 2 if bidirectional else 1
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(num_layers):
        width = input_size if layer == 0 else directions * hidden_size
        for direction in range(directions):
            shapes[parameter_name("weight_ih", layer, direction)] = (rows, width)
            shapes[parameter_name("weight_hh", layer, direction)] = (rows, hidden_size)
            if bias:
                shapes[parameter_name("bias_ih", layer, direction)] = (rows,)
                shapes[parameter_name("bias_hh", layer, direction)] = (rows,)
    return shapes


def read_parameters(cell: str, parameters: Mapping[str, npt.ArrayLike]) -> Network:
    """Return the network that the parameters describe; they are copied, as float64.

    Sizes, layers, directions and the presence of biases follow from names and shapes. Without
    biases the network has zero biases.

    Parameters
    ----------
    cell : str
        A name of `CELLS`.
    parameters : mapping name -> array
        Names and shapes as in `parameter_shapes`.

    Raises
    ------
    ValueError
        If a name is missing or unexpected, or a shape is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> shapes = parameter_shapes("lstm", 2, 5, num_layers=3)
    >>> network = read_parameters("lstm", {name: np.zeros(shapes[name]) for name in shapes})
    >>> network.input_size, network.hidden_size, len(network.layers), network.directions
    (2, 5, 3, 1)
    """
    arrays = {name: np.array(array, dtype=np.float64) for name, array in parameters.items()}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in arrays:
            raise ValueError(f"parameters: {name} is missing")
        if arrays[name].ndim != 2 or 0 in arrays[name].shape:
            raise ValueError(f"{name}: expected a matrix, not empty, got {arrays[name].shape}")
    input_size = arrays["weight_ih_l0"].shape[1]
    hidden_size = arrays["weight_hh_l0"].shape[1]
    num_layers = sum(f"weight_ih_l{k}" in arrays for k in range(len(arrays)))
    bias = "bias_ih_l0" in arrays
    directions = 2 if "weight_ih_l0_reverse" in arrays else 1
    shapes = parameter_shapes(
        cell, input_size, hidden_size, num_layers, bias=bias, bidirectional=directions == 2
    )
    _check(arrays, shapes)
    layers = tuple(
        tuple(_weights(arrays, layer, direction, bias) for direction in range(directions))
        for layer in range(num_layers)
    )
    return Network(find_cell(cell), input_size, hidden_size, bias, layers)


def _check(arrays: dict[str, Array], shapes: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(shapes.keys() - arrays.keys())
    unexpected = sorted(arrays.keys() - shapes.keys())
    if missing or unexpected:
        raise ValueError(f"parameters: missing {missing}, unexpected {unexpected}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {arrays[name].shape}")


def _weights(arrays: dict[str, Array], layer: int, direction: int, bias: bool) -> Weights:
    weight_ih = arrays[parameter_name("weight_ih", layer, direction)]
    weight_hh = arrays[parameter_name("weight_hh", layer, direction)]
    if not bias:
        zero = np.zeros(len(weight_ih))
        return Weights(weight_ih, weight_hh, zero, zero)
    bias_ih = arrays[parameter_name("bias_ih", layer, direction)]
    bias_hh = arrays[parameter_name("bias_hh", layer, direction)]
    return Weights(weight_ih, weight_hh, bias_ih, bias_hh)
