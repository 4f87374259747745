"""accelerate and restore: what changes, what stays, what is reported."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrizations

import fusedrnn.torch
from fusedrnn.torch import NotAccelerated, accelerate, restore
from torch_problems import CELLS, LAYERS, assert_near, step, tensors, twins

EVERY = [*LAYERS, *CELLS]


class Tagger(torch.nn.Module):
    """A model with layers at several depths, one of them in two places."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)
        self.encoder = torch.nn.LSTM(4, 6, 2, bidirectional=True)
        self.stack = torch.nn.ModuleList([torch.nn.GRU(12, 12), torch.nn.RNN(12, 12)])
        self.again = self.stack[0]
        self.cell = torch.nn.LSTMCell(12, 12)
        self.out = torch.nn.Linear(12, 3)

    def forward(self, x):
        y, _ = self.encoder(self.embed(x))
        for layer in (*self.stack, self.again):
            y, _ = layer(y)
        return self.out(self.cell(y[-1])[0])


NAMES = ("encoder", "stack.0", "stack.1", "cell")


def test_a_model_stays_what_it_is():
    model, x = Tagger(), torch.randint(10, (7, 2))
    want = model(x).detach()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state, parameters = dict(model.state_dict()), list(model.parameters())
    modules = list(model.modules())
    report = accelerate(model)
    assert report.swapped == NAMES and report.left == {}
    assert list(model.modules()) == modules
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)
    assert model.again is model.stack[0] and type(model.again) is fusedrnn.torch.GRU
    with fusedrnn.torch.strict():
        assert_near([model(x)], [want])
        model(x).square().sum().backward()
        optimizer.step()
        changed = model(x).detach()
    assert not torch.allclose(changed, want)
    assert restore(model) == NAMES
    assert type(model.encoder) is torch.nn.LSTM and type(model.cell) is torch.nn.LSTMCell
    assert_near([model(x)], [changed])
    assert restore(model) == ()


@pytest.mark.parametrize("kind", EVERY)
def test_the_model_may_be_a_layer(kind):
    layer = kind.torch_class(4, 6)
    report = accelerate(layer)
    assert type(layer) is kind and report.swapped == ("",)
    assert str(report) == "(the model): accelerated"
    assert accelerate(layer) == report, "a second time changes nothing"
    assert restore(layer) == ("",)
    assert type(layer) is kind.torch_class


def test_attributes_hooks_and_modes_stay():
    layer, seen = torch.nn.GRU(4, 6, batch_first=True), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    layer.register_buffer("mean", torch.ones(3))
    layer.note, layer.bias_ih_l0.requires_grad = "mine", False
    layer.eval()
    before = dict(vars(layer))
    accelerate(layer)
    assert vars(layer).keys() == before.keys()
    assert all(vars(layer)[name] is value for name, value in before.items())
    layer(torch.ones(2, 5, 4))
    assert seen == [1]
    restore(layer)
    assert all(vars(layer)[name] is value for name, value in before.items())


def test_trust_is_said_by_the_report_and_taken_back():
    model = torch.nn.ModuleList([torch.nn.GRU(4, 6), torch.nn.LSTMCell(4, 6)])
    report = accelerate(model[:1], trust=True)
    assert report.trusted == ("0",)
    assert str(report) == "0: accelerated, trusting version counters"
    report = accelerate(model)
    assert report.swapped == ("0", "1") and report.trusted == ("0",)
    assert model[0].trust and not model[1].trust
    assert restore(model) == ("0", "1")
    assert not hasattr(model[0], "trust")
    with pytest.raises(TypeError, match=r"^trust: expected a bool, got int$"):
        accelerate(model, trust=1)
    model[0].trust = "mine"
    assert accelerate(model).left == {
        "0": "it has a trust, as fusedrnn's layers have for themselves"
    }


class Own(torch.nn.RNNBase):
    """A layer of somebody's own, on torch's base class."""

    def forward(self, input, hx=None):
        return input * 2, hx


def test_what_is_left_and_why():
    replaced = torch.nn.GRU(4, 6)
    replaced.forward = lambda x: x
    unknown = torch.nn.RNNCell(4, 6)
    mixed = torch.nn.GRU(4, 6)
    mixed.bias_hh_l0.data = mixed.bias_hh_l0.data.double()
    model = torch.nn.ModuleDict(
        {
            "fine": torch.nn.GRU(4, 6),
            "low": torch.nn.GRU(4, 6, dtype=torch.float16),
            "meta": torch.nn.LSTM(4, 6, device="meta"),
            "mixed": mixed,
            "own": Own("GRU", 4, 6),
            "replaced": replaced,
            "cell": unknown,
        }
    )
    report = accelerate(model)
    assert report.swapped == ("fine", "cell")
    assert dict(report.left) == {
        "low": "parameters of torch.float16, not float32 or float64",
        "meta": "parameters on meta, not on the CPU or a GPU",
        "mixed": "parameters of torch.float32 and of torch.float64",
        "own": f"{Own.__module__}.Own is a class of its own; in a subclass of torch's LSTM, GRU, "
        "RNN or cells, calls of super().forward() would be accelerated",
        "replaced": "its forward was replaced",
    }
    assert str(report).splitlines()[:3] == [
        "fine: accelerated",
        "cell: accelerated",
        "low: left, parameters of torch.float16, not float32 or float64",
    ]
    assert type(model["own"]) is Own and type(model["low"]) is torch.nn.GRU
    assert str(accelerate(torch.nn.Linear(2, 2))) == "no recurrent layers"


