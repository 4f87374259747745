"""Plants errors in the kernels, one by one: each must make their tests fail.

Usage::

    mutations.py [NAME...]

Works on a copy of the tree with the LSTM as its only cell, so that a change compiles in seconds,
and builds it for the emulation with the race checker. First without a change: then the tests must
pass. The exit status is 1 if a planted error is not found, 2 if one can't be planted any more,
because the line is gone: then it needs a new one here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """The first `old` after `after` in a file of csrc/cuda becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    after: str = ""


MUTATIONS = [
    Mutation(
        "no barrier after the step, in a block",
        "exchange.h",
        "__syncthreads();",
        "{}",
        after="void wait(Index step) const {",
    ),
    Mutation(
        "the part is copied before all of it is there",
        "exchange.h",
        "__syncthreads();",
        "{}",
        after="void publish(Index step) {",
    ),
    Mutation(
        "the flag is raised before all threads have copied",
        "exchange.h",
        "__syncthreads();",
        "{}",
        after="T* const to = global_",
    ),
    Mutation(
        "the next vector is written while others read the old one",
        "exchange.h",
        "__syncthreads();",
        "{}",
        after="void begin_write() const {",
    ),
    Mutation(
        "the product begins before the vector is back",
        "exchange.h",
        "__syncthreads();",
        "{}",
        after="copy_all(vector(step)",
    ),
    Mutation(
        "one block too few is awaited",
        "exchange.h",
        "awaited_ += gridDim.x;",
        "awaited_ += gridDim.x - 1;",
    ),
    Mutation(
        "a cluster begins without its blocks being ready",
        "exchange.h",
        "cluster_arrive();\n      cluster_wait();",
        "__syncthreads();",
        after="void begin() const {",
    ),
    Mutation(
        "one buffer where two are needed",
        "exchange.h",
        "step % 2 * rows * pitch_);\n  }",
        "0);\n  }",
        after="T* vector(Index step) const {",
    ),
    Mutation(
        "the vector's padding is not cleared",
        "exchange.h",
        "vectors_[i] = from_float<T>(0.0f);",
        "{}",
        after="void clear() const {",
    ),
    Mutation(
        "partial sums are added before they are there",
        "worker.h",
        "__syncthreads();",
        "{}",
        after="void gather(",
    ),
    Mutation(
        "fragments in the wrong order", "tile.h", "{f.x, f.y, f.z, f.w}", "{f.x, f.z, f.y, f.w}"
    ),
    Mutation(
        "a sum's row is its neighbour's",
        "tile.h",
        "2 * (lane % 4) + e % 2",
        "2 * (lane % 4) + 1 - e % 2",
    ),
    Mutation(
        "sequences that ended go on",
        "layer.h",
        "static_cast<int>(offsets[time + 1] - offsets[time])",
        "batch",
    ),
    Mutation(
        "units that don't exist are stored",
        "recurrent_forward.h",
        "row < active && unit < p_.shape.hidden",
        "row < active",
    ),
    Mutation(
        "h before the first step is zero",
        "recurrent_forward.h",
        "element_or_zero(d_.state_0[part], at)",
        "0.0f",
    ),
    Mutation(
        "the gradient of the first state is that of the second",
        "recurrent_backward.h",
        "add_product(steps_.begin + 1);",
        "{}",
    ),
    Mutation(
        "the wrong step's states before",
        "cell_step.h",
        "shape.row(time_before)",
        "shape.row(time)",
    ),
    Mutation(
        "copies are read before they are there",
        "exchange.h",
        "copy_async_wait<0>();",
        "{}",
        after="void copy_all(",
    ),
    Mutation(
        "a launch stores its states where other blocks still read those before",
        "layer_run.h",
        "carry_out[part] = turns[1]",
        "carry_out[part] = turns[0]",
    ),
    Mutation(
        "R h of another gate",
        "pointwise.h",
        "h_slots.count + spec.h_gate[s]",
        "h_slots.count + spec.h_gate[0]",
    ),
]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )


class Tree:
    """The copy, and what is built from it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.build = folder / "source", folder / "build"
        for name in ("CMakeLists.txt", "csrc", "tests"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            self.source.mkdir(exist_ok=True)
            copy(ROOT / name, self.source / name)
        cells = self.source / "csrc/cells/cells.def"
        cells.write_text('FUSEDRNN_CELL(Lstm, "lstm")\n')
        configured = run(
            ["cmake", "-G", "Ninja", "-S", str(self.source), "-B", str(self.build),
             "-DFUSEDRNN_PYTHON=OFF", "-DFUSEDRNN_TESTS=ON", "-DFUSEDRNN_CUDA=EMULATED",
             "-DFUSEDRNN_CUDA_RACES=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1"]
        )  # fmt: skip
        if configured.returncode != 0:
            sys.exit(configured.stdout)

    def make(self) -> None:
        built = run(["cmake", "--build", str(self.build), "-t", "fusedrnn_cuda_kernel_tests"])
        if built.returncode != 0:
            sys.exit(built.stdout[-5000:])

    def test(self) -> tuple[bool, str]:
        """Return whether the tests passed, and the first thing they found."""
        program = next(self.build.rglob("fusedrnn_cuda_kernel_tests"))
        tests = run([str(program), "--test-case=rnn*", "--abort-after=1"], timeout=900)
        found = re.search(r"^.*(ERROR|CRASH|race|deadlock|uninitialised).*$", tests.stdout, re.M)
        return tests.returncode == 0, found[0].strip() if found else ""


def plant(mutation: Mutation, text: str) -> str:
    start = text.find(mutation.after)
    at = text.find(mutation.old, start)
    if start < 0 or at < 0:
        print(f"{mutation.name}: no such line in {mutation.file}", file=sys.stderr)
        sys.exit(2)
    return text[:at] + mutation.new + text[at + len(mutation.old) :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="of mutations; all, if none is given")
    names = parser.parse_args().names
    chosen = [m for m in MUTATIONS if not names or m.name in names]
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.make()
        passed, found = tree.test()
        if not passed:
            print(f"without a change: {found}", file=sys.stderr)
            return 1
        missed = 0
        for mutation in chosen:
            begin = time.monotonic()
            path = tree.source / "csrc/cuda" / mutation.file
            text = path.read_text()
            path.write_text(plant(mutation, text))
            tree.make()
            passed, found = tree.test()
            path.write_text(text)
            missed += passed
            verdict = "NOT FOUND" if passed else f"found: {found[:120]}"
            print(f"{mutation.name}: {verdict} ({time.monotonic() - begin:.0f} s)", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
