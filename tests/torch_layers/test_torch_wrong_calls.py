"""Wrong calls raise errors, in a process that lives: also where torch's own layers would crash."""

from __future__ import annotations

import pytest
import torch

import fusedrnn.torch
import scripts
from torch_problems import CELLS, tensors
from wrong_call_problems import packed, wrong_packings

# bfloat16 goes torch's way, past the kernels' checks.
DTYPES = ["float32", "bfloat16"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problems", ["layer_problems", "cell_problems"])
def test_wrong_calls_raise_and_the_process_lives(problems, dtype):
    script = f"""
    import torch
    import wrong_call_problems as wrong
    torch.set_num_threads(1)
    wrong.refuse_all(torch.{dtype}, wrong.{problems})
    """
    ended = scripts.run(script)
    assert ended.returncode == 0, ended.stdout[-500:] + ended.stderr[-2000:]
    assert ended.stdout.endswith("DONE\n")
    assert "TAKEN" not in ended.stdout and "FAULT" not in ended.stdout


def test_packed_sequences_made_by_hand_are_taken_where_they_are_right():
    for order, inverse in ((None, None), ([2, 0, 1], [1, 2, 0])):
        given = packed(order=order, inverse=inverse)
        for dtype in (torch.float32, torch.bfloat16):  # the kernels' way, and torch's
            layer = fusedrnn.torch.GRU(4, 6, dtype=dtype)
            y, h = layer(given.to(dtype), torch.zeros(1, 3, 6, dtype=dtype))
            assert y.data.shape == (10, 6) and h.shape == (1, 3, 6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("batch sizes that grow", "batch_sizes: expected positive numbers, none larger than the"),
        ("a batch size of zero", "batch_sizes: expected positive numbers, none larger than the"),
        (
            "too few rows",
            "batch_sizes: .* with the sum 10, the rows of data; got 4 with the sum 12",
        ),
        ("batch sizes of reals", r"batch_sizes: expected .* got \(5,\) of torch.float32 on cpu"),
        ("a long inverse", "unsorted_indices: expected 0 to 2 in any order"),
        ("a negative order", "sorted_indices: expected 0 to 2 in any order"),
        ("an order of one sequence alone", "sorted_indices: expected 0 to 2 in any order"),
        ("an inverse of one sequence alone", "unsorted_indices: expected 0 to 2 in any order"),
        ("rows of three dimensions", "input must have 2 dimensions, got 3"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_errors_of_packings_name_what_is_wrong(name, text, dtype):
    layer = fusedrnn.torch.LSTM(4, 6, dtype=dtype)
    state = torch.zeros(1, 3, 6, dtype=dtype)
    with pytest.raises((RuntimeError, ValueError), match=text):
        layer(wrong_packings(dtype)[name], (state, state))


def test_wrong_orders_are_errors_within_torch_func_too():
    layer = fusedrnn.torch.GRU(4, 6)
    right = packed(order=[1, 0, 2], inverse=[1, 0, 2])

    def loss(rows, inverse):
        return layer(right._replace(data=rows, unsorted_indices=inverse))[1].sum()

    torch.func.grad(loss)(right.data, right.unsorted_indices)
    with pytest.raises(ValueError, match="unsorted_indices: expected 0 to 2 in any order"):
        torch.func.grad(loss)(right.data, torch.tensor([0, 0, 2]))


@pytest.mark.parametrize("kind", CELLS)
def test_cells_without_units(kind):
    """Alone and swapped into a model: empty results of the right shapes, and their gradients."""
    for cell in (kind(5, 0), torch.nn.Sequential(kind.torch_class(5, 0))):
        fusedrnn.torch.accelerate(cell)
        for shape in ((3, 5), (5,)):
            x = torch.randn(shape, requires_grad=True)
            results = tensors(cell(x))
            assert all(part.shape == (*shape[:-1], 0) for part in results)
            sum(part.sum() for part in results).backward()
            assert torch.equal(x.grad, torch.zeros(shape))
