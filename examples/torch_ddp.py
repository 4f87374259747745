"""Data-parallel training of fusedrnn's layers in PyTorch: two processes, one batch.

``python examples/torch_ddp.py`` starts its workers itself. Each has half of every batch;
`DistributedDataParallel` averages their gradients over gloo. Half of the batch each, and a loss
that is a mean over the batch: so the average is the gradient of the whole batch,

    1/2 (d mean_{b < B/2} + d mean_{b >= B/2}) = d mean_b

and training goes as in one process. Both are compared: the gradients of the first step, and the
weights after the last one.

Processes find each other by a file in a temporary folder, so no port is taken. Whatever fails or
hangs, the command ends, within `LIMIT` seconds.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import fusedrnn.torch

WORKERS = 2
BATCH, STEPS, FEATURES, HIDDEN, CLASSES = 16, 24, 12, 32, 5
UPDATES = 5
LIMIT = 60  # seconds
# Of each tensor's norm. Sums over the batch and the steps in another order, in float32: some tens
# of roundings of 6e-8; in the weights, those of every update.
TOLERANCE = 1e-5

Tensors = dict[str, Tensor]


class Classifier(torch.nn.Module):
    """A class for each sequence, from the last states of a bidirectional LSTM of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(FEATURES, HIDDEN, 2, bidirectional=True)
        self.head = torch.nn.Linear(2 * HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (B, CLASSES) of sequences (T, B, FEATURES)."""
        _, (h, _) = self.lstm(x)
        return self.head(torch.cat((h[-2], h[-1]), dim=1))  # the last layer's two directions


def data() -> tuple[Tensor, Tensor]:
    """Return one batch: sequences, and the feature that is largest at each one's last step."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, BATCH, FEATURES, generator=generator)
    return x, x[-1, :, :CLASSES].argmax(dim=1)


def train(rank: int, workers: int) -> tuple[Tensors, Tensors]:
    """Return the gradients of the first step and the last weights, by one worker's rows."""
    torch.manual_seed(0)
    model = Classifier()
    fusedrnn.torch.accelerate(model, strict=True)
    names = [name for name, _ in model.named_parameters()]
    called = DistributedDataParallel(model) if workers > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, classes = data()
    rows = slice(rank * BATCH // workers, (rank + 1) * BATCH // workers)
    first: Tensors = {}
    for _ in range(UPDATES):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(called(x[:, rows]), classes[rows]).backward()
        if not first:
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
            first = dict(zip(names, gradients, strict=True))
        optimizer.step()
    return first, model.state_dict()


def work(rank: int, folder: str) -> None:
    """Be one of the workers: train, and leave the results in the folder."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    torch.set_num_threads(1)
    fusedrnn.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=(Path(folder) / "rendezvous").as_uri(),
        rank=rank,
        world_size=WORKERS,
        timeout=datetime.timedelta(seconds=LIMIT),
    )
    try:
        torch.save(train(rank, WORKERS), Path(folder) / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def run_workers() -> list[tuple[Tensors, Tensors]]:
    """Return what every worker found."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        started = torch.multiprocessing.spawn(work, (folder,), nprocs=WORKERS, join=False)
        try:
            while not started.join(timeout=1):  # raises what a worker raised
                if time.monotonic() - begin > LIMIT:
                    raise SystemExit(f"the workers didn't end within {LIMIT} seconds")
        finally:
            for process in started.processes:
                process.kill()
                process.join()
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORKERS)]


def distance(found: Tensors, wanted: Tensors) -> float:
    """Return the largest distance of two tensors, relative to the second one's norm."""
    assert list(found) == list(wanted)
    return max(float((found[n] - w).norm() / w.norm()) for n, w in wanted.items())


def main() -> None:
    """Train in one process and in two, and compare."""
    one = train(0, 1)
    two = run_workers()
    for title, k in (("gradients of the first step", 0), (f"weights after {UPDATES} updates", 1)):
        apart = max(distance(worker[k], one[k]) for worker in two)
        print(f"{title}: {WORKERS} processes and one are {apart:.1e} of the norm apart")
        assert apart <= TOLERANCE, f"{title}: expected at most {TOLERANCE:.0e}, got {apart:.1e}"
        same = all(torch.equal(two[0][k][name], tensor) for name, tensor in two[1][k].items())
        assert same, f"{title}: expected the same in every process"
    print(f"and the same, bit for bit, in all {WORKERS} processes")


if __name__ == "__main__":
    main()
