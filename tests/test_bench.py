"""The benchmark: formulas by hand, judgements on made-up results, and a quick run of all of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from bench import __main__ as command
from bench import baselines, cases, compare, limits, measure, memory, report, results, worker
from bench.baselines import OURS
from bench.cases import Case
from bench.problem import Problem
from bench.targets import TARGETS
from bench_results import everything, judge, made_up, run_of, timing
from fusedrnn import functional, reference

SMALL = Case("lstm", "train", 3, 4, 5, 6)

# Formulas


def test_flops_by_hand():
    # LSTM: 4 gates of 5 units, 4 + 5 columns: 180 multiply-adds a step and row, for 2 rows and 3
    # steps. Backward multiplies as often again for the inputs, and for the weights.
    assert Case("lstm", "infer", 2, 3, 4, 5).flops == 2 * 180 * 2 * 3
    assert Case("lstm", "train", 2, 3, 4, 5).flops == 3 * 2 * 180 * 2 * 3
    assert Case("gru", "infer", 1, 1, 64, 64).flops == 2 * 3 * 64 * 128
    assert Case("rnn_tanh", "step", 1, 1, 64, 64).flops == 2 * 64 * 128


@pytest.mark.parametrize("case", [*cases.grid(), *cases.quick()], ids=str)
def test_the_parts_of_the_limit_are_all_of_the_work(case):
    assert sum(p.times * p.flops for p in limits.parts(case)) == pytest.approx(case.flops)


def test_the_limit_of_one_sequence_by_hand():
    # W and R have 64 KiB each. W x: 100 rows at once, 3.28 MFLOP. R h: 64 KiB in each of 100 steps.
    case = Case("lstm", "infer", 1, 100, 64, 64)
    assert limits.sizes(case, 1) == {128, 64}
    bandwidth = {128: 50e9, 64: 100e9}
    assert limits.seconds(case, 1, 100e9, bandwidth) == pytest.approx(32.768e-6 + 65.536e-6)
    # With more bandwidth than operations: both at the peak.
    fast = dict.fromkeys(bandwidth, 1e15)
    assert limits.seconds(case, 1, 100e9, fast) == pytest.approx(2 * 32.768e-6)


def test_the_limit_on_two_threads_by_hand():
    # One row can't be divided: each thread streams its half of R, 32 KiB, at half the bandwidth.
    case = Case("lstm", "infer", 1, 100, 64, 64)
    assert limits.sizes(case, 2) == {128, 64, 32}
    bandwidth = {128: 200e9, 64: 200e9, 32: 400e9}
    assert limits.seconds(case, 2, 200e9, bandwidth) == pytest.approx(16.384e-6 + 16.384e-6)
    # Two rows can: then each thread may stream all of R, if that is faster.
    case = dataclasses.replace(case, batch=2)
    assert limits.sizes(case, 2) == {128, 64, 32}
    by_units = limits.seconds(case, 2, 1e15, {128: 1e15, 64: 100e9, 32: 100e9})
    by_rows = limits.seconds(case, 2, 1e15, {128: 1e15, 64: 400e9, 32: 100e9})
    assert by_units == pytest.approx(100 * 32768 / 50e9, rel=1e-3)
    assert by_rows == pytest.approx(100 * 65536 / 200e9, rel=1e-3)


def test_the_limit_of_training_by_hand():
    # 64 rows: everything at the peak, but for R of 4 KiB at one byte a second, in each step twice.
    case = Case("rnn_tanh", "train", 64, 10, 32, 32)
    assert limits.sizes(case, 1) == {limits.SMALLEST_KIB}
    bandwidth = {limits.SMALLEST_KIB: 1e9}
    streamed = 2 * 10 * 4096 / 1e9
    whole = 4 * 4096 / 1e9
    assert limits.seconds(case, 1, 1e15, bandwidth) == pytest.approx(streamed + whole)
    assert limits.seconds(case, 1, 1e9, {limits.SMALLEST_KIB: 1e15}) == pytest.approx(
        case.flops / 1e9
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_probes_measure_something(threads):
    assert limits.peak_probe("float32", threads, 1e-4)() > 1e6
    assert limits.read_probe(64, threads)() > 1e6


def test_the_grid_is_the_whole_grid():
    grid = cases.grid()
    assert len(set(grid)) == len(grid) == 3 * (17 + 15 + 2)
    assert not [c for c in grid if c.mode == "train" and c.steps == 1]
    assert {c.hidden for c in grid if c.small} == {8, 16, 32, 40}


# Verification


@pytest.mark.parametrize("case", cases.quick(["lstm"]), ids=str)
def test_everything_that_is_measured_is_right(case):
    result = measure.measure(case, [OURS, "reference"], 1, measure.QUICK)
    assert not result.wrong
    assert result.ours.error < measure.TOLERANCE["float32"]
    assert result.timings["reference"].error == 0
    assert result.limit > 0 and result.peak > 0
    assert (result.kernel() is not None) == (case.mode == "step")


def break_infer(monkeypatch):
    from bench.baselines import fusedrnn as our_baseline

    true = our_baseline.layer_of

    def layer_of(*arguments):
        layer = true(*arguments)

        def call(x, state=None):
            y, last = layer(x, state)
            y[-1, -1, -1] += 0.01  # one element
            return y, last

        return call

    monkeypatch.setattr(our_baseline, "layer_of", layer_of)


def test_a_wrong_result_is_caught_and_not_timed(monkeypatch):
    break_infer(monkeypatch)
    case = dataclasses.replace(SMALL, mode="infer")
    result = measure.measure(case, [OURS, "reference"], 1, measure.QUICK)
    assert OURS not in result.timings and "reference" in result.timings
    assert "y: relative error" in result.wrong[OURS]
    assert "**WRONG** lstm infer" in report.markdown(run_of([result]))


def test_a_wrong_gradient_is_caught(monkeypatch):
    true = functional.backward

    def backward(tape, dy, out=None):
        gradients = true(tape, dy, out=out)
        gradients.parameters["weight_hh_l0"][0, 0] *= 1.01
        return gradients

    monkeypatch.setattr(functional, "backward", backward)
    result = measure.measure(SMALL, [OURS], 1, measure.QUICK)
    assert "d_weight_hh_l0: relative error" in result.wrong[OURS]


def test_an_output_that_is_not_written_is_caught(monkeypatch):
    true = functional.infer

    def infer(*arguments, out):
        y, last = true(*arguments)
        out[:-1] = y[:-1]
        return out, last

    monkeypatch.setattr(functional, "infer", infer)
    case = dataclasses.replace(SMALL, mode="infer")
    result = measure.measure(case, [OURS], 1, measure.QUICK)
    assert "y: relative error nan" in result.wrong[OURS]


def test_results_that_are_missing_or_misshapen_are_wrong():
    want = {"y": np.ones((2, 3)), "h": np.ones(3)}
    assert measure.difference({"y": np.ones((2, 3))}, want, 1e-5) == 0
    for got in ({"h": np.ones(3)}, {"y": np.ones((3, 2))}, {"y": np.ones((2, 3)), "z": np.ones(1)}):
        with pytest.raises(measure.Wrong):
            measure.difference(got, want, 1e-5)


def where_installed(peer):
    """Peers are optional. One that is there but broken fails: only what isn't there is left out."""
    needs = [peer] if peer == "torch" else [peer, "onnx"]
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    missing_mark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
    return pytest.param(peer, marks=[pytest.mark.extras, missing_mark])


