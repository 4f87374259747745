"""The benchmark on a GPU: its cases, what it compares, and what it says without one.

No GPU is needed: on the emulation nothing is timed. What torch does beside it is tested in
test_cuda_bench_torch.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import fusedrnn
from bench import __main__ as command
from bench import baselines, cases, clock, compare, gpu, measure, report, results, worker
from bench.baselines import GRAPH, OURS, ours
from bench.budget import Budget
from bench.cases import Case
from bench.problem import Problem, rounded
from bench_results import run_of, timing
from fusedrnn import reference

SMALL = Case("lstm", "train", 3, 4, 6, 5, "float16", layers=2, bidirectional=True, device="cuda")
THEIRS = f"torch:{GRAPH}"


def planned(*arguments, peers=("torch",)):
    return gpu.plan(gpu.parser().parse_args(arguments), peers)


# Cases


@pytest.mark.without_gpu
def test_flops_by_hand():
    # GRU: 3 gates of 5 units in 2 directions; 4 + 5 columns, then of what both made, 10 + 5.
    case = Case("gru", "infer", 2, 3, 4, 5, layers=2, bidirectional=True)
    assert case.flops == 2 * (2 * 3) * (2 * 3 * 5) * ((4 + 5) + (10 + 5))
    assert dataclasses.replace(case, mode="train").flops == 3 * case.flops
    shapes = reference.parameter_shapes("gru", 4, 5, 2, bidirectional=True)
    weights = sum(np.prod(shape) for name, shape in shapes.items() if "weight" in name)
    assert case.flops == 2 * 6 * weights


@pytest.mark.without_gpu
def test_the_grid():
    grid = cases.gpu()
    assert len(set(grid)) == len(grid) == 3 * 2 * 3 * len(cases.GPU_GRID)
    assert {c.device for c in grid} == {"cuda"} and not {*grid} & {*cases.grid()}
    assert {c.hidden for c in grid} == {128, 256, 512, 768, 1024}
    assert {(c.layers, c.bidirectional) for c in grid} == {
        (1, False),
        (2, False),
        (1, True),
        (2, True),
    }
    assert any(
        (c.cell, c.hidden, c.batch, c.dtype, c.network) == ("lstm", 768, 16, "float16", "")
        for c in grid
    )
    assert {c.itemsize for c in grid} == {2, 4}
    assert str(SMALL) == "lstm train B=3 T=4 I=6 H=5 2 layers, both directions float16 on cuda"


@pytest.mark.without_gpu
def test_the_plan_follows_the_options():
    assert list(planned()) == cases.gpu()
    assert list(planned("--quick")) == cases.quick_gpu()
    few = planned("--cell", "gru", "--mode", "train", "--dtype", "bfloat16", "--hidden", "768")
    assert list(few) == [Case("gru", "train", 16, 128, 768, 768, "bfloat16", device="cuda")]
    assert list(few.values()) == [[OURS, "torch"]]
    assert not planned("--hidden", "5")


@pytest.mark.without_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_problems_have_values_of_their_dtype(dtype):
    p = Problem(dataclasses.replace(SMALL, dtype=dtype))
    for array in (*p.inputs, p.dy, *p.state, *p.parameters.values()):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(rounded(array, dtype), array)
    assert p.dy.shape == (4, 3, 10) and p.state[0].shape == (4, 3, 5)
    exact = Problem(dataclasses.replace(SMALL, dtype="float32"))
    assert np.abs(exact.dy - p.dy).max() > 0
    np.testing.assert_allclose(exact.dy, p.dy, rtol=measure.TOLERANCE[dtype] / 4)


@pytest.mark.without_gpu
def test_rounding_is_that_of_numpy_and_ml_dtypes():
    values = np.random.default_rng(0).standard_normal(10_000, np.float32)
    np.testing.assert_array_equal(rounded(values, "float16"), values.astype(np.float16))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    np.testing.assert_array_equal(
        rounded(values, "bfloat16"), values.astype(ml_dtypes.bfloat16).astype(np.float32)
    )


@pytest.mark.without_gpu
def test_peers_in_half_types_may_be_wrong_by_more():
    names = (ours(), ours(GRAPH), "torch", THEIRS)
    them = [baselines.Contestant(name, print, dict) for name in names]
    assert [measure.tolerance(c, SMALL) * 2**10 for c in them] == [4, 4, 16, 16]
    exact = dataclasses.replace(SMALL, dtype="float32")
    assert {measure.tolerance(c, exact) for c in them} == {2e-5}


# Clocks


@pytest.mark.without_gpu
def test_clocks():
    begin = clock.WALL.start()
    time.sleep(0.01)
    assert 0.01 <= clock.WALL.since(begin) < 1
    waits = []
    watch = clock.synchronized(lambda: waits.append(time.sleep(0.01)))
    begin = watch.start()
    assert len(waits) == 1
    assert 0.01 <= watch.since(begin) < 1  # what is still running counts
    assert len(waits) == 2


# Ours


@pytest.mark.parametrize("dtype", cases.GPU_DTYPES)
@pytest.mark.parametrize("case", cases.quick_gpu(reference.CELLS, dtypes=["float32"]), ids=str)
def test_what_is_measured_is_right(case, dtype):
    case = dataclasses.replace(case, dtype=dtype)
    result = measure.measure(case, [OURS], 1, measure.QUICK)
    assert not result.wrong and not result.skipped
    errors = result.untimed or {name: t.error for name, t in result.timings.items()}
    assert 0 < errors[OURS] <= measure.TOLERANCE[case.dtype]
    if fusedrnn.info()["cuda"]["emulated"]:
        assert not result.timings and result.ours is None and result.fraction is None


def test_a_wrong_result_is_caught(monkeypatch):
    true = fusedrnn.functional.backward

    def backward(tape, dy):
        gradients = true(tape, dy)
        double = fusedrnn.cuda.asarray(2 * gradients.x.numpy(), SMALL.dtype)
        return dataclasses.replace(gradients, x=double)

    monkeypatch.setattr(fusedrnn.functional, "backward", backward)
    result = measure.measure(SMALL, [OURS], 1, measure.QUICK)
    assert "dx: relative error 1.0e+00" in result.wrong[OURS]
    assert not result.untimed and not result.timings


@pytest.mark.without_gpu
def test_without_a_gpu_ours_is_left_out(monkeypatch):
    monkeypatch.setattr(fusedrnn.cuda, "why_not", lambda: "no such luck")
    with pytest.raises(baselines.Unsupported, match="no such luck"):
        baselines.load(OURS).prepare(Problem(SMALL), 1)


def test_bfloat16_needs_a_gpu_that_has_it(monkeypatch):
    monkeypatch.setattr(fusedrnn.cuda, "devices", lambda: [{"capability": "7.5"}])
    case = dataclasses.replace(SMALL, dtype="bfloat16")
    with pytest.raises(baselines.Unsupported, match=r"bfloat16 needs compute capability 8\.0"):
        baselines.load(OURS).prepare(Problem(case), 1)
    baselines.load(OURS).prepare(Problem(SMALL), 1)


# Reports


def result_of(case, **seconds):
    """A result at 100 TFLOP/s, with these times."""
    timings = {name.replace("_", ":"): timing(s, 0.02) for name, s in seconds.items()}
    peak = 100e12
    return results.Result(case, 1, peak, peak, {}, case.flops / peak, timings, {}, {}, 0.0)


LARGE = Case("lstm", "infer", 16, 100, 768, 768, "float16", device="cuda")


@pytest.mark.without_gpu
def test_the_report():
    times = dict(fusedrnn=250e-6, fusedrnn_graph=200e-6, torch=400e-6, torch_graph=300e-6)
    result = result_of(LARGE, **times)
    late = dataclasses.replace(result_of(SMALL), skipped={"torch": "not today"})
    text = report.markdown(run_of([result, late]))
    (row,) = (line for line in text.splitlines() if line.startswith("| LSTM | 16 |"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    gflops = LARGE.flops / 250e-6 / 1e9
    assert cells == [
        *("LSTM", "16", "100", "768", "768"),
        *("250.0 (2%)", "200.0 (2%)", "400.0 (2%)", "300.0 (2%)"),
        *("2.500", f"{gflops:.0f}", f"{gflops / 1e5:.3f}", "1.60", "1.50", "1e-07"),
    ]
    assert "- torch: skipped in 1 case, not today" in text
    assert "### On the GPU: inference, float16\n" in text
    assert "### Targets" not in text and "### Inference" not in text


@pytest.mark.without_gpu
def test_runs_come_back_from_their_file_and_can_be_compared(tmp_path, capsys):
    before, after = (result_of(LARGE, fusedrnn=seconds) for seconds in (1e-3, 2e-3))
    checked = dataclasses.replace(result_of(SMALL), untimed={OURS: 1e-3})
    for name, found in (("a", [before, checked]), ("b", [after, checked])):
        run_of(found).save(tmp_path / f"{name}.json")
        assert results.load(tmp_path / f"{name}.json") == run_of(found)
    files = [str(tmp_path / f"{name}.json") for name in "ab"]
    assert command.main(["--compare", *files]) == 1
    assert "| lstm infer B=16 T=100 I=H=768 float16 on cuda | 1 |" in capsys.readouterr().out
    assert command.main(["--show", files[0]]) == 0
    assert "### On the GPU: training, float16, not timed" in capsys.readouterr().out
    unknown = dataclasses.replace(before, peak=0.0, limit=0.0)  # without torch: times alone
    assert unknown.fraction is None
    assert not compare.compare(run_of([unknown]), run_of([before]))[1]
    assert compare.compare(run_of([unknown]), run_of([after]))[1]


@pytest.mark.without_gpu
def test_plots_leave_the_gpu_out(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import plots

    assert plots.draw(run_of([result_of(LARGE, fusedrnn=1e-3, torch=2e-3)]), tmp_path) == []


# The command


def bench_gpu(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "bench.gpu", *arguments],
        env={**worker.environment(1), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_quick_run_from_end_to_end(tmp_path):
    file = tmp_path / "run.json"
    done = bench_gpu("--quick", "--json", str(file), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = results.load(file)
    assert [r.case for r in run.results] == cases.quick_gpu()
    assert not any(r.wrong for r in run.results)
    assert run.machine["gpu"]["name"] == fusedrnn.cuda.devices()[0]["name"]
    if fusedrnn.info()["cuda"]["emulated"]:
        assert all(r.untimed.keys() == {OURS} and not r.timings for r in run.results)
        reason = (
            "fusedrnn's GPU is emulated" if importlib.util.find_spec("torch") else "not installed"
        )
        assert all(r.skipped["torch"].startswith(reason) for r in run.results)
        assert "torch: skipped, fusedrnn's GPU is emulated" in done.stderr
        assert "**emulated on the CPU: results were checked, nothing was timed**" in done.stdout
        assert not [line for line in done.stdout.splitlines() if " us " in line]
    else:
        assert all(r.ours or "capability" in r.skipped[OURS] for r in run.results)
    assert json.loads(file.read_text())["schema"] == results.SCHEMA
    assert "[1/36] lstm infer B=3 T=4 I=H=20 on cuda: " in done.stderr


def test_the_emulation_refuses_what_would_take_hours(tmp_path):
    if not fusedrnn.info()["cuda"]["emulated"]:
        pytest.skip("there is a GPU")
    done = bench_gpu(cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "bench: the GPU is emulated: only --quick runs there, and times nothing\n"
    )


def test_no_device_is_the_reason(tmp_path):
    hidden = {"CUDA_VISIBLE_DEVICES": "", "FUSEDRNN_CUDA_EMULATION_DEVICE": "none"}
    done = bench_gpu("--quick", cwd=tmp_path, **hidden)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("bench: no GPU: cudaErrorNoDevice: ")


@pytest.mark.without_gpu
def test_without_the_cuda_side_the_reason_is_that(monkeypatch):
    monkeypatch.setattr(fusedrnn.cuda, "why_not", lambda: "this build has no CUDA side")
    with pytest.raises(SystemExit, match="bench: no GPU: this build has no CUDA side"):
        gpu.main(["--quick"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "float64"], "invalid choice: 'float64'"),
        (["--quick", "--hidden", "7"], "bench: there are no such cases"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    done = bench_gpu(*arguments, cwd=tmp_path)
    assert done.returncode != 0 and message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.without_gpu
def test_a_fault_costs_its_case_and_no_other(monkeypatch):
    def collect(rest, threads, effort, progress, found, seconds):
        assert seconds is None
        for case in rest:
            if case.cell == "gru":
                raise SystemExit("bench: the process ended with -6")
            found.append(result_of(case, fusedrnn=1e-3))

    monkeypatch.setattr(gpu, "collect", collect)
    wanted = planned("--quick", "--dtype", "float32", "--mode", "infer")
    steps = []
    found = gpu.measured(wanted, measure.GPU, SimpleNamespace(step=steps.append), Budget())
    assert [r.case for r in found] == list(wanted)
    wrong = [r.case for r in found if r.wrong]
    assert (
        wrong == [case for case in wanted if case.cell == "gru"] and len(steps) == len(wrong) == 2
    )
    assert found[2].wrong == {OURS: "bench: the process ended with -6"}
