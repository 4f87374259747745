"""The command line of the GPU's side: ``python -m bench.gpu``, in the root of a checkout.

It verifies and times fusedrnn.functional on arrays of the GPU beside torch.nn's layers (cuDNN),
each also as the replay of a CUDA graph. Without a GPU it says why and ends with the exit status 1;
on the emulation it runs small cases (``--quick``) and times nothing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import fusedrnn

from . import budget, cases, cuda, machine
from .__main__ import collect, finish, run_of
from .baselines import OURS
from .budget import Budget, in_order
from .measure import GPU, QUICK, Effort
from .progress import Progress
from .results import Result, Run

PEER = "torch"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description="Verify and time fusedrnn on a GPU beside torch's layers (cuDNN).",
    )

    def some(option: str, choices: Sequence[str], default: Sequence[str]) -> None:
        p.add_argument(
            option,
            nargs="+",
            metavar="NAME",
            choices=choices,
            default=list(default),
            help=", ".join(choices),
        )

    p.add_argument("--quick", action="store_true", help="a few small cases: is it all correct?")
    some("--cell", fusedrnn.info()["cells"], cases.CELLS)
    some("--mode", ("infer", "train"), ("infer", "train"))
    some("--dtype", cases.GPU_DTYPES, cases.GPU_DTYPES)
    p.add_argument(
        "--hidden", nargs="+", type=int, metavar="H", help="only the cases of so many hidden units"
    )
    budget.option(p)
    p.add_argument("--no-peers", action="store_true", help="leave torch's layers out")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    return p


def plan(options: argparse.Namespace, peers: Sequence[str]) -> dict[cases.Case, list[str]]:
    """Return the cases to run, and who takes part."""
    make = cases.quick_gpu if options.quick else cases.gpu
    return {
        case: [OURS, *peers]
        for case in make(options.cell, options.mode, options.dtype)
        if options.hidden is None or case.hidden in options.hidden
    }


def run(options: argparse.Namespace, command: str) -> Run:
    """Measure everything; the peer takes part, or is left out with its reason, case by case."""
    if (reason := fusedrnn.cuda.why_not()) is not None:
        raise SystemExit(f"bench: no GPU: {reason}")
    if cuda.emulated() and not options.quick:
        raise SystemExit("bench: the GPU is emulated: only --quick runs there, and times nothing")
    peers = [] if options.no_peers else [PEER]
    budget = Budget(options.seconds)
    wanted = plan(options, peers)
    planned = budget.spread(wanted)
    if not planned:
        raise SystemExit("bench: there are no such cases")
    if peers and isinstance(missing := cuda.torch_on_gpu(), str):
        print(f"{PEER}: skipped, {missing}", file=sys.stderr)
    where = {**machine.describe(), "gpu": cuda.describe()}
    progress = Progress(len(planned))
    effort = budget.effort(QUICK if options.quick else GPU, len(planned))
    found = measured(planned, effort, progress, budget)
    progress.close()
    return run_of(command, where, peers, {}, in_order(found, wanted))


def measured(
    planned: dict[cases.Case, list[str]], effort: Effort, progress: Progress, budget: Budget
) -> list[Result]:
    """Measure all cases in time. One that takes its process with it is wrong; the others go on.

    After a fault in a kernel no call of CUDA's works any more in the process that it was in.
    """
    found: list[Result] = []
    while (rest := dict(list(planned.items())[len(found) :])) and not budget.over:
        try:
            collect(rest, 1, effort, progress, found, budget.left())
        except SystemExit as error:
            case = list(planned)[len(found)]
            found.append(Result(case, 1, 0.0, 0.0, {}, 0.0, {}, {}, {OURS: str(error)}, None))
            progress.step(f"{case}: {error}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(given)
    return finish(run(options, shlex.join(["python", "-m", "bench.gpu", *given])), options.json)


if __name__ == "__main__":
    sys.exit(main())
