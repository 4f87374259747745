"""LSTM, GRU and RNN: torch's layers, on fusedrnn's kernels."""

from __future__ import annotations

import torch

from ._layer import RecurrentLayer

__all__ = ["GRU", "LSTM", "RNN"]


class LSTM(RecurrentLayer, torch.nn.LSTM):
    """`torch.nn.LSTM` on fusedrnn's kernels; see there for the equations.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size
        As torch's.
    device, dtype
        Of the parameters. The kernels take float32 and float64 on the CPU, and float32, float16 and
        bfloat16 on a GPU of CUDA; all else is torch's.

    Attributes
    ----------
    strict : bool
        Whether a call that the kernels can't take is an error.
    trust : bool
        Whether version counters alone tell that the parameters are unchanged, see
        `trust_version_counters`.
    weight_ih_l[k], weight_hh_l[k], bias_ih_l[k], bias_hh_l[k], weight_hr_l[k] : Parameter
        As torch's, with ``_reverse`` for the reverse direction.

    Raises
    ------
    ValueError, TypeError
        torch's own, for wrong arguments.

    Examples
    --------
    >>> import torch
    >>> import fusedrnn.torch
    >>> lstm = fusedrnn.torch.LSTM(3, 4, batch_first=True)
    >>> isinstance(lstm, torch.nn.LSTM)
    True
    >>> y, (h, c) = lstm(torch.zeros(2, 5, 3), lengths=[5, 2])
    >>> y.shape, bool((y[1, 2:] == 0).all())
    (torch.Size([2, 5, 4]), True)
    """

    torch_class = restored_class = torch.nn.LSTM


class GRU(RecurrentLayer, torch.nn.GRU):
    """`torch.nn.GRU` on fusedrnn's kernels; see there for the equations.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As those of `LSTM`.

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
    >>> gru = fusedrnn.torch.GRU(3, 4)
    >>> y, h = gru(torch.zeros(5, 2, 3))
    >>> y.sum().backward()
    >>> gru.weight_hh_l0.grad.shape
    torch.Size([12, 4])
    """

    torch_class = restored_class = torch.nn.GRU


class RNN(RecurrentLayer, torch.nn.RNN):
    """`torch.nn.RNN` on fusedrnn's kernels; see there for the equations.

    Parameters
    ----------
    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional
        As torch's: the nonlinearity is "tanh" or "relu".
    device, dtype
        As those of `LSTM`.

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
    >>> rnn = fusedrnn.torch.RNN(3, 4, nonlinearity="relu")
    >>> y, h = rnn(torch.zeros(5, 3))  # one sequence
    >>> y.shape, h.shape
    (torch.Size([5, 4]), torch.Size([1, 4]))
    """

    torch_class = restored_class = torch.nn.RNN
