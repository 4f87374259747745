"""Count the instructions of the kernels: a guard where wall time is too noisy for one.

``python -m bench.instructions`` runs fixed work under valgrind's callgrind, on the AVX2 kernels (it
knows no AVX-512), and fails where one executes more instructions than recorded here. Each compiler
has counts of its own, to the instruction; the margin is for what differs between its patch levels.
The module must have its symbols: one from a build folder, not from a wheel.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import fusedrnn
from fusedrnn import _core

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
    recorded: dict[str, int]  # by COMPILERS, -O3

    @property
    def script(self) -> str:
        """The program that does it."""
        return SCRIPT.format(**vars(self))

    def __str__(self) -> str:
        mode = "training" if self.training else "inference"
        return f"{self.cell} {mode}, B={self.batch} T={self.steps} I=H={self.size}"


#: Whose counts are recorded, as `fusedrnn.info` begins its compiler, and of which version.
COMPILERS = {"GNU": "12.2", "Clang": "19.1"}

WORKS = (
    Work(
        "LSTM", False, batch=12, steps=20, size=64, recorded={"GNU": 2_347_296, "Clang": 2_453_099}
    ),
    Work(
        "LSTM", True, batch=12, steps=20, size=64, recorded={"GNU": 6_678_257, "Clang": 7_053_032}
    ),
    Work("GRU", True, batch=1, steps=50, size=64, recorded={"GNU": 1_114_310, "Clang": 1_248_197}),
    Work("LSTM", False, batch=1, steps=100, size=16, recorded={"GNU": 109_169, "Clang": 119_531}),
    Work("LSTM", True, batch=1, steps=100, size=16, recorded={"GNU": 328_141, "Clang": 340_864}),
)


def compiler() -> str:
    """Return which of the recorded compilers has built the kernels."""
    name = str(fusedrnn.info()["compiler"])
    known = next((known for known in COMPILERS if name.startswith(known)), None)
    if known is None:
        raise RuntimeError(f"compiler: expected one of {', '.join(COMPILERS)}, got {name}")
    return known


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
    counted = int(found.group(1))
    if counted == 0:  # of kernels without names, as in a wheel, whose modules are stripped
        raise RuntimeError(f"no function called {' or '.join(KERNELS)} in {_core.__file__}")
    return counted


def verdict(change: float) -> str:
    """Return what a relative change of the count means."""
    if change > MARGIN:
        return "too many"
    return "fewer: record it" if change < -MARGIN else "ok"


def main() -> int:
    """Print the counts beside the recorded ones; return 1 if one is beyond its margin."""
    changes = []
    by = compiler()
    for work in WORKS:
        counted, recorded = count(work), work.recorded[by]
        changes.append(counted / recorded - 1)
        print(f"{work}: {counted:,} instructions")
        print(f"    {changes[-1]:+.1%} of the {recorded:,} of {by}: {verdict(changes[-1])}")
    return int(max(changes) > MARGIN)


if __name__ == "__main__":
    sys.exit(main())
