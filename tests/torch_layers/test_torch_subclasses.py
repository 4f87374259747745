"""accelerate and restore of subclasses of torch's layers and cells."""

from __future__ import annotations

import abc
import copy
import functools
import io
import itertools
import pickle
from typing import ClassVar, Generic, TypeVar

import pytest
import torch
from torch.nn.utils import parametrizations

import fusedrnn.torch
from fusedrnn.torch import NotAccelerated, accelerate, restore
from torch_problems import TORCH, assert_near, step, tensors

X = torch.randn(5, 2, 4)


class Forgetful(torch.nn.LSTM):
    """Adds a method, an attribute, and other initial values."""

    def __init__(self, *arguments, note="a", **options):
        super().__init__(*arguments, **options)
        self.note = note

    def reset_parameters(self):
        super().reset_parameters()
        with torch.no_grad():
            self.bias_hh_l0[self.hidden_size : 2 * self.hidden_size] += 2

    def last(self, x):
        return self(x)[0][-1]


class Doubled(torch.nn.GRU):
    def forward(self, input, hx=None):
        y, h = super().forward(input, hx)
        return y * 2, h


class Tripled(Doubled):
    def forward(self, input, hx=None):
        y, h = super(Tripled, self).forward(input, hx)  # noqa: UP008  (as older code does)
        return y * 1.5, h


class Residual:
    """A mixin, in front of whichever layer."""

    def forward(self, input, hx=None):
        y, last = super().forward(input, hx)
        return y + 1, last


class Mixed(Residual, torch.nn.RNN):
    pass


class Behind(torch.nn.GRU, Residual):
    """The mixin's forward is never the one found."""


class Slotted(torch.nn.GRU):
    __slots__ = ("calls",)

    def forward(self, input, hx=None):
        self.calls = getattr(self, "calls", 0) + 1
        return self.run(input, hx)

    def run(self, input, hx):
        return super().forward(input, hx)


class Abstract(torch.nn.LSTM, abc.ABC):
    pass


Item = TypeVar("Item")


class Typed(torch.nn.GRU, Generic[Item]):
    pass


class Registered(torch.nn.GRU):
    """Keeps a list of its subclasses, which must say a name."""

    names: ClassVar[list[str]] = []

    def __init_subclass__(cls, *, name):
        cls.names.append(name)


class Named(Registered, name="named"):
    pass


