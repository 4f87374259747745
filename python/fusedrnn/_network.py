"""The network that a set of parameters describes: sizes, and torch's names and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core

Array = npt.NDArray[np.floating[Any]]

#: Cell name -> (number of gates G, number of states), as the kernels were compiled.
CELLS: dict[str, tuple[int, int]] = _core.cells()


@dataclass(frozen=True)
class Network:
    """Stacked layers of one cell, in one direction or both."""

    cell: str
    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of all parameters in torch's order."""
        rows = CELLS[self.cell][0] * self.hidden_size
        directions = ("", "_reverse") if self.bidirectional else ("",)
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else len(directions) * self.hidden_size
            for direction in directions:
                yield f"weight_ih_l{layer}{direction}", (rows, width)
                yield f"weight_hh_l{layer}{direction}", (rows, self.hidden_size)
                if self.bias:
                    yield f"bias_ih_l{layer}{direction}", (rows,)
                    yield f"bias_hh_l{layer}{direction}", (rows,)

    def check_names(self, parameters: Mapping[str, object]) -> None:
        """Raise ValueError unless `parameters` has exactly the names of this network."""
        names = {name for name, _ in self.shapes()}
        missing = sorted(names - set(parameters))
        unexpected = sorted(str(name) for name in set(parameters) - names)
        if missing or unexpected:
            problems = [f"missing {', '.join(missing)}"] if missing else []
            problems += [f"unexpected {', '.join(unexpected)}"] if unexpected else []
            raise ValueError(f"parameters: {'; '.join(problems)}")

    def pack(
        self, parameters: Mapping[str, object], dtype: str, owner: object = None
    ) -> _core.PackedWeights:
        """Check the parameters' types and shapes, and pack them for the kernels."""
        names = [name for name, _ in self.shapes()]
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
        )


def network_of(cell: str, parameters: Mapping[str, object]) -> Network:
    """Return the network that the names and shapes of `parameters` describe.

    Raises
    ------
    ValueError
        If the cell is unknown, a name is missing or unexpected, or a size can't be read.
    """
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
    if not isinstance(parameters, Mapping):
        raise TypeError(
            f"parameters: expected a mapping of names to arrays, got {type(parameters).__name__}"
        )
    num_layers = 0
    while f"weight_ih_l{num_layers}" in parameters:
        num_layers += 1
    network = Network(
        cell,
        input_size=_columns(parameters, "weight_ih_l0"),
        hidden_size=_columns(parameters, "weight_hh_l0"),
        num_layers=num_layers,
        bidirectional="weight_ih_l0_reverse" in parameters,
        bias="bias_ih_l0" in parameters,
    )
    network.check_names(parameters)
    return network


def _columns(parameters: Mapping[str, object], name: str) -> int:
    """Return the number of columns of a weight matrix: what it is multiplied with."""
    if name not in parameters:
        raise ValueError(f"parameters: missing {name}")
    shape = np.shape(parameters[name])  # type: ignore[arg-type]
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"{name}: expected a matrix of at least one column, got {shape}")
    return shape[1]


def dtype_name(array: object, name: str) -> str:
    """Return "float32" or "float64", the dtype of `array`; anything else is a TypeError."""
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        got = type(array).__name__
    else:
        # Frameworks' dtypes print as "torch.float32"; NumPy's tell the byte order in `str`.
        got = dtype.name if isinstance(dtype, np.dtype) and dtype.isnative else str(dtype)
        got = got.removeprefix("torch.")
    if got not in ("float32", "float64"):
        raise TypeError(f"{name}: expected an array of float32 or float64, got {got}")
    return got
