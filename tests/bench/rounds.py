"""Interleaved rounds: A B C A B C …, so that whatever the machine does meanwhile it does to all of them alike."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType

from .caches import Cache
from .servers import Server

ROUNDS = 9
ROUND_S = 0.4
CHECK_EVERY = 16  # answers are compared byte by byte so often; their size each time


@dataclass(slots=True)
class Measured:
    """What the rounds of one server gave."""

    rates: list[float] = field(default_factory=list)  # requests per second, a round each
    latencies_s: list[float] = field(default_factory=list)
    server_s: float = 0.0
    """Processor time of the server in all rounds."""

    @property
    def rate(self) -> float:
        return median(self.rates)

    def latency_s(self, quantile: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    def ratio(self, to: Measured) -> float:
        """Median of the ratios of the rounds that stood beside each other."""
        return median(a / b for a, b in zip(self.rates, to.rates, strict=True))


async def race(
    entrants: Mapping[str, Sequence[Cache]], values: Mapping[bytes, bytes], *, in_flight: int, batch: int,
    rounds: int = ROUNDS, round_s: float = ROUND_S, servers: Mapping[str, Server] = MappingProxyType({}),
) -> dict[str, Measured]:  # fmt: skip
    """`in_flight` requests of `batch` random keys each, shared out over each entrant's connections.

    Of the entrants that are in `servers`, their processor time is measured too.
    """
    measured = {name: Measured() for name in entrants}
    chance = random.Random(0)
    names = list(entrants)
    for name in names:
        await _round(entrants[name], values, in_flight, batch, round_s / 4, chance)  # warm
    for _ in range(rounds):
        for name in names:
            server, here = servers.get(name), measured[name]
            before_s = server.processor_s() if server is not None else 0.0
            latencies_s, seconds = await _round(entrants[name], values, in_flight, batch, round_s, chance)
            here.server_s += server.processor_s() - before_s if server is not None else 0.0
            here.rates.append(len(latencies_s) / seconds)
            here.latencies_s += latencies_s
        names.append(names.pop(0))  # nobody is always second
    return measured


async def _round(
    connections: Sequence[Cache], values: Mapping[bytes, bytes], in_flight: int, batch: int, seconds: float,
    chance: random.Random,
) -> tuple[list[float], float]:  # fmt: skip
    keys = list(values)
    asked = [chance.choices(keys, k=batch) for _ in range(1024)]
    latencies_s: list[float] = []
    now = time.perf_counter
    started = now()
    ends = started + seconds

    async def worker(cache: Cache, at: int) -> None:
        while (asked_at := now()) < ends:
            at = (at + in_flight) % len(asked)
            wanted = asked[at]
            got = [await cache.get(wanted[0])] if batch == 1 else [*await cache.get_many(wanted)]
            latencies_s.append(now() - asked_at)
            for key, value in zip(wanted, got, strict=True):
                assert value is not None
                assert len(value) == len(values[key])
            if len(latencies_s) % CHECK_EVERY == 0:
                assert bytes(got[0] or b"") == values[wanted[0]]

    await asyncio.gather(*(worker(connections[at % len(connections)], at) for at in range(in_flight)))
    return latencies_s, now() - started
