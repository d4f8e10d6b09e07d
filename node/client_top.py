"""`edgecache top`: what every member does, as rates between two readings of its counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .client_show import size, table
from .logs import escaped

SOURCES = ("memory", "disk", "peer", "cloud")
_HEAD = ("NAME", "STATE", "REQ/S", "HIT %", "MEM/S", "DISK/S", "PEER/S", "CLOUD/S", "ENC/S", "EVICT/S", "IN/S", "OUT/S",
         "AHEAD %", "ITEMS", "USED")  # fmt: skip
_RATES = {
    "requests_per_s": "requests",
    "misses_per_s": "misses",
    "encodes_per_s": "encodes",
    "evictions_per_s": "evictions",
    "bytes_in_per_s": "bytes_in",
    "bytes_out_per_s": "bytes_out",
}
# Of what a member says of itself, with --json.
_AS_TOLD = ("hit_ratios", "evictions_by_reason", "utilisation", "pinned_bytes", "eviction")
_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the members said at one moment: the cluster, and the counters of each by its id; None without an answer."""

    at: float
    cluster: Mapping[str, Any]
    stats: Mapping[str, Mapping[str, Any] | None]


def members(before: Reading, after: Reading) -> list[dict[str, Any]]:
    """Each member with its rates between the two readings, the asked node first; for --json.

    Rates are None for a member that did not answer both, or has restarted between them.
    """
    here = after.cluster["node"]["id"]
    ordered = sorted(after.cluster["members"], key=lambda member: (member["id"] != here, str(member["name"])))
    return [_member(member, before, after) for member in ordered]


def lines(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of them, and their sum below where there are several."""
    rows = [_HEAD, *(_row(member) for member in told)]
    counted = [member for member in told if member["requests_per_s"] is not None]
    if len(counted) > 1:
        rows.append(_row(_sum(counted)))
    return table(rows)


def _member(member: Mapping[str, Any], before: Reading, after: Reading) -> dict[str, Any]:
    told: dict[str, Any] = {key: member[key] for key in ("id", "name", "state", "http")}
    new, old = after.stats.get(member["id"]), before.stats.get(member["id"])
    told |= {"items": None, "used_bytes": None, "capacity_bytes": None}
    told |= dict.fromkeys(_AS_TOLD) | {"prefetch_precision": None}
    if new is not None:
        told |= {key: new[key] for key in ("items", "used_bytes", "capacity_bytes")}
        told |= {key: new.get(key) for key in _AS_TOLD} | {"prefetch_precision": _precision(new)}
    seconds = after.at - before.at
    if new is None or old is None or seconds <= 0 or new["requests"] < old["requests"]:
        told |= dict.fromkeys(_RATES) | {"hits_per_s": dict.fromkeys(SOURCES), "hit_ratio": None}
        return told
    told |= {rate: (new[counter] - old[counter]) / seconds for rate, counter in _RATES.items()}
    hits = {source: (new["hits"].get(source, 0) - old["hits"].get(source, 0)) / seconds for source in SOURCES}
    return told | {"hits_per_s": hits, "hit_ratio": _ratio(sum(hits.values()), told["misses_per_s"])}


def _sum(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = (*_RATES, "items", "used_bytes", "capacity_bytes")
    added: dict[str, Any] = {name: sum(member[name] for member in told) for name in names}
    hits = {source: sum(member["hits_per_s"][source] for member in told) for source in SOURCES}
    ratio = _ratio(sum(hits.values()), added["misses_per_s"])
    return added | {
        "name": f"{len(told)} nodes", "state": "", "hits_per_s": hits, "hit_ratio": ratio, "prefetch_precision": None,
    }  # fmt: skip


def _precision(stats: Mapping[str, Any]) -> float | None:
    """Of what was fetched ahead, the share that was asked for in time; None where nothing was."""
    forecasts = stats.get("prefetch", {}).values()
    used, wasted = (sum(forecast[name] for forecast in forecasts) for name in ("used", "wasted"))
    return _ratio(used, wasted)


def _ratio(hits: float, misses: float) -> float | None:
    answered = hits + misses
    return hits / answered if answered else None


def _row(member: Mapping[str, Any]) -> tuple[str, ...]:
    ratio = member["hit_ratio"]
    return (
        escaped(str(member["name"])),
        escaped(str(member["state"])),
        _rate(member["requests_per_s"]),
        _ABSENT if ratio is None else f"{100 * ratio:.1f}",
        *(_rate(member["hits_per_s"][source]) for source in SOURCES),
        _rate(member["encodes_per_s"]),
        _rate(member["evictions_per_s"]),
        *(_ABSENT if member[name] is None else size(member[name]) for name in ("bytes_in_per_s", "bytes_out_per_s")),
        _ABSENT if member["prefetch_precision"] is None else f"{100 * member['prefetch_precision']:.0f}",
        _ABSENT if member["items"] is None else str(member["items"]),
        f"{100 * member['used_bytes'] / member['capacity_bytes']:.0f} %" if member["capacity_bytes"] else _ABSENT,
    )


def _rate(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