def test_strict_changes_all_or_nothing():
    model = torch.nn.ModuleList([torch.nn.GRU(4, 6), torch.nn.GRU(4, 6, dtype=torch.float16)])
    with pytest.raises(NotAccelerated) as caught:
        accelerate(model, strict=True)
    assert str(caught.value) == (
        "model: expected to accelerate every layer, got\n"
        "0: accelerated\n"
        "1: left, parameters of torch.float16, not float32 or float64"
    )
    assert type(model[0]) is torch.nn.GRU
    accelerate(model[:1], strict=True)
    x = torch.randn(5, 2, 4)
    model[0](x)
    model[0].bfloat16()
    with pytest.raises(NotAccelerated) as caught:
        model[0](x.bfloat16())
    assert str(caught.value) == "GRU: parameters of torch.bfloat16, not float32 or float64"
    with pytest.raises(
        RuntimeError, match="must be equal to input_size"
    ):  # torch's errors come first
        model[0](x.bfloat16()[:, :, :3])
    restore(model)
    model[0](x.bfloat16())
    assert "strict" not in vars(model[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_parametrized_layers(kind):
    layer, twin = kind.torch_class(4, 6), kind.torch_class(4, 6)
    twin.load_state_dict(layer.state_dict())
    for module in (layer, twin):
        parametrizations.weight_norm(module, "weight_hh_l0")
    report = accelerate(layer)
    assert report.swapped == ("",)
    assert isinstance(layer, kind) and not isinstance(twin, kind)
    x = torch.randn(5, 2, 4)
    with fusedrnn.torch.strict():
        found = step(layer, x, None)
    wanted = step(twin, x, None)
    assert_near(found[0] + found[1], wanted[0] + wanted[1])
    assert restore(layer) == ("",)
    assert not isinstance(layer, kind)
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is kind.torch_class
    assert_near(tensors(layer(x)), wanted[0])


def test_layers_with_weights_that_were_replaced():
    ours, theirs = twins(fusedrnn.torch.LSTM, 4, 6)
    restore(ours)
    for layer in (ours, theirs):
        raw = layer.weight_hh_l0
        del layer.weight_hh_l0
        layer.weight_hh_l0_raw = raw
        layer.weight_hh_l0 = raw * 2
    accelerate(ours)
    x = torch.randn(5, 2, 4)
    with fusedrnn.torch.strict():
        assert_near(tensors(ours(x)), tensors(theirs(x)))


@pytest.mark.parametrize("kind", [fusedrnn.torch.LSTM, fusedrnn.torch.GRUCell])
def test_layers_whose_weights_are_plain_tensors(kind):
    """None of them is a parameter, and none is looked for where it was deleted."""
    layer, x = kind.torch_class(4, 6), torch.randn(5, 4)
    wanted = tensors(layer(x))
    values = {name: p.detach().clone() for name, p in layer.named_parameters()}
    for name in values:
        delattr(layer, name)
    assert accelerate(layer, strict=True).swapped == ("",)
    restore(layer)
    for name, value in values.items():
        setattr(layer, name, value)
    assert accelerate(layer, strict=True).swapped == ("",)
    assert_near(tensors(layer(x)), wanted)
    restore(layer)
    setattr(layer, name, value.bfloat16())
    assert "parameters of torch.bfloat16" in accelerate(layer).left[""]


class Scaled(torch.nn.GRU):
    """Has a parameter that the kernels don't read."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.bfloat16))


def test_only_what_the_kernels_read_is_looked_at():
    layer, x = Scaled(4, 6), torch.randn(5, 2, 4)
    wanted = tensors(layer(x))
    assert accelerate(layer, strict=True).swapped == ("",)
    assert_near(tensors(layer(x)), wanted)
    low = torch.nn.GRU(4, 6, dtype=torch.bfloat16)
    parametrizations.weight_norm(low, "weight_ih_l0")
    assert "parameters of torch.bfloat16" in accelerate(low).left[""]


def test_accelerate_computes_no_parametrization():
    layer = parametrizations.spectral_norm(torch.nn.GRU(4, 6), "weight_hh_l0")
    before = {name: value.clone() for name, value in layer.named_buffers()}
    assert accelerate(layer, strict=True).swapped == ("",)
    assert before and all(torch.equal(v, before[n]) for n, v in layer.named_buffers())


def test_errors():
    for function in (accelerate, restore):
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
            function([])
    with pytest.raises(TypeError, match="strict: expected a bool, got int"):
        accelerate(torch.nn.GRU(4, 6), strict=1)


def test_names_of_torch_nn_may_be_given_to_other_classes(monkeypatch):
    pairs = [twins(kind, 4, 6) for kind in EVERY]
    classes = [type(theirs) for _, theirs in pairs]
    for kind in EVERY:
        monkeypatch.setattr(torch.nn, kind.__name__, kind)
        monkeypatch.setattr(torch.nn.modules.rnn, kind.__name__, kind)
    for base in ("RNNBase", "RNNCellBase"):
        monkeypatch.setattr(torch.nn, base, torch.nn.Linear)
    x = torch.randn(5, 4)
    for (ours, theirs), torch_class in zip(pairs, classes, strict=True):
        lstm = torch_class.__name__.startswith("LSTM")
        cell = torch_class.__name__.endswith("Cell")
        h = torch.randn(5 if cell else 1, 6)
        for hx in (None, (h, h) if lstm else h):
            with fusedrnn.torch.strict():
                assert_near(tensors(ours(x, hx)), tensors(theirs(x, hx)))
        assert restore(ours) == ("",) and type(ours) is torch_class
        assert accelerate(ours).swapped == ("",)
        assert isinstance(getattr(torch.nn, torch_class.__name__)(4, 6), type(ours))
