"""A layer's call: straight to the kernels, through torch's operators, or by torch's own path."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.utils.rnn import PackedSequence

from .._network import Network
from . import _gpu
from ._autograd import Call, FusedRNN, needs_gradients, state_of
from ._checks import check_indices, check_layer, undo_each_other
from ._differentiable import by_lengths
from ._fallback import checked_lengths, decline, is_traced, unseen
from ._few_rows import MOST_ROWS, few_rows, is_ordinary, run
from ._switches import Unsupported
from ._transforms import call_operator
from ._weights import (
    CELLS,
    PLAIN,
    as_array,
    as_tensor,
    check_tensors,
    dtypes_of,
    network_of,
    packed_weights,
)

__all__ = ["RecurrentLayer", "draw_key", "finds_as_torch"]


class RecurrentLayer:
    """What fusedrnn.torch's LSTM, GRU and RNN add to torch's."""

    #: Whether a call that the kernels can't take is an error, see `accelerate`. May be set.
    strict = False

    #: Whether to believe version counters that the parameters are unchanged, see
    #: `trust_version_counters`. May be set.
    trust = False

    #: torch's own class.
    torch_class: type[torch.nn.RNNBase]

    #: What `restore` makes of this very class, not of others derived from it.
    restored_class: type[torch.nn.RNNBase]

    #: The class itself, once it is known to find its parameters as torch's classes do.
    _finds_as_torch: type[Any] | None = None

    # Of torch.nn.RNNBase.
    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    training: bool
    _flat_weights_names: list[str]
    _flat_weights: list[Any]
    _parameters: dict[str, Any]
    _update_flat_weights: Callable[[], None]
    _flat_weight_refs: list[Any]

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None) -> Any:
        """Run the layer, as torch's does, or over sequences of some lengths.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, I); (B, T, I) with batch_first; (T, I) for one sequence.
        hx : Tensor or tuple of Tensor, optional
            The initial state: h (L*D, B, Hout), for an LSTM (h, c) with c (L*D, B, H); without B
            for one sequence. Zero if not given.
        lengths : Tensor or sequence of int, optional
            For a batched input: how many steps each sequence has, in any order, from 0 to T; a
            tensor may be of any integer type and on any device.

        Returns
        -------
        output : Tensor or PackedSequence
            (T, B, D*Hout), (B, T, D*Hout), (T, D*Hout), or packed as the input. With `lengths`,
            zero past each length.
        state : Tensor or tuple of Tensor
            Shaped as hx. With `lengths`, after the last step of each sequence (the initial state
            where the length is 0); the reverse direction begins at that step.

        Raises
        ------
        RuntimeError, ValueError
            torch's own, for wrong shapes and dtypes.
        TypeError, ValueError
            For wrong lengths.
        NotAccelerated
            In strict mode, where the kernels can't take the call.
        """
        if lengths is not None:
            lengths = checked_lengths(lengths, input, self.batch_first)
        if torch.compiler.is_compiling():
            obstacle = self._obstacle(input, hx)
            if obstacle is None:
                return self._by_operator(input, hx, lengths)
            reason: Exception | str = obstacle
        else:
            result = None if lengths is not None else self._by_few_rows(input, hx)
            if result is not None:
                return result
            try:
                return self._by_kernels(input, hx, lengths)
            except (Unsupported, TypeError, ValueError) as error:
                reason = error.with_traceback(None)
        return decline(self, reason, lambda: self._by_torch(input, hx, lengths))

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """Return torch's own layer with the same parameters, for torch.jit.script."""
        return scriptable(self, RecurrentLayer)

    # torch's own way

    def _by_torch(self, input: Any, hx: Any, lengths: Tensor | None) -> Any:
        unseen(lambda: check_layer(self, self._network().shapes(), input, hx, lengths))
        if lengths is None or unseen(lambda: change_nothing(lengths, input)):
            return self.torch_class.forward(self, input, hx)
        states = self._states(hx)
        y, last = by_lengths(
            lambda x, state: self.torch_class.forward(self, x, state),
            input,
            states,
            lengths,
            self.batch_first,
        )
        return y, state_of(last)

    # The direct way

    def _network(self) -> Network:
        return network_of(
            CELLS[self.mode],
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.bias,
            self.proj_size,
        )

    def _by_few_rows(self, input: Any, hx: Any) -> Any:
        """Return the result, or None where `_by_kernels` has to find out what to do."""
        if (
            type(input) not in PLAIN
            or not is_ordinary()  # before a tracer sees a look at the input's size
            or input.numel() > MOST_ROWS * self.input_size
            or self.proj_size > 0
            or (self.dropout > 0 and self.training and self.num_layers > 1)
        ):
            return None
        weights = self._plain_weights()
        rows = few_rows(
            CELLS[self.mode],
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.bias,
            self.batch_first,
            False,
        )
        if rows is None or weights is None:
            return None
        lstm = self.mode == "LSTM"
        found = run(rows, input, hx if hx is None or lstm else (hx,), weights)
        if found is None:
            return None
        return found[0], ((found[1], found[2]) if lstm else found[1])

    def _plain_weights(self) -> Sequence[Any] | None:
        """Return the parameters, if they are where torch's layers have them."""
        weights, parameters, kind = self._flat_weights, self._parameters, type(self)
        if (
            all(map(is_, weights, map(parameters.get, self._flat_weights_names)))
            and PLAIN.issuperset(map(type, weights))
            and (kind._finds_as_torch is kind or finds_as_torch(kind))
        ):
            return weights
        return None

    def _weights(self) -> Sequence[Any]:
        """Return the parameters that this call uses: those that torch's layer would."""
        plain = self._plain_weights()
        if plain is not None:
            return plain
        # Parametrized, deleted and set as attributes, or replaced in the list itself.
        self._update_flat_weights()
        weights = self._flat_weights
        check_tensors(weights)
        return weights

    def _weights_to_trace(self) -> Sequence[Any]:
        """Return the same, and change nothing of the layer: they may be a tracer's.

        As torch's `_weights_have_changed`, which Dynamo of torch 2.6 can't look into.
        """
        found = [getattr(self, name, None) for name in self._flat_weights_names]
        for kept, weight in zip(self._flat_weight_refs, found, strict=True):
            if weight is not None and kept is not None and kept() is not weight:
                return found
        return self._flat_weights

    def _states(self, hx: Any) -> Sequence[Any]:
        """Return the parts of a state, or None for each."""
        if hx is None:
            return (None, None) if self.mode == "LSTM" else (None,)
        return hx if self.mode == "LSTM" and isinstance(hx, (tuple, list)) else (hx,)

    def _by_kernels(self, input: Any, hx: Any, lengths: Tensor | None) -> Any:
        x, batch_sizes, order, batch_first = input, None, None, self.batch_first
        if isinstance(input, PackedSequence):
            x, batch_sizes, order, _ = input
            batch_first = False
        if is_traced(x):
            reason = self._obstacle(input, hx)
            if reason is not None:
                raise Unsupported(reason)
            return self._by_operator(input, hx, lengths)
        if x.numel() == 0 and batch_sizes is None and steps_of(x, batch_first) == 0:
            raise ValueError("no time steps")  # torch's path has torch's words for it
        network, weights = self._network(), self._weights()
        states = self._states(hx)
        if hx is not None:
            check_states(states, 2 if self.mode == "LSTM" else 1)
            if order is not None:
                states = [permuted(part, order) for part in states]
        casts = None
        if torch._C._is_any_autocast_enabled():
            even = batch_sizes is None or bool(batch_sizes[0] == batch_sizes[-1])
            ragged = not even or (batch_sizes is not None and not onednn_takes_packed())
            casts = self._casts(ragged, x, states, weights[0])
            if casts is not None and not ragged:
                x, states = cast_inputs(self.mode, x, states)
            x, states, weights = lowered(x, states, weights)
        packed = packed_weights(network, weights, self.trust)
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        last: Any
        if dropout == 0 and not needs_gradients(x, states, weights):
            y, last = packed.infer(
                as_array(x),
                None if hx is None else state_of([as_array(part) for part in states]),
                batch_first,
                None,
                None if lengths is None else lengths.numpy(),
                None if batch_sizes is None else batch_sizes.numpy(),
            )
            y = as_tensor(y)
            if type(last) is tuple:
                last = as_tensor(last[0]), as_tensor(last[1])
            else:
                last = (as_tensor(last),)
        else:
            if dropout > 0 and _gpu.on_gpu(weights[0]) and _gpu.capturing():
                raise Unsupported("dropout in a CUDA graph, which would repeat its mask")
            key = draw_key(dropout)
            numbers = (0, 0) if key is None else tuple(key.tolist())
            call = Call(network, batch_first, dropout, numbers, lengths, batch_sizes)
            y, *last = FusedRNN.apply(packed, call, x, *states, *weights)
        if batch_sizes is not None:
            inverse, batch = input.unsorted_indices, last[0].size(1)
            if _gpu.on_gpu(y):  # a look at values would wait for it
                check_inverse(inverse, last[0])
            elif not undo_each_other(order, inverse, batch):
                check_indices(order, inverse, batch)
        elif casts is None:  # as in most calls
            return y, (last[0] if len(last) == 1 else (last[0], last[1]))
        return self._finish(input, y, last, casts)

    def _finish(self, input: Any, y: Tensor, last: Sequence[Tensor], casts: Any) -> Any:
        """Return what torch's layer returns, given the kernels' results."""
        if casts is not None:
            y, last = y.to(casts[0]), [p.to(d) for p, d in zip(last, casts, strict=False)]
        if isinstance(input, PackedSequence):
            inverse = input.unsorted_indices
            last = [permuted(part, inverse) for part in last]
            y = PackedSequence(y, input.batch_sizes, input.sorted_indices, inverse)
        return y, (last[0] if len(last) == 1 else (last[0], last[1]))

    def _casts(
        self, ragged: bool, x: Tensor, states: Sequence[Any], weight: Tensor
    ) -> Sequence[torch.dtype] | None:
        """Return the dtypes of (y and) h_n and c_n under autocast on the CPU, or None without it.

        As torch's operators come out: GRUs in float32, RNNs in the lower precision, and LSTMs too
        where oneDNN computes them. Where it doesn't, products are in the lower precision, and c is
        a sum of one with the c before: the initial one, or zeros like x.
        """
        if _gpu.on_gpu(weight) or not torch.is_autocast_enabled("cpu"):
            return None
        if weight.dtype is not torch.float32 or self.mode == "GRU":
            return None
        low = torch.get_autocast_dtype("cpu")
        if low is not torch.bfloat16:
            raise Unsupported(f"autocast to {low}")
        others = ragged or self.proj_size > 0 or x.numel() == 0 or not onednn_takes(x.dtype)
        if self.mode != "LSTM" or not others:
            return low, low
        first = x if len(states) < 2 or states[1] is None else states[1]
        of_c = torch.promote_types(low, first.dtype)
        return (low if self.proj_size > 0 else of_c), of_c

    # Through torch's operators, for what traces or transforms calls

    def _obstacle(self, input: Any, hx: Any) -> str | None:
        """Return why the operators can't take a call, or None. Takes no look at values."""
        packed_input = isinstance(input, PackedSequence)
        x = input.data if packed_input else input
        weights = self._weights_to_trace()
        autocast = torch.is_autocast_enabled("cpu") and not _gpu.on_gpu(weights[0])
        if autocast and torch.get_autocast_dtype("cpu") != torch.bfloat16:
            return "autocast to another dtype than bfloat16"
        parts = [] if hx is None else list(self._states(hx))
        casts = autocast and not packed_input and self.mode == "LSTM"
        reason = obstacle_of(x, parts, weights, torch.bfloat16 if casts else None)
        if reason is not None:
            return reason
        if _gpu.on_gpu(x) and self.proj_size > 0:
            return "a projection on a GPU"
        if x.dim() not in ((2,) if packed_input else (2, 3)) or x.size(-1) != self.input_size:
            return "an input of the wrong shape"
        if hx is None:
            return None
        if len(parts) != (2 if self.mode == "LSTM" else 1):
            return "hx isn't two tensors"
        leading = [self.num_layers * (2 if self.bidirectional else 1)]
        if packed_input:
            leading.extend(parts[0].shape[1:2])
        elif x.dim() == 3:
            leading.append(x.size(0 if self.batch_first else 1))
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        fit = [
            list(p.shape) == [*leading, n] for p, n in zip(parts, widths[: len(parts)], strict=True)
        ]
        return None if all(fit) else "hx of the wrong shape"

    def _by_operator(self, input: Any, hx: Any, lengths: Tensor | None) -> Any:
        packed_input = isinstance(input, PackedSequence)
        x = input.data if packed_input else input
        weights = self._weights_to_trace()
        states: Sequence[Any] = [] if hx is None else list(self._states(hx))
        if packed_input:
            states = [permuted(part, input.sorted_indices) for part in states]
        casts = self._casts(packed_input, x, states, weights[0])
        if casts is not None and not packed_input:
            x, states = cast_inputs(self.mode, x, states)
        x, states, weights = lowered(x, states, weights)
        single = not packed_input and x.dim() == 2
        if single:
            x, states = x.unsqueeze(1), [part.unsqueeze(1) for part in states]
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        y, *last = call_operator(
            x,
            states,
            weights,
            lengths,
            input.batch_sizes if packed_input else None,
            draw_key(dropout),
            CELLS[self.mode],
            self.num_layers,
            self.bidirectional,
            self.batch_first and not packed_input and not single,
            dropout,
        )
        last = last[: 2 if self.mode == "LSTM" else 1]
        if packed_input and not torch.compiler.is_compiling():
            check_indices(input.sorted_indices, input.unsorted_indices, last[0].size(1))
        if single:
            y, last = y.squeeze(1), [part.squeeze(1) for part in last]
        return self._finish(input, y, last, casts)


