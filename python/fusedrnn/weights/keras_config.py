"""Configurations of Keras's recurrent layers: read whole, or refused.

Keras describes a layer by its arguments, as from ``layer.get_config()``, or by its class and them,
``{"class_name": "GRU", "config": {...}}``, as in a model's file. A layer stands alone, as the cell
of an ``RNN``, or twice in a ``Bidirectional``. Each entry is here: what must have one value, what
the weights say as well, and what changes no result. Any other is refused, since it could matter.

Sources: `get_config` of LSTM, GRU, SimpleRNN, their cells, RNN, StackedRNNCells, Bidirectional and
Layer, of Keras 2.15 and 3.15.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from .conventions import RESET_BEFORE

Config = Mapping[str, Any]

#: The class of each cell's layer; that of the cell itself ends in "Cell".
CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "SimpleRNN", "rnn_relu": "SimpleRNN"}

#: What stands beside a class and its arguments.
SERIALISED = {
    "class_name", "config", "module", "registered_name", "build_config", "shared_object_id",
    "name", "inbound_nodes",
}  # fmt: skip
MODULES = ("keras", "tf_keras", "tensorflow")

#: What every layer and cell may have that changes no result: names, how weights were first drawn
#: and are trained.
FREE = {"name", "trainable", "seed", "activity_regularizer"} | {
    f"{of}_{what}"
    for of in ("kernel", "recurrent", "bias")
    for what in ("initializer", "regularizer", "constraint")
}
#: What else a layer may have: which results are returned, where states go, how Keras computes.
FREE_OF_LAYERS = {
    "return_sequences", "return_state", "stateful", "unroll", "zero_output_for_mask", "time_major",
    "implementation", "use_cudnn", "input_length",
}  # fmt: skip

#: What tells that a configuration is one of a Bidirectional.
OF_BIDIRECTIONAL = {"layer", "backward_layer", "merge_mode"}

#: Why dropout must be 0.
DROPOUT = "it acts in training alone, and none here is like it: with 0 the weights are taken"
#: What must have one value: of layers and cells, by their class, and why.
REQUIRED: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    "LSTM": {"recurrent_activation": ("sigmoid", "other activations can't be represented")},
    "GRU": {
        "recurrent_activation": ("sigmoid", "other activations can't be represented"),
        "reset_after": (True, RESET_BEFORE),
    },
    "SimpleRNN": {},
}
#: What else only some classes have that changes no result.
FREE_OF_CLASS = {"LSTM": {"unit_forget_bias"}, "GRU": set[str](), "SimpleRNN": set[str]()}

#: What says the number of inputs by its last element, or is it.
SHAPES = {"input_shape", "batch_input_shape", "batch_shape"}
#: The shapes of all that a layer was called with, of a state too: by name, the sequence's this.
SHAPES_DICT, OF_SEQUENCE = "shapes_dict", "sequences_shape"

#: The dtypes of weights and arithmetic, all of which are loaded as they are.
DTYPES = {"float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"}


@dataclass(frozen=True)
class Sizes:
    """What the weights of a layer say of it."""

    inputs: int
    units: int
    bias: bool
    directions: int


def check_config(cell: str, config: Config, sizes: Sizes) -> None:
    """Raise an error if a configuration isn't understood, can't be represented, or doesn't fit.

    Examples
    --------
    >>> config = {"class_name": "LSTM", "config": {"units": 4, "activation": "relu"}}
    >>> check_config("lstm", config, Sizes(3, 4, True, 1))
    Traceback (most recent call last):
    ValueError: activation: expected 'tanh', got 'relu': the cell is lstm
    """
    directions = _check(cell, config, sizes, "", backwards=False)
    if directions != sizes.directions:
        wanted = "Bidirectional" if sizes.directions == 2 else CLASSES[cell]
        raise ValueError(
            f"config: expected that of {wanted}, since there are weights of {sizes.directions} "
            f"direction{'s' * (sizes.directions == 2)}, got one of {directions}"
        )


def _check(cell: str, config: Any, sizes: Sizes, path: str, *, backwards: bool) -> int:
    """Check a layer or a wrapper of layers; return how many directions it has."""
    kind, entries = _opened(config, sizes, path)
    if kind == "Bidirectional" or (kind is None and OF_BIDIRECTIONAL & set(entries)):
        return _check_bidirectional(cell, entries, sizes, path)
    layer = {"go_backwards": (backwards, "reverse the input of a layer here instead")}
    if kind == "RNN" or (kind is None and "cell" in entries):
        _check_entries(entries, sizes, path, layer, {"cell"} | FREE_OF_LAYERS)
        _check_cell(cell, entries.get("cell"), sizes, f"{path}cell.")
        return 1
    if kind not in (None, CLASSES[cell]):
        raise ValueError(f"{path}config: expected that of {CLASSES[cell]}, got {kind!r}")
    _check_entries(entries, sizes, path, _required(cell) | layer, _free(cell) | FREE_OF_LAYERS)
    return 1


def _check_bidirectional(cell: str, entries: Config, sizes: Sizes, path: str) -> int:
    merge = {"merge_mode": ("concat", "the layers here join the outputs of both directions")}
    _check_entries(entries, sizes, path, merge, OF_BIDIRECTIONAL | FREE_OF_LAYERS)
    for name in sorted((OF_BIDIRECTIONAL - {"merge_mode"}) & set(entries)):
        inner = f"{path}{name}."
        if _check(cell, entries[name], sizes, inner, backwards=name == "backward_layer") != 1:
            raise ValueError(f"{inner}config: expected a layer of one direction, got two")
    if "layer" not in entries:
        raise ValueError(f"{path}config: missing layer, the forward one of a Bidirectional")
    return 2


def _check_cell(cell: str, config: Any, sizes: Sizes, path: str) -> None:
    """Check the cell of an RNN."""
    if isinstance(config, (list, tuple)) or _is_stack(config):
        raise ValueError(
            f"{path}config: expected one {CLASSES[cell]}Cell, got a stack: "
            "take the weights of each of its cells alone, as a layer"
        )
    kind, entries = _opened(config, sizes, path)
    if kind not in (None, f"{CLASSES[cell]}Cell"):
        raise ValueError(f"{path}config: expected that of {CLASSES[cell]}Cell, got {kind!r}")
    _check_entries(entries, sizes, path, _required(cell), _free(cell) | {"implementation"})


def _is_stack(config: Any) -> bool:
    if not isinstance(config, Mapping):
        return False
    return config.get("class_name") == "StackedRNNCells" or "cells" in config


def _opened(config: Any, sizes: Sizes, path: str) -> tuple[str | None, Config]:
    """Return the class of a configuration, where it says one, and the arguments."""
    if not isinstance(config, Mapping):
        raise TypeError(f"{path}config: expected a mapping, got {type(config).__name__}")
    if not {"class_name", "config"} & set(config):
        return None, config
    _check_known(config, SERIALISED, f"{path}config")
    kind, entries = config.get("class_name"), config.get("config")
    if not isinstance(entries, Mapping):
        raise TypeError(f"{path}config: expected a mapping in it, got {type(entries).__name__}")
    module, registered = config.get("module"), config.get("registered_name")
    if registered or str(module or "keras").split(".")[0] not in MODULES:
        raise ValueError(
            f"{path}config: expected a class of Keras, got {kind!r} of {registered or module!r}"
        )
    _check_build(config.get("build_config") or {}, sizes, f"{path}build_config")
    return kind, entries


def _check_build(built: Any, sizes: Sizes, path: str) -> None:
    """Raise an error unless a layer was built for as many inputs as the weights have."""
    _check_known(built, SHAPES | {SHAPES_DICT}, path)
    _check_inputs(built, sizes, f"{path}.")
    shapes = built.get(SHAPES_DICT) or {}
    if not isinstance(shapes, Mapping):
        raise TypeError(f"{path}.{SHAPES_DICT}: expected a mapping, got {type(shapes).__name__}")
    shape = {name: shapes[name] for name in (OF_SEQUENCE,) if name in shapes}
    _check_inputs(shape, sizes, f"{path}.{SHAPES_DICT}.")


def _required(cell: str) -> dict[str, tuple[Any, str]]:
    """Return which entries of a layer or cell must have one value, and why."""
    activation = "relu" if cell == "rnn_relu" else "tanh"
    return {
        **REQUIRED[CLASSES[cell]],
        "activation": (activation, f"the cell is {cell}"),
        "dropout": (0, DROPOUT),
        "recurrent_dropout": (0, DROPOUT),
    }


def _free(cell: str) -> set[str]:
    """Return which entries a layer and its cell may have besides."""
    return FREE_OF_CLASS[CLASSES[cell]] | {"units", "use_bias"}


def _check_entries(
    entries: Config,
    sizes: Sizes,
    path: str,
    required: Mapping[str, tuple[Any, str]],
    free: Set[str],
) -> None:
    """Raise ValueError unless all entries are known and right."""
    for name, (wanted, reason) in required.items():
        _check_value(entries, path + name, wanted, reason)
    known = {*required, "dtype", "input_dim", *SHAPES, *FREE, *free}
    _check_known(entries, known, f"{path}config")
    _check_value(entries, f"{path}units", sizes.units, "as in the weights")
    has = "a bias" if sizes.bias else "no bias"
    _check_value(entries, f"{path}use_bias", sizes.bias, f"there is {has} among the weights")
    _check_inputs(entries, sizes, path)
    _check_dtype(entries.get("dtype"), path)


def _check_known(entries: Any, known: Set[str], path: str) -> None:
    if not isinstance(entries, Mapping):
        raise TypeError(f"{path}: expected a mapping, got {type(entries).__name__}")
    unknown = sorted(str(name) for name in set(entries) - known)
    if unknown:
        raise ValueError(
            f"{path}: expected entries that are known here, got {', '.join(unknown)}: "
            "what changes no result may be left out"
        )


def _check_value(entries: Config, path: str, wanted: Any, reason: str) -> None:
    """Raise ValueError if there is an entry at the end of the path, of another value."""
    name = path.rpartition(".")[2]
    if name in entries and not _same(entries[name], wanted):
        raise ValueError(f"{path}: expected {wanted!r}, got {entries[name]!r}: {reason}")


def _same(value: Any, wanted: Any) -> bool:
    """Return whether they are equal and of one kind: 1 is not True, and "4" not 4."""
    kinds = next(
        k for k in ((bool, np.bool_), (int, float, np.number), (str,)) if isinstance(wanted, k)
    )
    if isinstance(value, bool) != isinstance(wanted, bool) or not isinstance(value, kinds):
        return False
    return bool(value == wanted)


def _check_inputs(entries: Config, sizes: Sizes, path: str) -> None:
    """Raise ValueError if a shape of the input has another number of features than the weights."""
    for name in sorted((SHAPES | {OF_SEQUENCE, "input_dim"}) & set(entries)):
        shape = entries[name]
        last = shape[-1] if isinstance(shape, (list, tuple)) and shape else shape
        if last is not None and not _same(last, sizes.inputs):
            raise ValueError(
                f"{path}{name}: expected {sizes.inputs} features, as in the weights, got {shape!r}"
            )


def _check_dtype(dtype: Any, path: str) -> None:
    """Raise ValueError if it is none of a layer with weights in floating point."""
    policy = dtype
    if isinstance(dtype, Mapping):
        plain = dtype.get("class_name") in ("DTypePolicy", "FloatDTypePolicy", "Policy")
        inner = dtype.get("config") if plain else None
        policy = inner.get("name") if isinstance(inner, Mapping) else dtype
    if policy is not None and not (isinstance(policy, str) and policy in DTYPES):
        raise ValueError(f"{path}dtype: expected one of {sorted(DTYPES)}, got {dtype!r}")
