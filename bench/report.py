"""A run as Markdown: what was measured, and on the CPU every target beside it."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence
from typing import Any

from . import cases
from .baselines import ALONE, ARRAYS, DENSE, GRAPH, OURS, PEERS, STREAM, ours
from .results import Result, Run
from .targets import NAMES, RTNEURAL, TARGETS, gain_of_threads, over, rtneural_ratio

MODES = {"infer": "Inference", "train": "Training", "step": "One step from Python"}
MODULES = {
    "eager": "PyTorch's modules",
    "cell": "PyTorch's modules of one step, in a loop",
    "compiled": "PyTorch's modules by torch.compile",
    "packed": "PyTorch's modules on packed sequences of 1 to 2T - 1 steps",
    "pools": "PyTorch's modules after matrix products by torch",
}
MIB = 1 << 20
BUSY = 0.1  # CPUs of others: above, figures on several threads mean little


def markdown(run: Run) -> str:
    """Return all of it."""
    sections = [header(run)]
    on_cpu = [r for r in run.results if r.case.device == "cpu"]
    for n in sorted({r.threads for r in on_cpu}):
        results = [r for r in on_cpu if r.threads == n]
        tables = split(results)
        for title, names in IN_SHORT.items():
            if rows := [r for name in names for r in tables[name]]:
                sections += [f"### {title}, {count(n, 'thread')}", in_short(rows)]
        for title, rows in tables.items():
            if rows:
                sections += [f"### {title}, {count(n, 'thread')}", table_of(rows)]
        if any(rtneural_ratio(r) for r in results):
            sections += [f"### Small cells, {count(n, 'thread')}", small_table(results)]
    if len({r.threads for r in on_cpu}) > 2:
        sections += ["### By threads", threads_table(on_cpu)]
    sections += gpu_sections([r for r in run.results if r.case.device == "cuda"])
    sections += skipped_lines(run.results)
    if on_cpu:
        sections += ["### Targets", targets_table(run)]
    return "\n\n".join(filter(None, sections))


IN_SHORT = {
    "In short": (MODES["infer"], MODES["train"]),
    "PyTorch's modules, in short": (MODULES["eager"],),
}


def split(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results by table: by mode, apart from these how an LSTM grows, and modules."""
    growth = {c for line in cases.scaling().values() for c in line} - set(cases.grid())
    titles = (*MODES.values(), "Growth", *MODULES.values())
    found: dict[str, list[Result]] = {title: [] for title in titles}
    for r in results:
        title = MODULES.get(r.case.call, "Growth" if r.case in growth else MODES[r.case.mode])
        found[title].append(r)
    return found


def table_of(rows: Sequence[Result]) -> str:
    """Return the table of results of one kind."""
    if rows[0].case.call in MODULES:
        return modules_table(rows)
    return steps_table(rows) if rows[0].case.mode == "step" else cases_table(rows)


def header(run: Run) -> str:
    """Return where, when and with what."""
    machine = run.machine
    versions = ", ".join(f"{peer} {version}" for peer, version in run.versions.items())
    lines = [
        "## Benchmark",
        f"{run.date}, `{run.command}`",
        f"{machine['cpu']}, {count(machine['cpus'], 'CPU')}, {machine['system']}, "
        f"Python {machine['python']}",
        f"fusedrnn {run.info['version']}, {run.info['isa']}, {run.info['compiler']}; {versions}",
    ]
    lines += gpu_lines(machine["gpu"]) if "gpu" in machine else []
    busy = sorted(r.others for r in run.results if r.others is not None)
    if busy:
        lines.append(
            f"meanwhile other processes kept {busy[len(busy) // 2]:.2f} CPUs busy, "
            f"at most {busy[-1]:.2f}"
            + ("" if busy[-1] < BUSY else ": **the machine wasn't quiet**")
        )
    for n, roof in run.roofs.items():
        reads = ", ".join(f"{size} KiB {rate / 1e9:.0f}" for size, rate in roof["read"].items())
        peak = f"{roof['peak'] / 1e9:.0f} GFLOP/s"
        lines.append(f"{count(n, 'thread')}: peak {peak}; GB/s from {reads}")
    return "\n\n".join([lines[0], "  \n".join(lines[1:])])


def gpu_lines(gpu: dict[str, Any]) -> list[str]:
    """Return what the GPU is, what runs on it and how that was timed."""
    lines = [
        f"{gpu['name']}, {count(gpu['multiprocessors'], 'multiprocessor')}, "
        f"{gpu['memory'] / 2**30:.0f} GiB, compute capability {gpu['capability']}; "
        f"CUDA {gpu['runtime']}, driver for {gpu['driver']}; our products: {gpu['products']}"
    ]
    if gpu["emulated"]:
        lines.append("**emulated on the CPU: results were checked, nothing was timed**")
    else:
        lines.append(f"timed by {gpu['clock']}")
    if "no_torch" in gpu:
        lines.append(f"**no peer and no graphs** without torch on the GPU: {gpu['no_torch']}")
        return lines
    others = [dtype for dtype in cases.GPU_DTYPES if dtype not in gpu["cudnn_dtypes"]]
    lines.append(
        f"torch's CUDA {gpu['torch_cuda']}, cuDNN {gpu['cudnn']}, "
        + (f"which torch doesn't use for {', '.join(others)}, " if others else "")
        + f"TF32 {'**on**' if gpu['tf32'] else 'off'} in torch, never used by ours"
    )
    return lines


