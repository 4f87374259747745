"""Agreement with torch, where torch is installed: outputs, states, all gradients."""

from __future__ import annotations

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional
from layer_problems import arrays, as_tuple, assert_equal, normal

pytestmark = pytest.mark.isa


def torch_twin(torch, layer, make):
    options = {"nonlinearity": layer.nonlinearity} if make is fusedrnn.RNN else {}
    module = getattr(torch.nn, make.__name__)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        dtype=getattr(torch, layer.dtype.name),
        **options,
    )
    state = {name: torch.from_numpy(np.array(p)) for name, p in layer.parameters.items()}
    assert list(module.state_dict()) == list(state)
    module.load_state_dict(state)
    return module


def torch_step(torch, module, x, state, dy, dstate):
    """Outputs, states and gradients of the loss <dy, y> + <dstate, state>."""
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, *state)]
    given = tuple(tensors[1:]) if len(state) > 1 else tensors[1]
    y, last = module(tensors[0], given)
    last = as_tuple(last)
    pairs = zip((y, *last), (dy, *dstate), strict=True)
    sum((out * torch.from_numpy(d)).sum() for out, d in pairs).backward()
    gradients = [t.grad for t in (*tensors, *module.parameters())]
    return [t.detach().numpy() for t in (y, *last)], [g.numpy() for g in gradients]


VARIANTS = [
    {"num_layers": 1},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True},
    {"num_layers": 2, "bias": False, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "batch": None},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (fusedrnn.LSTM, {}),
        (fusedrnn.GRU, {}),
        (fusedrnn.RNN, {}),
        (fusedrnn.RNN, {"nonlinearity": "relu"}),
    ],
    ids=["LSTM", "GRU", "RNN tanh", "RNN relu"],
)
def test_torch_agrees(torch, make, options, dtype, variant):
    variant = dict(variant)
    batch = variant.pop("batch", 6)
    layer = make(11, 17, **variant, **options, dtype=dtype, seed=0)
    directions = 2 if layer.bidirectional else 1
    leading = (13,) if batch is None else (batch, 13) if layer.batch_first else (13, batch)
    rows = (layer.num_layers * directions, *(() if batch is None else (batch,)), 17)
    count = 2 if make is fusedrnn.LSTM else 1
    x = normal(*leading, 11, dtype=dtype)
    dy = normal(*leading, 17 * directions, seed=1, dtype=dtype)
    state = tuple(normal(*rows, seed=2 + n, dtype=dtype) for n in range(count))
    dstate = tuple(normal(*rows, seed=4 + n, dtype=dtype) for n in range(count))
    want, want_gradients = torch_step(torch, torch_twin(torch, layer, make), x, state, dy, dstate)

    given = state if count > 1 else state[0]
    y, last, tape = layer.forward(x, given)
    gradients = layer.backward(tape, dy, dstate if count > 1 else dstate[0])
    # Both round in every step, in different orders: some tens of roundings of 6e-8 and 1e-16.
    bound = {"float32": 1e-5, "float64": 1e-12}[dtype]
    got = [y, *as_tuple(last)], arrays(gradients)
    for a, b in zip(got[0] + got[1], want + want_gradients, strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)


def test_torch_agrees_where_dropout_leaves_nothing(torch):
    layer = fusedrnn.GRU(3, 4, 2, dropout=1.0, seed=0)
    module = torch_twin(torch, layer, fusedrnn.GRU)
    module.dropout = 1.0
    x = normal(5, 2, 3)
    want = module(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(layer.forward(x)[0], want, rtol=1e-5, atol=1e-7)


def test_tensors_are_arrays_too(torch):
    layer, x = fusedrnn.LSTM(3, 4, seed=0), normal(5, 2, 3)
    module = torch_twin(torch, layer, fusedrnn.LSTM)
    tensor = torch.from_numpy(x)
    assert_equal([layer(tensor)[0]], [layer(x)[0]])
    _, _, tape = layer.forward(tensor)
    layer.backward(tape, torch.ones(5, 2, 4))
    twin = fusedrnn.LSTM(3, 4, seed=1)
    twin.load_parameters({name: p.detach() for name, p in module.state_dict().items()})
    assert_equal([twin(x)[0]], [layer(x)[0]])
    by_functions, _ = functional.infer("lstm", tensor, module.state_dict())
    assert_equal([by_functions], [layer(x)[0]])
    with pytest.raises(TypeError) as caught:
        layer(tensor.double())
    assert str(caught.value) == "x: expected an array of float32, got float64"
    with pytest.raises(TypeError, match=r"^x: .*detach"):
        layer(tensor.requires_grad_())


def test_initial_values_have_torchs_bounds(torch):
    layer = fusedrnn.GRU(5, 50, seed=0)
    module = torch.nn.GRU(5, 50)
    for name, p in module.named_parameters():
        assert np.abs(layer.parameters[name]).max() == pytest.approx(
            float(p.detach().abs().max()), rel=0.1
        )
