"""The benchmark of torch's modules: what is called, that it is right, and how it is judged."""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np
import pytest

from bench import __main__ as command
from bench import baselines, cases, compare, measure, report, worker
from bench.baselines import ALONE, ARRAYS, DENSE, LENGTHS, OURS, ours
from bench.cases import Case
from bench.problem import Problem, lengths_of
from bench_results import everything, judge, made_up, run_of, timing
from fusedrnn import _network, reference

SMALL = Case("gru", "train", 4, 6, 5, 5, call="packed")
VARIANTS = {
    "eager": {OURS, ours(ARRAYS), "torch"},
    "cell": {OURS, "torch"},
    "compiled": {OURS, "torch"},
    "packed": {OURS, ours(LENGTHS), ours(DENSE), "torch"},
    "pools": {OURS, ours(ALONE), "torch", f"torch:{ALONE}"},
}


# Cases


@pytest.mark.parametrize(("batch", "steps"), [(8, 50), (7, 12), (1, 5), (2, 1)])
def test_lengths_are_as_many_steps_as_without(batch, steps):
    lengths = lengths_of(Case("lstm", "infer", batch, steps, 4, 4, call="packed"))
    assert lengths.shape == (batch,) and lengths.dtype == np.int64
    assert lengths.sum() == batch * steps
    assert lengths.min() >= 1 and lengths.max() < 2 * steps
    if batch == 8:
        assert len(set(lengths)) > 4 and sorted(lengths) != list(lengths)


def test_only_packed_problems_have_lengths():
    problem = Problem(SMALL)
    assert problem.inputs[0].shape == (11, 4, 5) and problem.dy.shape == (11, 4, 5)
    assert problem.expected(0)["y"][problem.lengths[0] :, 0].any() == False  # noqa: E712
    plain = Problem(dataclasses.replace(SMALL, call="eager"))
    assert plain.lengths is None and plain.inputs[0].shape == (6, 4, 5)
    assert all((plain.parameters[n] == p).all() for n, p in problem.parameters.items())


def test_every_call_has_cases_that_count_for_nothing_else():
    planned = cases.modules()
    assert len(set(planned)) == len(planned) == 3 * 2 * (6 + 5 + 3 + 2 + 2)
    assert {c.call for c in planned} == set(cases.MODULE_CALLS)
    assert not {*planned} & {*cases.grid()}
    assert str(planned[0]) == "lstm eager infer B=1 T=1 I=H=64"


def planned(*arguments, peers=("torch", "reference")):
    return command.plan(command.parser().parse_args(arguments), list(peers))


def test_the_plan_follows_the_options():
    everyone = planned()
    assert all(everyone[c] == [OURS, "torch"] for c in cases.modules())
    assert set(planned("--call", "eager", "--cell", "gru", "--mode", "train")) == {
        c for c in cases.modules(["gru"]) if c.call == "eager" and c.mode == "train"
    }
    assert set(planned("--call", "arrays", "--no-scaling")) == set(cases.grid())
    assert not [c for c in planned(peers=["reference"]) if c.call != "arrays"]
    assert {c.call for c in planned("--quick")} == set(cases.CALLS)


# Verification


@pytest.mark.deep
def test_modules_are_right(torch):
    """With every cell, called in every way."""
    wanted = {case: [OURS, "torch"] for case in cases.quick_modules(reference.CELLS)}
    for result in worker.run_cases(wanted, 2, measure.QUICK):
        assert not result.wrong and not result.skipped
        assert set(result.timings) == VARIANTS[result.case.call]


