"""What the package says of GPUs, where there are some and where there are none."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _device, cuda, functional


def test_info():
    info = fusedrnn.info()["cuda"]
    assert info["built"] and info["error"] is None
    assert cuda.is_available() and cuda.why_not() is None
    assert cuda.devices() == info["devices"]
    major, minor = map(int, info["runtime"].split("."))
    assert major >= 12 and 0 <= minor < 10 and info["driver"]
    for device in info["devices"]:
        assert set(device) == {"name", "capability", "multiprocessors", "memory"}
        assert float(device["capability"]) >= 7.5
        assert device["multiprocessors"] > 0 and device["memory"] > 2**30
    assert info["products"] == "own" or info["products"].startswith("cuBLAS (")
    assert ("why_not_cublas" in info) == (info["products"] == "own")


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT = """
import sys
sys.modules["fusedrnn._cuda"] = None  # as if it couldn't be imported
import numpy as np
import fusedrnn
from fusedrnn import cuda, functional

class Elsewhere:
    __cuda_array_interface__ = {}

info = fusedrnn.info()["cuda"]
assert not info["built"] and info["devices"] == [], info
assert not cuda.is_available() and cuda.devices() == []
assert cuda.why_not() == info["error"]
assert not hasattr(cuda, "DeviceArray")
calls = (
    lambda: cuda.asarray(np.zeros(3)),
    lambda: functional.infer("lstm", Elsewhere(), {}),
    lambda: functional.forward("lstm", Elsewhere(), {}),
)
for call in calls:
    try:
        call()
    except RuntimeError as error:
        assert str(error) == f"CUDA isn't available: {info['error']}", error
    else:
        raise AssertionError(call)
y, _ = fusedrnn.LSTM(3, 4, seed=0)(np.zeros((5, 2, 3), np.float32))
assert y.shape == (5, 2, 4)
print("works")
"""


@pytest.mark.without_gpu
def test_a_package_without_the_cuda_side():
    assert run(WITHOUT) == "works\n"


@pytest.mark.without_gpu
def test_the_cuda_side_is_loaded_on_first_use():
    script = "import fusedrnn, sys; print('fusedrnn._cuda' in sys.modules)"
    assert run(script) == "False\n"


WITHOUT_DEVICE = """
import numpy as np
import fusedrnn
from fusedrnn import cuda
info = fusedrnn.info()["cuda"]
assert info["built"] and info["devices"] == [] and info["error"] == cuda.why_not(), info
assert not cuda.is_available() and cuda.devices() == []
try:
    cuda.asarray(np.zeros(3))
except RuntimeError as error:
    assert str(error) == f"CUDA isn't available: {info['error']}", error
y, _ = fusedrnn.LSTM(3, 4, seed=0)(np.zeros((5, 2, 3), np.float32))
print(info["error"])
"""

NO_DEVICE = "cudaErrorNoDevice: no CUDA-capable device is detected"
NO_DRIVER = "cudaErrorInsufficientDriver: CUDA driver version is insufficient"


def test_no_device_is_a_state():
    hidden = {"CUDA_VISIBLE_DEVICES": "", "FUSEDRNN_CUDA_EMULATION_DEVICE": "none"}
    assert run(WITHOUT_DEVICE, **hidden).startswith(NO_DEVICE)


def test_no_driver_is_a_state():
    if fusedrnn.info()["cuda"]["emulated"]:  # elsewhere there is one
        hidden = {"FUSEDRNN_CUDA_EMULATION_DEVICE": "no_driver"}
        assert run(WITHOUT_DEVICE, **hidden).startswith(NO_DRIVER)


def test_the_dtypes_of_older_gpus():
    if not fusedrnn.info()["cuda"]["emulated"]:
        pytest.skip("a GPU is as old as it is")
    script = """
from fusedrnn import _device
for dtype in ("float32", "float16", "bfloat16"):
    print(_device.required().why_not_on(0, dtype))
"""
    found = run(script, FUSEDRNN_CUDA_EMULATION_DEVICE="sm_75").splitlines()
    reason = "bfloat16 needs a GPU of compute capability 8.0 or more, this one has 7.5"
    assert found == ["None", "None", reason]
    assert run(script, FUSEDRNN_CUDA_EMULATION_DEVICE="sm_80").splitlines() == ["None"] * 3


def test_an_unknown_source_of_products():
    if fusedrnn.info()["cuda"]["emulated"]:
        pytest.skip("the emulation has one source")
    script = """
import numpy as np
from fusedrnn import cuda, functional
import fusedrnn
x, w = cuda.asarray(np.ones((2, 1, 1), "f4")), cuda.asarray(np.ones((1, 1), "f4"))
info = fusedrnn.info()["cuda"]
assert info["products"] is None and "got mkl" in info["why_not_cublas"], info
try:
    functional.infer("rnn_tanh", x, {"weight_ih_l0": w, "weight_hh_l0": w})
except ValueError as error:
    print(error)
"""
    found = run(script, FUSEDRNN_CUDA_PRODUCTS="mkl")
    assert found == "products: expected cublas or own, got mkl\n"


@pytest.mark.without_gpu
def test_arrays_that_are_on_no_gpu():
    class Elsewhere:
        def __init__(self, device):
            self.device = device

        def __dlpack_device__(self):
            if isinstance(self.device, Exception):
                raise self.device
            return self.device

    for device in ((1, 0), (3, 0), (10, 0), ValueError("meta"), BufferError("sparse")):
        assert not _device.on_gpu(Elsewhere(device))
    assert _device.on_gpu(Elsewhere((2, 1)))
    assert not any(map(_device.on_gpu, (np.zeros(3), [1.0], None, 3.0)))


@pytest.mark.without_gpu
def test_layers_and_functions_on_the_cpu_never_load_it():
    script = """
import sys
import numpy as np
import fusedrnn
from fusedrnn import functional
lstm = fusedrnn.LSTM(3, 4, seed=0)
x = np.zeros((5, 2, 3), np.float32)
y, _, tape = functional.forward("lstm", x, lstm.parameters)
functional.backward(tape, y)
lstm(x)
print("fusedrnn._cuda" in sys.modules)
"""
    assert run(script) == "False\n"


def test_the_functions_are_the_same():
    """One call serves both sides: the arrays decide."""
    weights = {"weight_ih_l0": np.eye(2, dtype="f4"), "weight_hh_l0": np.zeros((2, 2), "f4")}
    x = np.float32([[[1.0, -2.0]]])
    y = functional.infer("rnn_relu", x, weights)[0]
    on_gpu = {name: cuda.asarray(array) for name, array in weights.items()}
    got = functional.infer("rnn_relu", cuda.asarray(x), on_gpu)[0]
    np.testing.assert_array_equal(got.numpy(), y)
