"""The command line: ``python -m bench``, in the root of a checkout."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fusedrnn

from . import baselines, beside, budget, cases, compare, limits, machine, report, results, worker
from .budget import Budget, in_order
from .measure import FULL, QUICK, Effort
from .progress import Progress
from .results import Result, Run


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = argparse.ArgumentParser(
        prog="python -m bench",
        description="Verify and time fusedrnn beside its peers and the machine's limit.",
    )
    some: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    cells = fusedrnn.info()["cells"]
    p.add_argument("--quick", action="store_true", help="a few small cases: is it all correct?")
    p.add_argument(
        "--cell", **some, choices=cells, default=list(cases.CELLS), help=", ".join(cells)
    )
    p.add_argument(
        "--mode",
        **some,
        choices=cases.MODES,
        default=list(cases.MODES),
        help=", ".join(cases.MODES),
    )
    p.add_argument(
        "--call",
        **some,
        choices=cases.CALLS,
        default=list(cases.CALLS),
        help=", ".join(cases.CALLS) + ": fusedrnn's layers by arrays, or by torch's modules",
    )
    p.add_argument(
        "--threads",
        nargs="+",
        type=thread_count,
        metavar="N",
        default=sorted({1, machine.available_cpus()}),
        help="numbers of threads (default: 1 and all: %(default)s)",
    )
    p.add_argument(
        "--peers",
        **some,
        choices=baselines.PEERS[1:],
        default=list(baselines.PEERS[1:]),
        help=", ".join(baselines.PEERS[1:]) + " (default: all that are installed)",
    )
    p.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    budget.option(p)
    p.add_argument("--no-memory", action="store_true", help="leave out the memory that calls take")
    p.add_argument("--no-scaling", action="store_true", help="leave out the growth in T, B and H")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    p.add_argument("--plot", type=Path, metavar="DIR", help="write plots (needs matplotlib)")
    instead = p.add_mutually_exclusive_group()
    instead.add_argument("--show", type=Path, metavar="FILE", help="report results, don't measure")
    instead.add_argument(
        "--beside",
        **some,
        choices=beside.NEIGHBOURS,
        help="beside these libraries' threads, " + ", ".join(beside.NEIGHBOURS),
    )
    instead.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A.json", "B.json"),
        help="show what became slower or faster from A to B; the exit status is 1 if slower",
    )
    return p


def thread_count(text: str) -> int:
    """Return a number of threads from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of threads from 1, got {number}")
    return number


def plan(options: argparse.Namespace, peers: Sequence[str]) -> dict[cases.Case, list[str]]:
    """Return the cases to run, and who takes part, of those peers that there are."""
    everyone = [baselines.OURS, *peers]
    sizes = options.cell, options.dtype
    planned = {c: everyone for c in (cases.quick if options.quick else cases.grid)(*sizes)}
    if not options.quick and not options.no_scaling and "lstm" in options.cell:
        rivals = [peer for peer in everyone if peer != "reference"]
        for name, line in cases.scaling(options.dtype).items():
            for case in line:
                planned.setdefault(case, everyone[:1] if name == "train long" else rivals)
    if "torch" in peers:
        modules = cases.quick_modules if options.quick else cases.modules
        planned |= {c: [baselines.OURS, "torch"] for c in modules(*sizes)}
    return {
        c: wanted
        for c, wanted in planned.items()
        if c.mode in options.mode and c.call in options.call
    }


