"""torch's layers on the kernels for GPUs.

Where the GPU is emulated, tensors on the CPU stand for those on it: the emulation's memory is the
host's. Then only torch's streams are missing.
"""

from __future__ import annotations

import copy
import itertools

import pytest

torch = pytest.importorskip("torch")

import fusedrnn.torch  # noqa: E402
from device_problems import BOUNDS  # noqa: E402
from fusedrnn.torch import _gpu  # noqa: E402
from torch_problems import (  # noqa: E402
    CELLS,
    LAYERS,
    assert_near,
    cut,
    kind_id,
    leaves,
    outcome,
    states_of,
    step,
    tensors,
    weighed,
)

EMULATED = fusedrnn.info()["cuda"].get("emulated", False)
DEVICE = "cpu" if EMULATED else "cuda"
KINDS = [(kind, {}) for kind in LAYERS] + [(fusedrnn.torch.RNN, {"nonlinearity": "relu"})]
CELL_KINDS = [(kind, {}) for kind in CELLS] + [(fusedrnn.torch.RNNCell, {"nonlinearity": "relu"})]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
VARIANTS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False},
    {"batch_first": True},
    {"num_layers": 3, "batch_first": True},
]


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch):
    torch.manual_seed(0)
    if EMULATED:
        monkeypatch.setattr(_gpu, "on_gpu", lambda tensor: True)
        monkeypatch.setattr(_gpu, "number_of", lambda tensor: 0)
        monkeypatch.setattr(_gpu, "stream_of", lambda tensor: 0)
        monkeypatch.setattr(_gpu, "capturing", lambda: False)
    with fusedrnn.torch.strict():
        yield


def to(value, *place):
    """Return tensors, packed sequences or tuples of them elsewhere."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return value.detach().to(*place)
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return value.to(*place)
    return type(value)(to(part, *place) for part in value)


def inputs(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype).to(DEVICE)


def exactly(layer, x, hx=None, **options):
    """Results and gradients in float64: torch's, since that isn't for the kernels; or the CPU's."""
    twin = copy.deepcopy(layer).to("cpu", torch.float64)
    with fusedrnn.torch.strict(False):
        return step(twin, to(x, "cpu", torch.float64), to(hx, "cpu", torch.float64), **options)


