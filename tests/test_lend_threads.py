"""NumPy's products on our threads, in processes of their own: the setting is the process's."""

from __future__ import annotations

import sys

import pytest

import fusedrnn
from fusedrnn import _core, _lend
from scripts import output

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

# Products that OpenBLAS divides among its threads, and `mine`, the CPU time of each thread by now.
BEGIN = """
import ctypes, os, threading, time, warnings
import numpy as np
import fusedrnn

def openblas(name, *arguments):
    with open("/proc/self/maps") as file:
        paths = {line.split()[-1] for line in file if "openblas" in line}
    for library in map(ctypes.CDLL, paths):
        for function in (f"scipy_{name}64_", f"scipy_{name}", f"{name}64_", name):
            if hasattr(library, function):
                return getattr(library, function)(*arguments)

# By its own function: the environment can't make it more than there are CPUs.
openblas("openblas_set_num_threads", THREADS)
assert openblas("openblas_get_num_threads") == THREADS
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
rng = np.random.default_rng(0)
matrices = {
    (size, kind): rng.normal(size=(size, size)).astype(kind)
    for size in (17, 100, 257, 600) for kind in ("f", "d", "F", "D")
}

def products():
    done = [a @ b for (n, k), a in matrices.items() for (m, j), b in matrices.items()
            if n == m and j == k]
    tall = rng_fixed.normal(size=(30000, 40))
    done += [tall @ tall[:40], tall.T @ tall, tall @ tall[0], tall.T @ tall[:, 0]]
    done += [np.dot(tall.ravel(), tall.ravel())]
    return done

class rng_fixed:
    normal = staticmethod(lambda size: np.random.default_rng(1).normal(size=size))

def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

def cpu_ms():
    def of(thread):
        with open(f"/proc/self/task/{thread}/schedstat") as file:
            return int(file.read().split()[0]) / 1e6
    return sum(of(t) for t in os.listdir("/proc/self/task") if int(t) != threading.get_native_id())

def wait(pid):
    for _ in range(3000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    return "hangs"

lent = None
own = products()
"""


def run_lent(script: str, threads: int = 4, **environment: str) -> str:
    """Return the output of BEGIN and a script, which `fusedrnn.lend_threads` works for."""
    if not lends():
        pytest.skip("NumPy's BLAS takes no threads of others")
    begin = BEGIN.replace("THREADS", str(threads))
    return output(begin + script, OPENBLAS_NUM_THREADS="2", **environment)


def lends() -> bool:
    with fusedrnn.lend_threads() as lent:
        return bool(lent.libraries)


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("ours", ["1", "2"])
def test_products_have_the_same_bits(threads, ours):
    script = """
with fusedrnn.lend_threads() as lent:
    print(same(products(), own), len(lent.libraries) > 0)
print(same(products(), own), lent)
"""
    got = run_lent(script, threads, FUSEDRNN_NUM_THREADS=ours)
    assert got.startswith("True True\nTrue <LentThreads to ")
    assert got.endswith(", given back>")


def test_nobody_spins_after_a_product():
    script = """
time.sleep(0.5)
lent = fusedrnn.lend_threads()
a = matrices[600, "f"]
a @ a
before = cpu_ms()
time.sleep(0.3)
print(cpu_ms() - before < 5)
"""
    assert run_lent(script, threads=2) == "True"


def test_denormals_are_kept():
    script = """
tiny = np.full((400, 400), 1e-24, np.float32)
small = np.eye(400, dtype=np.float32) * np.float32(1e-18)
want = tiny @ small
with fusedrnn.lend_threads():
    y, _ = fusedrnn.LSTM(8, 8, seed=0)(np.zeros((3, 2, 8), np.float32))
    got = tiny @ small
print(same([got], [want]), (got > 0).all())
"""
    assert run_lent(script) == "True True"


def test_calls_nest_and_are_counted():
    script = """
from fusedrnn import _core
first = fusedrnn.lend_threads()
with fusedrnn.lend_threads():
    pass
print(len(_core.lent_to()))
first.give_back()
first.give_back()
print(len(_core.lent_to()))
second = fusedrnn.lend_threads()
first.give_back()
print(len(_core.lent_to()))
second.give_back()
_core.take_threads_back()
print(len(_core.lent_to()), same(products(), own))
"""
    assert run_lent(script) == "1\n0\n1\n0 True"


