"""Tests of the CUDA side from Python: on a GPU, or on the emulation if that is what was built."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusedrnn import _device, cuda

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers of tests that need no GPU, or a real one."""
    config.addinivalue_line("markers", "without_gpu: runs where there is no GPU too")
    config.addinivalue_line("markers", "on_hardware: runs where the GPU isn't emulated")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, or needs bfloat16 where it has none; say why."""
    reason = cuda.why_not()
    if reason is None and _device.info()["emulated"]:
        others = [item for item in items if item.get_closest_marker("on_hardware")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    old = reason is None and float(cuda.devices()[0]["capability"]) < 8
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.cuda)
        if item.get_closest_marker("without_gpu"):
            continue
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"no CUDA: {reason}"))
        elif old and hasattr(item, "callspec") and "bfloat16" in item.callspec.params.values():
            item.add_marker(pytest.mark.skip(reason="bfloat16 needs compute capability 8.0"))


@pytest.fixture(autouse=True)
def _nothing_found():
    """Let a test fail if the emulation found a fault or a race in a kernel meanwhile."""
    yield
    module = _device.load()
    if hasattr(module, "_take_report"):
        report = module._take_report()
        assert not report, report
