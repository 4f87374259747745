"""torch.compile in one graph and torch.export, with any T and B."""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import fusedrnn.torch
from torch_problems import (
    CELLS,
    LAYERS,
    TORCH,
    assert_near,
    cut,
    outcome,
    states_of,
    step,
    tensors,
)

pytestmark = [
    pytest.mark.usefixtures("strict"),
    pytest.mark.filterwarnings("ignore"),  # torch's, of its own making, one more in each version
]

#: Whether Dynamo makes a PackedSequence within a graph; else the graph breaks there.
PACKED_IN_DYNAMO = TORCH >= (2, 9)
BACKENDS = ["eager", "aot_eager"]
SIZES = [(5, 3), (7, 2), (4, 4), (11, 6)]


def by_inductor(test):
    """Mark a test that runs inductor, which compiles C++ for many seconds."""
    missing = shutil.which("g++") is None
    test = pytest.mark.skipif(missing, reason="inductor needs a compiler")(test)
    return pytest.mark.deep(pytest.mark.timeout(240)(test))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Model(torch.nn.Module):
    """A recurrent layer among others."""

    def __init__(self, layer):
        super().__init__()
        self.before, self.layer = torch.nn.Linear(4, 4), layer

    def forward(self, x, hx=None, **options):
        y, last = self.layer(self.before(x).relu(), hx, **options)
        return y * 2, last


