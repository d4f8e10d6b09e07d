"""How much is enough: the smallest memory, then the fewest copies, then the slowest uplink that keep a promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .measure import summary
from .scenario import Scenario, entry_bytes
from .workloads.requests import Requests
from .world import requests_of, simulate

SEEDS = 3  # of the usual plan: near its limit one seed is above it and the next below
UPLINKS = ("none", "4g", "5g", "wan")
REPLICAS = (1, 2)
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run."""

    hit_rate: float
    p50_ms: float | None
    """None where nobody was answered."""
    p95_ms: float | None
    is_enough: bool


@dataclass(frozen=True, slots=True)
class Tried:
    """One kind of cluster, and whether it kept the promise with every seed.

    A device that is bought by a plan has to keep the promise on any day, so the worst seed decides, and no further
    ones are run once one has failed.
    """

    memory_bytes: int
    replicas: int
    uplink: str
    runs: tuple[Run, ...]
    """At least one, of the scenario's seed and those that follow it."""

    @property
    def worst(self) -> Run:
        """The run with the highest p95."""
        return max(self.runs, key=lambda run: math.inf if run.p95_ms is None else run.p95_ms)

    @property
    def is_enough(self) -> bool:
        """Whether all kept the promise."""
        return all(run.is_enough for run in self.runs)

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


def plan(
    scenario: Scenario, p95_ms: float, seeds: int = SEEDS, begin: Callable[[str], None] = lambda what: None
) -> Plan:
    """Find what keeps 95 % of the requests below `p95_ms`, after the first quarter of the run, with each of `seeds`.

    More memory never hurts, so for each kind of cluster the least that is enough is found by halving; kinds that would
    need as much as the best one so far are not looked at further than that.
    """
    sizes = ladder(scenario)
    tried: list[Tried] = []

    def is_enough(memory: int, replicas: int, uplink: str) -> bool:
        begin(f"{memory / _MIB:g} MiB, --replicas {replicas}, uplink {uplink}")
        tried.append(_try(scenario, memory, replicas, uplink, p95_ms, seeds))
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


def _try(scenario: Scenario, memory: int, replicas: int, uplink: str, p95_ms: float, seeds: int) -> Tried:
    changed = replace(scenario, memory_bytes=memory, replicas=replicas, cloud=uplink != "none")
    if uplink != "none":
        changed = replace(changed, uplink=uplink)
    runs: list[Run] = []
    while len(runs) < seeds and all(run.is_enough for run in runs):
        runs.append(_run(replace(changed, seed=scenario.seed + len(runs)), p95_ms))
    return Tried(memory, replicas, uplink, tuple(runs))


def _run(scenario: Scenario, p95_ms: float) -> Run:
    result = summary(simulate(scenario))
    warm = result["latency_ms"]["warm"]
    is_enough = not result["failed"] and warm["p95"] <= p95_ms  # of no answers there is no percentile, but a failure
    return Run(result["hit_rate_warm"], warm["p50"], warm["p95"], is_enough)


def _never_seen(requests: Requests) -> float:
    first = np.zeros(len(requests), bool)
    first[np.unique(requests.images, return_index=True)[1]] = True
    warm = requests.times >= 0.25 * requests.times[-1]
    return float(first[warm].mean())


def report(found: Plan, scenario: Scenario, p95_ms: float, seeds: int = SEEDS) -> str:
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
            f"--replicas {best.replicas}, {uplink}: p95 {_span(best)} ms, hit rate {best.worst.hit_rate:.1%} "
            f"once warm"
        )
    lines += [
        "",
        f"{found.requests:,} requests of {found.asking} devices, "
        f"the first {scenario.hours:g} h of {scenario.workload}, "
        f"{scenario.model} in {scenario.profile.encode_s[scenario.model] * 1000:g} ms, {scenario.link}, "
        f"{_seeds(scenario.seed, seeds)}; warm is after a quarter of it",
        f"{'MiB each':>9}  copies  uplink  hit rate    p50 ms           p95 ms  seeds  p95 ≤ {p95_ms:g} ms",
    ]
    for run in sorted(found.tried, key=lambda run: (run.replicas, UPLINKS.index(run.uplink), run.memory_bytes)):
        lines.append(
            f"{run.memory_bytes / _MIB:9g}  {run.replicas:6}  {run.uplink:6}  {run.worst.hit_rate:8.1%}  "
            f"{_milliseconds(run.worst.p50_ms):>8}  {_span(run):>15}  {len(run.runs):5}  "
            f"{'yes' if run.is_enough else 'no'}"
        )
    return "\n".join(lines)


def _seeds(first: int, count: int) -> str:
    if count == 1:
        return f"seed {first}"
    return f"seeds {first} to {first + count - 1}, of which the worst decides"


def _span(tried: Tried) -> str:
    """From the best seed's p95 to the worst one's; nothing where nobody was answered."""
    if tried.worst.p95_ms is None:
        return ""
    least = min(run.p95_ms for run in tried.runs if run.p95_ms is not None)
    return f"{least:.1f}-{tried.worst.p95_ms:.1f}" if len(tried.runs) > 1 else f"{least:.1f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def as_json(found: Plan) -> dict[str, Any]:
    """The same, for programs."""

    def row(run: Tried) -> dict[str, Any]:
        return {
            "memory_bytes": run.memory_bytes,
            "replicas": run.replicas,
            "uplink": run.uplink,
            "hit_rate": run.worst.hit_rate,
            "p50_ms": run.worst.p50_ms,
            "p95_ms": run.worst.p95_ms,
            "p95_ms_by_seed": [each.p95_ms for each in run.runs],
            "is_enough": run.is_enough,
        }

    best = row(found.best) if found.best is not None else None
    return {
        "best": best,
        "never_seen": round(found.never_seen, 6),
        "requests": found.requests,
        "asking": found.asking,
        "tried": [row(run) for run in found.tried],
    }
