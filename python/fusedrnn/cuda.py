"""GPUs: whether there are any, arrays on them, and streams.

The functions of `fusedrnn.functional` run where x is. Any array on a GPU will do, of torch, CuPy,
JAX or another library that offers DLPack or the CUDA array interface, and what comes back is of
that library too; without one, `asarray` makes a `DeviceArray` of an array of NumPy's.

- All arrays of a call are on one GPU and of one dtype: float32, float16 or bfloat16. They are
  contiguous, in C order. Sums, and the states of a sequence from step to step, are float32.
- All work goes on one stream, and no call waits for it: torch's or CuPy's current stream where x
  is theirs, that of a `DeviceArray`, else CUDA's default; or what `stream` says. `backward` works
  on the stream of its `forward`. What was written to the arrays before the call is seen. They must
  not be changed or freed on another stream before the work is done (so keep arrays of JAX, which
  frees on streams of its own, until y is ready); the parameters, x and y of a tape not before its
  `backward` is.
- What comes back is memory of our own, freed in the order of its stream with the last reference:
  keep it until readers on other streams are done. (torch's ``record_stream`` knows nothing of it.
  Where a library took it for a stream that only it knows, freeing it waits for the GPU.)
- Calls can be captured in a CUDA graph, after a first call. Each replay has the same dropout mask;
  results of before the capture that are dropped in it are not given back.
- The first call of a process loads the kernels, so it takes longer.

A GPU needs compute capability 7.5, and 8.0 for bfloat16. `functional.Weights`, float64,
projections, checkpoints and `out` are for the CPU only. Autograd of other libraries doesn't see
these calls; `fusedrnn.torch` has layers that torch differentiates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _device
from ._arguments import any_array

if TYPE_CHECKING:
    from ._cuda import DeviceArray as DeviceArray

__all__ = ["asarray", "devices", "is_available", "stream", "why_not"]


def __getattr__(name: str) -> Any:
    if name == "DeviceArray":
        module = _device.load()
        if isinstance(module, str):
            raise AttributeError(f"{name}: {module}")
        return module.DeviceArray
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, "DeviceArray"))


def is_available() -> bool:
    """Return whether calls can run on a GPU: the package was built so, and there is one.

    Returns
    -------
    bool

    Examples
    --------
    >>> import fusedrnn
    >>> fusedrnn.cuda.is_available() == (fusedrnn.cuda.why_not() is None)
    True
    """
    return why_not() is None


def why_not() -> str | None:
    """Return why calls can't run on a GPU, or None where they can.

    Returns
    -------
    str or None
        "cudaErrorNoDevice: ...", for example.

    Examples
    --------
    >>> import fusedrnn
    >>> fusedrnn.cuda.why_not() == fusedrnn.info()["cuda"].get("error")
    True
    """
    return _device.why_not()


def devices() -> list[dict[str, Any]]:
    """Return the GPUs, in the order of CUDA's numbers; none where CUDA isn't available.

    Returns
    -------
    list of dict
        ``name``; ``capability``, such as "9.0"; ``multiprocessors``; ``memory`` in bytes.

    Examples
    --------
    >>> import fusedrnn
    >>> bool(fusedrnn.cuda.devices()) == fusedrnn.cuda.is_available()
    True
    """
    found: list[dict[str, Any]] = _device.info()["devices"]
    return found


def asarray(array: Any, dtype: str | None = None) -> DeviceArray:
    """Return an array on the GPU.

    One that is on a GPU is taken where it is, without a copy. Any other is copied to CUDA's current
    device, on the stream that `stream` chose, else CUDA's default.

    Parameters
    ----------
    array : array
        Of any library; or what `numpy.asarray` takes.
    dtype : str, optional
        "float32", "float16" or "bfloat16"; what `array` has if not given. On the way from the CPU
        it is converted, rounding to nearest.

    Returns
    -------
    DeviceArray
        It has ``shape``, ``dtype``, ``device``, ``nbytes`` and ``numpy()``, a copy on the CPU.

    Raises
    ------
    TypeError
        For an array that has none of the three dtypes and isn't to be converted.
    ValueError
        For another `dtype`, and for an array on a GPU that isn't contiguous or has another dtype
        than asked for.
    BufferError
        Where the other library refuses, as torch does for tensors that require gradients.
    MemoryError
        Where the GPU's memory is too small.
    RuntimeError
        Where CUDA isn't available.

    Examples
    --------
    >>> import fusedrnn
    >>> if fusedrnn.cuda.is_available():
    ...     x = fusedrnn.cuda.asarray([[0.5, 1.0], [2.0, 3.0]], "float32")
    ...     assert x.shape == (2, 2) and x.dtype == "float32" and x.numpy()[1, 0] == 2
    """
    kind = _device.required().DeviceArray
    if dtype is not None and not isinstance(dtype, str):
        raise TypeError(f"dtype: expected a str, got {type(dtype).__name__}")
    if not _device.on_gpu(array):
        copy: DeviceArray = kind.from_numpy(
            any_array(array, "array"), dtype, _device.chosen_stream.get()
        )
        return copy
    with _device.scope(array):
        view: DeviceArray = kind.view(array, "array", _device.current_stream(array))
    if dtype is not None and view.dtype != dtype:
        raise ValueError(
            f"array: expected {dtype}, which it isn't converted to on a GPU, got {view.dtype}"
        )
    return view


@contextlib.contextmanager
def stream(stream: Any) -> Iterator[None]:
    """Let the calls in a ``with`` block run on a stream of the caller's choice.

    Parameters
    ----------
    stream : object
        With ``__cuda_stream__``, or a stream of torch or CuPy, or the handle of one, an integer.
        It must live as long as the arrays that come from these calls, which it does by itself if
        it is an object.

    Yields
    ------
    None

    Raises
    ------
    TypeError
        When a call finds that it is no stream.
    ValueError
        When a call finds that it is a handle of no single stream, such as 2, or a stream of another
        GPU than x.

    Examples
    --------
    >>> import fusedrnn
    >>> if fusedrnn.cuda.is_available():
    ...     with fusedrnn.cuda.stream(1):  # the handle of CUDA's default stream
    ...         x = fusedrnn.cuda.asarray([0.5, 1.0], "float32")
    """
    token = _device.chosen_stream.set(stream)
    try:
        yield
    finally:
        _device.chosen_stream.reset(token)
