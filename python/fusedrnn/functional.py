"""Recurrent layers as functions on arrays, for people who keep their own parameters.

The functions take `parameters` either as a mapping of torch's names to arrays, packed at every
call, or as `Weights`, packed once.

Shapes, with T time steps, B sequences, I inputs, H hidden units, L layers and D directions:

====================  =====================================================================
``x``                 (T, B, I); (B, T, I) with `batch_first`; (T, I) for one sequence
``y``                 (T, B, D*H), (B, T, D*H), (T, D*H)
state (GRU, RNN)      h: (L*D, B, H), or (L*D, H) for one sequence; index layer*D + direction
state (LSTM)          a tuple (h, c) of two such arrays
lengths               (B,), an integer for one sequence: the steps that each sequence has
====================  =====================================================================

Sequences may end early: with `lengths`, 0 to T each and in any order, y is 0 past the end of a
sequence, its last state is the one after its last step (the initial state where the length is 0),
the reverse direction begins with that step, and x is never read past the end. The time it takes is
that of the steps there are. Where T = 0, the same holds of all sequences, with lengths or without.

Where an LSTM projects h (``weight_hr_l{k}``), h and y have P elements in place of H.

On the CPU denormals count as zero: in all that a call is given, and where a result would be one.
What is only copied keeps them, such as the state of a sequence of length 0. And results are the
same bits for every number of threads and in every batch, with one build and instruction set; on
GPUs neither holds. ``docs/guarantees.md`` has the details.

All arrays are float32, or all are float64. Where x is on a GPU, all are there, and float32, float16
or bfloat16; see `fusedrnn.cuda`. Cells: ``"lstm"``, ``"gru"`` (reset after the product, as torch
and cuDNN), ``"rnn_tanh"``, ``"rnn_relu"``; `fusedrnn.reference` has their equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from . import _device
from ._arguments import flag, interval, key, probability
from ._core import PackedWeights, Tape
from ._network import Array, Network, check_cell, dtype_of, network_of

State = Array | tuple[Array, Array]

__all__ = ["Gradients", "State", "Tape", "Weights", "backward", "forward", "infer"]


def __dir__() -> list[str]:
    return sorted(__all__)


@dataclass(frozen=True)
class Gradients:
    """The gradients of a loss, as `backward` returns them.

    Attributes
    ----------
    x : array
        Shaped like the call's x. (None of a module whose x are symbols.)
    state : array or tuple of arrays
        Of the initial state, also where none was given (it was zero). (Of a module of
        `fusedrnn.models` whatever it has for a state, or None.)
    parameters : dict of arrays
        Named, shaped and ordered like the parameters.
    """

    x: Any
    state: Any
    parameters: dict[str, Array]


class Weights:
    """Parameters packed for the kernels, to be used by many calls.

    The arrays are copied: changing them afterwards changes nothing here. New values are a new
    `Weights`, so packed weights are never stale.

    Parameters
    ----------
    cell : str
        "lstm", "gru", "rnn_tanh" or "rnn_relu".
    parameters : mapping of str to array
        torch's names and shapes, see `fusedrnn.LSTM`.

    Attributes
    ----------
    network : Network
        The sizes, read from names and shapes.
    parameters : mapping of str to read-only array

    Raises
    ------
    ValueError
        If the cell is unknown, a name is missing or unexpected, or a shape is wrong.
    TypeError
        If the arrays aren't all float32 or all float64.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> rng = np.random.default_rng(0)
    >>> shapes = {"weight_ih_l0": (15, 2), "weight_hh_l0": (15, 5)}
    >>> weights = fusedrnn.functional.Weights(
    ...     "gru", {name: rng.normal(size=shape) for name, shape in shapes.items()})
    >>> weights.network.hidden_size
    5
    >>> y, state = fusedrnn.functional.infer("gru", np.zeros((7, 1, 2)), weights)
    >>> y.shape, state.shape
    ((7, 1, 5), (1, 1, 5))
    """

    def __init__(self, cell: str, parameters: Mapping[str, Any]) -> None:
        network = network_of(cell, parameters)
        self._assign(network, parameters, dtype_of(parameters))

    @classmethod
    def of(
        cls, network: Network, parameters: Mapping[str, Any], dtype: str, owner: object
    ) -> Weights:
        """Return weights that must fit `network`, for an owner who knows its tapes by itself."""
        network.check_names(parameters)
        weights = cls.__new__(cls)
        weights._assign(network, parameters, dtype, owner)
        return weights

    def _assign(
        self, network: Network, parameters: Mapping[str, Any], dtype: str, owner: object = None
    ) -> None:
        self._network = network
        self._packed = network.pack(parameters, dtype, owner, copy=True)
        names = network.names
        self._parameters = MappingProxyType(dict(zip(names, self._packed.arrays, strict=True)))

    @property
    def network(self) -> Network:
        """The sizes."""
        return self._network

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The arrays by name, read-only."""
        return self._parameters

    @property
    def packed(self) -> PackedWeights:
        """What the kernels read."""
        return self._packed

    def __reduce__(self) -> tuple[Any, ...]:
        return Weights, (self.network.cell, dict(self.parameters))


