"""What changed between two results, beyond noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .results import Result, Run

NOISE = 0.03  # between two runs, even where the blocks of each agree to less


@dataclass(frozen=True)
class Change:
    """Our time in B over that in A, each in units of the peak measured beside it."""

    before: Result
    after: Result

    @property
    def factor(self) -> float:
        """Above 1: B is slower."""
        known = self.before.peak and self.after.peak
        return self.cost(self.after, bool(known)) / self.cost(self.before, bool(known))

    @property
    def noise(self) -> float:
        """How far from 1 the factor may be by chance: by the spread of the blocks of both."""
        return max(NOISE, math.hypot(*(r.ours.spread for r in (self.before, self.after) if r.ours)))

    @property
    def verdict(self) -> str:
        """What it means."""
        if self.factor > 1 + self.noise:
            return "**slower**"
        return "faster" if self.factor < 1 / (1 + self.noise) else "same"

    @staticmethod
    def cost(result: Result, in_peaks: bool) -> float:
        """Return what could have been computed in the time of a call; or that time."""
        assert result.ours is not None
        return result.ours.median * (result.peak if in_peaks else 1.0)


def changes(a: Run, b: Run) -> list[Change]:
    """Return what both runs measured, the worst change first."""
    before = {(r.case, r.threads): r for r in a.results if r.ours}
    pairs = [
        Change(before[key], r)
        for r in b.results
        if r.ours and (key := (r.case, r.threads)) in before
    ]
    return sorted(pairs, key=lambda change: -change.factor)


def lost(a: Run, b: Run) -> list[Result]:
    """Return what was right in A, and is wrong in B."""
    right = {(r.case, r.threads) for r in a.results if r.ours}
    return [r for r in b.results if (r.case, r.threads) in right and not r.ours]


def compare(a: Run, b: Run) -> tuple[str, bool]:
    """Return a Markdown table of what changed, and whether there is a regression."""
    found, wrong = changes(a, b), lost(a, b)
    told = [change for change in found if change.verdict != "same"]
    slower = sum(change.verdict == "**slower**" for change in told)
    lines = [
        f"A: {a.date}, {a.machine['cpu']}, fusedrnn {a.info['version']} on {a.info['isa']}",
        f"B: {b.date}, {b.machine['cpu']}, fusedrnn {b.info['version']} on {b.info['isa']}",
        "",
        f"{len(found)} cases in both: {slower} slower, {len(told) - slower} faster, "
        f"{len(found) - len(told)} the same within noise.",
    ]
    if told:
        lines += [
            "",
            "| case | threads | A us | B us | B / A at equal peak | noise | |",
            "|---|---:|---:|---:|---:|---:|---|",
        ]
    for change in told:
        (a_us, b_us) = (
            1e6 * r.ours.median for r in (change.before, change.after) if r.ours is not None
        )
        lines.append(
            f"| {change.after.case} | {change.after.threads} | {a_us:.2f} | {b_us:.2f} "
            f"| {change.factor:.3f} | {change.noise:.3f} | {change.verdict} |"
        )
    lines += [f"- {r.case}, {r.threads} threads: **lost** {r.wrong or r.skipped}" for r in wrong]
    return "\n".join(lines), bool(slower or wrong)
