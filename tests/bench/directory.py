"""Measures the directory: what it costs in bytes, memory and processor time, how often it is wrong, how soon right.

    python -m tests.bench.directory [--keys N] [--nodes N] [FIGURE ...]

Bytes and seconds of `told`, `join` and `change` are of real nodes on the simulated network, in virtual time: the same
on every machine. Processor time is not.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import statistics
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from itertools import count

from edgecache.node.directory import Directory
from edgecache.node.holdings import Holdings
from edgecache.node.journal import Journal
from edgecache.node.probing import PERIOD_S
from edgecache.protocol import fingerprints
from edgecache.protocol.datagrams import ListNews
from edgecache.protocol.messages import Keys
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.links import LINKS
from edgecache.simulations.virtual_time import run

KEYS, NODES = 50_000, 32
CHANGES_PER_S = (0.1, 1.0, 10.0)
LOOKUPS = 20_000
LIST_CHANGES = 1_000
STRANGERS = 1_000_000


def _key(rng: random.Random) -> bytes:
    return rng.randbytes(64)


def _full(keys: int, nodes: int) -> tuple[Directory, list[bytes]]:
    """A directory of so many other nodes with so many keys each, and some of the keys."""
    rng = random.Random(7)
    directory = Directory("me", Journal("boot", lambda key: False))
    known = []
    for number in range(nodes - 1):
        held = [_key(rng) for _ in range(keys)]
        known += held[:100]
        listed = array("I", sorted({fingerprints.fingerprint(key) for key in held}))
        directory.heard(f"n{number}", ListNews((number + 1) << 40, 0), nodes)
        directory.take(f"n{number}", Keys(0, ((number + 1) << 40) + 1, len(listed), 0), fingerprints.pack(listed))
    return directory, known


def lookup(keys: int, nodes: int) -> None:
    """Processor time and false positives of one question."""
    directory, known = _full(keys, nodes)
    rng = random.Random(8)
    for what, asked in (("held by one", known), ("held by none", [_key(rng) for _ in range(LOOKUPS)])):
        began = time.process_time()
        for key in asked:
            directory.holders(key)
        each_us = (time.process_time() - began) / len(asked) * 1e6
        print(f"lookup of a key {what}, {nodes - 1} lists of {keys:,}: {each_us:.1f} µs of processor time")
    strangers = STRANGERS // 10
    wrong = sum(len(directory.holders(_key(rng))) for _ in range(strangers))
    expected = directory.entries / 2**fingerprints.FINGERPRINT_BITS
    print(
        f"false positives: {wrong} in {strangers:,} lookups of keys that nobody holds, {100 * wrong / strangers:.3f} % "
        f"({100 * expected:.3f} % expected; {100 * expected / (nodes - 1):.4f} % for each list)"
    )


def lists(keys: int, nodes: int) -> None:
    """What a list takes, on the wire and in memory, and the time to make and read it."""
    rng = random.Random(9)
    held = {_key(rng) for _ in range(keys)}
    journal = Journal("boot", held.__contains__)
    began = time.process_time()
    for key in held:
        journal.touch(key)
    journal.settle()
    touched_s = time.process_time() - began
    began = time.process_time()
    told, blob = journal.told(0)
    packed_s = time.process_time() - began
    began = time.process_time()
    fingerprints.unpack(told.added, blob)
    unpacked_s = time.process_time() - began
    print(
        f"a list of {keys:,} keys: {len(blob):,} bytes on the wire, {8 * len(blob) / keys:.2f} bits a key; in memory "
        f"{fingerprints.FINGERPRINT_BYTES} bytes a key; {packed_s * 1e3:.1f} ms to make, {unpacked_s * 1e3:.1f} ms to "
        f"read, {touched_s / keys * 1e6:.2f} µs for each key that comes"
    )


def copies(keys: int, nodes: int) -> None:
    """What a change takes in a copy of another's list, short lists and long ones: one key comes, one goes."""
    rng = random.Random(13)
    for size in (1_000, 16_000, keys):
        held = Holdings()
        held.replace(array("I", sorted({rng.getrandbits(32) for _ in range(size)})))
        there = list(held.fingerprints())
        rng.shuffle(there)
        changes = [([rng.getrandbits(32)], [gone]) for gone in there[:LIST_CHANGES]]
        began = time.process_time()
        for added, removed in changes:
            held.update(added, removed)
        each_us = (time.process_time() - began) / (2 * len(changes)) * 1e6
        print(f"a copy of a list of {size:,} keys: {each_us:.2f} µs of processor time for each change")


async def _fill(cluster: Cluster, keys: int) -> list[set[bytes]]:
    """Have every node hold so many keys that exist in name only; returns what each holds."""
    rng = random.Random(10)
    held: list[set[bytes]] = []
    for node in cluster.nodes:
        mine = {_key(rng) for _ in range(keys)}
        node.directory.journal._is_held = mine.__contains__
        for key in mine:
            node.directory.journal.touch(key)
        held.append(mine)
    return held


