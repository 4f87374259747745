"""torch.fx, torch.jit and the exporters: they treat our layers as torch's, or say what to do."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import fx
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fusedrnn.torch
from fusedrnn.torch import accelerate, restore
from torch_problems import CELLS, LAYERS, assert_near, outcome, tensors, twins

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's, which calls torch.jit deprecated

EVERY = [*LAYERS, *CELLS]


class Model(torch.nn.Module):
    """A layer or cell among other operations."""

    def __init__(self, layer):
        super().__init__()
        self.before, self.layer = torch.nn.Linear(4, 4), layer

    def forward(self, x):
        found = self.layer(self.before(x).relu())
        return found, x + 1


def input_for(kind):
    return torch.randn(*((5,) if kind in CELLS else (7, 5)), 4)


# torch.fx


@pytest.mark.parametrize("kind", EVERY)
def test_a_layer_is_a_leaf_of_symbolic_trace(kind):
    model = Model(kind.torch_class(4, 6))
    before = [(node.op, node.target) for node in fx.symbolic_trace(model).graph.nodes]
    accelerate(model, strict=True)
    traced = fx.symbolic_trace(model)
    assert [(node.op, node.target) for node in traced.graph.nodes] == before
    assert type(traced.layer) is kind
    x = input_for(kind)
    for graph in (traced, fx.Transformer(traced).transform(), fx.symbolic_trace(traced)):
        assert all(map(torch.equal, tensors(graph(x)), tensors(model(x))))
    assert restore(traced) == ("layer",)


def test_hooks_run_once():
    model, seen = Model(fusedrnn.torch.GRU(4, 6)), []
    model.layer.register_forward_hook(lambda *_: seen.append(1))
    traced = fx.symbolic_trace(model)
    assert seen == []
    traced(torch.randn(7, 5, 4))
    assert seen == [1]


def test_a_state_and_lengths_may_be_traced():
    class Stateful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = fusedrnn.torch.LSTM(4, 6)

        def forward(self, x, h, c, lengths):
            return self.layer(x, (h, c), lengths=lengths)

    model = Stateful()
    h = torch.randn(1, 5, 6)
    arguments = (torch.randn(7, 5, 4), h, h * 2, torch.tensor([3, 7, 0, 1, 7]))
    found, wanted = fx.symbolic_trace(model)(*arguments), model(*arguments)
    assert all(map(torch.equal, tensors(found), tensors(wanted)))


@pytest.mark.parametrize("kind", EVERY)
def test_a_tracer_that_goes_into_layers_is_told_what_to_do(kind):
    class Curious(fx.Tracer):
        def is_leaf_module(self, m, module_qualified_name):
            return m.__module__.startswith("torch.nn")

    with pytest.raises(RuntimeError, match=r"torch.fx: .*restore\(model\) makes torch's layers"):
        Curious().trace(Model(kind(4, 6)))


# torch.jit


def script_module(layer, cell):
    """A ScriptModule. (Its class is made here, as torch warns of that.)"""

    class Scripted(torch.jit.ScriptModule):
        def __init__(self):
            super().__init__()
            self.layer, self.cells = layer, torch.nn.ModuleList([cell])

        @torch.jit.script_method
        def forward(self, x):
            y = self.layer(x)[0]
            for cell in self.cells:
                y = cell(y[-1])
            return y

    return Scripted()


@pytest.mark.parametrize("kind", LAYERS)
def test_script_modules(kind):
    layer, plain = twins(kind, 4, 4)
    cell, plain_cell = twins(fusedrnn.torch.GRUCell, 4, 4)
    x = torch.randn(7, 5, 4)
    model, twin = script_module(layer, cell), script_module(plain, plain_cell)
    assert model.code == twin.code
    assert_near(tensors(model(x)), tensors(twin(x)))
    assert type(layer) is kind, "who holds the layer itself keeps it"
    file = io.BytesIO()
    torch.jit.save(model, file)
    assert b"fusedrnn" not in file.getvalue()
    file.seek(0)
    assert_near(tensors(torch.jit.load(file)(x)), tensors(twin(x)))


@pytest.mark.parametrize("kind", EVERY)
def test_script_of_an_accelerated_model(kind):
    model, x = Model(kind.torch_class(4, 6)), input_for(kind)
    wanted = tensors(model(x))
    accelerate(model)
    scripted = torch.jit.script(model)
    assert_near(tensors(scripted(x)), wanted)
    assert type(model.layer) is kind.torch_class


class Doubled(torch.nn.GRU):
    def forward(self, input):
        return super().forward(input)[0] * 2


def test_script_of_an_accelerated_subclass_is_that_of_the_subclass():
    model = Model(Doubled(4, 6))
    wanted = outcome(lambda: torch.jit.script(model))
    accelerate(model, strict=True)
    assert outcome(lambda: torch.jit.script(model)) == wanted
    assert type(model.layer) is Doubled


@pytest.mark.parametrize("kind", EVERY)
def test_trace_takes_torchs_way(kind):
    model, x = Model(kind(4, 6)), input_for(kind)
    traced = torch.jit.trace(model, (x,))
    restore(model)
    wanted = torch.jit.trace(model, (x,))
    kinds = [[node.kind() for node in t.inlined_graph.nodes()] for t in (traced, wanted)]
    assert kinds[0] == kinds[1]
    assert_near(tensors(traced(x)), tensors(model(x)))


class Packing(torch.nn.Module):
    """A layer whose input is packed."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, data, batch_sizes, hx):
        y, last = self.layer(PackedSequence(data, batch_sizes), hx)
        return y.data, last


