"""The data of a case: what every peer is given, and what the reference makes of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fusedrnn import reference

from .cases import Case

Array = npt.NDArray[np.floating[Any]]
INPUTS = 2  # in turn, so that nothing can be kept from one call to the next


class Problem:
    """Parameters, inputs, initial state and the gradient of the output.

    Of float16 and bfloat16 the arrays are float32, with values that the type has: so everyone is
    given the same numbers, and the reference's error is nobody's.

    A loop of single steps begins without a state, the other modes are given one.

    Attributes
    ----------
    parameters : dict of arrays
        torch's names and shapes.
    lengths : array [B], or None
        The steps of each sequence, where a case is of packed sequences; then there are arrays of
        2T - 1 steps where it says T here.
    inputs : list of `INPUTS` arrays [T, B, I]
    state : tuple of arrays [L*D, B, H], or None
        (h, c) of an LSTM, else (h,); of L layers in D directions.
    dy : array [T, B, D*H]
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = np.random.default_rng(7)
        dtype = np.float64 if case.dtype == "float64" else np.float32

        def normal(*shape: int, scale: float = 1) -> Array:
            return rounded(scale * rng.standard_normal(shape, dtype=dtype), case.dtype)

        def uniform(shape: tuple[int, ...]) -> Array:  # torch's initial values
            values = (2 * rng.random(shape, dtype=dtype) - 1) * case.hidden**-0.5
            return rounded(values, case.dtype)

        shapes = reference.parameter_shapes(
            case.cell, case.input, case.hidden, case.layers, bidirectional=case.bidirectional
        )
        self.parameters = {name: uniform(shape) for name, shape in shapes.items()}
        self.lengths = lengths_of(case) if case.call == "packed" else None
        steps = case.steps if self.lengths is None else 2 * case.steps - 1
        self.inputs = [normal(steps, case.batch, case.input) for _ in range(INPUTS)]
        self.dy = normal(steps, case.batch, case.directions * case.hidden)
        self._expected: dict[int, dict[str, Array]] = {}
        self.state: tuple[Array, ...] | None = None
        if case.mode != "step":
            states = reference.CELLS[case.cell].states
            first = (case.layers * case.directions, case.batch, case.hidden)
            self.state = tuple(normal(*first, scale=0.5) for _ in states)

    def moved(self, move: Callable[[Array], Any]) -> Problem:
        """Return the same problem with all arrays as `move` makes them, for calls with them."""
        other = copy.copy(self)
        other.parameters = {name: move(p) for name, p in self.parameters.items()}
        other.inputs = [move(x) for x in self.inputs]
        other.dy = move(self.dy)
        other.state = None if self.state is None else tuple(map(move, self.state))
        return other

    @property
    def call_state(self) -> Any:
        """The state as calls take it: a tuple for an LSTM, an array else, or None."""
        return self.state[0] if self.state and len(self.state) == 1 else self.state

    def expected(self, i: int) -> dict[str, Array]:
        """Return what the reference computes, in float64, from input i; once for each."""
        if i not in self._expected:
            begin = time.perf_counter()
            self._expected[i] = solve(reference, self, i)
            self._reference_seconds = time.perf_counter() - begin
        return self._expected[i]

    @property
    def reference_seconds(self) -> float:
        """What the reference takes for that."""
        self.expected(0)
        return self._reference_seconds


def rounded(values: Any, dtype: str) -> Array:
    """Return the values that a dtype has instead, to nearest: of half types in float32."""
    array: Array = np.asarray(values)
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":  # the upper half of the bits; of two that are as near, the even one
        bits = array.view(np.uint32)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return array


def lengths_of(case: Case) -> npt.NDArray[np.int64]:
    """Return lengths in random order, uniform from 1 to 2T - 1, of T on average: B*T together.

    Every length n has its counterpart 2T - n; with an odd B there is one of T.
    """
    rng = np.random.default_rng(11)
    half = rng.integers(1, 2 * case.steps, case.batch // 2)
    middle = [case.steps] * (case.batch % 2)
    return rng.permutation(np.concatenate((half, 2 * case.steps - half, middle)).astype(np.int64))


def solve(functions: Any, problem: Problem, i: int, parameters: Any = None) -> dict[str, Array]:
    """Return the named results of `results`."""
    return named(*results(functions, problem, i, parameters))


def results(functions: Any, problem: Problem, i: int, parameters: Any = None) -> tuple[Any, ...]:
    """Return what `infer` does, or what `forward` and `backward` do together.

    `functions` is `fusedrnn.reference` or `fusedrnn.functional`.
    """
    case, x = problem.case, problem.inputs[i]
    parameters = problem.parameters if parameters is None else parameters
    options = {} if problem.lengths is None else {"lengths": problem.lengths}
    if case.mode != "train":
        y, state = functions.infer(case.cell, x, parameters, problem.call_state, **options)
        return y, state
    y, state, tape = functions.forward(case.cell, x, parameters, problem.call_state, **options)
    return y, state, functions.backward(tape, problem.dy)


def named(y: Array, state: Any, gradients: Any = None) -> dict[str, Array]:
    """Return the results by name; `gradients` as `backward` returns them."""
    results = {"y": y, **by_state("", state)}
    if gradients is None:
        return results
    results |= {"dx": gradients.x, **by_state("d", gradients.state)}
    return results | {f"d_{name}": d for name, d in gradients.parameters.items()}


def by_state(prefix: str, state: Any) -> dict[str, Array]:
    """Return the states by name: h, and c of an LSTM."""
    states = state if isinstance(state, tuple) else (state,)
    return {f"{prefix}{name}": s for name, s in zip("hc", states, strict=False)}
