"""Names and shapes of the parameters, and the network that a dict of parameters describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._arguments import float64_array
from .cell import NO_PROJECTION, Array, Cell, Weights
from .registry import find_cell


@dataclass(frozen=True)
class Network:
    """Stacked layers of one cell, in one direction or both."""

    cell: Cell
    input_size: int
    hidden_size: int
    proj_size: int  # P, 0 without a projection
    bias: bool
    layers: tuple[tuple[Weights, ...], ...]  # [layer][direction]

    @property
    def directions(self) -> int:
        """The number D of directions, 1 or 2."""
        return len(self.layers[0])

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The number of elements of each state, h first: H, but P for a projected h."""
        others = (self.hidden_size,) * (len(self.cell.states) - 1)
        return (self.proj_size or self.hidden_size, *others)


def parameter_kinds(bias: bool, proj_size: int) -> tuple[str, ...]:
    """Return the kinds of parameters that each direction of each layer has, in torch's order.

    Examples
    --------
    >>> parameter_kinds(bias=False, proj_size=2)
    ('weight_ih', 'weight_hh', 'weight_hr')
    """
    biases = ("bias_ih", "bias_hh") if bias else ()
    projection = ("weight_hr",) if proj_size else ()
    return ("weight_ih", "weight_hh", *biases, *projection)


def parameter_name(kind: str, layer: int, direction: int) -> str:
    """Return torch's name of a parameter.

    Parameters
    ----------
    kind : "weight_ih", "weight_hh", "bias_ih", "bias_hh" or "weight_hr"
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
    proj_size: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all parameters, in torch's order.

    Per layer, then per direction: ``weight_ih [G*H, I_k]``, ``weight_hh [G*H, H]``,
    ``bias_ih [G*H]``, ``bias_hh [G*H]``, with G gates, I_0 = `input_size`, and I_k = D*H for
    k > 0. With a projection to P elements ``weight_hh`` is [G*H, P], ``weight_hr [P, H]`` follows,
    and I_k = D*P. Source: torch.nn.RNNBase.

    Parameters
    ----------
    cell : str
        A name of `CELLS`.
    input_size, hidden_size, num_layers : int
        I, H and the number of layers, each at least 1.
    bias, bidirectional : bool
    proj_size : int
        P, the number of elements that an LSTM's h is projected to, less than H; 0 for no
        projection.

    Returns
    -------
    dict : name -> shape

    Raises
    ------
    ValueError
        If the cell is unknown, or can't have that projection.

    Examples
    --------
    >>> parameter_shapes("gru", 2, 5)  # doctest: +NORMALIZE_WHITESPACE
    {'weight_ih_l0': (15, 2), 'weight_hh_l0': (15, 5),
     'bias_ih_l0': (15,), 'bias_hh_l0': (15,)}
    >>> parameter_shapes("lstm", 2, 5, bias=False, proj_size=3)
    {'weight_ih_l0': (20, 2), 'weight_hh_l0': (20, 3), 'weight_hr_l0': (3, 5)}
    """
    rows = len(find_cell(cell).gates) * hidden_size
    if proj_size and not find_cell(cell).projects:
        raise ValueError(f"proj_size: expected 0 for {cell}, got {proj_size}")
    if proj_size and not 0 < proj_size < hidden_size:
        raise ValueError(f"proj_size: expected 0 to {hidden_size - 1}, got {proj_size}")
    directions = 2 if bidirectional else 1
    output_size = proj_size or hidden_size  # of h
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(num_layers):
        width = input_size if layer == 0 else directions * output_size
        shape = {
            "weight_ih": (rows, width),
            "weight_hh": (rows, output_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
            "weight_hr": (proj_size, hidden_size),
        }
        for direction in range(directions):
            for kind in parameter_kinds(bias, proj_size):
                shapes[parameter_name(kind, layer, direction)] = shape[kind]
    return shapes


def read_parameters(cell: str, parameters: Mapping[str, npt.ArrayLike]) -> Network:
    """Return the network that the parameters describe; they are copied, as float64.

    Sizes, layers, directions and the presence of biases and of a projection follow from names and
    shapes. Without biases the network has zero biases.

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
    arrays = {name: float64_array(array, name).copy() for name, array in parameters.items()}
    projection = find_cell(cell).projects and "weight_hr_l0" in arrays
    for name in ("weight_ih_l0", "weight_hh_l0", *(["weight_hr_l0"] if projection else [])):
        if name not in arrays:
            raise ValueError(f"parameters: {name} is missing")
        if arrays[name].ndim != 2 or 0 in arrays[name].shape:
            raise ValueError(f"{name}: expected a matrix, not empty, got {arrays[name].shape}")
    input_size = arrays["weight_ih_l0"].shape[1]
    proj_size, hidden_size = 0, arrays["weight_hh_l0"].shape[1]
    if projection:
        proj_size, hidden_size = arrays["weight_hr_l0"].shape
        if proj_size >= hidden_size:
            raise ValueError(
                "weight_hr_l0: expected fewer rows than columns [P < H], "
                f"got {(proj_size, hidden_size)}"
            )
    num_layers = sum(f"weight_ih_l{k}" in arrays for k in range(len(arrays)))
    bias = "bias_ih_l0" in arrays
    directions = 2 if "weight_ih_l0_reverse" in arrays else 1
    shapes = parameter_shapes(
        cell,
        input_size,
        hidden_size,
        num_layers,
        bias=bias,
        bidirectional=directions == 2,
        proj_size=proj_size,
    )
    _check(arrays, shapes)
    layers = tuple(
        tuple(_weights(arrays, layer, direction) for direction in range(directions))
        for layer in range(num_layers)
    )
    return Network(find_cell(cell), input_size, hidden_size, proj_size, bias, layers)


def _check(arrays: dict[str, Array], shapes: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(shapes.keys() - arrays.keys())
    unexpected = sorted(arrays.keys() - shapes.keys())
    if missing or unexpected:
        raise ValueError(f"parameters: missing {missing}, unexpected {unexpected}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {arrays[name].shape}")


def _weights(arrays: dict[str, Array], layer: int, direction: int) -> Weights:
    def get(kind: str, otherwise: Array) -> Array:
        return arrays.get(parameter_name(kind, layer, direction), otherwise)

    weight_ih = arrays[parameter_name("weight_ih", layer, direction)]
    weight_hh = arrays[parameter_name("weight_hh", layer, direction)]
    zero = np.zeros(len(weight_ih))
    bias_ih, bias_hh = get("bias_ih", zero), get("bias_hh", zero)
    return Weights(weight_ih, weight_hh, bias_ih, bias_hh, get("weight_hr", NO_PROJECTION))
