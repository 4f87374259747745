"""Keras's configurations: each entry is read right or refused, whichever form they come in."""

from __future__ import annotations

import numpy as np
import pytest

import fusedrnn
from fusedrnn.weights import from_keras, to_keras

I, H = 3, 4  # noqa: E741
CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "SimpleRNN", "rnn_relu": "SimpleRNN"}
MAKE = {
    "lstm": fusedrnn.LSTM,
    "gru": fusedrnn.GRU,
    "rnn_tanh": fusedrnn.RNN,
    "rnn_relu": lambda *sizes, **options: fusedrnn.RNN(*sizes, nonlinearity="relu", **options),
}


def layer_weights(cell, *, bidirectional=False, bias=True):
    layer = MAKE[cell](I, H, bidirectional=bidirectional, bias=bias, seed=0)
    return to_keras(cell, layer.parameters)


def cell_config(cell, **changes):
    """Return what `get_config` of a cell gives, in Keras 3."""
    drawn = {"module": "keras.initializers", "class_name": "Zeros", "config": {}}
    entries = {
        "name": "cell",
        "trainable": True,
        "dtype": {
            "module": "keras",
            "class_name": "DTypePolicy",
            "config": {"name": "float32"},
            "registered_name": None,
        },
        "units": H,
        "activation": "relu" if cell == "rnn_relu" else "tanh",
        "use_bias": True,
        "kernel_initializer": drawn,
        "recurrent_regularizer": {"class_name": "L2", "config": {"l2": 0.01}},
        "bias_constraint": None,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "seed": None,
    }
    if cell in ("lstm", "gru"):
        entries["recurrent_activation"] = "sigmoid"
    entries |= {"lstm": {"unit_forget_bias": True}, "gru": {"reset_after": True}}.get(cell, {})
    return entries | changes


def flags(*, go_backwards=False):
    """Return the entries of a layer that its cell doesn't have."""
    return {
        "return_sequences": True,
        "return_state": False,
        "go_backwards": go_backwards,
        "stateful": False,
        "unroll": True,
        "zero_output_for_mask": False,
    }


def layer_config(cell, *, go_backwards=False, **changes):
    return cell_config(cell, **changes) | flags(go_backwards=go_backwards)


def serialised(kind, entries, **beside):
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": entries,
        "registered_name": None,
        "build_config": {"input_shape": [None, None, I]},
    } | beside


def as_layer(cell, **changes):
    return serialised(CELLS[cell], layer_config(cell, **changes))


def as_arguments(cell, **changes):
    return layer_config(cell, **changes)


def as_cell(cell, go_backwards=False, **changes):
    inner = serialised(
        f"{CELLS[cell]}Cell", cell_config(cell, **changes), build_config={"input_shape": [None, I]}
    )
    return serialised("RNN", {"name": "rnn", **flags(go_backwards=go_backwards), "cell": inner})


def as_cells_arguments(cell, **changes):
    return as_cell(cell, **changes)["config"]


def both(make, cell, entries=None, **changes):
    """Return a Bidirectional of two layers; the changes are those of the backward one."""
    forward, backward = make(cell), make(cell, **{"go_backwards": True, **changes})
    inner = {"name": "both", "merge_mode": "concat", "layer": forward, "backward_layer": backward}
    return serialised("Bidirectional", inner | (entries or {}))


FORMS = (as_arguments, as_layer, as_cell, as_cells_arguments)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_form_of_a_layer_is_read(cell, form):
    weights = layer_weights(cell)
    want = from_keras(cell, weights)
    got = from_keras(cell, weights, config=form(cell))
    assert list(got) == list(want)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
    without = layer_weights(cell, bias=False)
    assert len(from_keras(cell, without, config=form(cell, use_bias=False))) == 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_form_of_two_directions_is_read(cell, form):
    weights = layer_weights(cell, bidirectional=True)
    for config in (both(form, cell), both(form, cell)["config"]):
        assert len(from_keras(cell, weights, config=config)) == 8


def entries_of(form):
    """Return what the entries are called in messages."""
    return "" if form in (as_arguments, as_layer) else "cell."


