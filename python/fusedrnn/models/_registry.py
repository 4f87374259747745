"""The configuration of a module as JSON can hold it, and modules made from one.

The configuration of a module is its kind and the arguments that it was made with, those of the
modules inside it included; parameters and random state are what it doesn't have::

    {"kind": "Linear", "inputs": 3, "outputs": 2, "bias": True, "dtype": "float32"}

A kind is known once its class is registered, so that a file can't name anything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from ..layers import GRU, LSTM, RNN
from ._settings import settings

Class = TypeVar("Class", bound=type)

_kinds: dict[str, type[Any]] = {kind.__name__: kind for kind in (GRU, LSTM, RNN)}

# What a module of any number of modules has in place of arguments: a dict of them by name.
_MODULES = "modules"


def register(kind: Class) -> Class:
    """Let modules of this class be saved and loaded: a decorator, also for classes of your own.

    Parameters
    ----------
    kind : class
        Its constructor's arguments, but for `seed`, must be attributes of the same names: numbers,
        strings, bools, None, dtypes or modules.

    Returns
    -------
    class
        The same.

    Raises
    ------
    ValueError
        If another class of that name is known.

    Examples
    --------
    >>> from fusedrnn import models
    >>> @models.register
    ... class Gate(models.Linear):
    ...     pass
    >>> models.build(models.config(Gate(2, 4)))
    Gate(2, 4)
    """
    name = kind.__name__
    known = _kinds.setdefault(name, kind)
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"kind: {name} is another class already: {known!r}")
    _kinds[name] = kind
    return kind


def config(module: Any) -> dict[str, Any]:
    """Return the configuration of a module.

    Parameters
    ----------
    module : a module or model of `fusedrnn.models`, or a layer

    Returns
    -------
    dict
        Of numbers, strings, bools, None and such dicts.

    Raises
    ------
    TypeError
        If the module, or one inside it, is of a class that isn't registered.

    Examples
    --------
    >>> from fusedrnn.models import Last, Sequential, Tanh, config
    >>> config(Sequential(Tanh(), pool=Last()))["modules"]["pool"]
    {'kind': 'Last', 'dtype': 'float32'}
    """
    name = type(module).__name__
    if _kinds.get(name) is not type(module):
        raise TypeError(f"module: expected one of a registered class, got {name}; see `register`")
    if hasattr(module, _MODULES):
        return {"kind": name, _MODULES: {k: config(m) for k, m in module.modules.items()}}
    return {"kind": name, **{k: _plain(v) for k, v in settings(module).items()}}


def build(config: Mapping[str, Any]) -> Any:
    """Return a module of this configuration, with parameters drawn anew.

    Parameters
    ----------
    config : mapping
        From `config`.

    Returns
    -------
    Module or model

    Raises
    ------
    ValueError
        If the kind isn't known, or an argument is missing, unexpected or wrong.
    TypeError
        If it isn't a mapping, or an argument is of a wrong kind.

    Examples
    --------
    >>> from fusedrnn import GRU
    >>> from fusedrnn.models import build, config
    >>> build(config(GRU(3, 4, num_layers=2)))
    GRU(3, 4, num_layers=2)
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config: expected a mapping, got {type(config).__name__}")
    arguments = dict(config)
    name = arguments.pop("kind", None)
    if not isinstance(name, str) or name not in _kinds:
        known = ", ".join(sorted(_kinds))
        raise ValueError(f"config: expected a kind, one of {known}, got {name!r}")
    kind = _kinds[name]
    if isinstance(arguments.get(_MODULES), Mapping):
        arguments |= arguments.pop(_MODULES)
    made = {k: build(v) if isinstance(v, Mapping) else v for k, v in arguments.items()}
    numbered = list(made) == [str(i) for i in range(len(made))]
    positional, named = (list(made.values()), {}) if numbered else ([], made)
    try:
        inspect.signature(kind).bind(*positional, **named)
    except TypeError as error:
        raise ValueError(f"config: {name}: {error}") from None
    return kind(*positional, **named)


def _plain(value: Any) -> Any:
    """Return an argument as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return config(value)
