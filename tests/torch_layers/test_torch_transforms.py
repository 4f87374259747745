"""torch.func, autocast, modes and tensor subclasses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fusedrnn.torch
from fusedrnn.torch._differentiable import without_libraries
from torch_problems import (
    CELL_KINDS,
    CELLS,
    KINDS,
    LAYERS,
    assert_near,
    cut,
    kind_id,
    states_of,
    tensors,
    twins,
)

strictly = pytest.mark.usefixtures("strict")


def by_torch(layer, *arguments):
    """The tensors of torch's own layer under autocast.

    oneDNN computes its LSTMs in bfloat16, but on CPUs without AVX-512 it says that it can't. There,
    what torch's other operators give, with the dtype that it has elsewhere.
    """
    try:
        return tensors(layer(*arguments))
    except RuntimeError as error:
        if "LSTM forward propagation primitive" not in str(error):
            raise
        with without_libraries():
            return [t.bfloat16() for t in tensors(layer(*arguments))]


def stacked(function, *arguments):
    """What vmap(function) must give: the results of the examples, stacked."""
    results = [tensors(function(*example)) for example in zip(*arguments, strict=True)]
    return [torch.stack(parts) for parts in zip(*results, strict=True)]


@strictly
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_vmap_over_inputs_and_states(kind, options, batch_first):
    layer = kind(5, 7, 2, bidirectional=True, batch_first=batch_first, **options)
    x = torch.randn(4, 3, 2, 5)
    states = [tensors(states_of(layer, 3 if batch_first else 2)) for _ in x]
    state = [torch.stack(part) for part in zip(*states, strict=True)]
    count = len(state)

    def call(x, *state):
        return layer(x, state if layer.mode == "LSTM" else state[0])

    assert_near(tensors(vmap(call)(x, *state)), stacked(call, x, *state))
    assert_near(tensors(vmap(layer)(x)), stacked(layer, x))
    dims = (2, *[None] * count)
    other = vmap(call, in_dims=dims, out_dims=1)(x.movedim(0, 2), *states[0])
    want = stacked(lambda x: call(x, *states[0]), x)
    assert_near([t.movedim(1, 0) for t in tensors(other)], want)
    one = x[0, 0] if batch_first else x[0, :, 0]
    of_one = [part[:, :, 0] for part in state]
    found = vmap(call, in_dims=(None, *[0] * count))(one, *of_one)
    assert_near(tensors(found), stacked(lambda *state: call(one, *state), *of_one))


@strictly
@pytest.mark.parametrize("kind", CELLS)
def test_vmap_over_cells(kind):
    cell, x = kind(5, 7), torch.randn(4, 3, 5)
    assert_near(tensors(vmap(cell)(x)), stacked(cell, x))
    assert_near(tensors(vmap(cell)(x[0])), tensors(cell(x[0])))


@strictly
@pytest.mark.parametrize("kind", LAYERS)
def test_vmap_over_weights(kind):
    """An ensemble, as torch.func.stack_module_state makes it."""
    layers, x = [kind(5, 7) for _ in range(3)], torch.randn(11, 2, 5)
    parameters, _ = torch.func.stack_module_state(layers)
    found = vmap(lambda p, x: functional_call(layers[0], p, (x,)), in_dims=(0, None))(parameters, x)
    wanted = [torch.stack(parts) for parts in zip(*(tensors(m(x)) for m in layers), strict=True)]
    assert_near(tensors(found), wanted)


@strictly
def test_vmap_over_lengths():
    layer = fusedrnn.torch.GRU(5, 7)
    x, lengths = torch.randn(4, 11, 3, 5), torch.randint(0, 12, (4, 3))
    network = (list(layer.parameters()), None, None, "gru", 1, False, False, 0.0)

    def call(x, lengths):
        weights, *rest = network
        return torch.ops.fusedrnn.rnn(x, [], weights, lengths, *rest)[:2]

    with torch.no_grad():
        assert_near(vmap(call)(x, lengths), stacked(call, x, lengths))
        assert_near(vmap(call, (None, 0))(x[0], lengths), stacked(lambda n: call(x[0], n), lengths))


@strictly
def test_vmap_over_packed_sequences():
    layer = fusedrnn.torch.LSTM(5, 7)
    packed = pack_sequence(cut(torch.randn(9, 3, 5), [9, 5, 2]))
    data = torch.randn(4, *packed.data.shape)

    def call(data):
        y, last = layer(packed._replace(data=data))
        return y.data, last

    assert_near(tensors(vmap(call)(data)), stacked(call, data))


def loss_of(layer):
    def loss(parameters, x):
        y, last = functional_call(layer, parameters, (x,))
        return y.square().sum() + sum(part.sum() for part in tensors(last))

    return loss, {name: p.detach() for name, p in layer.named_parameters()}


@strictly
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_grad(kind, options):
    layer, x = kind(5, 7, 2, bidirectional=True, **options), torch.randn(4, 11, 3, 5)
    loss, parameters = loss_of(layer)
    found = grad(loss, argnums=(0, 1))(parameters, x[0])
    given = x[0].clone().requires_grad_()
    loss(dict(layer.named_parameters()), given).backward()
    wanted = [*(p.grad for p in layer.parameters()), given.grad]
    assert_near([*found[0].values(), found[1]], wanted)

    # The gradients of each example, and those of all of them.
    each = [grad(loss)(parameters, example) for example in x]
    wanted = [torch.stack(parts) for parts in zip(*(g.values() for g in each), strict=True)]
    assert_near(vmap(grad(loss), in_dims=(None, 0))(parameters, x).values(), wanted)
    total = grad(lambda p: vmap(loss, in_dims=(None, 0))(p, x).sum())(parameters)
    assert_near(total.values(), [part.sum(0) for part in wanted])


@strictly
@pytest.mark.parametrize("kind", LAYERS)
def test_jacrev(kind):
    layer = kind(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    want = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x)
    assert_near([jacrev(lambda x: layer(x)[0])(x)], [want])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", LAYERS)
def test_what_torch_func_takes_to_torchs_path(kind):
    ours, theirs = twins(kind, 3, 4, dtype=torch.float64)
    x, tangent = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    hessians = [
        jacrev(grad(lambda x, layer=layer: layer(x)[0].square().sum()))(x)
        for layer in (ours, theirs)
    ]
    assert_near(hessians[:1], hessians[1:])
    found, wanted = (
        jvp(lambda x, layer=layer: layer(x)[0], (x,), (tangent,)) for layer in (ours, theirs)
    )
    assert_near(found, wanted)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        assert_near([forward_ad.unpack_dual(ours(dual)[0]).tangent], [wanted[1]])
    with fusedrnn.torch.strict():
        with pytest.raises(fusedrnn.torch.NotAccelerated, match="forward-mode differentiation"):
            jvp(lambda x: ours(x)[0], (x,), (tangent,))
        with pytest.raises(fusedrnn.torch.NotAccelerated, match="gradients of gradients"):
            jacrev(grad(lambda x: ours(x)[0].square().sum()))(x)


@strictly
@pytest.mark.parametrize("grads", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_under_vmap_is_as_random_as_asked(kind, grads):
    """The same mask for each example, or others, or an error, as torch's own operators have it."""
    layer = kind(5, 6, 2, dropout=0.5)
    examples = torch.randn(7, 3, 5).expand(4, 7, 3, 5)

    def call(x):
        return layer(x)[0]

    def gradient(x):
        return grad(lambda x: call(x).square().sum())(x)

    def results(randomness):
        return vmap(gradient if grads else call, randomness=randomness)(examples)

    same, different = results("same"), results("different")
    for i in (1, 2, 3):
        assert torch.equal(same[i], same[0])
        assert not torch.equal(different[i], different[0])
    assert not torch.equal(results("same")[0], same[0]), "another call, another mask"
    with pytest.raises(RuntimeError, match="called random operation while in randomness error"):
        results("error")


