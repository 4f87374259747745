"""Packed sequences, and padded ones with lengths: both against torch, sequence by sequence."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)

import fusedrnn.torch
from torch_problems import (
    BOUNDS,
    KINDS,
    LAYERS,
    assert_near,
    assert_same_step,
    cut,
    kind_id,
    leaves,
    outcome,
    states_of,
    step,
    tensors,
    twins,
    weighed,
)

pytestmark = pytest.mark.isa

VARIANTS = [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}]
every_kind = pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)
strictly = pytest.mark.usefixtures("strict")


@strictly
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@every_variant
@every_kind
def test_packed_sequences_agree(kind, options, variant, dtype):
    ours, theirs = twins(kind, 5, 7, **variant, **options, dtype=dtype)
    x = torch.randn(9, 4, 5, dtype=dtype)
    for lengths, ordered in (([9, 6, 6, 1], True), ([2, 9, 1, 5], False), ([3, 3, 3, 3], True)):
        packed = pack_sequence(cut(x, lengths), enforce_sorted=ordered)
        for hx in (None, states_of(ours, 4, dtype)):
            assert_same_step(ours, theirs, packed, hx)


@strictly
@pytest.mark.parametrize("kind", LAYERS)
def test_a_packed_result_is_packed_as_the_input(kind):
    ours, theirs = twins(kind, 5, 7)
    packed = pack_sequence(cut(torch.randn(9, 3, 5), [2, 9, 4]), enforce_sorted=False)
    y, want = ours(packed)[0], theirs(packed)[0]
    assert isinstance(y, PackedSequence)
    for a, b in zip(y[1:], want[1:], strict=True):
        assert torch.equal(a, b)
    padded, lengths = pad_packed_sequence(y)
    assert lengths.tolist() == [2, 9, 4]
    assert not padded[2:, 0].any() and not padded[4:, 2].any()


def by_sequence(layer, x, hx, lengths):
    """Run torch's layer over each sequence alone: results, and gradients, as `step` has them."""
    first = layer.batch_first
    x, hx = leaves(x), leaves(hx)
    parts = [None] if hx is None else tensors(hx)
    rows, last = [], []
    for b, length in enumerate(lengths):
        steps = x.shape[1 if first else 0]
        own = [None if part is None else part[:, b] for part in parts]
        state = own[0] if len(own) == 1 else tuple(own)
        directions = 2 if layer.bidirectional else 1
        outputs = layer.proj_size or layer.hidden_size
        y = x.new_zeros(steps, directions * outputs)
        if length > 0:
            valid, end = layer((x[b] if first else x[:, b])[:length], state)
            y = torch.cat([valid, y[length:]])
            last.append(tensors(end))
        else:
            widths = [outputs, layer.hidden_size][: 2 if layer.mode == "LSTM" else 1]
            zeros = [x.new_zeros(layer.num_layers * directions, width) for width in widths]
            last.append(zeros if hx is None else own)
        rows.append(y)
    results = [torch.stack(rows, 0 if first else 1)]
    results += [torch.stack(part, 1) for part in zip(*last, strict=True)]
    layer.zero_grad()
    weighed(results).backward()
    inputs = [x] + ([] if hx is None else parts)
    return [r.detach() for r in results], [t.grad for t in [*inputs, *layer.parameters()]]


LENGTHS = [2, 9, 0, 5, 0, 1]


def padded_problem(kind, variant, options, dtype=torch.float32):
    ours, theirs = twins(kind, 5, 7, **variant, **options, dtype=dtype)
    x = torch.randn(*((6, 9) if ours.batch_first else (9, 6)), 5, dtype=dtype)
    return ours, theirs, x


@strictly
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@every_variant
@every_kind
def test_lengths_agree_with_each_sequence_alone(kind, options, variant, dtype):
    ours, theirs, x = padded_problem(kind, variant, options, dtype)
    for hx in (None, states_of(ours, 6, dtype)):
        wanted = by_sequence(theirs, x, hx, LENGTHS)
        found = step(ours, x, hx, lengths=LENGTHS)
        assert_near(found[0], wanted[0])
        assert_near(found[1], wanted[1])
        with torch.no_grad():
            assert_near(tensors(ours(x, hx, lengths=LENGTHS)), wanted[0])


@every_variant
@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_by_torchs_path_agree_too(kind, variant):
    """Where the kernels can't take a call, its lengths are packed for torch."""
    ours, _, x = padded_problem(kind, variant, {})
    for hx in (None, states_of(ours, 6)):
        want = step(ours, x, hx, lengths=LENGTHS)
        by_torch = kind(5, 7, **variant)
        by_torch.load_state_dict(ours.state_dict())
        by_torch._by_kernels = None  # any call of it is a TypeError
        found = step(by_torch, x, hx, lengths=LENGTHS)
        assert_near(found[0], want[0])
        assert_near(found[1], want[1])