def run(options: argparse.Namespace, command: str) -> Run:
    """Measure everything."""
    peers = available(options.peers)
    budget = Budget(options.seconds)
    wanted = plan(options, peers)
    planned = budget.spread(wanted)
    if not planned:
        raise SystemExit("bench: there are no such cases")
    in_grid = {*cases.grid(options.cell, options.dtype), *cases.quick(options.cell, options.dtype)}
    memory_cases = {
        case: [p for p in wanted if p != "reference"]
        for case, wanted in planned.items()
        if case in in_grid and case.mode != "step" and not options.no_memory
    }
    total = len(planned) * len(options.threads) + len(memory_cases)
    progress = Progress(total)
    roofs: dict[int, dict[str, Any]] = {}
    found: list[Result] = []
    effort = budget.effort(QUICK if options.quick else FULL, len(planned) * len(options.threads))
    for k, threads in enumerate(options.threads):
        roofs[threads] = limits.roofs(options.dtype, threads)
        share = budget.left(len(options.threads) - k)
        collect(planned, threads, effort, progress, found, share)
    found = [
        r if budget.over else with_memory(r, memory_cases, options.threads[0], progress)
        for r in found
    ]
    progress.close()
    return run_of(command, machine.describe(), peers, roofs, in_order(found, wanted))


def collect(
    planned: Mapping[cases.Case, Sequence[str]],
    threads: int,
    effort: Effort,
    progress: Progress,
    found: list[Result],
    seconds: float | None = None,
) -> None:
    """Measure these cases in a process of their own, say how far that is, and add the results.

    After so many seconds the process is ended, and the case lost that it was at.
    """
    before = len(found)
    for result in worker.run_cases(planned, threads, effort, seconds):
        found.append(result)
        progress.step(line(result))
        for name, mistake in result.wrong.items():
            progress.note(f"WRONG: {result.case}: {name}: {mistake}")
    done = len(found) - before
    if done < len(planned):
        at = list(planned)[done]
        progress.note(f"the time is up: {done} of {len(planned)} cases are done, not {at}")


def run_of(
    command: str,
    where: dict[str, Any],
    peers: Sequence[str],
    roofs: dict[int, dict[str, Any]],
    found: list[Result],
) -> Run:
    """Return what was found as the run that it is now."""
    return Run(
        datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        command,
        where,
        machine.versions(peers),
        fusedrnn.info(),
        roofs,
        found,
    )


def available(peers: Sequence[str]) -> list[str]:
    """Return the peers that can be imported; say which can't."""
    found = []
    for peer in peers:
        baseline = baselines.load(peer)
        if isinstance(baseline, str):
            print(f"{peer}: skipped, {baseline}", file=sys.stderr)
        else:
            found.append(peer)
    return found


def with_memory(
    result: Result, wanted: dict[cases.Case, list[str]], threads: int, progress: Progress
) -> Result:
    """Add the memory that calls take, measured on one number of threads."""
    if result.threads != threads or result.case not in wanted:
        return result
    memory = {p: worker.run_memory(result.case, p, threads) for p in wanted[result.case]}
    progress.step(f"{result.case}: memory")
    return dataclasses.replace(result, memory={p: m for p, m in memory.items() if m})


def line(result: Result) -> str:
    """Return a result in one line."""
    text = str(result.case)
    if result.case.device == "cpu":
        text += f", {report.count(result.threads, 'thread')}"
    if result.ours:
        text += f": {report.micros(result.ours.median)} us"
    if result.fraction is not None:
        text += f", {result.fraction:.2f} of the limit"
    if result.ratio:
        text += f", {result.ratio:.2f} x {result.best_peer}"
    if result.untimed:
        text += f": right, {', '.join(result.untimed)}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(given)
    if options.compare:
        text, worse = compare.compare(*(results.load(path) for path in options.compare))
        print(text)
        return int(worse)
    if options.beside:
        return beside.main(options.beside, quick=options.quick)
    if options.show:
        measured = results.load(options.show)
    else:
        measured = run(options, shlex.join(["python", "-m", "bench", *given]))
    if options.plot:
        from . import plots  # matplotlib is optional

        for path in plots.draw(measured, options.plot):
            print(path, file=sys.stderr)
    return finish(measured, options.json)


def finish(measured: Run, file: Path | None) -> int:
    """Write the results where asked for, print the report; return the exit status."""
    if file:
        measured.save(file)
    print(report.markdown(measured))
    return int(not measured.results or any(r.wrong for r in measured.results))


if __name__ == "__main__":
    sys.exit(main())
