"""Plots of a run: where we stand against the peers and the machine, and how that scales.

Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import colors, lines, pyplot, ticker

from . import cases, limits
from .baselines import OURS, RIVALS
from .results import Result, Run
from .targets import NAMES, TIE, gain_of_threads

COLOURS = {"lstm": "#0072B2", "gru": "#D55E00", "rnn_tanh": "#009E73", "rnn_relu": "#CC79A7"}
PEER_COLOURS = {
    OURS: "#0072B2",
    "torch": "#D55E00",
    "onnxruntime": "#009E73",
    "openvino": "#CC79A7",
}
LABELS = {
    OURS: "fusedrnn",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
MAP = mpl.colormaps["PuOr"].with_extremes(bad="#f4f4f4")
FULL_COLOUR = 8  # times as fast, or as slow
MARKERS = {"torch": "s", "onnxruntime": "^", "openvino": "D"}
OUR_POINT: dict[str, Any] = {"marker": "o", "ls": "", "ms": 5.5, "mec": "white", "mew": 0.6}
PEER_POINT: dict[str, Any] = {"ls": "", "ms": 4, "mfc": "none", "mec": "#aaaaaa", "mew": 0.8}
LEFT, RIGHT, LOWEST = 0.06, 500, 1  # of the roofline
APART = 1.13  # between the cells there, as a factor
MODES = {"infer": "inference", "train": "training"}
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw(run: Run, folder: Path) -> list[Path]:
    """Draw what the run has the data for; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(STYLE):
        for threads in sorted({r.threads for r in run.results}):
            results = [r for r in run.results if r.threads == threads and r.case.device == "cpu"]
            for name, make in FIGURES.items():
                figure = make(run, results, threads)
                if figure is not None:
                    paths.append(folder / f"{name}-{threads}.png")
                    figure.savefig(paths[-1])
                    pyplot.close(figure)
    return paths


def place(run: Run, threads: int) -> str:
    """Return where it was measured."""
    cpu = run.machine["cpu"].split(" (")[0]
    words = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{cpu}, {run.info['isa']}, {words}, {run.date[:10]}"


def ratio_map(
    run: Run, results: Sequence[Result], threads: int, calls: Sequence[str] = ("arrays",)
) -> Any:
    """Draw the best peer's time over ours: shapes by cells, one map for each call and mode."""
    planned = [c for c in (*cases.grid(), *cases.modules()) if c.call in calls and c.mode in MODES]
    shapes = list(dict.fromkeys(map(shape_of, planned)))
    results = [r for r in results if r.case.call in calls]
    ratios = {
        (f"{r.case.call} {r.case.mode}", r.case.cell, shape_of(r.case)): r.ratio
        for r in results
        if r.ratio and shape_of(r.case) in shapes
    }
    found = {f"{call} {mode}": (call, mode) for call in calls for mode in MODES}
    maps = [name for name in found if any(key[0] == name for key in ratios)]
    cells = [cell for cell in NAMES if any(key[1] == cell for key in ratios)]
    if not maps:
        return None
    size = (2.4 + 0.8 * len(cells) * len(maps), 1.4 + 0.28 * (1 + len(shapes)))
    figure, axes = pyplot.subplots(1, len(maps), figsize=size, squeeze=False, layout="constrained")
    norm = colors.LogNorm(1 / FULL_COLOUR, FULL_COLOUR)  # white is a tie
    for k, name in enumerate(maps):
        values = [[ratios.get((name, cell, s), math.nan) for cell in cells] for s in shapes]
        draw_map(axes[0][k], np.array(values), norm)
        call, mode = found[name]
        axes[0][k].set_title(MODES[mode] if call == "arrays" else f"{call}: {MODES[mode]}")
        axes[0][k].set_xticks(range(len(cells)), [NAMES[cell] for cell in cells])
        labels = [label_of(shape) for shape in shapes] + ["geometric mean"]
        axes[0][k].set_yticks(range(len(labels)), [] if k else labels)
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    shown = mpl.cm.ScalarMappable(norm, MAP)
    bar = figure.colorbar(shown, ax=axes, shrink=0.5, aspect=25, ticks=ticks, extend="both")
    bar.ax.set_yticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label("time of the best peer / ours", labelpad=8)
    peers = [LABELS[p] for p in RIVALS if any(p in r.timings for r in results)]
    title = f"fusedrnn against the best of {', '.join(peers)}\n{place(run, threads)}"
    figure.suptitle(title, fontsize=10)
    return figure


