"""Which class `accelerate` gives a layer, and which one `restore` gives back.

Of a subclass of torch's layer, L, a class is made that puts ours behind it:

    L  ->  torch.nn.LSTM  ->  ...                                  before
    accelerated L  ->  L  ->  LSTM of fusedrnn  ->  torch.nn.LSTM  ->  ...

So the methods of L stay the first ones found, and what it calls as ``super().forward()`` is ours.
"""

from __future__ import annotations

import dis
import inspect
import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from ._layer import RecurrentLayer
from ._switches import Unsupported
from ._weights import check_tensors
from .cells import PARAMETERS, GRUCell, LSTMCell, RecurrentCell, RNNCell
from .modules import GRU, LSTM, RNN

__all__ = ["change_class", "class_for", "is_recurrent", "restored_class"]

#: torch's class -> ours.
ACCELERATED: dict[type[torch.nn.Module], type[Any]] = {
    kind.torch_class: kind for kind in (LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell)
}

_RECURRENT = (torch.nn.RNNBase, torch.nn.RNNCellBase)

#: What torch's forward calls, and ours doesn't.
_STEPS_OF_TORCH = frozenset(
    {
        "_flat_weights",
        "_update_flat_weights",
        "check_forward_args",
        "check_hidden_size",
        "check_input",
        "get_expected_cell_size",
        "get_expected_hidden_size",
        "permute_hidden",
    }
)


def is_recurrent(module: torch.nn.Module) -> bool:
    """Whether this is a layer or cell of torch's, or of a subclass."""
    return isinstance(module, _RECURRENT)


def class_for(module: Any) -> type[Any]:
    """Return the class that the layer is to have; raise Unsupported if it must be left."""
    if "forward" in vars(module):
        raise Unsupported("its forward was replaced")
    kind = _plain_class(module)
    torch_class = next((base for base in kind.__mro__ if base in ACCELERATED), None)
    if torch_class is None:
        raise Unsupported(
            f"{kind.__module__}.{kind.__qualname__} is a class of its own; in a subclass of "
            "torch's LSTM, GRU, RNN or cells, calls of super().forward() would be accelerated"
        )
    _check_own(kind)
    tensors = [tensor for tensor in _tensors_of(module) if tensor is not None]
    if tensors:
        check_tensors(tensors)
    if issubclass(kind, (RecurrentLayer, RecurrentCell)):
        return kind
    ours = ACCELERATED[torch_class]
    for name in _names(ours):
        if hasattr(module, name):
            raise Unsupported(f"it has a {name}, as fusedrnn's layers have for themselves")
    return ours if kind is torch_class else _accelerated(kind, ours)


def restored_class(module: Any) -> type[Any] | None:
    """Return the class that `accelerate` took from the layer; None if it took none."""
    found: type[Any] | None = vars(_plain_class(module)).get("restored_class")
    return found


def change_class(module: Any, kind: type[Any]) -> None:
    """Give the module another class, under the one that torch made for its parametrizations."""
    if is_parametrized(module):
        own, others = type(module), ("__dict__", "__weakref__", "_finds_as_torch")
        members = {n: v for n, v in vars(own).items() if n not in others}
        kind = type(f"Parametrized{kind.__name__}", (kind, *own.__bases__[1:]), members)
    object.__setattr__(module, "__class__", kind)


def _tensors_of(module: Any) -> Iterator[Any]:
    """Yield what torch's forward reads, or what a parametrization makes it of, where it is there.

    (To parametrize may change buffers, as spectral_norm does.)
    """
    parametrized = module.parametrizations if is_parametrized(module) else {}
    for name in getattr(module, "_flat_weights_names", PARAMETERS):
        if name in parametrized:
            yield from parametrized[name].parameters(recurse=False)
        else:
            yield getattr(module, name, None)


