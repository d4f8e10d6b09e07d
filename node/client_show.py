"""What `edgecache` prints, for people: names come from other machines, and none reaches a terminal as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..protocol.keys import format_digest
from .logs import escaped

if TYPE_CHECKING:
    from ..protocol.features import Features
    from .doctor import Check

_MARKS = {True: "ok", False: "FAIL", None: "--"}


def features_told(features: Features) -> dict[str, Any]:
    """Everything about `features` but their values, for --json."""
    tokens, dim = features.array.shape
    return {
        "found": True,
        "digest": format_digest(features.key.digest),
        "encoder": features.key.encoder.name,
        "version": features.key.encoder.version,
        "source": str(features.source),
        "node": features.node,
        "codec": features.codec,
        "fidelity": features.fidelity,
        "converted_from": features.converted_from,
        "tokens": tokens,
        "dim": dim,
    }


def features_line(features: Features, name: str, ms: float | None) -> str:
    """`sha256:…  photo.jpg  196×768 from memory of camera-1 by edgecache/tiny@1 (int8, cosine 0.99991), 1.2 ms`."""
    tokens, dim = features.array.shape
    parts = [format_digest(features.key.digest)]
    if name:
        parts.append(escaped(name))
    took = "" if ms is None else f", {ms:.1f} ms"
    if features.converted_from is not None:
        took = f", converted from {escaped(features.converted_from)}{took}"
    parts.append(
        f"{tokens}×{dim} from {features.source} of {escaped(features.node)} by {features.key.encoder} "
        f"({features.codec}, cosine {features.fidelity:.5f}){took}"
    )
    return "  ".join(parts)


def status_lines(cluster: Mapping[str, Any], stats: Mapping[str, Any]) -> list[str]:
    """The node, its cluster and its counters, in four lines."""
    node, hits = cluster["node"], stats["hits"]
    states = Counter(str(member["state"]) for member in cluster["members"])
    reasons = ", ".join(f"{reason} {count}" for reason, count in stats.get("evictions_by_reason", {}).items() if count)
    sources = ", ".join(f"{source} {count}" for source, count in hits.items())
    return [
        escaped(f"{node['name']} ({str(node['id'])[:8]}) at {node['http']}, cluster {node.get('cluster', '?')}"),
        escaped(f"members   {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}"),
        escaped(
            f"requests  {stats['requests']}: hits {sum(hits.values())} ({sources}), misses {stats['misses']}, "
            f"encoded here {stats['encodes']}, shared {stats['coalesced']}"
        ),
        f"memory    {size(stats['used_bytes'])} of {size(stats['capacity_bytes'])}: {stats['items']} features, "
        f"{stats['evictions']} evicted" + (f" ({reasons})" if reasons else ""),
    ]


def peers_lines(cluster: Mapping[str, Any]) -> list[str]:
    """A table of the members, this node first."""
    here = cluster["node"]["id"]
    members = sorted(cluster["members"], key=lambda member: (member["id"] != here, str(member["name"])))
    rows: list[tuple[str, ...]] = [("NAME", "ID", "HTTP", "PEER", "STATE", "HOLDS")]
    for member in members:
        memory = f"{size(member['used_bytes'])} of {size(member['capacity_bytes'])}"
        name = f"{member['name']} (asked)" if member["id"] == here else str(member["name"])
        row = (name, str(member["id"])[:8], member["http"], member["peer"], member["state"], memory)
        rows.append(tuple(escaped(str(cell)) for cell in row))
    return table(rows)


def checks_lines(checks: Iterable[Check], *, as_json: bool) -> list[str]:
    """The doctor's findings: one line each, and what to do below those that failed."""
    if as_json:
        return [json.dumps([{"name": c.name, "ok": c.ok, "detail": c.detail, "hint": c.hint} for c in checks])]
    lines = []
    for check in checks:
        lines.append(escaped(f"{_MARKS[check.ok]:<5} {check.name}: {check.detail}"))
        if check.hint:
            lines.append(escaped(f"      {check.hint}"))
    return lines


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns under one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def size(nbytes: float) -> str:
    """`1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"