def finds_as_torch(kind: Any) -> bool:
    """Return whether parameters are what `_parameters` has under their names; keep that it is so.

    A subclass may have its own way to find attributes, or attributes of these names.
    """
    found = (
        kind.__getattr__ is torch.nn.Module.__getattr__
        and kind.__getattribute__ is object.__getattribute__
        and not any(map(_PARAMETER.match, dir(kind)))
    )
    if found:
        kind._finds_as_torch = kind
    return found


_PARAMETER = re.compile("(weight|bias)_(ih|hh|hr)(_l|$)")


def scriptable(module: Any, ours: type[Any]) -> torch.nn.Module:
    """Return the module that torch.jit is to compile in place of one of ours."""
    kind = module.restored_class
    if type(module).forward not in (ours.forward, kind.forward):
        raise TypeError(
            f"torch.jit: expected a subclass of torch.nn.{kind.__name__}, accelerated or not, got "
            f"{type(module).__name__}, whose forward calls that of fusedrnn.torch"
        )
    plain: torch.nn.Module = object.__new__(kind)
    plain.__dict__.update(module.__dict__)
    return plain


def change_nothing(lengths: Tensor, x: Tensor) -> bool:
    """Return whether results are the same for any lengths: there is no sequence, or no value.

    (A fake tensor has none, but may stand for those of a graph that is being made.)
    """
    fake = type(x) is FakeTensor and get_proxy_mode() is None
    return bool(lengths.numel() == 0 or x.is_meta or fake)