def infer(
    cell: str,
    x: Any,
    parameters: Mapping[str, Any] | Weights,
    state: Any = None,
    *,
    batch_first: bool = False,
    lengths: Any = None,
    out: Array | None = None,
) -> tuple[Array, Any]:
    """Run the layers over a sequence; keep nothing for a backward pass, drop nothing out.

    Parameters
    ----------
    cell : str
        "lstm", "gru", "rnn_tanh" or "rnn_relu".
    x : array
        The inputs; see the module for shapes.
    parameters : mapping of str to array, or Weights
    state : array or tuple of arrays, optional
        The initial state; zero if not given.
    batch_first : bool
        Whether x and y have the batch as first axis. States never do.
    lengths : array of integers, optional
        How many steps each sequence has; T if not given. See the module.
    out : array, optional
        Where y goes. It must not share memory with an input.

    Returns
    -------
    y : array
        The hidden state of the last layer at each step.
    state : array or tuple of arrays
        The state after the last step (of the reverse direction: after the first).

    Raises
    ------
    ValueError
        For a wrong shape, rank, name, length or number of states.
    TypeError
        For a wrong dtype or kind of argument.
    MemoryError
        Where memory runs out.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> parameters = {"weight_ih_l0": np.eye(2), "weight_hh_l0": np.zeros((2, 2))}
    >>> y, h = fusedrnn.functional.infer("rnn_relu", np.array([[1.0, -2.0]]), parameters)
    >>> y
    array([[1., 0.]])

    Sequences of 3 steps and of 1, with y_t = x_t + y_{t-1}:

    >>> one = {"weight_ih_l0": np.eye(1), "weight_hh_l0": np.eye(1)}
    >>> y, h = fusedrnn.functional.infer("rnn_relu", np.ones((3, 2, 1)), one, lengths=[3, 1])
    >>> y[:, :, 0].T, h.ravel()
    (array([[1., 2., 3.],
           [1., 0., 0.]]), array([3., 1.]))
    """
    if _device.on_gpu(x):
        call = _device.Call(cell, x, parameters, out)
        return call.infer(state, flag(batch_first, "batch_first"), lengths)
    return _packed(cell, parameters).infer(x, state, flag(batch_first, "batch_first"), out, lengths)


