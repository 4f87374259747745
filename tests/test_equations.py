"""The textbook's recurrent network, one test per equation and named by it.

Goodfellow, Bengio and Courville, Deep Learning, 2016, section 10.2. With L the sum over time of the
negative log-likelihoods, each gradient is computed four ways, which must agree: by the kernels
(`fusedrnn.RNN` and `fusedrnn.models.losses`), by the reference, by the equation as it stands in the
book, written in its test, and by central differences of L.

The names are the book's: U = weight_ih, W = weight_hh, b = bias_ih + bias_hh, V and c those of the
head. A batch is a sum over sequences n of what the book has for one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

import fusedrnn
from fusedrnn import reference
from fusedrnn.models import losses
from reference_problems import relative
from test_reference_gradients import TOLERANCE as DIFFERENCES
from test_reference_gradients import numeric_gradient

# Relative to the norm of the gradient: some 100 roundings in other orders, and for float32 the
# kernels' tanh and exp. The worst are 7e-7 and 4e-15, where the terms of a sum cancel.
ROUNDING = {"float32": 5e-6, "float64": 1e-13}
KERNEL = pytest.mark.parametrize("dtype", ROUNDING)
# Around the lanes of a vector, so that whole vectors and tails are met.
SIZES = pytest.mark.parametrize("units", [1, 5, 19])


@dataclass(frozen=True)
class Textbook:
    """The network, an input, its targets, and its total loss L.

    `e_h` and `e_o` are added to each h_t and o_t and are 0: the gradients of L with respect to
    them are the book's dL/dh_t and dL/do_t, what flows in from later steps included.
    """

    U: np.ndarray  # [H, I]
    W: np.ndarray  # [H, H]
    b: np.ndarray  # [H]
    V: np.ndarray  # [K, H]
    c: np.ndarray  # [K]
    x: np.ndarray  # [T, B, I]
    h_0: np.ndarray  # [B, H]
    targets: np.ndarray  # [T, B], the book's y
    e_h: np.ndarray  # [T, B, H]
    e_o: np.ndarray  # [T, B, K]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in ("U", "W", "b", "V", "c", "e_h", "e_o")}

    def with_array(self, name: str, array: np.ndarray) -> Textbook:
        return replace(self, **{name: array})

    def unfold(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return h [T, B, H], y_hat [T, B, K] and L, by equations 10.8 to 10.14."""
        h, y_hat, total = self.e_h.copy(), self.e_o.copy(), 0.0
        for n in range(self.batch):
            previous = self.h_0[n]
            for t in range(self.steps):
                a = self.b + self.W @ previous + self.U @ self.x[t, n]  # (10.8)
                h[t, n] += np.tanh(a)  # (10.9)
                y_hat[t, n] += self.c + self.V @ h[t, n]  # (10.10): o
                y_hat[t, n] = np.exp(y_hat[t, n]) / np.exp(y_hat[t, n]).sum()  # (10.11)
                total -= np.log(y_hat[t, n, self.targets[t, n]])  # (10.12 to 10.14)
                previous = h[t, n]
        return h, y_hat, total

    def loss(self) -> float:
        return self.unfold()[2]

    @property
    def steps(self) -> int:
        return len(self.x)

    @property
    def batch(self) -> int:
        return self.x.shape[1]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Each step of each sequence: what the sums run over."""
        return [(t, n) for t in range(self.steps) for n in range(self.batch)]


def textbook(units: int, *, steps=4, batch=2, inputs=3, classes=6) -> Textbook:
    """Return a problem whose numbers float32 holds exactly, so that both dtypes solve the same."""
    rng = np.random.default_rng(units)

    def normal(*shape: int, scale=1.0) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32).astype(np.float64)

    return Textbook(
        U=normal(units, inputs, scale=inputs**-0.5),
        W=normal(units, units, scale=units**-0.5),
        b=normal(units),
        V=normal(classes, units, scale=units**-0.5),
        c=normal(classes),
        x=normal(steps, batch, inputs),
        h_0=normal(batch, units),
        targets=rng.integers(0, classes, (steps, batch)),
        e_h=np.zeros((steps, batch, units)),
        e_o=np.zeros((steps, batch, classes)),
    )


# The kernels and the reference


def named(p: Textbook) -> dict[str, np.ndarray]:
    """The layer's parameters by its names; b is the exact sum of two biases."""
    rest = (4 * p.b).round() / 4
    return {
        "weight_ih_l0": p.U,
        "weight_hh_l0": p.W,
        "bias_ih_l0": p.b - rest,
        "bias_hh_l0": rest,
    }


