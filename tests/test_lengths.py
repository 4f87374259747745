"""Lengths, in reference and kernels: a sequence of a padded batch is the same sequence alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kernel_problems
import reference_problems
from fusedrnn import functional, reference
from reference_problems import CELLS, Problem, pack, unpack

# Products of other shapes are summed in another order: some roundings of 1e-16 a step.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}

#: What makes problems for each of the two.
ENGINES = {"reference": reference_problems.make, "kernels": kernel_problems.make}


@pytest.fixture(params=ENGINES)
def make(request):
    return ENGINES[request.param]


VARIANTS = [
    {},
    {"layers": 2, "bidirectional": True},
    {"layers": 3, "bidirectional": True, "bias": False},
    {"layers": 2, "batch_first": True},
]
KINDS = [*CELLS, "projected lstm"]


def make_ragged(make, kind: str, lengths=(3, 0, 5, 1, 5, 2), steps=5, **options) -> Problem:
    projection = {"proj_size": 2} if kind.startswith("projected") else {}
    cell = kind.removeprefix("projected ")
    batch = len(lengths)
    return make(cell, steps=steps, batch=batch, lengths=list(lengths), **options, **projection)


def with_options(p: Problem, **options) -> Problem:
    return replace(p, options={**p.options, **options})


def results(p: Problem) -> dict[str, np.ndarray]:
    """Return everything that comes out, by name."""
    names = reference.CELLS[p.cell].states
    y, final, _ = p.forward()
    last = {f"{n}_n": s for n, s in zip(names, unpack(final), strict=True)}
    return {"y": y, **last, **{f"d_{n}": g for n, g in p.gradients().items()}}


def assert_same_bits(got: Problem, want: Problem) -> None:
    expected = results(want)
    for name, array in results(got).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def padding(p: Problem) -> np.ndarray:
    """Return where x is past the lengths: [T, B], or [B, T] with batch_first."""
    lengths = np.array(p.options["lengths"])
    if p.options.get("batch_first"):
        return np.arange(p.x.shape[1]) >= lengths[:, None]
    return np.arange(p.x.shape[0])[:, None] >= lengths


@pytest.mark.parametrize("engine", [reference, functional])
def test_relu_network_in_integers(engine):
    """y_t = max(2 x_t - y_{t-1} + 1, 0): the reverse direction begins at the last step."""
    weights = {"weight_ih_l0": [[2]], "weight_hh_l0": [[-1]], "bias_ih_l0": [3], "bias_hh_l0": [-2]}
    weights |= {f"{name}_reverse": value for name, value in weights.items()}
    weights = {name: np.array(value, np.float64) for name, value in weights.items()}
    x = np.repeat([1.0, 4.0, -5.0, 2.0], 3).reshape(4, 3, 1)
    start = np.repeat([1.0, 10.0], 3).reshape(2, 3, 1)
    y, h, tape = engine.forward("rnn_relu", x, weights, start, lengths=[4, 2, 0])
    assert y[:, 0].tolist() == [[2, 0], [7, 9], [0, 0], [5, 0]]
    assert y[:, 1].tolist() == [[2, 3], [7, 0], [0, 0], [0, 0]]
    assert not y[:, 2].any()
    assert h[:, :, 0].tolist() == [[5, 7, 1], [0, 3, 10]]
    # d h_n / d x: 2 at the last step, and -1 from step to step where no relu is shut.
    gradients = engine.backward(tape, None, np.ones((2, 3, 1)))
    assert gradients.x[:, 0, 0].tolist() == [0, 0, 0, 2]  # step 2 is shut; backward in time 0 too
    assert gradients.x[:, 1, 0].tolist() == [-2 + 2, 2, 0, 0]  # step 1 is shut backward in time
    assert gradients.x[:, 2, 0].tolist() == [0, 0, 0, 0]
    assert gradients.state[:, :, 0].tolist() == [[0, 1, 1], [0, 0, 1]]
    assert gradients.parameters["bias_ih_l0"].tolist() == [1 + (1 - 1)]
    assert gradients.parameters["bias_ih_l0_reverse"].tolist() == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_full_lengths_are_none(make, kind, variant):
    p = make_ragged(make, kind, [5, 5, 5], dropout=0.3, **variant)
    assert_same_bits(p, with_options(p, lengths=None))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_row_is_its_sequence_alone(make, kind, variant):
    p = make_ragged(make, kind, **variant)
    first = p.options.get("batch_first", False)
    out = results(p)
    names = reference.CELLS[p.cell].states
    of_parameters = {name: np.zeros_like(array) for name, array in p.parameters.items()}
    for b, n in enumerate(p.options["lengths"]):

        def row(a, b=b):
            return a[b] if first else a[:, b]

        def states(of, b=b):
            return tuple(s[:, b] for s in of)

        assert not row(out["y"])[n:].any() and not row(out["d_x"])[n:].any()
        if n == 0:  # no call of no steps: the state and its gradient go through
            for name, start, d_last in zip(names, p.states, p.dstates, strict=True):
                np.testing.assert_array_equal(out[f"{name}_n"][:, b], start[:, b])
                np.testing.assert_array_equal(out[f"d_{name}"][:, b], d_last[:, b])
            continue
        alone = replace(
            p,
            x=row(p.x)[:n],
            dy=row(p.dy)[:n],
            states=states(p.states),
            dstates=states(p.dstates),
            options={},
        )
        want = results(alone)
        for name in ("y", "d_x"):
            np.testing.assert_allclose(row(out[name])[:n], want[name], **CLOSE, err_msg=name)
        for name in [f"{n}_n" for n in names] + [f"d_{n}" for n in names]:
            np.testing.assert_allclose(out[name][:, b], want[name], **CLOSE, err_msg=name)
        for name, total in of_parameters.items():
            total += want[f"d_{name}"]
    for name, total in of_parameters.items():
        np.testing.assert_allclose(out[f"d_{name}"], total, **CLOSE, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("garbage", [7.5, np.nan, np.inf])
def test_padding_is_never_read(make, kind, variant, garbage):
    p = make_ragged(make, kind, dropout=0.3, **variant)
    x, dy = p.x.copy(), p.dy.copy()
    x[padding(p)] = garbage
    dy[padding(p)] = garbage
    assert_same_bits(replace(p, x=x, dy=dy), p)


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_of_no_steps_reaches_no_other_row(make, cell):
    p = make_ragged(make, cell, [2, 0, 3], layers=2, bidirectional=True)
    states = tuple(s.copy() for s in p.states)
    for s in states:
        s[:, 1] = np.nan
    got, want = results(replace(p, states=states)), results(p)
    for name in reference.CELLS[cell].states:
        last = got.pop(f"{name}_n")
        assert np.isnan(last[:, 1]).all()
        np.testing.assert_array_equal(last[:, ::2], want[f"{name}_n"][:, ::2])
    for name, array in got.items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_order_of_the_batch_is_the_order_of_the_results(make, kind, variant):
    p = make_ragged(make, kind, **variant)
    order = np.random.default_rng(3).permutation(len(p.options["lengths"]))
    axis = 0 if p.options.get("batch_first") else 1
    moved = replace(
        p,
        x=p.x.take(order, axis),
        dy=p.dy.take(order, axis),
        states=tuple(s[:, order] for s in p.states),
        dstates=tuple(s[:, order] for s in p.dstates),
        options={**p.options, "lengths": [p.options["lengths"][b] for b in order]},
    )
    got, want = results(moved), results(p)
    for name, array in got.items():
        expected = want[name]
        if name in ("y", "d_x"):
            expected = expected.take(order, axis)
        elif name.removeprefix("d_") not in p.parameters:  # a state or its gradient
            expected = expected[:, order]
        np.testing.assert_allclose(array, expected, **CLOSE, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_has_the_mask_of_the_padded_batch(make, kind):
    key = (3, 4)
    p = make_ragged(make, kind, layers=2, bidirectional=True, dropout=0.5, dropout_key=key)
    width = p.dy.shape[2]
    mask = reference.dropout_mask((*p.x.shape[:2], width), 0.5, key, 0)
    lengths = p.options["lengths"]

    def one_layer(k, x):
        own = {n.replace(f"l{k}", "l0"): a for n, a in p.parameters.items() if f"_l{k}" in n}
        start = pack(tuple(s[2 * k : 2 * k + 2] for s in p.states))
        return p.engine.infer(p.cell, x, own, start, lengths=lengths)[0]

    np.testing.assert_allclose(p.forward()[0], one_layer(1, mask * one_layer(0, p.x)), **CLOSE)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sequence_has_one_length(make, cell, batch_first):
    p = make(cell, batch=None, steps=5, lengths=3, bidirectional=True, batch_first=batch_first)
    assert_same_bits(with_options(p, lengths=np.array(3, np.uint8)), p)
    assert_same_bits(with_options(p, lengths=np.int64(3)), p)
    y, last, _ = p.forward()
    short = replace(p, x=p.x[:3], dy=p.dy[:3], options={})
    want, want_last, _ = short.forward()
    np.testing.assert_array_equal(y[:3], want)
    np.testing.assert_array_equal(last, want_last)
    assert y.shape == p.dy.shape and not y[3:].any()


def test_any_type_of_integers(make):
    p = make_ragged(make, "gru", [3, 0, 5])
    for dtype in (np.int8, np.uint8, np.int32, np.int64, np.uint64, ">i4"):
        assert_same_bits(with_options(p, lengths=np.array([3, 0, 5], dtype)), p)
    assert_same_bits(with_options(p, lengths=(3, 0, 5)), p)
    assert_same_bits(with_options(p, lengths=np.array([3, 9, 0, 9, 5])[::2]), p)


def test_inference_takes_lengths_too(make):
    p = make_ragged(make, "lstm", layers=2, bidirectional=True)
    y, last = p.engine.infer(p.cell, p.x, p.parameters, p.states, lengths=p.options["lengths"])
    want, want_last, _ = p.forward()
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(last, want_last)


def test_a_tape_keeps_the_lengths(make):
    p = with_options(make_ragged(make, "gru", [3, 0, 5]), lengths=np.array([3, 0, 5]))
    want = p.gradients()
    tape = p.forward()[2]
    p.options["lengths"][...] = 5
    np.testing.assert_array_equal(p.engine.backward(tape, p.dy, pack(p.dstates)).x, want["x"])


def test_no_sequences_have_no_lengths(make):
    p = make("lstm", batch=0, layers=2, bidirectional=True, lengths=np.zeros(0, np.int64))
    assert_same_bits(p, with_options(p, lengths=None))


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([3, 2, 1], ValueError, r"lengths: expected shape \(2,\), got \(3,\)"),
        (3, ValueError, r"lengths: expected shape \(2,\), got \(\)"),
        ([[3, 2]], ValueError, r"lengths: expected shape \(2,\), got \(1, 2\)"),
        ([3, 4], ValueError, "lengths: expected 0 to T = 3, got 4"),
        ([-1, 3], ValueError, "lengths: expected 0 to T = 3, got -1"),
        (np.array([1, 2**64 - 1], np.uint64), ValueError, f"T = 3, got {2**64 - 1}"),
        ([3.0, 2.0], TypeError, "lengths: expected integers, got float64"),
        ([True, False], TypeError, "lengths: expected integers, got bool"),
        (["3", "2"], TypeError, "lengths: expected integers, got <U1"),
        ([3, None], TypeError, "lengths: expected integers, got object"),
    ],
)
def test_wrong_lengths(make, lengths, error, message):
    p = make("gru")
    with pytest.raises(error, match=message):
        with_options(p, lengths=lengths).forward()
    with pytest.raises(error, match=message):
        p.engine.infer("gru", p.x, p.parameters, lengths=lengths)


def test_wrong_length_of_one_sequence(make):
    p = make("gru", batch=None)
    with pytest.raises(ValueError, match=r"lengths: expected shape \(\), got \(1,\)"):
        with_options(p, lengths=[3]).forward()
    with pytest.raises(ValueError, match="lengths: expected 0 to T = 3, got 4"):
        with_options(p, lengths=4).forward()
