"""The layers give torch's results, states and gradients, over their options and inputs."""

from __future__ import annotations

import itertools

import pytest
import torch

import fusedrnn.torch
from torch_problems import (
    BOUNDS,
    CELL_KINDS,
    KINDS,
    LAYERS,
    assert_near,
    assert_same_step,
    kind_id,
    states_of,
    tensors,
    twins,
)

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("strict")]

VARIANTS = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"bias": False},
    {"batch_first": True},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_layers_agree(kind, options, variant, dtype):
    ours, theirs = twins(kind, 5, 7, **variant, **options, dtype=dtype)
    x = torch.randn(*((3, 11) if ours.batch_first else (11, 3)), 5, dtype=dtype)
    for hx in (None, states_of(ours, 3, dtype)):
        assert_same_step(ours, theirs, x, hx)
    single = torch.randn(11, 5, dtype=dtype)
    for hx in (None, states_of(ours, None, dtype)):
        assert_same_step(ours, theirs, single, hx)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "options"), CELL_KINDS, ids=kind_id)
def test_cells_agree(kind, options, bias, dtype):
    ours, theirs = twins(kind, 5, 7, bias, **options, dtype=dtype)
    for leading in ((3,), (0,), ()):
        x = torch.randn(*leading, 5, dtype=dtype)
        state = [torch.randn(*leading, 7, dtype=dtype) for _ in range(2)]
        for hx in (None, tuple(state) if "LSTM" in kind.__name__ else state[0]):
            assert_same_step(ours, theirs, x, hx)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_sizes_of_practice(kind):
    ours, theirs = twins(kind, 40, 128, 2)
    assert_same_step(ours, theirs, torch.randn(30, 8, 40))


def test_a_state_may_be_a_list():
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7)
    x, hx = torch.randn(11, 3, 5), list(states_of(ours, 3))
    assert_same_step(ours, theirs, x, hx)
    cell, torchs = twins(fusedrnn.torch.LSTMCell, 5, 7)
    hx = [torch.randn(3, 7), torch.randn(3, 7)]
    assert_near(tensors(cell(x[0], hx)), tensors(torchs(x[0], hx)))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_that_are_not_contiguous(kind, batch_first):
    ours, theirs = twins(kind, 5, 7, batch_first=batch_first)
    wide = torch.randn(5, 22, 6)
    for x in (wide.permute(1, 2, 0)[::2, :3], wide.permute(2, 1, 0)[:3].flip(1)):
        x = x.transpose(0, 1) if batch_first != (x.shape[0] == 3) else x
        state = torch.randn(7, 3, 1).permute(2, 1, 0)
        assert not state.is_contiguous() and not x.is_contiguous()
        hx = (state, state * 2) if kind is fusedrnn.torch.LSTM else state
        with torch.no_grad():
            assert_near(tensors(ours(x, hx)), tensors(theirs(x, hx)))
        results = []
        for layer in (ours, theirs):
            given = x.detach().requires_grad_()
            y, _ = layer(given, hx)
            assert y.shape == (*x.shape[:2], 7)
            layer.zero_grad()
            # A gradient without memory of its own, and one that is transposed.
            (y.sum() + (y.transpose(0, 2) * torch.ones(7, 1, 1)).sum()).backward()
            results.append([given.grad, *(p.grad for p in layer.parameters())])
        assert_near(*results)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_batch_of_nothing(kind):
    for options in ({}, {"num_layers": 2, "bidirectional": True}):
        ours, theirs = twins(kind, 5, 7, **options)
        assert_same_step(ours, theirs, torch.randn(11, 0, 5))


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_where_it_draws_nothing(kind):
    for dropout, training in itertools.product((0.0, 0.5, 1.0), (False, True)):
        if 0 < dropout < 1 and training:
            continue
        ours, theirs = twins(kind, 5, 7, 3, dropout=dropout, bidirectional=True)
        assert_same_step(ours.train(training), theirs.train(training), torch.randn(11, 3, 5))


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_follows_torchs_seed_and_mode(kind):
    layer, x = kind(5, 7, 2, dropout=0.5), torch.randn(11, 3, 5)

    def masked(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        y, _ = layer(x)
        layer.zero_grad()
        y.sum().backward()
        return [y.detach(), *(p.grad.clone() for p in layer.parameters())]

    first, again, other = masked(1), masked(1), masked(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(1)
    with torch.no_grad():  # dropout needs no gradients
        assert torch.equal(layer(x)[0], first[0])
        assert not torch.equal(layer.eval()(x)[0], first[0])


def test_dropouts_mask_has_its_rate():
    layer = fusedrnn.torch.RNN(1, 200, 2, nonlinearity="relu", dropout=0.25, bias=False)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name.startswith("weight_hh"):
                p.zero_()
            else:
                p.copy_(torch.eye(200) if name == "weight_ih_l1" else torch.ones(200, 1))
    y, _ = layer(torch.ones(50, 4, 1))
    assert sorted(y.unique().tolist()) == [0.0, pytest.approx(1 / 0.75)]
    # 40000 draws: the standard deviation of the mean is 0.0022.
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("kind", LAYERS)
def test_results_belong_to_the_caller(kind):
    """Outputs may be written, also before backward, and inputs stay as they are."""
    layer, x = kind(5, 7), torch.randn(11, 3, 5)
    before = x.clone()
    y, _ = layer(x)
    y.sum().backward()
    want = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    y, _ = layer(x)
    loss = y.sum()
    with torch.no_grad():
        y.zero_()
    loss.backward()
    assert_near([p.grad for p in layer.parameters()], want)
    assert torch.equal(x, before)


def test_memory_is_shared_not_copied():
    """What the kernels read and write is the tensors' memory."""
    layer, x, seen = fusedrnn.torch.GRU(5, 7), torch.randn(11, 3, 5), []
    _core = fusedrnn.torch._weights._core
    infer = _core.PackedWeights.infer

    def spy(self, array, *rest):
        seen.append(array)
        seen.extend(infer(self, array, *rest))
        return tuple(seen[-2:])

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(_core.PackedWeights, "infer", spy)
        y, h = layer(x)
    assert [a.ctypes.data for a in seen] == [t.data_ptr() for t in (x, y, h)]


def test_inference_mode():
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7)
    x = torch.randn(11, 3, 5)
    with torch.inference_mode():
        found, wanted = tensors(ours(x)), tensors(theirs(x))
        assert_near(found, wanted)
        assert all(t.is_inference() for t in found)
        fresh = fusedrnn.torch.LSTM(5, 7)  # whose parameters have no version counter
        fresh.load_state_dict(theirs.state_dict())
        for _ in range(2):
            assert_near(tensors(fresh(x)), wanted)
        fresh.bias_hh_l0.add_(1)
        theirs.bias_hh_l0.add_(1)
        assert_near(tensors(fresh(x)), tensors(theirs(x)))
