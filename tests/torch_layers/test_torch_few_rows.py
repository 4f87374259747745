"""Calls of few rows read the parameters where they are: torch's results, and nothing packed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import fusedrnn
import fusedrnn.torch
from fusedrnn.torch import _few_rows, _weights
from torch_problems import (
    BOUNDS,
    CELL_KINDS,
    CELLS,
    LAYERS,
    TORCH,
    assert_near,
    assert_same_step,
    kind_id,
    leaves,
    states_of,
    step,
    tensors,
    twins,
    weighed,
)

# Those without a projection.
KINDS = [(kind, {}) for kind in LAYERS] + [(fusedrnn.torch.RNN, {"nonlinearity": "relu"})]


HAS_EXCHANGE = TORCH >= (2, 10)  # before, few rows are packed like many


@pytest.fixture
def _nothing_packed(monkeypatch):
    """Let a call that packs weights fail the test, where torch is new enough."""
    assert _few_rows.has_exchange() is HAS_EXCHANGE
    if not HAS_EXCHANGE:
        return

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights were packed")

    monkeypatch.setattr(_weights, "_entries", {})
    monkeypatch.setattr(_weights.Network, "pack", refuse)


def cell_state(cell: Any, batch: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Any:
    h = torch.randn(*batch, cell.hidden_size, dtype=dtype)
    lstm = isinstance(cell, torch.nn.LSTMCell)
    return (h, torch.randn(*batch, cell.hidden_size, dtype=dtype)) if lstm else h


@pytest.mark.isa
@pytest.mark.usefixtures("strict", "_nothing_packed")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_layers(kind, options, dtype):
    shapes = [(1, 1, 1, 1), (1, 1, 5, 33), (4, 8, 17, 16), (1, 128, 3, 8), (3, 2, 40, 70)]
    arrangements = itertools.product((1, 2), (False, True), (False, True))
    for n, (layers, both, first) in enumerate(arrangements):
        for steps, batch, inputs, hidden in shapes:
            ours, theirs = twins(
                kind,
                inputs,
                hidden,
                num_layers=layers,
                bidirectional=both,
                batch_first=first,
                bias=n % 3 > 0,
                dtype=dtype,
                **options,
            )
            x = torch.randn(*((batch, steps) if first else (steps, batch)), inputs, dtype=dtype)
            hx = states_of(ours, batch, dtype) if (steps + n) % 2 else None
            assert_same_step(ours, theirs, x, hx)
        x = torch.randn(3, inputs, dtype=dtype)  # one sequence
        assert_same_step(ours, theirs, x)
        assert_same_step(ours, theirs, x, states_of(ours, None, dtype))


@pytest.mark.isa
@pytest.mark.usefixtures("strict", "_nothing_packed")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("kind", "options"), CELL_KINDS, ids=kind_id)
def test_cells(kind, options, dtype):
    for n, (inputs, hidden) in enumerate([(1, 1), (5, 7), (8, 16), (33, 70)]):
        for batch in [(), (1,), (2,), (3,), (7,), (128,)]:
            ours, theirs = twins(kind, inputs, hidden, bias=n != 1, dtype=dtype, **options)
            x = torch.randn(*batch, inputs, dtype=dtype)
            assert_same_step(ours, theirs, x)
            assert_same_step(ours, theirs, x, cell_state(ours, batch, dtype))


@pytest.mark.usefixtures("strict", "_nothing_packed")
@pytest.mark.parametrize(("kind", "options"), CELL_KINDS, ids=kind_id)
def test_a_loop_of_steps_learns_what_torchs_does(kind, options):
    ours, theirs = twins(kind, 6, 20, **options)
    x = torch.randn(12, 3, 6)

    def gradients(cell):
        state, total = None, 0
        for t in range(len(x)):
            state = cell(x[t], state)
            total = total + weighed(tensors([state]))
        cell.zero_grad()
        total.backward()
        return [p.grad for p in cell.parameters()]

    assert_near(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_more_rows_are_packed(kind, monkeypatch):
    packed = []
    pack = _weights.Network.pack
    monkeypatch.setattr(_weights, "_entries", {})
    monkeypatch.setattr(_weights.Network, "pack", lambda *a, **o: packed.append(a) or pack(*a, **o))
    most = _few_rows.MOST_ROWS
    ours, theirs = twins(kind, 5, 7)
    for x in (torch.randn(most, 5), torch.randn(most + 1, 5)):
        given = x if kind in CELLS else x[None]
        assert_same_step(ours, theirs, given)
        assert bool(packed) is (not HAS_EXCHANGE or len(x) > most)
    if kind in LAYERS:
        packed.clear()
        assert_same_step(ours, theirs, torch.randn(5, 1, 5))  # more than 4 steps
        assert not packed  # the same weights
        ours.weight_ih_l0.data.add_(1)
        theirs.weight_ih_l0.data.add_(1)
        assert_same_step(ours, theirs, torch.randn(4, 1, 5))
        assert bool(packed) is not HAS_EXCHANGE
        assert_same_step(ours, theirs, torch.randn(5, 1, 5))
        assert packed


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_tensors_of_any_strides(kind):
    ours, theirs = twins(kind, 5, 8)
    shape = (3, 5) if kind in CELLS else (2, 3, 5)
    wide = torch.randn(*shape[:-1], 10)
    turned = torch.randn(3, 2, 5).transpose(0, 1)
    for x in (
        wide[..., ::2],
        wide[..., 2:7],
        wide.mT.contiguous().mT[..., :5],
        torch.randn(5).expand(shape),
        turned[0] if kind in CELLS else turned,
    ):
        assert_same_step(ours, theirs, x)
    found = []
    for layer in (ours, theirs):
        leaf = wide.clone().requires_grad_()
        weighed(tensors([layer(leaf[..., 2:7])])).backward()
        found.append(leaf.grad)
    assert_near([found[0]], [found[1]])
    x = torch.randn(shape)
    if kind in CELLS:
        states = torch.randn(3, 16).chunk(2, -1)
    else:
        states = torch.randn(1, 3, 16).chunk(2, -1)
    lstm = kind in (fusedrnn.torch.LSTM, fusedrnn.torch.LSTMCell)
    hx = states if lstm else states[1]
    with torch.no_grad():
        assert_near(tensors([ours(x, hx)]), tensors([theirs(x, hx)]))
    # A float that stands between two addresses of floats.
    memory = np.frombuffer(bytearray(b"\0" + x.numpy().tobytes()), np.uint8)
    odd = memory[1:].view(np.float32).reshape(shape)
    with torch.no_grad():
        assert_near(tensors([ours(torch.from_numpy(odd))]), tensors([theirs(x)]))


@pytest.mark.usefixtures("strict")
def test_a_sign_that_memory_does_not_show():
    cell, x = fusedrnn.torch.GRUCell(5, 7), torch.randn(3, 5)
    negative = torch.complex(x, x).conj().imag
    assert negative.is_neg()
    with torch.no_grad(), pytest.raises(fusedrnn.torch.NotAccelerated):
        cell(negative)
    with torch.no_grad():
        wanted = cell(-x)
        fusedrnn.torch.strict(False)
        assert_near([cell(negative)], [wanted])


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_only_wanted_gradients(kind):
    ours, theirs = twins(kind, 5, 7)
    shape = (3, 5) if kind in CELLS else (2, 3, 5)
    for layer in (ours, theirs):
        names = [name for name, _ in layer.named_parameters()]
        for name in names[::2]:
            layer.get_parameter(name).requires_grad_(False)
    for x_needs_it in (False, True):
        found = []
        for layer in (ours, theirs):
            torch.manual_seed(3)
            x = torch.randn(shape, requires_grad=x_needs_it)
            layer.zero_grad()
            weighed(tensors([layer(x)])).backward()
            assert (x.grad is not None) is x_needs_it
            assert [p.grad is not None for p in layer.parameters()] == [
                p.requires_grad for p in layer.parameters()
            ]
            kept = [p.grad for p in layer.parameters() if p.grad is not None]
            found.append(kept + ([x.grad] if x_needs_it else []))
        assert_near(*found)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_one_result_alone(kind):
    """Of the others there is no gradient; that of a sum is one number, seen everywhere."""
    ours, theirs = twins(kind, 5, 7)
    x = torch.randn(*((3, 5) if kind in CELLS else (2, 3, 5)))
    for n in range(len(tensors([ours(x)]))):
        found = []
        for layer in (ours, theirs):
            layer.zero_grad()
            tensors([layer(x)])[n].sum().backward()
            found.append([p.grad for p in layer.parameters()])
        assert_near(*found)


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_gradients_of_gradients_are_torchs(kind):
    ours, theirs = twins(kind, 3, 4, dtype=torch.float64)
    x = torch.randn(*((2, 3) if kind in CELLS else (2, 2, 3)), dtype=torch.float64)
    found = []
    for layer in (ours, theirs):
        given = leaves(x)
        loss = weighed(tensors([layer(given)])).square()
        first = torch.autograd.grad(loss, [given, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(weighed(first).square(), [given, *layer.parameters()])
        found.append([*first, *second])
    assert_near(*found)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_backward_again_and_after_a_change_of_the_results(kind):
    ours, theirs = twins(kind, 5, 7)
    x = torch.randn(*((3, 5) if kind in CELLS else (2, 3, 5)))
    results = tensors([ours(x)])
    loss = weighed(results)
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in ours.parameters()]
    with torch.no_grad():
        for result in results:
            result.zero_()
    loss.backward()
    weighed(tensors([theirs(x)])).backward()
    assert_near(once, [p.grad for p in theirs.parameters()])
    assert_near([p.grad for p in ours.parameters()], [2 * d for d in once])


@pytest.mark.usefixtures("strict")
def test_a_change_between_forward_and_backward_is_torchs_error():
    cell, x = fusedrnn.torch.LSTMCell(5, 7), torch.randn(3, 5)
    h, _ = cell(x)
    with torch.no_grad():
        cell.weight_hh.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@pytest.mark.usefixtures("strict")
@pytest.mark.serial
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_bits_for_any_number_of_threads_and_rows(kind):
    layer = kind(260, 310)
    x = torch.randn(*((5, 260) if kind in CELLS else (1, 5, 260)))
    threads = fusedrnn.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            fusedrnn.set_num_threads(n)
            found.append([t for part in step(layer, x, None) for t in part])
            with torch.no_grad():
                found[-1].extend(tensors([layer(x)]))
    finally:
        fusedrnn.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    with torch.no_grad():
        for b in range(5):
            alone = tensors([layer(x[..., b : b + 1, :])])
            together = [t[..., b : b + 1, :] for t in tensors([layer(x)])]
            assert all(map(torch.equal, alone, together))


def test_without_the_exchange(monkeypatch):
    """As with an older torch."""
    ours, theirs = twins(fusedrnn.torch.GRUCell, 5, 7)
    x = torch.randn(3, 5)
    monkeypatch.setattr(_few_rows, "has_exchange", lambda: False)
    _few_rows.few_rows.cache_clear()
    try:
        monkeypatch.setattr(_weights, "_entries", {})
        with fusedrnn.torch.strict():
            assert_same_step(ours, theirs, x)
        assert len(_weights._entries) == 1
    finally:
        _few_rows.few_rows.cache_clear()


@pytest.mark.usefixtures("strict")
def test_parameters_found_in_another_way():
    """Those that a subclass computes, or that stand in the way of the registered ones."""

    class Doubled(fusedrnn.torch.GRUCell):
        def __getattr__(self, name):
            value = super().__getattr__(name)
            return 2 * value if name == "weight_hh" else value

    ours, x, h = Doubled(5, 7), torch.randn(3, 5), torch.randn(3, 7)
    theirs = torch.nn.GRUCell(5, 7)
    theirs.load_state_dict(ours.state_dict())
    plain = fusedrnn.torch.GRUCell(5, 7)
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        theirs.weight_hh.mul_(2)
        assert_near([ours(x, h)], [theirs(x, h)])
        plain.__dict__["weight_hh"] = 2 * plain.weight_hh
        assert_near([plain(x, h)], [theirs(x, h)])
