"""Adam, and the clipping of gradients by their norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8


class Adam:
    """Adam for a dict of parameters, in place.

    With the gradient g and the number t of the step, from 1::

        m = b_1 m + (1 - b_1) g
        v = b_2 v + (1 - b_2) g^2
        p = p - lr m / (1 - b_1^t) / (sqrt(v / (1 - b_2^t)) + eps)

    Source: Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.

    Parameters
    ----------
    parameters : mapping name -> array
        `m` and `v` get their shapes and dtypes.
    """

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self.t = 0
        self.m = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p) for name, p in parameters.items()}

    def step(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        learning_rate: float,
    ) -> None:
        """Change the parameters by one step."""
        self.t += 1
        # lr / (1 - b_1^t) and sqrt(1 - b_2^t) are numbers, so they go last: fewer passes.
        rate = learning_rate / (1.0 - BETA_1**self.t)
        root = math.sqrt(1.0 - BETA_2**self.t)
        for name, p in parameters.items():
            g, m, v = gradients[name], self.m[name], self.v[name]
            m *= BETA_1
            m += (1.0 - BETA_1) * g
            v *= BETA_2
            v += (1.0 - BETA_2) * (g * g)
            denominator = np.sqrt(v)
            denominator /= root
            denominator += EPSILON
            np.divide(m, denominator, out=denominator)
            denominator *= rate
            p -= denominator


def clip_by_norm(gradients: Mapping[str, Array], limit: float) -> float:
    """Scale all gradients in place so that their norm together is at most `limit`.

    Source: Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks,
    ICML 2013, algorithm 1.

    Returns
    -------
    float : the norm before
    """
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
    if norm > limit:
        for g in gradients.values():
            g *= limit / norm
    return norm
