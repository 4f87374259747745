"""What the operators are given, checked: each error names the argument as the schema does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .._arguments import probability, size
from .._network import CELLS, Network, check_cell
from ._weights import dtypes_of, network_of

__all__ = ["check_gradients", "check_operands"]


def check_operands(
    x: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    dropout_key: Tensor | None,
    cell: str,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    dropout: float,
) -> Network:
    """Return the network that the weights describe, if everything fits it; look at no values.

    Raises
    ------
    ValueError, TypeError
    """
    probability(dropout, "dropout")
    check_cell(cell)
    count = size(num_layers, "num_layers") * (2 if bidirectional else 1)
    packed = batch_sizes is not None
    if x.dim() != (2 if packed else 3):
        layout = "(N, I)" if packed else "(B, T, I)" if batch_first else "(T, B, I)"
        raise ValueError(f"x: expected {layout}, got {tuple(x.shape)}")
    network = _network(x, weights, cell, count, bidirectional)
    _check_like(x, "x", weights[0])
    batch: int | str = "B" if packed else x.shape[0 if batch_first else 1]
    if len(hx) not in (0, CELLS[cell][1]):
        raise ValueError(f"hx: expected none or {CELLS[cell][1]} states, got {len(hx)}")
    for i, part in enumerate(hx):
        _check_like(part, f"hx[{i}]", weights[0])
        width = network.output_size if i == 0 else network.hidden_size
        _check_shape(part, f"hx[{i}]", (count, batch, width))
    if lengths is not None and packed:
        raise ValueError("lengths: expected None beside batch_sizes, got both")
    _check_integers(lengths, "lengths", batch)
    if not isinstance(batch_sizes, FakeTensor):  # torch's packing of fake ones has x's dtype
        _check_integers(batch_sizes, "batch_sizes", "T")
    _check_integers(dropout_key, "dropout_key", 2)
    if dropout > 0 and num_layers > 1 and dropout_key is None:
        raise ValueError("dropout_key: expected a tensor where dropout > 0, got None")
    return network


def check_gradients(
    gradients: Sequence[Tensor | None],
    x: Tensor,
    reserve: Tensor,
    network: Network,
    elements: int,
) -> None:
    """Raise an error unless gradients of y and of the last state fit, and the reserve does.

    `elements` are those of the reserve.
    """
    widths = [network.output_size, network.hidden_size][: CELLS[network.cell][1]]
    if len(gradients) != 1 + len(widths):
        raise ValueError(f"gradients: expected {1 + len(widths)}, got {len(gradients)}")
    count = network.directions * network.num_layers
    shapes: list[tuple[int | str, ...]] = [(*x.shape[:-1], network.directions * widths[0])]
    shapes += [(count, "B", width) for width in widths]
    for i, (gradient, shape) in enumerate(zip(gradients, shapes, strict=True)):
        if gradient is not None:
            _check_like(gradient, f"gradients[{i}]", x)
            _check_shape(gradient, f"gradients[{i}]", shape)
    _check_like(reserve, "reserve", x)
    _check_shape(reserve, "reserve", (elements,))


def _network(
    x: Tensor, weights: Sequence[Tensor], cell: str, count: int, bidirectional: bool
) -> Network:
    """Return the network that the weights' shapes and number describe."""
    # weight_ih, weight_hh, perhaps bias_ih and bias_hh, perhaps weight_hr.
    per_layer, rest = divmod(len(weights), count)
    numbers = (2, 3, 4, 5) if cell == "lstm" else (2, 4)
    if rest or per_layer not in numbers:
        allowed = ", ".join(str(n * count) for n in numbers)
        raise ValueError(f"weights: expected one of {allowed} tensors, got {len(weights)}")
    dtypes = dtypes_of(weights[0])
    if weights[0].dtype not in dtypes:
        known = " or ".join(dtypes.values())
        raise TypeError(f"weights[0]: expected a tensor of {known}, got {weights[0].dtype}")
    gates = CELLS[cell][0]
    if weights[1].dim() != 2 or weights[1].shape[0] % gates or weights[1].shape[0] == 0:
        shape = tuple(weights[1].shape)
        raise ValueError(f"weights[1]: expected ({gates}*H, H) [weight_hh_l0], got {shape}")
    # Sizes of weights are numbers also where a trace makes symbols of them.
    rows, outputs = map(int, weights[1].shape)
    network = network_of(
        cell,
        int(x.shape[-1]),
        rows // gates,
        count // (2 if bidirectional else 1),
        bidirectional,
        per_layer >= 4,
        outputs if per_layer % 2 == 1 else 0,
    )
    for i, ((name, shape), weight) in enumerate(zip(network.shapes(), weights, strict=True)):
        _check_like(weight, f"weights[{i}]", weights[0])
        if tuple(weight.shape) != shape:
            got = tuple(weight.shape)
            raise ValueError(f"weights[{i}]: expected {shape} [{name}], got {got}")
    return network


def _check_like(tensor: Tensor, name: str, other: Tensor) -> None:
    """Raise TypeError unless two tensors have one dtype and one device."""
    if tensor.dtype is not other.dtype or tensor.device != other.device:
        raise TypeError(
            f"{name}: expected a tensor of {other.dtype} on {other.device}, "
            f"got {tensor.dtype} on {tensor.device}"
        )


def _check_shape(tensor: Tensor, name: str, shape: tuple[int | str, ...]) -> None:
    """Raise ValueError unless a tensor has this shape; a symbol stands for any size."""
    fits = tensor.dim() == len(shape) and all(
        isinstance(size, str) or size == found
        for size, found in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted, comma = ", ".join(map(str, shape)), "," if len(shape) == 1 else ""
        raise ValueError(f"{name}: expected ({wanted}{comma}), got {tuple(tensor.shape)}")


def _check_integers(tensor: Tensor | None, name: str, count: int | str) -> None:
    """Raise an error unless it is None, or so many integers of 64 bits on the CPU."""
    if tensor is None:
        return
    if tensor.dtype is not torch.int64 or tensor.device.type != "cpu":
        raise TypeError(
            f"{name}: expected a tensor of torch.int64 on cpu, "
            f"got {tensor.dtype} on {tensor.device}"
        )
    _check_shape(tensor, name, (count,))
