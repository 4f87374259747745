"""Nested values with arrays in them, as JSON and a flat dict of arrays.

So the states of models and optimizers, whatever their structure, go into one file::

    (h, {"count": 3})  ->  {"tuple": [{"array": "0"}, {"dict": {"count": 3}}]}  and  {"0": h}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def flatten(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """Return the structure of a value for JSON, and put its arrays into a dict.

    Parameters
    ----------
    value : None, bool, int, float, str, array, or a list, tuple or dict of such
    name : str
        What the names of the arrays begin with.
    arrays : dict
        Gets the arrays, under names such as ``state.0.h``.

    Raises
    ------
    TypeError
        For a value of another type.

    Examples
    --------
    >>> import numpy as np
    >>> arrays = {}
    >>> flatten((np.zeros(2), {"count": 3}), "state", arrays)
    {'tuple': [{'array': 'state.0'}, {'dict': {'count': 3}}]}
    >>> arrays
    {'state.0': array([0., 0.])}
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray):
        while name in arrays:  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        arrays[name] = value
        return {"array": name}
    if kind in (list, tuple):
        items = [flatten(item, f"{name}.{k}", arrays) for k, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict:
        return {"dict": {key: flatten(v, f"{name}.{key}", arrays) for key, v in value.items()}}
    raise TypeError(
        f"{name}: expected None, a number, str, array, list, tuple or dict, got {kind.__name__}"
    )


def restore(structure: Any, arrays: Mapping[str, Array]) -> Any:
    """Return the value that `flatten` has taken apart.

    Examples
    --------
    >>> restore({"tuple": [{"array": "a"}, None, [1]]}, {"a": np.zeros(2)})
    (array([0., 0.]), None, [1])
    """
    if isinstance(structure, list):
        return [restore(item, arrays) for item in structure]
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    if kind == "array":
        return arrays[content]
    if kind == "tuple":
        return tuple(restore(item, arrays) for item in content)
    return {key: restore(item, arrays) for key, item in content.items()}


def difference(expected: Any, got: Any, name: str) -> str | None:
    """Return where two JSON values differ first, with both values; None if they don't.

    Examples
    --------
    >>> difference({"a": [1, 2], "b": 3}, {"a": [1, 5], "b": 3}, "model")
    'model.a[1]: expected 2, got 5'
    """
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in [*expected, *(key for key in got if key not in expected)]:
            if key not in expected or key not in got:
                return f"{name}: {'missing' if key in expected else 'unexpected'} {key}"
            if found := difference(expected[key], got[key], f"{name}.{key}"):
                return found
        return None
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return next((d for k, (e, g) in pairs if (d := difference(e, g, f"{name}[{k}]"))), None)
    return None if expected == got else f"{name}: expected {expected!r}, got {got!r}"
