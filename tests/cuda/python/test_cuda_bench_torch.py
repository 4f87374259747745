"""What the benchmark on a GPU does with torch: the peer, its graphs and its events.

No GPU is needed: its part runs on a torch whose GPU is made up, and whose tensors are on the CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from types import SimpleNamespace

import pytest

from bench import baselines, cases, cuda, measure, report
from bench.baselines import GRAPH, OURS, ours
from bench.cases import Case
from bench.problem import Problem
from bench_results import run_of
from fusedrnn import reference

SMALL = Case("lstm", "train", 3, 4, 6, 5, "float16", layers=2, bidirectional=True, device="cuda")
THEIRS = f"torch:{GRAPH}"


@pytest.mark.without_gpu
@pytest.mark.parametrize("dtype", cases.GPU_DTYPES)
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("cell", reference.CELLS)
def test_the_peer_computes_what_the_reference_does(torch, cell, mode, dtype):
    case = dataclasses.replace(SMALL, cell=cell, mode=mode, dtype=dtype, device="cpu")
    problem = Problem(case)
    (peer,) = baselines.load("torch").prepare(problem, 1)
    for i in range(2):
        with peer.around():
            got = peer.arrays(peer.run(i))
        assert set(got) == set(problem.expected(i))
    assert 0 < measure.verify(peer, problem) <= measure.tolerance(peer, case)


@pytest.mark.without_gpu
def test_tf32_is_off_in_a_block_and_afterwards_as_it_was(torch):
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [place.allow_tf32 for place in places]
    try:
        for allowed in (True, False):
            for place in places:
                place.allow_tf32 = allowed
            with cuda.without_tf32(torch):
                assert not any(place.allow_tf32 for place in places)
            assert [place.allow_tf32 for place in places] == [allowed, allowed]
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


class Graph:
    """A graph that counts: what it captured was computed once and stays as it is."""

    made: list[Graph] = []  # noqa: RUF012

    def __init__(self):
        self.replays = 0
        Graph.made.append(self)

    def replay(self):
        self.replays += 1


class Event:
    def __init__(self, enable_timing):
        assert enable_timing
        self.done = False

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        self.done = True

    def elapsed_time(self, end):
        assert end.done
        return 1e3 * (end.at - self.at)  # milliseconds


class MadeUp:
    """torch with a GPU that is its CPU."""

    def __init__(self, torch):
        self._torch, self.order = torch, []
        self.backends, self.version = torch.backends, SimpleNamespace(cuda="13.0")
        self.cuda = SimpleNamespace(
            Event=Event,
            CUDAGraph=Graph,
            graph=self.graph,
            stream=lambda stream: contextlib.nullcontext(),
            synchronize=lambda: self.order.append("synchronize"),
        )

    def __getattr__(self, name):
        return getattr(self._torch, name)

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.order.append("begin")
        yield
        self.order.append("end")

    def randn(self, *shape, device, dtype):
        assert device == "cuda"
        return self._torch.randn(*shape, dtype=dtype)

    def zeros(self, *shape, device, dtype):
        assert device == "cuda"
        return self._torch.zeros(*shape, dtype=dtype)

    def cudnn_is_acceptable(self, tensor):
        return tensor.dtype is not self._torch.bfloat16


@pytest.fixture
def made_up(torch, monkeypatch):
    """Let the benchmark find that torch; and no emulation, so that it times what runs."""
    from bench.baselines import modules

    found = MadeUp(torch)
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(cuda, "torch_on_gpu", lambda: found)
    monkeypatch.setattr(cuda, "stream", lambda: None)
    monkeypatch.setattr(cuda, "emulated", lambda: False)
    monkeypatch.setattr(cuda, "PRODUCT", dict.fromkeys(cases.GPU_DTYPES, 64))
    monkeypatch.setattr(modules, "place", lambda case: "cpu")
    return found


@pytest.mark.without_gpu
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_the_peer_and_its_graph(made_up, mode):
    case = dataclasses.replace(SMALL, mode=mode)
    result = measure.measure(case, ["torch"], 1, measure.QUICK)
    assert not result.wrong and not result.skipped
    assert set(result.timings) == {"torch", THEIRS}
    assert result.peak > 0 and result.limit == pytest.approx(case.flops / result.peak)
    assert len(Graph.made) == 2  # one for each input
    assert min(graph.replays for graph in Graph.made) > 1
    assert made_up.order == ["synchronize", "begin", "end"] * 2


@pytest.mark.without_gpu
def test_a_graph_is_made_of_a_call_that_has_run_before(made_up):
    calls = []
    contestant = baselines.Contestant("it", lambda i: calls.append(i) or i, dict)
    graph = cuda.captured(contestant)
    assert graph.name == f"it:{GRAPH}" and not Graph.made
    assert [graph.run(i) for i in (0, 1, 0)] == [0, 1, 0]
    assert calls == [0] * (cuda.WARM_UPS + 1) + [1] * (cuda.WARM_UPS + 1)
    assert [g.replays for g in Graph.made] == [2, 1]


@pytest.mark.without_gpu
def test_a_graph_that_cannot_be_captured_leaves_the_call_itself(made_up, monkeypatch):
    def graph(*arguments, **options):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(made_up.cuda, "graph", graph)
    result = measure.measure(SMALL, ["torch"], 1, measure.QUICK)
    assert set(result.timings) == {"torch"} and "capturing" in result.wrong[THEIRS]


def test_all_contestants_are_timed_and_reported(made_up):
    found = [
        measure.measure(dataclasses.replace(SMALL, mode=mode), [OURS, "torch"], 1, measure.QUICK)
        for mode in ("infer", "train")
    ]
    for result in found:
        assert not result.wrong
        assert set(result.timings) == {ours(), ours(GRAPH), "torch", THEIRS}
        assert result.ratio > 0 and result.against(THEIRS, ours(GRAPH)) > 0
    where = {"cpu": "c", "cpus": 1, "system": "s", "python": "p", "gpu": cuda.describe()}
    text = report.markdown(dataclasses.replace(run_of(found), machine=where, roofs={}))
    assert "timed by CUDA events" in text
    assert "which torch doesn't use for bfloat16, TF32 off in torch, never used by ours" in text
    assert "### On the GPU: training, float16\n" in text


@pytest.mark.without_gpu
def test_a_torch_that_finds_no_gpu_is_named(torch, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("it finds one")
    monkeypatch.setattr(cuda, "emulated", lambda: False)
    find = cuda.torch_on_gpu.__wrapped__  # which keeps what it found
    reason = find()
    assert reason == f"torch {torch.__version__} finds no GPU: torch.cuda.is_available() is false"
    monkeypatch.setattr(cuda, "torch_on_gpu", lambda: reason)
    found = measure.verified(Problem(SMALL), ["torch"], 1)
    assert found.skipped == {"torch": reason} and not found.contestants
    monkeypatch.setitem(sys.modules, "torch", None)
    assert find() == "not installed (import of torch halted; None in sys.modules)"