def count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def table(columns: dict[str, list[str]]) -> str:
    """Return a table, aligned to the right; empty columns are left out."""
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [f"| {' | '.join(columns)} |", "|" + "---:|" * len(columns)]
    rows = zip(*columns.values(), strict=True)
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def micros(seconds: float | None) -> str:
    """Return microseconds in three figures or more."""
    if seconds is None:
        return ""
    value = 1e6 * seconds
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def median(result: Result, contestant: str) -> float | None:
    timing = result.timings.get(contestant)
    return timing.median if timing else None


def contestants(results: Sequence[Result]) -> list[str]:
    """Return all that were timed, peers in their order."""
    names = dict.fromkeys(name for r in results for name in r.timings)
    return sorted(names, key=lambda name: PEERS.index(name.split(":")[0]))


def in_short(results: Sequence[Result]) -> str:
    """Return a line for each size: our microseconds, and in brackets how often faster that is."""
    found = {(r.case.shape, r.case.mode, r.case.cell): r for r in results}
    shapes = dict.fromkeys(shape for shape, _, _ in found)
    columns = {"": list(shapes)}
    for mode, cell in dict.fromkeys((mode, cell) for _, mode, cell in found):
        line = [found.get((shape, mode, cell)) for shape in shapes]
        columns[f"{NAMES[cell]} {mode}"] = [
            f"{micros(median(r, OURS))} ({number(r.ratio)})" if r else "" for r in line
        ]
    return "Our microseconds, and the best peer's time over ours.\n\n" + table(columns)


def cases_table(results: Sequence[Result]) -> str:
    peers = [n for n in contestants(results) if not n.startswith(OURS)]
    gains = [gain_of_threads(r) for r in results]
    modes = {r.case.mode for r in results}
    return table(
        {
            "cell": [NAMES[r.case.cell] for r in results],
            "mode": [r.case.mode if len(modes) > 1 else "" for r in results],
            **{letter: [str(getattr(r.case, name)) for r in results] for letter, name in SIZES},
            "ours us": [micros(median(r, OURS)) for r in results],
            "GFLOP/s": [number(r.gflops, 1) for r in results],
            "of the limit": [number(r.fraction) for r in results],
            **{f"{p} us": [micros(median(r, p)) for r in results] for p in peers},
            "best peer / ours": [number(r.ratio) for r in results],
            "1 thread / all": [number(gain) for gain in gains],
            "machine": [
                number(r.peak / r.peak_one) if gain else ""
                for r, gain in zip(results, gains, strict=True)
            ],
            "ours MiB": [memory(r, OURS) for r in results],
            "best peer MiB": [memory(r, r.best_peer) for r in results],
        }
    )


def threads_table(results: Sequence[Result]) -> str:
    """Return ours on each number of threads, and the gain over one; last, what the peak gains."""
    found = {(r.case, r.threads): r for r in results if r.ours}
    several = [case for case, n in collections.Counter(case for case, _ in found).items() if n > 1]
    columns = {"": [*map(str, several), "the machine's peak"]}
    for n in sorted({r.threads for r in results}):
        line = [found.get((case, n)) for case in several]
        machine = statistics.median(r.peak / r.peak_one for r in results if r.threads == n)
        columns[count(n, "thread")] = [*map(gained, line), f"({number(machine)})"]
    return "Our microseconds, and in brackets the gain over one thread.\n\n" + table(columns)


def gained(result: Result | None) -> str:
    if result is None:
        return ""
    gain = gain_of_threads(result)
    return micros(median(result, OURS)) + (f" ({number(gain)})" if gain else "")


SIZES = (("B", "batch"), ("T", "steps"), ("I", "input"), ("H", "hidden"))


def memory(result: Result, peer: str | None) -> str:
    found = result.memory.get(peer or "")
    return number(found.peak / MIB, 1) if found else ""


def steps_table(results: Sequence[Result]) -> str:
    peers = [n for n in contestants(results) if not n.startswith(OURS)]
    return table(
        {
            "cell": [NAMES[r.case.cell] for r in results],
            "I = H": [str(r.case.hidden) for r in results],
            "`layer(x)` us": [micros(median(r, OURS)) for r in results],
            "kernels in it": [micros(r.kernel()) for r in results],
            "`stream.step(x)` us": [micros(median(r, ours(STREAM))) for r in results],
            "kernels in that": [micros(r.kernel(STREAM)) for r in results],
            "of the limit": [number(r.fraction) for r in results],
            **{f"{p} us": [micros(median(r, p)) for r in results] for p in peers},
            "best peer / layer": [number(r.ratio) for r in results],
        }
    )


