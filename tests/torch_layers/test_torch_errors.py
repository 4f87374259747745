"""Wrong arguments raise torch's own errors, type and text, in strict mode and without."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import fusedrnn.torch
from torch_problems import CELLS, LAYERS, TORCH, outcome, twins

CONSTRUCTORS = [
    {"input_size": 0, "hidden_size": 3},
    {"input_size": 3, "hidden_size": 0},
    {"input_size": 3.0, "hidden_size": 3},
    {"input_size": 3, "hidden_size": "3"},
    {"input_size": 3, "hidden_size": 4, "num_layers": 0},
    {"input_size": 3, "hidden_size": 4, "bias": 1},
    {"input_size": 3, "hidden_size": 4, "batch_first": 1},
    {"input_size": 3, "hidden_size": 4, "dropout": 1.5},
    {"input_size": 3, "hidden_size": 4, "dropout": True},
    {"input_size": 3, "hidden_size": 4, "proj_size": 4},
    {"input_size": 3, "hidden_size": 4, "proj_size": -1},
    {"input_size": 3, "hidden_size": 4, "nonlinearity": "sigmoid"},
    {"input_size": 3, "hidden_size": 4, "colour": "red"},
    {"input_size": 3},
]


@pytest.mark.parametrize("options", CONSTRUCTORS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_constructors(kind, options):
    found = outcome(lambda: kind(**options))
    wanted = outcome(lambda: kind.torch_class(**options))
    if TORCH >= (2, 13):  # older ones take some of these
        assert isinstance(wanted, tuple)
    assert found == wanted if isinstance(wanted, tuple) else type(found) is kind


def test_the_warning_of_dropout_without_effect():
    for kind in LAYERS:
        with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
            kind(3, 4, dropout=0.5)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


# x, and h (c is shaped alike) of a layer with I = 3, H = 4, L = 1.
CALLS = {
    "no steps": (zeros(0, 2, 3), None),
    "no steps, one sequence": (zeros(0, 3), None),
    "one dimension": (zeros(3), None),
    "four dimensions": (zeros(1, 5, 2, 3), None),
    "input size": (zeros(5, 2, 7), None),
    "input size, one sequence": (zeros(5, 7), None),
    "dtype": (zeros(5, 2, 3, dtype=torch.float64), None),
    "integers": (zeros(5, 2, 3, dtype=torch.int64), None),
    "half": (zeros(5, 2, 3, dtype=torch.float16), None),
    "hidden size": (zeros(5, 2, 3), zeros(1, 2, 5)),
    "batch of the state": (zeros(5, 2, 3), zeros(1, 3, 4)),
    "layers of the state": (zeros(5, 2, 3), zeros(2, 2, 4)),
    "rank of the state": (zeros(5, 2, 3), zeros(2, 4)),
    "rank of the state, one sequence": (zeros(5, 3), zeros(1, 2, 4)),
    "size of the state, one sequence": (zeros(5, 3), zeros(1, 5)),
    "dtype of the state": (zeros(5, 2, 3), zeros(1, 2, 4, dtype=torch.float64)),
    "packed: input size": (pack_sequence([zeros(5, 7)]), None),
    "packed: hidden size": (pack_sequence([zeros(5, 3)]), zeros(1, 1, 5)),
    "packed: batch of the state": (pack_sequence([zeros(5, 3)]), zeros(1, 2, 4)),
    "packed: dtype": (pack_sequence([zeros(5, 3, dtype=torch.float64)]), None),
    "no tensor": ([[1.0]], None),
    "none": (None, None),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", LAYERS)
def test_calls(kind, name, grad, strict):
    x, h = CALLS[name]
    ours, theirs = twins(kind, 3, 4)
    hx = (h, h) if h is not None and kind is fusedrnn.torch.LSTM else h
    with torch.set_grad_enabled(grad), fusedrnn.torch.strict(strict):
        found = outcome(lambda: ours(x, hx))
        if kind is fusedrnn.torch.LSTM and name.startswith("packed"):
            # torch's LSTM looks at nothing of packed sequences: ours raises what its others do.
            wanted = outcome(lambda: torch.nn.GRU(3, 4)(x, h))
            wanted = wanted[0], wanted[1].replace("hidden size", "hidden[0] size")
        else:
            wanted = outcome(lambda: theirs(x, hx))
    assert isinstance(wanted[0], type)
    assert found == wanted


@pytest.mark.parametrize(
    "hx",
    [
        zeros(2, 1, 2, 4),
        (zeros(1, 2, 4),),
        (zeros(1, 2, 4), zeros(1, 2, 5)),
        (zeros(1, 2, 4), zeros(2, 4)),
        (zeros(1, 2, 4), None),
        5,
    ],
    ids=lambda hx: str(getattr(hx, "shape", hx))[:40],
)
def test_states_of_an_lstm(hx):
    ours, theirs = twins(fusedrnn.torch.LSTM, 3, 4)
    wanted = outcome(lambda: theirs(zeros(5, 2, 3), hx))
    assert isinstance(wanted[0], type)
    assert both_outcomes(ours, zeros(5, 2, 3), hx) == [wanted, wanted]


def both_outcomes(layer, x, hx):
    """What a call raises, alone and under vmap."""
    mapped = torch.func.vmap(lambda x: layer(x, hx))
    return [outcome(lambda: layer(x, hx)), outcome(lambda: mapped(x[None]))]


@pytest.mark.parametrize("kind", [fusedrnn.torch.GRU, fusedrnn.torch.RNN])
def test_states_that_are_no_tensor(kind):
    ours, theirs = twins(kind, 3, 4)
    for hx in ((zeros(1, 2, 4), zeros(1, 2, 4)), 5):
        wanted = outcome(lambda hx=hx: theirs(zeros(5, 2, 3), hx))
        assert both_outcomes(ours, zeros(5, 2, 3), hx) == [wanted, wanted]


# x, and h (c is shaped alike) of a cell with I = 3, H = 4.
CELL_CALLS = {
    "input size": (zeros(2, 7), None),
    "input size, one sequence": (zeros(7), None),
    "three dimensions": (zeros(1, 2, 3), None),
    "no dimension": (zeros(()), None),
    "dtype": (zeros(2, 3, dtype=torch.float64), None),
    "hidden size": (zeros(2, 3), zeros(2, 5)),
    "batch of the state": (zeros(2, 3), zeros(5, 4)),
    "three dimensions of the state": (zeros(2, 3), zeros(1, 2, 4)),
    "rank of the state": (zeros(2, 3), zeros(4)),
    "rank of the state, one sequence": (zeros(3), zeros(2, 4)),
    "dtype of the state": (zeros(2, 3), zeros(2, 4, dtype=torch.float64)),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", CELL_CALLS)
@pytest.mark.parametrize("kind", CELLS)
def test_calls_of_cells(kind, name, grad):
    x, h = CELL_CALLS[name]
    ours, theirs = twins(kind, 3, 4)
    hx = (h, h) if h is not None and kind is fusedrnn.torch.LSTMCell else h
    with torch.set_grad_enabled(grad):
        wanted = outcome(lambda: theirs(x, hx))
        assert isinstance(wanted[0], type), "torch accepts it"
        assert outcome(lambda: ours(x, hx)) == wanted


def test_the_texts_that_people_search_for():
    gru, lstm, cell = (
        fusedrnn.torch.GRU(10, 20),
        fusedrnn.torch.LSTM(10, 20),
        fusedrnn.torch.GRUCell(10, 20),
    )
    for call, text in [
        (lambda: gru(zeros(0, 3, 10)), "Expected sequence length to be larger than 0 in RNN"),
        (lambda: gru(zeros(5, 3, 10), zeros(1, 3, 7)), "Expected hidden size (1, 3, 20), got [1, "),
        (lambda: lstm(zeros(5, 3, 10), (zeros(1, 3, 7),) * 2), "Expected hidden[0] size (1, 3, 20"),
        (lambda: gru(zeros(5, 3, 11)), "input.size(-1) must be equal to input_size. Expected 10, "),
        (lambda: cell(zeros(3, 11)), "input has inconsistent input_size: got 11 expected 10"),
        (
            lambda: cell(zeros(3, 10), zeros(5, 20)),
            "Input batch size 3 doesn't match hidden0 batch size 5",
        ),
    ]:
        with pytest.raises(RuntimeError) as caught:
            call()
        assert str(caught.value).startswith(text)


def test_errors_of_the_switches():
    for switch in (fusedrnn.torch.strict, fusedrnn.torch.trust_version_counters):
        with pytest.raises(TypeError, match="mode: expected a bool, got int"):
            switch(1)
        before = switch.enabled
        with switch():
            assert switch.enabled
            with switch(False):
                assert not switch.enabled
            assert switch.enabled
        assert switch.enabled is before is False