@strictly
def test_lengths_may_be_of_any_kind():
    ours, _, x = padded_problem(fusedrnn.torch.LSTM, {}, {})
    want = tensors(ours(x, lengths=LENGTHS))
    for lengths in (
        tuple(LENGTHS),
        torch.tensor(LENGTHS),
        torch.tensor(LENGTHS, dtype=torch.int32),
        torch.tensor(LENGTHS, dtype=torch.uint8),
        torch.tensor(LENGTHS).repeat_interleave(2)[::2],
        torch.tensor(LENGTHS).numpy(),
        range(6),
    ):
        found = tensors(ours(x, lengths=lengths))
        if isinstance(lengths, range):
            want = tensors(ours(x, lengths=[0, 1, 2, 3, 4, 5]))
        assert all(map(torch.equal, found, want))
    none = ours(x[:, :0], lengths=[])
    assert none[0].shape == (9, 0, 7)


@strictly
def test_padding_is_never_read():
    """Not a value of it comes through, nor a NaN, forward or back."""
    ours, _, x = padded_problem(fusedrnn.torch.GRU, {"bidirectional": True}, {})
    want = step(ours, x, None, lengths=LENGTHS)
    padded = x.clone()
    for b, length in enumerate(LENGTHS):
        padded[length:, b] = float("nan")
    found = step(ours, padded, None, lengths=LENGTHS)
    for a, b in zip(found[0] + found[1], want[0] + want[1], strict=True):
        assert torch.equal(a, b)


@strictly
def test_full_lengths_are_no_lengths():
    ours, _, x = padded_problem(fusedrnn.torch.LSTM, {"bidirectional": True}, {})
    for a, b in zip(tensors(ours(x, lengths=[9] * 6)), tensors(ours(x)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ([2, 9, 0], ValueError, "lengths: expected (6,) [B], got (3,)"),
        (torch.ones(6, 1, dtype=torch.int64), ValueError, "lengths: expected (6,) [B], got (6, 1)"),
        (
            [2, 10, 0, 5, 0, 1],
            ValueError,
            "lengths: expected values in [0, 9] [0, T], got [2, 10, 0, 5, 0, 1]",
        ),
        (
            [2, -1, 0, 5, 0, 1],
            ValueError,
            "lengths: expected values in [0, 9] [0, T], got [2, -1, 0, 5, 0, 1]",
        ),
        ([2.0] * 6, TypeError, "lengths: expected integers, got float"),
        (torch.ones(6), TypeError, "lengths: expected integers, got torch.float32"),
        (torch.ones(6, dtype=torch.bool), TypeError, "lengths: expected integers, got torch.bool"),
        ([True] * 6, TypeError, "lengths: expected integers, got bool"),
        ([2, 9, 0, 5, 0, True], TypeError, "lengths: expected integers, got bool"),
        ([torch.tensor(True)] * 6, TypeError, "lengths: expected integers, got bool"),
        (5, TypeError, "lengths: expected a sequence of integers, got int"),
        (True, TypeError, "lengths: expected a sequence of integers, got bool"),
        (torch.tensor(5), ValueError, "lengths: expected (6,) [B], got ()"),
    ],
    ids=str,
)
def test_errors_of_lengths(lengths, error, text):
    ours, _, x = padded_problem(fusedrnn.torch.LSTM, {}, {})
    with pytest.raises(error) as caught:
        ours(x, lengths=lengths)
    assert str(caught.value) == text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_errors_of_states_beside_lengths_are_those_without(kind, options, dtype):
    layer = kind(3, 4, **options, dtype=dtype)
    x, right = torch.zeros(5, 2, 3, dtype=dtype), tensors(states_of(layer, 2, dtype))
    for i, part in enumerate(right):
        units = part.size(2)
        shapes = [(1, 1, units), (1, 5, units), (3, 2, units), (1, 2, units + 1), (2, units)]
        for shape in shapes:
            parts = [*right[:i], torch.zeros(shape, dtype=dtype), *right[i + 1 :]]
            hx = parts[0] if len(parts) == 1 else tuple(parts)
            wanted = outcome(lambda hx=hx: layer(x, hx))
            assert wanted[0] is RuntimeError
            assert outcome(lambda hx=hx: layer(x, hx, lengths=[5, 2])) == wanted


def test_errors_of_lengths_that_have_no_place():
    ours, _, x = padded_problem(fusedrnn.torch.LSTM, {}, {})
    with pytest.raises(ValueError, match="expected a batched input, of 3 dimensions, got 2"):
        ours(x[:, 0], lengths=[3])
    with pytest.raises(ValueError, match="a PackedSequence has its own"):
        ours(pack_padded_sequence(x, [9] * 6), lengths=[9] * 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_steps_with_lengths_are_torchs_error(dtype):
    for first in (False, True):
        layer = fusedrnn.torch.GRU(5, 7, batch_first=first, dtype=dtype)
        x = torch.zeros(*((3, 0) if first else (0, 3)), 5, dtype=dtype)
        for lengths in (None, [0, 0, 0], torch.tensor([0, 0, 0])):
            with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
                layer(x, lengths=lengths)
