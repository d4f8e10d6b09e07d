"""What `edgecache-sim policies` shows: a table, and a plot."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from .outputs import require_matplotlib
from .policies import Result

_COLUMNS_MAX = 3  # of plots side by side
_NAMES_BELOW = 3  # of policies, below each


def table(results: Sequence[Result]) -> str:
    """A line per trace and size, a column per policy; below, means, also as shares of Belady's if he is there."""
    policies = list(dict.fromkeys(result.policy for result in results))
    cells: dict[str, dict[str, float]] = {}
    for result in results:
        cell = f"{result.trace} {result.size_fraction * 100:.3g} %"
        cells.setdefault(cell, {})[result.policy] = result.hit_ratio
    rows = [[cell, *(_ratio(hit_ratios[policy]) for policy in policies)] for cell, hit_ratios in cells.items()]
    rows.append(["mean", *(_ratio(fmean(row[policy] for row in cells.values())) for policy in policies)])
    if "belady" in policies and all(row["belady"] for row in cells.values()):
        shares = (fmean(row[policy] / row["belady"] for row in cells.values()) for policy in policies)
        rows.append(["mean of Belady's", *(_ratio(share) for share in shares)])
    return _aligned([["", *policies], *rows])


def plot(results: Sequence[Result], path: Path) -> None:
    """Write hit ratio over size as a picture: a plot per trace, a line per policy. InvalidValue without matplotlib."""
    require_matplotlib()
    pyplot = importlib.import_module("matplotlib.pyplot")
    traces = list(dict.fromkeys(result.trace for result in results))
    columns = min(_COLUMNS_MAX, len(traces))
    rows = math.ceil(len(traces) / columns)
    policies = list(dict.fromkeys(result.policy for result in results))
    legend_rows = math.ceil(len(policies) / (_NAMES_BELOW * columns))
    below, height = 0.2 + 0.24 * legend_rows, 3.4 * rows  # in inches
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, height + below), squeeze=False)
    for axis, trace in zip(axes.flat, traces, strict=False):
        for number, policy in enumerate(policies):
            points = sorted((r.size_fraction, r.hit_ratio) for r in results if (r.trace, r.policy) == (trace, policy))
            style = {"color": "black", "linestyle": "--"} if policy == "belady" else {"color": f"C{number % 10}"}
            marker = "os^Dv"[number // 10 % 5]
            axis.plot(*zip(*points, strict=True), marker=marker, markersize=3, linewidth=1.2, label=policy, **style)
        axis.set_title(trace)
        axis.set_xscale("log")
        axis.set_xlabel("size, share of what the trace asks for")
        axis.set_ylabel("hit ratio")
        axis.grid(alpha=0.3)
        shown = sorted({result.size_fraction for result in results})
        axis.set_xticks(shown, [f"{fraction * 100:g} %" for fraction in shown])
        axis.minorticks_off()
    for axis in axes.flat[len(traces) :]:
        axis.set_visible(False)
    names = math.ceil(len(policies) / legend_rows)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower center", ncols=names, frameon=False)
    figure.tight_layout(rect=(0, below / (height + below), 1, 1))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _ratio(value: float) -> str:
    return f"{value:.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
