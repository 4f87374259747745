"""Streams, a block at a time: bits of single steps, arrays, errors, what is asked of the system."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusedrnn
from error_problems import F4, read_only
from kernel_problems import threads
from layer_problems import LAYERS, normal
from scripts import output
from stream_problems import assert_same_state, inputs, some_state
from test_determinism import assert_bits

pytestmark = pytest.mark.isa

BLOCKS = (5, 1, 64, 0, 17, 64, 2)  # longer than all before, shorter, none


def blocks_of(x):
    begin = 0
    for steps in BLOCKS:
        yield x[begin : begin + steps]
        begin += steps


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", LAYERS)
def test_blocks_are_steps(make, dtype, num_layers, batch_size):
    layer = make(17, 33, num_layers, dtype=dtype, seed=0)
    x = inputs(layer, batch_size, steps=sum(BLOCKS))
    by_step, by_block, mixed = (layer.stream(batch_size) for _ in range(3))
    for stream in (by_step, by_block, mixed):
        stream.state = some_state(layer, batch_size)
    for n, block in enumerate(blocks_of(x)):
        want = np.stack([by_step.step(row) for row in block]) if len(block) else block[:, ..., :0]
        got = by_block.run(block)
        assert got.shape == (*block.shape[:-1], 33)
        assert got.dtype == dtype
        if len(block):
            assert_bits(got, want)
        if n % 2:
            assert_bits(mixed.run(block), got)
        else:
            for row, y in zip(block, got, strict=True):
                assert_bits(mixed.step(row), y)
        assert_same_state(by_block.state, by_step.state)
        assert_same_state(mixed.state, by_step.state)


@pytest.mark.parametrize(("units", "batch_size"), [(300, None), (64, 33)], ids=["units", "rows"])
@pytest.mark.parametrize("make", LAYERS)
def test_every_number_of_threads(make, units, batch_size):
    layer = make(units, units, 2, seed=0)
    x = inputs(layer, batch_size, steps=sum(BLOCKS))
    with threads(1):
        want, last = layer(x)
    stream, begin = layer.stream(batch_size), 0
    for n, block in enumerate(blocks_of(x)):
        with threads(1 + n % 4):
            assert_bits(stream.run(block), want[begin : begin + len(block)])
        begin += len(block)
    assert_same_state(stream.state, last)


def test_batch_first_is_the_layers():
    layer = fusedrnn.GRU(3, 4, 2, batch_first=True, seed=0)
    x = normal(2, 9, 3, seed=1, dtype="float32")
    want, last = layer(x)
    stream = layer.stream(2)
    out = np.full((2, 9, 4), np.nan, F4)
    assert stream.run(x, out=out) is out
    assert_bits(out, want)
    assert_same_state(stream.state, last)
    alone = layer.stream()
    assert_bits(alone.run(x[0]), want[0])  # a single sequence has no batch
    layer.batch_first = False
    stream.reset()
    assert_bits(stream.run(x.swapaxes(0, 1)), want.swapaxes(0, 1))


def test_out_is_written_also_where_it_is_strided():
    layer = fusedrnn.LSTM(3, 4, seed=0)
    x = normal(9, 3, seed=1, dtype="float32")
    want, _ = layer(x)
    for whole in (np.full((9, 4), np.nan, F4), np.full((18, 8), np.nan, F4)[::2, 1:5]):
        stream = layer.stream()
        assert stream.run(x, whole) is whole
        assert_bits(np.ascontiguousarray(whole), want)
    reversed_x = np.ascontiguousarray(x[::-1])[::-1]
    assert_bits(layer.stream().run(reversed_x), want)


def test_new_weights_act_from_the_next_block_on():
    layer = fusedrnn.LSTM(3, 4, 2, seed=0)
    stream, state = layer.stream(2), None
    for n, block in enumerate(blocks_of(inputs(layer, 2, steps=sum(BLOCKS)))):
        if len(block):
            y, state = layer(block, state)
            assert_bits(stream.run(block), y)
        layer.load_parameters(fusedrnn.LSTM(3, 4, 2, seed=n).parameters)


def test_denormals_count_as_zero():
    layer = fusedrnn.RNN(1, 3, bias=False, dtype="float32", seed=0)
    with layer.edit_parameters() as p:
        p["weight_hh_l0"][:] = np.eye(3) / 2
    stream = layer.stream()
    stream.state = np.full((1, 3), 1e-37, F4)
    assert not stream.run(np.zeros((9, 1), F4))[-1].any()


def zeros(*shape, dtype=F4):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("block", "out", "error", "message"),
    [
        (zeros(5, 2), None, ValueError, "block: expected (T, 2, 3) [T, B, I], got (5, 2)"),
        (zeros(5, 2, 4), None, ValueError, "block: expected (T, 2, 3) [T, B, I], got (5, 2, 4)"),
        (zeros(5, 3, 3), None, ValueError, "block: expected (T, 2, 3) [T, B, I], got (5, 3, 3)"),
        (
            zeros(5, 2, 3, dtype="d"),
            None,
            TypeError,
            "block: expected an array of float32, got float64",
        ),
        ([[[0.0] * 3] * 2], None, TypeError, "block: expected an array of float32, got list"),
        (
            zeros(5, 2, 3),
            zeros(4, 2, 4),
            ValueError,
            "out: expected (5, 2, 4) [T, B, H], got (4, 2, 4)",
        ),
        (
            zeros(5, 2, 3),
            zeros(5, 2, 4, dtype="d"),
            TypeError,
            "out: expected an array of float32, got float64",
        ),
        (
            zeros(5, 2, 3),
            read_only(zeros(5, 2, 4)),
            ValueError,
            "out: expected a writable array, got a read-only one",
        ),
    ],
)
def test_errors_leave_the_state_as_it_was(block, out, error, message):
    stream = fusedrnn.GRU(3, 4, seed=0).stream(2)
    stream.run(np.ones((3, 2, 3), F4))
    before = stream.state
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        stream.run(block, out)
    assert_same_state(stream.state, before)


def test_out_must_not_overlap_the_block():
    stream = fusedrnn.GRU(4, 4, seed=0).stream()
    memory = np.zeros((12, 4), F4)
    with pytest.raises(ValueError, match="out: must not share memory with block"):
        stream.run(memory[:8], out=memory[4:])
    stream.run(memory[:6], out=memory[6:])


def test_memory_that_runs_out_is_an_error():
    stream = fusedrnn.GRU(1, 4, 3, seed=0).stream()
    with pytest.raises(MemoryError, match=r"^block: an array of \(70368744177664, 1\)"):
        stream.run(np.broadcast_to(F4(0), (2**46, 1)))
    script = """
