"""Packed weights for tensors: packed once per version of their contents, and never stale.

An entry belongs to the addresses of a layer's parameters. It serves a call if the tensors have the
same shapes and strides, the same version counters and the same contents, by fingerprint: version
counters alone don't see every write (`trust_version_counters`). So it doesn't matter whose tensors
they are: modules that share parameters share the entry, and an address that the allocator gave to
other tensors can't mislead.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .. import _core
from .._network import Array, Network
from . import _gpu
from ._gpu import DeviceWeights
from ._switches import Unsupported, trust_version_counters

__all__ = [
    "CELLS",
    "PLAIN",
    "as_array",
    "as_tensor",
    "check_tensors",
    "dtypes_of",
    "network_of",
    "packed_weights",
]

#: torch's `mode` of a layer -> the kernels' cell.
CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}

#: Types of tensors whose memory is what it seems to be. Subclasses may be anything.
PLAIN = frozenset({Tensor, torch.nn.Parameter})

#: In bytes: it takes long to find by the contents alone that so much has changed.
_LARGE = 1 << 20

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}

_pointer: Callable[[Tensor], int] = Tensor.data_ptr
_stride: Callable[[Tensor], tuple[int, ...]] = Tensor.stride
_count: Callable[[Tensor], int] = Tensor.numel
_version: Callable[[Tensor], int] = operator.attrgetter("_version")


@functools.cache
def network_of(
    cell: str,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    proj_size: int = 0,
) -> Network:
    """Return the one object for these sizes: entries are found by its identity."""
    return Network(cell, input_size, hidden_size, num_layers, bidirectional, bias, proj_size)


def as_array(tensor: Tensor) -> Any:
    """Return what the kernels take: the tensor's memory as an array; on a GPU the tensor itself."""
    if _gpu.on_gpu(tensor):
        return tensor
    try:
        array: Array = (tensor.detach() if tensor.requires_grad else tensor).numpy()
        return array
    except (RuntimeError, TypeError) as error:  # not on the CPU, not strided, negated lazily
        raise Unsupported(_first_sentence(error)) from None


def as_tensor(array: Any) -> Tensor:
    """Return what the kernels return as a tensor, without a copy."""
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


