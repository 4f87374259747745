"""LSTMCell, GRUCell and RNNCell: torch's cells, on fusedrnn's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _gpu
from ._autograd import Call, FusedRNN, needs_gradients, state_of
from ._checks import check_cell
from ._fallback import decline, is_traced, unseen
from ._few_rows import few_rows, is_ordinary, run
from ._layer import (
    check_states,
    finds_as_torch,
    lowered,
    obstacle_of,
    scriptable,
)
from ._switches import Unsupported
from ._transforms import call_operator
from ._weights import as_array, as_tensor, check_tensors, network_of, packed_weights

__all__ = ["PARAMETERS", "GRUCell", "LSTMCell", "RNNCell", "RecurrentCell"]

#: The names of a cell's parameters, in torch's order.
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

_KINDS = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


class RecurrentCell:
    """What fusedrnn.torch's cells add to torch's: a call is a sequence of one step."""

    #: Whether a call that the kernels can't take is an error, see `accelerate`. May be set.
    strict = False

    #: Whether to believe version counters that the parameters are unchanged, see
    #: `trust_version_counters`. May be set.
    trust = False

    #: torch's own class.
    torch_class: type[torch.nn.RNNCellBase]

    #: What `restore` makes of this very class, not of others derived from it.
    restored_class: type[torch.nn.RNNCellBase]

    #: "lstm", "gru" or "rnn".
    cell_kind: str

    #: The class itself, once it is known to find its parameters as torch's classes do.
    _finds_as_torch: type[Any] | None = None

    # Of torch.nn.RNNCellBase.
    input_size: int
    hidden_size: int
    bias: bool
    nonlinearity: str
    weight_ih: Tensor
    _parameters: dict[str, Any]

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Run one step.

        Parameters
        ----------
        input : Tensor
            (B, I), or (I,) for one sequence.
        hx : Tensor or tuple of Tensor, optional
            The state before: h (B, H), for an LSTM (h, c); without B for one sequence. Zero if not
            given.

        Returns
        -------
        Tensor or tuple of Tensor
            The state after, shaped as hx.

        Raises
        ------
        RuntimeError, ValueError
            torch's own, for wrong shapes and dtypes.
        NotAccelerated
            In strict mode, where the kernels can't take the call.
        """
        if torch.compiler.is_compiling():
            obstacle = self._obstacle(input, hx)
            if obstacle is None:
                return self._by_operator(input, hx)
            reason: Exception | str = obstacle
        else:
            result = self._by_few_rows(input, hx)
            if result is not None:
                return result
            try:
                return self._by_kernels(input, hx)
            except (Unsupported, TypeError, ValueError) as error:
                reason = error.with_traceback(None)
        return decline(self, reason, lambda: self._by_torch(input, hx))

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """Return torch's own cell with the same parameters, for torch.jit.script."""
        return scriptable(self, RecurrentCell)

    def _cell(self) -> str:
        """Return the kernels' name of the cell."""
        if self.cell_kind != "rnn":
            return self.cell_kind
        if self.nonlinearity not in _KINDS:
            raise Unsupported(f"nonlinearity {self.nonlinearity!r}")
        return _KINDS[self.nonlinearity]

    def _weights(self) -> list[Any]:
        weights = [getattr(self, name) for name in PARAMETERS]
        return weights if self.bias else weights[:2]

    def _states(self, hx: Any) -> Sequence[Any]:
        lstm = self.cell_kind == "lstm"
        if hx is None:
            return (None, None) if lstm else (None,)
        return hx if lstm and isinstance(hx, (tuple, list)) else (hx,)

    def _low(self) -> torch.dtype | None:
        """Return the dtype of torch's RNNCell under the CPU's autocast; others stay float32."""
        if self.cell_kind != "rnn" or not torch.is_autocast_enabled("cpu"):
            return None
        if _gpu.on_gpu(self.weight_ih):
            return None
        low = torch.get_autocast_dtype("cpu")
        if low is not torch.bfloat16:
            raise Unsupported(f"autocast to {low}")
        return low

    def _by_torch(self, input: Tensor, hx: Any) -> Any:
        unseen(lambda: check_cell(self, input, hx))
        forward: Any = self.torch_class.forward
        return forward(self, input, hx)

    def _by_few_rows(self, input: Tensor, hx: Any) -> Any:
        """Return the result, or None where `_by_kernels` has to find out what to do."""
        kind = type(self)
        if (kind._finds_as_torch is not kind and not finds_as_torch(kind)) or not is_ordinary():
            return None
        parameters = self._parameters
        cell = self.cell_kind if self.cell_kind != "rnn" else _KINDS.get(self.nonlinearity)
        bias, lstm = self.bias, cell == "lstm"
        if cell is None or not self.__dict__.keys().isdisjoint(PARAMETERS):
            return None
        rows = few_rows(cell, self.input_size, self.hidden_size, 1, False, bias, False, True)
        if rows is None:
            return None
        weights: Any = [*map(parameters.get, PARAMETERS if bias else PARAMETERS[:2])]
        last = run(rows, input, hx if hx is None or lstm else (hx,), weights)
        if last is None:
            return None
        return (last[0], last[1]) if lstm else last[0]

    def _by_kernels(self, input: Tensor, hx: Any) -> Any:
        if is_traced(input):
            reason = self._obstacle(input, hx)
            if reason is not None:
                raise Unsupported(reason)
            return self._by_operator(input, hx)
        network = network_of(self._cell(), self.input_size, self.hidden_size, 1, False, self.bias)
        weights: Any = self._weights()
        check_tensors(weights)
        states = self._states(hx)
        if hx is not None:
            check_states(states, 2 if self.cell_kind == "lstm" else 1)
        if input.dim() not in (1, 2):
            raise Unsupported("an input of the wrong shape")
        low = None
        if torch._C._is_any_autocast_enabled():
            low = self._low()
            input, states, weights = lowered(input, states, weights)
        packed = packed_weights(network, weights, self.trust)
        last: Any
        if needs_gradients(input, states, weights):
            last = FusedRNN.apply(packed, Call(network, step=True), input, *states, *weights)
        else:
            state = None if hx is None else state_of([as_array(part)[None] for part in states])
            _, last = packed.infer(as_array(input)[None], state, False, None)
            parts = last if type(last) is tuple else (last,)
            last = tuple(as_tensor(part[0]) for part in parts)
        return self._finish(last, low)

    def _finish(self, last: Sequence[Tensor], low: torch.dtype | None) -> Any:
        if low is not None and last[0].dtype is torch.float32:
            return last[0].to(low)
        return last[0] if len(last) == 1 else (last[0], last[1])

    def _obstacle(self, input: Any, hx: Any) -> str | None:
        """Return why the operators can't take a call, or None."""
        parts = [] if hx is None else list(self._states(hx))
        reason = obstacle_of(input, parts, self._weights())
        if reason is not None:
            return reason
        if input.dim() not in (1, 2) or input.size(-1) != self.input_size:
            return "an input of the wrong shape"
        shape = [*input.shape[:-1], self.hidden_size]
        return None if all(list(p.shape) == shape for p in parts) else "hx of the wrong shape"

    def _by_operator(self, input: Tensor, hx: Any) -> Any:
        states: Any = [] if hx is None else list(self._states(hx))
        input, states, weights = lowered(input, states, self._weights())
        single = input.dim() == 1
        x = input.unsqueeze(0) if single else input
        _, *last = call_operator(
            x.unsqueeze(0),
            [(p.unsqueeze(0) if single else p).unsqueeze(0) for p in states],
            weights,
            None,
            None,
            None,
            self._cell(),
            1,
            False,
            False,
            0.0,
        )
        last = [part.squeeze(0) for part in last[: len(self._states(None))]]
        return self._finish([p.squeeze(0) for p in last] if single else last, self._low())


