"""Measures how evenly nodes are loaded where some images are asked for far more often than others.

    python -m tests.bench.hot_keys [--nodes N] [--zipf S] [--requests N] [--seeds N]

Every node is asked for images drawn by Zipf's law, each at its own times; real nodes on the simulated network, virtual
time. A node's load is the questions that it answers: its own users' and its peers'. What peers ask is shown alone, too.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random

import numpy as np
from edgecache.protocol import messages
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.virtual_time import run

NODES, ZIPF, REQUESTS, SEEDS = 8, 1.1, 40_000, 3
IMAGES = 5_000
ENTRY_BYTES = 1_100  # a small payload with its bookkeeping
PER_S = 20.0  # requests on each node


async def _load(nodes: int, zipf: float, requests: int, seed: int, share: float) -> tuple[list[int], list[int], int]:
    """Questions of peers and of all that each node answered, and how many encodes there were; the second half."""
    memory_bytes = int(share * IMAGES * ENTRY_BYTES)
    async with Cluster(
        nodes, seed=seed, memory_bytes=memory_bytes, encoder=lambda index: ModelledEncoder(0.02)
    ) as cluster:
        rng = np.random.default_rng(seed)
        weights = np.arange(1, IMAGES + 1) ** -zipf
        images = rng.choice(IMAGES, requests, p=weights / weights.sum()).tolist()
        at = random.Random(seed)
        of_peers, of_all = [0] * nodes, [0] * nodes
        for index, node in enumerate(cluster.nodes):
            answer = node.responder.answer

            def counting(peer, request, blob, answer=answer, index=index):  # type: ignore[no-untyped-def]
                of_peers[index] += isinstance(request, messages.Get | messages.Claim | messages.BatchGet)
                return answer(peer, request, blob)

            node.responder.answer = counting  # type: ignore[method-assign]
        asking: set[asyncio.Task[object]] = set()
        encodes = 0
        for number, image in enumerate(images):
            if number == requests // 2:
                of_peers[:], of_all[:] = [0] * nodes, [0] * nodes
                encodes = sum(node.stats.encodes for node in cluster.nodes)
            await asyncio.sleep(at.expovariate(PER_S * nodes))
            index = at.randrange(nodes)
            of_all[index] += 1
            name = b"%d" % image
            task = asyncio.ensure_future(cluster.nodes[index].lookup.get(cluster.key(name), name))
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.gather(*asking)
        encodes = sum(node.stats.encodes for node in cluster.nodes) - encodes
        return of_peers, [own + peers for own, peers in zip(of_all, of_peers, strict=True)], encodes


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hot_keys", description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--zipf", type=float, default=ZIPF)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    logging.disable()
    for share in (0.02, 0.1, 0.5):
        for seed in range(options.seeds):
            of_peers, of_all, encodes = run(_load(options.nodes, options.zipf, options.requests, seed, share))
            mean_peers, mean_all = sum(of_peers) / options.nodes, sum(of_all) / options.nodes
            print(
                f"memory for {share:.0%} of the images, seed {seed}: busiest node {max(of_all) / mean_all:.2f} × the "
                f"mean ({max(of_peers) / max(mean_peers, 1):.2f} × of what peers ask, {mean_peers / mean_all:.0%} of "
                f"all); {encodes} encodes",
                flush=True,
            )


if __name__ == "__main__":
    main()
