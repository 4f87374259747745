"""What is to be reached, and whether it is: every target is a row of `TARGETS`.

A row judges the results of one number of threads. Where only some of its cases were run it says so;
where none were, it is "not run".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from . import cases
from .baselines import ALONE, ARRAYS, DENSE, ONE_THREAD, OURS, STREAM, ours
from .results import Result

TIE = 0.97
# Microseconds a step of RTNeural (sizes known to the compiler, Eigen, AVX-512), B = 1, I = 1:
# figures from another run, on a Zen 4 core at 116 GFLOP/s. It has no Python package to measure.
RTNEURAL = {
    ("lstm", 8): 0.057,
    ("lstm", 16): 0.110,
    ("lstm", 32): 0.192,
    ("lstm", 40): 0.276,
    ("gru", 8): 0.049,
    ("gru", 16): 0.080,
    ("gru", 32): 0.147,
}
NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN (relu)"}
# Floats of H that a tape may keep for each step and row.
TAPE = {"lstm": 5, "gru": 4, "rnn_tanh": 0}
LINEAR = 1.1  # how much more a step may cost in a problem 8 times as large


@dataclass(frozen=True)
class Outcome:
    """What was measured, and whether that is enough; None where there is nothing to judge."""

    measured: str
    met: bool | None
    missing: int = 0  # cases that weren't run

    @property
    def verdict(self) -> str:
        """The same in a word."""
        if self.met is None:
            return "not run"
        if not self.met:
            return "**no**"
        return "so far" if self.missing else "yes"


NOT_RUN = Outcome("", None)


@dataclass(frozen=True)
class Target:
    """A row: what, how much of it, and how that is found."""

    name: str
    bound: str
    judge: Callable[[Sequence[Result]], Outcome]


Value = tuple[float, Result]


def grid_of(results: Sequence[Result], mode: str, cell: str = "") -> list[Result]:
    """Return the results that count: those of the grid."""
    wanted = {c for c in cases.grid() if c.mode == mode and cell in ("", c.cell)}
    return [r for r in results if r.case in wanted and r.ours]


def modules_of(results: Sequence[Result], call: str) -> list[Result]:
    """Return those of torch's modules that are called in some way."""
    wanted = {c for c in cases.modules() if c.call == call}
    return [r for r in results if r.case in wanted and r.ours]


def ratios(results: Iterable[Result]) -> list[Value]:
    return [(r.ratio, r) for r in results if r.ratio is not None]


def worst(values: Sequence[Value], bound: float, total: int, least: bool = True) -> Outcome:
    """Judge that every value reaches the bound (or stays below it), by the worst of them."""
    if not values:
        return NOT_RUN
    value, result = (min if least else max)(values, key=lambda v: v[0])
    good = sum(v >= bound if least else v <= bound for v, _ in values)
    text = f"{value:.2f} ({name(result)}); {good} of {len(values)}"
    return outcome(text, good == len(values), total - len(values))


def name(result: Result) -> str:
    """Return a case in few words."""
    case = result.case
    sizes = (case.batch, case.steps, case.hidden)
    call = "" if case.call == "arrays" else f"{case.call} "
    return f"{NAMES[case.cell]} {call}{case.mode} {', '.join(map(str, sizes))}"


def outcome(text: str, met: bool, missing: int) -> Outcome:
    return Outcome(text + (f" ({missing} not run)" if missing else ""), met, missing)


def no_case_slower(mode: str) -> Target:
    def judge(results: Sequence[Result]) -> Outcome:
        total = sum(c.mode == mode for c in cases.grid())
        return worst(ratios(grid_of(results, mode)), TIE, total)

    return Target(f"no case slower than its best peer: {mode}", f">= 1.0 ({TIE} is a tie)", judge)


def geometric_mean(mode: str, cell: str, bound: float) -> Target:
    def judge(results: Sequence[Result]) -> Outcome:
        found = ratios(grid_of(results, mode, cell))
        if not found:
            return NOT_RUN
        total = sum(c.mode == mode and c.cell == cell for c in cases.grid())
        mean = mean_of(v for v, _ in found)
        large = [v for v, r in found if r.case.steps > 1 and not r.case.small]
        text = f"{mean:.2f}"
        if large and len(large) < len(found):
            text += f"; {mean_of(large):.2f} without T = 1 and small cells"
        return outcome(text, mean >= bound, total - len(found))

    return Target(f"geometric mean over the best peer: {NAMES[cell]} {mode}", f">= {bound}", judge)


def mean_of(values: Iterable[float]) -> float:
    return math.exp(sum(logs := [math.log(v) for v in values]) / len(logs))


