"""What is measured: cells, modes, sizes, and how many operations they take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fusedrnn import reference

CELLS = ("lstm", "gru", "rnn_tanh")
MODES = ("infer", "train", "step")
# How a layer is called: fusedrnn's own by arrays, or in the place of torch's modules.
MODULE_CALLS = ("eager", "cell", "compiled", "packed", "pools")
CALLS = ("arrays", *MODULE_CALLS)

# B, T, H = I
GRID = (
    (1, 1, 64),
    (1, 1, 256),
    (1, 100, 64),
    (1, 100, 256),
    (1, 100, 512),
    (1, 50, 1024),
    (8, 100, 128),
    (32, 100, 64),
    (32, 100, 128),
    (32, 100, 256),
    (64, 50, 512),
    (64, 25, 1024),
    (256, 16, 128),
)
# B, T, H = I of the modules' cases, by call.
MODULE_GRID = {
    "eager": (
        (1, 1, 64),
        (1, 100, 64),
        (1, 100, 256),
        (8, 100, 128),
        (32, 100, 256),
        (64, 50, 512),
    ),
    "cell": ((1, 16, 32), (1, 16, 128), (1, 16, 512), (1, 16, 1024), (16, 16, 256)),
    "compiled": ((1, 1, 64), (1, 100, 64), (8, 100, 128)),
    "packed": ((8, 50, 128), (32, 50, 256)),
    "pools": ((8, 100, 128), (32, 100, 256)),
}
SMALL_HIDDEN = (8, 16, 32, 40)  # with I = 1, B = 1, T = 2000: audio and control
STEP_HIDDEN = (64, 256)
# One axis at a time grows from the case in the middle.
MIDDLE = {"batch": 8, "steps": 64, "hidden": 128}
SCALING = {
    "batch": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "steps": (16, 32, 64, 128, 256, 512, 1024),
    "hidden": (16, 32, 64, 128, 256, 512, 1024),
}
LONG_STEPS, LONG_HIDDEN = 100_000, 32

GPU_DTYPES = ("float32", "float16", "bfloat16")
# B, T, H = I, layers, both directions. For the LSTM in half types the planner has on an H100
# clusters up to H = 512 (forward), above that blocks anywhere, and single steps for the largest
# batch; an RNN of H = 128 in one block. An A100, which has no clusters, mostly blocks anywhere.
GPU_GRID = (
    (1, 1024, 128, 1, False),
    (16, 256, 128, 1, False),
    (256, 64, 128, 1, False),
    (1, 512, 256, 1, False),
    (16, 1024, 256, 1, False),
    (64, 128, 256, 1, False),
    (32, 100, 512, 1, False),
    (16, 128, 768, 1, False),  # the case that is published of cuDNN, in float16
    (1, 100, 1024, 1, False),
    (64, 32, 1024, 1, False),
    (256, 16, 1024, 1, False),
    (16, 256, 256, 2, False),
    (16, 256, 256, 1, True),
    (32, 50, 512, 2, True),
)
GPU_QUICK = ((3, 4, 20, 1, False), (2, 3, 12, 2, True))


@dataclass(frozen=True)
class Case:
    """A network, mostly of one layer and one direction, and one way to call it.

    `call` says what is called: "arrays" is fusedrnn's own, the others are modules of torch, and
    fusedrnn.torch's in their place.

    ========  ====================================================================
    eager     as they are
    cell      the module of one step, in a loop over T
    compiled  by `torch.compile`
    packed    on a PackedSequence, of 1 to 2T - 1 steps a sequence, T on average
    pools     as they are, each time after products of large matrices by torch
    ========  ====================================================================
    """

    cell: str
    mode: str  # infer; train: forward and all gradients; step: one call with B = T = 1
    batch: int  # B
    steps: int  # T
    input: int  # I
    hidden: int  # H
    dtype: str = "float32"
    call: str = "arrays"
    layers: int = 1
    bidirectional: bool = False
    device: str = "cpu"  # or "cuda"

    @property
    def gates(self) -> int:
        """G: each weight has G*H rows."""
        return len(reference.CELLS[self.cell].gates)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return {"float64": 8, "float32": 4}.get(self.dtype, 2)

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 1 + self.bidirectional

    @property
    def small(self) -> bool:
        """Whether it is one of the small cells, where activations take most of the time."""
        return self.input == 1

    @property
    def flops(self) -> float:
        """Operations of the products, two for a multiply-add; activations count as none.

        Forward multiplies W by x and R by h; backward multiplies both by the gradients of the
        gates, and these by x and by h.
        """
        outputs = self.directions * self.hidden  # of a layer, which the next one reads
        columns = self.input + (self.layers - 1) * outputs + self.layers * self.hidden
        products = self.directions * self.gates * self.hidden * columns
        return 2.0 * self.steps * self.batch * products * (3 if self.mode == "train" else 1)

    @property
    def shape(self) -> str:
        """The sizes, in words."""
        sizes = (
            f"I=H={self.hidden}" if self.input == self.hidden else f"I={self.input} H={self.hidden}"
        )
        return " ".join(filter(None, (f"B={self.batch} T={self.steps} {sizes}", self.network)))

    @property
    def network(self) -> str:
        """Layers and directions, in words, where it isn't one of each."""
        words = [f"{self.layers} layers"] if self.layers > 1 else []
        return ", ".join(words + ["both directions"] * self.bidirectional)

    def __str__(self) -> str:
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        call = "" if self.call == "arrays" else f" {self.call}"
        device = "" if self.device == "cpu" else f" on {self.device}"
        return f"{self.cell}{call} {self.mode} {self.shape}{dtype}{device}"


