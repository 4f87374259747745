"""What modules made of modules have in common: parameters with dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from .._arguments import random_state
from .._network import Array, check_mapping
from ._module import Editable, RandomState, check_names


class Composite(Editable):
    """A module made of others, by name: their parameters are ``name.parameter``.

    A subclass sets `_parts`, a dict of name to module, and has the rest.
    """

    _parts: dict[str, Any]

    def _check_parts(self) -> None:
        """Raise an error unless all parts have what a part must have, and one dtype."""
        owners: dict[int, str] = {}  # of modules, and of those inside them
        for name, part in self._parts.items():
            if isinstance(part, type):
                raise TypeError(f"{name}: expected a module, got the class {part.__name__}")
            if not hasattr(part, "load_parameters") or not callable(part):
                raise TypeError(f"{name}: expected a module, got {type(part).__name__}")
            for module in _all_modules(part):
                # Its parameters would have two names, and be loaded twice.
                if module.parameters and owners.setdefault(id(module), name) != name:
                    raise ValueError(
                        f"{name}: expected a module of its own, got {owners[id(module)]}'s"
                    )
            if getattr(part, "batch_first", False):
                raise ValueError(f"{name}: expected time on the first axis, got batch_first=True")
            if part.dtype != self.dtype:
                raise ValueError(f"{name}: expected the dtype {self.dtype}, got {part.dtype}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of everything, float32 or float64."""
        dtype: np.dtype[Any] = next(iter(self._parts.values())).dtype
        return dtype

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name: read-only arrays. See `load_parameters`."""
        return MappingProxyType(
            {
                f"{name}.{key}": array
                for name, part in self._parts.items()
                for key, array in part.parameters.items()
            }
        )

    def __repr__(self) -> str:
        parts = ", ".join(
            repr(part) if name.isdigit() else f"{name}={part!r}"
            for name, part in self._parts.items()
        )
        return f"{type(self).__name__}({parts})"

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of these: all of them, or none if one is wrong.

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
        check_mapping(parameters)
        check_names("parameters", parameters, self.parameters)
        before = {name: dict(part.parameters) for name, part in self._parts.items()}
        try:
            for name, part in self._parts.items():
                part.load_parameters({key: parameters[f"{name}.{key}"] for key in before[name]})
        except (ValueError, TypeError, MemoryError):
            for name, part in self._parts.items():
                part.load_parameters(before[name])
            raise

    @property
    def random_state(self) -> RandomState:
        """(seed, calls) of each part that draws random numbers, by name. May be set."""
        return {
            _join(name, key): value
            for name, part in self._parts.items()
            for key, value in part.random_state.items()
        }

    @random_state.setter
    def random_state(self, value: Mapping[str, tuple[int, int]]) -> None:
        value = random_state(value, self.random_state)
        for name, part in self._parts.items():
            part.random_state = {key: value[_join(name, key)] for key in part.random_state}


def _all_modules(part: Any) -> Iterator[Any]:
    """Yield a module and all that are inside it."""
    yield part
    if isinstance(part, Composite):
        for inner in part._parts.values():
            yield from _all_modules(inner)


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if key else name