def steps_of(x: Tensor, batch_first: bool) -> int:
    """Return T of an input that isn't packed."""
    steps: int = x.size(1 if batch_first and x.dim() == 3 else 0)
    return steps


def check_states(states: Sequence[Any], count: int) -> None:
    """Raise Unsupported unless the parts of a state are so many plain tensors."""
    if len(states) != count:
        raise Unsupported(f"hx has {len(states)} parts, not {count}")
    for part in states:
        if type(part) not in PLAIN:
            raise Unsupported(f"a state of type {type(part).__name__}")


def obstacle_of(
    x: Tensor, states: Sequence[Any], weights: Sequence[Any], also: torch.dtype | None = None
) -> str | None:
    """Return why the kernels can't take tensors of these dtypes and devices, or None.

    `also` is a dtype that float32 parameters have x and states in beside their own.
    """
    if torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export():
        return "torch.onnx.export"
    for tensor in (x, *states, *weights):
        if not isinstance(tensor, Tensor):
            return f"a {type(tensor).__name__} in the place of a tensor"
    device, dtype = weights[0].device, weights[0].dtype
    if device.type not in ("cpu", "cuda"):
        return f"parameters on {device}, not on the CPU or a GPU"
    dtypes = dtypes_of(weights[0])
    if dtype not in dtypes:
        return f"parameters of {dtype}, not {' or '.join(dtypes.values())}"
    if any(w.dtype != dtype or w.device != device for w in weights):
        return "parameters of several dtypes or devices"
    if any(t.device != device for t in (x, *states)):
        return f"tensors on other devices than the parameters', {device}"
    allowed = (dtype, also) if also is not None and dtype is torch.float32 else (dtype,)
    low = lower_dtype(weights[0])
    if low is not None:
        allowed = (dtype, low)
    if any(t.dtype not in allowed for t in (x, *states)):
        return f"tensors of other dtypes than the parameters', {dtype}"
    if _gpu.on_gpu(weights[0]):
        return _gpu.why_not(_gpu.number_of(weights[0]), low or dtype)
    return None


