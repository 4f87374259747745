"""Calls on a GPU: what `functional` does where x is there. `fusedrnn.cuda` is the public part."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._network import network_of

if TYPE_CHECKING:
    from . import _cuda
    from ._cuda import DeviceArray

#: DLPack's numbers of this kind of device: its own memory, and memory that moves.
CUDA = (2, 13)

#: The stream that `fusedrnn.cuda.stream` chose, if it did.
chosen_stream: contextvars.ContextVar[Any] = contextvars.ContextVar("stream", default=None)


# The compiled module

_available = False  # until a device is found


@functools.cache
def load() -> Any:
    """Return the compiled module, or the text that says why there is none."""
    name = f"{__package__}._cuda"
    if importlib.util.find_spec(name) is None:
        return "this build of fusedrnn has no CUDA side"
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return f"its CUDA side can't be loaded: {error}"
    module.use_products(os.environ.get("FUSEDRNN_CUDA_PRODUCTS", ""), library_directories())
    return module


def library_directories() -> list[str]:
    """Return where pip puts cuBLAS: `nvidia-cublas`, and the older `nvidia-cublas-cu12`."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else list(spec.submodule_search_locations or [])
    places = [
        Path(root, *parts) for root in roots for parts in (("cu13", "lib"), ("cublas", "lib"))
    ]
    return [str(place) for place in places if place.is_dir()]


def info() -> dict[str, Any]:
    """Return what `fusedrnn.info()["cuda"]` says."""
    module = load()
    if isinstance(module, str):
        return {"built": False, "devices": [], "error": module}
    found: dict[str, Any] = module.info()
    return found


def why_not() -> str | None:
    """Return why there is no CUDA, or None."""
    module = load()
    if isinstance(module, str):
        return module
    reason: str | None = module.why_not()
    return reason


def required() -> Any:
    """Return the compiled module; raise RuntimeError where there is none, or no device."""
    reason = why_not_yet()
    if reason is not None:
        raise RuntimeError(f"CUDA isn't available: {reason}")
    return load()


def why_not_yet() -> str | None:
    """Return `why_not()`, without asking again once there is a device."""
    global _available
    if not _available:
        reason = why_not()
        _available = reason is None
        return reason
    return None


# Arrays of other libraries


def on_gpu(array: object) -> bool:
    """Return whether an object is an array on a GPU."""
    if type(array) is np.ndarray:
        return False
    kind = type(array)
    if hasattr(kind, "__dlpack_device__"):
        try:
            device: Any = kind.__dlpack_device__(array)
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
            return False
        return bool(device[0] in CUDA)
    return hasattr(array, "__cuda_array_interface__")


def _modules(array: object) -> list[Any]:
    """Return the libraries that an array's class and its bases come from."""
    names = {kind.__module__.partition(".")[0]: None for kind in type(array).__mro__}
    return [sys.modules[name] for name in names if name in sys.modules]


def current_stream(array: object) -> Any:
    """Return the stream that work on this array belongs on; None is CUDA's default."""
    chosen = chosen_stream.get()
    if chosen is not None:
        _check_stream(chosen, array)
        return chosen
    if isinstance(array, required().DeviceArray):
        return array
    for module in _modules(array):
        if module.__name__ == "torch":
            return module.cuda.current_stream(array.device)  # type: ignore[attr-defined]
        if module.__name__ == "cupy":
            with array.device:  # type: ignore[attr-defined]
                return module.cuda.get_current_stream()
    return None


def _check_stream(stream: object, array: Any) -> None:
    """Raise ValueError for a stream of torch's or CuPy's that belongs to another GPU."""
    if not hasattr(array, "__dlpack_device__"):
        return
    device = array.__dlpack_device__()[1]
    index = getattr(stream, "device_index", getattr(stream, "device_id", None))
    if isinstance(index, int) and index >= 0 and index != device:  # -1: of any
        raise ValueError(f"stream: expected one of cuda:{device}, got one of cuda:{index}")


