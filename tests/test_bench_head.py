"""The benchmark of the head: what it compares is right, and its bound can be missed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import fusedrnn
from bench import head

TINY = head.Case(40, 8, 30)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    threads = fusedrnn.get_num_threads()
    monkeypatch.setattr(head, "JUDGED", TINY)
    monkeypatch.setattr(head, "OTHERS", (head.Case(1, 1, 1),))
    yield
    fusedrnn.set_num_threads(threads)


def test_both_sides_compute_the_same_products():
    contest = head.Contest(TINY)
    o, d_y, d_weight = contest.products()
    assert o.shape == (40, 30)
    assert d_y.shape == contest.y.shape
    assert d_weight.shape == contest.weight.shape
    assert contest.error() < 1e-5
    assert TINY.flops == 3 * 2 * 40 * 8 * 30


def test_a_wrong_head_is_not_timed(monkeypatch):
    right = head.linear_cross_entropy
    monkeypatch.setattr(head, "linear_cross_entropy", lambda y, *rest: right(y * 1.01, *rest))
    with pytest.raises(RuntimeError, match="N=40 H=8 K=30: wrong by"):
        head.row(TINY, 1e9)


@pytest.mark.parametrize(("bound", "status"), [(0.0, 1), (np.inf, 0)])
def test_the_exit_status_is_the_verdict(monkeypatch, capsys, bound, status):
    monkeypatch.setattr(head, "BOUND", bound)
    monkeypatch.setattr(sys, "argv", ["head"])
    assert head.main() == status
    out = capsys.readouterr().out
    assert ("NOT met" in out) == bool(status)
    assert out.count("\n| N=") == 2  # JUDGED and OTHERS
