"""Forked workers, threads, and what is imported."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch

import fusedrnn.torch
from torch_problems import LAYERS, assert_near, tensors, twins

pytestmark = pytest.mark.serial


class Features(torch.utils.data.Dataset):
    """Items that a recurrent layer computes, in a worker process."""

    def __init__(self, layer):
        self.layer, self.x = layer, torch.randn(8, 11, 2, 5)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        with torch.no_grad():
            return self.layer(self.x[i])[0]


@pytest.mark.usefixtures("strict")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.timeout(120)
def test_workers_that_are_forked():
    layer = fusedrnn.torch.LSTM(5, 7, 2)
    data = Features(layer)
    want = torch.stack([data[i] for i in range(len(data))])
    loader = torch.utils.data.DataLoader(
        data, batch_size=2, num_workers=2, multiprocessing_context="fork"
    )
    assert torch.equal(torch.cat(list(loader)), want)
    layer(torch.randn(11, 2, 5))[0].sum().backward()  # and the parent goes on


def train(kind):
    """The parameters after some updates, the same wherever it runs."""
    torch.manual_seed(1)
    with fusedrnn.torch.strict():
        layer = kind(5, 7, 2)
        optimizer = torch.optim.Adam(layer.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.randn(11, 3, 5))[0].square().mean().backward()
            optimizer.step()
    return [p.detach().numpy() for p in layer.parameters()]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_training_in_a_worker(method):
    want = [train(kind) for kind in LAYERS]
    with concurrent.futures.ProcessPoolExecutor(
        1,
        multiprocessing.get_context(method),
        torch.set_num_threads,  # torch's own pool doesn't survive a fork
        (1,),
    ) as pool:
        found = list(pool.map(train, LAYERS, timeout=100))
    for layer, wanted in zip(found, want, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(layer, wanted, strict=True))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", LAYERS)
def test_two_threads(kind):
    layers = [twins(kind, 5, 7) for _ in range(2)]
    shared = kind(5, 7)
    x, failures = torch.randn(11, 3, 5), []
    want = shared(x)[0].detach()

    def work(ours, theirs):
        try:
            for _ in range(30):
                given = torch.randn(11, 3, 5)
                assert_near(tensors(ours(given)), tensors(theirs(given)))
                assert torch.equal(shared(x)[0], want)
                for layer in (ours, theirs):
                    layer.zero_grad()
                    layer(given)[0].sum().backward()
                    with torch.no_grad():
                        for p in layer.parameters():
                            p.sub_(0.01 * p.grad)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def run(script, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="torch may come without GCC's OpenMP")
def test_the_kernels_run_on_torchs_threads():
    program = """
        import os
        import fusedrnn, torch
        print(fusedrnn.info()["thread_pool"])
        import fusedrnn.torch
        print(fusedrnn.info()["thread_pool"])
        fusedrnn.set_num_threads(2)
        torch.set_num_threads(2)
        torch.randn(300, 300) @ torch.randn(300, 300)
        threads = len(os.listdir("/proc/self/task"))
        fusedrnn.torch.LSTM(64, 128)(torch.zeros(50, 32, 64))
        print(len(os.listdir("/proc/self/task")) - threads, flush=True)
        child = os.fork()
        if child == 0:
            print(fusedrnn.info()["thread_pool"], flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    result = run(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["own", "OpenMP", "0", "own"]


def printed(program, **environment):
    """What a program prints in a process of its own, of which each line is a Python value."""
    done = run(program, **environment)
    assert done.returncode == 0, done.stderr
    return [eval(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="torch may come without GCC's OpenMP")
def test_the_number_of_threads_follows_torchs():
    program = """
        import os, threading
        import torch
        torch.set_num_threads(3)
        import fusedrnn
        own = fusedrnn.get_num_threads()
        import fusedrnn.torch

        def numbers():
            return fusedrnn.get_num_threads(), fusedrnn.info()["threads"], torch.get_num_threads()

        print(numbers())
        torch.set_num_threads(1)
        print(numbers())
        before = len(os.listdir("/proc/self/task"))
        layer = fusedrnn.torch.LSTM(64, 128)
        layer(torch.zeros(50, 32, 64))[0].sum().backward()
        print(len(os.listdir("/proc/self/task")) - before)
        torch.set_num_threads(4)
        print(numbers())
        thread = threading.Thread(target=lambda: print(numbers()))  # torch has not computed there
        thread.start()
        thread.join()
        fusedrnn.set_num_threads(2)  # the last word holds
        print(numbers())
        for number in (1, 4):  # back to what it was
            torch.set_num_threads(number)
            print(numbers())
        print(flush=True, end="")
        child = os.fork()
        if child == 0:
            torch.set_num_threads(2)  # as DataLoader's workers do
            print((*numbers(), fusedrnn.info()["thread_pool"]), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    assert printed(program) == [
        (3, 3, 3),
        (1, 1, 1),
        0,
        (4, 4, 4),
        (4, 4, 4),
        (2, 2, 4),
        (1, 1, 1),
        (4, 4, 4),
        (2, 2, 2, "own"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="torch may come without GCC's OpenMP")
def test_a_number_said_before_torchs_threads_are_borrowed_holds():
    program = """
        import fusedrnn, torch
        {}
        import fusedrnn.torch
        print(fusedrnn.get_num_threads())
        torch.set_num_threads(torch.get_num_threads() + 1)
        print(fusedrnn.get_num_threads() == torch.get_num_threads())
    """
    said = "fusedrnn.set_num_threads(5)"
    assert printed(program.format(said)) == [5, True]
    assert printed(program.format(""), FUSEDRNN_NUM_THREADS="5") == [5, True]


def test_fusedrnn_alone_imports_no_torch():
    done = run("import sys, fusedrnn, fusedrnn.functional; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_fusedrnn_torch_imports_no_compiler():
    done = run(
        """
        import sys, torch, fusedrnn.torch
        layer = fusedrnn.torch.LSTM(5, 7)
        layer(torch.randn(11, 3, 5))[0].sum().backward()
        print('torch._dynamo' in sys.modules)
        """
    )
    assert done.stdout.strip() == "False", done.stderr


def test_without_torch_the_error_says_what_to_install():
    done = run("import sys; sys.modules['torch'] = None; import fusedrnn.torch")
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: fusedrnn.torch needs PyTorch, which isn't installed: "
        "pip install 'fusedrnn[torch]'"
    )
