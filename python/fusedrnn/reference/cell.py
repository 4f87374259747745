"""What a cell is: its gates, its states, one step forward and one step backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Arrays: TypeAlias = tuple[Array, ...]

NO_PROJECTION: Array = np.zeros((0, 0))


class Weights(NamedTuple):
    """The parameters of one direction of one layer, or the gradients of them.

    G is the number of gates, I the width of x, H the number of units. The rows are ordered by
    gate: the first H rows belong to the first gate. With a projection h has P elements instead
    of H; without one weight_hr has no rows.
    """

    weight_ih: Array  # [G*H, I]
    weight_hh: Array  # [G*H, H], or [G*H, P]
    bias_ih: Array  # [G*H]
    bias_hh: Array  # [G*H]
    weight_hr: Array = NO_PROJECTION  # [P, H]


Step: TypeAlias = Callable[[Array, Arrays, Weights], tuple[Arrays, Arrays]]
StepBackward: TypeAlias = Callable[[Arrays, Weights, Arrays], tuple[Array, Arrays, Weights]]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell.

    Attributes
    ----------
    name : str
        The name in the registry.
    gates : tuple of str
        The gates, in the order of the row blocks of the parameters.
    states : tuple of str
        What the cell carries from step to step. The first is h, the output.
    step : callable
        ``step(x, state, weights) -> (new state, saved)`` with x (B, I) and each state (B, H), but
        a projected h (B, P). `saved` is all that `step_backward` needs, beside the weights.
    step_backward : callable
        ``step_backward(saved, weights, d_state) -> (d_x, d_previous_state, d_weights)``, where
        `d_state` is the gradient of the new state.
    projects : bool
        Whether the cell may have a projection weight_hr.

    Examples
    --------
    >>> from fusedrnn.reference import CELLS
    >>> CELLS["lstm"].gates, CELLS["lstm"].states
    (('i', 'f', 'g', 'o'), ('h', 'c'))
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    step: Step
    step_backward: StepBackward
    projects: bool = False


def sigmoid(a: Array) -> Array:
    """Return the logistic function of `a`, of any shape.

    ``sigmoid(a) = 1 / (1 + exp(-a)) = exp(a) / (1 + exp(a))``. The first form is used for a >= 0
    and the second for a < 0, so that exp never overflows and small results keep their digits.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1.0, e) / (1.0 + e)
