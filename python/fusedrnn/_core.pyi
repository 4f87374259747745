"""The compiled part of fusedrnn: kernels, thread pool, argument checks."""

from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.floating[Any]]
_State = Any  # an array, or a tuple (h, c) of arrays

class PackedWeights:
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
        dtype: str,
        owner: object = None,
        copy: bool = False,
    ) -> None: ...
    def infer(
        self, x: object, state: object, batch_first: bool, out: object
    ) -> tuple[_Array, _State]: ...
    def forward(
        self,
        x: object,
        state: object,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        out: object,
    ) -> tuple[_Array, _State, Tape]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def arrays(self) -> list[_Array]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def owner(self) -> Any: ...

class Tape:
    def backward(
        self, dy: object, dstate: object, out: object
    ) -> tuple[_Array, _State, list[_Array]]: ...
    @property
    def spent(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def weights(self) -> PackedWeights: ...

def as_array(object: object, name: str, dtype: str | None = None) -> _Array: ...
def cells() -> dict[str, tuple[int, int]]: ...
def get_num_threads() -> int: ...
def info() -> dict[str, Any]: ...
def set_num_threads(n: int) -> None: ...
def vecmath(name: str, x: _Array) -> _Array: ...
def probe_fma(dtype: str, rounds: int, threads: int) -> float: ...
def probe_read(kib: int, repeats: int, threads: int) -> float: ...