@pytest.mark.deep
@pytest.mark.parametrize("peer", [where_installed(peer) for peer in baselines.RIVALS])
def test_peers_are_right(peer):
    """With every cell in every mode."""
    planned = {case: [peer] for case in cases.quick(reference.CELLS)}
    for result in worker.run_cases(planned, 1, measure.QUICK):
        assert not result.wrong
        if result.case.mode == "train" and peer != "torch":
            assert result.skipped == {peer: "inference only"}
        else:
            assert peer in result.timings and not result.skipped


def test_a_missing_peer_is_left_out_and_named(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "bench.baselines.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert command.available(["torch", "reference"]) == ["reference"]
    assert "torch: skipped, not installed" in capsys.readouterr().err
    result = measure.measure(SMALL, ["reference", "torch"], 1, measure.QUICK)
    assert "not installed" in result.skipped["torch"]
    assert "- torch: skipped in 1 case, not installed" in report.markdown(run_of([result]))


def test_a_peer_that_fails_does_not_end_the_run(monkeypatch):
    def prepare(problem, threads):
        raise RuntimeError("no such kernel")

    def run(i):
        raise MemoryError

    peer = baselines.load("reference")
    monkeypatch.setattr(peer, "prepare", prepare)
    assert (
        "no such kernel"
        in measure.measure(SMALL, ["reference"], 1, measure.QUICK).wrong["reference"]
    )
    monkeypatch.setattr(peer, "prepare", lambda *_: [baselines.Contestant("reference", run, dict)])
    result = measure.measure(SMALL, [OURS, "reference"], 1, measure.QUICK)
    assert "MemoryError" in result.wrong["reference"] and result.ours


def test_a_slow_reference_is_left_out(monkeypatch):
    monkeypatch.setattr(baselines.load("reference"), "LIMIT", 0.0)
    result = measure.measure(SMALL, ["reference"], 1, measure.QUICK)
    assert result.skipped["reference"] == "takes more than 0.0 s a call"


def test_problems_are_the_same_for_everyone():
    a, b = Problem(SMALL), Problem(SMALL)
    assert all((p == b.parameters[name]).all() for name, p in a.parameters.items())
    assert not (a.inputs[0] == a.inputs[1]).any()
    assert {x.dtype for x in (*a.inputs, *a.parameters.values(), a.dy, *a.state)} == {
        np.dtype("float32")
    }


def test_the_memory_of_calls():
    case = Case("lstm", "train", 8, 200, 64, 64)
    found = memory.peak_of_calls(case, OURS, 1)
    kept = 5 * case.steps * case.batch * case.hidden * case.itemsize
    assert kept <= found.tape <= found.tape_twice - kept
    # The tape is alive at the peak; pages that were resident already may hide a little of it.
    assert 0.5 * kept < found.peak < 10 * kept
    short = dataclasses.replace(case, steps=5)  # else the reference may be too slow to take part
    assert memory.peak_of_calls(short, "reference", 1).tape is None


# Targets


def verdicts(found):
    return {t.name: t.judge(found).verdict for t in TARGETS}


def test_targets_that_are_met():
    one, two = verdicts(everything([1])), verdicts(everything([2]))
    ones = {name for name, verdict in one.items() if verdict == "yes"}
    # RTNeural's bar and the limits are checked below; the made-up peers of a step are too quick.
    assert {n for n in one if n.startswith(("no case", "time a step", "a sequence"))} <= ones
    assert {n for n in one if n.startswith("training memory")} <= ones
    threads = {n for n in one if n.startswith("all threads")}
    assert len(threads) == 2
    assert {one[n] for n in threads} == {"not run"}
    assert {two[n] for n in threads} == {"yes"}


def test_one_slow_case_misses_the_target_and_is_named():
    found = everything([1])
    slow = made_up(Case("gru", "infer", 8, 100, 128, 128), peers={"torch": 0.5, "openvino": 3.0})
    found = [slow if r.case == slow.case else r for r in found]
    outcome = judge("no case slower than its best peer: infer", found)
    assert outcome.verdict == "**no**"
    assert outcome.measured == "0.50 (GRU infer 8, 100, 128); 50 of 51"
    assert judge("no case slower than its best peer: train", found).verdict == "yes"


def test_the_geometric_mean():
    pair = [Case("lstm", "train", 8, 100, 128, 128), Case("lstm", "train", 32, 100, 64, 64)]
    factors = (1.0, 4.0)
    found = [made_up(c, peers={"torch": f}) for c, f in zip(pair, factors, strict=True)]
    outcome = judge("geometric mean over the best peer: LSTM train", found)
    assert outcome.measured == "2.00 (13 not run)"
    assert outcome.verdict == "so far"


def test_the_reference_is_nobodys_best_peer():
    assert made_up(SMALL, peers={"reference": 0.1}).best_peer is None
    assert made_up(SMALL, peers={"torch": 3.0, "openvino": 2.0}).best_peer == "openvino"


def test_a_step_is_split_into_kernels_and_call():
    case = Case("lstm", "step", 1, 1, 64, 64)
    result = made_up(case, peers={"onnxruntime": 7.0, "torch": 30.0})
    assert result.kernel() == pytest.approx(case.flops / 95e9)
    outcome = judge("one step from Python, H = 64: `stream.step(x)` beyond", [result])
    assert outcome.measured.startswith("0.50 (LSTM step 1, 1, 64)") and outcome.verdict == "so far"
    assert judge("one step from Python, H = 64: `layer(x)` against onnx", [result]).met
    late = dataclasses.replace(result, timings={**result.timings, "fusedrnn:stream": timing(1e-5)})
    assert not judge("one step from Python, H = 64: `stream.step(x)` beyond", [late]).met


def test_small_cells_are_held_against_published_figures():
    case = Case("lstm", "infer", 1, 2000, 1, 16)
    rate = case.flops / (2000 * 0.055e-6)  # half of the 0.110 us that RTNeural takes
    outcome = judge("small cells over RTNeural's published step: LSTM", [made_up(case, rate=rate)])
    assert outcome.measured.startswith("2.00 (LSTM infer 1, 2000, 16); 1 of 1")


def test_fractions_of_the_limit():
    fast, slow = (
        judge("fraction of the limit: infer, B >= 8", everything([1], rate=rate))
        for rate in (95e9, 80e9)
    )
    assert fast.verdict == "yes" and fast.measured.startswith("0.95")
    assert slow.verdict == "**no**" and slow.measured.endswith("; 0 of 21")


def test_threads_that_do_not_pay():
    outcome = judge("all threads against one: B >= 8 or H >= 256", everything([2], gain=1.2))
    assert outcome.verdict == "**no**"
    assert outcome.measured.endswith("the machine's peak gains 1.95 to 1.95")


def test_a_tape_that_keeps_too_much():
    case = Case("gru", "train", 8, 100, 128, 128)
    kept = 5 * 8 * 100 * 128 * 4  # 5H floats a step and row
    result = made_up(case, memory={OURS: results.Memory(0, kept + 999, 2 * kept + 999)})
    outcome = judge("training memory a step and row, in floats of H: GRU", [result])
    assert outcome.measured.startswith("5.00") and outcome.verdict == "**no**"


def test_growth_that_is_not_linear():
    found = everything([1])
    (longest,) = (c for c in cases.scaling()["infer steps"] if c.steps == 1024)
    found = [made_up(r.case, rate=60e9) if r.case == longest else r for r in found]
    outcome = judge("time a step and row, at 8 times the T", found)
    assert outcome.verdict == "**no**" and outcome.measured.startswith("1.58 (LSTM infer 8, 1024")
    assert judge("time a step and row, at 8 times the B", found).verdict == "yes"


def test_every_target_is_printed_for_both_numbers_of_threads():
    table = report.targets_table(run_of(everything()))
    assert len(table.splitlines()) == 2 + len(TARGETS)
    assert table.splitlines()[0].endswith("| 1 thread | met (1) | 2 threads | met (2) |")
    nothing = report.targets_table(run_of([made_up(SMALL)]))
    assert nothing.count("not run") == len(TARGETS)


# Comparison and files


def test_compare_finds_a_regression(tmp_path, capsys):
    a, b = everything([1]), everything([1])
    place = next(i for i, r in enumerate(b) if r.case == Case("gru", "train", 8, 100, 128, 128))
    b[place] = made_up(b[place].case, rate=80e9)
    run_of(a).save(tmp_path / "a.json")
    run_of(b).save(tmp_path / "b.json")
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert command.main(["--compare", *files]) == 1
    printed = capsys.readouterr().out
    assert "1 slower, 0 faster" in printed
    assert "| gru train B=8 T=100 I=H=128 | 1 | 4966.94 | 5898.24 |" in printed
    assert command.main(["--compare", *files[::-1]]) == 0  # the same is progress, seen from there
    assert command.main(["--compare", files[0], files[0]]) == 0


def test_compare_allows_for_noise_and_for_another_speed_of_the_machine():
    a = made_up(SMALL, spread=0.2)
    b = made_up(SMALL, rate=80e9, spread=0.2)
    assert not compare.compare(run_of([a]), run_of([b]))[1]
    slow_machine = made_up(SMALL, rate=50e9, peak=100e9 * 50 / 95)
    assert not compare.compare(run_of([made_up(SMALL)]), run_of([slow_machine]))[1]


def test_compare_tells_what_was_right_and_is_wrong_now():
    a = made_up(SMALL)
    b = dataclasses.replace(a, timings={}, wrong={OURS: "y: relative error 1"})
    text, worse = compare.compare(run_of([a]), run_of([b]))
    assert worse and "**lost**" in text


def test_results_come_back_from_their_file(tmp_path):
    run = run_of(everything([1, 2]))
    run.save(tmp_path / "run.json")
    assert results.load(tmp_path / "run.json") == run


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 0}', "[]"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match="not a result of bench"):
        results.load(path)