def step_against(variant: str, peer: str, bound: float) -> Target:
    """Judge a step of H = 64 from Python against a peer's."""

    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (ratio, r)
            for r in grid_of(results, "step")
            if r.case.hidden == 64 and (ratio := r.against(peer, ours(variant))) is not None
        ]
        return worst(found, bound, len(cases.CELLS))

    call = "`stream.step(x)`" if variant else "`layer(x)`"
    return Target(f"one step from Python, H = 64: {call} against {peer}", f">= {bound:g}", judge)


def step_overhead(bound: float) -> Target:
    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (1e6 * (r.timings[ours(STREAM)].median - kernel), r)
            for r in grid_of(results, "step")
            if r.case.hidden == 64 and (kernel := r.kernel(STREAM)) is not None
        ]
        return worst(found, bound, len(cases.CELLS), least=False)

    return Target(
        "one step from Python, H = 64: `stream.step(x)` beyond its kernels (us)",
        f"<= {bound}",
        judge,
    )


def small_cells(cell: str, bound: float) -> Target:
    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (ratio, r)
            for r in grid_of(results, "infer", cell)
            if (ratio := rtneural_ratio(r)) is not None
        ]
        return worst(found, bound, sum(c == cell for c, _ in RTNEURAL))

    return Target(
        f"small cells over RTNeural's published step: {NAMES[cell]}", f">= {bound}", judge
    )


def rtneural_ratio(result: Result) -> float | None:
    """Return RTNeural's published time of a step over ours."""
    case = result.case
    bar = RTNEURAL.get((case.cell, case.hidden))
    if bar is None or case.mode != "infer" or not case.small or not result.ours:
        return None
    return bar * case.steps / (1e6 * result.ours.median)


def fraction_of_limit(mode: str, batched: bool, bound: float) -> Target:
    """Judge the products' limit. Steps and small cells, where other things count, have rows."""

    def counts(case: cases.Case) -> bool:
        if case.mode != mode:
            return False
        return case.batch >= 8 if batched else case.batch == 1 < case.steps and not case.small

    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (r.fraction, r)
            for r in grid_of(results, mode)
            if counts(r.case) and r.fraction is not None
        ]
        return worst(found, bound, sum(map(counts, cases.grid())))

    sizes = "B >= 8" if batched else "B = 1, T > 1, I = H"
    return Target(f"fraction of the limit: {mode}, {sizes}", f">= {bound:.2f}", judge)


def more_threads(name_: str, text: str, bound: float, large: bool) -> Target:
    """Judge all threads against one, beside what the machine's peak gains by them."""

    def counts(case: cases.Case) -> bool:
        return case.mode != "step" and (not large or case.batch >= 8 or case.hidden >= 256)

    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (gain, r)
            for mode in ("infer", "train")
            for r in grid_of(results, mode)
            if counts(r.case) and (gain := gain_of_threads(r)) is not None
        ]
        judged = worst(found, bound, sum(map(counts, cases.grid())))
        if judged.met is None:
            return judged
        machine = sorted(r.peak / r.peak_one for _, r in found)
        gains = f"; the machine's peak gains {machine[0]:.2f} to {machine[-1]:.2f}"
        return dataclasses.replace(judged, measured=judged.measured + gains)

    return Target(f"all threads against one: {name_}", text, judge)


def gain_of_threads(result: Result) -> float | None:
    """Return the time on one thread over that on all."""
    return result.against(ours(ONE_THREAD))


def tape(cell: str) -> Target:
    """Judge what the tape grows by with every step, in floats of H a row."""

    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (floats, r)
            for r in grid_of(results, "train", cell)
            if (floats := tape_floats(r)) is not None
        ]
        total = sum(c.mode == "train" and c.cell == cell for c in cases.grid())
        return worst(found, TAPE[cell] + 0.01, total, least=False)

    return Target(
        f"training memory a step and row, in floats of H: {NAMES[cell]}", f"<= {TAPE[cell]}", judge
    )


def tape_floats(result: Result) -> float | None:
    """Return by how many floats of H a row the tape grows in each step."""
    case, memory = result.case, result.memory.get(OURS)
    if memory is None or memory.tape is None or memory.tape_twice is None:
        return None
    growth = memory.tape_twice - memory.tape
    return growth / (case.steps * case.batch * case.hidden * case.itemsize)


