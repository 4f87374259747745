"""The time loop, stacked layers and directions, and back-propagation through time.

For layer k and direction d, with x_0 = x::

    forward in time    state_{t+1} = step(x_t, state_t)     t = 0 .. T-1
    backward in time   state_{t-1} = step(x_t, state_t)     t = T-1 .. 0
    y_t   = (h of direction 0 after step t, h of direction 1 after step t)
    x_{k+1} = mask_k y_k                                    dropout; the last layer has none

With lengths, sequence b has the steps t < n_b only. At every other step, in both directions, its
state stays as it is and y_t = 0: so the final state is the one after its last step (the initial
state where n_b = 0), and backward in time it begins at step n_b - 1 with the initial state. What x
holds past the lengths is never read.

Back-propagation walks the same steps in the opposite order. The gradient of h after step t is the
sum of what comes from y_t and what comes from the step after. Where a sequence has no step t, the
gradient of its state stays as it is, the gradient of y_t is never read and that of x_t is 0.
Source: Werbos, Backpropagation Through Time: What It Does and How to Do It, Proceedings of the
IEEE 78(10), 1990.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .._arguments import any_array, float64_array
from .cell import Array, Arrays, Cell, Weights
from .dropout import check_dropout, dropout_mask
from .parameters import Network, parameter_kinds, parameter_name, read_parameters

State: TypeAlias = Array | tuple[Array, ...]
StateLike: TypeAlias = npt.ArrayLike | Sequence[npt.ArrayLike] | None
Lengths: TypeAlias = npt.NDArray[np.int64]
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

    def lengths_shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the caller's lengths."""
        return (batch,) if self.batched else ()

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
    state_shapes: tuple[tuple[int, ...], ...]  # [state], as the caller sees it
    lengths: Lengths  # [B]
    saved: tuple[tuple[tuple[Arrays, ...], ...], ...]  # [layer][direction][t]
    masks: tuple[Array, ...]  # [layer], each like y there