def lower_dtype(weight: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast on a GPU computes in, where it is on."""
    if not _gpu.on_gpu(weight) or not torch.is_autocast_enabled("cuda"):
        return None
    low: torch.dtype = torch.get_autocast_dtype("cuda")
    return low


def lowered(x: Any, states: Sequence[Any], weights: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return float32 tensors in the dtype of autocast on a GPU: all of a layer's."""
    low = lower_dtype(weights[0])
    if low is None:
        return x, states, weights

    def lower(part: Any) -> Any:
        return part if part is None or part.dtype is not torch.float32 else part.to(low)

    return lower(x), [lower(part) for part in states], [lower(weight) for weight in weights]


def onednn_takes(dtype: torch.dtype) -> bool:
    """Return whether torch would give an LSTM's input of this dtype to oneDNN, under autocast."""
    if not torch.backends.mkldnn.is_available() or not torch._C._get_mkldnn_enabled():
        return False
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def onednn_takes_packed() -> bool:
    """Return whether torch gives packed sequences of one length to oneDNN, as the newer ones do."""
    size, x = torch.ones(1, dtype=torch.int64), torch.zeros(1, 1)
    state, weights = [torch.zeros(1, 1, 1)] * 2, [torch.zeros(4, 1)] * 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = torch.lstm(x, size, state, weights, False, 1, 0.0, False, False)[0]
    return y.dtype is torch.bfloat16


# What torch.compiler.assume_constant_result does, besides importing Dynamo, which takes seconds.
onednn_takes._dynamo_marked_constant = True  # type: ignore[attr-defined]


def cast_inputs(mode: str, x: Tensor, states: Sequence[Any]) -> tuple[Tensor, Sequence[Any]]:
    """Return x and states in float32 where torch's LSTM casts them under autocast."""
    if mode != "LSTM":
        return x, states
    low = torch.bfloat16
    return (x.float() if x.dtype is low else x), [
        part.float() if part is not None and part.dtype is low else part for part in states
    ]


def check_inverse(order: Tensor | None, part: Tensor) -> None:
    """Raise ValueError unless an order has an index for each sequence of a state's part."""
    if order is not None and order.shape != part.shape[1:2]:
        raise ValueError(
            f"unsorted_indices: expected ({part.size(1)},) [B], got {tuple(order.shape)}"
        )


def permuted(part: Any, order: Tensor | None) -> Any:
    """Return a state's part with the batch in another order."""
    if order is None:
        return part
    if torch.compiler.is_compiling():
        return part.index_select(1, order)
    try:
        return part.index_select(1, order)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"indices of a PackedSequence: {error}") from None


def draw_key(dropout: float) -> Tensor | None:
    """Return the key of a dropout mask, by torch's generator; None without dropout."""
    if dropout == 0:
        return None
    return torch.randint(0, 2**63 - 1, (2,), dtype=torch.int64, device="cpu")
