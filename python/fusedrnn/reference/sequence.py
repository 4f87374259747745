"""The time loop, stacked layers and directions, and back-propagation through time.

For layer k and direction d, with x_0 = x::

    forward in time    state_{t+1} = step(x_t, state_t)     t = 0 .. T-1
    backward in time   state_{t-1} = step(x_t, state_t)     t = T-1 .. 0
    y_t   = (h of direction 0 after step t, h of direction 1 after step t)
    x_{k+1} = mask_k y_k                                    dropout; the last layer has none

Back-propagation walks the same steps in the opposite order. The gradient of h after step t is the
sum of what comes from y_t and what comes from the step after. Source: Werbos, Backpropagation
Through Time: What It Does and How to Do It, Proceedings of the IEEE 78(10), 1990.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .cell import Array, Arrays, Cell, Weights
from .dropout import check_dropout, dropout_mask
from .parameters import Network, parameter_name, read_parameters

State: TypeAlias = Array | tuple[Array, ...]
StateLike: TypeAlias = npt.ArrayLike | Sequence[npt.ArrayLike] | None
StateGradientLike: TypeAlias = npt.ArrayLike | Sequence[npt.ArrayLike | None] | None


@dataclass(frozen=True)
class Gradients:
    """Gradients of the loss; each has the shape of what it is the gradient of.

    Attributes
    ----------
    x : array
    state : array, or for an LSTM a tuple (d_h_0, d_c_0)
        Also where no initial state was given: then of the zero state that was used.
    parameters : dict name -> array, in torch's order
    """

    x: Array
    state: State
    parameters: dict[str, Array]


@dataclass(frozen=True)
class Layout:
    """How the caller's arrays lie; inside, x is [T, B, I] and each state [L*D, B, H]."""

    batched: bool
    batch_first: bool

    def sequence_in(self, a: Array) -> Array:
        """Return the caller's x or dy as [T, B, .]."""
        if not self.batched:
            return a[:, np.newaxis]
        return a.swapaxes(0, 1) if self.batch_first else a

    def sequence_out(self, a: Array) -> Array:
        """Return y or dx, [T, B, .], as the caller's x lies; contiguous."""
        if not self.batched:
            return a[:, 0].copy()
        return a.swapaxes(0, 1).copy() if self.batch_first else a.copy()

    def state_shape(self, rows: int, batch: int, units: int) -> tuple[int, ...]:
        """Return the shape of the caller's states, with rows = L*D."""
        return (rows, batch, units) if self.batched else (rows, units)

    def states_in(self, states: Arrays) -> Arrays:
        """Return the caller's states as [L*D, B, H]; batch_first does not apply to them."""
        return states if self.batched else tuple(s[:, np.newaxis] for s in states)

    def states_out(self, states: Arrays) -> Arrays:
        """Return states, [L*D, B, H], as the caller's lie."""
        return states if self.batched else tuple(s[:, 0].copy() for s in states)


@dataclass(frozen=True)
class Tape:
    """What `backward` needs. It is never written: a backward may run on it any number of times."""

    network: Network
    layout: Layout
    y_shape: tuple[int, ...]  # as the caller sees it
    state_shape: tuple[int, ...]  # as the caller sees it
    saved: tuple[tuple[tuple[Arrays, ...], ...], ...]  # [layer][direction][t]
    masks: tuple[Array, ...]  # [layer], each [T, B, D*H]


def infer(
    cell: str,
    x: npt.ArrayLike,
    parameters: Mapping[str, npt.ArrayLike],
    state: StateLike = None,
    *,
    batch_first: bool = False,
) -> tuple[Array, State]:
    """Run the network without dropout.

    Parameters, returns, equations and sources are those of `forward`, without the tape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[2.0]]}
    >>> y, h = reference.infer("rnn_relu", np.ones((3, 1, 1)), parameters)
    >>> y.ravel(), h.ravel()
    (array([1., 3., 7.]), array([7.]))
    """
    y, final, _ = forward(cell, x, parameters, state, batch_first=batch_first)
    return y, final


