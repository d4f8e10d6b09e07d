"""The picture of a sweep: hit rate over memory, over the number of devices, and over bytes on the uplink."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .outputs import require_matplotlib
from .report import counted
from .sweep import SETTINGS, Row, means, pareto, uplink_bytes_per_request

_MARKERS = "osD^vPX"
_GREY = "#555555"
_BEST = "Pareto front"
_LEGEND_LETTERS = 52
"""So many fit below a panel, beside each other."""
_POINTS_MIN = 10.0
"""Percentage points that an axis of hit rates covers at least, so that chance does not look like an effect."""


@dataclass(frozen=True)
class _Panel:
    name: str
    label: str
    across: Callable[[Row], float]
    setting: str | None
    """What is on the x axis, if that is one of the settings; runs that differ in it alone are joined."""


def plot_sweep(rows: Sequence[Row], path: Path) -> None:
    """Means over the seeds; those that no other beats have a ring. InvalidValue without matplotlib."""
    require_matplotlib()
    pyplot = importlib.import_module("matplotlib.pyplot")
    shown = [row for row in means(rows) if row["hit_rate_warm"] is not None]
    panels = _panels(shown)
    with pyplot.rc_context({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False}):
        below = 0.4 + 0.2 * max(
            math.ceil(len(labels) / _columns(labels)) for labels in map(partial(_labels, shown), panels)
        )
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(5.4 * len(panels) + 1, 4.6 + below), squeeze=False, sharey=True,
            layout="constrained",
        )  # fmt: skip
        for axis, panel in zip(axes[0], panels, strict=True):
            _draw(axis, panel, shown)
        axes[0][0].set_ylabel("hit rate once warm, %")
        _cover(axes[0][0])
        runs = f", means of {seeds} seeds" if (seeds := max(row["runs"] for row in shown)) > 1 else ""
        what = " and ".join([", ".join(names[:-1]), names[-1]] if len(names := [p.name for p in panels]) > 1 else names)
        figure.suptitle(f"{rows[0]['name']}: hit rate over {what}{runs}", fontsize=14, fontweight="bold")
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def _panels(rows: Sequence[Row]) -> list[_Panel]:
    """One for each of the three that vary, or for the latency if none does."""
    panels = []
    if len({row["memory_bytes"] for row in rows}) > 1:
        memory = "memory of each device, MiB"
        panels.append(_Panel("memory", memory, lambda row: row["memory_bytes"] / 2**20, "memory_bytes"))
    if len({row["devices"] for row in rows}) > 1:
        panels.append(_Panel("devices", "devices", lambda row: row["devices"], "devices"))
    if any(row["uplink_bytes"] for row in rows):
        panels.append(
            _Panel("uplink", "on the uplink, kB a request", lambda row: uplink_bytes_per_request(row) / 1e3, None)
        )
    return panels or [_Panel("p95", "p95 once warm, ms", lambda row: row["p95_warm_ms"] or 0.0, None)]


def _draw(axis: Any, panel: _Panel, rows: Sequence[Row]) -> None:
    best = pareto(rows)
    axis.plot([panel.across(row) for row in best], [_percent(row) for row in best], linestyle="", marker="o",
              markersize=12, markerfacecolor="none", color=_GREY, zorder=1, label=_BEST)  # fmt: skip
    for number, (label, members) in enumerate(_series(rows, panel.setting).items()):
        points = sorted((panel.across(row), _percent(row)) for row in members)
        axis.plot(*zip(*points, strict=True), color=f"C{number % 10}", marker=_MARKERS[number % len(_MARKERS)],
                  markersize=5, linewidth=1.6 if panel.setting else 0, label=label, zorder=2)  # fmt: skip
    values = sorted({panel.across(row) for row in rows})
    if values[0] > 0 and values[-1] / values[0] > 3:
        axis.set_xscale("log")
    if panel.setting is not None:
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
    else:
        axis.xaxis.set_major_formatter("{x:g}")
        if values[-1] < 10 * values[0]:  # perhaps no major tick within
            axis.xaxis.set_minor_formatter("{x:g}")
            axis.tick_params(axis="x", which="minor", labelsize=9)
        else:
            axis.xaxis.set_minor_formatter("")
    axis.set_xlabel(panel.label)
    axis.grid(alpha=0.25)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=_columns(_labels(rows, panel)), frameon=False,
                fontsize=9)  # fmt: skip


def _labels(rows: Sequence[Row], panel: _Panel) -> list[str]:
    return [_BEST, *_series(rows, panel.setting)]


def _columns(labels: Sequence[str]) -> int:
    return max(1, min(_LEGEND_LETTERS // (max(map(len, labels)) + 4), math.ceil(len(labels) / 3)))


def _cover(axis: Any) -> None:
    """Show at least _POINTS_MIN percentage points, none of them below 0 or above 100."""
    low, high = axis.get_ylim()
    more = max(0.0, _POINTS_MIN - (high - low)) / 2
    low, high = max(0.0, low - more), min(100.5, high + more)
    axis.set_ylim(low, high)


def _series(rows: Sequence[Row], across: str | None) -> dict[str, list[Row]]:
    """Rows that differ in `across` alone, by what tells them from the others."""
    varying = [name for name in SETTINGS if name not in ("seed", across) and len({str(row[name]) for row in rows}) > 1]
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(", ".join(_told(name, row[name]) for name in varying) or "each run", []).append(row)
    return series


def _told(name: str, value: Any) -> str:
    if name in ("memory_bytes", "disk_bytes"):
        return f"{value / 2**20:g} MiB" + (" disk" if name == "disk_bytes" else "")
    if name in ("devices", "hours", "replicas"):
        return counted(name, value)
    if name == "cloud":
        return "cloud" if value else "no cloud"
    return str(value)


def _percent(row: Row) -> float:
    percent: float = row["hit_rate_warm"] * 100
    return percent
