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
        proj_size: int = 0,
    ) -> None: ...
    def infer(
        self,
        x: object,
        state: object,
        batch_first: bool,
        out: object,
        lengths: object = None,
        batch_sizes: object = None,
    ) -> tuple[_Array, _State]: ...
    def forward(
        self,
        x: object,
        state: object,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        checkpoint_every: int,
        out: object,
        lengths: object = None,
    ) -> tuple[_Array, _State, Tape]: ...
    def reserve_row(self, dropout: bool) -> int: ...
    def portable_reserve_row(self, dropout: bool) -> int: ...
    def train(
        self,
        x: object,
        state: object,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        reserve: object,
        lengths: object = None,
        batch_sizes: object = None,
    ) -> tuple[_Array, _State]: ...
    def gradients(
        self,
        x: object,
        state: object,
        y: object,
        reserve: object,
        batch_first: bool,
        dropout: float,
        seed: int,
        call: int,
        dy: object,
        dstate: object,
        lengths: object = None,
        batch_sizes: object = None,
    ) -> tuple[_Array, _State, list[_Array]]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def arrays(self) -> list[_Array]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def owner(self) -> Any: ...

class Stream:
    def __init__(self, weights: PackedWeights, batch_size: int | None) -> None: ...
    def step(self, weights: PackedWeights, x: object, out: object) -> _Array: ...
    def run(
        self, weights: PackedWeights, block: object, batch_first: bool, out: object
    ) -> _Array: ...
    @property
    def state(self) -> _State: ...
    @state.setter
    def state(self, value: object) -> None: ...

class Unpacked:
    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        bias: bool,
        step: bool,
        batch_first: bool,
    ) -> None: ...
    def infer(self, x: object, state: object, weights: object) -> tuple[Any, ...] | None: ...
    def train(self, x: object, state: object, weights: object) -> tuple[Any, ...] | None: ...
    def gradients(
        self,
        x: object,
        state: object,
        weights: object,
        kept: object,
        gradients: tuple[Any, ...],
        needed: tuple[bool, ...],
    ) -> list[Any] | None: ...

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
def fingerprint(arrays: list[Any]) -> int: ...
def borrow_threads(library: str | None) -> bool: ...
def lend_threads() -> list[tuple[str, str | None]]: ...
def take_threads_back() -> None: ...
def lent_to() -> list[str]: ...
def get_num_threads() -> int: ...
def head_loss(
    loss: str,
    y: object,
    weight: object,
    bias: object,
    targets: object,
    chosen: object,
    weights: object,
    gradients: bool,
) -> tuple[float, Any, Any, Any]: ...
def info() -> dict[str, Any]: ...
def set_num_threads(n: int) -> None: ...
def vecmath(name: str, x: _Array) -> _Array: ...
def probe_fma(dtype: str, rounds: int, threads: int) -> float: ...
def probe_read(kib: int, repeats: int, threads: int) -> float: ...
def most_unpacked_rows() -> int: ...
def use_tensors(exchange: object, types: list[type]) -> bool: ...
