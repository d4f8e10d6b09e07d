"""Measures what moves when members change: how much of what is held, how soon, and at which cost.

    python -m tests.bench.moving [FIGURE ...]

`share` is arithmetic on rings; `join` is real nodes on the simulated network, virtual time: the same on every machine.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
from collections.abc import Callable

import numpy as np
from edgecache.node.ring import Ring
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.virtual_time import run

GIB = 1024**3
KEYS, RINGS = 2_000, 30
SIZES = (1, 2, 4, 8, 16, 32, 64)
HELD, TOKENS, DIM = 4_000, 20, 64  # features of 1.6 KB


def share() -> None:
    """Copies that a join moves, beside the newcomer's share of all copies by its weight."""
    for what, capacities in (
        ("equal devices", (GIB,)),
        ("devices of 0.5, 1, 2 and 8 GiB", (GIB // 2, GIB, 2 * GIB, 8 * GIB)),
    ):
        for size in SIZES:
            ratios = []
            for seed in range(RINGS):
                rng = random.Random(seed)
                members = {f"{rng.getrandbits(128):032x}": rng.choice(capacities) for _ in range(size + 1)}
                newcomer = next(reversed(members))
                after = Ring(members, 2)
                before = Ring({node: members[node] for node in members if node != newcomer}, 2)
                keys = [rng.randbytes(64) for _ in range(KEYS)]
                moved = sum(len(set(after.holders(key)) - set(before.holders(key))) for key in keys)
                weight = after.virtual_nodes[newcomer] / sum(after.virtual_nodes.values())
                ratios.append(moved / ((2 * weight if size > 1 else 1.0) * KEYS))  # of two, both hold everything
            print(
                f"{what}, one joins {size}: {statistics.mean(ratios):.2f} × its ideal share moves (mean of {RINGS} "
                f"rings), {max(ratios):.2f} × (worst)",
                flush=True,
            )


async def _join(size: int) -> None:
    encoder = EncoderIdentity.declared("mine", "1")
    values = np.random.default_rng(0).standard_normal((TOKENS, DIM), dtype=np.float32)
    made = [payloads.encode(values, FeatureKey(digest_of(b"%d" % number), encoder)) for number in range(HELD)]
    async with Cluster(size, encoder=lambda index: None) as cluster:
        await cluster.until(lambda: all(node.moving.is_done for node in cluster.nodes))
        for number, payload in enumerate(made):
            await cluster.nodes[number % size].lookup.put(payload)
        newcomer = await cluster.join()
        await cluster.until(cluster.has_met)
        before = cluster.network.bytes_sent
        began_s = await cluster.until(lambda: any(node.stats.moved for node in cluster.nodes))
        took_s = await cluster.until(lambda: all(node.moving.is_done for node in cluster.nodes), 600.0)
        moved = sum(node.stats.moved for node in cluster.nodes)
        wanted = sum(newcomer.id in newcomer.ring().holders(payload.key.packed) for payload in made)
        sent = cluster.network.bytes_sent - before
        print(
            f"one joins {size} nodes that hold {HELD:,} features of {made[0].nbytes:,} bytes twice: {moved:,} moved, "
            f"{wanted:,} are the newcomer's, begun after {began_s:.0f} s, done after {took_s:.0f} s more; "
            f"{sent / (moved * made[0].nbytes):.2f} bytes sent for each byte moved"
        )


def join() -> None:
    """A node joins a cluster that holds something."""
    for size in (2, 8):
        run(_join(size))


FIGURES: dict[str, Callable[[], None]] = {"share": share, "join": join}


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.moving", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all)")
    options = parser.parse_args()
    logging.disable()
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {sorted(unknown)[0]!r}")
    for name in options.figures or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