def assert_exact(layer, x, hx=None, dtype="float32", **options):
    """Results and gradients are those in float64, to rounding, in training and inference."""
    found, wanted = step(layer, x, hx, **options), exactly(layer, x, hx, **options)
    for part, expected in zip(itertools.chain(*found), itertools.chain(*wanted), strict=True):
        assert part.shape == expected.shape and part.dtype == DTYPES[dtype]
        error = (part.cpu().double() - expected).norm()
        assert error <= BOUNDS[dtype] * expected.norm(), (error, expected.norm())
    with torch.no_grad():
        again = tensors(layer(x, hx, **options))
    assert all(map(torch.equal, again, found[0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_layers_agree(kind, options, variant, dtype):
    if dtype != "float32":
        options = {}  # the gradient of a relu near 0 is what rounding makes it
    layer = kind(5, 7, **variant, **options, device=DEVICE, dtype=DTYPES[dtype])
    x = inputs(*((3, 11) if layer.batch_first else (11, 3)), 5, dtype=DTYPES[dtype])
    assert_exact(layer, x, None, dtype)
    assert_exact(layer, x, to(states_of(layer, 3, DTYPES[dtype]), DEVICE), dtype)
    assert_exact(layer, inputs(11, 5, dtype=DTYPES[dtype]), None, dtype)


@pytest.mark.parametrize(("kind", "options"), CELL_KINDS, ids=kind_id)
def test_cells_agree(kind, options):
    cell = kind(5, 7, **options, device=DEVICE)
    for leading in ((3,), (0,), ()):
        state = [inputs(*leading, 7) for _ in range(2)]
        assert_exact(cell, inputs(*leading, 5))
        hx = tuple(state) if kind is fusedrnn.torch.LSTMCell else state[0]
        assert_exact(cell, inputs(*leading, 5), hx)


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences(kind):
    layer = kind(5, 7, 2, bidirectional=True, device=DEVICE)
    x, hx = inputs(6, 4, 5), to(states_of(layer, 4), DEVICE)
    packed = torch.nn.utils.rnn.pack_sequence(cut(x, [3, 6, 1, 6]), enforce_sorted=False)
    assert_exact(layer, packed)
    assert_exact(layer, packed, hx)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_lengths(kind, batch_first):
    layer = kind(5, 7, batch_first=batch_first, bidirectional=True, device=DEVICE)
    x = inputs(*((4, 6) if batch_first else (6, 4)), 5)
    lengths = torch.tensor([3, 6, 0, 5], dtype=torch.int32, device=DEVICE)
    assert_exact(layer, x, None, lengths=lengths)
    assert_exact(layer, x, to(states_of(layer, 4), DEVICE), lengths=lengths)


def test_inputs_that_are_not_contiguous():
    layer = fusedrnn.torch.LSTM(5, 7, device=DEVICE)
    x = inputs(5, 3, 11).permute(2, 1, 0)
    hx = tuple(part.to(DEVICE).expand(1, 3, 7) for part in torch.randn(2, 1, 1, 7))
    assert_exact(layer, x, hx)
    lazily = torch.complex(torch.zeros(11, 3, 5), inputs(11, 3, 5).cpu()).to(DEVICE).conj().imag
    assert lazily.is_neg()
    with torch.no_grad():
        assert torch.equal(layer(lazily)[0], layer(lazily.clone())[0])


def test_parameters_of_other_shapes_of_memory():
    layer = fusedrnn.torch.GRU(5, 7, device=DEVICE)
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.t().contiguous().t()
    assert_exact(layer, inputs(11, 3, 5))


def test_dropout_follows_torchs_generator():
    layer = fusedrnn.torch.LSTM(5, 7, 3, dropout=0.5, device=DEVICE)
    x = inputs(11, 3, 5)
    torch.manual_seed(1)
    first = step(layer, x, None)
    torch.manual_seed(1)
    again = step(layer, x, None)
    other = step(layer, x, None)
    assert all(map(torch.equal, itertools.chain(*first), itertools.chain(*again)))
    assert not torch.equal(first[0][0], other[0][0])
    layer.eval()
    assert not torch.equal(layer(x)[0], first[0][0])


def test_a_graph_that_is_kept_gives_the_same_gradients_twice():
    layer = fusedrnn.torch.LSTM(5, 7, 2, device=DEVICE)
    y, _ = layer(inputs(11, 3, 5))
    loss = y.square().sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    loss.backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(first, layer.parameters(), strict=True))


def test_outputs_may_be_written_to_before_backward():
    layer = fusedrnn.torch.GRU(5, 7, device=DEVICE)
    x = leaves(inputs(11, 3, 5))
    layer(x)[0].sum().backward()
    wanted = x.grad.clone()
    x.grad = None
    y, _ = layer(x)
    y += 1
    y.sum().backward()
    assert torch.equal(x.grad, wanted)


def test_parameters_written_to_before_backward_are_noticed():
    layer = fusedrnn.torch.GRU(5, 7, device=DEVICE)
    y, _ = layer(inputs(11, 3, 5))
    with torch.no_grad():
        layer.weight_hh_l0 += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradients_of_gradients_are_torchs():
    layer = fusedrnn.torch.LSTM(3, 4, device=DEVICE)
    x = leaves(inputs(5, 2, 3))

    def penalty(layer, x):
        (dx,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        layer.zero_grad()
        dx.square().sum().backward()
        return [p.grad.cpu().double() for p in layer.parameters()]

    with pytest.raises(fusedrnn.torch.NotAccelerated, match="create_graph"):
        penalty(layer, x)
    with fusedrnn.torch.strict(False):
        found = penalty(layer, x)
        twin = copy.deepcopy(layer).to("cpu", torch.float64)
        wanted = penalty(twin, leaves(to(x, "cpu", torch.float64)))
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= BOUNDS["float32"] * b.norm()


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_autocast_computes_in_the_lower_precision(kind, low):
    layer = kind(5, 7, device=DEVICE)
    x = inputs(*((11,) if kind in LAYERS else ()), 3, 5)
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)  # torch.autocast refuses it where torch has no GPU
    torch.set_autocast_dtype("cuda", low)
    try:
        results = tensors(layer(x))
        sum(result.float().sum() for result in results).backward()
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
    assert {result.dtype for result in results} == {low}
    wanted = exactly(layer, x)
    for result, expected in zip(results, wanted[0], strict=True):
        bound = BOUNDS["float16" if low is torch.float16 else "bfloat16"]
        assert (result.cpu().double() - expected).norm() <= 2 * bound * expected.norm()
    assert all(p.grad.dtype is torch.float32 for p in layer.parameters())


DECLINED = {
    "projection": (lambda: fusedrnn.torch.LSTM(5, 7, proj_size=2, device=DEVICE), {}),
    "float64": (lambda: fusedrnn.torch.GRU(5, 7, dtype=torch.float64, device=DEVICE), {}),
    "float16": (lambda: fusedrnn.torch.GRU(5, 7, device=DEVICE), {"dtype": torch.float16}),
    "x of float64": (lambda: fusedrnn.torch.LSTM(5, 7, device=DEVICE), {"dtype": torch.float64}),
    "x of int64": (
        lambda: fusedrnn.torch.GRU(5, 7, batch_first=True, device=DEVICE),
        {"dtype": torch.int64},
    ),
}


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("name", DECLINED)
def test_what_the_kernels_cannot_take_is_torchs(name, recorded):
    with torch.set_grad_enabled(recorded):
        assert_declined(name)


def assert_declined(name):
    make, options = DECLINED[name]
    layer = make()
    dtype = options.get("dtype", layer.weight_hh_l0.dtype)
    x = inputs(11, 3, 5).to(dtype)
    plain = copy.deepcopy(layer)
    plain.__class__ = layer.torch_class
    wanted = outcome(lambda: plain(x))
    with fusedrnn.torch.strict(False):
        found = outcome(lambda: layer(x))
    if isinstance(wanted[0], type):
        assert found == wanted
        return
    assert all(map(torch.equal, tensors(found), tensors(wanted)))
    with pytest.raises(fusedrnn.torch.NotAccelerated):
        layer(x)


@pytest.mark.without_gpu
def test_without_cuda_the_layers_are_torchs(monkeypatch):
    monkeypatch.setattr(_gpu, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(_gpu, "why_not", lambda device, dtype: "no such luck")
    layer = fusedrnn.torch.GRU(5, 7)
    with pytest.raises(fusedrnn.torch.NotAccelerated, match="no such luck"):
        layer(torch.randn(11, 3, 5))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_an_input_that_is_not_on_the_gpu(monkeypatch, batch_first, recorded):
    layer = fusedrnn.torch.LSTM(5, 7, batch_first=batch_first, device=DEVICE)
    x, h = torch.randn(11, 3, 5), torch.zeros(1, 11 if batch_first else 3, 7)
    if EMULATED:
        monkeypatch.setattr(_gpu, "on_gpu", lambda tensor: tensor is not x and tensor is not h)
    on = inputs(11, 3, 5)
    with torch.set_grad_enabled(recorded):
        for call in (lambda: layer(x), lambda: layer(on, (h, h))):
            with pytest.raises(fusedrnn.torch.NotAccelerated, match="a tensor on cpu, and param"):
                call()


def test_parameters_may_have_moved_before_backward():
    layer, x = fusedrnn.torch.GRU(5, 7, 2, device=DEVICE), inputs(11, 3, 5)
    wanted = step(layer, x, None)[1]
    layer.zero_grad()
    x = leaves(x)
    loss = weighed(tensors(layer(x)))
    kept = []
    with torch.no_grad():  # as FSDP does
        for parameter in layer.parameters():
            storage, values = parameter.untyped_storage(), parameter.clone()
            size, before = storage.size(), storage.data_ptr()
            storage.resize_(0)
            kept.append(torch.full((size // 4,), float("nan"), device=DEVICE))  # in its place
            storage.resize_(size)
            with torch.autograd._unsafe_preserve_version_counter(parameter):
                parameter.copy_(values)
            kept.append(before != storage.data_ptr())
    assert any(moved is True for moved in kept)
    loss.backward()
    found = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    assert all(map(torch.equal, found, wanted))


def test_dropout_is_not_captured_in_a_graph(monkeypatch):
    layer, x = fusedrnn.torch.LSTM(5, 7, 2, dropout=0.5, device=DEVICE), inputs(11, 3, 5)
    monkeypatch.setattr(_gpu, "capturing", lambda: True)
    with pytest.raises(fusedrnn.torch.NotAccelerated, match="dropout in a CUDA graph"):
        layer(x)
    layer.eval()(x)


@pytest.mark.parametrize("failures", [1, 2])
def test_what_torch_keeps_for_later_is_given_back_where_memory_is_short(monkeypatch, failures):
    layer, x = fusedrnn.torch.LSTM(5, 7, device=DEVICE), inputs(11, 3, 5)
    run, calls, emptied = _gpu.DeviceWeights._run, [], []

    def short(self, call, *arguments):
        def fails_at_first(*arguments):
            calls.append(call)
            if len(calls) <= failures:
                raise MemoryError("cudaMallocAsync: cudaErrorMemoryAllocation")
            call(*arguments)

        run(self, fails_at_first, *arguments)

    wanted = layer(x)
    monkeypatch.setattr(_gpu.DeviceWeights, "_run", short)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    if failures == 1:
        assert all(map(torch.equal, tensors(layer(x)), tensors(wanted)))
    else:
        with pytest.raises(torch.cuda.OutOfMemoryError, match="cudaErrorMemoryAllocation"):
            layer(x)
    assert len(calls) == 2 and len(emptied) == 1


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_autocast_on_the_cpu_is_not_for_gpus(kind, low):
    layer, x = kind(5, 7, device=DEVICE), inputs(*((11,) if kind in LAYERS else ()), 3, 5)
    wanted = tensors(layer(x))
    with torch.autocast("cpu", low):
        found = tensors(layer(x))
    assert all(map(torch.equal, found, wanted))


def test_accelerate_takes_what_the_kernels_for_gpus_know():
    model = torch.nn.ModuleDict(
        {
            "low": torch.nn.LSTM(3, 4, dtype=torch.float16, device=DEVICE),
            "high": torch.nn.GRU(3, 4, dtype=torch.float64, device=DEVICE),
        }
    )
    report = fusedrnn.torch.accelerate(model)
    assert report.swapped == ("low",)
    assert report.left == {
        "high": "parameters of torch.float64, not float32 or float16 or bfloat16"
    }


@pytest.mark.filterwarnings("ignore")  # torch's, of its own making
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", LAYERS)
def test_torch_compile_makes_one_graph(kind, backend):
    torch._dynamo.reset()
    layer = kind(5, 7, 2, bidirectional=True, batch_first=True, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for batch, steps in ((3, 11), (2, 5)):
        x = inputs(batch, steps, 5)
        found, wanted = step(compiled, x, None), step(layer, x, None)
        assert_near(itertools.chain(*found), itertools.chain(*wanted))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lengths", [None, [3, 0, 1, 2]], ids=str)
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_operators_pass_torchs_own_checks(kind, options, lengths):
    layer = kind(5, 7, **options, device=DEVICE)
    arguments = (
        inputs(*((4, 3) if layer.batch_first else (3, 4)), 5).requires_grad_(),
        [],
        list(layer.parameters()),
        None if lengths is None else torch.tensor(lengths),
        None,
        torch.tensor([1, 2]),
        {"LSTM": "lstm", "GRU": "gru"}.get(layer.mode, "rnn_tanh"),
        layer.num_layers,
        False,
        layer.batch_first,
        0.5,
    )
    torch.library.opcheck(torch.ops.fusedrnn.rnn.default, arguments)
    torch.library.opcheck(torch.ops.fusedrnn.rnn_train.default, arguments)


@pytest.mark.filterwarnings("ignore")
def test_gradients_for_each_example():
    layer = fusedrnn.torch.GRU(5, 7, device=DEVICE)
    x, parameters = inputs(11, 3, 5), dict(layer.named_parameters())

    def loss(parameters, one):
        return torch.func.functional_call(layer, parameters, (one,))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)
    for b in range(3):
        wanted = torch.autograd.grad(loss(parameters, x[:, b]), list(parameters.values()))
        assert_near([d[b] for d in found.values()], wanted)


@pytest.mark.on_hardware
def test_work_goes_on_the_current_stream():
    layer = fusedrnn.torch.LSTM(64, 256, device=DEVICE)
    x = inputs(100, 16, 64)
    wanted = step(layer, x, None)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        slow = torch.zeros_like(x)
        torch.cuda._sleep(100_000_000)
        slow += x
        found = step(layer, slow, None)
    torch.cuda.current_stream().wait_stream(stream)
    assert_near(itertools.chain(*found), itertools.chain(*wanted))


@pytest.mark.on_hardware
@pytest.mark.parametrize("lengths", [None, [5, 100, 0, 99]])
def test_calls_can_be_captured_in_a_graph(lengths):
    layer = fusedrnn.torch.LSTM(64, 256, 2, device=DEVICE)
    x, other = inputs(100, 4, 64), inputs(100, 4, 64)
    with torch.no_grad():
        wanted = layer(other, lengths=lengths)[0]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = layer(x, lengths=lengths)
        x.copy_(other)
        for _ in range(3):
            graph.replay()
        assert torch.equal(y, wanted)
