"""Measures whether nodes stay as large as they are for a virtual day: objects of Python, and memory.

    python -m tests.bench.virtual_day [--hours 24]

Three real nodes in one process, with 1 MiB of memory each, more features than fit, a request every two seconds,
removals and invalidations, and every hour a node that is killed and comes back. Real processes: mixed_load.py.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import random
from hashlib import sha256
from pathlib import Path

import numpy as np
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.virtual_time import run


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def _day(hours: int) -> None:
    rng, version = random.Random(1), 1
    async with Cluster(3, encoder=lambda index: None, memory_bytes=1024 * 1024) as cluster:
        for hour in range(hours):
            for _ in range(1800):
                await asyncio.sleep(2)
                node = rng.choice(cluster.nodes)
                number = min(int(rng.paretovariate(0.5)), 20_000)
                key = FeatureKey(sha256(b"%d" % number).digest(), EncoderIdentity.declared("mine", str(version)))
                if rng.random() < 0.0005:
                    version += 1
                    await node.invalidate("mine", str(version))
                elif rng.random() < 0.02:
                    await node.lookup.forget([key.digest])
                elif await node.lookup.get(key) is None:
                    array = np.random.default_rng(number).standard_normal((4, 256), dtype=np.float32)
                    await node.lookup.put(payloads.encode(array, key))
            index = rng.randrange(3)
            await cluster.crash(index)
            await asyncio.sleep(5)
            await cluster.restart(index)
            gc.collect()
            held = sum(len(node.store.memory) for node in cluster.nodes)
            objects = len(gc.get_objects())
            print(f"hour {hour + 1}: {objects} objects, {_resident_mib():.1f} MiB, {held} held", flush=True)


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.virtual_day", description=__doc__)
    parser.add_argument("--hours", type=int, default=24, help="how long (default: 24)")
    options = parser.parse_args()
    logging.disable()
    run(_day(options.hours))


if __name__ == "__main__":
    main()