def forward(
    cell: str,
    x: npt.ArrayLike,
    parameters: Mapping[str, npt.ArrayLike],
    state: StateLike = None,
    *,
    batch_first: bool = False,
    dropout: float = 0.0,
    dropout_key: tuple[int, int] = (0, 0),
) -> tuple[Array, State, Tape]:
    """Run the network for training, by the equations at the top of this file.

    Everything is computed in float64. L layers, D directions, T steps, B sequences, I inputs,
    H units.

    Parameters
    ----------
    cell : str
        A name of `CELLS`.
    x : array (T, B, I), or (B, T, I) if `batch_first`, or unbatched (T, I)
        T >= 1, B >= 0.
    parameters : mapping name -> array
        Names and shapes as in `parameter_shapes`; the network is inferred from them.
    state : array (L*D, B, H), or a tuple (h_0, c_0) of two for an LSTM; None is zero
        Index layer*D + direction; (L*D, H) if x is unbatched. `batch_first` does not apply.
    batch_first : bool
    dropout : float
        The probability of dropping an element of the output of every layer but the last.
    dropout_key : (seed, call)
        Two integers in [0, 2^64): which mask, see `dropout_mask`.

    Returns
    -------
    y : array (T, B, D*H), or (B, T, D*H), or (T, D*H)
    state : like the argument, after the last step of each direction
    tape : Tape, for `backward`

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> shapes = reference.parameter_shapes("lstm", 3, 4, bidirectional=True)
    >>> parameters = {name: np.full(shapes[name], 0.1) for name in shapes}
    >>> y, (h, c), tape = reference.forward("lstm", np.ones((5, 2, 3)), parameters)
    >>> y.shape, h.shape, c.shape
    ((5, 2, 8), (2, 2, 4), (2, 2, 4))
    """
    network = read_parameters(cell, parameters)
    x, layout = _read_x(x, network, batch_first)
    check_dropout(dropout, dropout_key)
    rows, batch = len(network.layers) * network.directions, x.shape[1]
    state_shape = layout.state_shape(rows, batch, network.hidden_size)
    states = layout.states_in(_read_states("state", state, network.cell, state_shape))

    finals: list[Arrays] = []  # [layer*D + direction]
    saved: list[tuple[tuple[Arrays, ...], ...]] = []
    masks: list[Array] = []
    y = x
    for k, layer in enumerate(network.layers):
        runs = [
            _run(network.cell, weights, y, tuple(s[k * network.directions + d] for s in states), d)
            for d, weights in enumerate(layer)
        ]
        y = np.concatenate([run[0] for run in runs], axis=2)  # [T, B, D*H]
        finals += [run[1] for run in runs]
        saved.append(tuple(run[2] for run in runs))
        last = k == len(network.layers) - 1
        masks.append(dropout_mask(y.shape, 0.0 if last else dropout, dropout_key, k))
        y = y * masks[k]

    y = layout.sequence_out(y)
    tape = Tape(network, layout, y.shape, state_shape, tuple(saved), tuple(masks))
    return y, _state_out(finals, layout), tape


def backward(tape: Tape, dy: npt.ArrayLike | None, dstate: StateGradientLike = None) -> Gradients:
    """Back-propagate through time: gradients of the loss L, given those of the outputs.

    Parameters
    ----------
    tape : Tape
        What `forward` returned third.
    dy : array of the shape of y, or None
        dL/dy; None is zero.
    dstate : like the state that `forward` returned, or None
        dL/dstate; None is zero. For an LSTM, either part of the tuple may be None.

    Returns
    -------
    Gradients

    Examples
    --------
    y = x_1 + 2 x_0 with weight_hh = 2, so d y / d x = (2, 1):

    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[2.0]]}
    >>> y, h, tape = reference.forward("rnn_relu", np.ones((2, 1)), parameters)
    >>> gradients = reference.backward(tape, [[0.0], [1.0]])
    >>> gradients.x.ravel(), gradients.parameters["weight_hh_l0"]
    (array([2., 1.]), array([[1.]]))
    """
    network, layout = tape.network, tape.layout
    d_y = layout.sequence_in(_read("dy", dy, tape.y_shape))
    d_states = layout.states_in(_read_states("dstate", dstate, network.cell, tape.state_shape))

    d_starts: dict[int, Arrays] = {}  # [layer*D + direction]
    d_layers: dict[int, tuple[Weights, ...]] = {}
    for k in reversed(range(len(network.layers))):
        d_y = d_y * tape.masks[k]
        parts = np.split(d_y, network.directions, axis=2)  # [T, B, H] per direction
        runs = []
        for d, weights in enumerate(network.layers[k]):
            row = k * network.directions + d
            d_final = tuple(s[row] for s in d_states)
            run = _run_backward(network.cell, weights, tape.saved[k][d], parts[d], d_final, d)
            d_starts[row] = run[1]
            runs.append(run)
        d_y = np.sum([run[0] for run in runs], axis=0)  # d_x, the d_y of the layer below
        d_layers[k] = tuple(run[2] for run in runs)

    d_state = _state_out([d_starts[row] for row in sorted(d_starts)], layout)
    return Gradients(layout.sequence_out(d_y), d_state, _name_gradients(d_layers, network.bias))


