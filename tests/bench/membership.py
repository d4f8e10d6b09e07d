"""Measures membership on virtual time: how soon a death is known, what gossip costs, how a split heals.

    python -m tests.bench.membership [--seeds N] [FIGURE ...]

Real nodes on the simulated network (`edgecache.simulations`); the same seeds give the same figures on every machine,
but for the processor time. Each figure is the worst of its seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from edgecache.node.membership import State
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.links import LINKS, Link
from edgecache.simulations.virtual_time import run

SEEDS = 20
IP_HEADERS_BYTES = 28
# Each of the two devices on a path loses so many of the packets that a tenth is lost between them.
LOSSY = replace(LINKS["lan"], name="lossy", jitter_s=0.002, loss=1 - 0.9**0.5)


def _cluster(size: int, seed: int, link: Link = LINKS["lan"]) -> Cluster:
    return Cluster(size, seed=seed, encoder=lambda index: None, link=lambda index: link)


def _knows_dead(cluster: Cluster, node: int, dead: int) -> bool:
    member = cluster.nodes[node].membership.get(cluster.nodes[dead].id)
    return member is None or member.state is State.DEAD


async def _death(size: int, seed: int, how: Callable[[Cluster], None] | None) -> tuple[float, float]:
    """Seconds from a death to the first and to all others that know."""
    async with _cluster(size, seed) as cluster:
        await asyncio.sleep(30.0 + seed * 0.137)
        others = range(1, size)
        if how is None:
            await cluster.crash(0)
        else:
            how(cluster)
        first = await cluster.until(lambda: any(_knows_dead(cluster, node, 0) for node in others))
        rest = await cluster.until(lambda: all(_knows_dead(cluster, node, 0) for node in others))
        return first, first + rest


def killed(seeds: int) -> None:
    """kill -9: the kernel ends the connections."""
    for size in (5, 50, 200):
        times = [run(_death(size, seed, None)) for seed in range(_fewer(seeds, size))]
        _show("killed", size, times)


def unplugged(seeds: int) -> None:
    """The power fails: nothing comes any more, not even the end of a connection."""
    for size in (5, 50, 200):
        times = [
            run(_death(size, seed, lambda cluster: cluster.network.freeze("n0"))) for seed in range(_fewer(seeds, size))
        ]
        _show("unplugged", size, times)


def _show(what: str, size: int, times: list[tuple[float, float]]) -> None:
    firsts, alls = [first for first, _ in times], sorted(known for _, known in times)
    print(
        f"{what} at {size} nodes: known to all after {alls[len(alls) // 2]:.1f} s (median), {alls[-1]:.1f} s (worst of "
        f"{len(times)}); to the first after {max(firsts):.1f} s at most",
        flush=True,
    )


async def _lossy(size: int, seed: int, minutes: float) -> tuple[int, int]:
    """False deaths and suspicions, counted by every node."""
    async with _cluster(size, seed, LOSSY) as cluster:
        deaths = suspicions = 0
        seen = [{m.id: m.incarnation for m in node.membership.all()} for node in cluster.nodes]
        for _ in range(int(minutes * 60 / 0.5)):
            await asyncio.sleep(0.5)
            for node, before in zip(cluster.nodes, seen, strict=True):
                for member in node.membership.all():
                    deaths += member.state is State.DEAD
                    suspicions += member.incarnation > before.get(member.id, 0)
                    before[member.id] = member.incarnation
        return deaths, suspicions // (size - 1)


def lossy(seeds: int) -> None:
    """A tenth of all packets is lost, and nobody dies."""
    for size, minutes in ((5, 60.0), (50, 10.0), (200, 5.0)):
        results = [run(_lossy(size, seed, minutes)) for seed in range(max(1, _fewer(seeds, size) // 4))]
        deaths, suspicions = (sum(counts) for counts in zip(*results, strict=True))
        print(
            f"10 % loss at {size} nodes for {len(results)} × {minutes:g} min: {deaths} false deaths, "
            f"{suspicions} suspicions refuted",
            flush=True,
        )


async def _idle(size: int, minutes: float) -> tuple[float, float, int]:
    async with _cluster(size, 0) as cluster:
        await asyncio.sleep(60.0)
        hosts = [cluster.network.host(f"n{index}") for index in range(size)]
        bytes_before = sum(host.bytes_sent for host in hosts)
        packets_before = sum(host.datagrams_sent for host in hosts)
        await asyncio.sleep(minutes * 60)
        sent = sum(host.bytes_sent for host in hosts) - bytes_before
        packets = sum(host.datagrams_sent for host in hosts) - packets_before
        connections = sum(node.counters()["peer_connections"] for node in cluster.nodes)
        per_node = size * minutes * 60
        return sent / per_node, (sent + packets * IP_HEADERS_BYTES) / per_node, connections // 2


def idle(seeds: int) -> None:
    """What a node sends while nothing happens, and what simulating it costs."""
    for size in (5, 50, 200):
        began = time.process_time()
        payload, on_the_wire, connections = run(_idle(size, 10.0))
        took_s = time.process_time() - began
        print(
            f"idle at {size} nodes: {payload:.0f} B/s a node sent ({on_the_wire:.0f} with UDP and IP headers), "
            f"{connections} connections in all; 11 virtual minutes in {took_s:.1f} s of processor time",
            flush=True,
        )


async def _split(size: int, seed: int) -> float:
    async with _cluster(size, seed) as cluster:
        half = size // 2
        for left in range(half):
            for right in range(half, size):
                cluster.network.cut(f"n{left}", f"n{right}")
        await asyncio.sleep(60.0)
        assert len(cluster.nodes[0].membership.in_ring()) == half - 1
        cluster.network.heal()
        return await cluster.until(cluster.has_met, 120)


def split(seeds: int) -> None:
    """Two halves for 60 s, then healed: until every node holds every other for alive."""
    for size in (5, 50, 200):
        times = sorted(run(_split(size, seed)) for seed in range(_fewer(seeds, size)))
        print(
            f"healed split at {size} nodes: whole after {times[len(times) // 2]:.1f} s (median), {times[-1]:.1f} s "
            f"(worst of {len(times)})",
            flush=True,
        )


def _fewer(seeds: int, size: int) -> int:
    """Large clusters are slow to simulate."""
    return seeds if size < 50 else max(1, seeds // (4 if size < 200 else 10))


FIGURES: dict[str, Callable[[int], None]] = {
    "killed": killed, "unplugged": unplugged, "lossy": lossy, "idle": idle, "split": split
}  # fmt: skip


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.membership", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"runs at 5 nodes, fewer at more (default: {SEEDS})")
    options = parser.parse_args()
    logging.disable()
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {sorted(unknown)[0]!r}")
    for name in options.figures or FIGURES:
        FIGURES[name](options.seeds)


if __name__ == "__main__":
    main()
