"""Small seeded problems for the tests of the head: a linear layer and a loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusedrnn import reference

LOSSES = {
    "cross_entropy": reference.linear_cross_entropy,
    "squared_error": reference.linear_squared_error,
}

# Positions, and options of a call, beside the plain one.
CASES: list[dict[str, Any]] = [
    {},
    {"positions": (6,)},
    {"positions": ()},
    {"positions": (1, 1), "units": 1, "classes": 1},
    {"reduction": "mean"},
    {"weights": True},
    {"weights": True, "reduction": "mean"},
    {"lengths": [4, 0, 2]},
    {"lengths": [1, 4, 4], "weights": True, "reduction": "mean"},
    {"lengths": [0, 0, 0], "reduction": "mean"},
    {"positions": (2, 3, 2), "weights": True},
    {"positions": (0, 3)},
    {"positions": (4, 0), "reduction": "mean"},
]


@dataclass(frozen=True)
class HeadProblem:
    """A call of a head; `arrays` are what it has gradients of."""

    kind: str  # of LOSSES
    y: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    targets: np.ndarray
    options: dict[str, Any]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"y": self.y, "weight": self.weight, "bias": self.bias}

    def with_array(self, name: str, array: np.ndarray) -> HeadProblem:
        return replace(self, **{name: array})

    def run(self):
        return LOSSES[self.kind](self.y, self.weight, self.bias, self.targets, **self.options)

    def loss(self) -> float:
        return self.run()[0]

    def gradients(self) -> dict[str, np.ndarray]:
        return dict(zip(self.arrays, self.run()[2], strict=True))

    def counts(self) -> np.ndarray:
        """Where a position counts, said once more in other words than the reference's."""
        counted = np.ones(self.y.shape[:-1], bool)
        for n in np.ndindex(counted.shape):
            if "weights" in self.options and self.options["weights"][n] == 0:
                counted[n] = False
            if "lengths" in self.options and n[0] >= self.options["lengths"][n[1]]:
                counted[n] = False
            if self.kind == "cross_entropy" and self.targets[n] == -100:
                counted[n] = False
        return counted


def make(
    kind, *, positions=(4, 3), units=3, classes=5, weights=False, ignored=True, seed=0, **options
) -> HeadProblem:
    """Return a problem; some targets are ignored, and some weights are 0."""
    rng = np.random.default_rng(seed)
    if weights:
        options["weights"] = rng.uniform(0.5, 2, positions) * (rng.random(positions) < 0.7)
    if kind == "squared_error":
        targets = rng.normal(size=(*positions, classes))
    else:
        targets = rng.integers(0, classes, positions)
        if ignored and len(positions) > 0:
            targets = np.where(rng.random(positions) < 0.2, -100, targets)
    return HeadProblem(
        kind,
        y=rng.normal(size=(*positions, units)),
        weight=rng.normal(size=(classes, units)),
        bias=rng.normal(size=classes),
        targets=targets,
        options=options,
    )
