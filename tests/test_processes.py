"""What a process does as a whole: environment, fork, signals, memory limits, and its end.

Each runs in a process of its own with a time limit: a hang is a failure.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import textwrap

import pytest

import fusedrnn
from scripts import PRELUDE, output, run

pytestmark = pytest.mark.serial

ISAS = fusedrnn.info()["isa_available"]
CPUS = fusedrnn.info()["cpus"]
DEFAULT = max(1, int(min(CPUS["cores"], CPUS["quota"] or CPUS["cores"])))


# The number of threads

SHOW = "import fusedrnn; print(fusedrnn.get_num_threads(), fusedrnn.info()['threads'])"


@pytest.mark.parametrize(
    ("own", "omp", "expected"),
    [
        ("3", None, 3),
        ("3", "5", 3),
        (" 3 ", None, 3),
        ("1024", None, 1024),
        ("", "5", 5),
        (None, "5", 5),
        (None, "5,2", 5),
        (None, "many", DEFAULT),
        (None, "0", DEFAULT),
        (None, "-1", DEFAULT),
        (None, "99999999999", DEFAULT),
        (None, None, DEFAULT),
    ],
)
def test_environment(own, omp, expected):
    got = output(SHOW, FUSEDRNN_NUM_THREADS=own, OMP_NUM_THREADS=omp)
    assert got == f"{expected} {expected}"


@pytest.mark.parametrize("value", ["0", "-2", "1025", "two", "2.0", "2,3", "99999999999999999999"])
def test_a_bad_number_of_threads_is_an_error_at_import(value):
    script = """
        try:
            import fusedrnn
        except ImportError as error:
            print(error)
    """
    assert output(script, FUSEDRNN_NUM_THREADS=value) == (
        f"FUSEDRNN_NUM_THREADS: expected an integer from 1 to 1024, got '{value}'"
    )


def test_the_default_is_the_cpus_of_this_process():
    pin = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    assert output(pin + SHOW) == "1 1"


# The instruction set


@pytest.mark.parametrize("isa", ISAS)
def test_a_forced_isa_is_used(isa):
    script = """
        import numpy as np
        import fusedrnn
        y, _ = fusedrnn.GRU(3, 4, seed=0)(np.ones((2, 1, 3), np.float32))
        print(fusedrnn.info()["isa"], np.isfinite(y).all())
    """
    assert output(script, FUSEDRNN_ISA=isa) == f"{isa} True"


@pytest.mark.parametrize("value", ["AVX2", "sse2", "avx2 ", "scalar,avx2", "1"])
def test_an_unknown_isa_is_an_error_at_import(value):
    done = run("import fusedrnn", FUSEDRNN_ISA=value)
    assert done.returncode == 1
    names = ", ".join(fusedrnn.info()["isa_compiled"])
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: FUSEDRNN_ISA: expected one of {names}, got '{value}'"
    )


@pytest.mark.parametrize("isa", [i for i in fusedrnn.info()["isa_compiled"] if i not in ISAS])
def test_an_isa_that_the_machine_lacks_is_an_error_at_import(isa):
    done = run("import fusedrnn", FUSEDRNN_ISA=isa)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: FUSEDRNN_ISA: this machine can't execute '{isa}' "
        f"(available: {', '.join(ISAS)})"
    )


def test_an_empty_isa_is_none():
    script = "import fusedrnn; print(fusedrnn.info()['isa'])"
    assert output(script, FUSEDRNN_ISA="") == ISAS[-1]


def test_it_works_without_threadpoolctl():
    script = """
        import sys
        sys.modules["threadpoolctl"] = None
        import fusedrnn
        fusedrnn.set_num_threads(2)
        print(fusedrnn.get_num_threads())
    """
    assert output(script) == "2"


def test_workers_of_joblib_have_the_number_of_threads_that_it_says():
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("loky", inner_max_num_threads=3):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(threads_in_worker)() for _ in range(2))
    assert found == [3, 3]


def threads_in_worker() -> int:
    import fusedrnn

    return fusedrnn.get_num_threads()


# Teams beside others

DIGEST = """
    import hashlib, os, sys
    import numpy as np
    import fusedrnn
    if sys.argv[1] == "pinned":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    layer = fusedrnn.LSTM(64, 64, seed=0)
    x = rng.normal(size=(200, 64, 64)).astype(np.float32)
    a = rng.normal(size=(512, 512)).astype(np.float32)
    digests = set()
    for _ in range(3):
        a @ a  # after which the threads of NumPy's BLAS spin
        y, _, tape = layer.forward(x)
        gradients = layer.backward(tape, y)
        digest = hashlib.sha256(y)
        for gradient in (gradients.x, *gradients.parameters.values()):
            digest.update(gradient)
        digests.add(digest.hexdigest())
    print(*digests)
