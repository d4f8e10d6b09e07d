"""Measures what simulating clusters of many nodes costs: to start, for an idle node, for a request, and memory.

    python -m tests.bench.scale [--nodes N ...] [--requests N] [--per-hour N]
    python -m tests.bench.scale --bare [--nodes N ...]

Every kiosk of `edgecache-sim cluster --scenario kiosks` is asked as often, whatever their number, for as long as the
requests take; so what the nodes do while nothing happens is in each request's cost alike. Before the first request
comes, all have met and wait. One process for each size. All times are processor time of that one process.

`--bare` has no nodes: hosts probe each other once a second, answer, and do nothing else. That is what the loop, the
network and the coding of datagrams take of an idle node's second; the rest is the node's own code.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import resource
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from edgecache.node.link import Address, Datagrams
from edgecache.protocol.datagrams import Here, Probe, decode_datagram, encode_datagram
from edgecache.simulations import virtual_time
from edgecache.simulations.cluster import PEER_PORT
from edgecache.simulations.network import InMemoryNetwork
from edgecache.simulations.record import Answer
from edgecache.simulations.scenario import scenario_named
from edgecache.simulations.world import requests_of, simulate

NODES = (10, 30, 100, 300)
REQUESTS, PER_HOUR = 10_000, 333
DISTINCT_MIN_HOURS = 0.02
# By then all that is said of newcomers has been said, and each node has probed each of 60 others.
SETTLE_S, IDLE_S = 60.0, 30.0
_DIGEST = bytes(16)


class _Clock:
    """Processor time at the run's landmarks."""

    def __init__(self) -> None:
        self.began = time.process_time()
        self.started = self.idle_from = self.idle_to = self.answered = 0.0

    def hears(self, share: float, what: str) -> None:
        """Progress: for the first time when all have met, for the last time when all requests are answered."""
        self.answered = time.process_time()
        if not self.started:
            self.started = time.process_time()
            loop = asyncio.get_running_loop()
            loop.call_later(SETTLE_S, self._idle_begins)
            loop.call_later(SETTLE_S + IDLE_S, self._idle_ends)

    def _idle_begins(self) -> None:
        self.idle_from = time.process_time()

    def _idle_ends(self) -> None:
        self.idle_to = time.process_time()


def _measure(nodes: int, requests: int, per_hour: float) -> None:
    hours = max(DISTINCT_MIN_HOURS, requests / nodes / per_hour)
    scenario = scenario_named("kiosks", {"devices": nodes, "hours": hours, "per_hour": per_hour})
    asked = requests_of(scenario)
    clock = _Clock()
    record = simulate(scenario, clock.hears, replace(asked, times=asked.times + SETTLE_S + IDLE_S))
    took_s, count = clock.answered - clock.idle_to, len(asked)
    answers = np.bincount(record.answers, minlength=len(Answer))
    print(
        f"{nodes} nodes, {hours:.2f} h, {count:,} requests: {clock.started - clock.began:.1f} s to start, "
        f"{(clock.idle_to - clock.idle_from) / nodes / IDLE_S * 1e6:.0f} µs for an idle node's second, "
        f"{took_s / count * 1e3:.2f} ms a request with what is idle between ({took_s / nodes / hours / 3600 * 1e6:.0f} "
        f"µs for a node's second), {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB; "
        f"{answers[Answer.PEER] / count:.0%} from peers, {answers[Answer.ENCODER] / count:.0%} encoded",
        flush=True,
    )


class _Bare:
    """A host that probes another each second, and answers."""

    def __init__(self, network: InMemoryNetwork, number: int, ids: Sequence[str], rng: random.Random) -> None:
        self._host = network.host(f"n{number}")
        self._number = number
        self._ids = ids
        self._rng = rng
        self._asked = 0
        self._loop = asyncio.get_running_loop()
        self._datagrams: Datagrams | None = None

    async def start(self) -> None:
        self._datagrams = await self._host.datagrams(self._receive, (self._host.name, PEER_PORT))
        self._loop.call_later(self._rng.random(), self._probe)

    def _probe(self) -> None:
        self._loop.call_later(1.0, self._probe)
        other = self._rng.randrange(len(self._ids))
        self._asked += 1
        self._send(Probe(self._asked, self._ids[other], self._ids[self._number], _DIGEST), (f"n{other}", PEER_PORT))

    def _receive(self, data: bytes, address: Address) -> None:
        said, _, _ = decode_datagram(data)
        if isinstance(said, Probe):
            self._send(Here(said.number, _DIGEST, 0), address)

    def _send(self, said: Probe | Here, address: Address) -> None:
        assert self._datagrams is not None
        self._datagrams.send(encode_datagram(said, []), address)


def _measure_bare(nodes: int) -> None:
    async def run() -> float:
        network, rng = InMemoryNetwork(), random.Random(1)
        ids = [f"{rng.getrandbits(128):032x}" for _ in range(nodes)]
        for number in range(nodes):
            await _Bare(network, number, ids, rng).start()
        await asyncio.sleep(5.0)
        began = time.process_time()
        await asyncio.sleep(IDLE_S)
        return time.process_time() - began

    second_s = virtual_time.run(run()) / nodes / IDLE_S
    print(f"{nodes} hosts that only probe: {second_s * 1e6:.0f} µs for a host's second", flush=True)


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"about so many (default: {REQUESTS})")
    parser.add_argument("--per-hour", type=float, default=PER_HOUR, help=f"requests on a node (default: {PER_HOUR})")
    parser.add_argument("--bare", action="store_true", help="hosts that probe each other, and no nodes")
    options = parser.parse_args()
    for nodes in options.nodes:
        target, arguments = (
            (_measure_bare, (nodes,)) if options.bare else (_measure, (nodes, options.requests, options.per_hour))
        )
        process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
        process.start()
        process.join()


if __name__ == "__main__":
    main()