WRONG = {
    "units: expected 4, got 5: as in the weights": {"units": 5},
    "units: expected 4, got '4': as in the weights": {"units": "4"},
    "units: expected 4, got True": {"units": True},
    "use_bias: expected True, got False: there is a bias among the weights": {"use_bias": False},
    "use_bias: expected True, got 1: ": {"use_bias": 1},
    "activation: expected 'tanh', got 'linear': the cell is ": {"activation": "linear"},
    "activation: expected 'tanh', got None": {"activation": None},
    "activation: expected 'tanh', got {'class_name': 'function', 'config': 'mine'}": {
        "activation": {"class_name": "function", "config": "mine"}
    },
    "dropout: expected 0, got 0.2: it acts in training alone": {"dropout": 0.2},
    "dropout: expected 0, got '0': ": {"dropout": "0"},
    "recurrent_dropout: expected 0, got 0.5: ": {"recurrent_dropout": 0.5},
    "config: expected entries that are known here, got peephole": {"peephole": False},
    "dtype: expected one of ": {"dtype": "int8_from_float32"},
    "dtype: expected one of  ": {
        "dtype": {"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("message", WRONG)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_every_entry_is_read_in_every_form(cell, message, form):
    with pytest.raises(ValueError, match="expected") as error:
        from_keras(cell, layer_weights(cell), config=form(cell, **WRONG[message]))
    assert str(error.value).startswith(entries_of(form) + message.rstrip(" ")), error.value

    two = layer_weights(cell, bidirectional=True)
    with pytest.raises(ValueError, match="expected") as error:
        from_keras(cell, two, config=both(form, cell, **WRONG[message]))
    assert str(error.value).startswith(f"backward_layer.{entries_of(form)}{message.rstrip(' ')}")


GATED = {
    ("lstm", "recurrent_activation: expected 'sigmoid', got 'hard_sigmoid'"): {
        "recurrent_activation": "hard_sigmoid"
    },
    ("gru", "recurrent_activation: expected 'sigmoid', got None"): {"recurrent_activation": None},
    ("gru", "reset_after: expected True, got False: a GRU here resets"): {"reset_after": False},
    # What another cell has is unknown to this one.
    ("lstm", "config: expected entries that are known here, got reset_after"): {
        "reset_after": True
    },
    ("gru", "config: expected entries that are known here, got unit_forget_bias"): {
        "unit_forget_bias": True
    },
    ("rnn_tanh", "config: expected entries that are known here, got recurrent_activation"): {
        "recurrent_activation": "sigmoid"
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "message"), GATED)
def test_entries_of_one_cell(cell, message, form):
    with pytest.raises(ValueError, match="expected") as error:
        from_keras(cell, layer_weights(cell), config=form(cell, **GATED[cell, message]))
    assert str(error.value).startswith(entries_of(form) + message), error.value


@pytest.mark.parametrize("form", FORMS)
def test_the_direction_is_read_in_every_form(form):
    with pytest.raises(ValueError, match=r"^go_backwards: expected False, got True: reverse"):
        from_keras("gru", layer_weights("gru"), config=form("gru", go_backwards=True))
    two = layer_weights("gru", bidirectional=True)
    with pytest.raises(ValueError, match=r"^backward_layer.go_backwards: expected True, got False"):
        from_keras("gru", two, config=both(form, "gru", go_backwards=False))
    with pytest.raises(ValueError, match=r"^merge_mode: expected 'concat', got 'sum'"):
        from_keras("gru", two, config=both(form, "gru", {"merge_mode": "sum"}))
    with pytest.raises(ValueError, match=r"^merge_mode: expected 'concat', got None"):
        from_keras("gru", two, config=both(form, "gru", {"merge_mode": None}))


def test_as_many_directions_as_the_weights_have():
    one, two = layer_weights("lstm"), layer_weights("lstm", bidirectional=True)
    with pytest.raises(ValueError, match="config: expected that of Bidirectional, since there"):
        from_keras("lstm", two, config=as_layer("lstm"))
    with pytest.raises(ValueError, match="config: expected that of LSTM, since there are wei"):
        from_keras("lstm", one, config=both(as_layer, "lstm"))
    with pytest.raises(ValueError, match=r"layer.config: expected a layer of one direction, got"):
        from_keras("lstm", two, config=both(lambda cell, **_: both(as_layer, cell), "lstm"))


def built_with_state(inputs=I):
    """Return what Keras says of a layer that was called with a state: a decoder's."""
    return {
        "shapes_dict": {
            "sequences_shape": [None, None, inputs],
            "initial_state_shape": [[None, H], [None, H]],
        }
    }


def test_layers_that_were_called_with_a_state():
    built = built_with_state()
    config = serialised("LSTM", layer_config("lstm"), build_config=built)
    assert len(from_keras("lstm", layer_weights("lstm"), config=config)) == 4
    config = both(as_layer, "lstm") | {"build_config": built}
    assert len(from_keras("lstm", layer_weights("lstm", bidirectional=True), config=config)) == 8


CLASSES = {
    "config: expected that of GRU, got 'LSTM'": as_layer("lstm"),
    "config: expected that of GRU, got 'CuDNNGRU'": serialised("CuDNNGRU", layer_config("gru")),
    "config: expected that of GRU, got 'TimeDistributed'": serialised("TimeDistributed", {}),
    "cell.config: expected that of GRUCell, got 'LSTMCell'": as_cell("lstm"),
    "config: expected a class of Keras, got 'GRU' of 'mine>GRU'": serialised(
        "GRU", layer_config("gru"), registered_name="mine>GRU"
    ),
    "config: expected a class of Keras, got 'GRU' of 'mine.layers'": serialised(
        "GRU", layer_config("gru"), module="mine.layers"
    ),
    "config: expected entries that are known here, got quantized": serialised(
        "GRU", layer_config("gru"), quantized=True
    ),
    "build_config.input_shape: expected 3 features, as in the weights, got [None, 7]": serialised(
        "GRU", layer_config("gru"), build_config={"input_shape": [None, 7]}
    ),
    "build_config.shapes_dict.sequences_shape: expected 3 features, as in the weights, got": (
        serialised("GRU", layer_config("gru"), build_config=built_with_state(inputs=7))
    ),
    "build_config: expected entries that are known here, got shapes": serialised(
        "GRU", layer_config("gru"), build_config={"shapes": [None, I]}
    ),
    "dtype: expected one of": layer_config(
        "gru", dtype={"class_name": "DTypePolicy", "config": ["float32"]}
    ),
    "batch_input_shape: expected 3 features, as in the weights, got (None, None, 2)": (
        layer_config("gru", batch_input_shape=(None, None, 2))
    ),
    "input_dim: expected 3 features, as in the weights, got 5": layer_config("gru", input_dim=5),
}


@pytest.mark.parametrize("message", CLASSES)
def test_what_a_configuration_is_of(message):
    with pytest.raises(ValueError, match="expected") as error:
        from_keras("gru", layer_weights("gru"), config=CLASSES[message])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("count", [1, 2])
def test_stacks_of_cells_are_refused(count):
    cells = [as_cell("lstm")["config"]["cell"]] * count
    for stack in (cells, serialised("StackedRNNCells", {"cells": cells}), {"cells": cells}):
        config = serialised("RNN", {**flags(), "cell": stack})
        with pytest.raises(
            ValueError, match=r"cell.config: expected one LSTMCell, got a stack: ta"
        ):
            from_keras("lstm", layer_weights("lstm"), config=config)


@pytest.mark.parametrize(
    "config",
    [
        "GRU",
        [],
        serialised("GRU", None),
        serialised("RNN", {"cell": "GRUCell"}),
        serialised("GRU", layer_config("gru"), build_config=[1]),
        serialised("GRU", layer_config("gru"), build_config={"shapes_dict": [1]}),
    ],
)
def test_configurations_that_are_no_mappings(config):
    with pytest.raises(
        TypeError, match=r"(config|shapes_dict): expected a mapping(?: in it)?, got "
    ):
        from_keras("gru", layer_weights("gru"), config=config)


def test_what_has_keras_defaults_may_be_missing():
    for config in ({}, {"units": H}, {"activation": "tanh"}, {"class_name": "GRU", "config": {}}):
        assert len(from_keras("gru", layer_weights("gru"), config=config)) == 4


def test_dropout_is_left_out_on_purpose():
    config = layer_config("gru", dropout=0.3)
    assert len(from_keras("gru", layer_weights("gru"), config={**config, "dropout": 0})) == 4