def logged(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


class Decorated(torch.nn.GRU):
    @logged
    def forward(self, input, hx=None):
        return super().forward(input, hx)


class Roundabout(Slotted):
    """Reaches torch's forward by a property, an inner function and a method of its base."""

    @property
    def runs(self):
        parent = super()
        return lambda *arguments: parent.forward(*arguments)

    def forward(self, input, hx=None):
        return self.runs(input, hx)


class Calling(torch.nn.GRU):
    def __call__(self, *arguments):
        return super().__call__(*arguments)


class Dropping(torch.nn.LSTM):
    """Runs on other weights than its parameters, as DropConnect does."""

    def forward(self, input, hx=None):
        kept = self._flat_weights
        named = zip(self._flat_weights_names, kept, strict=True)
        self._flat_weights = [w / 2 if n.startswith("weight_hh") else w for n, w in named]
        found = super().forward(input, hx)
        self._flat_weights = kept
        return found


class Looks:
    """A mixin that finds other weights than the parameters."""

    def __getattr__(self, name):
        found = super().__getattr__(name)
        return found * 2 if name.startswith("weight_hh") else found


class Looking(Looks, torch.nn.GRU):
    pass


class LookingCell(Looks, torch.nn.GRUCell):
    pass


class Overlaid(torch.nn.RNN):
    """Has an attribute of its own under a parameter's name."""

    @property
    def weight_hh_l0(self):
        if "weight_hh_l0" not in self._parameters:
            raise AttributeError
        return self._parameters["weight_hh_l0"] * 2


class StepTwice(torch.nn.LSTMCell):
    def forward(self, input, hx=None):
        return super().forward(input, super().forward(input, hx))


class Gated(torch.nn.GRUCell):
    gate = 0.5


OVERLAID_IN_EXPORT = pytest.param(
    Overlaid,
    marks=pytest.mark.skipif(TORCH < (2, 9), reason="this torch's export loses the attribute"),
)
CELLS = [StepTwice, Gated]
OTHER_WEIGHTS = [Dropping, Looking, LookingCell, Overlaid]
KINDS = [
    *(Forgetful, Doubled, Tripled, Mixed, Behind, Slotted, Abstract, Typed, Named, Decorated),
    *(Roundabout, Calling),
    *CELLS,
]


def input_for(layer):
    return X[0] if isinstance(layer, torch.nn.RNNCellBase) else X


@pytest.mark.parametrize("kind", KINDS)
def test_a_subclass_is_accelerated_and_restored(kind):
    layer = kind(4, 6)
    twin, x = copy.deepcopy(layer) if not isinstance(layer, Slotted) else layer, input_for(layer)
    wanted = step(twin, x, None)
    before = dict(vars(layer))
    report = accelerate(layer)
    assert report == fusedrnn.torch.Report(("",), {})
    torch_class = next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn"))
    ours = getattr(fusedrnn.torch, torch_class.__name__)
    assert isinstance(layer, kind) and isinstance(layer, ours)
    assert repr(layer) == repr(twin) and type(layer).__qualname__ == kind.__qualname__
    with fusedrnn.torch.strict():
        found = step(layer, x, None)
    assert_near(found[0] + found[1], wanted[0] + wanted[1])
    assert accelerate(layer) == report
    assert type(layer).__mro__.count(ours) == 1, "a second time changes nothing"
    assert restore(layer) == ("",) and type(layer) is kind
    assert vars(layer).keys() == before.keys()
    assert restore(layer) == ()


def test_methods_and_attributes_stay():
    layer = Forgetful(4, 6, note="mine")
    wanted = layer.last(X).detach()
    accelerate(layer)
    assert layer.note == "mine"
    assert_near([layer.last(X)], [wanted])
    assert (layer.bias_hh_l0[6:12] > 1).all()


def test_the_own_forward_comes_first_and_the_kernels_are_under_it():
    layer = accelerated(Doubled)
    layer.strict = True
    layer(X)
    with pytest.raises(NotAccelerated, match=r"Doubled: parameters of torch\.bfloat16"):
        layer.bfloat16()(X.bfloat16())


def accelerated(kind, *arguments):
    layer = kind(*(arguments or (4, 6)))
    assert accelerate(layer).swapped == ("",)
    return layer


def test_one_class_for_all_of_a_kind_and_none_that_stays():
    first, second = accelerated(Doubled), accelerated(Doubled)
    assert type(first) is type(second)
    assert Registered.names == ["named"], "__init_subclass__ isn't called for it"


def test_in_containers_and_shared():
    shared = Tripled(4, 4)
    model = torch.nn.ModuleDict(
        {
            "list": torch.nn.ModuleList([Forgetful(4, 4), shared]),
            "again": shared,
            "cell": Gated(4, 4),
            "linear": torch.nn.Linear(4, 4),
        }
    )
    kinds = [type(module) for module in model.modules()]
    assert accelerate(model, strict=True).swapped == ("list.0", "list.1", "cell")
    assert model["again"] is shared
    assert restore(model) == ("list.0", "list.1", "cell")
    assert [type(module) for module in model.modules()] == kinds
    assert "strict" not in vars(shared)


class Sum(torch.nn.LSTM):
    def forward(self, input):
        return input.sum()


class SumOfMore(Sum):
    def forward(self, input):
        return super().forward(input) + 1


class CallsItself(torch.nn.GRU):
    def forward(self, input, hx=None):
        return input, hx

    def __call__(self, *arguments):
        return super().__call__(*arguments)


class TrainsItself(torch.nn.LSTM):
    def forward(self, input):
        super().train()
        return self.hidden(input)

    def hidden(self, input):
        return input * self.hidden_size

    def run(self, input):
        super().eval()
        return self.forward(input)


class Unreached(torch.nn.GRU):
    def forward(self, input):
        return input * 2

    def plain(self, input):
        return super().forward(input)


class NotCalled(torch.nn.GRU):
    def __call__(self, input):
        return input * 2


class PastTorch(torch.nn.GRU):
    def forward(self, input):
        return torch.nn.GRU.forward(self, input)


class Unchecked(torch.nn.LSTM):
    def check_forward_args(self, input, hidden, batch_sizes):
        pass


class OwnStates(torch.nn.GRU):
    def _states(self):
        return "mine"


class Refuses(type):
    def __new__(cls, name, bases, members):
        if any(isinstance(base, Refuses) for base in bases):
            raise ValueError("final")
        return super().__new__(cls, name, bases, members)


class Final(torch.nn.GRU, metaclass=Refuses):
    pass


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Sum, "its own forward doesn't call super().forward(), which would be accelerated"),
        (
            SumOfMore,
            "its own forward doesn't call super().forward(), which would be accelerated",
        ),
        (
            CallsItself,
            "its own forward doesn't call super().forward(), which would be accelerated",
        ),
        (
            TrainsItself,
            "its own forward doesn't call super().forward(), which would be accelerated",
        ),
        (
            Unreached,
            "its own forward doesn't call super().forward(), which would be accelerated",
        ),
        (
            NotCalled,
            "its own __call__ doesn't call super().__call__(), which would be accelerated",
        ),
        (
            PastTorch,
            "its own forward doesn't call super().forward(), which would be accelerated",
        ),
        (Unchecked, "its own check_forward_args is a part of torch's forward"),
        (OwnStates, "it has a _states, as fusedrnn's layers have for themselves"),
        (Final, "no class can be derived from Final: final"),
    ],
)
def test_what_is_left_and_why(kind, why):
    layer = kind(4, 6)
    wanted = tensors(layer(X))
    assert accelerate(layer) == fusedrnn.torch.Report((), {"": why})
    assert type(layer) is kind and restore(layer) == ()
    assert all(map(torch.equal, tensors(layer(X)), wanted))
    with pytest.raises(NotAccelerated, match=r"expected to accelerate every layer"):
        accelerate(layer, strict=True)