def traced_with_warnings(model, *arguments):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        traced = torch.jit.trace(model, arguments, check_trace=False)
    return traced, sorted(f"{warning.filename}: {warning.message}" for warning in found)


@pytest.mark.parametrize("kind", EVERY)
def test_trace_warns_where_torch_does(kind):
    ours, theirs = twins(kind, 4, 6)
    x = input_for(kind)
    h = torch.randn(*((5,) if kind in CELLS else (1, 5)), 6)
    hx = (h, h) if "LSTM" in kind.__name__ else h
    calls = [(ours, theirs, (x,)), (ours, theirs, (x, hx))]
    if kind in LAYERS:
        packed = pack_sequence(list(x.unbind(1)))
        calls.append((Packing(ours), Packing(theirs), (packed.data, packed.batch_sizes, hx)))
    for mine, torchs, arguments in calls:
        traced, found = traced_with_warnings(mine, *arguments)
        assert found == traced_with_warnings(torchs, *arguments)[1]
        assert_near(tensors(traced(*arguments)), tensors(torchs(*arguments)))


def test_lengths_are_inputs_of_a_trace():
    class Ragged(Model):
        def forward(self, x, lengths):
            return self.layer(x, lengths=lengths)

    model, x = Ragged(fusedrnn.torch.GRU(4, 6)), torch.randn(7, 3, 4)
    traced, found = traced_with_warnings(model, x, torch.tensor([2, 7, 0]))
    assert not any("/fusedrnn/" in text for text in found)
    for lengths in ([2, 7, 0], [7, 1, 1]):
        lengths = torch.tensor(lengths)
        assert_near(tensors(traced(x, lengths)), tensors(model(x, lengths)))
    with pytest.raises(ValueError, match=r"lengths: expected values in \[0, 7\]"):
        torch.jit.trace(model, (x, torch.tensor([2, 8, 0])))


class Mine(fusedrnn.torch.GRU):
    def forward(self, input):
        return super().forward(input)[0]


def test_script_of_a_subclass_of_ours_says_what_it_expects():
    with pytest.raises(TypeError) as caught:
        torch.jit.script(Model(Mine(4, 6)))
    assert str(caught.value) == (
        "torch.jit: expected a subclass of torch.nn.GRU, accelerated or not, got Mine, whose "
        "forward calls that of fusedrnn.torch"
    )


# Exporters and quantization


@pytest.mark.parametrize("kind", EVERY)
def test_onnx_gets_torchs_operators(kind, monkeypatch):
    model, x = Model(kind(4, 6)).eval(), input_for(kind)
    flags = pytest.importorskip("torch.onnx._internal.exporter._flags")
    monkeypatch.setattr(flags, "_is_onnx_exporting", True)
    program = torch.export.export(model, (x,))
    assert "fusedrnn" not in program.graph_module.code
    monkeypatch.undo()
    assert "fusedrnn.rnn" in torch.export.export(model, (x,)).graph_module.code


def test_quantize_dynamic_wants_torchs_layers_back():
    model = Model(torch.nn.LSTM(4, 6))
    accelerate(model)
    quantize, kinds = torch.ao.quantization.quantize_dynamic, {torch.nn.LSTM, torch.nn.Linear}
    assert type(quantize(model, kinds).layer) is fusedrnn.torch.LSTM, "as the docstring says"
    assert restore(model) == ("layer",)
    assert type(quantize(model, kinds).layer) is torch.ao.nn.quantized.dynamic.LSTM
    assert "quantize_dynamic" in accelerate.__doc__
