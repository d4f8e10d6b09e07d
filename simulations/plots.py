"""Pictures of a run that one may put in a talk: who answered over time, how fast, and what went over the links."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measure import TIERS, always_cloud, always_encode
from .outputs import require_matplotlib
from .record import Answer, Record
from .report import counted
from .workloads.requests import HOUR_S

# From near and quick to far and slow; colours that also differ in grey and for the colour-blind (Okabe and Ito).
COLOURS = {"memory": "#009E73", "disk": "#56B4E9", "peer": "#0072B2", "cloud": "#CC79A7", "encoder": "#D55E00"}
_GREY = "#555555"
_BINS_MIN, _BINS_MAX, _REQUESTS_IN_A_BIN, _REQUESTS_MIN = 12, 96, 150, 60  # fewer would show chance
_SIDE = 7.2
"""Inches of a panel: all four are a page of slides, on which 12 points can be read from the last row."""


def plot(record: Record, result: dict[str, Any], path: Path) -> None:
    """Write four pictures of a run into one file. InvalidValue without matplotlib."""
    require_matplotlib()
    pyplot = importlib.import_module("matplotlib.pyplot")
    with pyplot.rc_context({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(2, 2, figsize=(2 * _SIDE, 2 * 0.66 * _SIDE), layout="constrained")
        scenario = result["scenario"]
        figure.suptitle(
            f"{scenario['name']}: {scenario['devices']} × {scenario['device']}, {scenario['model']}, {scenario['link']}"
            f", {scenario['memory_bytes'] / 2**20:g} MiB each, {scenario['policy']}, "
            f"{counted('replicas', scenario['replicas'])}\n{_headline(result)}",
            fontsize=14, fontweight="bold",
        )  # fmt: skip
        _who_answered(axes[0][0], record)
        _how_fast(axes[0][1], record)
        _by_device(axes[1][0], result)
        _over_the_links(axes[1][1], result, float(record.requests.times[-1]) / HOUR_S)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def _headline(result: dict[str, Any]) -> str:
    hit_rate = result["hit_rate"] or 0.0
    return (
        f"{result['requests']:,} requests in {counted('hours', result['scenario']['hours'])}: "
        f"{hit_rate:.0%} hits, {result['encodes']:,} encodes"
    )


def _who_answered(axis: Any, record: Record) -> None:
    asked = record.answers <= Answer.ENCODER
    times, answers = record.requests.times[asked] / HOUR_S, record.answers[asked]
    end = max(float(times[-1]), 1e-9)
    edges = _edges(times, end)
    counts = np.array([np.histogram(times[answers == number], edges)[0] for number in range(len(TIERS))])
    totals = counts.sum(axis=0)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan) * 100
    shown = [number for number in range(len(TIERS)) if counts[number].any()]
    bottom = np.zeros(len(totals))
    for number in shown:
        axis.bar(edges[:-1], shares[number], np.diff(edges), bottom, align="edge",
                 color=COLOURS[TIERS[number]], label=TIERS[number], linewidth=0)  # fmt: skip
        bottom = bottom + np.nan_to_num(shares[number])
    axis.set(xlim=(0, end), ylim=(0, 100), xlabel="hours since the start", ylabel="% of requests", title="Who answered")
    _legend_below(axis, columns=len(shown))


def _edges(times: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    """Of bars of equal width; where there is too little in one, as at night, it is joined to the next."""
    bins = min(_BINS_MAX, max(_BINS_MIN, len(times) // _REQUESTS_IN_A_BIN))
    equal = np.linspace(0, end, bins + 1)
    enough = min(_REQUESTS_MIN, len(times) // bins)
    edges, inside = [0.0], 0
    for edge, count in zip(equal[1:], np.histogram(times, equal)[0], strict=True):
        inside += count
        if inside >= enough:
            edges.append(float(edge))
            inside = 0
    if len(edges) == 1:
        return np.array([0.0, end])
    edges[-1] = end  # what is left joins the last
    return np.array(edges)


def _legend_below(axis: Any, columns: int) -> None:
    """Where it covers nothing."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns, frameon=False, fontsize=11)


def _how_fast(axis: Any, record: Record) -> None:
    asked = record.answers <= Answer.ENCODER
    curves = {
        "with the cache": (record.latencies[asked], COLOURS["memory"], "-", 3.0),
        "always encode": (always_encode(record)[asked], COLOURS["encoder"], "--", 2.2),
        "in the cloud": (always_cloud(record)[asked], COLOURS["cloud"], ":", 2.6),
    }
    for label, (latencies, colour, style, width) in curves.items():
        values, shares = _distribution(latencies)
        mean = f"{label}, mean {float(latencies.mean()) * 1000:.3g} ms"
        axis.plot(values, shares, style, color=colour, linewidth=width, label=mean)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(ylim=(0, 101), xlabel="milliseconds", ylabel="% of requests answered by then", title="How fast")
    axis.grid(alpha=0.25)
    _legend_below(axis, columns=2)


def _distribution(latencies: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Enough points of the cumulative distribution: values in ms, shares in %."""
    shares = np.linspace(0, 100, 1001)
    values: NDArray[np.float64] = np.percentile(latencies, shares) * 1000
    return values, shares


def _by_device(axis: Any, result: dict[str, Any]) -> None:
    devices = result["by_device"]
    bottom = np.zeros(len(devices))
    for tier in TIERS:
        counts = np.array([device[tier] for device in devices], float)
        if counts.any():
            axis.bar(range(len(devices)), counts, 0.8, bottom, color=COLOURS[tier], label=tier, linewidth=0)
            bottom += counts
    few = len(devices) <= 20
    axis.set_xticks(range(len(devices)) if few else [], [device["device"] for device in devices] if few else [])
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set(xlabel="device" if few else f"{len(devices)} devices", ylabel="requests", title="By device",
             ylim=(0, max(1.0, bottom.max() * 1.02)))  # fmt: skip
    _legend_below(axis, columns=len(TIERS))


def _over_the_links(axis: Any, result: dict[str, Any], end: float) -> None:
    """Hour by hour; of the last one perhaps a part: the run is over at `end` hours."""
    rows = result["by_hour"]
    edges = np.array([*(float(row["hour"]) for row in rows), max(end, rows[-1]["hour"] + 1 / 60)])
    without = result["without_cache"]["cloud_only"]["bytes"]
    asked = max(1, result["requests"])
    curves = {
        "between devices": ([row["bytes"]["lan"] for row in rows], COLOURS["peer"], "-"),
        "up to the cloud": ([row["bytes"]["uplink_up"] for row in rows], COLOURS["cloud"], "-"),
        "down from it": ([row["bytes"]["uplink_down"] for row in rows], COLOURS["disk"], "-"),
        "up, if all were encoded in the cloud":
            ([row["requests"] * without["uplink_up"] / asked for row in rows], _GREY, ":"),
    }  # fmt: skip
    for label, (values, colour, style) in curves.items():
        if any(values):
            shown = np.array(values, float) / 1e6 / np.diff(edges)
            axis.stairs(np.where(shown > 0, shown, np.nan), edges, baseline=None, linestyle=style, color=colour,
                        linewidth=2, label=label)  # fmt: skip
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    low, high = axis.get_ylim()
    axis.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")  # perhaps there is no power of ten within
    axis.set(xlim=(0, edges[-1]), xlabel="hours since the start", ylabel="MB per hour", title="Over the links")
    axis.grid(alpha=0.25)
    _legend_below(axis, columns=2)
