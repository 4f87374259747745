"""The compiled kernels and the reference have the same cells, parameters and functions."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _core, functional, reference
from fusedrnn._network import network_of


def test_same_cells_in_the_same_order():
    compiled = [(name, *counts) for name, counts in _core.cells().items()]
    specified = [
        (name, len(cell.gates), len(cell.states)) for name, cell in reference.CELLS.items()
    ]
    assert compiled == specified
    assert fusedrnn.info()["cells"] == [name for name, *_ in specified]
    assert [name for name, *_ in specified] == ["lstm", "gru", "rnn_tanh", "rnn_relu"]


@pytest.mark.parametrize("cell", reference.CELLS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_same_parameters_in_the_same_order(cell, layers):
    for bias, bidirectional in itertools.product((False, True), repeat=2):
        shapes = reference.parameter_shapes(
            cell, 5, 3, layers, bias=bias, bidirectional=bidirectional
        )
        network = network_of(cell, {name: np.zeros(shape) for name, shape in shapes.items()})
        assert list(network.shapes()) == list(shapes.items())
        assert (network.input_size, network.hidden_size) == (5, 3)
        assert (network.num_layers, network.bidirectional) == (layers, bidirectional)
        assert network.bias == bias


@pytest.mark.parametrize("function", ["infer", "forward", "backward"])
def test_same_call_shapes(function):
    """All arguments agree in order, kind and default.

    But for those of the kernels that concern memory: whose it is, and how much.
    """
    memory = {"out", "checkpoint_every"}

    def arguments(module):
        parameters = inspect.signature(getattr(module, function)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters if p.name not in memory]

    assert arguments(functional) == arguments(reference)


def test_an_unknown_cell_is_refused_by_both():
    parameters = {"weight_ih_l0": np.zeros((1, 1)), "weight_hh_l0": np.zeros((1, 1))}
    for module in (functional, reference):
        with pytest.raises(ValueError, match="cell: expected one of lstm, gru, rnn_tanh, rnn_relu"):
            module.infer("elman", np.zeros((1, 1, 1)), parameters)
