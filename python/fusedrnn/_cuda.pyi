"""The compiled part of fusedrnn for GPUs: kernels, device arrays, argument checks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

_State = Any  # an array, or a tuple (h, c) of arrays

class DeviceArray:
    @staticmethod
    def from_numpy(
        array: object, dtype: str | None = None, stream: object = None
    ) -> DeviceArray: ...
    @staticmethod
    def view(array: object, name: str = "array", stream: object = None) -> DeviceArray: ...
    @staticmethod
    def at(
        pointer: int, shape: Sequence[int], dtype: str, device: int, stream: object, owner: object
    ) -> DeviceArray: ...
    def numpy(self) -> npt.NDArray[np.floating[Any]]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...
    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class Weights:
    def __init__(
        self,
        cell: str,
        parameters: list[Any],
        names: list[str],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        bias: bool,
        near: DeviceArray,
    ) -> None: ...
    def infer(
        self,
        x: DeviceArray,
        state: object,
        batch_first: bool,
        lengths: object,
        batch_sizes: object = None,
        out: object = None,
    ) -> tuple[DeviceArray, _State]: ...
    def forward(
        self,
        x: DeviceArray,
        state: object,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        lengths: object,
    ) -> tuple[DeviceArray, _State, Tape]: ...
    def train(
        self,
        x: DeviceArray,
        state: object,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        reserve: DeviceArray,
        lengths: object,
        batch_sizes: object,
        out: object,
    ) -> tuple[DeviceArray, _State]: ...
    def gradients(
        self,
        x: DeviceArray,
        state: object,
        y: object,
        reserve: DeviceArray,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        dy: object,
        dstate: object,
        lengths: object,
        batch_sizes: object,
        out: object,
    ) -> tuple[DeviceArray | None, _State, list[DeviceArray | None]]: ...
    @property
    def names(self) -> list[str]: ...

class Tape:
    # Set by _device.py, of the library that x is of.
    convert: Callable[[DeviceArray], Any]
    scope: AbstractContextManager[object]
    def backward(
        self, dy: object, dstate: object
    ) -> tuple[DeviceArray, _State, list[DeviceArray]]: ...
    @property
    def spent(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def weights(self) -> Weights: ...

def info() -> dict[str, Any]: ...
def why_not() -> str | None: ...
def why_not_on(device: int, dtype: str) -> str | None: ...
def reserve_size(
    cell: str,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    dtype: str,
    dropout: bool,
) -> tuple[int, int]: ...
def use_products(name: str, directories: list[str]) -> None: ...