def _is_told(cluster: Cluster) -> bool:
    versions = [(node.id, node.directory.journal.settle()) for node in cluster.nodes]
    return all(node.directory.has(id) == version for node in cluster.nodes for id, version in versions if id != node.id)


async def _join(keys: int, nodes: int) -> None:
    async with Cluster(nodes, encoder=lambda index: None) as cluster:
        await _fill(cluster, keys)
        before = cluster.network.bytes_sent
        took_s = await cluster.until(lambda: _is_told(cluster), 20.0 * nodes)
        sent = cluster.network.bytes_sent - before
        each = nodes * (nodes - 1) * keys
        print(
            f"{nodes} nodes that hold {keys:,} keys each from one moment on: all told after {took_s:.0f} s "
            f"(bound: {2 * (nodes - 1) * PERIOD_S:.0f}), {sent / each:.2f} bytes for each key and node that learnt it, "
            f"{sent / nodes / took_s:,.0f} B/s a node"
        )


def join(keys: int, nodes: int) -> None:
    """Everybody learns everything."""
    run(_join(keys, nodes))


async def _steady(keys: int, nodes: int, changes_per_s: float, seconds: float) -> None:
    async with Cluster(nodes, encoder=lambda index: None) as cluster:
        held = await _fill(cluster, keys)
        await cluster.until(lambda: _is_told(cluster), 20.0 * nodes)
        await asyncio.sleep(10.0)
        idle_before = cluster.network.bytes_sent
        await asyncio.sleep(60.0)
        idle = (cluster.network.bytes_sent - idle_before) / 60 / nodes
        rng = random.Random(11)
        before, changes = cluster.network.bytes_sent, 0
        ends_at = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends_at:
            await asyncio.sleep(rng.expovariate(changes_per_s * nodes / 2))
            node = rng.randrange(nodes)
            new, old = _key(rng), next(iter(held[node]))  # one comes, one goes
            held[node].add(new)
            held[node].discard(old)
            for key in (new, old):
                cluster.nodes[node].directory.journal.touch(key)
            changes += 2
        sent = (cluster.network.bytes_sent - before) / seconds / nodes
        print(
            f"{nodes} nodes, {keys:,} keys each, {changes_per_s:g} changes a second on each: {sent:,.0f} B/s a node, "
            f"of which {idle:.0f} when idle; {(sent - idle) * seconds * nodes / changes / (nodes - 1):.1f} bytes for "
            "each change and node that learnt it",
            flush=True,
        )


def told(keys: int, nodes: int) -> None:
    """What is sent while keys come and go."""
    for changes_per_s in CHANGES_PER_S:
        run(_steady(keys, nodes, changes_per_s, 120.0))


async def _changes(nodes: int, link: str, loss: float, times: int) -> list[float]:
    lossy = replace(LINKS[link], loss=1 - (1 - loss) ** 0.5)
    async with Cluster(nodes, encoder=lambda index: None, link=lambda index: lossy) as cluster:
        held = await _fill(cluster, 100)
        await cluster.until(lambda: _is_told(cluster), 60.0 * nodes)
        rng, took = random.Random(12), []
        for _, number in zip(range(times), count(), strict=False):
            node = cluster.nodes[number % nodes]
            await asyncio.sleep(rng.uniform(0.0, 5.0))
            key = _key(rng)
            held[number % nodes].add(key)
            node.directory.journal.touch(key)
            version, began = node.directory.journal.settle(), asyncio.get_running_loop().time()
            waiting = [other for other in cluster.nodes if other is not node]
            while waiting:
                await asyncio.sleep(0.05)
                now = asyncio.get_running_loop().time()
                took += [now - began for other in waiting if other.directory.has(node.id) >= version]
                waiting = [other for other in waiting if other.directory.has(node.id) < version]
        return sorted(took)


def change(keys: int, nodes: int) -> None:
    """How long until another node knows of a change, and until all do."""
    for size in sorted({2, 8, nodes}):
        for loss in (0.0, 0.1):
            took = run(_changes(size, "lan", loss, 40))
            print(
                f"a change at {size} nodes, {100 * loss:.0f} % of datagrams lost: another knows it after "
                f"{statistics.mean(took):.1f} s on average, {took[int(0.99 * len(took))]:.1f} s (p99), "
                f"{took[-1]:.1f} s (worst of {len(took)}); bound without loss {2 * (size - 1) * PERIOD_S:.0f} s",
                flush=True,
            )


FIGURES: dict[str, Callable[[int, int], None]] = {
    "lists": lists, "copies": copies, "lookup": lookup, "change": change, "join": join, "told": told
}  # fmt: skip


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.directory", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all)")
    parser.add_argument("--keys", type=int, default=KEYS, help=f"keys on each node (default: {KEYS})")
    parser.add_argument("--nodes", type=int, default=NODES, help=f"nodes (default: {NODES})")
    options = parser.parse_args()
    logging.disable()
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {sorted(unknown)[0]!r}")
    for name in options.figures or FIGURES:
        FIGURES[name](options.keys, options.nodes)


if __name__ == "__main__":
    main()
