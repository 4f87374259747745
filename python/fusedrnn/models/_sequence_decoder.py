"""What `EncoderDecoder` and `VectorDecoder` have in common: a decoder that begins where it is told.

A subclass says what it begins with (`_encode`), and how gradients go on from there.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import numpy as np

from .._arguments import integer, size
from .._layer import Layer
from .._network import Array
from ._composite import Composite
from ._generation import StepFunction
from ._module import Module, no_state
from ._positions import Integers, check_lengths, integers
from ._settings import representation
from .beam_search import beam
from .data import Batch
from .decoding import Decoded, greedy
from .heads import SoftmaxHead
from .sequence_model import Evaluation, Step


class Encoded(NamedTuple):
    """What is known of the inputs."""

    state: Any  # z_0, the decoder's first state
    memory: Array | None  # m [S, B, M]
    lengths: Integers | None  # [B], of the memory; None: S each
    tape: Any  # for `_encode_backward`; None in inference


class Taught(NamedTuple):
    """The targets, and what the decoder reads meanwhile."""

    inputs: Integers  # y_0 .. y_{T-1} [T, B]
    targets: Integers  # y_1 .. y_T [T, B]
    lengths: Integers | None  # [B]


class SequenceDecoder(Composite):
    """A decoder with attention or without; not to be made itself.

    Parameters
    ----------
    before : dict of str to Module
        The parts that make what the decoder begins with.
    target : Module
        From symbols (T, B) to vectors.
    decoder : LSTM, GRU or RNN
    head : SoftmaxHead
    after : dict
        "attention" and "combine", or nothing.
    start : int
        The symbol that the decoder reads first.
    end : int or None
        The symbol that ends a sequence.
    """

    def __init__(
        self,
        before: dict[str, Module],
        target: Module,
        decoder: Layer,
        head: SoftmaxHead,
        after: dict[str, Any],
        start: int,
        end: int | None,
    ) -> None:
        self._parts = {**before, "target": target, "decoder": decoder, **after, "head": head}
        self._check_parts()
        width = decoder._network.output_size
        if not after and head.input_size != width:
            raise ValueError(f"head: expected input_size={width}, got {head.input_size}")
        self._start = _symbol(start, "start", None)
        self._end = None if end is None else _symbol(end, "end", head.classes)

    @property
    def target(self) -> Any:
        """The embedding of the target symbols."""
        return self._parts["target"]

    @property
    def decoder(self) -> Any:
        """The recurrent layer that runs over the target symbols."""
        return self._parts["decoder"]

    @property
    def attention(self) -> Any:
        """What looks into the memory; None where nothing does."""
        return self._parts.get("attention")

    @property
    def head(self) -> Any:
        """What makes probabilities of hidden states."""
        return self._parts["head"]

    @property
    def start(self) -> int:
        """The symbol that the decoder reads first."""
        return self._start

    @property
    def end(self) -> int | None:
        """The symbol that ends a sequence; None where there is none."""
        return self._end

    def __repr__(self) -> str:
        return representation(self)

    @abc.abstractmethod
    def _encode(self, inputs: Any, lengths: Any, *, train: bool) -> Encoded:
        """Return what the decoder begins with."""

    @abc.abstractmethod
    def _encode_backward(self, tape: Any, d_state: Any, d_memory: Any) -> dict[str, Array]:
        """Return the gradients of the parameters that `_encode` uses, by name."""

    # Training

    def step(self, batch: Batch, state: None = None) -> Step:
        """Return the mean loss of a batch and its gradients; dropout acts.

        Parameters
        ----------
        batch : Batch
            Inputs with their lengths; targets (T, B) with `target_lengths`, and weights (T, B).
        state : None

        Returns
        -------
        Step
            `loss`, in nats per target that counts, `count`, `state` (None) and `gradients`.

        Raises
        ------
        ValueError
            For a wrong shape, length or symbol, or a state.
        TypeError
            For a wrong dtype or kind of argument.
        """
        no_state(state)
        taught, encoded = self._begin(batch, train=True)
        u, _, target_tape = self.target.forward(taught.inputs, lengths=taught.lengths)
        h, _, decoder_tape = self.decoder.forward(u, encoded.state, lengths=taught.lengths)
        y, tape = self._attend(h, taught.lengths, encoded.memory, encoded.lengths, train=True)
        loss = self.head.loss(y, taught.targets, weights=batch.weights, lengths=taught.lengths)
        found = {"head.weight": loss.gradients.weight, "head.bias": loss.gradients.bias}

        d_h, d_memory = self._attend_backward(tape, loss.gradients.y, found)
        decoder = self.decoder.backward(decoder_tape, d_h)
        target = self.target.backward(target_tape, decoder.x)
        found |= named("decoder", decoder.parameters) | named("target", target.parameters)
        found |= self._encode_backward(encoded.tape, decoder.state, d_memory)
        return Step(loss.value, loss.count, None, {name: found[name] for name in self.parameters})

    def evaluate(self, batch: Batch, state: None = None) -> Evaluation:
        """Return the mean loss of a batch, without dropout.

        Parameters
        ----------
        batch, state
            As in `step`.

        Returns
        -------
        Evaluation
            `loss`, `count` and `state` (None).

        Raises
        ------
        ValueError, TypeError
            As from `step`.
        """
        no_state(state)
        taught, encoded = self._begin(batch, train=False)
        h = self._recur(taught, encoded)
        y, _ = self._attend(h, taught.lengths, encoded.memory, encoded.lengths, train=False)
        loss = self.head.loss(
            y, taught.targets, weights=batch.weights, lengths=taught.lengths, gradients=False
        )
        return Evaluation(loss.value, loss.count, None)

    def _begin(self, batch: Batch, *, train: bool) -> tuple[Taught, Encoded]:
        """Return what the decoder reads, and what it begins with."""
        taught = self._teach(batch.targets, batch.target_lengths)
        encoded = self._encode(batch.inputs, batch.lengths, train=train)
        state = encoded.state[0] if isinstance(encoded.state, tuple) else encoded.state
        steps, rows = taught.targets.shape
        if state.shape[1] != rows:
            raise ValueError(
                f"targets: expected (T, {state.shape[1]}) [T, B] for these inputs, "
                f"got {(steps, rows)}"
            )
        return taught, encoded

    def _teach(self, targets: Any, lengths: Any) -> Taught:
        """Return the targets behind the start symbol, which also stands for what is ignored."""
        symbols = integers(targets, "targets")
        if symbols.ndim != 2 or len(symbols) < 1:
            raise ValueError(f"targets: expected (T, B), T at least 1, got {symbols.shape}")
        before = np.full(symbols.shape, self.start)
        before[1:] = symbols[:-1]
        before[before == self.head.ignore_index] = self.start
        if lengths is not None:
            lengths = check_lengths(lengths, symbols.shape)
        return Taught(before, symbols, lengths)

    def _recur(self, taught: Taught, encoded: Encoded) -> Array:
        """Return h_1 .. h_T [T, B, H], without dropout."""
        u, _ = self.target(taught.inputs, lengths=taught.lengths)
        h: Array = self.decoder(u, encoded.state, lengths=taught.lengths)[0]
        return h

    def _attend(
        self, h: Array, h_lengths: Any, memory: Any, lengths: Any, *, train: bool, keys: Any = None
    ) -> tuple[Array, Any]:
        """Return ~h [T, B, A], or h without attention, and a tape."""
        if self.attention is None:
            return h, None
        both = {"lengths": lengths, "query_lengths": h_lengths}
        if train:
            context, tape = self.attention.forward(h, memory, **both)
        else:
            context, tape = self.attention.attend(h, memory, keys=keys, **both)[0], None
        joined = np.concatenate((context, h), axis=-1)
        y, _, combine_tape = self._parts["combine"].forward(joined, lengths=h_lengths)
        np.tanh(y, out=y)
        return y, (tape, combine_tape, y)

    def _attend_backward(
        self, tape: Any, d_y: Array, found: dict[str, Array]
    ) -> tuple[Array, Array | None]:
        """Return the gradients of h and the memory, and put those of parameters into a dict."""
        if tape is None:
            return d_y, None
        attention_tape, combine_tape, y = tape
        combine = self._parts["combine"].backward(combine_tape, d_y * (1 - y * y))
        d_context, d_h = np.split(combine.x, [-self.decoder._network.output_size], axis=-1)
        attention = self.attention.backward(attention_tape, d_context)
        found |= named("combine", combine.parameters) | named("attention", attention.parameters)
        return attention.query + d_h, attention.memory

    # Generation

    def start_decoding(self, inputs: Any, lengths: Any = None) -> tuple[StepFunction, Any]:
        """Return a step function and its first state, for `greedy`, `sample` and `beam`.

        Parameters
        ----------
        inputs, lengths
            As in a `Batch`.

        Returns
        -------
        step : function
        state
            Of all B sequences.

        Raises
        ------
        ValueError, TypeError
            As from `step`.

        Examples
        --------
        >>> import fusedrnn
        >>> from fusedrnn.models import Embedding, SoftmaxHead, VectorDecoder, sample
        >>> model = VectorDecoder(
        ...     2, Embedding(5, 3), fusedrnn.GRU(3, 8), SoftmaxHead(8, 5), start=0, end=1)
        >>> step, state = model.start_decoding(np.zeros((4, 2), np.float32))
        >>> sample(step, state, start=0, max_length=3, seed=0).symbols.shape
        (3, 4)
        """
        encoded = self._encode(inputs, lengths, train=False)
        # A state has its rows on axis 1.
        of_rows = None if encoded.lengths is None else encoded.lengths[np.newaxis]

        def step(symbols: Integers, state: Any) -> tuple[Array, Any]:
            decoder_state, memory, keys, of_rows = state
            u, _ = self.target(symbols[np.newaxis])
            h, decoder_state = self.decoder(u, decoder_state)
            lengths = None if of_rows is None else of_rows[0]
            y, _ = self._attend(h, None, memory, lengths, train=False, keys=keys)
            return self.head(y)[0][0], (decoder_state, memory, keys, of_rows)

        keys = None if self.attention is None else self.attention.keys(encoded.memory)
        return step, (encoded.state, encoded.memory, keys, of_rows)

    def decode(
        self,
        inputs: Any,
        lengths: Any = None,
        *,
        max_length: int,
        width: int = 1,
        length_penalty: float = 0.0,
    ) -> Decoded:
        """Return the most probable sequence for each of the inputs that a search finds.

        Parameters
        ----------
        inputs, lengths
            As in a `Batch`.
        max_length : int
            Where sequences are cut.
        width : int
            How many prefixes go on side by side, see `beam`; 1 is `greedy`.
        length_penalty : float
            As in `beam`.

        Returns
        -------
        Decoded

        Raises
        ------
        ValueError, TypeError
            As from `step` and `beam`.
        """
        step, state = self.start_decoding(inputs, lengths)
        if size(width, "width") == 1:
            return greedy(step, state, start=self.start, end=self.end, max_length=max_length)
        return beam(
            step,
            state,
            start=self.start,
            end=self.end,
            max_length=max_length,
            width=width,
            length_penalty=length_penalty,
        ).best()


def run(module: Any, x: Any, *, lengths: Any, train: bool) -> tuple[Any, Any, Any]:
    """Return y, the last state and a tape; without dropout and a tape where it isn't training."""
    if train:
        y, state, tape = module.forward(x, lengths=lengths)
        return y, state, tape
    return *module(x, lengths=lengths), None


def named(part: str, gradients: dict[str, Array]) -> dict[str, Array]:
    """Return the gradients of a part under the names that its parameters have in the whole."""
    return {f"{part}.{name}": gradient for name, gradient in gradients.items()}


def check_decoder(decoder: object, head: object) -> None:
    """Raise an error unless these are a layer of one direction and a `SoftmaxHead`."""
    check_layer(decoder, "decoder")
    if isinstance(decoder, Layer) and decoder.bidirectional:
        raise ValueError("decoder: expected one direction, got bidirectional=True")
    if not isinstance(head, SoftmaxHead):
        raise TypeError(f"head: expected a SoftmaxHead, got {type(head).__name__}")


def check_layer(layer: object, name: str) -> None:
    """Raise an error unless `layer` is a recurrent layer."""
    if not isinstance(layer, Layer):
        raise TypeError(f"{name}: expected an LSTM, GRU or RNN, got {type(layer).__name__}")


def _symbol(value: int, name: str, count: int | None) -> int:
    """Return `value` as an int, if it is a symbol."""
    number = integer(value, name)
    if number < 0 or (count is not None and number >= count):
        limit = "at least 0" if count is None else f"0 to {count - 1}"
        raise ValueError(f"{name}: expected {limit}, got {number}")
    return number