def scope(array: object) -> contextlib.AbstractContextManager[object]:
    """Return a context in which an array's library exports it: torch only from its current GPU."""
    for module in _modules(array):
        if module.__name__ == "torch":
            context: contextlib.AbstractContextManager[object] = module.cuda.device(
                array.device  # type: ignore[attr-defined]
            )
            return context
    return contextlib.nullcontext()


def converter(like: object) -> Callable[[DeviceArray], Any]:
    """Return what makes a DeviceArray an array of the library of `like`."""
    if not isinstance(like, required().DeviceArray):
        namespace = getattr(like, "__array_namespace__", None)
        for module in [namespace()] if namespace is not None else _modules(like):
            if hasattr(module, "from_dlpack"):
                convert: Callable[[DeviceArray], Any] = module.from_dlpack
                return convert
    return lambda array: array


def convert_state(state: Any, convert: Callable[[DeviceArray], Any]) -> Any:
    """Convert a state: an array, or a tuple of them."""
    return tuple(map(convert, state)) if isinstance(state, tuple) else convert(state)


# Calls


class Call:
    """The weights and x of one call, as the compiled module takes them."""

    def __init__(
        self, cell: str, x: Any, parameters: object, out: object, checkpoint_every: object = None
    ) -> None:
        cuda = required()
        _none(out, "out")
        _none(checkpoint_every, "checkpoint_every")
        if not isinstance(parameters, Mapping):
            raise TypeError(
                "parameters: expected a mapping of names to arrays on a GPU, "
                f"got {type(parameters).__name__}"
            )
        view = cuda.DeviceArray.view
        self._convert, self._scope = converter(x), scope(x)
        with self._scope:
            self._x: DeviceArray = view(x, "x", current_stream(x))
            arrays = {name: view(array, str(name), self._x) for name, array in parameters.items()}
        network = network_of(cell, arrays, lambda array, name: array)
        if network.proj_size:
            raise ValueError("weight_hr_l0: expected no projection for x on a GPU, got one")
        self._weights: _cuda.Weights = cuda.Weights(
            network.cell,
            [arrays[name] for name in network.names],
            list(network.names),
            network.input_size,
            network.hidden_size,
            network.num_layers,
            network.bidirectional,
            network.bias,
            self._x,
        )

    def infer(self, state: Any, batch_first: bool, lengths: Any) -> tuple[Any, Any]:
        """Return y and the last state, as arrays of the library that x is of."""
        with self._scope:
            y, last = self._weights.infer(self._x, state, batch_first, lengths)
        return self._convert(y), convert_state(last, self._convert)

    def forward(
        self, state: Any, batch_first: bool, dropout: float, seed: int, call: int, lengths: Any
    ) -> tuple[Any, Any, Any]:
        """Return y, the last state and the tape."""
        with self._scope:
            y, last, tape = self._weights.forward(
                self._x, state, batch_first, dropout, seed, call, lengths
            )
        tape.convert, tape.scope = self._convert, self._scope
        return self._convert(y), convert_state(last, self._convert), tape


def _none(value: object, name: str) -> None:
    if value is not None:
        raise ValueError(f"{name}: expected None for x on a GPU, got {type(value).__name__}")


def is_tape(tape: object) -> bool:
    """Return whether `tape` comes from a call on a GPU."""
    module = sys.modules.get(f"{__package__}._cuda")
    return module is not None and isinstance(tape, module.Tape)


def backward(tape: Any, dy: Any, dstate: Any, out: object) -> tuple[Any, Any, dict[str, Any]]:
    """Return the gradients, as arrays of the library that x is of."""
    _none(out, "out")
    convert = tape.convert
    with tape.scope:
        dx, first, parameters = tape.backward(dy, dstate)
    named = zip(tape.weights.names, map(convert, parameters), strict=True)
    return convert(dx), convert_state(first, convert), dict(named)
