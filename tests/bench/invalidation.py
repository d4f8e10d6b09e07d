"""Measures on virtual time how soon all nodes know of an invalidation or removal, and who was cut off, after a split.

    python -m tests.bench.invalidation [--seeds N] [--loss SHARE]

Real nodes on the simulated network (`edgecache.simulations`); the same seeds give the same figures on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from edgecache.node.service import Node
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.links import LINKS
from edgecache.simulations.virtual_time import run

SIZES = (5, 50)
SPLIT_S = 60.0
OLD = EncoderIdentity.declared("mine", "1")
IMAGE = b"i" * 32


def _knows_version(node: Node) -> bool:
    return not node.versions.is_current(OLD)


def _knows_removal(node: Node) -> bool:
    return node.removals.known(FeatureKey(IMAGE, OLD)) > 0


def _all(knows: Callable[[Node], bool], cluster: Cluster) -> bool:
    return all(map(knows, cluster.nodes))


async def _tell(node: Node) -> None:
    await asyncio.gather(node.invalidate("mine", "2"), node.lookup.forget([IMAGE]))


async def _spread(size: int, seed: int, loss: float, split: bool) -> tuple[float, float]:
    """Seconds until all know of the invalidation and of the removal: from its beginning, or from the end of a split."""
    link = replace(LINKS["lan"], loss=1 - (1 - loss) ** 0.5)
    async with Cluster(size, seed=seed, encoder=lambda index: None, link=lambda index: link) as cluster:
        given = payloads.encode(np.ones((2, 4), np.float32), FeatureKey(IMAGE, OLD))
        for node in cluster.nodes:
            node.store.put(given)
        await asyncio.sleep(10.0 + seed * 0.137)
        if split:
            for left in range(size // 2):
                for right in range(size // 2, size):
                    cluster.network.cut(f"n{left}", f"n{right}")
            await asyncio.sleep(SPLIT_S / 2)
            await _tell(cluster.nodes[0])
            await asyncio.sleep(SPLIT_S / 2)
            assert not any(_knows_version(node) or _knows_removal(node) for node in cluster.nodes[size // 2 :])
            cluster.network.heal()
            told = None
        else:
            told = asyncio.ensure_future(_tell(cluster.nodes[0]))
        took = await asyncio.gather(*(cluster.until(partial(_all, knows, cluster), 120) for knows in KNOWS))
        if told is not None:
            await told
        assert not any(given.key.packed in node.store for node in cluster.nodes)
        return took[0], took[1]


KNOWS: tuple[Callable[[Node], bool], ...] = (_knows_version, _knows_removal)


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.invalidation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="runs for each line (default: 10)")
    parser.add_argument("--loss", type=float, default=0.0, help="share of packets lost (default: 0)")
    options = parser.parse_args()
    logging.disable()
    for size in SIZES:
        for split in (False, True):
            times = [run(_spread(size, seed, options.loss, split)) for seed in range(options.seeds)]
            since = f"after the end of a {SPLIT_S:g} s split" if split else "after it was made"
            for what, took in zip(("invalidation", "removal"), zip(*times, strict=True), strict=True):
                ordered = sorted(took)
                print(
                    f"{what} known to all of {size} nodes {since}: {ordered[len(took) // 2]:.2f} s (median), "
                    f"{ordered[-1]:.2f} s (worst of {len(took)})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