@pytest.mark.parametrize("name", ["_weights", "torch_class", "strict"])
def test_attributes_that_our_layers_have_for_themselves(name):
    layer = torch.nn.GRU(4, 6)
    setattr(layer, name, "mine")
    (why,) = accelerate(layer).left.values()
    assert why == f"it has a {name}, as fusedrnn's layers have for themselves"


class Built(Doubled):
    """Pickles itself in its own way."""

    def __reduce__(self):
        return (type(self), (self.input_size, self.hidden_size), self.__getstate__())


@pytest.mark.parametrize("kind", [Forgetful, Doubled, Mixed, StepTwice, Built])
@pytest.mark.parametrize("way", ["deepcopy", "copy", "pickle", "torch.save"])
def test_copies_and_pickles_stay_accelerated(kind, way):
    layer = accelerated(kind)
    x = input_for(layer)
    wanted = tensors(layer(x))
    if way == "torch.save":
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        other = getattr(copy, way)(layer)
    assert type(other) is type(layer) and vars(other).keys() == vars(layer).keys()
    with fusedrnn.torch.strict():
        assert all(map(torch.equal, tensors(other(x)), wanted))
    assert restore(other) == ("",) and type(other) is kind
    assert b"fusedrnn" not in pickle.dumps(other), "what was restored needs no fusedrnn"


@pytest.mark.parametrize("first", ["accelerate", "parametrize"])
def test_parametrizations(first):
    layer = Doubled(4, 6)
    if first == "accelerate":
        accelerate(layer)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    assert accelerate(layer).swapped == ("",)
    with fusedrnn.torch.strict():
        found = step(layer, X, None)
    assert restore(layer) == ("",) and not isinstance(layer, fusedrnn.torch.GRU)
    wanted = step(layer, X, None)
    assert_near(found[0] + found[1], wanted[0] + wanted[1])
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is Doubled


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_older_weight_norm():
    layer = Doubled(4, 6)
    torch.nn.utils.weight_norm(layer, "weight_hh_l0")
    wanted = step(layer, X, None)
    accelerate(layer)
    with fusedrnn.torch.strict():
        found = step(layer, X, None)
    assert_near(found[0] + found[1], wanted[0] + wanted[1])


@pytest.mark.parametrize("kind", OTHER_WEIGHTS)
def test_weights_that_are_no_parameters(kind):
    """The kernels run on what torch's layer would read."""
    layer = kind(4, 6)
    x = input_for(layer)

    def results():
        parameters = {name: p * 1.5 for name, p in layer.named_parameters()}
        found = step(layer, x, None), step(layer, x, None)
        with torch.no_grad():
            other = torch.func.functional_call(layer, parameters, (x,))
            return [*itertools.chain(*found[0], *found[1]), *tensors(other), *tensors(layer(x))]

    wanted = results()
    assert accelerate(layer, strict=True).swapped == ("",)
    assert_near(results(), wanted)
    with torch.no_grad():
        assert_near(tensors(torch.func.vmap(layer)(x[None])), [t[None] for t in tensors(layer(x))])


class Twice(Looks, fusedrnn.torch.GRU):
    """Derived from fusedrnn's layer, and finds other weights than its parameters."""


def test_other_weights_in_a_subclass_of_our_own_layer():
    layer, twin = Twice(4, 6), Looking(4, 6)
    twin.load_state_dict(layer.state_dict())
    with fusedrnn.torch.strict():
        assert_near(tensors(layer(X)), tensors(twin(X)))


def test_a_parametrized_buffer_hinders_no_second_acceleration():
    layer = accelerated(Doubled)
    layer.register_buffer("mean", torch.ones(3))
    torch.nn.utils.parametrize.register_parametrization(layer, "mean", torch.nn.Identity())
    for _ in range(2):
        layer(X)
        assert restore(layer) == ("",)
        assert accelerate(layer, strict=True).swapped == ("",)


@pytest.mark.filterwarnings("ignore")  # torch's, of its own making
@pytest.mark.parametrize("kind", [Tripled, Mixed, StepTwice, OVERLAID_IN_EXPORT])
def test_compiled_and_exported(kind):
    torch._dynamo.reset()
    layer = accelerated(kind).eval()
    x = input_for(layer)
    wanted = tensors(layer(x))
    with fusedrnn.torch.strict():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert_near(tensors(compiled(x)), wanted)
        program = torch.export.export(layer, (x,))
    assert "fusedrnn.rnn" in program.graph_module.code
    assert_near(tensors(program.module()(x)), wanted)


class Mine(fusedrnn.torch.GRU):
    """Derived from fusedrnn's layer, not from torch's."""


def test_subclasses_of_our_own_layers_stay():
    layer = Mine(4, 6)
    assert accelerate(layer).swapped == ("",)
    assert restore(layer) == () and type(layer) is Mine