def _plain_class(module: Any) -> type[Any]:
    """Return the module's class, or the one below that torch made for its parametrizations."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


# What the author of a subclass wrote


def _check_own(kind: type[Any]) -> None:
    """Raise Unsupported if our forward wouldn't be called, or wouldn't do what torch's does."""
    ends = {*ACCELERATED, *ACCELERATED.values()}
    bases = list(itertools.takewhile(lambda base: base not in ends, kind.__mro__))
    for members in map(vars, bases):
        overridden = sorted(_STEPS_OF_TORCH & members.keys())
        if overridden:
            raise Unsupported(f"its own {overridden[0]} is a part of torch's forward")
        for name, ways in _WAYS_ON.items():
            if name in members and not _reaches(members[name], ways, bases):
                raise Unsupported(
                    f"its own {name} doesn't call super().{name}(), which would be accelerated"
                )


#: By which attributes a method leads on to torch's own; are they those of super()?
_WAYS_ON = {
    "forward": {("forward", True)},
    "__call__": set(itertools.product(("__call__", "_call_impl", "forward"), (True, False))),
}


def _reaches(member: Any, ways: AbstractSet[tuple[str, bool]], bases: Sequence[type[Any]]) -> bool:
    """Return whether a method, or one of the class's that it names, has one of these attributes."""
    todo, seen = [member], set()
    while todo:
        code = _code_of(todo.pop())
        if code is None or code in seen:
            continue
        seen.add(code)
        attributes = set(_attributes_in(code))
        if attributes & ways:
            return True
        for name, of_super in attributes:
            found = [vars(base)[name] for base in bases if name in vars(base)]
            todo += found if of_super else found[:1]
    return False


def _code_of(member: Any) -> types.CodeType | None:
    """Return the code of a function, a decorated one, a property or a static or class method."""
    for name in ("__func__", "fget", "func"):
        member = getattr(member, name, member)
    code = getattr(inspect.unwrap(member), "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def _attributes_in(code: types.CodeType, kept: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the attributes that code and its inner functions load, and whether from super().

    What super() returns may be `kept` in a variable: then any attribute may be one of it.
    """
    called = False
    instructions = list(dis.get_instructions(code))
    for before, instruction in itertools.pairwise(instructions):
        made = called and before.opname.startswith("CALL")
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            of_super = made or kept or instruction.opname == "LOAD_SUPER_ATTR"
            yield instruction.argval, of_super
            called = called and not of_super
        elif made and instruction.opname.startswith("STORE"):
            called, kept = False, True
        elif instruction.opname == "LOAD_GLOBAL" and instruction.argval == "super":
            called = True
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _attributes_in(constant, kept)


def _names(ours: type[Any]) -> set[str]:
    """Return the names that our layers have beside torch's."""
    shared = RecurrentLayer if issubclass(ours, RecurrentLayer) else RecurrentCell
    names = {*vars(shared), *vars(ours)}
    return {name for name in names if not name.startswith("__")} - {"forward"}


# Classes for subclasses


class _Accelerated:
    """What a class made for a subclass of torch's layers has first of all."""

    restored_class: type[Any]

    def __init_subclass__(cls) -> None:
        """Nothing: that of the subclass is for the classes that its author knows."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy as the subclass does: this class has no name to be found by."""
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, str):
            return reduced

        def named(part: Any) -> Any:
            return self.restored_class if part is type(self) else part

        make, arguments, *rest = reduced
        return _made_again, (named(make), tuple(map(named, arguments))), *rest


def _made_again(make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Make an instance of a subclass, for pickle and copy, and accelerate it."""
    module = make(*arguments)
    kind = type(module)
    torch_class = next(base for base in kind.__mro__ if base in ACCELERATED)
    change_class(module, _accelerated(kind, ACCELERATED[torch_class]))
    return module


def _accelerated(kind: type[Any], ours: type[Any]) -> type[Any]:
    """Return the class for a subclass of torch's; made once, and kept by its base only."""
    for known in type.__subclasses__(kind):
        if _Accelerated in known.__bases__:
            return known
    members = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "restored_class": kind,
    }
    try:
        bases = (_Accelerated, kind, ours)
        return types.new_class(kind.__name__, bases, {}, lambda space: space.update(members))
    except Exception as error:  # whatever a metaclass raises
        raise Unsupported(f"no class can be derived from {kind.__name__}: {error}") from None