def draw_map(axis: Any, values: Any, norm: Any) -> None:
    """Draw ratios as colours and numbers, and the geometric mean of each column below."""
    known = [column[~np.isnan(column)] for column in values.T]
    means = [np.exp(np.log(column).mean()) if len(column) else math.nan for column in known]
    values = np.vstack([values, means])
    axis.imshow(np.ma.masked_invalid(values), cmap=MAP, norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if math.isnan(value):
            continue
        axis.text(
            j,
            i,
            f"{value:.2f}" if value < 10 else f"{value:.0f}",
            ha="center",
            va="center",
            fontsize=8.5,
            color="white" if abs(math.log(value)) > 0.55 * math.log(FULL_COLOUR) else "black",
            weight="bold" if value < TIE or i == len(values) - 1 else "normal",
        )
    axis.axhline(len(values) - 1.5, color="black", lw=0.8)
    axis.spines[:].set_visible(False)
    axis.set_xticks(np.arange(0.5, values.shape[1] - 1), minor=True)
    axis.set_yticks(np.arange(0.5, values.shape[0] - 2), minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="both", length=0)


def shape_of(case: cases.Case) -> tuple[int, int, int, int]:
    return case.batch, case.steps, case.input, case.hidden


def label_of(shape: tuple[int, int, int, int]) -> str:
    b, t, i, h = shape
    return f"B={b}  T={t}  " + (f"H={h}" if i == h else f"I={i}  H={h}")


def roofline(run: Run, results: Sequence[Result], threads: int) -> Any:
    """Draw rates over FLOPs per byte of weights streamed, below the machine's roofs."""
    grid = set(cases.grid())
    rows = {mode: [r for r in results if r.case.mode == mode and r.case in grid] for mode in MODES}
    modes = [mode for mode in MODES if any(r.ours for r in rows[mode])]
    if not modes:
        return None
    figure, axes = pyplot.subplots(
        1,
        len(modes),
        figsize=(1 + 5 * len(modes), 4.4),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, mode in zip(axes[0], modes, strict=True):
        draw_roofs(axis, run.roofs[threads])
        draw_points(axis, rows[mode])
        axis.set_title(MODES[mode])
        axis.set_xlabel("FLOPs per byte of weights streamed")
    axes[0][0].set_ylabel("GFLOP/s")
    cells = dict.fromkeys(r.case.cell for mode in modes for r in rows[mode])
    handles = [
        lines.Line2D([], [], **OUR_POINT, color=COLOURS[c], label=f"ours, {NAMES[c]}")
        for c in cells
    ] + [
        lines.Line2D([], [], **PEER_POINT, marker=MARKERS[p], label=LABELS[p])
        for p in RIVALS
        if any(p in r.timings for mode in modes for r in rows[mode])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"Roofline: {place(run, threads)}", fontsize=10)
    return figure


def draw_points(axis: Any, rows: Sequence[Result]) -> None:
    """Draw each case's rates, the cells a little apart."""
    for r in rows:
        x = limits.intensity(r.case) * APART ** (list(NAMES).index(r.case.cell) - 1)
        for peer in (p for p in RIVALS if p in r.timings):
            y = 1e-9 * r.case.flops / r.timings[peer].median
            axis.plot(x, y, **PEER_POINT, marker=MARKERS[peer], zorder=2)
        if r.gflops:
            axis.plot(x, r.gflops, **OUR_POINT, color=COLOURS[r.case.cell], zorder=3)
    for x, name in columns(rows):
        axis.annotate(
            name,
            (x, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, -3),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color="#555555",
        )


def columns(rows: Sequence[Result]) -> list[tuple[float, str]]:
    """Return where on the roofline which sizes are; what lies close together has one name."""
    places: dict[str, float] = {}
    for r in rows:
        case = r.case
        name = "I=1" if case.small else "T=1" if case.steps == 1 else f"B={case.batch}"
        places[name] = limits.intensity(case)
    found: list[tuple[float, str]] = []
    for name, x in sorted(places.items(), key=lambda place: place[1]):
        if found and x < 1.3 * found[-1][0]:
            found[-1] = (x, f"{found[-1][1]}\n{name}")
        else:
            found.append((x, name))
    return found


def draw_roofs(axis: Any, roof: dict[str, Any]) -> None:
    """Draw the peak and the bandwidths that stand out: those of the levels of the caches."""
    peak = roof["peak"] / 1e9
    axis.set(xscale="log", yscale="log", xlim=(LEFT, RIGHT), ylim=(LOWEST, 2 * peak))
    axis.set_aspect("equal")  # a decade is as long on both, so bandwidths rise at 45 degrees
    axis.grid(which="major")
    axis.axhline(peak, color="black", lw=1.2)
    axis.text(1.1 * LEFT, 1.04 * peak, f"peak {peak:.0f} GFLOP/s", fontsize=8)
    for name, rate in levels(roof["read"]):
        x = np.array([LEFT, peak / (rate / 1e9)])
        axis.plot(x, x * rate / 1e9, color="#777777", lw=0.9, zorder=1)
        axis.text(
            1.1 * LEFT,
            1.25 * LEFT * rate / 1e9,
            f"{name}: {rate / 1e9:.0f} GB/s",
            rotation=45,
            rotation_mode="anchor",
            fontsize=7,
            color="#555555",
        )
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(ticker.FormatStrFormatter("%g"))


def levels(read: dict[int, float]) -> list[tuple[str, float]]:
    """Return the bandwidths that differ by a third or more, with the largest size that has them."""
    found: list[tuple[int, float]] = []
    for size, rate in sorted(read.items()):
        if found and rate > found[-1][1] / 1.33:
            found[-1] = (size, found[-1][1])
        else:
            found.append((size, rate))
    return [(f"{s} KiB" if s < 1024 else f"{s // 1024} MiB", rate) for s, rate in found]


def scaling(run: Run, results: Sequence[Result], threads: int) -> Any:
    """Draw rates of an LSTM over T, B and H, and the gain by threads."""
    by_case = {r.case: r for r in results if r.ours}
    found = {
        (name.split()[0], name.split()[1]): [by_case[c] for c in line if c in by_case]
        for name, line in cases.scaling().items()
    }
    modes = [m for m in MODES if any(found[m, axis] for axis in cases.SCALING)]
    if not modes:
        return None
    several = threads > 1
    columns = len(cases.SCALING) + several
    figure, axes = pyplot.subplots(
        len(modes),
        columns,
        figsize=(2.9 * columns, 2.5 * len(modes) + 0.8),
        squeeze=False,
        layout="constrained",
    )
    for row, mode in enumerate(modes):
        for axis, (name, values) in zip(axes[row], cases.SCALING.items(), strict=False):
            line = found[mode, name]
            for peer in (*RIVALS, OURS):
                draw_rate(axis, line, name, peer)
            xs = [getattr(r.case, name) for r in line]
            limit = [1e-9 * r.case.flops / r.limit for r in line]
            axis.plot(xs, limit, "--", color="black", lw=0.9, label="limit")
            axis.set_xscale("log", base=2)
            axis.set_xticks(values[:: 1 + (len(values) > 7)])
            axis.set_ylim(0)
            axis.grid()
            tidy(axis)
            axis.set_title(f"{MODES[mode]}: {TITLES[name]}", fontsize=9)
        axes[row][0].set_ylabel("GFLOP/s")
        if several:
            draw_gain(axes[row][-1], [r for axis in cases.SCALING for r in found[mode, axis]], mode)
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5)
    figure.suptitle(f"LSTM, growing in T, B and H: {place(run, threads)}", fontsize=10)
    return figure


TITLES = {
    "batch": f"B  (T={cases.MIDDLE['steps']}, H={cases.MIDDLE['hidden']})",
    "steps": f"T  (B={cases.MIDDLE['batch']}, H={cases.MIDDLE['hidden']})",
    "hidden": f"I = H  (B={cases.MIDDLE['batch']}, T={cases.MIDDLE['steps']})",
}


def draw_rate(axis: Any, found: Iterable[Result], name: str, peer: str) -> None:
    points = [
        (getattr(r.case, name), 1e-9 * r.case.flops / r.timings[peer].median)
        for r in found
        if peer in r.timings
    ]
    if points:
        ours = peer == OURS
        axis.plot(
            *zip(*points, strict=True),
            marker="o",
            ms=4 if ours else 3,
            lw=2 if ours else 1.1,
            color=PEER_COLOURS[peer],
            label=LABELS[peer],
            zorder=3 if ours else 2,
        )


def draw_gain(axis: Any, found: Sequence[Result], mode: str) -> None:
    """Draw what all threads gain over one, beside what the machine's peak gains meanwhile."""
    rows = sorted({r.case: r for r in found}.values(), key=lambda r: r.case.flops)
    xs = [r.case.flops / 1e6 for r in rows]
    machine = [r.peak / r.peak_one for r in rows]
    axis.plot(xs, machine, "_", ms=9, mew=1.2, color="black", label="the machine's peak")
    gains = [gain_of_threads(r) or math.nan for r in rows]
    axis.plot(xs, gains, "o", ms=4, color=PEER_COLOURS[OURS])
    axis.legend(loc="lower right", fontsize=7.5)
    axis.set_xscale("log")
    axis.set_ylim(0, 1.15 * max(machine + [gain for gain in gains if gain > 0]))
    axis.grid()
    axis.set_title(f"{MODES[mode]}: gain by threads", fontsize=9)
    axis.set_xlabel("MFLOP a call", fontsize=8)


def tidy(axis: Any) -> None:
    axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())


FIGURES: dict[str, Callable[[Run, Sequence[Result], int], Any]] = {
    "ratio": ratio_map,
    "modules": functools.partial(ratio_map, calls=("eager", "compiled", "packed")),
    "roofline": roofline,
    "scaling": scaling,
}
