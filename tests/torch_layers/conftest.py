"""The tests of `fusedrnn.torch`: left out, all of them, where torch isn't installed.

(The folder isn't called torch: on the path, it would be found as a package of that name.)
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them all: torch is an extra."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.extras)


if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making
        import torch

    @pytest.fixture(autouse=True)
    def _seed() -> None:
        torch.manual_seed(0)

    @pytest.fixture
    def strict() -> Iterator[None]:
        """Let a call that isn't accelerated fail the test."""
        import fusedrnn.torch

        with fusedrnn.torch.strict():
            yield