"""


@pytest.fixture(scope="module")
def digest_of_one_thread():
    return output(DIGEST, "free", FUSEDRNN_NUM_THREADS="1")


@pytest.mark.parametrize("threads", ["2", "3", "4", "8"])
@pytest.mark.parametrize("cpus", ["free", "pinned"])
def test_bits_beside_other_threads(digest_of_one_thread, cpus, threads):
    if cpus == "pinned" and not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system doesn't pin threads")
    got = output(DIGEST, cpus, FUSEDRNN_NUM_THREADS=threads, OPENBLAS_NUM_THREADS="2")
    assert got == digest_of_one_thread


def test_bits_of_two_processes_at_once(digest_of_one_thread):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = pool.map(lambda n: output(DIGEST, "free", FUSEDRNN_NUM_THREADS=n), ["2", "3"])
        assert set(both) == {digest_of_one_thread}


# Fork


def test_fork_while_idle():
    script = PRELUDE + textwrap.dedent("""
        step()
        for generation in range(3):  # a child, its child and so on
            pid = os.fork()
            if pid:
                _, status = os.waitpid(pid, 0)
                check()  # the parent's pool is as it was
                sys.exit(os.waitstatus_to_exitcode(status))
            check(), step()
            fusedrnn.set_num_threads(3 - generation)
            check(), step()
        print("youngest", flush=True)
        os._exit(0)
    """)
    assert output(script) == "youngest"


def test_fork_while_other_threads_are_in_kernels():
    script = PRELUDE + textwrap.dedent("""
        stop = threading.Event()
        def work():
            while not stop.is_set():
                check(), step()
        step()
        workers = [threading.Thread(target=work) for _ in range(3)]
        for w in workers: w.start()
        for n in range(12):
            pid = os.fork()
            if pid == 0:
                check(), step()
                os._exit(7)
            assert wait(pid) == 7
        stop.set()
        for w in workers: w.join()
        check()
        print("done")
    """)
    assert output(script) == "done"


def test_fork_while_another_thread_packs_weights():
    """No lock of that thread may wait for the child: each has the same weights to pack."""
    script = PRELUDE + textwrap.dedent("""
        x = x[:1, :1]
        for n in range(6):
            layer = fusedrnn.LSTM(64, 512, seed=0)
            worker = threading.Thread(target=layer.forward, args=(x,))
            worker.start()
            time.sleep(0.001 * n)
            pid = os.fork()
            if pid == 0:
                layer.forward(x)
                os._exit(7)
            assert wait(pid) == 7
            worker.join()
        print("done")
    """)
    assert output(script) == "done"


def test_multiprocessing_by_fork():
    script = PRELUDE + textwrap.dedent("""
        import multiprocessing
        def norm(scale):
            return float(np.abs(layer(x * np.float32(scale))[0]).sum())
        step()
        scales = [1, 2, 3, 4, 5]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            got = pool.map(norm, scales)
        print(got == [norm(s) for s in scales])
    """)
    assert output(script) == "True"


# Signals and the end


def test_an_interrupt_is_delivered_after_the_call():
    script = PRELUDE + textwrap.dedent("""
        long = np.zeros((50000, 2, 64), np.float32)
        begin = time.perf_counter()
        layer(long)
        length = time.perf_counter() - begin
        assert length > 0.02, length
        timer = threading.Timer(length / 3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            layer(long)
            time.sleep(5)
            print("lost")
        except KeyboardInterrupt:
            print("interrupted")
        check(), step()
    """)
    assert output(script) == "interrupted"


def test_an_interrupt_reaches_the_main_thread_not_a_worker():
    """A signal for the process goes to any of its threads that does not block it."""
    script = PRELUDE + textwrap.dedent("""
        step()
        caught = []
        signal.signal(signal.SIGUSR1, lambda *_: caught.append(threading.current_thread()))
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
            check()
        print(len(caught) > 0, set(caught) == {threading.main_thread()})
    """)
    assert output(script) == "True True"


def test_exit_right_after_a_call():
    assert output(PRELUDE + "step()") == ""
    assert output(PRELUDE + "step(); os._exit(0)") == ""
    done = run(PRELUDE + "step(); sys.exit(3)")
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("steps", [20, 20_000], ids=["short calls", "long calls"])
def test_exit_with_daemon_threads_in_kernels(workers, steps):
    """Threads that come out of a kernel while the interpreter ends, or after it."""
    script = PRELUDE + textwrap.dedent(f"""
        x = np.zeros(({steps}, 2, 64), np.float32)
        class Slow:
            def __del__(self):  # while the interpreter ends
                time.sleep(0.1)
        sys.slow = Slow()
        begun = threading.Event()
        def work():
            while True:
                layer(x)
                begun.set()
                step()
        for _ in range({workers}):
            threading.Thread(target=work, daemon=True).start()
        begun.wait()
        print("end", flush=True)
    """)
    assert output(script) == "end"


def test_calls_at_exit():
    script = PRELUDE + textwrap.dedent("""
        import atexit
        def last():
            check(), step()
            print("last")
        atexit.register(last)
        class Late:
            def __del__(self, layer=layer, x=x):
                layer(x)
                print("later")
        late = Late()
    """)
    assert output(script).splitlines() == ["last", "later"]


# Memory


def test_memory_that_runs_out_anywhere_is_a_memory_error():
    """A limit that grows in small steps: each allocation of a step fails once, then works."""
    script = PRELUDE + textwrap.dedent("""
        import resource
        large = fusedrnn.LSTM(16, 64, 2, seed=0, bidirectional=True)
        many = np.ones((400, 32, 16), np.float32)
        y, _, tape = large.forward(many)
        dy = np.array(y)
        expected = large.backward(tape, dy)
        parameters = {name: np.array(p) for name, p in large.parameters.items()}
        del y, tape

        def limit(bytes):
            resource.setrlimit(resource.RLIMIT_AS, (bytes, resource.RLIM_INFINITY))

        def failures(call):
            # The message of each failure, and the result of the first success.
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            messages = set()
            for extra in range(0, 256 << 20, 128 << 10):
                limit(used + extra)
                try:
                    result = call()
                except MemoryError as error:
                    messages.add(str(error))
                    continue
                finally:
                    limit(resource.RLIM_INFINITY)
                return messages, result

        # One call in each process: what a limit leaves behind in the heap would serve the next one.
        phase = sys.argv[1]
        if phase == "infer":
            messages, (y, _) = failures(lambda: large(many))
        elif phase == "forward":
            messages, (y, _, tape) = failures(lambda: large.forward(many))
        elif phase == "backward":
            y, _, tape = large.forward(many)
            messages, gradients = failures(lambda: large.backward(tape, dy))
            assert (gradients.x == expected.x).all()
            for name, gradient in gradients.parameters.items():
                assert (gradient == expected.parameters[name]).all()
        else:
            messages, _ = failures(lambda: large.load_parameters(parameters))
            y = large(many)[0]
        assert (y == dy).all()
        check(), step()
        print(*sorted(messages), sep="|")
    """)
    # Large blocks come from the system and go back to it, so that the limit counts each.
    infer, forward, backward, packing = (
        set(output(script, phase, MALLOC_MMAP_THRESHOLD_="16384").split("|"))
        for phase in ("infer", "forward", "backward", "packing")
    )
    working = "x: not enough memory to work on T = 400, B = 32"
    shape = "with shape (400, 32, 128) and data type float32"
    assert infer == forward == {working, f"y: Unable to allocate 6.25 MiB for an array {shape}"}
    assert working in backward
    assert "parameters: not enough memory to pack them" in packing
    for message in backward | packing:
        assert re.match(r"(gradient of \S+|x|parameters|weight_\w+): (Unable|not enough)", message)
