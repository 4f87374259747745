"""Checkpoints: `checkpoint_every` saves memory and changes no bit.

Activations that are computed again come from the same kernels and the same states, and gradients
are summed up over the same chunks. So every comparison is exact.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import fusedrnn
from error_problems import rejects
from fusedrnn import functional
from kernel_problems import CELLS, DTYPES, KernelProblem, make, run, threads
from layer_problems import LAYERS, arrays, assert_equal, normal
from reference_problems import pack
from scripts import output
from test_determinism import assert_bits, assert_same, everything
from test_functional import padded

pytestmark = pytest.mark.isa

VARIANTS = list(itertools.product(CELLS, DTYPES))
STACKS = [
    {"layers": layers, "bidirectional": bidirectional, "dropout": dropout if layers > 1 else 0.0}
    for layers, bidirectional, dropout in itertools.product((1, 2, 3), (False, True), (0.0, 0.4))
    if layers > 1 or dropout == 0
]

# (T, B): several chunks each, the last ones of full length, of whose sums each makes 256 rows: of
# 256 steps, 86, 7 and 1. (Of stacked layers also fewer, as an eighth of the sequence is less.)
SHAPES = [(701, 1), (300, 3), (61, 40), (5, 300)]


def checkpointed(p: KernelProblem, every: int | None) -> KernelProblem:
    return replace(p, options={**p.options, "checkpoint_every": every})


def assert_checkpoints_change_nothing(p: KernelProblem, every) -> None:
    want = everything(p)
    for k in every:
        assert_same(everything(checkpointed(p, k)), want)


# The same bits


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_every_interval_gives_the_same_bits(cell, dtype, stack):
    for steps, batch in SHAPES:
        p = make(cell, dtype, steps=steps, batch=batch, inputs=5, units=9, **stack)
        assert_checkpoints_change_nothing(p, (1, 2, 17, 97, 300, steps - 1, steps, steps + 5))


# Long enough that a segment is divided by rows, by units, among directions, and as a wavefront.
DIVISIONS = {
    "rows": {"steps": 48, "batch": 33, "inputs": 31, "units": 64},
    "units": {"steps": 600, "batch": 1, "inputs": 100, "units": 200},
    "directions": {"steps": 300, "batch": 3, "inputs": 64, "units": 64, "bidirectional": True},
    "layers of directions": {
        "steps": 70, "batch": 17, "inputs": 31, "units": 65, "layers": 3, "bidirectional": True,
        "dropout": 0.3,
    },
    "wavefront": {
        "steps": 700, "batch": 2, "inputs": 40, "units": 65, "layers": 4, "dropout": 0.3,
    },
    "deep wavefront": {"steps": 500, "batch": 1, "inputs": 33, "units": 32, "layers": 7},
}  # fmt: skip


@pytest.mark.parametrize(
    "division",
    [
        pytest.param(name, marks=pytest.mark.deep if name == "wavefront" else [])
        for name in DIVISIONS
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_every_number_of_threads_gives_the_same_bits(cell, division):
    p = make(cell, "float32", **DIVISIONS[division])
    with threads(1):
        want = everything(p)
    for n, k in itertools.product((1, 2, 3), (1, p.x.shape[0] // 2)):
        with threads(n):
            assert_same(everything(checkpointed(p, k)), want)


@pytest.mark.parametrize("isa", fusedrnn.info()["isa_available"])
@pytest.mark.parametrize(("cell", "dtype"), VARIANTS)
def test_every_isa_gives_the_same_bits(cell, dtype, isa):
    script = f"""
        import test_checkpoint as t
        for stack in t.STACKS:
            p = t.make("{cell}", "{dtype}", steps=150, batch=4, inputs=17, units=33, **stack)
            t.assert_checkpoints_change_nothing(p, (1, 100))
        print("done")
    """
    assert output(script, FUSEDRNN_ISA=isa) == "done"


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_whatever_is_given_or_not(cell, bidirectional):
    sizes = {"inputs": 6, "units": 11, "layers": 2, "bidirectional": bidirectional}
    p = make(cell, steps=150, batch=4, state=False, **sizes)
    assert_checkpoints_change_nothing(p, (1, 70))
    first = replace(
        p,
        x=p.x.swapaxes(0, 1),
        dy=p.dy.swapaxes(0, 1),
        options={**p.options, "batch_first": True},
    )
    assert_checkpoints_change_nothing(first, (1, 70))
    assert_checkpoints_change_nothing(make(cell, steps=600, batch=None, **sizes), (1, 300))

    def gradients(k, dy, dstate, out=None):
        tape = functional.forward(cell, p.x, p.parameters, checkpoint_every=k, out=out)[2]
        return arrays(functional.backward(tape, dy, dstate))

    out = np.empty(p.dy.shape, p.dtype)
    for dy, dstate in ((None, pack(p.dstates)), (p.dy, None), (None, None)):
        assert_equal(gradients(64, dy, dstate), gradients(None, dy, dstate))
    assert_equal(gradients(64, p.dy, None, out), gradients(None, p.dy, None))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_an_empty_batch_and_a_single_step(cell, bidirectional):
    for steps, batch in ((1, 1), (1, 300), (1000, 0)):
        p = make(
            cell, steps=steps, batch=batch, inputs=3, units=4, layers=2, bidirectional=bidirectional
        )
        assert_checkpoints_change_nothing(p, (1, 10, 10**30))


@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind):
    """Also that a call with checkpoints drops out what the same call without them would."""
    x = normal(700, 1, 5)
    one, other = (kind(5, 8, 2, dropout=0.5, seed=3) for _ in range(2))
    for k in (1, np.int64(90), 256):
        (y, _, tape), (want, _, full) = one.forward(x, checkpoint_every=k), other.forward(x)
        assert_bits(y, want)
        assert_equal(arrays(one.backward(tape, y)), arrays(other.backward(full, want)))
        assert tape.spent


@pytest.mark.parametrize("bidirectional", [False, True])
def test_backward_writes_to_nothing_that_forward_returned(bidirectional):
    p = make("lstm", steps=600, batch=1, inputs=3, units=5, layers=2, bidirectional=bidirectional)
    want = everything(p)
    y, last, tape = checkpointed(p, 100).forward()
    for part in last:
        part[...] = np.pi
    got = functional.backward(tape, p.dy, pack(p.dstates))
    assert_bits(y, want["y"])
    assert all((part == np.pi).all() for part in last)
    assert_bits(got.x, want["x"])


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_the_sum_of_two_directions_over_a_long_sequence(cell, n):
    """More than 8192 rows go in segments: each direction alone must give the same."""
    p = make(cell, steps=4500, batch=2, inputs=3, units=5, bidirectional=True)
    with threads(n):
        outputs, gradients = run(functional, p)
    dx = []
    for direction, suffix in enumerate(("", "_reverse")):
        turn = slice(None, None, -1 if direction else 1)
        units = slice(5 * direction, 5 * direction + 5)
        alone = replace(
            p,
            x=p.x[turn],
            dy=p.dy[turn, :, units],
            parameters={
                name.removesuffix(suffix): array
                for name, array in p.parameters.items()
                if name.endswith("_reverse") == bool(direction)
            },
            states=tuple(s[direction : direction + 1] for s in p.states),
            dstates=tuple(s[direction : direction + 1] for s in p.dstates),
        )
        y, d_alone = run(functional, alone)
        assert_bits(y["y"][turn], outputs["y"][..., units])
        dx.append(d_alone["x"][turn])
        for name in alone.parameters:
            # A chunk is summed up in the order of time, so that of the reverse direction differs.
            tolerance = 1e-12 if direction else 0
            np.testing.assert_allclose(
                d_alone[name], gradients[name + suffix], rtol=tolerance, atol=tolerance
            )
    assert_bits(dx[0] + dx[1], gradients["x"])


# Memory


@pytest.mark.parametrize("every", [1, 300, 1024, 1025, 3000])
@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize(("cell", "dtype"), [*itertools.product(("lstm", "gru"), DTYPES)])
def test_a_tape_holds_one_segment_and_the_states_before_each(cell, dtype, stack, every):
    steps, batch, units = 5000, 2, 9
    layers, directions = stack["layers"], 1 + stack["bidirectional"]
    p = make(cell, dtype, steps=steps, batch=batch, inputs=3, units=units, **stack)
    chunk = 128  # 256 rows
    segment = -(-every // chunk) * chunk
    segments = -(-steps // segment)
    live = layers if directions == 1 else 1  # layers whose gates are kept
    row = batch * padded(units, dtype)
    expected = directions * live * {"lstm": 5, "gru": 4}[cell] * segment * row
    between = (layers - 1) * batch * directions * units
    if directions == 1:
        expected += between * segment * (2 if stack["dropout"] else 1)
    else:
        expected += between * steps
    states = {"lstm": 2, "gru": 1}[cell]
    expected += (segments - 1) * states * layers * directions * batch * units
    tape = checkpointed(p, every).forward()[2]
    assert tape.nbytes == expected * np.dtype(dtype).itemsize


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_an_interval_of_the_whole_sequence_changes_nothing(cell, stack):
    p = make(cell, steps=300, batch=1, inputs=3, units=4, **stack)
    for k in (300, 301, 10**30):
        assert checkpointed(p, k).forward()[2].nbytes == p.forward()[2].nbytes


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu"])
def test_an_rnn_keeps_what_lies_between_layers_only(cell):
    sizes = {"steps": 3000, "batch": 1, "inputs": 3, "units": 4}
    assert checkpointed(make(cell, "float32", **sizes), 1).forward()[2].nbytes == 0
    stacked = checkpointed(make(cell, "float32", layers=2, **sizes), 256)
    segments = 12
    assert stacked.forward()[2].nbytes == 4 * 4 * (256 + (segments - 1) * 2)
    both = checkpointed(make(cell, "float32", layers=2, bidirectional=True, **sizes), 256)
    assert both.forward()[2].nbytes == 4 * 8 * 3000


PEAK = """
    import numpy as np
    import fusedrnn

    steps, units, bidirectional, every = {arguments}

    def peak():
        with open("/proc/self/status") as lines:
            return next(int(l.split()[1]) * 1024 for l in lines if l.startswith("VmHWM"))

    def train(steps, every):
        x = np.full((steps, 1, units), 0.5, np.float32)
        y, _, tape = layer.forward(x, checkpoint_every=every)
        gradients = layer.backward(tape, y)  # dy is y: one array less
        return x.nbytes + y.nbytes + gradients.x.nbytes

    fusedrnn.set_num_threads(1)
    layer = fusedrnn.LSTM(units, units, bidirectional=bidirectional, seed=0)
    train(600, 1)  # weights, their gradients and what takes memory once
    before = peak()
    arrays = train(steps, every)
    print(peak() - before - arrays)