class LSTMCell(RecurrentCell, torch.nn.LSTMCell):
    """`torch.nn.LSTMCell` on fusedrnn's kernels.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As torch's.

    Attributes
    ----------
    strict : bool
        Whether a call that the kernels can't take is an error.
    trust : bool
        Whether version counters alone tell that the parameters are unchanged, see
        `trust_version_counters`.

    Raises
    ------
    ValueError, TypeError
        torch's own, for wrong arguments.

    Examples
    --------
    >>> import torch
    >>> import fusedrnn.torch
    >>> cell = fusedrnn.torch.LSTMCell(3, 4)
    >>> h, c = cell(torch.zeros(2, 3))
    >>> h, c = cell(torch.zeros(2, 3), (h, c))
    >>> h.shape
    torch.Size([2, 4])
    """

    torch_class = restored_class = torch.nn.LSTMCell
    cell_kind = "lstm"


class GRUCell(RecurrentCell, torch.nn.GRUCell):
    """`torch.nn.GRUCell` on fusedrnn's kernels.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As torch's.

    Attributes
    ----------
    strict : bool
        Whether a call that the kernels can't take is an error.
    trust : bool
        Whether version counters alone tell that the parameters are unchanged, see
        `trust_version_counters`.

    Raises
    ------
    ValueError, TypeError
        torch's own, for wrong arguments.

    Examples
    --------
    >>> import torch
    >>> import fusedrnn.torch
    >>> fusedrnn.torch.GRUCell(3, 4)(torch.zeros(2, 3)).shape
    torch.Size([2, 4])
    """

    torch_class = restored_class = torch.nn.GRUCell
    cell_kind = "gru"


class RNNCell(RecurrentCell, torch.nn.RNNCell):
    """`torch.nn.RNNCell` on fusedrnn's kernels.

    Parameters
    ----------
    input_size, hidden_size, bias, nonlinearity, device, dtype
        As torch's: the nonlinearity is "tanh" or "relu".

    Attributes
    ----------
    strict : bool
        Whether a call that the kernels can't take is an error.
    trust : bool
        Whether version counters alone tell that the parameters are unchanged, see
        `trust_version_counters`.

    Raises
    ------
    ValueError, TypeError
        torch's own, for wrong arguments.

    Examples
    --------
    >>> import torch
    >>> import fusedrnn.torch
    >>> fusedrnn.torch.RNNCell(3, 4, nonlinearity="relu")(torch.zeros(3)).shape  # one sequence
    torch.Size([4])
    """

    torch_class = restored_class = torch.nn.RNNCell
    cell_kind = "rnn"
