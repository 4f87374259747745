"""The public names of `fusedrnn.cuda` are documented; the stubs agree with the compiled module."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

from fusedrnn import _device, cuda
from test_documentation import PACKAGE, own_parameters, sections

# What stubtest can't know: pybind11's classes have a metaclass, and a constructor even where there
# is none to call.
ALLOWED = """
fusedrnn\\._cuda\\.(DeviceArray|Weights|Tape)
fusedrnn\\._cuda\\.(DeviceArray|Tape)\\.__init__
"""


@pytest.mark.without_gpu
@pytest.mark.parametrize("name", cuda.__all__)
def test_functions_describe_what_goes_in_and_comes_out(name):
    function = getattr(cuda, name)
    found = sections(function)
    assert inspect.getdoc(function).splitlines()[0].endswith((".", ":"))
    assert {"Returns", "Yields"} & found
    if own_parameters(function):
        assert {"Parameters", "Raises"} <= found


def test_members_have_docstrings():
    module = _device.required()
    for kind in (module.DeviceArray, module.Tape, module.Weights):
        assert inspect.getdoc(kind)
        for name in [n for n in dir(kind) if not n.startswith("_")]:
            assert inspect.getdoc(getattr(kind, name)), name


@pytest.mark.deep
@pytest.mark.extras
def test_stubtest(tmp_path):
    pytest.importorskip("mypy.stubtest")
    allowed = tmp_path / "allowed"
    allowed.write_text(ALLOWED)
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "MYPYPATH": str(PACKAGE.parent)}
    if "site-packages" in PACKAGE.parts:  # mypy looks there by itself, and refuses to be told
        del environment["MYPYPATH"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "fusedrnn._cuda", "--allowlist", str(allowed)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