def forward(
    cell: str,
    x: Any,
    parameters: Mapping[str, Any] | Weights,
    state: Any = None,
    *,
    batch_first: bool = False,
    lengths: Any = None,
    dropout: float = 0.0,
    dropout_key: tuple[int, int] = (0, 0),
    checkpoint_every: int | None = None,
    out: Array | None = None,
) -> tuple[Array, Any, Tape]:
    """Run the layers over a sequence and keep what `backward` needs.

    Parameters
    ----------
    cell, x, parameters, state, batch_first, lengths, out
        As in `infer`.
    dropout : float
        The probability that an element of a layer's output is zeroed on its way to the next
        layer; the others are multiplied by 1 / (1 - dropout).
    dropout_key : (int, int)
        A seed and a call number, both 64 bits. They determine the mask, which lengths don't change;
        use each pair once.
    checkpoint_every : int, optional
        Keep the states of every k-th step only, so that activations take O(T/k + k) memory and not
        O(T): `backward` computes them again, k steps at a time. All results are the same bits. k is
        rounded up to whole multiples of the steps whose gradients are summed up at once, which are
        256 / B, rounded up, or fewer. See Notes.

    Returns
    -------
    y, state
        As from `infer`. y is read-only unless it is `out`: the tape reads it again. (On a GPU it
        isn't marked so, but must not be written to either.)
    tape : Tape
        For one call of `backward`. It also reads x again, which must not be changed until then.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As in `infer`; ValueError also for a dropout outside [0, 1], a key that doesn't fit, or a
        `checkpoint_every` below 1.

    Notes
    -----
    A tape holds, besides x and y (`Tape.nbytes`; with lengths also copies of the two):

    - Without checkpoints the gates and, of an LSTM, c: 5*H elements (LSTM), 4*H (GRU) or none (RNN)
      for each step, sequence, layer and direction; and the output of each layer but the last, D*H,
      twice where there is dropout. `backward` takes twice that output for its gradient.
    - With `checkpoint_every=k` the same for k steps instead of T, and the states before every k-th
      step. For k >= T nothing changes.
    - Two directions need all of the layer below: then the outputs between layers stay T*B*2*H, with
      dropout or without, and so do their gradients in `backward`; gates and c are kept for k steps
      of one layer at a time.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> parameters = {"weight_ih_l0": np.eye(2), "weight_hh_l0": np.zeros((2, 2))}
    >>> x = np.array([[1.0, -2.0]])
    >>> y, h, tape = fusedrnn.functional.forward("rnn_relu", x, parameters)
    >>> gradients = fusedrnn.functional.backward(tape, np.ones_like(y))
    >>> gradients.x
    array([[1., 0.]])
    >>> gradients.parameters["weight_ih_l0"]
    array([[ 1., -2.],
           [ 0.,  0.]])

    A long sequence, in a tenth of the memory:

    >>> lstm = fusedrnn.LSTM(4, 16, seed=0)
    >>> x = np.ones((20_000, 1, 4), np.float32)
    >>> _, _, tape = fusedrnn.functional.forward("lstm", x, lstm.parameters)
    >>> _, _, small = fusedrnn.functional.forward(
    ...     "lstm", x, lstm.parameters, checkpoint_every=1000)
    >>> small.nbytes < tape.nbytes / 10
    True
    """
    seed, call = key(dropout_key, "dropout_key")
    if _device.on_gpu(x):
        gpu_call = _device.Call(cell, x, parameters, out, checkpoint_every)
        first, p = flag(batch_first, "batch_first"), probability(dropout, "dropout")
        return gpu_call.forward(state, first, p, seed, call, lengths)
    return _packed(cell, parameters).forward(
        x,
        state,
        flag(batch_first, "batch_first"),
        probability(dropout, "dropout"),
        seed,
        call,
        interval(checkpoint_every, "checkpoint_every"),
        out,
        lengths,
    )


def backward(tape: Tape, dy: Any, dstate: Any = None, *, out: Gradients | None = None) -> Gradients:
    """Return the gradients of everything that went into `forward`.

    It gives the tape's memory back, so it can be called once for each tape.

    Parameters
    ----------
    tape : Tape
        From `forward`.
    dy : array or None
        The gradient of the loss with respect to y; None is zero.
    dstate : array or tuple of arrays, optional
        The gradient with respect to the last state; None, or None for a part of it, is zero.
    out : Gradients, optional
        Whose arrays the gradients overwrite. They must not share memory with anything else; None
        in place of one is a fresh array.

    Returns
    -------
    Gradients

    Raises
    ------
    ValueError, TypeError, MemoryError
        As in `infer`.
    RuntimeError
        If the tape is spent.

    Examples
    --------
    See `forward`.
    """
    if _device.is_tape(tape):
        return Gradients(*_device.backward(tape, dy, dstate, out))
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: expected a Tape from forward, got {type(tape).__name__}")
    names = tape.weights.names
    targets = None
    if out is not None:
        if not isinstance(out, Gradients):
            raise TypeError(f"out: expected Gradients, got {type(out).__name__}")
        if not isinstance(out.parameters, Mapping):
            raise TypeError(
                "out.parameters: expected a mapping of names to arrays, "
                f"got {type(out.parameters).__name__}"
            )
        if set(out.parameters) != set(names):
            raise ValueError(
                f"out.parameters: expected the names {', '.join(names)}, "
                f"got {', '.join(map(str, out.parameters))}"
            )
        targets = (out.x, out.state, [out.parameters[name] for name in names])
    dx, d_first, d_parameters = tape.backward(dy, dstate, targets)
    return Gradients(dx, d_first, dict(zip(names, d_parameters, strict=True)))


def _packed(cell: str, parameters: Mapping[str, Any] | Weights) -> PackedWeights:
    check_cell(cell)
    if not isinstance(parameters, Weights):
        return network_of(cell, parameters).pack(parameters, dtype_of(parameters))
    if parameters.network.cell != cell:
        raise ValueError(
            f"parameters: expected Weights of the cell {cell!r}, got {parameters.network.cell!r}"
        )
    return parameters.packed