def linear(axis: str) -> Target:
    """Judge the cost of a step and row in a problem 8 times as large."""

    def judge(results: Sequence[Result]) -> Outcome:
        seconds = {r.case: (r.ours.median, r) for r in results if r.ours}
        found: list[Value] = []
        for mode in ("infer", "train"):
            line = [c for c in cases.scaling()[f"{mode} {axis}"] if c in seconds]
            sizes = {c.batch * c.steps: c for c in line}
            if line and (smaller := sizes.get(max(sizes) // 8)):
                larger = sizes[max(sizes)]
                growth = seconds[larger][0] / seconds[smaller][0] / 8
                found.append((growth, seconds[larger][1]))
        return worst(found, LINEAR, 2, least=False)

    letter = {"steps": "T", "batch": "B"}[axis]
    return Target(f"time a step and row, at 8 times the {letter}", f"<= {LINEAR}", judge)


def long_sequence() -> Target:
    def judge(results: Sequence[Result]) -> Outcome:
        (case,) = cases.scaling()["train long"]
        for r in results:
            if r.case == case and r.ours:
                return Outcome(f"{1e3 * r.ours.median:.0f} ms", True)
            if r.case == case:
                return Outcome("; ".join(r.wrong.values()), False)
        return NOT_RUN

    return Target(f"a sequence of T = {cases.LONG_STEPS:,} trains", "right gradients", judge)


def no_module_slower(call: str) -> Target:
    def judge(results: Sequence[Result]) -> Outcome:
        total = sum(c.call == call for c in cases.modules())
        return worst(ratios(modules_of(results, call)), TIE, total)

    return Target(f"no module slower than torch's: {call}", f">= 1.0 ({TIE} is a tie)", judge)


def single_steps(bound: float) -> Target:
    """Judge loops of single steps of an LSTM or GRU of B = 1 and H >= 128 against torch's."""

    def counts(case: cases.Case) -> bool:
        return (
            case.call == "cell"
            and case.mode == "infer"
            and case.cell in ("lstm", "gru")
            and case.batch == 1
            and case.hidden >= 128
        )

    def judge(results: Sequence[Result]) -> Outcome:
        found = [v for v in ratios(modules_of(results, "cell")) if counts(v[1].case)]
        return worst(found, bound, sum(map(counts, cases.modules())))

    return Target(
        "LSTMCell and GRUCell against torch's: infer, B = 1, H >= 128", f">= {bound}", judge
    )


def module_overhead(mode: str, bound: float) -> Target:
    """Judge what a module's call takes beyond the same by arrays, where little else is done."""

    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (1e6 * seconds, r)
            for r in modules_of(results, "eager")
            if r.case.mode == mode
            and r.case.steps == 1
            and (seconds := r.beyond(ours(ARRAYS))) is not None
        ]
        return worst(found, bound, len(cases.CELLS), least=False)

    return Target(f"a module's call beyond the call by arrays (us): {mode}", f"<= {bound:g}", judge)


def module_against(call: str, variant: str, text: str, bound: float) -> Target:
    """Judge a module's time over that of a variant."""

    def judge(results: Sequence[Result]) -> Outcome:
        found = [
            (factor, r)
            for r in modules_of(results, call)
            if (factor := over(r, variant)) is not None
        ]
        total = sum(c.call == call for c in cases.modules())
        return worst(found, bound, total, least=False)

    return Target(text, f"<= {bound:.2f}", judge)


def over(result: Result, variant: str) -> float | None:
    """Return our time over that of a variant of ours."""
    ratio = result.against(ours(variant))
    return 1 / ratio if ratio else None


GEOMETRIC = {
    "infer": {"lstm": 1.35, "gru": 1.5, "rnn_tanh": 1.6},
    "train": {"lstm": 1.6, "gru": 3.5, "rnn_tanh": 3.0},
}
TARGETS = (
    no_case_slower("infer"),
    no_case_slower("train"),
    *(geometric_mean(mode, *item) for mode, row in GEOMETRIC.items() for item in row.items()),
    step_against("", "onnxruntime", 3),
    step_against("", "torch", 15),
    step_against(STREAM, "onnxruntime", 5),
    step_against(STREAM, "torch", 20),
    step_overhead(0.8),
    small_cells("lstm", 1.3),
    small_cells("gru", 1.3),
    fraction_of_limit("infer", True, 0.90),
    fraction_of_limit("infer", False, 0.80),
    fraction_of_limit("train", True, 0.90),
    fraction_of_limit("train", False, 0.80),
    more_threads("B >= 8 or H >= 256", ">= 1.8", 1.8, True),
    more_threads("every case", f">= 1.0 ({TIE} is a tie)", TIE, False),
    *(tape(cell) for cell in TAPE),
    linear("steps"),
    linear("batch"),
    long_sequence(),
    no_module_slower("eager"),
    no_module_slower("cell"),
    single_steps(1.3),
    no_module_slower("compiled"),
    no_module_slower("packed"),
    module_overhead("infer", 5),
    module_overhead("train", 20),
    module_against("packed", DENSE, "packed sequences against as many steps of one length", 1.2),
    module_against("pools", ALONE, "a call after torch's matrix products against one alone", 1.1),
)