def _first_sentence(error: BaseException) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the parameters of a layer lie."""

    network: Network
    dtype: str
    arrays: list[Array]  # on the parameters' memory, which they don't keep alive
    strides: list[tuple[int, ...]]
    counts: list[int]
    storages: list[StorageWeakRef]
    nbytes: int

    def is_of(self, weights: Sequence[Tensor]) -> bool:
        """Whether tensors at these addresses lie there in the same way."""
        return (
            self.strides == list(map(_stride, weights))
            and self.counts == list(map(_count, weights))  # with the strides, the shapes
        )

    def expired(self) -> bool:
        """Whether a parameter is gone: other tensors may stand at its address."""
        return any(storage.expired() for storage in self.storages)

    def pack(self, weights: Sequence[Tensor]) -> _Entry:
        """Return an entry of what these tensors hold now."""
        # First what tells that they have changed: a write meanwhile must not go unseen.
        versions, fingerprint = _versions(weights), _core.fingerprint(self.arrays)
        parameters = dict(zip(self.network.names, self.arrays, strict=True))
        packed = self.network.pack(parameters, self.dtype)
        return _Entry(self, packed, versions, fingerprint)


@dataclass(frozen=True, slots=True)
class _Entry:
    place: _Place
    packed: _core.PackedWeights
    versions: list[int] | None  # None: made in inference mode, which doesn't count
    fingerprint: int

    def holds(self, weights: Sequence[Tensor], trusting: bool) -> bool:
        """Whether the contents of these tensors, at the same addresses, are those packed."""
        if trusting or self.place.nbytes > _LARGE:
            versions = _versions(weights)
            if versions != self.versions:
                return False
            if trusting and versions is not None:
                return not self.place.expired()
        return _core.fingerprint(self.place.arrays) == self.fingerprint


def _versions(weights: Sequence[Tensor]) -> list[int] | None:
    try:
        return list(map(_version, weights))
    except RuntimeError:
        return None


_entries: dict[tuple[int, ...], _Entry] = {}


def packed_weights(
    network: Network, weights: Sequence[Tensor], trust: bool = False
) -> _core.PackedWeights | DeviceWeights:
    """Return the packed weights of these tensors as they are now; on a GPU nothing is packed.

    Parameters
    ----------
    network : Network
        From `network_of`.
    weights : sequence of Tensor
        The parameters in torch's order: plain tensors.
    trust : bool
        Whether to believe their version counters, as all calls do in `trust_version_counters`.

    Raises
    ------
    Unsupported
        If the kernels can't read them.
    """
    if _gpu.on_gpu(weights[0]):
        check_tensors(weights)
        _check_shapes(network, weights)
        return DeviceWeights(network, weights)
    key = (id(network), *map(_pointer, weights))
    entry = _entries.get(key)
    if entry is not None and entry.place.is_of(weights):
        if entry.holds(weights, trust or trust_version_counters.enabled):
            return entry.packed
        if not entry.place.expired() and check_tensors(weights) == entry.place.dtype:
            entry = _entries[key] = entry.place.pack(weights)
            return entry.packed
    return _pack(network, weights, key)


def check_tensors(tensors: Sequence[Any]) -> str:
    """Return the dtype's name; raise Unsupported if the kernels can't read these parameters."""
    for tensor in tensors:
        if type(tensor) not in PLAIN:
            raise Unsupported(f"a parameter of type {type(tensor).__name__}")
        if tensor.device.type not in ("cpu", "cuda"):
            raise Unsupported(f"parameters on {tensor.device}, not on the CPU or a GPU")
        if tensor.device != tensors[0].device:
            raise Unsupported(f"parameters on {tensors[0].device} and on {tensor.device}")
        dtypes = dtypes_of(tensor)
        if tensor.dtype not in dtypes:
            raise Unsupported(f"parameters of {tensor.dtype}, not {' or '.join(dtypes.values())}")
        if tensor.dtype != tensors[0].dtype:
            raise Unsupported(f"parameters of {tensors[0].dtype} and of {tensor.dtype}")
    return dtypes[tensors[0].dtype]


def dtypes_of(tensor: Tensor) -> dict[torch.dtype, str]:
    """Return the dtypes that the kernels of a tensor's device know."""
    return _gpu.DTYPES if _gpu.on_gpu(tensor) else _DTYPES


def _check_shapes(network: Network, weights: Sequence[Tensor]) -> None:
    if [tuple(weight.shape) for weight in weights] != [shape for _, shape in network.shapes()]:
        raise Unsupported("parameters whose shapes don't fit the layer's sizes")
    if network.hidden_size == 0:
        raise Unsupported("a hidden size of 0")


def _pack(
    network: Network,
    weights: Sequence[Tensor],
    key: tuple[int, ...],
) -> _core.PackedWeights:
    dtype = check_tensors(weights)
    _check_shapes(network, weights)
    arrays = [as_array(weight) for weight in weights]
    if not all(array.flags.c_contiguous for array in arrays):  # rare: packed at every call
        return network.pack(dict(zip(network.names, arrays, strict=True)), dtype, copy=True)
    place = _Place(
        network,
        dtype,
        # An entry that kept its parameters alive would keep the memory of dead models.
        [_Borrowed.array(array) for array in arrays],
        list(map(_stride, weights)),
        list(map(_count, weights)),
        [StorageWeakRef(weight.untyped_storage()) for weight in weights],
        sum(array.nbytes for array in arrays),
    )
    _sweep()
    entry = _entries[key] = place.pack(weights)
    return entry.packed


def _sweep() -> None:
    """Drop the entries of parameters that are gone. Needs no lock: each step is atomic."""
    for key, entry in list(_entries.items()):
        if entry.place.expired():
            _entries.pop(key, None)


class _Borrowed:
    """Memory for NumPy that nobody holds on to: for use while a tensor at its address lives."""

    def __init__(self, array: Array) -> None:
        self.__array_interface__ = {**array.__array_interface__, "strides": None}

    @classmethod
    def array(cls, array: Array) -> Array:
        return np.asarray(cls(array))