def test_more_threads_than_it_has_buffers_for_get_none():
    script = """
openblas("openblas_set_num_threads", 40)
with fusedrnn.lend_threads() as lent:
    print(lent.libraries)
    print(lent.reason.partition(": ")[2])
"""
    assert run_lent(script) == (
        "()\nit has 40 threads, more than half of the 64 that it was built for"
    )


def test_from_several_threads_beside_calls_of_layers():
    script = """
layer = fusedrnn.LSTM(64, 64, seed=0)
x = np.random.default_rng(0).normal(size=(50, 16, 64)).astype(np.float32)
y = layer(x)[0]
inverse, wrong = np.linalg.inv(matrices[257, "f"]), []

a = matrices[257, "f"]
want = a @ a

def multiply():
    for _ in range(10):
        if not np.array_equal(a @ a, want):
            wrong.append("product")

def decompose():
    for _ in range(10):
        if not np.array_equal(np.linalg.inv(a), inverse):
            wrong.append("inverse")

def recur():
    for _ in range(100):
        if not np.array_equal(layer(x)[0], y):
            wrong.append("layer")

with fusedrnn.lend_threads():
    threads = [threading.Thread(target=f) for f in (multiply, multiply, decompose, recur, recur)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(wrong)
"""
    assert run_lent(script, threads=3) == "[]"


def test_a_forked_child_and_its_parent_go_on():
    script = """
from fusedrnn import _core
lent = fusedrnn.lend_threads()
products()
child = os.fork()
if child == 0:
    right = not _core.lent_to() and same(products(), own)
    with fusedrnn.lend_threads() as again:
        os._exit(0 if right and again.libraries and same(products(), own) else 1)
print(wait(child), len(_core.lent_to()), same(products(), own))
"""
    assert run_lent(script) == "0 1 True"


def test_a_fork_while_another_thread_multiplies():
    script = """
lent = fusedrnn.lend_threads()
stop, wrong = threading.Event(), []
a = matrices[257, "f"]
want = a @ a

def multiply():
    while not stop.is_set():
        if not np.array_equal(a @ a, want):
            wrong.append(1)

thread = threading.Thread(target=multiply)
thread.start()
layer = fusedrnn.LSTM(64, 64, seed=0)
x = np.zeros((20, 16, 64), np.float32)
codes = set()
for _ in range(10):
    child = os.fork()
    if child == 0:
        layer(x)
        os._exit(0)  # OpenBLAS itself can't multiply here: another thread was in the midst of it
    if not np.array_equal(a @ a, want):
        wrong.append(2)
    codes.add(wait(child))
stop.set()
thread.join()
print(codes, wrong, same(products(), own))
"""
    assert run_lent(script) == "{0} [] True"


def test_a_process_ends_in_the_middle_of_a_product():
    script = """
lent = fusedrnn.lend_threads()
a = rng.normal(size=(4000, 4000))
threading.Thread(target=lambda: a @ a, daemon=True).start()  # half a second
time.sleep(0.1)
print("ends")
"""
    assert run_lent(script) == "ends"


def test_on_one_cpu():
    script = """
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
with fusedrnn.lend_threads():
    print(same(products(), own))
"""
    assert run_lent(script, threads=3) == "True"


def test_scipy_has_an_openblas_of_its_own():
    pytest.importorskip("scipy")
    script = """
import scipy.linalg
a = matrices[257, "d"]
want = scipy.linalg.blas.dgemm(1.0, a, a)
with fusedrnn.lend_threads() as lent:
    print(len(lent.libraries), same([scipy.linalg.blas.dgemm(1.0, a, a)], [want]))
    print(same(products(), own))
"""
    assert run_lent(script) == "2 True\nTrue"


def test_where_there_is_none_it_says_why(monkeypatch):
    monkeypatch.setattr(_core, "lend_threads", list)  # an empty one
    monkeypatch.setattr(_core, "take_threads_back", lambda: None)
    for name, reason in {
        "mkl-sdl": "NumPy's BLAS, mkl-sdl, doesn't hand its work to other threads; OpenBLAS does",
        "openblas": "NumPy's BLAS, openblas, is older than OpenBLAS 0.3.27 or has one thread only",
        None: "no OpenBLAS is loaded that hands its work to other threads (0.3.27 and later do)",
    }.items():
        monkeypatch.setattr(_lend, "_numpy_blas", lambda name=name: name)
        with fusedrnn.lend_threads() as lent:
            assert lent.libraries == ()
            assert lent.reason == reason
            assert repr(lent) == f"<LentThreads to nobody ({reason})>"