def _times(steps: int, direction: int) -> range:
    """Return the time steps in the order in which the direction takes them."""
    return range(steps) if direction == 0 else range(steps - 1, -1, -1)


def _run(
    cell: Cell, weights: Weights, x: Array, state: Arrays, direction: int
) -> tuple[Array, Arrays, tuple[Arrays, ...]]:
    """Run one direction of one layer: y [T, B, H], the final state, saved [t]."""
    y: dict[int, Array] = {}
    saved: dict[int, Arrays] = {}
    for t in _times(len(x), direction):
        state, saved[t] = cell.step(x[t], state, weights)
        y[t] = state[0]
    return (
        np.stack([y[t] for t in range(len(x))]),
        state,
        tuple(saved[t] for t in range(len(x))),
    )


def _run_backward(
    cell: Cell,
    weights: Weights,
    saved: tuple[Arrays, ...],
    d_y: Array,
    d_state: Arrays,
    direction: int,
) -> tuple[Array, Arrays, Weights]:
    """Back-propagate through one direction of one layer: d_x [T, B, I], d_state, d_weights."""
    d_x: dict[int, Array] = {}
    total = Weights(*(np.zeros_like(w) for w in weights))
    for t in reversed(_times(len(d_y), direction)):
        d_state = (d_state[0] + d_y[t], *d_state[1:])
        d_x[t], d_state, d_weights = cell.step_backward(saved[t], weights, d_state)
        for d_weight, part in zip(total, d_weights, strict=True):
            d_weight += part  # one matrix for all steps: their gradients add up
    return np.stack([d_x[t] for t in range(len(d_y))]), d_state, total


def _read_x(x: npt.ArrayLike, network: Network, batch_first: bool) -> tuple[Array, Layout]:
    """Return a copy of x as [T, B, I], and how the caller's lies."""
    a = np.array(x, dtype=np.float64)
    if a.ndim not in (2, 3):
        raise ValueError(f"x: expected 2 or 3 dimensions, got {a.ndim}")
    if a.shape[-1] != network.input_size:
        raise ValueError(f"x: expected {network.input_size} inputs [last axis], got {a.shape}")
    layout = Layout(batched=a.ndim == 3, batch_first=batch_first)
    a = layout.sequence_in(a)
    if len(a) == 0:
        raise ValueError("x: expected at least one time step, got 0")
    return a, layout


def _read(name: str, value: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Return a copy of an array of that shape; None is zero."""
    if value is None:
        return np.zeros(shape)
    array = np.array(value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {array.shape}")
    return array


def _read_states(name: str, value: StateGradientLike, cell: Cell, shape: tuple[int, ...]) -> Arrays:
    """Return a copy of the states, or of their gradients; None is zero."""
    if len(cell.states) == 1:
        return (_read(name, value, shape),)  # type: ignore[arg-type]
    if value is None:
        value = (None,) * len(cell.states)
    if not isinstance(value, (tuple, list)) or len(value) != len(cell.states):
        raise ValueError(f"{name}: expected a tuple ({', '.join(cell.states)})")
    return tuple(
        _read(f"{name}[{i}] ({cell.states[i]})", part, shape) for i, part in enumerate(value)
    )


def _state_out(rows: list[Arrays], layout: Layout) -> State:
    """Return the states [layer*D + direction][state] as the caller sees them."""
    states = layout.states_out(tuple(np.stack(arrays) for arrays in zip(*rows, strict=True)))
    return states if len(states) > 1 else states[0]


def _name_gradients(layers: dict[int, tuple[Weights, ...]], bias: bool) -> dict[str, Array]:
    """Return the gradients of all parameters by name, in torch's order."""
    gradients: dict[str, Array] = {}
    for k in sorted(layers):
        for d, weights in enumerate(layers[k]):
            for kind, gradient in weights._asdict().items():
                if bias or kind.startswith("weight"):
                    gradients[parameter_name(kind, k, d)] = gradient
    return gradients
