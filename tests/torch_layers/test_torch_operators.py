"""The operators: torch's own checks of them, and what they do beside the layers."""

from __future__ import annotations

import re

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


def opcheck(name, arguments):
    torch.library.opcheck(getattr(torch.ops.fusedrnn, name).default, arguments)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck's
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["rnn", "rnn_train"])
def test_opcheck_of_what_autograd_follows(name, cell, options):
    opcheck(name, problem(cell, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_opcheck_of_inference_and_backward(cell, options):
    constants = tree_map_only(torch.Tensor, torch.Tensor.detach, problem(cell, **options))
    opcheck("rnn", constants)
    *results, reserve = torch.ops.fusedrnn.rnn_train(*constants)
    given = [torch.randn_like(result) for result in results[: 1 + CELLS[cell][1]]]
    given[-1] = None
    x, hx, weights, *rest = constants
    opcheck("rnn_backward", (given, x, hx, weights, reserve, *rest))


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
    with pytest.raises(TypeError, match=r"x: expected a tensor of torch.float32 on cpu, got"):
        rnn(x.double(), hx, weights, *rest)
    with pytest.raises(NotImplementedError, match="fusedrnn::rnn"):
        torch.ops.fusedrnn.rnn(
            torch.empty(5, 3, 4, dtype=torch.float32).to_sparse(), hx, weights, *rest
        )


def changed(arguments, **changes):
    """The arguments of ``fusedrnn::rnn`` with others in the place of some, by name."""
    names = "x hx weights lengths batch_sizes dropout_key cell num_layers bidirectional batch_first"
    names = [*names.split(), "dropout"]
    assert set(changes) <= set(names)
    return [changes.get(name, given) for name, given in zip(names, arguments, strict=True)]


NAN = float("nan")
WRONG = {
    "dropout: expected a number in [0, 1], got 110.0": {"dropout": 110.0},
    "dropout: expected a number in [0, 1], got -0.5": {"dropout": -0.5},
    "dropout: expected a number in [0, 1], got nan": {"dropout": NAN},
    ", got 'foo'": {"cell": "foo"},
    "num_layers: expected at least 1, got 0": {"num_layers": 0},
    "num_layers: expected at least 1, got -1": {"num_layers": -1},
    "weights: expected one of 12, 24 tensors, got 8": {"num_layers": 6},
    "weights: expected one of 4, 8 tensors, got 0": {"weights": []},
    "weights: expected one of 4, 8 tensors, got 7": {"weights": [torch.ones(18, 4)] * 7},
    "weights[0]: expected (18, 4) [weight_ih_l0], got (18, 9)": {"at": 0, "to": (18, 9)},
    "weights[1]: expected (3*H, H) [weight_hh_l0], got (17, 6)": {"at": 1, "to": (17, 6)},
    "weights[1]: expected (3*H, H) [weight_hh_l0], got (0, 0)": {"at": 1, "to": (0, 0)},
    "weights[1]: expected (3*H, H) [weight_hh_l0], got (18,)": {"at": 1, "to": (18,)},
    "weights[5]: expected (18, 6) [weight_hh_l1], got (18, 5)": {"at": 5, "to": (18, 5)},
    "weights[7]: expected (18,) [bias_hh_l1], got (1,)": {"at": 7, "to": (1,)},
    "hx: expected none or 1 states, got 2": {"hx": [torch.zeros(2, 3, 6)] * 2},
    "hx[0]: expected (2, 3, 6), got (1, 3, 6)": {"hx": [torch.zeros(1, 3, 6)]},
    "hx[0]: expected (2, 3, 6), got (2, 4, 6)": {"hx": [torch.zeros(2, 4, 6)]},
    "x: expected (T, B, I), got (5, 4)": {"x": torch.zeros(5, 4)},
    "x: expected (B, T, I), got (4,)": {"x": torch.zeros(4), "batch_first": True},
    "weights[0]: expected (18, 9) [weight_ih_l0], got (18, 4)": {"x": torch.zeros(5, 3, 9)},
    "x: expected (N, I), got (5, 3, 4)": {"batch_sizes": torch.tensor([3, 2])},
    "lengths: expected (3,), got (2,)": {"lengths": torch.tensor([1, 2])},
    "lengths: expected 0 to T = 5, got 6": {"lengths": torch.tensor([1, 2, 6])},
    "lengths: expected a tensor of torch.int64 on cpu, got torch.float32": {
        "lengths": torch.ones(3)
    },
    "lengths: expected None beside batch_sizes, got both": {
        "x": torch.zeros(5, 4),
        "lengths": torch.tensor([1, 2, 3]),
        "batch_sizes": torch.tensor([3, 2]),
    },
    "batch_sizes: expected a sum of 5, the rows of x, got 4": {
        "x": torch.zeros(5, 4),
        "batch_sizes": torch.tensor([3, 1]),
    },
    "dropout_key: expected (2,), got (3,)": {"dropout_key": torch.tensor([1, 2, 3])},
    "dropout_key: expected integers of at least 0, got [-1, 2]": {
        "dropout_key": torch.tensor([-1, 2])
    },
    "dropout_key: expected a tensor of torch.int64": {"dropout_key": torch.ones(2)},
    "x: expected a tensor of torch.float32 on cpu, got torch.int64": {
        "x": torch.zeros(5, 3, 4, dtype=torch.int64)
    },
}


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("name", ["rnn", "rnn_train", "rnn_backward"])
def test_errors_name_the_argument(name, text):
    operator = getattr(torch.ops.fusedrnn, name)
    arguments = tree_map_only(torch.Tensor, torch.Tensor.detach, problem("gru", num_layers=2))
    changes = dict(WRONG[text])
    if "at" in changes:
        at, shape = changes.pop("at"), changes.pop("to")
        changes["weights"] = list(arguments[2])
        changes["weights"][at] = torch.zeros(shape)
    x, hx, weights, *rest = changed(arguments, **changes)
    before, after = (), ()
    if name == "rnn_backward":
        row = len(torch.ops.fusedrnn.rnn_train(*arguments)[3]) // 15
        before, after = ([None, None],), (torch.zeros(x.shape[:-1].numel() * row),)
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        operator(*before, x, hx, weights, *after, *rest)


def test_errors_of_gradients_and_reserves():
    arguments = tree_map_only(torch.Tensor, torch.Tensor.detach, problem("lstm", state=True))
    *results, reserve = torch.ops.fusedrnn.rnn_train(*arguments)
    x, hx, weights, *rest = arguments

    def backward(gradients, reserve):
        return torch.ops.fusedrnn.rnn_backward(gradients, x, hx, weights, reserve, *rest)

    size = len(reserve)
    for wrong in (reserve[:-1], torch.cat([reserve, reserve]), reserve[:0], reserve[None]):
        text = f"reserve: expected ({size},), got {tuple(wrong.shape)}"
        with pytest.raises(ValueError, match=re.escape(text)):
            backward(results, wrong)
    with pytest.raises(TypeError, match=r"reserve: expected a tensor of torch.float32"):
        backward(results, reserve.double())
    with pytest.raises(ValueError, match="gradients: expected 3, got 2"):
        backward(results[:2], reserve)
    with pytest.raises(ValueError, match=re.escape("gradients[0]: expected (5, 3, 6), got (5, 3,")):
        backward([results[0][..., :5], None, None], reserve)
    with pytest.raises(ValueError, match=re.escape("gradients[2]: expected (1, B, 6), got (3, 6)")):
        backward([None, None, results[2][0]], reserve)


def test_weights_of_other_dtypes_are_refused():
    x, hx, weights, *rest = tree_map_only(torch.Tensor, torch.Tensor.detach, problem("gru"))
    half = [w.bfloat16() for w in weights]
    with pytest.raises(TypeError, match=re.escape("weights[0]: expected a tensor of float32 or")):
        torch.ops.fusedrnn.rnn(x.bfloat16(), hx, half, *rest)
    with pytest.raises(
        TypeError, match=re.escape("weights[3]: expected a tensor of torch.float32")
    ):
        torch.ops.fusedrnn.rnn(x, hx, [*weights[:3], weights[3].double()], *rest)