@strictly
@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_where_values_are_hidden(kind):
    layer, x = kind(5, 7, bidirectional=True), torch.randn(4, 11, 3, 5)
    lengths = torch.tensor([[11, 3, 0], [0, 0, 0], [1, 11, 2], [5, 5, 5]])

    def call(x, lengths):
        return layer(x, lengths=lengths)

    want = stacked(call, x, lengths)
    assert_near(tensors(vmap(call)(x, lengths)), want)
    for given in (lengths[0], [11, 3, 0]):
        found = vmap(lambda x, given=given: call(x, given))(x)
        assert_near(tensors(found), stacked(lambda x: call(x, lengths[0]), x))
    for given, dims in ((lengths + 1, 0), (lengths[0] + 1, None)):
        with pytest.raises(ValueError, match=r"lengths: expected values in \[0, 11\]"):
            vmap(call, in_dims=(0, dims))(x, given)

    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(call)(x[0], lengths[0])
    assert_near(tensors(traced(x[2], lengths[2])), tensors(call(x[2], lengths[2])))
    with FakeTensorMode():
        other = kind(5, 7)
        for given in ([11, 3, 0], torch.tensor([11, 3, 0])):
            y, _ = other(torch.randn(11, 3, 5), lengths=given)
            assert y.shape == (11, 3, 7)
        with pytest.raises(ValueError, match=r"lengths: expected values in \[0, 11\]"):
            other(torch.randn(11, 3, 5), lengths=[11, 12, 0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_of_fake_tensors_on_torchs_path(kind, batch_first):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        layer = kind(5, 7, batch_first=batch_first, dtype=torch.bfloat16)
        x = torch.randn(*((3, 11) if batch_first else (11, 3)), 5, dtype=torch.bfloat16)
        for lengths in ([11, 3, 0], torch.tensor([11, 3, 0])):
            y, last = layer(x, lengths=lengths)
            assert y.shape == (*x.shape[:2], 7) and y.dtype is torch.bfloat16
            assert all(part.shape == (1, 3, 7) for part in tensors(last))
        with pytest.raises(RuntimeError, match=r"size \(1, 3, 7\), got \[1, 2, 7\]"):
            layer(x, states_of(layer, 2, torch.bfloat16), lengths=[11, 3, 0])


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_on_the_meta_device(kind):
    layer = kind(5, 7, device="meta")
    x = torch.randn(11, 3, 5, device="meta")
    for lengths in ([11, 3, 0], torch.tensor([11, 3, 0]), torch.tensor([1, 1, 1], device="meta")):
        y, last = layer(x, lengths=lengths)
        assert y.is_meta and y.shape == (11, 3, 7)
        assert all(part.is_meta and part.shape == (1, 3, 7) for part in tensors(last))


# Autocast


LOW = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("layers", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=kind_id)
def test_autocast_has_torchs_dtypes_in_every_combination(kind, options, layers):
    ours, theirs = twins(kind, 5, 7, **layers, **options)
    whole = torch.randn(6, 3, 5)
    inputs = [whole, whole[:, 0], whole[:, :0]]
    inputs += [pack_sequence(cut(whole, lengths)) for lengths in ([6, 4, 4], [6, 6, 6])]
    for x, of_x, grads in itertools.product(inputs, LOW, (False, True)):
        batch = 3 if x is whole or isinstance(x, PackedSequence) else None if x.dim() == 2 else 0
        parts = tensors(states_of(ours, batch))
        for given in [None, *itertools.product(LOW, repeat=len(parts))]:
            state = given and tuple(p.to(dtype) for p, dtype in zip(parts, given, strict=True))
            state = state[0] if state and len(state) == 1 else state
            with torch.autocast("cpu"), torch.set_grad_enabled(grads):
                assert_same_dtypes(ours, theirs, x.to(of_x), state)


@pytest.mark.parametrize(("kind", "options"), CELL_KINDS, ids=kind_id)
def test_autocast_of_cells_has_torchs_dtypes_in_every_combination(kind, options):
    ours, theirs = twins(kind, 5, 7, **options)
    count = 2 if kind is fusedrnn.torch.LSTMCell else 1
    for of_x, grads in itertools.product(LOW, (False, True)):
        for given in [None, *itertools.product(LOW, repeat=count)]:
            state = given and tuple(torch.randn(3, 7).to(dtype) for dtype in given)
            state = state[0] if state and count == 1 else state
            with torch.autocast("cpu"), torch.set_grad_enabled(grads):
                assert_same_dtypes(ours, theirs, torch.randn(3, 5).to(of_x), state)


def assert_same_dtypes(ours, theirs, *arguments):
    """Both raise, or both give results of the same dtypes and shapes."""
    try:
        wanted = by_torch(theirs, *arguments)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            ours(*arguments)
        return
    found = tensors(ours(*arguments))
    assert [(t.dtype, t.shape) for t in found] == [(t.dtype, t.shape) for t in wanted]


@strictly
@pytest.mark.parametrize("variant", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_autocast_has_torchs_dtypes(kind, variant):
    if kind in CELLS and variant:
        variant = {"bias": False}
    ours, theirs = twins(kind, 5, 7, **variant)
    x = torch.randn(*((3, 5) if kind in CELLS else (11, 3, 5)))
    problems = [x]
    if kind in LAYERS:
        problems.append(pack_sequence(cut(x, [11, 4, 2])))
        problems.append(x[:, 0])
    for given in problems:
        for context in (torch.no_grad(), torch.enable_grad()):
            with torch.autocast("cpu"), context:
                found, wanted = tensors(ours(given)), by_torch(theirs, given)
            assert [t.dtype for t in found] == [t.dtype for t in wanted]
            for a, b in zip(found, wanted, strict=True):
                # bfloat16 has 8 bits; torch rounds to it in every step.
                assert (a - b).float().norm() <= 0.02 * b.float().norm() + 1e-6
    with torch.autocast("cpu"):
        loss = tensors(ours(x))[0].float().square().sum()
    loss.backward()
    assert all(p.grad.dtype is torch.float32 for p in ours.parameters())


def test_autocast_of_other_inputs():
    ours, theirs = twins(fusedrnn.torch.LSTM, 5, 7)
    x = torch.randn(11, 3, 5)
    hx = tuple(part.bfloat16() for part in states_of(ours, 3))
    with torch.autocast("cpu"), fusedrnn.torch.strict():
        for given, state in ((x.bfloat16(), None), (x, hx), (x.bfloat16(), hx)):
            found, wanted = tensors(ours(given, state)), by_torch(theirs, given, state)
            for a, b in zip(found, wanted, strict=True):
                assert a.dtype == b.dtype
                assert (a - b).float().norm() <= 0.02 * b.float().norm()
    double, theirs = twins(fusedrnn.torch.LSTM, 5, 7, dtype=torch.float64)
    with torch.autocast("cpu"), fusedrnn.torch.strict():
        assert_near(tensors(double(x.double())), tensors(theirs(x.double())))
    gru, theirs = twins(fusedrnn.torch.GRU, 5, 7)
    with torch.autocast("cpu"):  # by torch
        assert_near([gru(x.bfloat16())[0].float()], [theirs(x.bfloat16())[0].float()])


@strictly
def test_autocast_compiled():
    layer, x = fusedrnn.torch.LSTM(5, 7), torch.randn(11, 3, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for given in (x, x.bfloat16()):
        with torch.autocast("cpu"):
            found, wanted = tensors(compiled(given)), tensors(layer(given))
        assert all(t.dtype is torch.bfloat16 for t in found)
        assert all(map(torch.equal, found, wanted))


# Modes and subclasses


class Logged(torch.Tensor):
    """A subclass that changes nothing."""


def test_tensor_subclasses_are_torchs():
    ours, theirs = twins(fusedrnn.torch.GRU, 5, 7)
    x = torch.randn(11, 3, 5).as_subclass(Logged)
    y = ours(x)[0]
    assert type(y) is type(theirs(x)[0])
    assert torch.equal(y, theirs(x)[0])
    with (
        fusedrnn.torch.strict(),
        pytest.raises(fusedrnn.torch.NotAccelerated, match="GRU: an input of type Logged"),
    ):
        ours(x)


@strictly
def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        layer = fusedrnn.torch.LSTM(5, 7, batch_first=True)
        y, (h, c) = layer(torch.randn(3, 11, 5))
    assert [t.shape for t in (y, h, c)] == [(3, 11, 7), (1, 3, 7), (1, 3, 7)]


@strictly
def test_modes_see_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            seen.append(function)
            return function(*arguments, **(options or {}))

    layer, x, seen = fusedrnn.torch.GRU(5, 7), torch.randn(11, 3, 5), []
    with Log():
        y, _ = layer(x)
        y.sum().backward()
    operators = torch.ops.fusedrnn
    assert operators.rnn_train.default in seen and operators.rnn_backward.default in seen
    with torch.no_grad(), Log():
        layer(x)
    assert operators.rnn.default in seen


@strictly
def test_a_default_device_is_no_obstacle():
    layer, x = fusedrnn.torch.GRU(5, 7, 2, dropout=0.5), torch.randn(11, 3, 5)
    with torch.device("meta"):
        assert layer(x)[0].device.type == "cpu"
        layer(x, lengths=[3, 0, 11])


def test_other_devices_and_layouts_raise_as_torchs_do():
    from torch_problems import outcome

    ours, theirs = twins(fusedrnn.torch.GRU, 5, 7)
    for x in (torch.randn(11, 3, 5).to_sparse(), torch.randn(11, 3, 5, device="meta")):
        wanted = outcome(lambda x=x: theirs(x))
        assert outcome(lambda x=x: ours(x)) == wanted
    negated = torch.randn(11, 3, 5, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    assert_near(tensors(ours(negated)), tensors(theirs(negated)))
