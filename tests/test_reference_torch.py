"""The reference against torch, where torch is installed: outputs, states, all gradients."""

from __future__ import annotations

import pytest

from fusedrnn import reference
from reference_problems import CELLS, Problem, make, pack, relative, unpack

# Both round in float64 in different orders: some 10 roundings of 1e-16 a step.
TOLERANCE = 1e-12


def torch_module(torch, p: Problem, layers, bidirectional, bias, proj_size):
    options = {
        "num_layers": layers,
        "bidirectional": bidirectional,
        "bias": bias,
        "batch_first": p.options.get("batch_first", False),
        "dtype": torch.float64,
    }
    if p.cell.startswith("rnn_"):
        options["nonlinearity"] = p.cell.removeprefix("rnn_")
    if proj_size:
        options["proj_size"] = proj_size
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(p.cell, torch.nn.RNN)
    inputs, units = p.parameters["weight_ih_l0"].shape[1], p.states[-1].shape[-1]
    module = kind(inputs, units, **options)
    shapes = [(name, tuple(w.shape)) for name, w in module.named_parameters()]
    assert shapes == [(name, array.shape) for name, array in p.parameters.items()]
    module.load_state_dict({name: torch.tensor(array) for name, array in p.parameters.items()})
    return module


def check_equals_torch(torch, p: Problem, module) -> None:
    """Compare outputs, states and all gradients; lengths go to torch as a packed sequence."""
    x = torch.tensor(p.x, requires_grad=True)
    start = tuple(torch.tensor(s, requires_grad=True) for s in p.states)
    lengths, batch_first = p.options.get("lengths"), p.options.get("batch_first", False)
    if lengths is None:
        y, final = module(x, pack(start))
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False
        )
        packed_y, final = module(packed, pack(start))
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(
            packed_y, batch_first=batch_first, total_length=x.shape[1 if batch_first else 0]
        )
    torch.autograd.backward((y, *unpack(final)), [torch.tensor(d) for d in (p.dy, *p.dstates)])
    got_y, got_final, _ = p.forward()
    for got, want in zip((got_y, *unpack(got_final)), (y, *unpack(final)), strict=True):
        assert got.shape == want.shape
        assert relative(got, want.detach().numpy()) <= TOLERANCE
    want = {name: w.grad for name, w in module.named_parameters()} | {"x": x.grad}
    want |= dict(zip(reference.CELLS[p.cell].states, (s.grad for s in start), strict=True))
    gradients = p.gradients()
    assert gradients.keys() == want.keys()
    for name, gradient in gradients.items():
        assert relative(gradient, want[name].numpy()) <= TOLERANCE, name


LAYOUTS = {
    "time first": {},
    "batch first": {"batch_first": True},
    "unbatched": {"batch": None},
    "no bias": {"bias": False},
    "lengths": {"lengths": [5, 7, 1]},
    "lengths below T": {"lengths": [4, 6, 6]},
    "lengths, batch first": {"lengths": [7, 2, 7], "batch_first": True},
}


@pytest.mark.parametrize("cell", [*CELLS, "projected lstm"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_torch(torch, cell, layers, bidirectional, layout):
    proj_size = 3 if cell.startswith("projected") else 0
    options = {"batch": 3, "layers": layers, "bidirectional": bidirectional} | LAYOUTS[layout]
    p = make(
        cell.removeprefix("projected "),
        steps=7,
        inputs=4,
        units=5,
        proj_size=proj_size,
        **options,
    )
    bias = options.get("bias", True)
    check_equals_torch(torch, p, torch_module(torch, p, layers, bidirectional, bias, proj_size))
