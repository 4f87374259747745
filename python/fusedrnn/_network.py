"""The network that a set of parameters describes: sizes, and torch's names and shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._arguments import projection

Array = npt.NDArray[np.floating[Any]]

#: Cell name -> (number of gates G, number of states), as the kernels were compiled.
CELLS: dict[str, tuple[int, int]] = _core.cells()


@functools.lru_cache
def parameter_names(
    num_layers: int, bidirectional: bool, bias: bool, projects: bool
) -> tuple[str, ...]:
    """Return the names of all parameters in torch's order."""
    kinds = ["weight_ih", "weight_hh"]
    kinds += ["bias_ih", "bias_hh"] if bias else []
    kinds += ["weight_hr"] if projects else []
    directions = ["", "_reverse"] if bidirectional else [""]
    return tuple(
        f"{kind}_l{layer}{direction}"
        for layer in range(num_layers)
        for direction in directions
        for kind in kinds
    )


@dataclass(frozen=True)
class Network:
    """Stacked layers of one cell, in one direction or both."""

    cell: str
    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    proj_size: int = 0  # P, or 0 where h isn't projected

    @property
    def directions(self) -> int:
        """D, 1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def rows(self) -> int:
        """G*H, the rows of each weight."""
        return CELLS[self.cell][0] * self.hidden_size

    @property
    def output_size(self) -> int:
        """H, or P where h is projected: the size of h."""
        return self.proj_size or self.hidden_size

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters in torch's order."""
        return parameter_names(self.num_layers, self.bidirectional, self.bias, self.proj_size > 0)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of all parameters in torch's order."""
        names = iter(self.names)
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else self.directions * self.output_size
            for _ in range(self.directions):
                yield next(names), (self.rows, width)
                yield next(names), (self.rows, self.output_size)
                if self.bias:
                    yield next(names), (self.rows,)
                    yield next(names), (self.rows,)
                if self.proj_size > 0:
                    yield next(names), (self.proj_size, self.hidden_size)

    def counts(self) -> tuple[int, int]:
        """Return how many parameters `shapes` yields, and how many elements they have."""
        columns = self.output_size + (2 if self.bias else 0)
        first = self.input_size + columns
        other = self.directions * self.output_size + columns
        count = self.directions * self.num_layers
        elements = self.directions * self.rows * (first + (self.num_layers - 1) * other)
        elements += count * self.proj_size * self.hidden_size
        return count * (2 + 2 * self.bias + (self.proj_size > 0)), elements

    def check_names(self, parameters: Mapping[str, object]) -> None:
        """Raise an error unless `parameters` is a mapping with exactly this network's names."""
        check_mapping(parameters)
        names = set(self.names)
        if set(parameters) == names:
            return
        missing = sorted(names - set(parameters))
        unexpected = sorted(str(name) for name in set(parameters) - names)
        problems = [f"missing {', '.join(missing)}"] if missing else []
        problems += [f"unexpected {', '.join(unexpected)}"] if unexpected else []
        raise ValueError(f"parameters: {'; '.join(problems)}")

    def pack(
        self,
        parameters: Mapping[str, object],
        dtype: str,
        owner: object = None,
        *,
        copy: bool = False,
    ) -> _core.PackedWeights:
        """Check the parameters' types and shapes, and pack them for the kernels.

        Without `copy` the arrays must stay as they are until the last call of `forward`.
        """
        names = list(self.names)
        return _core.PackedWeights(
            self.cell,
            [parameters[name] for name in names],
            names,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.bias,
            dtype,
            owner,
            copy,
            self.proj_size,
        )


def check_cell(cell: str) -> None:
    """Raise ValueError unless there is such a cell."""
    if not isinstance(cell, str) or cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")


def check_mapping(parameters: object) -> None:
    """Raise TypeError unless `parameters` is a mapping."""
    if not isinstance(parameters, Mapping):
        raise TypeError(
            f"parameters: expected a mapping of names to arrays, got {type(parameters).__name__}"
        )


def network_of(
    cell: str,
    parameters: Mapping[str, object],
    read: Callable[[Any, str], Any] = _core.as_array,
) -> Network:
    """Return the network that the parameters' names and shapes describe.

    `read` makes a parameter, given its name, an array with a shape.

    Raises
    ------
    ValueError
        If the cell is unknown, a name is missing or unexpected, or a size can't be read.
    TypeError
        If `parameters` isn't a mapping, or a weight that a size is read from is no array.
    """
    check_cell(cell)
    check_mapping(parameters)
    num_layers = 0
    while f"weight_ih_l{num_layers}" in parameters:
        num_layers += 1
    input_size = _matrix(parameters, "weight_ih_l0", read).shape[1]
    proj_size, hidden_size = 0, _matrix(parameters, "weight_hh_l0", read).shape[1]
    if "weight_hr_l0" in parameters and cell == "lstm":
        proj_size, hidden_size = _matrix(parameters, "weight_hr_l0", read).shape
        projection(proj_size, hidden_size, "weight_hr_l0: its rows")
    network = Network(
        cell,
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        bidirectional="weight_ih_l0_reverse" in parameters,
        bias="bias_ih_l0" in parameters,
        proj_size=proj_size,
    )
    network.check_names(parameters)
    return network


def dtype_of(parameters: Mapping[str, object]) -> str:
    """Return "float32" or "float64", the dtype of the first weight, which all must have."""
    weight = _matrix(parameters, "weight_ih_l0")
    return "float32" if weight.itemsize == 4 else "float64"  # dtype.name takes microseconds


def _matrix(
    parameters: Mapping[str, object], name: str, read: Callable[[Any, str], Any] = _core.as_array
) -> Any:
    """Return a weight, whose columns are the size of what it is multiplied with."""
    if name not in parameters:
        raise ValueError(f"parameters: missing {name}")
    weight = read(parameters[name], name)
    if weight.ndim != 2 or weight.shape[1] < 1:
        raise ValueError(f"{name}: expected a matrix of at least one column, got {weight.shape}")
    return weight
