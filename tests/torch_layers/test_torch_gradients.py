"""Gradients: by finite differences, twice over one graph, of gradients, of changed inputs."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fusedrnn.torch
from torch_problems import (
    CELL_KINDS,
    CELLS,
    KINDS,
    LAYERS,
    assert_near,
    assert_same_step,
    cut,
    kind_id,
    outcome,
    states_of,
    tensors,
    twins,
)

pytestmark = pytest.mark.isa


def functional(layer, *arguments, **options):
    """A function of arguments and parameters, all of them tensors, and their values."""
    names = [name for name, _ in layer.named_parameters()]

    def function(*values):
        given, parameters = values[: len(arguments)], values[len(arguments) :]
        named = dict(zip(names, parameters, strict=True))
        state = given[1:] if len(given) > 2 else given[1] if len(given) > 1 else None
        call = functools.partial(torch.func.functional_call, layer, named)
        return tuple(tensors(call((given[0], state), options)))

    values = [a.detach().double().requires_grad_() for a in arguments]
    return function, (*values, *(p.detach().clone().requires_grad_() for p in layer.parameters()))


def small(kind, **options):
    layer = kind(2, 3, **options, dtype=torch.float64)
    if kind in CELLS:
        states = [torch.randn(2, 3) for _ in range(2 if "LSTM" in kind.__name__ else 1)]
        return functional(layer, torch.randn(2, 2), *states)
    x = torch.randn(*((2, 4) if layer.batch_first else (4, 2)), 2)
    return functional(layer, x, *tensors(states_of(layer, 2)))


VARIANTS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_gradcheck(kind, options, variant):
    assert torch.autograd.gradcheck(*small(kind, **variant, **options))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(("kind", "options"), CELL_KINDS, ids=kind_id)
def test_gradcheck_of_cells(kind, options):
    assert torch.autograd.gradcheck(*small(kind, **options))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", LAYERS)
def test_gradcheck_of_lengths(kind):
    layer = kind(2, 3, bidirectional=True, dtype=torch.float64)
    x, hx = torch.randn(4, 3, 2), tensors(states_of(layer, 3))
    assert torch.autograd.gradcheck(*functional(layer, x, *hx, lengths=[4, 0, 2]))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_gradgradcheck(kind, options, variant):
    assert torch.autograd.gradgradcheck(*small(kind, **variant, **options), fast_mode=True)


@pytest.mark.parametrize(("kind", "options"), CELL_KINDS, ids=kind_id)
def test_gradgradcheck_of_cells(kind, options):
    assert torch.autograd.gradgradcheck(*small(kind, **options), fast_mode=True)


def test_gradgradcheck_of_lengths_and_packed_sequences():
    layer = fusedrnn.torch.GRU(2, 3, bidirectional=True, dtype=torch.float64)
    x, hx = torch.randn(4, 3, 2), states_of(layer, 3)
    assert torch.autograd.gradgradcheck(
        *functional(layer, x, hx, lengths=[4, 0, 2]), fast_mode=True
    )
    packed = pack_sequence(cut(x, [2, 4, 3]), enforce_sorted=False)

    def function(data, h):
        return tuple(tensors(layer(PackedSequence(data, *packed[1:]), h)))

    values = [a.detach().double().requires_grad_() for a in (packed.data, hx)]
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


def penalty(layer, x):
    """The gradient of a gradient's norm, as in WGAN-GP."""
    x = x.detach().requires_grad_()
    y, _ = layer(x)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    layer.zero_grad()
    dx.square().sum().backward()
    return [dx.detach(), *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_gradients_agree(kind):
    ours, theirs = twins(kind, 5, 7, 2, dtype=torch.float64)
    x = torch.randn(11, 3, 5, dtype=torch.float64)
    assert_near(penalty(ours, x), penalty(theirs, x))


def test_gradients_of_gradients_in_strict_mode_and_with_dropout():
    layer, x = fusedrnn.torch.LSTM(5, 7, 2, dropout=0.5), torch.randn(11, 3, 5)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        penalty(layer, x)
    penalty(layer.eval(), x)
    layer.dropout = 1.0
    penalty(layer.train(), x)
    with (
        fusedrnn.torch.strict(),
        pytest.raises(
            fusedrnn.torch.NotAccelerated, match="lstm: a backward pass with create_graph"
        ),
    ):
        penalty(layer, x)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", LAYERS)
def test_a_graph_may_be_used_again(kind):
    layer, x = kind(5, 7, 2, dropout=0.5), torch.randn(11, 3, 5)
    loss = layer(x)[0].square().sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    loss.backward(retain_graph=True)
    assert all(map(torch.equal, first, [p.grad for p in layer.parameters()]))
    loss.backward()  # sums up
    for a, p in zip(first, layer.parameters(), strict=True):
        assert torch.equal(a + a, p.grad)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("which", ["x", "hx", "weights"])
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_that_change_before_backward(kind, which):
    """torch's error, type and text, but for the counts of versions."""
    found = []
    for layer in twins(kind, 5, 7):
        x, hx = torch.randn(11, 3, 5), torch.randn(1, 3, 7)
        y, _ = layer(x, (hx, hx.clone()) if kind is fusedrnn.torch.LSTM else hx)
        with torch.no_grad():
            {"x": x, "hx": hx, "weights": layer.weight_hh_l0}[which].add_(1)
        found.append(outcome(y.sum().backward))
    start = "one of the variables needed for gradient computation has been modified by an inplace"
    for kind_of_error, text in found:
        assert kind_of_error is RuntimeError and text.startswith(start)


@pytest.mark.usefixtures("strict")
def test_outputs_that_are_left_out_of_the_loss():
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7, 2, bidirectional=True)
    x = torch.randn(11, 3, 5)
    for pick in (
        lambda y, h, c: y,
        lambda y, h, c: h,
        lambda y, h, c: c,
        lambda y, h, c: y[3] + c[0, 0, 0],
    ):
        for layer in (ours, theirs):
            layer.zero_grad()
            y, (h, c) = layer(x)
            pick(y, h, c).sum().backward()
        assert_near([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


@pytest.mark.usefixtures("strict")
def test_gradients_with_respect_to_inputs_alone():
    ours, theirs = twins(fusedrnn.torch.GRU, 5, 7)
    x, found = torch.randn(11, 3, 5), []
    for layer in (ours, theirs):
        given = x.detach().requires_grad_()
        found.append(torch.autograd.grad(layer(given)[0].sum(), given))
        assert all(p.grad is None for p in layer.parameters())
    assert_near(*found)


@pytest.mark.usefixtures("strict")
def test_checkpointing_and_offloading():
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7)
    x = torch.randn(11, 3, 5, requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        assert_same_step(ours, theirs, x)
    ours.zero_grad()
    y, _ = torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=False)
    y.sum().backward()
    found = [p.grad.clone() for p in ours.parameters()]
    ours.zero_grad()
    ours(x)[0].sum().backward()
    assert_near(found, [p.grad for p in ours.parameters()])


def output_of(layer):
    return lambda x: layer(x)[0]


def test_batches_of_gradients():
    """torch.autograd.grad with is_grads_batched, which Jacobians use: by torch's path."""
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7, dtype=torch.float64)
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    found = [
        torch.autograd.functional.jacobian(output_of(layer), x, vectorize=vectorize)
        for layer, vectorize in ((ours, True), (ours, False), (theirs, False))
    ]
    assert_near(found[:1], found[2:])
    assert_near(found[1:2], found[2:])