def kernel(p: Textbook, dtype: str) -> dict[str, np.ndarray | float]:
    """Return L and its gradients, computed by the kernels in this dtype."""

    def typed(*arrays: np.ndarray) -> list[np.ndarray]:
        return [array.astype(dtype) for array in arrays]

    layer = fusedrnn.RNN(p.x.shape[2], len(p.b), dtype=dtype, seed=0)
    layer.load_parameters({name: a.astype(dtype) for name, a in named(p).items()})
    V, c, x, h_0 = typed(p.V, p.c, p.x, p.h_0)
    h, _, tape = layer.forward(x, h_0[np.newaxis])
    loss = losses.linear_cross_entropy(h, V, c, p.targets)
    back = layer.backward(tape, loss.gradients.y)

    # With V = 1 and c = 0 the head's y is o.
    o = h @ V.T + c
    of_o = losses.linear_cross_entropy(o, *typed(np.eye(len(c)), 0 * p.c), p.targets)
    return {
        "L": loss.value,
        "h": h,
        "e_o": of_o.gradients.y,
        "e_h": d_hidden(p, layer, x, h, loss.gradients.y),
        "from the head": loss.gradients.y,
        "c": loss.gradients.bias,
        "V": loss.gradients.weight,
        "b": back.parameters["bias_ih_l0"],
        "b again": back.parameters["bias_hh_l0"],
        "W": back.parameters["weight_hh_l0"],
        "U": back.parameters["weight_ih_l0"],
    }


def d_hidden(p: Textbook, layer, x, h, d_y) -> np.ndarray:
    """Return dL/dh_t for each t: what the head sends to it, and the steps after it as their state.

    The steps after t are a sequence that begins with the state h_t.
    """
    d_h = d_y.copy()
    for t in range(p.steps - 1):
        _, _, tape = layer.forward(x[t + 1 :], h[t : t + 1])
        d_h[t] += layer.backward(tape, d_y[t + 1 :]).state[0]
    return d_h


def specified(p: Textbook) -> dict[str, np.ndarray | float]:
    """Return the same from the reference."""
    h, _, tape = reference.forward("rnn_tanh", p.x, named(p), p.h_0[np.newaxis])
    value, _, (d_y, d_V, d_c) = reference.linear_cross_entropy(h, p.V, p.c, p.targets)
    back = reference.backward(tape, d_y)
    d_h = d_y.copy()
    for t in range(p.steps - 1):
        _, _, rest = reference.forward("rnn_tanh", p.x[t + 1 :], named(p), h[t : t + 1])
        d_h[t] += reference.backward(rest, d_y[t + 1 :]).state[0]
    return {
        "L": value,
        "h": h,
        "e_o": reference.cross_entropy(reference.linear(h, p.V, p.c), p.targets)[2],
        "e_h": d_h,
        "from the head": d_y,
        "c": d_c,
        "V": d_V,
        "b": back.parameters["bias_ih_l0"],
        "b again": back.parameters["bias_hh_l0"],
        "W": back.parameters["weight_hh_l0"],
        "U": back.parameters["weight_ih_l0"],
    }


def check(p: Textbook, dtype: str, name: str, equation: np.ndarray, *others: str) -> None:
    """Compare the equation's result with the kernels', the reference's and the differences.

    `name` is that of the array that L is differentiated by; `others` are further names under which
    kernels and reference have the same gradient.
    """
    assert equation.shape == p.arrays[name].shape
    assert np.linalg.norm(equation) > 0.01, "something is compared"
    assert relative(numeric_gradient(p, name), equation) <= DIFFERENCES
    computed, wanted = kernel(p, dtype), specified(p)
    for key in (name, *others):
        assert computed[key].dtype == dtype
        assert relative(wanted[key], equation) <= ROUNDING["float64"], key
        assert relative(computed[key], equation) <= ROUNDING[dtype], key


# Forward


@KERNEL
@SIZES
def test_equations_10_8_to_10_14(dtype, units):
    """h_t = tanh(b + W h_{t-1} + U x_t), o_t = c + V h_t, L = -sum_t log softmax(o_t)[y_t]."""
    p = textbook(units)
    h, _, total = p.unfold()
    computed, wanted = kernel(p, dtype), specified(p)
    assert relative(wanted["h"], h) <= ROUNDING["float64"]
    assert relative(computed["h"], h) <= ROUNDING[dtype]
    assert wanted["L"] == pytest.approx(total, rel=ROUNDING["float64"])
    assert computed["L"] == pytest.approx(total, rel=ROUNDING[dtype])


