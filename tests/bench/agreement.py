"""The same requests through real processes and through the simulation: do they agree?

    python -m tests.bench.agreement [--seconds S]

Five nodes on this machine with real sockets, an encoder that sleeps (`simulations/sleeping.py`), and a client that asks
each at its time over HTTP; then five simulated nodes with the same ids, so that the ring is the same, and the same
requests. What a node's own code takes on this machine is measured first and given to the simulation, as a device's
profile has it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
from edgecache.simulations import measure, virtual_time
from edgecache.simulations.devices import DEVICES, Device
from edgecache.simulations.record import Answer, Record
from edgecache.simulations.scenario import Scenario, changed
from edgecache.simulations.sleeping import VARIABLE
from edgecache.simulations.workloads.requests import Requests
from edgecache.simulations.world import World, requests_of

from tests.system.nodes import Nodes, RunningNode

ENCODE_S = 0.1
NODES = 5
# 8 MiB hold 54 features of ViT-B/16: most of what a node is asked for, so some are evicted.
WORKLOAD = {"kind": "kiosks", "per_hour": 2 * 3600.0, "catalogue": 120, "exponent": 0.9, "overlap": 0.8}
MEMORY = "8MiB"
PACE_S = 3600 / (NODES * 7200.0)
_PAYLOAD = "application/vnd.edgecache.payload"
Ask = Callable[[RunningNode, bytes], Awaitable[tuple[str, float]]]
_ANSWERS = {"memory": Answer.MEMORY, "peer": Answer.PEER, "encoder": Answer.ENCODER}


@dataclass(frozen=True)
class Side:
    """What one of the two says."""

    shares: dict[str, float]
    p50_ms: float
    p95_ms: float
    by_tier_ms: dict[str, float]


def scenario(seconds: float, seed: int = 1) -> Scenario:
    """What both run."""
    settings = {"workload": WORKLOAD, "devices": NODES, "hours": seconds / 3600, "memory": MEMORY, "policy": "lru",
                "link": "loopback", "device": "x86-mini-pc", "seed": seed}  # fmt: skip
    return changed(Scenario(name="agreement"), settings)


def real(plan: Scenario, nodes: Nodes) -> tuple[Record, list[str], Device]:
    """Ask real processes; what came of it, the nodes' ids, and this machine as a device."""
    environment = {VARIABLE: f"{plan.model}:{ENCODE_S}"}
    flags = ("--encoder", "module:edgecache.simulations.sleeping:encoder", "--memory", MEMORY, "--disk", "0",
             "--eviction", plan.policy)  # fmt: skip
    running = [nodes.start(*flags, environment=environment) for _ in range(plan.devices)]
    for node in running:
        node.until_members(plan.devices)
    ids = [node.get("/v1/cluster").json()["node"]["id"] for node in running]
    return asyncio.run(_ask(plan, running, ids))


async def _ask(plan: Scenario, running: list[RunningNode], ids: list[str]) -> tuple[Record, list[str], Device]:
    requests = requests_of(plan)
    record = Record(plan, requests, np.full(len(requests), Answer.FAILED, np.int8), np.zeros(len(requests)))
    async with aiohttp.ClientSession(headers={"Accept": _PAYLOAD}) as session:

        async def ask(node: RunningNode, image: bytes) -> tuple[str, float]:
            started = time.perf_counter()
            async with session.post(f"{node.url}/v1/features", data=image) as response:
                await response.read()
                assert response.status == 200, await response.text()
                return response.headers["EdgeCache-Source"], time.perf_counter() - started

        device = await _profiled(running, ask)

        async def request(number: int) -> None:
            node = running[int(requests.devices[number])]
            source, took_s = await ask(node, _image(requests, number))
            record.answers[number], record.latencies[number] = _ANSWERS[source], took_s

        began = time.perf_counter()
        tasks = []
        for number, at in enumerate(requests.times.tolist()):
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            tasks.append(asyncio.ensure_future(request(number)))
        await asyncio.gather(*tasks)
    return record, ids, device


async def _profiled(running: list[RunningNode], ask: Ask) -> Device:
    """This machine: what an answer from memory and one from a peer take here, as medians of some.

    They are asked for at the pace of the workload: a processor that is asked without a pause answers in half the time.
    """
    memory: list[float] = []
    peer: list[float] = []
    encoder: list[float] = []
    for number in range(10):
        image = b"to measure with %d" % number
        await asyncio.sleep(PACE_S)
        source, took_s = await ask(running[number % NODES], image)
        encoder.append(took_s)
        assert source == "encoder"
        for node in running:
            for _ in range(2):
                await asyncio.sleep(PACE_S)
                source, took_s = await ask(node, image)
                (peer if source == "peer" else memory).append(took_s)
    answer_s = statistics.median(memory)
    # A fetch is a message there and one back, and each has two ends.
    message_s = max(0.0, statistics.median(peer) - answer_s) / 4
    encode_s = statistics.median(encoder) - answer_s - 4 * message_s
    return replace(DEVICES["x86-mini-pc"], name="this machine", encode_s={"vit-b16": encode_s},
                   answer_s=answer_s, message_s=message_s)  # fmt: skip


def _image(requests: Requests, number: int) -> bytes:
    return b"image %d" % requests.images[number]


def simulated(plan: Scenario, ids: list[str], device: Device) -> Record:
    """Ask simulated nodes with those ids, on devices like that."""
    return virtual_time.run(World(plan, requests_of(plan), device=device, ids=ids).run())


def side(record: Record) -> Side:
    """A record in a few figures."""
    count = len(record.requests)
    shares = {tier: of / count for tier, of in measure.counts(record.answers).items()}
    of_tier = {tier: record.latencies[record.answers == number] * 1000 for number, tier in enumerate(measure.TIERS)}
    p50, p95 = np.percentile(record.latencies, (50, 95)) * 1000
    by_tier = {tier: float(np.median(values)) for tier, values in of_tier.items() if len(values)}
    return Side(shares, float(p50), float(p95), by_tier)


def compare(seconds: float, seed: int, directory: Path) -> tuple[Side, Side]:
    """The real cluster, and the simulated one."""
    plan, nodes = scenario(seconds, seed), Nodes(directory)
    try:
        record, ids, device = real(plan, nodes)
    finally:
        nodes.kill_all()
    return side(record), side(simulated(plan, ids, device))


def main() -> None:
    """Print both, side by side."""
    parser = argparse.ArgumentParser(description="The same requests through real processes and the simulation.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        really, simulation = compare(options.seconds, options.seed, Path(directory))
    print("|  | real processes | simulation | difference |\n|---|---|---|---|")
    for tier in _ANSWERS:
        mine, theirs = simulation.shares[tier] * 100, really.shares[tier] * 100
        print(f"| answered by {tier}, % | {theirs:.2f} | {mine:.2f} | {mine - theirs:+.2f} |")
    for name in ("p50_ms", "p95_ms"):
        mine, theirs = getattr(simulation, name), getattr(really, name)
        print(f"| {name[:3]}, ms | {theirs:.2f} | {mine:.2f} | {mine / theirs - 1:+.1%} |")
    for tier in _ANSWERS:
        mine, theirs = simulation.by_tier_ms[tier], really.by_tier_ms[tier]
        print(f"| median of {tier}, ms | {theirs:.2f} | {mine:.2f} | {mine / theirs - 1:+.1%} |")


if __name__ == "__main__":
    main()
