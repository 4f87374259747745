"""Packed weights follow every change of the parameters, and only changes pack anew."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
import torch

import fusedrnn.torch
from fusedrnn.torch import _weights
from fusedrnn.torch._few_rows import MOST_ROWS
from torch_problems import CELLS, LAYERS, assert_near, tensors, twins

pytestmark = pytest.mark.usefixtures("strict")


@pytest.fixture
def packs(monkeypatch):
    """The networks that were packed, in order, from an empty cache.

    (Empty: every test draws the same weights, perhaps at the same addresses as a test before it,
    whose packed copy would rightly serve this one's first call.)
    """
    monkeypatch.setattr(_weights, "_entries", {})
    found = []
    pack = _weights.Network.pack

    def counted(self, *arguments, **options):
        found.append(self)
        return pack(self, *arguments, **options)

    monkeypatch.setattr(_weights.Network, "pack", counted)
    return found


def inputs(kind):
    """More rows than are read without packing."""
    return torch.randn(*((MOST_ROWS + 1, 5) if kind in CELLS else (11, 3, 5)))


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_nothing_is_packed_twice(kind, packs):
    layer, x = kind(5, 7), inputs(kind)
    for _ in range(3):
        layer(x)
        with torch.no_grad():
            layer(x)
        tensors(layer(x))[0].sum().backward()
    with torch.inference_mode():
        layer(x)
    torch.func.functional_call(layer, dict(layer.named_parameters()), (x,))
    torch.func.functional_call(layer, layer.state_dict(), (x,))
    copy.copy(layer)(x)
    assert len(packs) == 1
    copy.deepcopy(layer)(x)
    assert len(packs) == 2


def changes():
    def by_no_grad(layer):
        with torch.no_grad():
            layer.weight_hh_l0.copy_(torch.randn(layer.weight_hh_l0.shape))

    def by_data(layer):
        layer.weight_ih_l0.data.mul_(2)

    def by_numpy(layer):
        layer.bias_hh_l0.detach().numpy()[3] += 1

    def by_one_bit(layer):
        layer.weight_hh_l0.detach().numpy().view(np.uint32)[-1, -1] ^= 1 << 22

    def by_an_element_at_each_end(layer):
        layer.weight_ih_l0.data.view(-1)[0] += 1
        layer.weight_hh_l0.data.view(-1)[-1] += 1

    def by_exchange(layer):
        rows = layer.weight_hh_l0.data
        rows[:2] = rows[:2].flip(0)

    def by_new_data(layer):
        layer.weight_hh_l0.data = torch.randn(layer.weight_hh_l0.shape)

    def by_transposed_data(layer):
        # Of one layer with a square matrix: the address stays.
        for name in ("weight_ih_l0", "weight_hh_l0"):
            p = getattr(layer, name)
            if p.shape[0] == p.shape[1]:
                p.data = p.data.t()

    def by_a_new_parameter(layer):
        layer.weight_hh_l0 = torch.nn.Parameter(torch.randn(layer.weight_hh_l0.shape))

    def by_the_list_of_parameters(layer):
        layer._parameters["bias_ih_l0"] = torch.nn.Parameter(torch.randn(layer.bias_ih_l0.shape))

    def by_a_state_dict(layer):
        layer.load_state_dict({n: torch.randn(p.shape) for n, p in layer.state_dict().items()})

    def by_assignment(layer):
        state = {n: torch.randn(p.shape) for n, p in layer.state_dict().items()}
        layer.load_state_dict(state, assign=True)

    def by_reset(layer):
        layer.reset_parameters()

    def by_double(layer):
        layer.double()

    def by_shared_memory(layer):
        layer.share_memory()
        layer.weight_hh_l0.data.add_(1)

    def by_vector(layer):
        vector = torch.nn.utils.parameters_to_vector(layer.parameters())
        torch.nn.utils.vector_to_parameters(vector * 2, layer.parameters())

    return [value for name, value in locals().items() if name.startswith("by_")]


@pytest.mark.parametrize("change", changes(), ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("steps", [11, 2], ids=["packed", "few rows"])
def test_changes_are_seen(kind, change, steps):
    ours, theirs = twins(kind, 7, 7)
    x = torch.randn(steps, 3, 7)
    with torch.no_grad():
        before = ours(x)[0]
    for grad in (False, True, False):
        torch.manual_seed(1)
        change(ours)
        torch.manual_seed(1)
        change(theirs)
        given = x.to(ours.weight_ih_l0.dtype)
        with torch.set_grad_enabled(grad):
            assert_near(tensors(ours(given)), tensors(theirs(given)))
    if change.__name__ != "by_transposed_data" or kind is fusedrnn.torch.RNN:
        assert not torch.equal(ours(given)[0].to(x.dtype), before)


def test_changes_of_large_layers_are_seen(packs):
    """There the counters of versions are asked first."""
    ours, theirs = twins(fusedrnn.torch.LSTM, 64, 300)
    x = torch.randn(5, 1, 64)
    packs.clear()
    with torch.no_grad():
        for _ in range(2):
            ours(x)
        assert len(packs) == 1
        for layer in (ours, theirs):
            layer.weight_hh_l0.data[-1, -1] += 1
        assert_near(tensors(ours(x)), tensors(theirs(x)))
        for layer in (ours, theirs):
            layer.weight_hh_l0[-1, -1] += 1
        assert_near(tensors(ours(x)), tensors(theirs(x)))
        assert len(packs) == 3


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "SGD foreach": lambda p: torch.optim.SGD(p, 0.1, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, 0.1, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01),
}


@pytest.mark.parametrize("trusting", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_seen(name, trusting, packs):
    """Four steps end at torch's parameters, in float64, and each packs once."""
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7, dtype=torch.float64)
    x, target = torch.randn(11, 3, 5).double(), torch.randn(11, 3, 7).double()
    packs.clear()
    with fusedrnn.torch.trust_version_counters(trusting):
        for layer in (ours, theirs):
            optimizer = OPTIMIZERS[name](layer.parameters())
            for _ in range(4):
                optimizer.zero_grad()
                (layer(x)[0] - target).square().sum().backward()
                optimizer.step()
    if trusting and name.endswith("fused"):  # which don't count what they write
        assert len(packs) == 1
        return
    assert len(packs) == 4
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (p - q).norm() <= 1e-9 * q.norm()  # steps amplify roundings


