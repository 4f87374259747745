"""What happens to calls that the kernels can't take, and other switches of the whole process."""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar

__all__ = ["NotAccelerated", "Switch", "Unsupported", "strict", "trust_version_counters"]


class NotAccelerated(RuntimeError):
    """A call that the kernels can't take, in strict mode. The message says why."""


class Unsupported(Exception):
    """Why the kernels can't work on something that torch may be able to work on."""


class Switch:
    """What `strict` and `trust_version_counters` have in common; not to be used itself."""

    enabled: ClassVar[bool] = False

    def __init__(self, mode: bool = True) -> None:
        if not isinstance(mode, bool):
            raise TypeError(f"mode: expected a bool, got {type(mode).__name__}")
        self._before = type(self).enabled
        type(self).enabled = mode

    def __enter__(self) -> None:
        """Nothing: the switch was set when it was made."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        type(self).enabled = self._before


class strict(Switch):
    """Raise `NotAccelerated` where a call would take torch's own path.

    Works as `torch.set_grad_enabled` does, but for all threads: a call sets it, and in a `with`
    statement it is set back at the end. For single layers see `accelerate` (``strict=True``).

    Parameters
    ----------
    mode : bool
        Whether to raise (True) or to take torch's path in silence (False, the initial state).

    Attributes
    ----------
    enabled : bool
        The state, of the class: ``fusedrnn.torch.strict.enabled``.

    Raises
    ------
    TypeError
        If `mode` is no bool.

    Examples
    --------
    >>> import torch
    >>> import fusedrnn.torch
    >>> layer = fusedrnn.torch.GRU(2, 3, dtype=torch.bfloat16)
    >>> with fusedrnn.torch.strict():
    ...     layer(torch.zeros(5, 1, 2, dtype=torch.bfloat16))
    Traceback (most recent call last):
    fusedrnn.torch.NotAccelerated: GRU: parameters of torch.bfloat16, not float32 or float64
    >>> y, h = layer(torch.zeros(5, 1, 2, dtype=torch.bfloat16))  # by torch
    """


class trust_version_counters(Switch):
    """Believe torch's version counters alone that parameters are unchanged.

    Every call must know whether the packed weights are still those of the parameters. torch counts
    changes in place (`Tensor._version`), but not all: writes through ``parameter.data``, through a
    NumPy array that shares the parameter's memory, by optimizers with ``fused=True``, and by other
    processes into shared memory go by uncounted. So a call also takes a fingerprint of the
    parameters, at the speed of memory: some microseconds where a layer has 100 KiB of them, and
    nothing beside the work of longer sequences.

    Trusting the counters leaves the fingerprint out, here in all layers; for single ones there is
    ``layer.trust = True``, for a model ``accelerate(model, trust=True)``. Then after an uncounted
    write the layer goes on with the old values. Other optimizers, `load_state_dict`, ``copy_``
    under `torch.no_grad` and new tensors, ``parameter.data = ...`` included, are always seen.

    Parameters
    ----------
    mode : bool
        Whether to trust (True) or to take fingerprints (False, the initial state). As with
        `strict`, a ``with`` statement sets it back.

    Attributes
    ----------
    enabled : bool
        The state, of the class.

    Raises
    ------
    TypeError
        If `mode` is no bool.

    Examples
    --------
    >>> import torch
    >>> import fusedrnn.torch
    >>> layer = fusedrnn.torch.GRU(2, 3)
    >>> with torch.no_grad(), fusedrnn.torch.trust_version_counters():
    ...     y, h = layer(torch.zeros(5, 1, 2))
    """
