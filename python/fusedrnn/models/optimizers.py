"""Optimizers: SGD, Adam, AdamW and RMSprop; gradients clipped by their norm.

An optimizer belongs to a model and changes its parameters::

    optimizer = Adam(model, learning_rate=1e-3)
    clip_by_norm(gradients, 1.0)
    optimizer.step(gradients)

Each class opens with its equations: p is a parameter, g its gradient, t the number of the step,
from 1. The arrays that an optimizer keeps (`m`, `v`) start at 0 and have the parameters' dtype.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from .._arguments import flag, number
from .._network import Array
from ._module import check_names

# Elements that an update treats at once: it makes several passes over three to five arrays, which
# then stay in the L2 cache (of float32: 5 * 128 KiB).
BLOCK = 32768


class HasParameters(Protocol):
    """A model, as an optimizer sees it."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name."""
        ...

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of these."""
        ...


class Optimizer(abc.ABC):
    """What all optimizers have in common; not to be made itself.

    Parameters
    ----------
    model : anything with `parameters` and `load_parameters`
        Whose parameters `step` changes.
    learning_rate : float
        May be set later, too.
    kept : tuple of str
        The names of the arrays that are kept for each parameter.
    """

    def __init__(self, model: HasParameters, learning_rate: float, kept: tuple[str, ...]) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.steps = 0
        self._arrays = {
            kind: {name: np.zeros(p.shape, p.dtype) for name, p in model.parameters.items()}
            for kind in kept
        }

    @property
    def learning_rate(self) -> float:
        """The learning rate of a `step` that isn't given another. May be set."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = number(value, "learning_rate")

    @property
    def configuration(self) -> dict[str, Any]:
        """The kind of optimizer and all its settings, as JSON can hold them."""
        return {"optimizer": type(self).__name__, "learning_rate": self.learning_rate}

    def step(self, gradients: Mapping[str, Array], learning_rate: float | None = None) -> None:
        """Change the model's parameters by one step.

        Parameters
        ----------
        gradients : mapping of str to array
            Of all parameters, in their shapes.
        learning_rate : float, optional
            Of this step; the optimizer's if not given.

        Raises
        ------
        ValueError
            If a name is missing or unexpected, or a shape is wrong.
        FloatingPointError
            If a number grows too large for its dtype. The model then keeps its parameters.
        """
        rate = self.learning_rate
        if learning_rate is not None:
            rate = number(learning_rate, "learning_rate")
        parameters = self.model.parameters
        check_names("gradients", gradients, parameters)
        for name, p in parameters.items():
            if np.shape(gradients[name]) != p.shape:
                got = np.shape(gradients[name])
                raise ValueError(f"gradients[{name!r}]: expected {p.shape}, got {got}")
        self.steps += 1
        new = {}
        for name, p in parameters.items():
            kept = [arrays[name] for arrays in self._arrays.values()]
            try:
                new[name] = self._update(p, gradients[name], kept, rate)
            except FloatingPointError as error:
                raise FloatingPointError(f"{name}: {error}") from None
        self.model.load_parameters(new)

    def _update(self, p: Array, g: Array, kept: list[Array], rate: float) -> Array:
        """Return the new p, and update in place what is kept of it; block by block."""
        new = np.empty(p.shape, p.dtype)
        flat = [a.reshape(-1) for a in (new, p, np.asarray(g, dtype=p.dtype), *kept)]
        with np.errstate(over="raise"):
            for start in range(0, p.size, BLOCK):
                self._update_block(*(a[start : start + BLOCK] for a in flat), rate=rate)
        return new

    @abc.abstractmethod
    def _update_block(self, new: Array, p: Array, g: Array, *kept: Array, rate: float) -> None:
        """Write the new p into `new`, and update `kept` in place; all arrays are flat."""

    def state_dict(self) -> dict[str, Any]:
        """Return copies of what changes from step to step.

        Returns
        -------
        dict
            ``"steps"``, an int, and for each kind of array that is kept (``"m"``, ``"v"``) a dict
            of arrays by the parameters' names.
        """
        arrays = {
            kind: {name: np.array(a) for name, a in arrays.items()}
            for kind, arrays in self._arrays.items()
        }
        return {"steps": self.steps, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; if it doesn't fit, nothing changes.

        Raises
        ------
        ValueError
            If a name is missing or unexpected, or a shape or dtype is wrong.
        """
        check_names("state", state, ("steps", *self._arrays))
        new: dict[str, dict[str, Array]] = {}
        for kind, arrays in self._arrays.items():
            check_names(f"state[{kind!r}]", state[kind], arrays)
            new[kind] = {name: np.array(state[kind][name]) for name in arrays}
            for name, a in arrays.items():
                got = new[kind][name]
                if got.shape != a.shape or got.dtype != a.dtype:
                    raise ValueError(
                        f"state[{kind!r}][{name!r}]: expected {a.dtype} {a.shape}, "
                        f"got {got.dtype} {got.shape}"
                    )
        self.steps = int(state["steps"])
        self._arrays = new

    def __repr__(self) -> str:
        settings = dict(self.configuration)
        kind = settings.pop("optimizer")
        return f"{kind}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum mu and weight decay w.

    ::

        g = g + w p
        m = mu m + g
        p = p - lr m                         with Nesterov's momentum: p = p - lr (g + mu m)

    Sources: Polyak, Some Methods of Speeding up the Convergence of Iteration Methods, USSR Comp.
    Math. Math. Phys. 4, 1964; Sutskever, Martens, Dahl and Hinton, On the Importance of
    Initialization and Momentum in Deep Learning, ICML 2013, in the form of `torch.optim.SGD`: the
    learning rate is outside of m.

    Parameters
    ----------
    model : anything with `parameters` and `load_parameters`
    learning_rate : float
    momentum : float
        mu, in [0, 1).
    nesterov : bool
        Whether to look ahead; needs a momentum.
    weight_decay : float
        w, the factor of an L2 penalty w/2 |p|^2.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> layer = fusedrnn.RNN(1, 8, seed=0)
    >>> before = layer.parameters["weight_ih_l0"]
    >>> optimizer = SGD(layer, learning_rate=0.5)
    >>> optimizer.step({name: np.ones_like(p) for name, p in layer.parameters.items()})
    >>> float((before - layer.parameters["weight_ih_l0"]).mean())
    0.5
    """

    def __init__(
        self,
        model: HasParameters,
        learning_rate: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = number(momentum, "momentum", below=1.0)
        self.nesterov = flag(nesterov, "nesterov")
        self.weight_decay = number(weight_decay, "weight_decay")
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum: expected a number above 0 with nesterov, got 0")
        super().__init__(model, learning_rate, ("m",) if self.momentum > 0 else ())

    @property
    def configuration(self) -> dict[str, Any]:
        """The kind of optimizer and all its settings, as JSON can hold them."""
        return {
            **super().configuration,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay,
        }

    def _update_block(self, new: Array, p: Array, g: Array, *kept: Array, rate: float) -> None:
        if self.weight_decay > 0:
            g = g + self.weight_decay * p
        direction = g
        for m in kept:  # one with momentum, none without
            m *= self.momentum
            m += g
            direction = g + self.momentum * m if self.nesterov else m
        np.multiply(direction, -rate, out=new)
        new += p


class Adam(Optimizer):
    """Adam: steps of about the learning rate, whatever the gradients' scale.

    ::

        m = b_1 m + (1 - b_1) g
        v = b_2 v + (1 - b_2) g^2
        p = p - lr m / (1 - b_1^t) / (sqrt(v / (1 - b_2^t)) + eps)

    Source: Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
    For weight decay there is `AdamW`.

    Parameters
    ----------
    model : anything with `parameters` and `load_parameters`
    learning_rate : float
    betas : (float, float)
        b_1 and b_2, in [0, 1).
    eps : float

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> layer = fusedrnn.GRU(3, 8, seed=0)
    >>> optimizer = Adam(layer, learning_rate=0.01)
    >>> for _ in range(300):
    ...     y, state, tape = layer.forward(np.ones((5, 1, 3), np.float32))
    ...     optimizer.step(layer.backward(tape, 2 * (y - 0.5)).parameters)
    >>> float(abs(y[-1] - 0.5).max()) < 0.01
    True
    """

    def __init__(
        self,
        model: HasParameters,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if len(betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {len(betas)}")
        self.betas = number(betas[0], "betas[0]", below=1), number(betas[1], "betas[1]", below=1)
        self.eps = number(eps, "eps", positive=True)
        super().__init__(model, learning_rate, ("m", "v"))

    @property
    def configuration(self) -> dict[str, Any]:
        """The kind of optimizer and all its settings, as JSON can hold them."""
        return {**super().configuration, "betas": list(self.betas), "eps": self.eps}

    def _update_block(self, new: Array, p: Array, g: Array, *kept: Array, rate: float) -> None:
        m, v = kept
        b_1, b_2 = self.betas
        _average(m, g, b_1, new)
        _average(v, np.multiply(g, g, out=new), b_2, new)
        # With r = sqrt(1 - b_2^t): m / (sqrt(v) / r + eps) = r m / (sqrt(v) + r eps).
        root = math.sqrt(1.0 - b_2**self.steps)
        np.sqrt(v, out=new)
        new += root * self.eps
        np.divide(m, new, out=new)
        new *= -rate * root / (1.0 - b_1**self.steps)
        new += p


class AdamW(Adam):
    """Adam with weight decay w that is decoupled from the gradients' scale.

    ::

        m = b_1 m + (1 - b_1) g
        v = b_2 v + (1 - b_2) g^2
        p = p - lr w p - lr m / (1 - b_1^t) / (sqrt(v / (1 - b_2^t)) + eps)

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2, in
    the form of `torch.optim.AdamW`: the decay is multiplied by the learning rate.

    Parameters
    ----------
    model : anything with `parameters` and `load_parameters`
    learning_rate, betas, eps
        As for `Adam`.
    weight_decay : float
        w.
    """

    def __init__(
        self,
        model: HasParameters,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self.weight_decay = number(weight_decay, "weight_decay")
        super().__init__(model, learning_rate, betas, eps)

    @property
    def configuration(self) -> dict[str, Any]:
        """The kind of optimizer and all its settings, as JSON can hold them."""
        return {**super().configuration, "weight_decay": self.weight_decay}

    def _update_block(self, new: Array, p: Array, g: Array, *kept: Array, rate: float) -> None:
        super()._update_block(new, p, g, *kept, rate=rate)
        new -= rate * self.weight_decay * p


class RMSprop(Optimizer):
    """RMSprop: the gradient over the root of the mean of its square.

    ::

        v = alpha v + (1 - alpha) g^2
        p = p - lr g / (sqrt(v) + eps)

    Source: Tieleman and Hinton, Lecture 6.5, COURSERA: Neural Networks for Machine Learning, 2012;
    where eps stands, as in `torch.optim.RMSprop`.

    Parameters
    ----------
    model : anything with `parameters` and `load_parameters`
    learning_rate : float
    alpha : float
        In [0, 1).
    eps : float
    """

    def __init__(
        self,
        model: HasParameters,
        learning_rate: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        self.alpha = number(alpha, "alpha", below=1)
        self.eps = number(eps, "eps", positive=True)
        super().__init__(model, learning_rate, ("v",))

    @property
    def configuration(self) -> dict[str, Any]:
        """The kind of optimizer and all its settings, as JSON can hold them."""
        return {**super().configuration, "alpha": self.alpha, "eps": self.eps}

    def _update_block(self, new: Array, p: Array, g: Array, *kept: Array, rate: float) -> None:
        (v,) = kept
        _average(v, np.multiply(g, g, out=new), self.alpha, new)
        np.sqrt(v, out=new)
        new += self.eps
        np.divide(g, new, out=new)
        new *= -rate
        new += p


def _average(mean: Array, value: Array, beta: float, scratch: Array) -> None:
    """Let the mean be beta mean + (1 - beta) value; `scratch` may be `value`."""
    mean *= beta
    mean += np.multiply(value, 1.0 - beta, out=scratch)


def global_norm(gradients: Mapping[str, Array]) -> float:
    """Return the norm of all gradients together, sqrt(sum g^2).

    Parameters
    ----------
    gradients : mapping of str to array

    Returns
    -------
    float

    Raises
    ------
    FloatingPointError
        If it isn't finite; with the name of the first gradient that isn't.

    Examples
    --------
    >>> import numpy as np
    >>> global_norm({"a": np.array([3.0]), "b": np.array([[0.0, 4.0]])})
    5.0
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
    return norm if math.isfinite(norm) else _scaled_norm(gradients)


def _scaled_norm(gradients: Mapping[str, Array]) -> float:
    """Return the norm where squares are too large: top * |g / top|, top the largest element."""
    top = 0.0
    for name, g in gradients.items():
        largest = float(np.max(np.abs(g), initial=0.0))
        if not math.isfinite(largest):
            raise FloatingPointError(f"gradient of {name}: expected finite numbers, got {largest}")
        top = max(top, largest)
    norm = top * math.sqrt(
        sum(float(np.sum(np.square(g.astype(np.float64) / top))) for g in gradients.values())
    )
    if not math.isfinite(norm):
        raise FloatingPointError(f"gradients: expected a finite norm, got {norm}")
    return norm


def clip_by_norm(gradients: Mapping[str, Array], limit: float) -> float:
    """Scale all gradients in place so that their norm together is at most `limit`.

    ::

        g = g limit / norm    if norm > limit

    Source: Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks,
    ICML 2013, algorithm 1.

    Parameters
    ----------
    gradients : mapping of str to array
    limit : float
        Above 0.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    FloatingPointError
        If the norm isn't finite; with the name of the first gradient that isn't. No gradient is
        changed then.

    Examples
    --------
    >>> import numpy as np
    >>> gradients = {"a": np.array([3.0]), "b": np.array([4.0])}
    >>> clip_by_norm(gradients, 2.5)
    5.0
    >>> gradients
    {'a': array([1.5]), 'b': array([2.])}
    """
    limit = number(limit, "limit", positive=True)
    norm = global_norm(gradients)
    if norm > limit:
        for g in gradients.values():
            g *= limit / norm
    return norm
