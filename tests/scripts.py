"""Scripts in processes of their own: what a process does as a whole, and that it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

# A layer whose calls take two threads, for scripts to begin with.
PRELUDE = """
import os, signal, sys, threading, time, warnings
import numpy as np
import fusedrnn
fusedrnn.set_num_threads(2)
# CPython 3.12 and later warn of any fork beside other threads, which is what is tested here.
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
layer = fusedrnn.LSTM(64, 64, seed=0)
x = np.random.default_rng(0).normal(size=(20, 8, 64)).astype(np.float32)
want = layer(x)[0]

def step():
    y, _, tape = layer.forward(x)
    return layer.backward(tape, y)

def check():
    assert (layer(x)[0] == want).all()

def wait(pid):
    for _ in range(1500):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    sys.exit("the child hangs")
"""


def environment(**changes: str | None) -> dict[str, str]:
    """The variables of a new process, which imports what this one does; None removes one."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for name in ("FUSEDRNN_NUM_THREADS", "OMP_NUM_THREADS", "FUSEDRNN_ISA"):
        changes.setdefault(name, None)
    for name, value in changes.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    return variables


def run(
    script: str, *arguments: str, limit=60, **changes: str | None
) -> subprocess.CompletedProcess:
    """Run a script in a new process; an environment variable that is None is removed."""
    variables = environment(**changes)
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=limit, check=False
    )


def output(script: str, *arguments: str, **options) -> str:
    done = run(script, *arguments, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()
