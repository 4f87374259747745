"""Problems of any size and dtype for the tests of the compiled kernels, and what to expect of them.

The reference gets the same arrays in float64, so that a comparison measures the kernels' rounding
alone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

import fusedrnn
import reference_problems
from fusedrnn import functional, reference
from fusedrnn.reference.cell import Weights
from reference_problems import Problem, pack, unpack

CELLS = list(reference.CELLS)
DTYPES = ["float32", "float64"]

SIZES = (1, 3, 7, 8, 15, 16, 17, 31, 64, 100, 129)  # of H and I: around the lanes of every ISA
BATCHES = (0, 1, 2, 3, 5, 6, 7, 17, 33)
FACTORS = {
    "steps": (1, 2, 13, 100),
    "layers": (1, 2, 3),
    "bidirectional": (False, True),
    "bias": (False, True),
    "state": (False, True),
    "batch_first": (False, True),
    "dropout": (0.0, 0.3),
    "threads": (1, 2, 3, 4),
}


@dataclass(frozen=True)
class KernelProblem(Problem):
    """A call of the compiled kernels. If no state is given, `states` are the zeros it means."""

    state_given: bool = True

    @property
    def state(self):
        return pack(self.states) if self.state_given else None

    @property
    def engine(self):
        return functional

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    def with_array(self, name: str, array: np.ndarray) -> KernelProblem:
        return replace(super().with_array(name, array), state_given=True)

    def forward(self):
        return functional.forward(self.cell, self.x, self.parameters, self.state, **self.options)

    def infer(self, **options):
        for name in {"batch_first", "lengths"} & self.options.keys():
            options[name] = self.options[name]
        return functional.infer(self.cell, self.x, self.parameters, self.state, **options)

    def gradients(self):
        return run(functional, self)[1]


def make(cell, dtype="float64", *, state=True, gain=1.0, seed=0, **sizes) -> KernelProblem:
    """Return a problem with weights like those that layers begin with.

    A weight is uniform in +-gain / sqrt(n), with n elements in its sum. With a gain of 1 no step
    enlarges an error much, so that 100 steps are nearly as well conditioned as one.
    """
    p = reference_problems.make(cell, seed=seed, **sizes)
    rng = np.random.default_rng(seed)
    parameters = {
        name: gain * rng.uniform(-1, 1, array.shape) / np.sqrt(array.shape[-1])
        if name.startswith("weight")
        else array
        for name, array in p.parameters.items()
    }
    return KernelProblem(
        cell,
        x=p.x.astype(dtype),
        parameters={name: array.astype(dtype) for name, array in parameters.items()},
        states=tuple((s if state else np.zeros_like(s)).astype(dtype) for s in p.states),
        dy=p.dy.astype(dtype),
        dstates=tuple(s.astype(dtype) for s in p.dstates),
        options=p.options,
        state_given=state,
    )


@functools.cache
def design(seed: int) -> list[dict]:
    """Return 121 problems in which every pair of values of any two factors occurs.

    Every pair of H and I once; B rotates so that it meets every H and every I; of 30 draws of the
    other factors the one that brings the most new pairs is taken.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict] = []
    seen: set = set()
    for h, i in itertools.product(range(len(SIZES)), repeat=2):
        batch = BATCHES[(h + 2 * i + seed) % len(BATCHES)]
        sizes = {"units": SIZES[h], "inputs": SIZES[i], "batch": batch}
        candidates = [
            sizes | {name: values[rng.integers(len(values))] for name, values in FACTORS.items()}
            for _ in range(30)
        ]
        rows.append(max(candidates, key=lambda row: len(pairs(row) - seen)))
        seen |= pairs(rows[-1])
    return rows


def pairs(row: dict) -> set:
    return set(itertools.combinations(sorted(row.items()), 2))