# Backward


def equation_10_18(p: Textbook) -> np.ndarray:
    """(dL/do_t)_i = y_hat_{t,i} - 1[i = y_t]."""
    _, y_hat, _ = p.unfold()
    d_o = np.empty(y_hat.shape)
    for t, n in p.places:
        for i in range(len(p.c)):
            d_o[t, n, i] = y_hat[t, n, i] - (1 if i == p.targets[t, n] else 0)
    return d_o


def equation_10_20(p: Textbook) -> np.ndarray:
    """dL/dh_t = W^T diag(1 - h_{t+1}^2) dL/dh_{t+1} + V^T dL/do_t, from the last step back."""
    h, _, _ = p.unfold()
    d_o, d_h = equation_10_18(p), np.empty(h.shape)
    for n in range(p.batch):
        d_h[-1, n] = p.V.T @ d_o[-1, n]
        for t in reversed(range(p.steps - 1)):
            d_h[t, n] = p.W.T @ np.diag(1 - h[t + 1, n] ** 2) @ d_h[t + 1, n] + p.V.T @ d_o[t, n]
    return d_h


@KERNEL
@SIZES
def test_equation_10_18(dtype, units):
    """(dL/do_t)_i = y_hat_{t,i} - 1[i = y_t]."""
    p = textbook(units)
    check(p, dtype, "e_o", equation_10_18(p))


@KERNEL
@SIZES
def test_equation_10_19(dtype, units):
    """dL/dh_tau = V^T dL/do_tau, at the last step tau."""
    p = textbook(units, steps=1)
    d_o = equation_10_18(p)
    d_h = np.array([[p.V.T @ d_o[-1, n] for n in range(p.batch)]])
    check(p, dtype, "e_h", d_h, "from the head")


@KERNEL
@SIZES
def test_equation_10_20_and_10_21(dtype, units):
    """dL/dh_t = (dh_{t+1}/dh_t)^T dL/dh_{t+1} + (do_t/dh_t)^T dL/do_t."""
    p = textbook(units)
    check(p, dtype, "e_h", equation_10_20(p))


@KERNEL
@SIZES
def test_equation_10_22(dtype, units):
    """dL/dc = sum_t dL/do_t."""
    p = textbook(units)
    d_o = equation_10_18(p)
    check(p, dtype, "c", sum(d_o[t, n] for t, n in p.places))


@KERNEL
@SIZES
def test_equation_10_23(dtype, units):
    """dL/db = sum_t diag(1 - h_t^2) dL/dh_t; each of the two biases that b consists of has it."""
    p = textbook(units)
    h, d_h = p.unfold()[0], equation_10_20(p)
    d_b = sum(np.diag(1 - h[t, n] ** 2) @ d_h[t, n] for t, n in p.places)
    check(p, dtype, "b", d_b, "b again")


@KERNEL
@SIZES
def test_equation_10_24(dtype, units):
    """dL/dV = sum_t dL/do_t h_t^T."""
    p = textbook(units)
    h, d_o = p.unfold()[0], equation_10_18(p)
    check(p, dtype, "V", sum(np.outer(d_o[t, n], h[t, n]) for t, n in p.places))


@KERNEL
@SIZES
def test_equation_10_25_and_10_26(dtype, units):
    """dL/dW = sum_t diag(1 - h_t^2) dL/dh_t h_{t-1}^T."""
    p = textbook(units)
    h, d_h = p.unfold()[0], equation_10_20(p)
    before = np.concatenate((p.h_0[np.newaxis], h))  # before[t] is h_{t-1}
    d_W = sum(np.diag(1 - h[t, n] ** 2) @ np.outer(d_h[t, n], before[t, n]) for t, n in p.places)
    check(p, dtype, "W", d_W)


@KERNEL
@SIZES
def test_equation_10_27_and_10_28(dtype, units):
    """dL/dU = sum_t diag(1 - h_t^2) dL/dh_t x_t^T."""
    p = textbook(units)
    h, d_h = p.unfold()[0], equation_10_20(p)
    d_U = sum(np.diag(1 - h[t, n] ** 2) @ np.outer(d_h[t, n], p.x[t, n]) for t, n in p.places)
    check(p, dtype, "U", d_U)
