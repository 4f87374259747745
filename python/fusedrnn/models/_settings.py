"""The arguments that a module was made with: attributes of the same names, but for the seed."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np


def settings(module: Any) -> dict[str, Any]:
    """Return the arguments by name; a dtype as its name. Whatever the seed did is in the rest.

    Examples
    --------
    >>> from fusedrnn.models import Linear
    >>> settings(Linear(3, 2))
    {'inputs': 3, 'outputs': 2, 'bias': True, 'dtype': 'float32'}
    """
    names = [name for name in inspect.signature(type(module)).parameters if name != "seed"]
    values = {name: getattr(module, name) for name in names}
    return {k: v.name if isinstance(v, np.dtype) else v for k, v in values.items()}


def representation(module: Any) -> str:
    """Return the call that makes such a module, without arguments that have their defaults.

    Examples
    --------
    >>> from fusedrnn.models import Linear
    >>> representation(Linear(3, 2, bias=False))
    'Linear(3, 2, bias=False)'
    """
    parameters = inspect.signature(type(module)).parameters
    arguments = []
    for name, value in settings(module).items():
        required = parameters[name].default is inspect.Parameter.empty
        if required and parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY:
            arguments.append(repr(value))
        elif required or value != parameters[name].default:
            arguments.append(f"{name}={value!r}")
    return f"{type(module).__name__}({', '.join(arguments)})"
