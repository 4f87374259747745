"""Modules one after the other."""

from __future__ import annotations

from typing import Any

from ..functional import Gradients
from ._composite import Composite
from ._module import Module
from ._registry import register


@register
class Sequential(Composite):
    """Modules one after the other: each one's y is the next one's x.

    All modules get the lengths, but for those after `Last` or `Mean`, or any module with a true
    attribute `ends_time`: there is no time any more.

    Parameters
    ----------
    *modules : Module
        Called "0", "1", ...
    **named : Module
        With names of their own.

    Attributes
    ----------
    parameters : mapping of str to read-only array
        ``name.parameter``, for each module.

    Raises
    ------
    ValueError
        If there is no module, one stands there twice, two have one name, or their dtypes differ.
    TypeError
        If one isn't a module.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedrnn
    >>> from fusedrnn.models import Embedding, Last, Sequential
    >>> body = Sequential(
    ...     embedding=Embedding(10, 8, seed=0), gru=fusedrnn.GRU(8, 16, seed=0), last=Last())
    >>> y, state, tape = body.forward(np.zeros((5, 2), int), lengths=[5, 3])
    >>> y.shape, [None if s is None else s.shape for s in state]
    ((2, 16), [None, (1, 2, 16), None])
    >>> list(body.backward(tape, y).parameters)[:2]
    ['embedding.weight', 'gru.weight_ih_l0']
    """

    def __init__(self, *modules: Module, **named: Module) -> None:
        self._parts = {str(i): module for i, module in enumerate(modules)}
        for name, module in named.items():
            if name in self._parts or "." in name:
                raise ValueError(f"modules: expected a name of its own, without dots, got {name}")
            self._parts[name] = module
        if not self._parts:
            raise ValueError("modules: expected at least one, got none")
        self._check_parts()
        for name, module in self._parts.items():
            if not hasattr(module, "forward"):  # a head
                raise TypeError(f"{name}: expected a module, got {type(module).__name__}")

    @property
    def ends_time(self) -> bool:
        """Whether y has no axis of time, since one of the modules takes it away."""
        return any(_ends_time(module) for module in self._parts.values())

    @property
    def modules(self) -> dict[str, Any]:
        """The modules by name."""
        return dict(self._parts)

    def __getitem__(self, name: str) -> Any:
        """Return the module of this name."""
        return self._parts[name]

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Any, Any]:
        """Return y of the last module, and the states of all; the arguments are `forward`'s."""
        after = []
        for module, before in zip(self._parts.values(), self._states(state), strict=True):
            x, last = module(x, before, lengths=lengths)
            lengths = None if _ends_time(module) else lengths
            after.append(last)
        return x, tuple(after)

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Any, Any, Any]:
        """Return y of the last module, the states of all, and a tape for `backward`.

        Parameters
        ----------
        x
            What the first module takes.
        state : tuple, optional
            One state for each module, None where it has none.
        lengths : array of integers (B,), optional
            How many steps each sequence has; the modules get them, up to one that ends time.

        Returns
        -------
        y
        state : tuple
        tape

        Raises
        ------
        ValueError, TypeError, MemoryError
            As from the modules; ValueError for another number of states.
        """
        after, tapes = [], []
        for module, before in zip(self._parts.values(), self._states(state), strict=True):
            x, last, tape = module.forward(x, before, lengths=lengths)
            lengths = None if _ends_time(module) else lengths
            after.append(last)
            tapes.append(tape)
        return x, tuple(after), tapes

    def backward(self, tape: Any, dy: Any, dstate: Any = None) -> Gradients:
        """Return the gradients of x, of the initial states and of all parameters.

        Parameters
        ----------
        tape
            From `forward`.
        dy
            The gradient of y.
        dstate : tuple, optional
            That of the last states.

        Returns
        -------
        Gradients

        Raises
        ------
        ValueError, TypeError, MemoryError
            As from the modules.
        """
        parameters, starts = {}, []
        for (name, module), part, last in reversed(
            list(zip(self._parts.items(), tape, self._states(dstate), strict=True))
        ):
            gradients = module.backward(part, dy, last)
            dy = gradients.x
            starts.append(gradients.state)
            parameters.update({f"{name}.{k}": g for k, g in gradients.parameters.items()})
        ordered = {name: parameters[name] for name in self.parameters}
        return Gradients(dy, tuple(reversed(starts)), ordered)

    def _states(self, state: Any) -> tuple[Any, ...]:
        if state is None:
            return (None,) * len(self._parts)
        if not isinstance(state, (tuple, list)) or len(state) != len(self._parts):
            got = len(state) if isinstance(state, (tuple, list)) else type(state).__name__
            raise ValueError(
                f"state: expected {len(self._parts)} states, one for each module, got {got}"
            )
        return tuple(state)


def _ends_time(module: Any) -> bool:
    return bool(getattr(module, "ends_time", False))