def infer(
    cell: str,
    x: npt.ArrayLike,
    parameters: Mapping[str, npt.ArrayLike],
    state: StateLike = None,
    *,
    batch_first: bool = False,
    lengths: npt.ArrayLike | None = None,
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
    y, final, _ = forward(cell, x, parameters, state, batch_first=batch_first, lengths=lengths)
    return y, final


def forward(
    cell: str,
    x: npt.ArrayLike,
    parameters: Mapping[str, npt.ArrayLike],
    state: StateLike = None,
    *,
    batch_first: bool = False,
    lengths: npt.ArrayLike | None = None,
    dropout: float = 0.0,
    dropout_key: tuple[int, int] = (0, 0),
) -> tuple[Array, State, Tape]:
    """Run the network for training, by the equations at the top of this file.

    Everything is computed in float64. L layers, D directions, T steps, B sequences, I inputs,
    H units, projected to P elements where the parameters have a projection (read P for H in h and
    in y then).

    Parameters
    ----------
    cell : str
        A name of `CELLS`.
    x : array (T, B, I), or (B, T, I) if `batch_first`, or unbatched (T, I)
        T >= 0, B >= 0.
    parameters : mapping name -> array
        Names and shapes as in `parameter_shapes`; the network is inferred from them.
    state : array (L*D, B, H), or a tuple (h_0, c_0) of two for an LSTM; None is zero
        Index layer*D + direction; (L*D, H) if x is unbatched. `batch_first` does not apply.
    batch_first : bool
    lengths : array of integers (B,), one integer if x is unbatched, or None
        How many steps each sequence has, 0 to T, in any order; None is T for all. What x holds
        past the lengths is not read.
    dropout : float
        The probability of dropping an element of the output of every layer but the last.
    dropout_key : (seed, call)
        Two integers in [0, 2^64): which mask, see `dropout_mask`. Lengths don't change it.

    Returns
    -------
    y : array (T, B, D*H), or (B, T, D*H), or (T, D*H)
        0 past the lengths.
    state : like the argument, after the last step of each direction
        The initial state where a sequence has no steps.
    tape : Tape, for `backward`

    Raises
    ------
    ValueError
        If a shape, a name of a parameter, a length or a number is wrong.
    TypeError
        If the lengths are no integers.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> shapes = reference.parameter_shapes("lstm", 3, 4, bidirectional=True)
    >>> parameters = {name: np.full(shapes[name], 0.1) for name in shapes}
    >>> y, (h, c), tape = reference.forward("lstm", np.ones((5, 2, 3)), parameters)
    >>> y.shape, h.shape, c.shape
    ((5, 2, 8), (2, 2, 4), (2, 2, 4))

    Lengths, here with y_t = x_t + y_{t-1}:

    >>> one = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[1.0]]}
    >>> y, h, tape = reference.forward("rnn_relu", np.ones((3, 2, 1)), one, lengths=[3, 1])
    >>> y[:, :, 0].T, h.ravel()
    (array([[1., 2., 3.],
           [1., 0., 0.]]), array([3., 1.]))
    >>> reference.backward(tape, None, np.ones((1, 2, 1))).x[:, :, 0].T
    array([[1., 1., 1.],
           [1., 0., 0.]])
    """
    network = read_parameters(cell, parameters)
    x, layout = _read_x(x, network, batch_first)
    check_dropout(dropout, dropout_key)
    rows, batch = len(network.layers) * network.directions, x.shape[1]
    row_lengths = _read_lengths(lengths, len(x), batch, layout)
    state_shapes = tuple(layout.state_shape(rows, batch, size) for size in network.state_sizes)
    states = layout.states_in(_read_states("state", state, network.cell, state_shapes))

    finals: list[Arrays] = []  # [layer*D + direction]
    saved: list[tuple[tuple[Arrays, ...], ...]] = []
    masks: list[Array] = []
    y = x
    for k, layer in enumerate(network.layers):
        runs = []
        for d, weights in enumerate(layer):
            start = tuple(s[k * network.directions + d] for s in states)
            runs.append(_run(network.cell, weights, y, start, row_lengths, d))
        y = np.concatenate([run[0] for run in runs], axis=2)  # [T, B, D*H], or [T, B, D*P]
        finals += [run[1] for run in runs]
        saved.append(tuple(run[2] for run in runs))
        last = k == len(network.layers) - 1
        masks.append(dropout_mask(y.shape, 0.0 if last else dropout, dropout_key, k))
        y = y * masks[k]

    y = layout.sequence_out(y)
    tape = Tape(network, layout, y.shape, state_shapes, row_lengths, tuple(saved), tuple(masks))
    return y, _state_out(finals, layout), tape


def backward(tape: Tape, dy: npt.ArrayLike | None, dstate: StateGradientLike = None) -> Gradients:
    """Back-propagate through time: gradients of the loss L, given those of the outputs.

    Parameters
    ----------
    tape : Tape
        What `forward` returned third.
    dy : array of the shape of y, or None
        dL/dy; None is zero. Not read past the lengths.
    dstate : like the state that `forward` returned, or None
        dL/dstate; None is zero. For an LSTM, either part of the tuple may be None.

    Returns
    -------
    Gradients
        That of x is 0 past the lengths.

    Raises
    ------
    ValueError
        If a shape is wrong.

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
    d_states = layout.states_in(_read_states("dstate", dstate, network.cell, tape.state_shapes))

    d_starts: dict[int, Arrays] = {}  # [layer*D + direction]
    d_layers: dict[int, tuple[Weights, ...]] = {}
    for k in reversed(range(len(network.layers))):
        d_y = d_y * tape.masks[k]
        parts = np.split(d_y, network.directions, axis=2)  # [T, B, H] or [T, B, P]
        runs = []
        for d, weights in enumerate(network.layers[k]):
            row = k * network.directions + d
            d_final = tuple(s[row] for s in d_states)
            run = _run_backward(
                network.cell, weights, tape.saved[k][d], parts[d], d_final, tape.lengths, d
            )
            d_starts[row] = run[1]
            runs.append(run)
        d_y = np.sum([run[0] for run in runs], axis=0)  # d_x, the d_y of the layer below
        d_layers[k] = tuple(run[2] for run in runs)

    d_state = _state_out([d_starts[row] for row in sorted(d_starts)], layout)
    return Gradients(layout.sequence_out(d_y), d_state, _name_gradients(d_layers, network))


def _times(steps: int, direction: int) -> range:
    """Return the time steps in the order in which the direction takes them."""
    return range(steps) if direction == 0 else range(steps - 1, -1, -1)


def _run(
    cell: Cell, weights: Weights, x: Array, state: Arrays, lengths: Lengths, direction: int
) -> tuple[Array, Arrays, tuple[Arrays, ...]]:
    """Run one direction of one layer: y [T, B, H] or [T, B, P], the final state, saved [t]."""
    state = tuple(s.copy() for s in state)
    y = np.zeros((*x.shape[:2], state[0].shape[1]))
    saved: dict[int, Arrays] = {}
    for t in _times(len(x), direction):
        rows = t < lengths  # the sequences that have a step t; the others keep their state
        state_next, saved[t] = cell.step(x[t, rows], tuple(s[rows] for s in state), weights)
        for s, s_next in zip(state, state_next, strict=True):
            s[rows] = s_next
        y[t, rows] = state_next[0]
    return y, state, tuple(saved[t] for t in range(len(x)))


def _run_backward(
    cell: Cell,
    weights: Weights,
    saved: tuple[Arrays, ...],
    d_y: Array,
    d_state: Arrays,
    lengths: Lengths,
    direction: int,
) -> tuple[Array, Arrays, Weights]:
    """Back-propagate through one direction of one layer: d_x [T, B, I], d_state, d_weights."""
    d_state = tuple(d_s.copy() for d_s in d_state)
    d_x = np.zeros((*d_y.shape[:2], weights.weight_ih.shape[1]))
    total = Weights(*(np.zeros_like(w) for w in weights))
    for t in reversed(_times(len(d_y), direction)):
        rows = t < lengths  # the others pass the gradient of their state on
        d_state[0][rows] += d_y[t, rows]
        d_state_next = tuple(d_s[rows] for d_s in d_state)
        d_x[t, rows], d_previous, d_weights = cell.step_backward(saved[t], weights, d_state_next)
        for d_s, d_s_previous in zip(d_state, d_previous, strict=True):
            d_s[rows] = d_s_previous
        for d_weight, part in zip(total, d_weights, strict=True):
            d_weight += part  # one matrix for all steps: their gradients add up
    return d_x, d_state, total


def _read_x(x: npt.ArrayLike, network: Network, batch_first: bool) -> tuple[Array, Layout]:
    """Return a copy of x as [T, B, I], and how the caller's lies."""
    a = float64_array(x, "x").copy()
    if a.ndim not in (2, 3):
        raise ValueError(f"x: expected 2 or 3 dimensions, got {a.ndim}")
    if a.shape[-1] != network.input_size:
        raise ValueError(f"x: expected {network.input_size} inputs [last axis], got {a.shape}")
    layout = Layout(batched=a.ndim == 3, batch_first=batch_first)
    return layout.sequence_in(a), layout


def _read(name: str, value: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Return a copy of an array of that shape; None is zero."""
    if value is None:
        return np.zeros(shape)
    array = float64_array(value, name).copy()
    if array.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {array.shape}")
    return array


def _read_states(
    name: str, value: StateGradientLike, cell: Cell, shapes: tuple[tuple[int, ...], ...]
) -> Arrays:
    """Return a copy of the states, or of their gradients; None is zero."""
    if len(cell.states) == 1:
        return (_read(name, value, shapes[0]),)  # type: ignore[arg-type]
    if value is None:
        value = (None,) * len(cell.states)
    if not isinstance(value, (tuple, list)) or len(value) != len(cell.states):
        raise ValueError(f"{name}: expected a tuple ({', '.join(cell.states)})")
    return tuple(
        _read(f"{name}[{i}] ({cell.states[i]})", part, shapes[i]) for i, part in enumerate(value)
    )


def _read_lengths(lengths: npt.ArrayLike | None, steps: int, batch: int, layout: Layout) -> Lengths:
    """Return a copy of the lengths as [B]; None is T for every sequence."""
    if lengths is None:
        return np.full(batch, steps)
    array = any_array(lengths, "lengths")
    if array.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {array.dtype}")
    shape = layout.lengths_shape(batch)
    if array.shape != shape:
        raise ValueError(f"lengths: expected shape {shape}, got {array.shape}")
    wrong = array[(array < 0) | (array > steps)]
    if wrong.size:
        raise ValueError(f"lengths: expected 0 to T = {steps}, got {wrong.flat[0]}")
    return array.astype(np.int64).reshape(batch)


def _state_out(rows: list[Arrays], layout: Layout) -> State:
    """Return the states [layer*D + direction][state] as the caller sees them."""
    states = layout.states_out(tuple(np.stack(arrays) for arrays in zip(*rows, strict=True)))
    return states if len(states) > 1 else states[0]


def _name_gradients(layers: dict[int, tuple[Weights, ...]], network: Network) -> dict[str, Array]:
    """Return the gradients of all parameters by name, in torch's order."""
    kinds = parameter_kinds(network.bias, network.proj_size)
    gradients: dict[str, Array] = {}
    for k in sorted(layers):
        for d, weights in enumerate(layers[k]):
            for kind in kinds:
                gradients[parameter_name(kind, k, d)] = getattr(weights, kind)
    return gradients
