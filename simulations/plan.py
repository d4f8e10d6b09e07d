"""How much is enough: the smallest memory, then the fewest copies, then the slowest uplink that keep a promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .measure import summary
from .scenario import Scenario, entry_bytes
from .workloads.requests import Requests
from .world import requests_of, simulate

UPLINKS = ("none", "4g", "5g", "wan")
REPLICAS = (1, 2)
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Tried:
    """One run, and whether it kept the promise."""

    memory_bytes: int
    replicas: int
    uplink: str
    hit_rate: float
    p50_ms: float | None
    """None where nobody was answered."""
    p95_ms: float | None
    is_enough: bool

    @property
    def cost(self) -> tuple[int, int, int]:
        """Less is better."""
        return self.memory_bytes, self.replicas, UPLINKS.index(self.uplink)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found, and all that was tried; `best` is None where nothing is enough."""

    best: Tried | None
    tried: list[Tried]
    never_seen: float
    """The share of requests, once warm, for images that nobody had asked for before: those must be encoded."""
    requests: int
    asking: int
    """Devices that ask; of a log perhaps fewer than there are."""


def ladder(scenario: Scenario) -> list[int]:
    """Memory sizes to choose from: doubled from 4 MiB, or from 8 images, up to what the device has for it."""
    size = 4 * _MIB
    while size < 8 * entry_bytes(scenario.model):
        size *= 2
    sizes = []
    while size < scenario.profile.memory_bytes:
        sizes.append(size)
        size *= 2
    return [*sizes, scenario.profile.memory_bytes]


def plan(scenario: Scenario, p95_ms: float, begin: Callable[[str], None] = lambda what: None) -> Plan:
    """Find what keeps 95 % of the requests below `p95_ms`, after the first quarter of the run.

    More memory never hurts, so for each kind of cluster the least that is enough is found by halving; kinds that would
    need as much as the best one so far are not looked at further than that.
    """
    sizes = ladder(scenario)
    tried: list[Tried] = []

    def is_enough(memory: int, replicas: int, uplink: str) -> bool:
        begin(f"{memory / _MIB:g} MiB, --replicas {replicas}, uplink {uplink}")
        tried.append(_try(scenario, memory, replicas, uplink, p95_ms))
        return tried[-1].is_enough

    below = len(sizes)  # only sizes[:below] would be better than what is found
    for replicas in REPLICAS:
        for uplink in UPLINKS:
            if below == 0 or not is_enough(sizes[below - 1], replicas, uplink):
                continue
            low, high = 0, below - 1  # sizes[high] is enough
            while low < high:
                middle = (low + high) // 2
                if is_enough(sizes[middle], replicas, uplink):
                    high = middle
                else:
                    low = middle + 1
            below = high
    best = min((run for run in tried if run.is_enough), key=lambda run: run.cost, default=None)
    requests = requests_of(scenario)
    return Plan(best, tried, _never_seen(requests), len(requests), len(np.unique(requests.devices)))


def _try(scenario: Scenario, memory: int, replicas: int, uplink: str, p95_ms: float) -> Tried:
    changed = replace(scenario, memory_bytes=memory, replicas=replicas, cloud=uplink != "none")
    if uplink != "none":
        changed = replace(changed, uplink=uplink)
    result = summary(simulate(changed))
    warm = result["latency_ms"]["warm"]
    is_enough = not result["failed"] and warm["p95"] <= p95_ms  # of no answers there is no percentile, but a failure
    return Tried(memory, replicas, uplink, result["hit_rate_warm"], warm["p50"], warm["p95"], is_enough)


def _never_seen(requests: Requests) -> float:
    first = np.zeros(len(requests), bool)
    first[np.unique(requests.images, return_index=True)[1]] = True
    warm = requests.times >= 0.25 * requests.times[-1]
    return float(first[warm].mean())


def report(found: Plan, scenario: Scenario, p95_ms: float) -> str:
    """The recommendation, and what it stands on."""
    lines = []
    if found.best is None:
        lines.append(f"nothing up to {scenario.profile.memory_bytes / _MIB:g} MiB each keeps p95 below {p95_ms:g} ms")
        encode_ms = scenario.profile.encode_s[scenario.model] * 1000
        if found.never_seen > 0.05 and encode_ms > p95_ms:
            lines.append(
                f"{found.never_seen:.1%} of the requests are for images that nobody had seen before, and encoding one "
                f"takes {encode_ms:g} ms: no memory helps, a faster device or model does"
            )
    else:
        best = found.best
        uplink = "no cloud tier" if best.uplink == "none" else f"a cloud tier over {best.uplink}"
        lines.append(
            f"{best.memory_bytes / _MIB:g} MiB for features on each of {scenario.devices} × {scenario.device}, "
            f"--replicas {best.replicas}, {uplink}: p95 {_milliseconds(best.p95_ms)} ms, hit rate {best.hit_rate:.1%} "
            f"once warm"
        )
    lines += [
        "",
        f"{found.requests:,} requests of {found.asking} devices, "
        f"the first {scenario.hours:g} h of {scenario.workload}, "
        f"{scenario.model} in {scenario.profile.encode_s[scenario.model] * 1000:g} ms, {scenario.link}, seed "
        f"{scenario.seed}; warm is after a quarter of it",
        f"{'MiB each':>9}  copies  uplink  hit rate    p50 ms    p95 ms  p95 ≤ {p95_ms:g} ms",
    ]
    for run in sorted(found.tried, key=lambda run: (run.replicas, UPLINKS.index(run.uplink), run.memory_bytes)):
        lines.append(
            f"{run.memory_bytes / _MIB:9g}  {run.replicas:6}  {run.uplink:6}  {run.hit_rate:8.1%}  "
            f"{_milliseconds(run.p50_ms):>8}  {_milliseconds(run.p95_ms):>8}  {'yes' if run.is_enough else 'no'}"
        )
    return "\n".join(lines)


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def as_json(found: Plan) -> dict[str, Any]:
    """The same, for programs."""

    def row(run: Tried) -> dict[str, Any]:
        return {name: getattr(run, name) for name in Tried.__slots__}

    best = row(found.best) if found.best is not None else None
    return {
        "best": best,
        "never_seen": round(found.never_seen, 6),
        "requests": found.requests,
        "asking": found.asking,
        "tried": [row(run) for run in found.tried],
    }