def grid(cells: Iterable[str] = CELLS, dtype: str = "float32") -> list[Case]:
    """Return the cases that count for the targets, by cell and mode."""
    shapes = [(b, t, h, h) for b, t, h in GRID] + [(1, 2000, 1, h) for h in SMALL_HIDDEN]
    found = []
    for cell in cells:
        found += [Case(cell, "infer", *shape, dtype) for shape in shapes]
        found += [Case(cell, "train", *shape, dtype) for shape in shapes if shape[1] > 1]
        found += [Case(cell, "step", 1, 1, h, h, dtype) for h in STEP_HIDDEN]
    return found


def modules(cells: Iterable[str] = CELLS, dtype: str = "float32") -> list[Case]:
    """Return the cases of torch's modules."""
    return [
        Case(cell, mode, batch, steps, hidden, hidden, dtype, call)
        for call, shapes in MODULE_GRID.items()
        for cell in cells
        for mode in ("infer", "train")
        for batch, steps, hidden in shapes
    ]


def scaling(dtype: str = "float32") -> dict[str, list[Case]]:
    """Return how an LSTM grows in T, B and H, and a very long sequence."""
    cases: dict[str, list[Case]] = {}
    for mode in ("infer", "train"):
        for axis, values in SCALING.items():
            cases[f"{mode} {axis}"] = line = []
            for value in values:
                batch, steps, hidden = ({**MIDDLE, axis: value}[name] for name in MIDDLE)
                line.append(Case("lstm", mode, batch, steps, hidden, hidden, dtype))
    long = Case("lstm", "train", 1, LONG_STEPS, LONG_HIDDEN, LONG_HIDDEN, dtype)
    return {**cases, "train long": [long]}


def quick(cells: Iterable[str] = CELLS, dtype: str = "float32") -> list[Case]:
    """Return a few small cases: all that the harness does, in seconds."""
    return [
        case
        for cell in cells
        for case in (
            Case(cell, "infer", 1, 1, 24, 24, dtype),
            Case(cell, "infer", 5, 12, 24, 24, dtype),
            Case(cell, "train", 5, 12, 24, 24, dtype),
            Case(cell, "step", 1, 1, 24, 24, dtype),
        )
    ]


def quick_modules(cells: Iterable[str] = CELLS, dtype: str = "float32") -> list[Case]:
    """Return one small case for each way to call a module."""
    return [
        Case(cell, mode, 5, 12, 24, 24, dtype, call)
        for call in MODULE_CALLS
        for cell in cells
        for mode in ("infer", "train")
    ]


def gpu(
    cells: Iterable[str] = CELLS,
    modes: Iterable[str] = ("infer", "train"),
    dtypes: Iterable[str] = GPU_DTYPES,
    shapes: Iterable[tuple[int, int, int, int, bool]] = GPU_GRID,
) -> list[Case]:
    """Return the cases on a GPU, by mode, dtype and cell."""
    return [
        Case(cell, mode, batch, steps, hidden, hidden, dtype, "arrays", layers, both, "cuda")
        for mode in modes
        for dtype in dtypes
        for cell in cells
        for batch, steps, hidden, layers, both in shapes
    ]


def quick_gpu(
    cells: Iterable[str] = CELLS,
    modes: Iterable[str] = ("infer", "train"),
    dtypes: Iterable[str] = GPU_DTYPES,
) -> list[Case]:
    """Return a few small ones, which the emulation too can do in seconds."""
    return gpu(cells, modes, dtypes, GPU_QUICK)
