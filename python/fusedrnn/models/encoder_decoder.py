r"""From one sequence to another of another length, or from a vector to a sequence.

`EncoderDecoder`, with source symbols s_1..s_S, target symbols y_1..y_T and y_0 the start symbol::

    x_j = source(s_j)                                    an embedding
    m_1..m_S, z_S = encoder(x_1..x_S)                    the memory, and the last state
    z_0 = z_S, or split(tanh(W_b join(z_S) + b_b))       the bridge
    u_t = target(y_{t-1})                                the true symbols: teacher forcing
    h_1..h_T = decoder(u_1..u_T, z_0)                    one call of the fused kernels
    a_t = softmax_j score(h_t, m_j)                      attention ...
    c_t = sum_j a_tj m_j
    ~h_t = tanh(W_c [c_t; h_t])                          ... and what it makes of h_t
    log p(y_t | y_0..y_{t-1}, s) = (log softmax(V ~h_t + c))[y_t]
    L = -sum_t log p(y_t | y_0..y_{t-1}, s) / N          over the N targets that count

Without attention ~h_t is h_t. `VectorDecoder` has no memory and begins with a vector v, which may
be the output of an encoder::

    z_0 = split(tanh(W_b v + b_b))

Attention comes after the recurrence and is not fed back into it, so the decoder runs over the whole
target at once. In generation y_{t-1} is what was chosen before: `fusedrnn.models.decoding`.

Sources: Sutskever, Vinyals and Le, Sequence to Sequence Learning with Neural Networks, NeurIPS
2014; Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
Translation, EMNLP 2014 (the first state by a tanh layer); Luong, Pham and Manning, Effective
Approaches to Attention-based Neural Machine Translation, EMNLP 2015, section 3 (W_c is that of
their equation 5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arguments import any_array, size, word
from .._layer import Layer
from .._network import Array
from . import _bridge
from ._module import Module
from ._positions import Integers, check_lengths
from ._registry import register
from ._sequence_decoder import Encoded, SequenceDecoder, check_decoder, check_layer, named, run
from .attention import Attention
from .data import Batch
from .heads import SoftmaxHead
from .linear import Linear


@register
class EncoderDecoder(SequenceDecoder):
    """From a sequence to another one: encoder, decoder and attention.

    Parameters
    ----------
    source : Module
        From the source symbols (S, B) to vectors: an `Embedding`; or from numbers (S, B, ...) by
        any module without a state, such as a `Linear` or a `Sequential` with a `Conv1d`.
    encoder : LSTM, GRU or RNN
        In one direction or both.
    target : Module
        From the target symbols (T, B) to vectors: an `Embedding`.
    decoder : LSTM, GRU or RNN
        In one direction.
    head : SoftmaxHead
        From ~h, of any size; without attention from h.
    attention : ScaledDotProductAttention or AdditiveAttention, optional
        Of h (T, B, H) over the memory (S, B, M), M = D*H of the encoder.
    start : int
        The target symbol that the decoder reads first.
    end : int, optional
        The target symbol that ends a sequence; without it `decode` always goes to the greatest
        length. In training it is a target like all others.
    seed : int, optional
        For the initial parameters of bridge and `combine`; fresh entropy if not given.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``source.…``; ``encoder.…``; ``bridge.weight`` (W_b) and ``bridge.bias`` where the encoder
        has two directions, or its state doesn't fit the decoder; ``target.…``; ``decoder.…``;
        ``attention.…`` and ``combine.weight`` (W_c) where there is attention; ``head.weight`` (V)
        and ``head.bias`` (c).

    Raises
    ------
    ValueError
        If the parts' sizes or dtypes don't fit, the decoder has two directions, a layer has
        ``batch_first``, or `start` or `end` is no symbol.
    TypeError
        If a part is of another kind.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> from fusedrnn.models import (
    ...     Batch, Embedding, EncoderDecoder, ScaledDotProductAttention, SoftmaxHead)
    >>> model = EncoderDecoder(
    ...     Embedding(12, 8, seed=0),
    ...     fusedrnn.GRU(8, 16, bidirectional=True, seed=1),
    ...     Embedding(7, 8, seed=2),
    ...     fusedrnn.GRU(8, 32, seed=3),
    ...     SoftmaxHead(32, 7, seed=4),
    ...     attention=ScaledDotProductAttention(32, 32, 16, seed=6),
    ...     start=0, end=1, seed=5)
    >>> batch = Batch(
    ...     inputs=np.full((9, 2), 5), lengths=np.array([9, 4]),
    ...     targets=np.full((6, 2), 3), target_lengths=np.array([3, 6]))
    >>> step = model.step(batch)
    >>> step.count, step.gradients["bridge.weight"].shape
    (9.0, (32, 32))
    >>> model.decode(batch.inputs, batch.lengths, max_length=4, width=3).symbols.shape[1]
    2
    >>> model.attention_map(batch.inputs, batch.targets, batch.lengths).shape
    (6, 2, 9)
    """

    def __init__(
        self,
        source: Module,
        encoder: Layer,
        target: Module,
        decoder: Layer,
        head: SoftmaxHead,
        *,
        attention: Attention | None = None,
        start: int,
        end: int | None = None,
        seed: int | None = None,
    ) -> None:
        check_layer(encoder, "encoder")
        check_decoder(decoder, head)
        seeds = _seeds(seed)
        shapes = self._encoder_shapes = _bridge.state_shapes(encoder)
        before: dict[str, Any] = {"source": source, "encoder": encoder}
        if encoder.bidirectional or shapes != _bridge.state_shapes(decoder):
            before["bridge"] = _new_bridge(
                _bridge.elements(shapes), decoder, encoder.dtype, seeds[0]
            )
        after: dict[str, Any] = {}
        if attention is not None:
            query = decoder._network.output_size
            memory = encoder._network.directions * encoder._network.output_size
            _check_attention(attention, query, memory)
            combine = Linear(
                memory + query, head.input_size, bias=False, dtype=encoder.dtype, seed=seeds[1]
            )
            after = {"attention": attention, "combine": combine}
        super().__init__(before, target, decoder, head, after, start, end)

    @property
    def source(self) -> Any:
        """What makes vectors of the source symbols."""
        return self._parts["source"]

    @property
    def encoder(self) -> Any:
        """The recurrent layer that runs over the source."""
        return self._parts["encoder"]

    def _encode(self, inputs: Any, lengths: Any, *, train: bool) -> Encoded:
        inputs, lengths = _read(inputs, lengths)
        x, _, source_tape = run(self.source, inputs, lengths=lengths, train=train)
        memory, last, encoder_tape = run(self.encoder, x, lengths=lengths, train=train)
        if "bridge" not in self._parts:
            return Encoded(last, memory, lengths, (source_tape, encoder_tape, None))
        shapes = _bridge.state_shapes(self.decoder)
        state, tape = _bridge.forward(self._parts["bridge"], _bridge.join(last), shapes)
        return Encoded(state, memory, lengths, (source_tape, encoder_tape, tape))

    def _encode_backward(self, tape: Any, d_state: Any, d_memory: Any) -> dict[str, Array]:
        source_tape, encoder_tape, bridge_tape = tape
        found: dict[str, Array] = {}
        if bridge_tape is not None:
            bridge = _bridge.backward(self._parts["bridge"], bridge_tape, d_state)
            found |= named("bridge", bridge.parameters)
            d_state = _bridge.split(bridge.x, self._encoder_shapes)
        encoder = self.encoder.backward(encoder_tape, d_memory, d_state)
        source = self.source.backward(source_tape, encoder.x)
        return found | named("encoder", encoder.parameters) | named("source", source.parameters)

    def attention_map(
        self, inputs: Any, targets: Any, lengths: Any = None, target_lengths: Any = None
    ) -> Array:
        """Return where the decoder looks for each target symbol: a_tj.

        Parameters
        ----------
        inputs, targets, lengths, target_lengths
            As in a `Batch`. To see what a generated sequence looked at: `symbols` and `lengths` of
            the `Decoded`.

        Returns
        -------
        array (T, B, S)
            Sums to 1 over S; 0 past the lengths of source and target. One sequence of it is what
            `plot_attention` draws: ``weights[:target_length, b, :length]``.

        Raises
        ------
        ValueError
            If there is no attention; and as from `step`.
        TypeError
            As from `step`.
        """
        if self.attention is None:
            raise ValueError("attention: expected a model with attention, got one without")
        batch = Batch(inputs, targets, lengths, target_lengths)
        taught, encoded = self._begin(batch, train=False)
        h = self._recur(taught, encoded)
        weights: Array = self.attention.attend(
            h, encoded.memory, lengths=encoded.lengths, query_lengths=taught.lengths
        )[1]
        return weights


@register
class VectorDecoder(SequenceDecoder):
    """From a vector to a sequence, or from whatever an encoder makes a vector of.

    Parameters
    ----------
    size : int
        V, the size of the vector.
    target, decoder, head, start, end, seed
        As in `EncoderDecoder`, without attention.
    encoder : Module, optional
        From the inputs to vectors (B, V), such as a `Linear`, or a `Sequential` of a layer and
        `Last`. If not given, the inputs are the vectors.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``encoder.…`` where there is one; ``bridge.weight`` (W_b) and ``bridge.bias``;
        ``target.…``; ``decoder.…``; ``head.weight`` (V) and ``head.bias`` (c).

    Raises
    ------
    ValueError, TypeError
        As `EncoderDecoder` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> from fusedrnn.models import Batch, Embedding, SoftmaxHead, VectorDecoder
    >>> model = VectorDecoder(
    ...     3,
    ...     Embedding(7, 8, seed=0),
    ...     fusedrnn.LSTM(8, 16, seed=1),
    ...     SoftmaxHead(16, 7, seed=2),
    ...     start=0, end=1, seed=3)
    >>> vectors = np.ones((2, 3), np.float32)
    >>> batch = Batch(vectors, np.full((6, 2), 3), target_lengths=np.array([3, 6]))
    >>> model.step(batch).gradients["bridge.weight"].shape  # of h and c
    (32, 3)
    >>> model.decode(vectors, max_length=4).symbols.shape[1]
    2
    """

    def __init__(
        self,
        size: int,
        target: Module,
        decoder: Layer,
        head: SoftmaxHead,
        *,
        encoder: Module | None = None,
        start: int,
        end: int | None = None,
        seed: int | None = None,
    ) -> None:
        check_decoder(decoder, head)
        before: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
        dtype = getattr(encoder, "dtype", decoder.dtype)
        before["bridge"] = _new_bridge(size, decoder, dtype, _seeds(seed)[0])
        super().__init__(before, target, decoder, head, {}, start, end)

    @property
    def size(self) -> int:
        """V, the size of the vector."""
        size: int = self._parts["bridge"].inputs
        return size

    @property
    def encoder(self) -> Any:
        """What makes vectors of the inputs; None where they are vectors."""
        return self._parts.get("encoder")

    def _encode(self, inputs: Any, lengths: Any, *, train: bool) -> Encoded:
        vectors, encoder_tape = inputs, None
        if self.encoder is not None:
            vectors, _, encoder_tape = run(self.encoder, inputs, lengths=lengths, train=train)
        elif lengths is not None:
            raise ValueError("lengths: expected None for vectors, got lengths")
        vectors = _core.as_array(vectors, "inputs", self.dtype.name)
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            what = "inputs" if self.encoder is None else "encoder: its outputs"
            raise ValueError(f"{what}: expected (B, {self.size}) [B, V], got {vectors.shape}")
        shapes = _bridge.state_shapes(self.decoder)
        state, tape = _bridge.forward(self._parts["bridge"], vectors, shapes)
        return Encoded(state, None, None, (encoder_tape, tape))

    def _encode_backward(self, tape: Any, d_state: Any, d_memory: Any) -> dict[str, Array]:
        encoder_tape, bridge_tape = tape
        bridge = _bridge.backward(self._parts["bridge"], bridge_tape, d_state)
        found = named("bridge", bridge.parameters)
        if self.encoder is not None:
            encoder = self.encoder.backward(encoder_tape, bridge.x)
            found |= named("encoder", encoder.parameters)
        return found


def _seeds(seed: int | None) -> list[int]:
    """Return seeds for bridge and combine."""
    sequence = np.random.SeedSequence(None if seed is None else word(seed, "seed"))
    return [int(value) for value in sequence.generate_state(2, np.uint64)]


def _new_bridge(inputs: int, decoder: Layer, dtype: np.dtype[Any], seed: int) -> Linear:
    """Return the linear layer of a bridge."""
    outputs = _bridge.elements(_bridge.state_shapes(decoder))
    return Linear(size(inputs, "size"), outputs, dtype=dtype, seed=seed)


def _check_attention(attention: Any, query: int, memory: int) -> None:
    """Raise an error unless it is an attention for queries and memories of these sizes."""
    if not isinstance(attention, Attention):
        raise TypeError(f"attention: expected an Attention, got {type(attention).__name__}")
    if (attention.query_size, attention.memory_size) != (query, memory):
        raise ValueError(
            f"attention: expected query_size={query} and memory_size={memory}, "
            f"got {attention.query_size} and {attention.memory_size}"
        )


def _read(inputs: Any, lengths: Any) -> tuple[npt.NDArray[Any], Integers | None]:
    """Return the inputs and their lengths, checked."""
    array = any_array(inputs, "inputs")
    if array.ndim < 2 or len(array) < 1:
        raise ValueError(f"inputs: expected (S, B, ...), S at least 1, got {array.shape}")
    if lengths is None:
        return array, None
    return array, check_lengths(lengths, array.shape)