def run(
    engine, p: Problem, kept=lambda tape: tape
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the outputs and the gradients by name, as `engine` computes them.

    `engine` is `fusedrnn.functional` or `fusedrnn.reference`: they have the same functions. What
    its forward has kept, backward gets as `kept` returns it.
    """
    names = reference.CELLS[p.cell].states
    y, final, tape = engine.forward(p.cell, p.x, p.parameters, p.state, **p.options)
    got = engine.backward(kept(tape), p.dy, pack(p.dstates))
    outputs = {"y": y, **{f"{n}_n": s for n, s in zip(names, unpack(final), strict=True)}}
    states = dict(zip(names, unpack(got.state), strict=True))
    return outputs, {"x": got.x, **states, **got.parameters}


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    before = fusedrnn.get_num_threads()
    fusedrnn.set_num_threads(n)
    try:
        yield
    finally:
        fusedrnn.set_num_threads(before)


# The kink of relu


def kink_distance(p: KernelProblem, *, exact_zeros: bool) -> float:
    """Return the smallest size of a pre-activation.

    Exact zeros count for differences, which move them; no rounding does.
    """
    tape = reference.forward(p.cell, p.x, p.parameters, p.state, **p.options)[2]
    least = np.inf
    for layer, directions in zip(tape.network.layers, tape.saved, strict=True):
        for w, saved in zip(layer, directions, strict=True):
            x, h = (np.concatenate([step[i] for step in saved]) for i in range(2))
            a = np.abs(x @ w.weight_ih.T + w.bias_ih + h @ w.weight_hh.T + w.bias_hh)
            least = min(least, a[(a > 0) | exact_zeros].min(initial=np.inf))
    return least


def make_away_from_kinks(
    cell, dtype="float64", *, distance, exact_zeros=False, seed=0, **sizes
) -> KernelProblem:
    """Return the first of the seeded problems without a pre-activation of relu near 0.

    There relu's derivative jumps, and rounding or a difference may carry a pre-activation over the
    jump.
    """
    problems = (make(cell, dtype, seed=[seed, n], **sizes) for n in range(10_000))
    if cell != "rnn_relu":
        return next(problems)
    return next(p for p in problems if kink_distance(p, exact_zeros=exact_zeros) > distance)


# What rounding may do


def norm_bounds(p: KernelProblem) -> tuple[float, float]:
    """Return the bounds of ||got - want|| / ||want|| that the project sets itself."""
    return (1e-6, 5e-6) if p.dtype == np.float32 else (1e-13, 1e-12)


def longest_sum(p: KernelProblem) -> int:
    """Return the number of products in the longest sum of a pre-activation or of its gradient."""
    return max(
        max(array.shape[0], array.shape[1] + array.shape[0] // len(reference.CELLS[p.cell].gates))
        for array in p.parameters.values()
        if array.ndim == 2
    )


def term_sums(p: KernelProblem) -> dict[str, np.ndarray]:
    """Return the gradients of the parameters with every term of their sums made positive.

    dW = sum_t d_a_t x_t^T becomes sum_t |d_a_t| |x_t|^T: what an error of the sum is relative to.
    """
    tape = reference.forward(p.cell, p.x, p.parameters, p.state, **p.options)[2]
    cell = tape.network.cell

    def step_backward(saved, weights, d_state):
        x, h, *rest = saved
        d_h = np.abs(d_state[0])
        # With the identity for x, the gradient d_a^T x of weight_ih is d_a^T itself. In a GRU the
        # d_a of n's recurrent part is smaller: it is r times that of n.
        identity = np.eye(len(x))
        d_x, d_previous, parts = cell.step_backward((identity, h, *rest), weights, d_state)
        d_a = np.abs(parts.weight_ih)
        d_b = d_a.sum(axis=1)
        d_v = weights.weight_hr
        if len(d_v):  # of h' = V m
            o, c_next = rest[-2:]
            d_v = d_h.T @ np.abs(o * np.tanh(c_next))
        return d_x, d_previous, Weights(d_a @ np.abs(x), d_a @ np.abs(h), d_b, d_b, d_v)

    network = replace(tape.network, cell=replace(cell, step_backward=step_backward))
    tape = replace(tape, network=network)
    return reference.backward(tape, p.dy, pack(p.dstates)).parameters


def spread(p: KernelProblem, eps: float | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """Return how far each result moves when all that is given moves within its own rounding.

    That is every input, and what forward keeps for backward: of a tanh near 1, whose slope 1 - y^2
    is small, the rounding of y is much. `eps` is that of the dtype, if not given.

    A result that is a near-total cancellation moves far beside its size: of eight random moves,
    the largest.
    """
    rng = np.random.default_rng(0)
    half = (eps or np.finfo(p.dtype).eps) / 2

    def moved(value):
        if isinstance(value, tuple):
            return tuple(map(moved, value))
        return value * (1 + half * rng.uniform(-1, 1, value.shape))

    def moved_tape(tape):
        return replace(tape, saved=moved(tape.saved))

    wants = run(reference, p)
    farthest: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for _ in range(8):
        q = replace(
            p,
            x=moved(p.x.astype(np.float64)),
            parameters={n: moved(array.astype(np.float64)) for n, array in p.parameters.items()},
            states=tuple(moved(s.astype(np.float64)) for s in p.states),
            dy=moved(p.dy.astype(np.float64)),
            dstates=tuple(moved(s.astype(np.float64)) for s in p.dstates),
        )
        for far, got, want in zip(farthest, run(reference, q, moved_tape), wants, strict=True):
            for name in want:
                move = np.linalg.norm(got[name] - want[name])
                far[name] = max(far.get(name, 0.0), float(move))
    return farthest


def check_norms(p: KernelProblem, got, want, label="") -> None:
    """Assert ||got - want|| <= bound ||want|| for every output and every gradient.

    Two things are unavoidable beside that bound. Values under the smallest normal number are
    flushed to zero. And a result that nearly cancels, such as the only element of a gradient, can't
    be better than what the rounding of the inputs, and of what forward keeps for backward, does to
    it: 16 times that is allowed, since each result has more roundings behind it than these.
    """
    spreads = None
    for part, bound in enumerate(norm_bounds(p)):
        assert list(got[part]) == list(want[part])
        for name, expected in want[part].items():
            result = got[part][name]
            assert (result.shape, result.dtype) == (expected.shape, p.dtype), (name, label)
            error = np.linalg.norm(result - expected)
            flushed = 1e3 * np.finfo(p.dtype).tiny * expected.size
            if error <= bound * np.linalg.norm(expected) + flushed:
                continue
            spreads = spreads or spread(p)
            assert error <= 16 * spreads[part][name], (name, error, np.linalg.norm(expected), label)


def check_elements(p: KernelProblem, got, want, label="") -> None:
    """Assert a bound on the error of every element.

    A sum of n products has n roundings, which add up like a random walk: eps sqrt(n) times the size
    of its terms. All else of a step (activations of at most 3 ulp, a few products) and what earlier
    steps hand on stays within a small factor of that while no step enlarges an error, as in the
    problems made here: 1.5 was seen for outputs, 2 for the gradients of x and states, 3.5 for those
    of parameters, so 8 and 16 leave room.

    The size of the terms is taken from the largest output, the largest gradient that runs through
    time, and for the sums over T*B rows in the gradients of the parameters from these sums with
    positive terms (each d_a has itself the error of a mean one, hence the mean).
    """
    eps, n = np.finfo(p.dtype).eps, longest_sum(p)
    flushed = 1e3 * np.finfo(p.dtype).tiny * p.dy.size
    outputs, gradients = want
    states = reference.CELLS[p.cell].states
    flowing = {name: gradients[name] for name in ("x", *states)}
    for results, expected in ((got[0], outputs), (got[1], flowing)):
        bound = 8 * eps * np.sqrt(n) * max(np.abs(a).max(initial=0) for a in expected.values())
        for name in expected:
            error = np.abs(results[name] - expected[name]).max(initial=0)
            assert error <= bound + flushed, (name, error / bound, label)
    rows = p.dy.size // p.dy.shape[-1]
    for name, sums in term_sums(p).items():
        bound = 16 * eps * np.sqrt(n + rows) * (sums + sums.mean())
        error = np.abs(got[1][name] - gradients[name])
        assert (error <= bound + flushed).all(), (name, (error / bound).max(), label)