"""


@pytest.mark.parametrize(
    ("steps", "bidirectional", "every"),
    [(100_000, False, None), (100_000, False, 1000), (40_000, True, None), (40_000, True, 1000)],
)
def test_the_peak_of_a_training_step_is_what_the_formulas_say(steps, bidirectional, every):
    """x, y, dx, dy, and beside them 5*H for each step and direction; or for each of a segment.

    So T = 100,000 takes less than 1 GB. The rest is O(chunk), of which 8 MiB are ample: the panels
    of a chunk, a segment of the second direction's dx, and huge pages that aren't full.
    """
    units = 128
    rest = int(output(PEAK.format(arguments=(steps, units, bidirectional, every)), limit=300))
    kept = steps if every is None else 1024  # whole chunks of 256
    activations = (1 + bidirectional) * 5 * units * kept * 4
    segment_of_dx = (8192 if every is None else 2 * 1024) * units * 4 if bidirectional else 0
    states = 0 if every is None else (1 + bidirectional) * 2 * units * (steps // 1024) * 4
    slack = 8 << 20
    assert rest < activations + segment_of_dx + states + slack
    if every is None:
        assert rest > 0.9 * activations  # the measurement measures
    if not bidirectional:
        assert rest + 4 * steps * units * 4 < 1e9


# Bad arguments


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "at least 1, got 0"),
        (-3, ValueError, "at least 1, got -3"),
        (True, TypeError, "an integer, got bool"),
        (2.0, TypeError, "an integer, got float"),
        ("2", TypeError, "an integer, got str"),
        (np.array([2, 3]), TypeError, "an integer, got ndarray"),
    ],
    ids=repr,
)
def test_an_interval_is_a_positive_integer(value, error, message):
    message = f"checkpoint_every: expected {message}"
    with rejects(error, message) as w:
        w.lstm.forward(w.x, checkpoint_every=value)
    with rejects(error, message) as w:
        functional.forward("lstm", w.x, w.weights, checkpoint_every=value)


def test_a_rejected_interval_uses_up_no_mask():
    one, other = (fusedrnn.GRU(3, 4, 2, dropout=0.5, seed=0) for _ in range(2))
    x = normal(5, 2, 3)
    with pytest.raises(ValueError, match="checkpoint_every"):
        one.forward(x, checkpoint_every=0)
    assert_bits(one.forward(x)[0], other.forward(x)[0])
