"""The operators: torch's own checks of them, and what they do beside the layers."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_map_only

import fusedrnn.torch
from fusedrnn._network import CELLS, Network
from torch_problems import assert_near, tensors

OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True, "dropout": 0.5},
    {"batch_first": True, "state": True, "bias": False},
    {"state": True, "lengths": True, "bidirectional": True},
    {"lengths": True, "batch_first": True},
    {"batch_sizes": True, "state": True},
    {"dtype": torch.float64, "batch_first": True, "num_layers": 2},
]


def problem(cell, **options):
    """The arguments of ``fusedrnn::rnn``: T = 5, B = 3, I = 4, H = 6."""
    dtype = options.get("dtype", torch.float32)
    layers, both = options.get("num_layers", 1), options.get("bidirectional", False)
    first = options.get("batch_first", False)

    def leaf(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    network = Network(cell, 4, 6, layers, both, options.get("bias", True))
    rows = layers * (2 if both else 1)
    packed = options.get("batch_sizes", False)
    return (
        leaf(9, 4) if packed else leaf(3, 5, 4) if first else leaf(5, 3, 4),
        [leaf(rows, 3, 6) for _ in range(CELLS[cell][1])] if options.get("state") else [],
        [leaf(*shape) for _, shape in network.shapes()],
        torch.tensor([2, 5, 0]) if options.get("lengths") else None,
        torch.tensor([3, 2, 2, 1, 1]) if packed else None,
        torch.tensor([7, 8]) if options.get("dropout") else None,
        cell,
        layers,
        both,
        first,
        options.get("dropout", 0.0),
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_opcheck(cell, options):
    operators = torch.ops.fusedrnn
    arguments = problem(cell, **options)
    constants = tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
    torch.library.opcheck(operators.rnn.default, arguments)
    torch.library.opcheck(operators.rnn.default, constants)
    torch.library.opcheck(operators.rnn_train.default, arguments)
    results = operators.rnn_train(*constants)
    count = 1 + CELLS[cell][1]
    given = [torch.randn_like(result) for result in results[:count]]
    given[-1] = None
    x, hx, weights, *rest = constants
    torch.library.opcheck(
        operators.rnn_backward.default, (given, x, hx, weights, results[3], *rest)
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_operators_agree_with_each_other(cell, options):
    arguments = problem(cell, **options)
    recorded = torch.ops.fusedrnn.rnn(*arguments)
    with torch.no_grad():
        plain = torch.ops.fusedrnn.rnn(*arguments)
        *trained, reserve = torch.ops.fusedrnn.rnn_train(*arguments)
    assert all(map(torch.equal, recorded, plain)) and all(map(torch.equal, trained, plain))
    x, hx, weights, *rest = arguments
    inputs = [x, *hx, *weights]
    count = 1 + CELLS[cell][1]
    given = [torch.randn_like(result) for result in recorded[:count]]
    wanted = torch.autograd.grad(recorded[:count], inputs, given)
    with torch.no_grad():
        found = torch.ops.fusedrnn.rnn_backward(given, x, hx, weights, reserve, *rest)
        again = torch.ops.fusedrnn.rnn_backward(given, x, hx, weights, reserve, *rest)
    assert all(map(torch.equal, found, again)), "it may be called twice"
    # Without a state there is no gradient of one in `wanted`.
    assert_near([found[0], *(found[1:] if hx else found[count:])], wanted)


def test_layers_and_operators_agree():
    layer, x = fusedrnn.torch.LSTM(4, 6), torch.randn(5, 3, 4)
    y, h, c = torch.ops.fusedrnn.rnn(
        x, [], list(layer.parameters()), None, None, None, "lstm", 1, False, False, 0.0
    )
    assert all(map(torch.equal, tensors(layer(x)), (y, h, c)))


def test_gradients_of_gradients_are_refused():
    y, *_ = torch.ops.fusedrnn.rnn(*(arguments := problem("gru")))
    (dx,) = torch.autograd.grad(y.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="fusedrnn::rnn_backward can't be differentiated"):
        dx.sum().backward()


def test_errors():
    rnn = torch.ops.fusedrnn.rnn
    x, hx, weights, *rest = problem("gru", num_layers=2, dropout=0.5)
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        rnn(x[:0], hx, weights, *rest)
    with pytest.raises(ValueError, match="dropout_key: expected a tensor where dropout > 0"):
        rnn(x, hx, weights, None, None, None, *rest[3:])
    with pytest.raises(TypeError, match="x: expected an array of float32, got float64"):
        rnn(x.double(), hx, weights, *rest)
    with pytest.raises(NotImplementedError, match="fusedrnn::rnn"):
        torch.ops.fusedrnn.rnn(
            torch.empty(5, 3, 4, dtype=torch.float32).to_sparse(), hx, weights, *rest
        )