@pytest.mark.parametrize("call", ["eager", "cell", "packed", "pools"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_wrong_module_is_caught(torch, monkeypatch, call, mode):
    from bench.baselines import modules

    made = "cell_of" if call == "cell" else "layer_of"
    true = getattr(modules, made)

    def wrong(*arguments):
        module = true(*arguments)
        with torch.no_grad():
            list(module.parameters())[1][0, 0] += 0.1
        return module

    monkeypatch.setattr(modules, made, wrong)
    case = dataclasses.replace(SMALL, call=call, mode=mode)
    result = measure.measure(case, [OURS, "torch"], 1, measure.QUICK)
    assert set(result.wrong) == VARIANTS[call] - {ours(ARRAYS)}
    assert all("relative error" in mistake for mistake in result.wrong.values())


def test_a_call_that_torch_computes_is_caught(torch, monkeypatch):
    import fusedrnn.torch

    def refuse(*arguments):
        raise fusedrnn.torch._layer.Unsupported("not today")

    monkeypatch.setattr(fusedrnn.torch._layer, "packed_weights", refuse)
    case = dataclasses.replace(SMALL, call="eager")
    result = measure.measure(case, [OURS, "torch"], 1, measure.QUICK)
    assert "NotAccelerated('GRU: not today')" in result.wrong[OURS]
    assert not {OURS} & {*result.timings} and "torch" in result.timings


@pytest.mark.filterwarnings("ignore")  # torch.compile's, of its own making
def test_a_call_that_leaves_the_graph_is_caught(torch, monkeypatch):
    import fusedrnn.torch

    def obstacle(*arguments):
        torch._dynamo.graph_break()

    monkeypatch.setattr(fusedrnn.torch._layer.RecurrentLayer, "_obstacle", obstacle)
    case = dataclasses.replace(SMALL, call="compiled")
    result = measure.measure(case, [OURS], 1, measure.QUICK)
    assert "graph_break" in result.wrong[OURS] and not result.timings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peers", [[OURS, "torch"], ["torch", OURS]])
def test_what_torch_cannot_compile_leaves_ours_compiled(torch, monkeypatch, peers):
    import fusedrnn.torch

    def eager(*arguments):
        raise AssertionError("not compiled")

    monkeypatch.setattr(fusedrnn.torch._layer.RecurrentLayer, "_by_kernels", eager)
    case = dataclasses.replace(SMALL, call="compiled", mode="infer")
    result = measure.measure(case, peers, 1, measure.QUICK)
    assert not result.wrong and set(result.timings) == {OURS, "torch"}


def test_training_packs_new_parameters_in_each_call(torch, monkeypatch):
    true, packed = _network.Network.pack, []

    def pack(self, *arguments, **options):
        packed.append(self)
        return true(self, *arguments, **options)

    monkeypatch.setattr(_network.Network, "pack", pack)
    problem = Problem(dataclasses.replace(SMALL, call="eager"))
    module, _ = baselines.load(OURS).prepare(problem, 1)
    for i in (0, 1, 0, 1):
        packed.clear()
        module.run(i)
        assert len(packed) == 1


def test_what_comes_before_a_call_is_not_timed():
    order = []

    def before():
        order.append("before")
        time.sleep(0.02)

    def run(i):
        order.append(i)

    contestant = baselines.Contestant("it", run, dict, before=before)
    assert measure.block(contestant, 3, False) < 0.01
    assert order == ["before", 0, "before", 1, "before", 0]


def test_without_torch_there_are_no_modules(monkeypatch):
    for name in ("torch", "fusedrnn.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "bench.baselines.modules", raising=False)
    result = measure.measure(SMALL, [OURS], 1, measure.QUICK)
    assert "not installed" in result.skipped[OURS]


# Judgements


TITLES = [f"no module slower than torch's: {call}" for call in ("eager", "compiled", "packed")]
TITLES += [f"a module's call beyond the call by arrays (us): {mode}" for mode in ("infer", "train")]
TITLES += ["packed sequences against as many steps", "a call after torch's matrix products"]


def test_targets_that_are_met():
    found = everything([1])
    assert [judge(title, found).verdict for title in TITLES] == ["yes"] * len(TITLES)
    assert [judge(title, [made_up(SMALL)]).verdict for title in TITLES] == ["not run"] * len(TITLES)


def with_timings(case, **seconds):
    """A result where ours takes 1 ms, and others what is given."""
    result = made_up(case)
    timings = {OURS: timing(1e-3)} | {name: timing(s) for name, s in seconds.items()}
    return dataclasses.replace(result, timings=timings)


@pytest.mark.parametrize(
    ("title", "shape", "contestant", "seconds", "measured"),
    [
        (TITLES[0], ("eager", "train", 8, 100, 128), "torch", 0.9e-3, "0.90 (LSTM eager train 8"),
        (TITLES[1], ("compiled", "infer", 1, 1, 64), "torch", 0.5e-3, "0.50 (LSTM compiled"),
        (TITLES[3], ("eager", "infer", 1, 1, 64), ours(ARRAYS), 0.99e-3, "10.00 (LSTM eager"),
        (TITLES[4], ("eager", "train", 1, 1, 64), ours(ARRAYS), 0.975e-3, "25.00 (LSTM eager"),
        (TITLES[5], ("packed", "train", 8, 50, 128), ours(DENSE), 0.8e-3, "1.25 (LSTM packed"),
        (TITLES[6], ("pools", "infer", 32, 100, 256), ours(ALONE), 0.5e-3, "2.00 (LSTM pools"),
    ],
)
def test_targets_that_are_missed(title, shape, contestant, seconds, measured):
    call, mode, batch, steps, hidden = shape
    case = Case("lstm", mode, batch, steps, hidden, hidden, call=call)
    outcome = judge(title, [with_timings(case, **{contestant: seconds})])
    assert outcome.verdict == "**no**"
    assert outcome.measured.startswith(measured)


def test_a_long_call_says_nothing_about_what_is_beyond_the_kernels():
    case = Case("lstm", "infer", 64, 50, 512, 512, call="eager")
    found = [with_timings(case, **{ours(ARRAYS): 0.5e-3})]
    assert judge(TITLES[3], found).verdict == "not run"


def test_the_report_has_a_table_for_each_call():
    text = report.markdown(run_of([made_up(c) for c in cases.modules()]))
    for title in report.MODULES.values():
        assert text.count(f"### {title}, 1 thread\n") == 1
    (short,) = (s for s in text.split("###") if s.startswith(" PyTorch's modules, in short"))
    assert "| B=1 T=1 I=H=64 |" in short and "LSTM train" in short and "(2.00)" in short
    assert "### In short" not in text and "### Inference" not in text


def test_compare_tells_the_calls_apart():
    before = [made_up(c) for c in cases.modules(["lstm"])]
    after = [made_up(r.case, rate=50e9) if r.case.call == "packed" else r for r in before]
    text, worse = compare.compare(run_of(before), run_of(after))
    assert worse and text.count("**slower**") == 4
    assert "| lstm packed train B=8 T=50 I=H=128 | 1 |" in text