def modules_table(results: Sequence[Result]) -> str:
    others = [n for n in contestants(results) if n != OURS]
    return table(
        {
            "cell": [NAMES[r.case.cell] for r in results],
            "mode": [r.case.mode for r in results],
            **{letter: [str(getattr(r.case, name)) for r in results] for letter, name in SIZES},
            "ours us": [micros(median(r, OURS)) for r in results],
            **{f"{name} us": [micros(median(r, name)) for r in results] for name in others},
            "torch / ours": [number(r.ratio) for r in results],
            "beyond arrays us": [micros(r.beyond(ours(ARRAYS))) for r in results],
            "ours / dense": [number(over(r, DENSE)) for r in results],
            "ours / alone": [number(over(r, ALONE)) for r in results],
        }
    )


def gpu_sections(results: Sequence[Result]) -> list[str]:
    """Return a table for each mode and dtype; of what wasn't timed, how right it is."""
    sections = []
    for mode, dtype in dict.fromkeys((r.case.mode, r.case.dtype) for r in results):
        rows = [r for r in results if (r.case.mode, r.case.dtype) == (mode, dtype)]
        timed = [r for r in rows if r.timings]
        checked = [r for r in rows if r.untimed]
        title = f"### On the GPU: {MODES[mode].lower()}, {dtype}"
        if timed:
            sections += [title, gpu_table(timed)]
        if checked:
            sections += [f"{title}, not timed", checked_table(checked)]
    return sections


def gpu_cases(results: Sequence[Result]) -> dict[str, list[str]]:
    return {
        "cell": [NAMES[r.case.cell] for r in results],
        **{letter: [str(getattr(r.case, name)) for r in results] for letter, name in SIZES},
        "network": [r.case.network for r in results],
    }


def gpu_table(results: Sequence[Result]) -> str:
    """Return times with the blocks' spread, and what follows from those of ours."""
    columns = gpu_cases(results)
    for name in contestants(results):
        columns[f"{name} us"] = [with_spread(r, name) for r in results]
    graph, torch_graph = ours(GRAPH), f"torch:{GRAPH}"
    return table(
        {
            **columns,
            "us a step": [
                number(1e6 * r.ours.median / r.case.steps, 3) if r.ours else "" for r in results
            ],
            "GFLOP/s": [number(r.gflops, 0) for r in results],
            "of the peak": [number(r.fraction, 3) for r in results],
            "torch / ours": [number(r.against("torch")) for r in results],
            "graphs: torch / ours": [number(r.against(torch_graph, graph)) for r in results],
            "error": [f"{r.ours.error:.0e}" if r.ours else "" for r in results],
        }
    )


def checked_table(results: Sequence[Result]) -> str:
    names = dict.fromkeys(name for r in results for name in r.untimed)
    columns = gpu_cases(results)
    for name in names:
        columns[f"{name}: error"] = [
            f"{r.untimed[name]:.0e}" if name in r.untimed else "" for r in results
        ]
    return table(columns)


def with_spread(result: Result, contestant: str) -> str:
    """Return the median in microseconds, and the quartiles' distance in percent of it."""
    timing = result.timings.get(contestant)
    return f"{micros(timing.median)} ({100 * timing.spread:.0f}%)" if timing else ""


def small_table(results: Sequence[Result]) -> str:
    rows = [r for r in results if rtneural_ratio(r)]
    text = "Microseconds a step. RTNeural: figures from another run, on a Zen 4 core.\n\n"
    return text + table(
        {
            "cell": [NAMES[r.case.cell] for r in rows],
            "H": [str(r.case.hidden) for r in rows],
            "ours": [number(1e6 * (median(r, OURS) or 0) / r.case.steps, 3) for r in rows],
            "RTNeural": [number(RTNEURAL[r.case.cell, r.case.hidden], 3) for r in rows],
            "RTNeural / ours": [number(rtneural_ratio(r)) for r in rows],
        }
    )


def skipped_lines(results: Sequence[Result]) -> list[str]:
    """Return who is left out and why, and whose results are wrong."""
    skipped: dict[tuple[str, str], int] = {}
    for r in results:
        for peer, reason in r.skipped.items():
            skipped[peer, reason] = skipped.get((peer, reason), 0) + 1
    lines = [f"- {p}: skipped in {count(n, 'case')}, {why}" for (p, why), n in skipped.items()]
    lines += [f"- **WRONG** {r.case}: {name}: {w}" for r in results for name, w in r.wrong.items()]
    return ["\n".join(lines)]


def targets_table(run: Run) -> str:
    """Return every target beside what was measured."""
    threads = sorted({r.threads for r in run.results})
    columns: dict[str, list[str]] = {
        "target": [t.name for t in TARGETS],
        "": [t.bound for t in TARGETS],
    }
    for n in threads:
        results = [r for r in run.results if r.threads == n]
        outcomes = [t.judge(results) for t in TARGETS]
        columns[count(n, "thread")] = [o.measured for o in outcomes]
        columns[f"met ({n})"] = [o.verdict for o in outcomes]
    lines = [f"| {' | '.join(columns)} |", "|---|---|" + "---|---|" * len(threads)]
    rows = zip(*columns.values(), strict=True)
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