def test_trust_sees_what_counters_see_and_no_more(packs):
    layer, x = fusedrnn.torch.GRU(5, 7), torch.randn(11, 3, 5)
    with fusedrnn.torch.trust_version_counters(), torch.no_grad():
        before = layer(x)[0]
        layer.weight_hh_l0.data.add_(1)
        assert torch.equal(layer(x)[0], before)
        layer.weight_hh_l0.add_(1)
        assert not torch.equal(layer(x)[0], before)
        assert len(packs) == 2
    layer.weight_hh_l0.data.add_(1)
    assert not torch.equal(layer(x)[0], before)
    assert len(packs) == 3


def test_single_layers_trust(packs):
    trusting, other = fusedrnn.torch.GRU(5, 7), fusedrnn.torch.GRU(5, 7)
    cell, x = fusedrnn.torch.LSTMCell(5, 7), torch.randn(11, MOST_ROWS + 1, 5)
    trusting.trust = cell.trust = True
    with torch.no_grad():
        for layer, given in ((trusting, x), (other, x), (cell, x[0])):
            before = layer(given)[0]
            next(layer.parameters()).data.add_(1)
            assert torch.equal(layer(given)[0], before) is layer.trust
            next(layer.parameters()).add_(1)
            assert not torch.equal(layer(given)[0], before)
    assert len(packs) == 7


def test_trust_is_not_misled_by_an_address():
    """New parameters at the addresses of old ones, with the same counts of versions."""
    x, first = torch.randn(11, 3, 5), fusedrnn.torch.GRU(5, 7)
    memory = {name: p.detach().numpy().copy() for name, p in first.named_parameters()}
    with fusedrnn.torch.trust_version_counters(), torch.no_grad():
        for _ in range(3):
            ours, theirs = twins(fusedrnn.torch.GRU, 5, 7)
            for name, p in theirs.named_parameters():
                memory[name][...] = p.numpy()
                setattr(ours, name, torch.nn.Parameter(torch.from_numpy(memory[name])))
            assert_near(tensors(ours(x)), tensors(theirs(x)))
            del ours


def test_dead_parameters_give_up_their_memory():
    gc.collect()
    x = torch.randn(5, 1, 5)
    fusedrnn.torch.GRU(5, 7)(x)
    for _ in range(20):
        fusedrnn.torch.GRU(5, 7)(x)
    kept = [fusedrnn.torch.GRU(5, 7) for _ in range(3)]
    gc.collect()
    for layer in kept:
        layer(x)
    alive = [entry for entry in _weights._entries.values() if not entry.place.expired()]
    assert len(_weights._entries) == len(alive)
    storages = {layer.weight_ih_l0.data_ptr() for layer in kept}
    assert storages <= {key[1] for key in _weights._entries}


def test_entries_keep_no_parameter_alive():
    layer = fusedrnn.torch.GRU(5, 7)
    layer(torch.randn(5, 1, 5))
    (entry,) = [e for k, e in _weights._entries.items() if k[1] == layer.weight_ih_l0.data_ptr()]
    assert not entry.place.expired()
    del layer
    gc.collect()
    assert entry.place.expired()


def test_shared_parameters_are_packed_once(packs):
    first, second = fusedrnn.torch.GRU(7, 7), fusedrnn.torch.GRU(7, 7)
    for name in first._flat_weights_names:
        setattr(second, name, getattr(first, name))
    x = torch.randn(11, 3, 7)
    assert torch.equal(first(x)[0], second(x)[0])
    assert len(packs) == 1
    # One parameter in two places of one layer.
    tied, theirs = twins(fusedrnn.torch.RNN, 7, 7)
    for layer in (tied, theirs):
        layer.weight_hh_l0 = layer.weight_ih_l0
        layer(x)[0].sum().backward()
    assert_near([tied.weight_ih_l0.grad], [theirs.weight_ih_l0.grad])


def test_weights_that_are_not_contiguous():
    ours, theirs = twins(fusedrnn.torch.GRU, 5, 7)
    for layer in (ours, theirs):
        layer.weight_ih_l0.data = layer.weight_ih_l0.data.t().contiguous().t()
        assert not layer.weight_ih_l0.is_contiguous()
    x = torch.randn(11, 3, 5)
    for _ in range(2):
        assert_near(tensors(ours(x)), tensors(theirs(x)))
        ours(x)[0].sum().backward()
        theirs(x)[0].sum().backward()
        assert_near([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])
        for layer in (ours, theirs):
            layer.weight_ih_l0.data.add_(1)