def assert_compiled(model, backend, sizes=SIZES, **options):
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for steps, batch in sizes:
        x = torch.randn(*((batch, steps) if model.layer.batch_first else (steps, batch)), 4)
        found, wanted = step(compiled, x, None, **options), step(model, x, None, **options)
        assert_near(found[0] + found[1], wanted[0] + wanted[1])
        with torch.no_grad():
            assert_near(tensors(compiled(x, **options)), wanted[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_one_graph(kind, options, backend):
    assert_compiled(Model(kind(4, 6, **options)), backend)


@by_inductor
@pytest.mark.parametrize("kind", LAYERS)
def test_one_graph_by_inductor(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert_compiled(Model(kind(4, 6, 2, batch_first=True)), "inductor", SIZES[:2])


def test_no_graph_is_compiled_for_sizes_alone():
    model, counter = Model(fusedrnn.torch.GRU(4, 6)), torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for steps, batch in SIZES:
            compiled(torch.randn(steps, batch, 4))
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_states_and_single_sequences(kind):
    layer = kind(4, 6)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for middle in ((3,), ()):
        h = torch.randn(1, *middle, 6)
        x, hx = torch.randn(5, *middle, 4), (h, h * 2) if layer.mode == "LSTM" else h
        found, wanted = step(compiled, x, hx), step(layer, x, hx)
        assert_near(found[0] + found[1], wanted[0] + wanted[1])


@pytest.mark.parametrize("kind", CELLS)
def test_cells_in_a_loop(kind):
    cell = kind(4, 6)

    def loop(x):
        hx = None
        for t in range(3):
            hx = cell(x[t], hx)
        return hx

    compiled = torch.compile(loop, fullgraph=True, backend="aot_eager")
    for x in (torch.randn(3, 2, 4), torch.randn(3, 4)):
        found = []
        for function in (compiled, loop):
            results = tensors(function(x))
            cell.zero_grad()
            results[0].sum().backward()
            found.append([*(r.detach() for r in results), *(p.grad for p in cell.parameters())])
        assert_near(*found)


def test_lengths():
    model = Model(fusedrnn.torch.LSTM(4, 6, bidirectional=True))
    lengths = torch.tensor([2, 5, 0])
    assert_compiled(model, "aot_eager", [(5, 3), (9, 3)], lengths=lengths)


def test_lengths_in_a_list():
    layer, x = fusedrnn.torch.GRU(4, 6), torch.randn(9, 3, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_near(tensors(compiled(x, lengths=[2, 9, 0])), tensors(layer(x, lengths=[2, 9, 0])))


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences(kind):
    layer = kind(4, 6)

    def call(packed, hx=None):
        y, last = layer(packed, hx)
        return y.data, last

    compiled = torch.compile(call, fullgraph=PACKED_IN_DYNAMO, backend="aot_eager")
    packed = pack_sequence(cut(torch.randn(9, 3, 4), [2, 9, 4]), enforce_sorted=False)
    for arguments in ((packed,), (packed, states_of(layer, 3))):
        assert_near(tensors(compiled(*arguments)), tensors(call(*arguments)))


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences_are_one_graph_without_fullgraph(kind, enforce_sorted, training):
    layer, counter = kind(4, 6, 2, bidirectional=True), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter)
    lengths = [9, 4, 2] if enforce_sorted else [2, 9, 4]
    packed = pack_sequence(cut(torch.randn(9, 3, 4), lengths), enforce_sorted)
    for hx in (None, states_of(layer, 3)):
        counter.frame_count = 0
        if training:
            found, wanted = step(compiled, packed, hx), step(layer, packed, hx)
            assert_near(found[0] + found[1], wanted[0] + wanted[1])
        else:
            with torch.no_grad():
                assert_near(tensors(compiled(packed, hx)), tensors(layer(packed, hx)))
        assert counter.frame_count == 1 or not PACKED_IN_DYNAMO


def test_a_graph_of_packed_sequences_serves_other_batches():
    layer, counter = fusedrnn.torch.GRU(4, 6), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, dynamic=True)
    with torch.no_grad():
        for lengths in ([9, 4, 2], [5, 5], [7, 3, 2, 2], [6]):
            packed = pack_sequence(cut(torch.randn(9, len(lengths), 4), lengths))
            assert_near(tensors(compiled(packed)), tensors(layer(packed)))
    assert counter.frame_count == 1 or not PACKED_IN_DYNAMO


def test_operators_are_not_traced_where_the_graph_breaks():
    """What a graph break leaves to Python may call operators, and these call much."""
    layer, counter = fusedrnn.torch.LSTM(4, 6), torch._dynamo.testing.CompileCounter()
    weights, x = list(layer.parameters()), torch.randn(5, 3, 4)
    rest = (None, None, None, "lstm", 1, False, False, 0.0)

    @torch._dynamo.disable(recursive=False)
    def between():
        y, *_ = torch.ops.fusedrnn.rnn(x, [], weights, *rest)
        y.sum().backward()
        return y.detach()

    def call():
        return between() * 2

    assert_near([torch.compile(call, backend=counter)()], [layer(x)[0].detach() * 2])
    assert counter.frame_count <= 1, "the product alone"


class Stateless(torch.nn.Module):
    """Layers and a cell that are called without a state, once with a batch that it packs."""

    def __init__(self):
        super().__init__()
        self.lstm = fusedrnn.torch.LSTM(4, 6, 2, batch_first=True, bidirectional=True)
        self.gru, self.cell = fusedrnn.torch.GRU(4, 6), fusedrnn.torch.RNNCell(6, 5)

    def forward(self, x, lengths):
        y, last = self.gru(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return y.data, last, self.lstm(x), self.cell(last[0])


@by_inductor
def test_a_package_of_aotinductor(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = Stateless().eval()
    arguments = torch.randn(9, 3, 4), torch.tensor([2, 9, 4])
    path = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, arguments),
        package_path=str(tmp_path / "model.pt2"),
        inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},  # compiled in less time
    )
    package, wanted = torch._inductor.aoti_load_package(path), tensors(model(*arguments))
    modes = torch.enable_grad, torch.no_grad, torch.inference_mode
    for mode in (*modes, functools.partial(torch.autocast, "cpu")):
        with mode():
            assert_near(tensors(package(*arguments)), wanted)


def test_dropout_is_drawn_anew_and_follows_the_seed():
    layer, x = fusedrnn.torch.GRU(4, 6, 2, dropout=0.5), torch.randn(5, 3, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    first, second = compiled(x)[0], compiled(x)[0]
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(compiled(x)[0], first)


def test_updates_are_seen():
    layer, x = fusedrnn.torch.GRU(4, 6), torch.randn(5, 3, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(x)
        layer.weight_hh_l0.data.mul_(3)
        assert_near(tensors(compiled(x)), tensors(layer(x)))


def test_torchs_own_layers_still_break_the_graph():
    """Nobody else's setting is changed: torch would unroll them over time."""
    assert torch._dynamo.config.allow_rnn is False
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN"):
        torch.compile(torch.nn.GRU(4, 6), fullgraph=True, backend="eager")(torch.randn(5, 3, 4))


@by_inductor
def test_what_is_compiled_on_one_isa_serves_another(tmp_path):
    """Inductor keeps graphs in files, with the sizes of all results."""
    program = """
        import torch, fusedrnn.torch
        torch.manual_seed(0)
        layer = fusedrnn.torch.LSTM(5, 24, dropout=0.0)
        x = torch.ones(7, 3, 5, requires_grad=True)
        y, _ = torch.compile(lambda x: layer(x))(x)
        y.square().sum().backward()
        print(round(float(x.grad.sum()), 4))
    """
    results = []
    for isa in fusedrnn.info()["isa_available"]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
            env={**os.environ, "FUSEDRNN_ISA": isa, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append(done.stdout)
    assert len(set(results)) == 1


@pytest.mark.parametrize("first", ["fusedrnn.torch", "torch._dynamo"])
def test_dynamo_may_be_imported_before_or_after(first):
    script = f"""
        import warnings
        warnings.simplefilter("ignore")
        import sys, torch, {first}
        print("torch._dynamo" in sys.modules)
        import fusedrnn.torch
        layer = torch.nn.Sequential(fusedrnn.torch.LSTM(4, 6))
        torch.compile(layer, fullgraph=True, backend="eager")(torch.randn(5, 3, 4))
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(first == "torch._dynamo"), "done"], done.stderr


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("kind", LAYERS)
def test_export(kind, strict):
    model = Model(kind(4, 6, 2)).eval()
    sizes = {0: torch.export.Dim("T", min=1, max=64), 1: torch.export.Dim("B", min=1, max=64)}
    program = torch.export.export(
        model, (torch.randn(5, 3, 4),), dynamic_shapes={"x": sizes}, strict=strict
    )
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.fusedrnn.rnn.default) == 1
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for exported in (program, torch.export.load(file), program.run_decompositions()):
        for steps, batch in ((5, 3), (2, 2), (40, 7)):
            x = torch.randn(steps, batch, 4)
            with torch.no_grad():
                assert_near(tensors(exported.module()(x)), tensors(model(x)))


def test_export_with_lengths_and_state():
    layer = fusedrnn.torch.LSTM(4, 6, batch_first=True).eval()
    batch, steps = torch.export.Dim("B", max=64), torch.export.Dim("T", max=64)
    x, h, lengths = torch.randn(3, 5, 4), torch.randn(1, 3, 6), torch.tensor([2, 5, 0])
    program = torch.export.export(
        layer,
        (x, (h, h)),
        {"lengths": lengths},
        dynamic_shapes={
            "input": {0: batch, 1: steps},
            "hx": ({1: batch}, {1: batch}),
            "lengths": {0: batch},
        },
    )
    x, h, lengths = torch.randn(4, 9, 4), torch.randn(1, 4, 6), torch.tensor([9, 0, 3, 1])
    with torch.no_grad():
        found = program.module()(x, (h, h), lengths=lengths)
        assert_near(tensors(found), tensors(layer(x, (h, h), lengths=lengths)))
    with pytest.raises(ValueError, match="lengths"):
        program.module()(x, (h, h), lengths=torch.tensor([10, 0, 3, 1]))


def wrong_calls(dtype):
    """Calls whose shapes are wrong, and that torch's own path would take, or end in its midst."""

    def zeros(*shape):
        return torch.zeros(shape, dtype=dtype)

    layer = fusedrnn.torch.LSTM(3, 4, proj_size=2, dtype=dtype)
    x, narrow = zeros(5, 2, 3), (zeros(1, 2, 2), zeros(1, 2, 1))
    packed = pack_sequence([x[:, 0], x[:2, 1]])
    short = fusedrnn.torch.LSTM(64, 64, dtype=dtype)
    short.bias_ih_l0 = torch.nn.Parameter(zeros(1))
    return {
        "packed, a narrow c": (layer, (packed, narrow), {}),
        "packed, a c of two dimensions": (layer, (packed, (narrow[0], zeros(2, 4))), {}),
        "packed, an h of one dimension": (layer, (packed, (zeros(2), zeros(2))), {}),
        "one tensor for both states": (layer, (x, zeros(2, 1, 2, 2)), {}),
        "lengths, a narrow c": (layer, (x, narrow), {"lengths": [5, 2]}),
        "lengths, a state of one": (layer, (x, (zeros(1, 1, 2), narrow[1])), {"lengths": [5, 2]}),
        "a short bias": (short, (zeros(5, 2, 64),), {}),
        "a cell": (fusedrnn.torch.GRUCell(3, 4, dtype=dtype), (x[0, 0], zeros(4, 4)), {}),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", wrong_calls(torch.float32))
def test_wrong_shapes_are_errors_as_without_compilation(name, dtype):
    layer, arguments, options = wrong_calls(dtype)[name]
    compiled = torch.compile(layer, backend="eager")
    with fusedrnn.torch.strict(False):
        wanted = outcome(lambda: layer(*arguments, **options))
        assert issubclass(wanted[0], Exception)
        found = outcome(lambda: compiled(*arguments, **options))
    # Dynamo has a class of its own for errors of operators, such as ours. Of a packed sequence it
    # can't know the batch, which stands further on in the text.
    found, wanted = [(error, text[:24]) for error, text in (found, wanted)]
    assert found == wanted or found[0] is torch._dynamo.exc.TorchRuntimeError


def test_what_the_kernels_cannot_take_is_traced_by_torch():
    layer = fusedrnn.torch.GRU(4, 6, dtype=torch.bfloat16)
    with fusedrnn.torch.strict(False), warnings.catch_warnings():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        x = torch.randn(5, 3, 4, dtype=torch.bfloat16)
        assert torch.allclose(compiled(x)[0], layer(x)[0])