import resource
import numpy as np
import fusedrnn
layer = fusedrnn.LSTM(1, 512, 4, proj_size=1, seed=0)
stream, begun = layer.stream(), np.ones((2, 1), np.float32)
x = np.ones((2_000_000, 1), np.float32)
y, out = stream.run(begun), np.empty((2_000_000, 1), np.float32)
before = stream.state
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), used + (4 << 20)))
try:
    stream.run(x, out)
except MemoryError as error:
    print(error)
print(all((a == b).all() for a, b in zip(stream.state, before)))
stream.reset()
print((stream.run(begun) == y).all())
"""
    assert output(script, FUSEDRNN_NUM_THREADS="1") == (
        "stream: not enough memory for T = 2000000\nTrue\nTrue"
    )


# What a block may ask of the system

# play() runs 100,000 blocks, of 64 samples and fewer.
AUDIO = """
import sys
import numpy as np
import fusedrnn
fusedrnn.set_num_threads(2)
layers = [fusedrnn.LSTM(1, 16, seed=0), fusedrnn.GRU(1, 8, 2, seed=0)]
block = np.zeros((64, 1), np.float32)
todo = []
for layer in layers:
    stream = layer.stream()
    out = np.zeros((64, layer.hidden_size), np.float32)
    todo.append((stream.run, out))
    for samples in (64, 1, 48, 7) * 25:
        stream.run(block[:samples], out[:samples])

lengths = (64, 1, 48, 64, 7) * 10_000

def play():
    for run, out in todo:
        for samples in lengths:
            run(block[:samples], out[:samples])
"""

# Lets this process write, end and ask for memory (Python's own objects), and nothing else: any
# other system call ends it by SIGSYS.
FORBID = """
import ctypes, struct
allowed = ALLOWED
load, equal, ret = 0x20, 0x15, 0x06
program = [(load, 0, 0, 0)]
program += [(equal, len(allowed) - n, 0, number) for n, number in enumerate(allowed)]
program += [(ret, 0, 0, 0x80000000), (ret, 0, 0, 0x7FFF0000)]  # kill the process; allow
code = b"".join(struct.pack("HBBI", *each) for each in program)
buffer = ctypes.create_string_buffer(code)
head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
filter = ctypes.create_string_buffer(head)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter, 0, 0) == 0  # PR_SET_SECCOMP, by a filter
"""
#: write, mmap, munmap, brk, madvise, exit_group
SYSTEM_CALLS = {"x86_64": [1, 9, 11, 12, 28, 231], "aarch64": [64, 222, 215, 214, 233, 94]}


@pytest.mark.serial
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SYSTEM_CALLS,
    reason="forbids system calls as Linux does",
)
def test_a_hundred_thousand_blocks_make_no_system_call():
    calls = SYSTEM_CALLS[platform.machine()]
    forbid = FORBID.replace("ALLOWED", str(calls))
    end = f"ctypes.CDLL(None).syscall({calls[-1]}, 0)\n"
    assert output(AUDIO + forbid + 'play()\nprint("done", flush=True)\n' + end) == "done"
    # Such a filter does see what a sleeping worker is woken by.
    wakes = "threads = fusedrnn.LSTM(300, 300, seed=0)\nx = np.zeros((50, 64, 300), np.float32)\n"
    script = AUDIO + wakes + forbid + "threads(x)\n" + end
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -31  # SIGSYS


# Counts what is asked of malloc while it is told to.
COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
static volatile int counting;
static volatile long calls;
void count(int on) { counting = on; }
long counted(void) { return calls; }
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
#define COUNT if (counting) ++calls
void *malloc(size_t n) { COUNT; return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { COUNT; return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { COUNT; return __libc_realloc(p, n); }
void *memalign(size_t alignment, size_t n) { COUNT; return __libc_memalign(alignment, n); }
void *aligned_alloc(size_t alignment, size_t n) { COUNT; return __libc_memalign(alignment, n); }
"""


@pytest.mark.serial
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None or platform.libc_ver()[0] != "glibc",
    reason="counts by a library in front of glibc",
)
def test_a_hundred_thousand_blocks_take_no_memory(tmp_path: Path):
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER, "utf-8")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    script = """
import ctypes
counter = ctypes.CDLL(None)
counter.count(1)
play()
counter.count(0)
steady = counter.counted()
counter.count(1)
todo[0][0](np.zeros((6400, 1), np.float32))
counter.count(0)
print(steady, counter.counted() > 0)
"""
    assert output(AUDIO + script, LD_PRELOAD=str(library)) == "0 True"