@pytest.mark.deep
def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import plots

    drawn = plots.draw(run_of(everything()), tmp_path)
    names = {f"{name}-{n}.png" for name in plots.FIGURES for n in (1, 2)}
    assert {path.name for path in drawn} == names
    assert all(path.stat().st_size > 10_000 for path in drawn)
    assert plots.draw(run_of([made_up(SMALL)]), tmp_path) == []


# The command


def bench(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        env=worker.environment(1),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.deep
def test_a_quick_run_from_end_to_end(tmp_path):
    file = tmp_path / "run.json"
    options = ["--quick", "--peers", "reference", "--threads", "1", "2", "--json", str(file)]
    done = bench(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = results.load(file)
    expected = {(case, n) for case in cases.quick() for n in (1, 2)}
    assert {(r.case, r.threads) for r in run.results} == expected
    for r in run.results:
        assert r.ours and "reference" in r.timings and not r.wrong and not r.skipped
        assert (OURS in r.memory) == (r.threads == 1 and r.case.mode != "step")
    assert json.loads(file.read_text())["schema"] == results.SCHEMA
    assert "### Targets" in done.stdout and "### Training, 2 threads" in done.stdout
    assert "[1/33] lstm infer B=1 T=1 I=H=24, 1 thread: " in done.stderr
    shown = bench("--show", str(file), cwd=tmp_path)
    assert shown.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cell", "lstn"], "invalid choice: 'lstn'"),
        (["--threads", "0"], "expected a number of threads from 1, got 0"),
        (["--compare", "a.json", "b.json"], "a.json: not a result of bench"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode != 0 and message in done.stderr
    assert "Traceback" not in done.stderr
