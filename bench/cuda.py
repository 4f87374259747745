"""What is different where a case runs on a GPU: the stream, the clock, graphs and the limit.

With a torch that has CUDA, everyone's work goes on one stream of torch's, so that its events time
all alike and a call can be captured in a graph. Without one there are no peers and no graphs, and
calls are timed by the wall clock, until the GPU is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fusedrnn

from . import clock
from .baselines import GRAPH, Contestant

WARM_UPS = 3  # calls before one is captured: libraries choose and allocate in the first ones
PRODUCT = {"float32": 4096, "float16": 8192, "bfloat16": 8192}  # rows and columns, for the peak
PRODUCTS = 4


def emulated() -> bool:
    """Return whether fusedrnn's GPU is the emulation, on which times mean nothing."""
    return bool(fusedrnn.info()["cuda"].get("emulated"))


@functools.cache
def torch_on_gpu() -> Any:
    """Return torch, or the text that says why it isn't there with CUDA."""
    if emulated():
        return "fusedrnn's GPU is emulated, torch has none beside it"
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return f"not installed ({error})"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU: torch.cuda.is_available() is false"
    return torch


@functools.cache
def stream() -> Any:
    """Return the stream that everyone's work goes on; None is CUDA's default."""
    torch = torch_on_gpu()
    return None if isinstance(torch, str) else torch.cuda.Stream()


@contextlib.contextmanager
def around() -> Iterator[None]:
    """Let the calls in a block run on that stream, and float32 be float32."""
    torch = torch_on_gpu()
    if isinstance(torch, str):
        yield
        return
    with fusedrnn.cuda.stream(stream()), torch.cuda.stream(stream()), without_tf32(torch):
        yield


@contextlib.contextmanager
def without_tf32(torch: Any) -> Iterator[None]:
    """Keep cuDNN and cuBLAS from rounding float32 to TF32, which ours never does."""
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    try:
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def clock_of_calls() -> clock.Clock:
    """Return CUDA's events; without torch the wall clock, which waits for the GPU."""
    torch = torch_on_gpu()
    if not isinstance(torch, str):
        return clock.events(torch)
    one = fusedrnn.cuda.asarray(np.zeros(1, np.float32))
    return clock.synchronized(one.numpy)  # a copy in the stream's order: all before it is done


def captured(contestant: Contestant) -> Contestant:
    """Return the same calls as replays of a CUDA graph, one for each input.

    A graph is made by the first call with an input, which is one that is verified. What it returns
    is where every replay writes.
    """
    graphs: dict[int, tuple[Any, Any]] = {}

    def run(i: int) -> Any:
        if i not in graphs:
            graphs[i] = capture(contestant.run, i)
        graph, result = graphs[i]
        graph.replay()
        return result

    return dataclasses.replace(contestant, name=f"{contestant.name}:{GRAPH}", run=run)


def capture(run: Callable[[int], Any], i: int) -> tuple[Any, Any]:
    """Return a graph of a call, and the call's result."""
    torch = torch_on_gpu()
    for _ in range(WARM_UPS):
        run(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream()):
        result = run(i)
    return graph, result


def probes(dtype: str) -> dict[str, Callable[[], float]]:
    """Return what measures the peak in this format, FLOP/s: a large product of torch's."""
    torch = torch_on_gpu()
    if isinstance(torch, str):
        return {}
    size = PRODUCT[dtype]
    with around():
        a, b = torch.randn(2, size, size, device="cuda", dtype=getattr(torch, dtype))
        out = torch.empty_like(a)
    watch = clock.events(torch)

    def peak() -> float:
        with around():
            torch.mm(a, b, out=out)
            begin = watch.start()
            for _ in range(PRODUCTS):
                torch.mm(a, b, out=out)
            return PRODUCTS * 2.0 * size**3 / watch.since(begin)

    return {"all": peak}


def describe() -> dict[str, Any]:
    """Return the GPU, what runs on it and how that is timed: for the report."""
    info = fusedrnn.info()["cuda"]
    torch = torch_on_gpu()
    found = {
        **info["devices"][0],
        **{name: info[name] for name in ("runtime", "driver", "products")},
        "emulated": emulated(),
    }
    if isinstance(torch, str):
        wall = "the wall clock, until the GPU is done"
        return {**found, "clock": "" if emulated() else wall, "no_torch": torch}
    with around():
        takes = [
            dtype
            for dtype in PRODUCT
            if torch.cudnn_is_acceptable(torch.zeros(1, device="cuda", dtype=getattr(torch, dtype)))
        ]
        tf32 = bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return {
        **found,
        "clock": "CUDA events",
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_dtypes": takes,
        "tf32": tf32,
    }
