"""Batches: which elements they hold, in which order, and what can't be a batch."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from fusedrnn.models.data import Minibatches, Streams, checksum
from training_problems import raises

# Element (t, n) is 100 t + n, so that a batch tells where it comes from.
T, N = 6, 11
SEQUENCES = 100 * np.arange(T)[:, np.newaxis] + np.arange(N)
LENGTHS = np.array([3, 0, 6, 2, 2, 1, 4, 5, 1, 0, 2])


def epoch(data, number=0):
    return [data.batch(number, index) for index in range(len(data))]


def same(one, other) -> bool:
    return all(
        (a is None and b is None) or (a is not None and np.array_equal(a, b))
        for a, b in (
            (getattr(one, name), getattr(other, name))
            for name in ("inputs", "targets", "lengths", "target_lengths", "weights", "carry")
        )
    )


# Minibatches


@pytest.mark.parametrize("batch_size", [1, 4, 11, 20])
def test_every_sequence_comes_once_in_an_epoch(batch_size):
    data = Minibatches(SEQUENCES, np.arange(N), batch_size, seed=3)
    batches = epoch(data)
    assert len(batches) == -(-N // batch_size)
    assert [b.targets.size for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    order = np.concatenate([b.targets for b in batches])
    assert sorted(order) == list(range(N))
    np.testing.assert_array_equal(
        np.concatenate([b.inputs for b in batches], 1), SEQUENCES[:, order]
    )
    assert not any(b.carry for b in batches)


def test_order_depends_on_seed_and_epoch_only():
    def order(data, number):
        return [b.targets.tolist() for b in epoch(data, number)]

    def make(**options):
        return Minibatches(SEQUENCES, np.arange(N), 4, **options)

    data = make(seed=1)
    wanted = [order(data, number) for number in range(4)]
    assert all(a != b for a, b in itertools.pairwise(wanted))
    assert order(make(seed=2), 0) != wanted[0]
    jumping = make(seed=1)  # from epoch to epoch, and back
    for number, index in ((3, 2), (0, 1), (3, 0), (1, 1), (0, 0)):
        assert jumping.batch(number, index).targets.tolist() == wanted[number][index]
    straight = make(shuffle=False)
    assert order(straight, 0) == order(straight, 7) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_axes_of_sequences_and_points():
    """All kinds of problems: what is a sequence has its batch on axis 1, what is a point on 0."""
    features = np.stack([SEQUENCES, -SEQUENCES], axis=-1)
    points = np.stack([np.arange(N), np.arange(N)], axis=-1)
    rows = [4, 5, 6, 7]
    for inputs, targets, options in (
        (features, SEQUENCES, {}),  # aligned
        (features, np.arange(N), {}),  # many to one
        (features, points, {"target_axis": 0}),  # many to one, of vectors
        (points, SEQUENCES[:4], {"batch_axis": 0, "target_axis": 1}),  # one to many
        (points, np.arange(N), {"batch_axis": 0}),  # one to one
        (SEQUENCES, SEQUENCES[:2], {}),  # encoder-decoder
    ):
        batch = Minibatches(inputs, targets, 4, shuffle=False, **options).batch(0, 1)
        for got, whole in ((batch.inputs, inputs), (batch.targets, targets)):
            want = whole[:, rows] if whole.shape[1:2] == (N,) else whole[rows]
            np.testing.assert_array_equal(got, want)


def test_steps_past_all_ends_are_cut():
    weights = np.ones((T, N))
    options = {"lengths": LENGTHS, "weights": weights, "shuffle": False}
    batches = epoch(Minibatches(SEQUENCES, SEQUENCES, 4, **options))
    assert [b.lengths.tolist() for b in batches] == [[3, 0, 6, 2], [2, 1, 4, 5], [1, 0, 2]]
    for batch, steps, rows in zip(
        batches, (6, 5, 2), (range(4), range(4, 8), range(8, 11)), strict=True
    ):
        np.testing.assert_array_equal(batch.inputs, SEQUENCES[:steps, rows])
        np.testing.assert_array_equal(batch.targets, SEQUENCES[:steps, rows])
        assert batch.weights.shape == (steps, len(rows))
    whole = epoch(Minibatches(SEQUENCES, SEQUENCES, 4, **options, trim=False))
    assert [b.inputs.shape[0] for b in whole] == [b.targets.shape[0] for b in whole] == [6, 6, 6]


def test_targets_with_lengths_of_their_own_are_cut_by_them():
    own = LENGTHS[::-1]
    data = Minibatches(SEQUENCES, SEQUENCES, 4, lengths=LENGTHS, target_lengths=own, shuffle=False)
    for batch, steps, target_steps in zip(epoch(data), (6, 5, 2), (5, 4, 6), strict=True):
        assert (len(batch.inputs), len(batch.targets)) == (steps, target_steps)
    assert data.batch(0, 0).target_lengths.tolist() == own[:4].tolist()
    # Targets of another number of steps aren't aligned with the inputs, so nothing tells their end.
    other = Minibatches(SEQUENCES, SEQUENCES[:5], 4, lengths=LENGTHS, shuffle=False)
    assert [len(b.targets) for b in epoch(other)] == [5, 5, 5]


def test_a_batch_of_empty_sequences_keeps_one_step():
    data = Minibatches(SEQUENCES, SEQUENCES, 1, lengths=LENGTHS, shuffle=False)
    assert data.batch(0, 1).inputs.shape == data.batch(0, 1).targets.shape == (1, 1)
    assert data.batch(0, 1).lengths.tolist() == [0]


def test_weights_of_sequences_and_vectors():
    weights = np.arange(1.0, N + 1)
    data = Minibatches(SEQUENCES, np.arange(N), 4, weights=weights, seed=5)
    for batch in epoch(data):
        np.testing.assert_array_equal(batch.weights, batch.targets + 1)
    vectors = np.stack([SEQUENCES, SEQUENCES], axis=-1)  # (T, N, K) has weights (T, N)
    data = Minibatches(SEQUENCES, vectors, 4, weights=np.ones((T, N)), shuffle=False)
    assert data.batch(0, 2).weights.shape == (T, 3)


# Streams


@pytest.mark.parametrize("streams", [1, 3, 16])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_streams_go_on_where_they_have_ended(streams, steps):
    data = Streams(np.arange(1000), streams, steps, seed=2)
    firsts = []
    for number in range(4):
        last = None
        for index, batch in enumerate(epoch(data, number)):
            assert batch.inputs.shape == (steps, streams)
            assert batch.carry == (index > 0)
            np.testing.assert_array_equal(batch.targets, batch.inputs + 1)
            np.testing.assert_array_equal(np.diff(batch.inputs, axis=0), 1)
            if batch.carry:
                np.testing.assert_array_equal(batch.inputs[0], last + 1)
            else:
                firsts.append(batch.inputs[0, 0])
                assert (np.diff(batch.inputs[0]) >= len(data) * steps).all()  # nothing comes twice
            last = batch.inputs[-1]
        assert last[-1] > 1000 - 1 - streams * steps - 2 * steps - streams  # little is left out
    assert all(0 <= first < steps for first in firsts)
    assert (len(set(firsts)) > 1) == (steps > 1)


def test_streams_have_random_access():
    data, other = (Streams(np.arange(300), 2, 5, seed=4) for _ in range(2))
    wanted = [epoch(data, number) for number in range(3)]
    for number, index in ((2, 7), (0, 0), (1, 28), (2, 6)):
        assert same(other.batch(number, index), wanted[number][index])
    fixed = Streams(np.arange(300), 2, 5, random_offset=False)
    assert all(map(same, epoch(fixed, 0), epoch(fixed, 1)))
    assert fixed.batch(3, 0).inputs[0, 0] == 0


def test_streams_of_vectors_and_with_targets():
    series = np.random.default_rng(0).normal(size=(60, 3))
    batch = Streams(series, 2, 5, random_offset=False).batch(0, 1)
    np.testing.assert_array_equal(batch.inputs[:, 0], series[5:10])
    np.testing.assert_array_equal(batch.targets[:, 0], series[6:11])
    labels = np.arange(60)
    data = Streams(series, 2, 5, targets=labels, random_offset=False)
    assert len(data) == 6
    np.testing.assert_array_equal(data.batch(0, 5).targets.T, [labels[25:30], labels[55:60]])
    np.testing.assert_array_equal(data.batch(0, 5).inputs[:, 1], series[55:60])


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (12, {"random_offset": False, "targets": np.arange(12)}),
        (13, {"random_offset": False}),
        (16, {}),
    ],
)
def test_streams_of_one_batch(count, options):
    for number in range(9):
        batches = epoch(Streams(np.arange(count), 3, 4, **options), number)
        assert len(batches) == 1
        assert batches[0].inputs.shape == (4, 3)
    rest = {**options, "targets": np.arange(count - 1)} if "targets" in options else options
    with raises(
        ValueError,
        f"symbols: expected at least {count} for 3 streams of 4 steps, got {count - 1}",
    ):
        Streams(np.arange(count - 1), 3, 4, **rest)


# What can't be a batch


@pytest.mark.parametrize(
    "data", [Minibatches(SEQUENCES, SEQUENCES, 4), Streams(np.arange(50), 4, 4)]
)
def test_there_are_no_other_batches(data):
    wanted = f"an epoch of at least 0 and an index below {len(data)}"
    for number, index in ((0, len(data)), (0, -1), (-1, 0)):
        with raises(IndexError, f"batch: expected {wanted}, got {number} and {index}"):
            data.batch(number, index)


def test_data_without_elements():
    for inputs, targets, message in (
        (np.zeros((T, 0)), [], "inputs: expected at least one element, got shape (6, 0)"),
        (np.zeros((0, N)), range(N), "inputs: expected at least one element, got shape (0, 11)"),
        (SEQUENCES, SEQUENCES[:0], "targets: expected at least one element, got shape (0, 11)"),
        (SEQUENCES, 1.0, "targets: expected at least one element, got shape ()"),
    ):
        with raises(ValueError, message):
            Minibatches(inputs, targets, 4)
    with raises(ValueError, "symbols: expected at least one element, got shape (0,)"):
        Streams(np.zeros(0, int), 1, 1)


def test_data_that_does_not_fit():
    for options, message in (
        ({"targets": range(10)}, "targets: expected 11 on axis 0, as the inputs, got shape (10,)"),
        (
            {"targets": SEQUENCES[:, :4]},
            "targets: expected 11 on axis 1, as the inputs, got shape (6, 4)",
        ),
        (
            {"targets": SEQUENCES, "target_axis": 0},
            "targets: expected 11 on axis 0, as the inputs, got shape (6, 11)",
        ),
        ({"lengths": LENGTHS[:4]}, "lengths: expected (11,) [N], got (4,)"),
        ({"lengths": LENGTHS + 1}, "lengths: expected 0 to 6, got 7"),
        ({"lengths": LENGTHS - 1}, "lengths: expected 0 to 6, got -1"),
        ({"lengths": LENGTHS * 0}, "lengths: expected at least one above 0, got none"),
        (
            {"targets": SEQUENCES, "target_lengths": LENGTHS * 0},
            "target_lengths: expected at least one above 0, got none",
        ),
        (
            {"target_lengths": LENGTHS},
            "target_lengths: expected None without an axis of time, got lengths",
        ),
        ({"weights": np.ones((T, N))}, "weights: expected (11,), got (6, 11)"),
        (
            {"weights": np.zeros(N)},
            "weights: expected finite numbers of at least 0, some of them above 0",
        ),
        (
            {"weights": np.full(N, np.nan)},
            "weights: expected finite numbers of at least 0, some of them above 0",
        ),
        ({"batch_axis": 2}, "batch_axis: expected 0 or 1, got 2"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected an integer in [0, 2**64), got -1"),
    ):
        with raises(ValueError, message):
            Minibatches(
                **{"inputs": SEQUENCES, "targets": np.arange(N), "batch_size": 4, **options}
            )
    with raises(ValueError, "targets: expected 50, got 49"):
        Streams(np.arange(50), 2, 4, targets=np.arange(49))


def test_data_that_is_not_numbers():
    with raises(TypeError, "inputs: expected numbers, got <U1"):
        Minibatches([["a", "b"]], [0, 1], 1)
    with raises(TypeError, "symbols: expected numbers, got object"):
        Streams(np.array([None, 1]), 1, 1)
    with raises(TypeError, "lengths: expected integers, got float64"):
        Minibatches(SEQUENCES, np.arange(N), 4, lengths=LENGTHS.astype(float))
    with raises(TypeError, "shuffle: expected a bool, got int"):
        Minibatches(SEQUENCES, np.arange(N), 4, shuffle=1)


# What a checkpoint knows of the data


def test_configuration_tells_data_apart():
    def made():
        yield Minibatches(SEQUENCES, np.arange(N), 4)
        yield Minibatches(SEQUENCES + 1, np.arange(N), 4)
        yield Minibatches(SEQUENCES.astype(np.float32), np.arange(N), 4)
        yield Minibatches(SEQUENCES, np.arange(N), 4, seed=1)
        yield Minibatches(SEQUENCES, np.arange(N), 4, lengths=LENGTHS)
        yield Minibatches(SEQUENCES, np.arange(N), 4, weights=np.ones(N))
        yield Streams(np.arange(50), 4, 4)
        yield Streams(np.arange(51), 4, 4)
        yield Streams(np.arange(50), 4, 4, targets=np.arange(50))

    texts = [json.dumps(data.configuration) for data in made()]
    assert len(set(texts)) == len(texts)
    assert texts == [json.dumps(data.configuration) for data in made()]


def test_checksum_is_of_the_elements():
    a = np.arange(12.0).reshape(3, 4)
    assert checksum(a) == checksum(np.asfortranarray(a)) == checksum(a[:, ::-1][:, ::-1])
    assert len({checksum(a), checksum(a.T), checksum(a.ravel()), checksum(None, a)}) == 4
