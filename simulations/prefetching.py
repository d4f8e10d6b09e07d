"""A memory of some bytes under the looks of an edge-vision site, with the node's policies and its prefetcher.

What was looked at once is in a tier below from then on, on disk, at a peer or in the cloud, and can be fetched from
there into memory ahead of the next look. A hit is a look that memory answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..node.eviction.policy import EvictionPolicy, Facts
from ..node.prefetch import Forecast, Prefetcher
from .workloads.edge_vision import HOUR_S, HOURS_PER_DAY, Look


class Outcome(NamedTuple):
    """What one run gave."""

    looks: int
    hits: int
    by_prefetch: dict[Forecast, int]
    """Of the hits, those that a prefetched entry answered for the first time."""
    issued: dict[Forecast, int]
    fetched_bytes: int

    @property
    def hit_ratio(self) -> float:
        """Looks that memory answered."""
        return self.hits / self.looks


def run(
    looks: Iterable[Look], capacity_bytes: int, policy: EvictionPolicy[str], prefetcher: Prefetcher[str] | None = None
) -> Outcome:
    """Every look in turn: a hit, or it is made and admitted; and then what the prefetcher names comes in as well."""
    sizes: dict[str, int] = {}  # of what a tier below holds
    used_bytes = fetched_bytes = count = hits = 0

    def admit(key: str, camera: int, time_s: float) -> None:
        nonlocal used_bytes
        while used_bytes + sizes[key] > capacity_bytes:
            used_bytes -= sizes[policy.evict()]
        used_bytes += sizes[key]
        policy.admit(key, sizes[key], Facts(stream=camera, hour=int(time_s / HOUR_S) % HOURS_PER_DAY))

    for time_s, camera, key, size in looks:
        count += 1
        hour = int(time_s / HOUR_S) % HOURS_PER_DAY
        named = prefetcher.seen(camera, key, time_s, hour, policy.__contains__) if prefetcher is not None else []
        sizes[key] = size
        if key in policy:
            hits += 1
            policy.hit(key)
        else:
            admit(key, camera, time_s)
        for one, forecast in named:
            assert prefetcher is not None
            if one not in policy:
                prefetcher.begun(one, forecast)
                prefetcher.came(one, sizes.get(one, 0), time_s)
                if one in sizes:
                    admit(one, camera, time_s)
                    fetched_bytes += sizes[one]
    records = prefetcher.records if prefetcher is not None else {}
    return Outcome(
        count,
        hits,
        {forecast: record.used for forecast, record in records.items()},
        {forecast: record.issued for forecast, record in records.items()},
        fetched_bytes,
    )
