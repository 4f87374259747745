"""What every part of a model has in common: parameters by name, forward, backward.

A module has the calls of a layer, so `fusedrnn.LSTM`, `GRU` and `RNN` are modules as they are::

    y, state       = module(x, state, lengths=lengths)           inference
    y, state, tape = module.forward(x, state, lengths=lengths)   training
    gradients      = module.backward(tape, dy, dstate)           a Gradients: x, state, parameters
    module.parameters, module.load_parameters(...), module.edit_parameters()
    module.random_state                                          what dropout draws next

x is time-major: (T, B, ...). Past the lengths a module reads neither x nor dy, be it NaN or no
symbol, and gives 0 for y and dx, so that nothing that stands there gets anywhere. A module without
a state takes None and returns None; one whose y has no time, as `Last`, has a true attribute
`ends_time`, so that none behind it gets lengths. What a tape reads again must not be changed until
`backward` is done: x, and y, which is read-only then.
"""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import float_dtype, random_state, word
from .._layer import physical_memory
from .._network import Array, check_mapping
from ..functional import Gradients
from ._settings import representation

#: (seed, calls) of each part that draws random numbers, by its name.
RandomState = dict[str, tuple[int, int]]


@runtime_checkable
class Module(Protocol):
    """What can be a part of a model; see the head of this file."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of everything, float32 or float64."""
        ...

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name: read-only arrays."""
        ...

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of these."""
        ...

    def edit_parameters(self) -> contextlib.AbstractContextManager[dict[str, Array]]:
        """Give writable copies of the parameters, and load them at the end of the block."""
        ...

    @property
    def random_state(self) -> Mapping[str, tuple[int, int]]:
        """(seed, calls) of each part that draws random numbers, by name."""
        ...

    @random_state.setter
    def random_state(self, value: Mapping[str, tuple[int, int]]) -> None: ...

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Any, Any]:
        """Return y and the last state: inference."""
        ...

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Any, Any, Any]:
        """Return y, the last state and a tape for `backward`: training."""
        ...

    def backward(self, tape: Any, dy: Any, dstate: Any = None) -> Gradients:
        """Return the gradients of x, the initial state and the parameters."""
        ...


class Editable(abc.ABC):
    """Parameters that are read-only, and replaced as a whole."""

    @property
    @abc.abstractmethod
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name: read-only arrays. See `load_parameters`."""

    @abc.abstractmethod
    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of these."""

    @contextlib.contextmanager
    def edit_parameters(self) -> Iterator[dict[str, Array]]:
        """Give writable copies of the parameters, and load them at the end of the block.

        If the block raises, the module stays as it was.

        Yields
        ------
        dict of str to array
        """
        edited = {name: np.array(a) for name, a in self.parameters.items()}
        yield edited
        self.load_parameters(edited)


class Stateless(Editable):
    """A module without a state that owns its parameters. A subclass gives `_shapes` and the rest.

    Parameters
    ----------
    dtype : "float32" or "float64"
        Of everything.
    seed : int, optional
        For the initial parameters; fresh entropy if not given.
    """

    def __init__(self, *, dtype: npt.DTypeLike = "float32", seed: int | None = None) -> None:
        self._dtype = float_dtype(dtype, "dtype")
        self._dtype_name = self._dtype.name  # which NumPy takes microseconds to make
        rng = np.random.default_rng(None if seed is None else word(seed, "seed"))
        for name, shape in self._shapes().items():
            # Drawn in float64, then of the module's dtype, then copied.
            if math.prod(shape) * (8 + 2 * self._dtype.itemsize) > physical_memory():
                raise MemoryError(f"{name}: an array of {shape} doesn't fit in memory")
        self.load_parameters(
            {name: a.astype(self._dtype) for name, a in self._initial(rng).items()}
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters by name."""
        return {}

    def _initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """Draw the initial parameters; U(-1/sqrt(n), 1/sqrt(n)), n the inputs of each output."""
        shapes = self._shapes()
        if not shapes:
            return {}
        bound = math.prod(shapes["weight"][1:]) ** -0.5
        return {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of everything, float32 or float64."""
        return self._dtype

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name: read-only arrays. See `load_parameters`."""
        return self._parameters

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of these.

        Parameters
        ----------
        parameters : mapping of str to array

        Raises
        ------
        ValueError
            If a name is missing or unexpected, or a shape is wrong.
        TypeError
            If `parameters` isn't a mapping, or a dtype is wrong.
        """
        self._parameters = copies(parameters, self._shapes(), self.dtype)

    @property
    def random_state(self) -> RandomState:
        """What is drawn next: nothing here."""
        return {}

    @random_state.setter
    def random_state(self, value: Mapping[str, tuple[int, int]]) -> None:
        random_state(value, ())

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold."""
        return {**self.__dict__, "_parameters": dict(self._parameters)}

    def __repr__(self) -> str:
        return representation(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the module; its parameters are read-only again."""
        self.__dict__.update(state)
        self.load_parameters(state["_parameters"])


def check_names(argument: str, given: Mapping[str, object], expected: Any) -> None:
    """Raise ValueError unless the mapping has exactly the expected names."""
    missing = sorted(set(expected) - set(given))
    unexpected = sorted(str(name) for name in set(given) - set(expected))
    problems = [f"missing {', '.join(missing)}"] if missing else []
    problems += [f"unexpected {', '.join(unexpected)}"] if unexpected else []
    if problems:
        raise ValueError(f"{argument}: {'; '.join(problems)}")


def copies(
    parameters: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
) -> Mapping[str, Array]:
    """Return read-only copies of arrays, whose names, shapes and dtype are checked."""
    check_mapping(parameters)
    check_names("parameters", parameters, shapes)
    copied = {}
    for name, shape in shapes.items():
        array = np.array(_core.as_array(parameters[name], name, dtype.name), order="C")
        if array.shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {array.shape}")
        array.flags.writeable = False
        copied[name] = array
    return MappingProxyType(copied)


def no_state(state: object, name: str = "state") -> None:
    """Raise ValueError for a state that isn't None: the module has none."""
    if state is not None:
        raise ValueError(f"{name}: expected None, got {type(state).__name__}")
