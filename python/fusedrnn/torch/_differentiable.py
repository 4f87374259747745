"""torch's own path for a call, for what the kernels can't do: it can be differentiated twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

if TYPE_CHECKING:
    from ._autograd import Call

__all__ = ["by_lengths", "gradients"]


def by_lengths(
    run: Callable[[Any, Any], tuple[Any, Any]],
    x: Tensor,
    state: Sequence[Tensor | None],
    lengths: Tensor,
    batch_first: bool,
) -> tuple[Tensor, Sequence[Tensor]]:
    """Run torch's layer over padded sequences of some lengths, zero allowed.

    Parameters
    ----------
    run : callable
        The layer: from a PackedSequence and a state, or None, to a PackedSequence and a state.
    x : Tensor
        (T, B, I), or (B, T, I) with `batch_first`.
    state : sequence of Tensor or None
        h, or h and c, (L*D, B, H); None is zero.
    lengths : Tensor
        (B,), int64, on the CPU.
    batch_first : bool
        Whether the batch is the first axis of x.

    Returns
    -------
    y : Tensor
        Zero past each length.
    state : sequence of Tensor
        After each sequence's last step; the initial one where a length is 0.
    """
    empty = (lengths == 0).to(x.device)
    # torch's packed sequences have at least one step: those of length 0 run one over zeros, whose
    # results are replaced.
    shape = (-1, 1, 1) if batch_first else (1, -1, 1)
    x = x.masked_fill(empty.view(shape), 0)
    packed = pack_padded_sequence(x, lengths.clamp(min=1), batch_first, enforce_sorted=False)
    initial = _state(state)
    packed_y, last = run(packed, initial)
    y, _ = pad_packed_sequence(packed_y, batch_first, total_length=x.size(1 if batch_first else 0))
    y = y.masked_fill(empty.view(shape), 0)
    last = last if isinstance(last, tuple) else (last,)
    rows = empty.view(1, -1, 1)
    return y, [
        torch.where(rows, torch.zeros_like(part) if first is None else first, part)
        for part, first in zip(last, state, strict=True)
    ]


def _state(parts: Sequence[Any]) -> Any:
    if all(part is None for part in parts):
        return None
    return parts[0] if len(parts) == 1 else tuple(parts)


def gradients(
    call: Call,
    x: Tensor,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    given: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of x, of the states and of the weights, and how they came about.

    The call is computed again, by torch's operators, whose gradients have gradients. `given` are
    the gradients of y and of the last state.
    """
    if call.drops and call.dropout < 1:
        raise RuntimeError(
            f"{call.network.cell}: gradients of gradients (create_graph=True) aren't there with "
            "dropout, whose mask torch's own layers can't repeat; set dropout to 0, or use torch.nn"
        )
    tensors = (x, *states, *weights)
    differentiable = torch.is_grad_enabled()
    # Aliases: one tensor may stand in two places, and each has its own gradient.
    with torch.enable_grad(), without_libraries():
        aliases = [None if t is None else t.view_as(t) for t in tensors]
        results = _outputs(call, aliases)
        pairs = [
            (result, d)
            for result, d in zip(results, given, strict=True)
            if d is not None and result.requires_grad
        ]
        wanted = [t for t in aliases if t is not None and t.requires_grad]
        if not pairs:
            return [None] * len(tensors)
        found = torch.autograd.grad(
            [result for result, _ in pairs],
            wanted,
            [d for _, d in pairs],
            create_graph=differentiable,
            allow_unused=True,
        )
    by_alias = {id(t): d for t, d in zip(wanted, found, strict=True)}
    return [by_alias.get(id(t)) for t in aliases]


@contextlib.contextmanager
def without_libraries() -> Iterator[None]:
    """Let torch use its own operators: oneDNN's and cuDNN's have no gradients of gradients.

    (The `flags` of torch.backends set other flags besides, and warn about them.)
    """
    before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])
        torch._C._set_cudnn_enabled(before[1])


def _outputs(call: Call, tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return y and the last state, by torch's own layer."""
    network = call.network
    kind, options = _KINDS[network.cell]
    with torch.device("meta"):  # only its code is used
        layer = kind(
            network.input_size,
            network.hidden_size,
            network.num_layers,
            bias=network.bias,
            batch_first=call.batch_first,
            dropout=call.dropout if call.drops else 0.0,
            bidirectional=network.bidirectional,
            **options,
            **({"proj_size": network.proj_size} if network.proj_size > 0 else {}),
        )
    x, states, weights = tensors[0], tensors[1 : 1 + call.states], tensors[1 + call.states :]
    assert x is not None
    parameters = dict(zip(network.names, weights, strict=True))

    def run(x: Any, state: Any) -> tuple[Any, Any]:
        found: tuple[Any, Any] = torch.func.functional_call(layer, parameters, (x, state))
        return found

    if call.step:
        x, states = x.unsqueeze(0), [None if s is None else s.unsqueeze(0) for s in states]
    if call.batch_sizes is not None:
        packed_y, last = run(PackedSequence(x, call.batch_sizes), _state(states))
        y = packed_y.data
    elif call.lengths is not None:
        y, last = by_lengths(run, x, states, call.lengths, call.batch_first)
    else:
        y, last = run(x, _state(states))
    parts = tuple(last) if isinstance(last, (tuple, list)) else (last,)
    return (y, *(part.squeeze(0) for part in parts)) if call.step else (y, *parts)


def _code_of(kind: type[torch.nn.RNNBase]) -> type[torch.nn.RNNBase]:
    """Return torch's layer without initial values: its parameters come with the call."""
    return type(kind.__name__, (kind,), {"reset_parameters": lambda self: None})


_KINDS: dict[str, tuple[type[torch.nn.RNNBase], dict[str, Any]]] = {
    "lstm": (_code_of(torch.nn.LSTM), {}),
    "gru": (_code_of(torch.nn.GRU), {}),
    "rnn_tanh": (_code_of(torch.nn.RNN), {}),
    "rnn_relu": (_code_of(torch.nn.RNN), {"nonlinearity": "relu"}),
}
