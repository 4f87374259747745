"""Count the instructions of two kernels: a guard where wall time is too noisy for one.

``python -m bench.instructions`` runs fixed work under valgrind's callgrind, on the AVX2 kernels (it
knows no AVX-512), and fails where one executes more instructions than recorded here. The counts are
those of one compiler, to the instruction; the margin is for what differs between its patch levels.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass

MARGIN = 0.02
#: Both are inclusive: everything that a layer's kernels do, and nothing of Python.
KERNELS = ("forward_layer", "backward_layer")

SCRIPT = """
import numpy as np, fusedrnn
fusedrnn.set_num_threads(1)
layer = getattr(fusedrnn, {cell!r})({size}, {size}, seed=0)
x = np.ones(({steps}, {batch}, {size}), np.float32)
if {training}:
    y, _, tape = layer.forward(x)
    layer.backward(tape, y)
else:
    layer(x)
"""


@dataclass(frozen=True)
class Work:
    """A fixed amount of work, and the instructions that it took when it was recorded."""

    cell: str
    training: bool
    batch: int
    steps: int
    size: int  # I = H
    recorded: int  # gcc 12.2, -O3

    @property
    def script(self) -> str:
        """The program that does it."""
        return SCRIPT.format(**vars(self))

    def __str__(self) -> str:
        mode = "training" if self.training else "inference"
        return f"{self.cell} {mode}, B={self.batch} T={self.steps} I=H={self.size}"


WORKS = (
    Work("LSTM", False, batch=12, steps=20, size=64, recorded=2_318_743),
    Work("GRU", True, batch=1, steps=50, size=64, recorded=1_063_086),
)


def count(work: Work) -> int:
    """Return how many instructions the kernels execute for `work`."""
    environment = {**os.environ, "FUSEDRNN_ISA": "avx2", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [f"--toggle-collect=*{kernel}*" for kernel in KERNELS]
        command += [sys.executable, "-c", work.script]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or found is None:
        raise RuntimeError(f"{' '.join(command)}\n{run.stderr}")
    return int(found.group(1))


def verdict(change: float) -> str:
    """Return what a relative change of the count means."""
    if change > MARGIN:
        return "too many"
    return "fewer: record it" if change < -MARGIN else "ok"


def main() -> int:
    """Print the counts beside the recorded ones; return 1 if one is beyond its margin."""
    changes = []
    for work in WORKS:
        counted = count(work)
        changes.append(counted / work.recorded - 1)
        print(f"{work}: {counted:,} instructions")
        print(f"    {changes[-1]:+.1%} of the {work.recorded:,} recorded: {verdict(changes[-1])}")
    return int(max(changes) > MARGIN)


if __name__ == "__main__":
    sys.exit(main())
