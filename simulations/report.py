"""What `edgecache-sim cluster` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .measure import TIERS
from .sweep import SETTINGS, Row, means, pareto, uplink_bytes_per_request


def table(result: dict[str, Any]) -> str:
    """A run in some lines: who answered, how fast beside having no cache, and what it cost."""
    scenario, latency = result["scenario"], result["latency_ms"]
    requests = max(1, result["requests"])
    lines = [
        f"{scenario['name']}: {scenario['devices']} × {scenario['device']}, "
        f"{scenario['memory_bytes'] / 2**20:g} MiB each, {scenario['model']}, {scenario['link']}, "
        f"{scenario['hours']:g} h, {scenario['policy']}, {counted('replicas', scenario['replicas'])}, "
        f"seed {scenario['seed']}",
        f"{result['requests']:,} requests for {result['unique_images']:,} images"
        + (f", {result['not_asked']:,} not asked (device off)" if result["not_asked"] else "")
        + (f", {result['failed']:,} failed (encoder overloaded)" if result["failed"] else ""),
        "",
    ]
    rows = [["answered by", "requests", "share", "p50 ms", "p95 ms", "p99 ms"]]
    for tier in TIERS:
        count = result["answers"][tier]
        rows.append([tier, f"{count:,}", f"{count / requests:.1%}", *_times(latency[tier])])
    rows.append(["all", f"{result['requests']:,}", "", *_times(latency)])
    for name, title in (("always_encode", "without: always encode"), ("cloud_only", "without: in the cloud")):
        rows.append([title, "", "", *_times(result["without_cache"][name]["latency_ms"])])
    lines += [_aligned(rows), ""]

    without = result["without_cache"]
    ways = (result, without["always_encode"], without["cloud_only"])
    used = [
        ["", "with the cache", "always encode", "in the cloud"],
        ["hit rate", _percent(result["hit_rate"]), "", ""],
        ["  once warm", _percent(result["hit_rate_warm"]), "", ""],
        ["  of it local", _percent(result["local_hit_rate_warm"]), "", ""],
        ["encodes", f"{result['encodes']:,}", f"{result['requests']:,}", f"{result['requests']:,} there"],
        ["  saved", f"{result['encodes_saved']:,}", "", ""],
        ["fetched ahead", f"{result['fetched_ahead']['all']:,}", "", ""],
        ["  and asked for", f"{result['fetched_ahead']['in_time']:,}", "", ""],
        ["bytes between devices", _bytes(result["bytes"]["lan"]), "0", "0"],
        ["bytes up", _bytes(result["bytes"]["uplink_up"]), "0", _bytes(without["cloud_only"]["bytes"]["uplink_up"])],
        ["bytes down", _bytes(result["bytes"]["uplink_down"]), "0",
         _bytes(without["cloud_only"]["bytes"]["uplink_down"])],
        ["USD", *(f"{each['price_usd']['all']:.2f}" for each in ways)],
        ["  of it for links", *(f"{_for_links(each['price_usd']):.2f}" for each in ways)],
        ["kJ above idle", *(_kilojoules(each["joules"]["all"]) for each in ways)],
        ["  of it encoding", *(_kilojoules(each["joules"].get("encoding", 0.0)) for each in ways)],
    ]  # fmt: skip
    lines += [_aligned(used), ""]

    rows = [["device", *TIERS, "hits", "sent", "received"]]
    for device in result["by_device"]:
        answered = sum(device[tier] for tier in TIERS)
        hits = (answered - device["encoder"]) / answered if answered else None
        rows.append(
            [device["device"], *(f"{device[tier]:,}" for tier in TIERS), _percent(hits),
             _bytes(device["bytes_sent"]), _bytes(device["bytes_received"])]
        )  # fmt: skip
    lines.append(_aligned(_shortened(rows)))
    if len(result["by_hour"]) > 1:
        lines += ["", _aligned(_shortened(_hours(result["by_hour"])))]
    return "\n".join(lines)


def _hours(by_hour: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = [
        ["hour", "requests", *TIERS, "hits", "p50 ms", "p95 ms", "p99 ms", "saved", "LAN", "up", "down", "kJ", "USD"]
    ]
    for hour in by_hour:
        moved = hour["bytes"]
        rows.append(
            [str(hour["hour"]), f"{hour['requests']:,}", *(f"{hour['answers'][tier]:,}" for tier in TIERS),
             _percent(hour["hit_rate"]), *_times(hour["latency_ms"]), f"{hour['encodes_saved']:,}",
             *(_bytes(moved[link]) for link in ("lan", "uplink_up", "uplink_down")),
             _kilojoules(hour["joules"]["all"]), f"{hour['price_usd']['all']:.3f}"]
        )  # fmt: skip
    return rows


def _for_links(price: dict[str, float]) -> float:
    return price.get("lan", 0.0) + price.get("uplink", 0.0)


def counted(setting: str, value: float) -> str:
    """A number of copies, devices or hours as people say it."""
    one, more = {"replicas": ("copy", "copies"), "devices": ("device", "devices"), "hours": ("hour", "hours")}[setting]
    return f"{value:g} {one if value == 1 else more}"


def sweep_table(rows: Sequence[Row], most: int = 24) -> str:
    """Means over the seeds, of all runs if they are few, else of the Pareto front: hit rate, memory and uplink."""
    every = means(rows)
    front = pareto(every)
    listed = every if len(every) <= most else front
    varying = [name for name in SETTINGS if name != "seed" and len({str(row[name]) for row in rows}) > 1]
    settings = list(dict.fromkeys(["memory_bytes", *varying]))
    shown = [[*(_HEADINGS.get(name, name) for name in settings), "hit rate", "local", "mean ms", "p95 ms",
              "uplink/request", "runs", "front"]]  # fmt: skip
    for row in listed[:most]:
        shown.append(
            [*(_setting(name, row[name]) for name in settings), _percent(row["hit_rate_warm"]),
             _percent(row["local_hit_rate_warm"]), _milliseconds(row["mean_ms"]), _milliseconds(row["p95_warm_ms"]),
             _bytes(round(uplink_bytes_per_request(row))), str(row["runs"]), "yes" if row in front else ""]
        )  # fmt: skip
    more = f"\nand {len(listed) - most} more" if len(listed) > most else ""
    what = (
        ""
        if listed is every
        else f", {len(front)} settings that no other beats in hit rate, memory and uplink together"
    )
    return f"{len(rows)} runs{what}; hit rate, its local part and p95 once warm:\n{_aligned(shown)}{more}"


_HEADINGS = {"memory_bytes": "MiB each", "disk_bytes": "MiB disk", "replicas": "copies"}


def _setting(name: str, value: Any) -> str:
    if name in ("memory_bytes", "disk_bytes"):
        return f"{value / 2**20:g}"
    return "yes" if value is True else "no" if value is False else str(value)


def _shortened(rows: list[list[str]], most: int = 24) -> list[list[str]]:
    """The heading and the first devices; of a large fleet the rest is in the JSON."""
    if len(rows) <= most + 1:
        return rows
    return [*rows[:most], [f"and {len(rows) - most} more", *[""] * (len(rows[0]) - 1)]]


def _times(latency: dict[str, float | None]) -> list[str]:
    return [_milliseconds(latency[name]) for name in ("p50", "p95", "p99")]


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _kilojoules(joules: float) -> str:
    return f"{joules / 1000:,.1f}"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count / size < 1000 else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
