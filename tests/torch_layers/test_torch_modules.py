"""The layers are torch's modules: copies, files, parametrizations, hooks, scripts."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize

import fusedrnn.torch
from torch_problems import (
    CELLS,
    LAYERS,
    assert_near,
    assert_same_step,
    step,
    tensors,
    twins,
)

EVERY = [*LAYERS, *CELLS]


def inputs(kind):
    return torch.randn(*((3, 5) if kind in CELLS else (11, 3, 5)))


@pytest.mark.parametrize("kind", EVERY)
def test_a_layer_is_torchs(kind):
    ours, theirs = twins(kind, 5, 7)
    assert isinstance(ours, kind.torch_class)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert vars(ours).keys() == vars(theirs).keys()
    bound = 7**-0.5
    assert all(float(p.detach().abs().max()) <= bound for p in kind(5, 7).parameters())
    if kind in LAYERS:
        assert [[p.shape for p in row] for row in ours.all_weights] == [
            [p.shape for p in row] for row in theirs.all_weights
        ]
        ours.flatten_parameters()


def test_arguments_are_torchs():
    lstm = fusedrnn.torch.LSTM(5, 7, 2, False, True, 0.25, True, 3, None, torch.float64)
    theirs = torch.nn.LSTM(5, 7, 2, False, True, 0.25, True, 3, None, torch.float64)
    assert repr(lstm) == repr(theirs)
    assert {n: p.shape for n, p in lstm.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    rnn = fusedrnn.torch.RNN(5, 7, 1, "relu", False)
    assert (rnn.mode, rnn.nonlinearity, rnn.bias) == ("RNN_RELU", "relu", False)
    cell = fusedrnn.torch.RNNCell(5, 7, False, "relu")
    assert cell.bias_ih is None and cell.nonlinearity == "relu"


@pytest.mark.parametrize("kind", EVERY)
def test_copies(kind):
    layer, x = kind(5, 7), inputs(kind)
    want = tensors(layer(x))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [
        copy.deepcopy(layer),
        copy.copy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]
    for other in copies:
        assert type(other) is kind
        assert all(map(torch.equal, tensors(other(x)), want))
    with torch.no_grad():
        next(copies[0].parameters()).add_(1)
    assert all(map(torch.equal, tensors(layer(x)), want))
    assert not torch.equal(tensors(copies[0](x))[0], want[0])


@pytest.mark.parametrize("kind", EVERY)
def test_state_dicts_go_both_ways(kind):
    ours, theirs = kind(5, 7), kind.torch_class(5, 7)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    other = kind(5, 7)
    other.load_state_dict(theirs.state_dict(), strict=True)
    x = inputs(kind)
    assert all(map(torch.equal, tensors(other(x)), tensors(ours(x))))
    assert_near(tensors(other(x)), tensors(theirs(x)))


def trained(layer, x):
    """Two steps of gradient descent, as `step` shows them."""
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(2):
        found = step(layer, x, None)
        optimizer.step()
    return found


def weight_norm_by_hooks(layer, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(layer, name)


class Drop:
    """Weight drop, as AWD-LSTM has it: the parameter is replaced by a tensor before each call."""

    def __init__(self, layer, name):
        self.name, self.raw = name, getattr(layer, name)
        delattr(layer, name)
        layer.register_parameter(name + "_raw", self.raw)
        layer.register_forward_pre_hook(self)

    def __call__(self, layer, _):
        setattr(layer, self.name, torch.nn.functional.dropout(getattr(layer, self.name + "_raw")))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "change",
    [
        weight_norm_by_hooks,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        Drop,
    ],
    ids=lambda f: f"{f.__module__}.{f.__qualname__}",
)
@pytest.mark.parametrize("kind", LAYERS)
def test_changed_weights_are_used_and_trained(kind, change):
    ours, theirs = twins(kind, 5, 7)
    for layer in (ours, theirs):
        torch.manual_seed(3)  # spectral_norm draws
        change(layer, "weight_hh_l0")
    x, results = torch.randn(11, 3, 5), []
    for layer in (ours, theirs):
        torch.manual_seed(4)
        results.append(trained(layer, x))
    for found, wanted in zip(*results, strict=True):
        assert_near(found, wanted)


@pytest.mark.usefixtures("strict")
def test_parametrizations_come_off():
    ours, theirs = twins(fusedrnn.torch.GRU, 5, 7)
    parametrizations.weight_norm(ours, "weight_hh_l0")
    assert isinstance(ours, fusedrnn.torch.GRU)
    parametrize.remove_parametrizations(ours, "weight_hh_l0")
    assert type(ours) is fusedrnn.torch.GRU
    x = torch.randn(11, 3, 5)
    assert_near(tensors(ours(x)), tensors(theirs(x)))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", LAYERS)
def test_hooks_run(kind):
    layer, seen = kind(5, 7), []
    layer.register_forward_pre_hook(lambda m, args: seen.append("before"))
    layer.register_forward_hook(lambda m, args, result: seen.append("after"))
    layer.register_full_backward_hook(lambda m, dx, dy: seen.append("backward"))
    layer(torch.randn(11, 3, 5, requires_grad=True))[0].sum().backward()
    assert seen == ["before", "after", "backward"]


@pytest.mark.usefixtures("strict")
def test_parameters_that_take_no_gradients():
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7)
    for layer in (ours, theirs):
        layer.weight_ih_l0.requires_grad_(False)
        layer.bias_hh_l0.requires_grad_(False)
        layer(torch.ones(11, 3, 5))[0].sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if q.grad is not None:
            assert_near([p.grad], [q.grad])
    ours.requires_grad_(False)
    y, _ = ours(torch.ones(11, 3, 5))
    assert not y.requires_grad
    x = torch.ones(11, 3, 5, requires_grad=True)
    ours(x)[0].sum().backward()
    theirs.zero_grad()
    x2 = torch.ones(11, 3, 5, requires_grad=True)
    theirs(x2)[0].sum().backward()
    assert_near([x.grad], [x2.grad])


def test_other_dtypes_and_devices_and_back():
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7, 2)
    x = torch.randn(11, 3, 5)
    for layer in (ours, theirs):
        layer.double()
    with fusedrnn.torch.strict():
        assert_same_step(ours, theirs, x.double())
    ours.bfloat16(), theirs.bfloat16()
    y, want = ours(x.bfloat16())[0], theirs(x.bfloat16())[0]
    assert y.dtype == want.dtype and torch.equal(y, want)
    meta = copy.deepcopy(ours).to("meta")
    assert meta(x.bfloat16().to("meta"))[0].shape == (11, 3, 7)
    ours.float(), theirs.float()
    with fusedrnn.torch.strict():
        assert_same_step(ours, theirs, x)


class Inside(torch.nn.Module):
    """A layer in another module."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("kind", EVERY)
def test_scripts_and_traces_are_torchs(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        ours, theirs = twins(kind, 5, 7)
        x = inputs(kind)
        want = tensors(theirs(x))
        traced = torch.jit.trace(ours, (x,))
        assert_near(tensors(traced(x)), want)
        # torch.jit.script can't call a layer that is no part of another module.
        scripted = torch.jit.script(Inside(ours))
        assert_near(tensors(scripted(x)), want)
        assert type(ours) is kind
        assert all(map(torch.equal, tensors(ours(x)), tensors(copy.deepcopy(ours)(x))))
        with fusedrnn.torch.strict(), pytest.raises(fusedrnn.torch.NotAccelerated, match="trace"):
            torch.jit.trace(ours, (x,))
