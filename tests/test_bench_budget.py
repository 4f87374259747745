"""The benchmark in limited time: what is measured then, and what is left out."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from bench import __main__ as command
from bench import cases, measure, report, results, worker
from bench.baselines import OURS
from bench.budget import Budget
from bench.cases import Case
from bench_results import made_up, run_of


def test_without_a_limit_nothing_changes():
    budget = Budget()
    assert budget.left() is None and not budget.over
    assert budget.effort(measure.FULL, 1000) == measure.FULL
    planned = dict.fromkeys(cases.grid(), (OURS,))
    assert list(budget.spread(planned)) == list(planned)


def test_time_is_shared_out():
    budget = Budget(100)
    assert budget.left(4) == pytest.approx(25, abs=0.1) and not budget.over
    effort = budget.effort(measure.FULL, 200)
    assert effort == dataclasses.replace(measure.FULL, budget=effort.budget)
    assert effort.budget == pytest.approx(0.5, abs=0.01)
    assert budget.effort(measure.FULL, 3) == measure.FULL
    late = Budget(1e-9)
    time.sleep(1e-3)
    assert late.over and late.left() < 0 and late.effort(measure.FULL, 5).budget == 0


@pytest.mark.parametrize("planned", [cases.grid(), cases.gpu()], ids=["cpu", "gpu"])
def test_every_beginning_is_a_sample_of_all(planned):
    spread = list(Budget(1).spread(dict.fromkeys(planned, ())))
    assert sorted(map(str, spread)) == sorted(map(str, planned))
    for n in (12, 24, 48):
        # A block of the plan is a cell, a mode and a dtype: of each as much as its size asks for.
        for name in ("cell", "mode", "dtype"):
            for value in {getattr(c, name) for c in planned}:
                share = sum(getattr(c, name) == value for c in planned) / len(planned)
                got = sum(getattr(c, name) == value for c in spread[:n])
                assert abs(got - n * share) <= 4, (name, value, n)


def test_what_would_take_all_the_time_comes_last():
    planned = [c for c in cases.grid(["lstm"]) if c.mode != "step"]
    spread = list(Budget(1).spread(dict.fromkeys(planned)))
    assert {*spread} == {*planned}
    work = [case.flops / sum(c.flops for c in planned) for case in spread]
    assert work[-5:] == sorted(work)[-5:] and sum(work[-5:]) > 0.8
    assert max(work[:-5]) < 0.05
    alone = Case("lstm", "train", 64, 25, 1024, 1024)
    assert list(Budget(1).spread({alone: ()})) == [alone]


class Alarm:
    """A timer that rings when the test wants it to."""

    def __init__(self, seconds, ring):
        self.seconds, self.ring, self.calls = seconds, ring, []
        type(self).last = self

    def start(self):
        self.calls.append("start")

    def cancel(self):
        self.calls.append("cancel")


def test_the_process_is_ended_in_time(monkeypatch):
    monkeypatch.setattr(threading, "Timer", Alarm)
    # Of the second case the reference alone takes hours.
    endless = Case("lstm", "train", 64, 10_000_000 // 64, 64, 64)
    planned = {case: [OURS] for case in (*cases.quick(["lstm"])[:1], endless)}
    running = worker.run_cases(planned, 1, measure.QUICK, 7.5)
    assert next(running).case == next(iter(planned))
    assert Alarm.last.seconds == 7.5 and Alarm.last.calls == ["start"]
    Alarm.last.ring()
    assert list(running) == []
    assert Alarm.last.calls == ["start", "cancel"]


def test_without_a_limit_there_is_no_timer(monkeypatch):
    monkeypatch.setattr(threading, "Timer", Alarm)
    (case, *_) = cases.quick(["lstm"])
    assert [r.case for r in worker.run_cases({case: [OURS]}, 1, measure.QUICK)] == [case]
    assert Alarm.last.calls == ["cancel"]


def test_a_process_that_fails_in_time_is_an_error():
    with pytest.raises(SystemExit, match="the process for 1 threads ended with 1"):
        list(
            worker.run_cases(
                {dataclasses.replace(cases.quick()[0], cell="none"): [OURS]}, 1, measure.QUICK, 60.0
            )
        )


def test_what_is_left_out_is_said(monkeypatch, capsys):
    planned = dict.fromkeys(cases.quick(["lstm"]), (OURS,))
    limits = []

    def run_cases(planned, threads, effort, seconds):
        limits.append(seconds)
        return (made_up(case, threads) for case in list(planned)[:2])

    monkeypatch.setattr(worker, "run_cases", run_cases)
    found = []
    command.collect(planned, 1, measure.QUICK, command.Progress(4), found, 5.0)
    assert len(found) == 2 and limits == [5.0]
    said = capsys.readouterr().err
    assert said.endswith(f"the time is up: 2 of 4 cases are done, not {list(planned)[2]}\n")


def test_a_run_in_limited_time(monkeypatch, tmp_path, capsys):
    calls = []

    def run_cases(planned, threads, effort, seconds):
        calls.append((threads, effort.budget, seconds))
        return (made_up(case, threads) for case in list(planned)[:3])

    monkeypatch.setattr(worker, "run_cases", run_cases)
    monkeypatch.setattr(worker, "run_memory", lambda *_: None)
    file = tmp_path / "run.json"
    options = "--cell lstm --call arrays --peers reference --threads 1 2 --no-scaling --seconds 17"
    assert command.main([*options.split(), "--json", str(file)]) == 0
    (one, budget, first), (two, same, second) = calls
    assert (one, two) == (1, 2)
    assert 0 < first <= 17 / 2 < second <= 17  # the first has taken nothing of its half
    assert budget == same == pytest.approx(17 / 34 / 2, rel=0.01)
    run = results.load(file)
    spread = list(Budget(17).spread(dict.fromkeys(cases.grid(["lstm"]))))
    done = [case for case in cases.grid(["lstm"]) if case in spread[:3]]  # as without a limit
    assert [(r.threads, r.case) for r in run.results] == [(n, c) for n in (1, 2) for c in done]
    said = capsys.readouterr()
    assert said.err.count("the time is up: 3 of 34 cases") == 2
    assert "--seconds 17" in said.out


def test_no_time_at_all_is_no_success(tmp_path, capsys):
    options = "--quick --peers reference --threads 1 --seconds 1e-6"
    assert command.main(options.split()) == 1
    assert "the time is up: 0 of" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_that_are_none(text, capsys):
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--seconds", text])
    assert "argument --seconds: " in capsys.readouterr().err


def test_the_table_by_threads():
    case, other = cases.grid(["lstm"])[:2]
    gains = {1: 1.0, 2: 1.8, 4: 3.0}
    found = [made_up(case, n, gain=gain) for n, gain in gains.items()]
    found += [made_up(other, n) for n in (1, 2)] + [made_up(cases.grid(["gru"])[0])]
    text = report.markdown(run_of(found)).split("### By threads\n")[1].split("###")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = [row for row in rows if row]
    assert rows[0] == ["", "1 thread", "2 threads", "4 threads"]
    best = {n: report.micros(case.flops / 95e9 / gain) for n, gain in gains.items()}
    assert rows[2] == [str(case), best[1], f"{best[2]} (1.80)", f"{best[4]} (3.00)"]
    assert rows[3][0] == str(other) and rows[3][3] == ""
    assert rows[4] == ["the machine's peak", "(1.00)", "(1.95)", "(1.95)"]
    assert len(rows) == 5
    assert "### By threads" not in report.markdown(run_of(found[:2]))
