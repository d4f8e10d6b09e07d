"""Measures whether nodes stay as large as they are: memory and descriptors for an hour, objects for a virtual day.

    python -m tests.bench.flat [--minutes N] [--rate N]
    python -m tests.bench.flat --virtual-hours 24

Three processes with 16 MiB of memory and 32 MiB of disk, more features than fit, gets by hash on all, removals and
invalidations; each request is a connection of its own. The virtual day is that of three real nodes in one process, with
1 MiB of memory each, every two seconds a request, and every hour a node that is killed and comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import logging
import os
import random
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.virtual_time import run

from tests.system.nodes import Nodes, RunningNode

WARM_SHARE = 0.1
SAMPLES = 20


def _rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def _sizes(node: RunningNode) -> tuple[int, int]:
    """Resident KiB and open descriptors."""
    return _rss_kib(node.process.pid), len(os.listdir(f"/proc/{node.process.pid}/fd"))


def _use(rng: random.Random, nodes: list[RunningNode], version: int) -> int:
    """One request; the version from then on."""
    node, number = rng.choice(nodes), min(int(rng.paretovariate(0.5)), 20_000)
    path = f"/v1/features/{sha256(b'%d' % number).hexdigest()}?encoder=mine&version={version}"
    if rng.random() < 0.0005:
        body = b'{"encoder": "mine", "version": "%d"}' % (version + 1)
        status = node.request("POST", "/v1/invalidations", body, Content_Type="application/json").status
        assert status == 200, status
        return version + 1
    if rng.random() < 0.02:
        assert node.request("DELETE", path).status in (204, 404, 409)
    elif node.get(path).status == 404:
        file = io.BytesIO()
        np.save(file, np.random.default_rng(number).standard_normal((64, 256), dtype=np.float32))
        assert node.request("PUT", path, file.getvalue()).status in (201, 409)
    return version


def measure(minutes: float, rate: float) -> None:
    """Prints sizes as they are, and how they changed after the first tenth."""
    rng, version = random.Random(1), 1
    with tempfile.TemporaryDirectory() as directory:
        started = Nodes(Path(directory))
        try:
            nodes = started.start_cluster(3, "--no-encoder", "--memory", "16MiB", "--disk", "32MiB")
            began, shown, requests = time.monotonic(), 0, 0
            warm: list[tuple[int, int]] | None = None
            while (elapsed := time.monotonic() - began) < minutes * 60:
                version = _use(rng, nodes, version)
                requests += 1
                time.sleep(max(0.0, requests / rate - elapsed))
                if elapsed >= minutes * 60 * shown / SAMPLES:
                    sizes = [_sizes(node) for node in nodes]
                    shown += 1
                    if warm is None and elapsed >= minutes * 60 * WARM_SHARE:
                        warm = sizes
                    told = ", ".join(f"{rss / 1024:.1f} MiB {fds} fds" for rss, fds in sizes)
                    print(f"{elapsed / 60:5.1f} min, {requests} requests: {told}", flush=True)
            assert warm is not None
            for node, (rss, fds) in zip(nodes, warm, strict=True):
                rss_now, fds_now = _sizes(node)
                print(f"{(rss_now - rss) / 1024:+.1f} MiB, {fds_now - fds:+d} descriptors since the first tenth")
        finally:
            started.kill_all()


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
            mib = _rss_kib(os.getpid()) / 1024
            print(f"hour {hour + 1}: {len(gc.get_objects())} objects, {mib:.1f} MiB, {held} held", flush=True)


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flat", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second (default: 30)")
    parser.add_argument("--virtual-hours", type=int, help="on virtual time instead, so many hours")
    options = parser.parse_args()
    if options.virtual_hours is not None:
        logging.disable()
        run(_day(options.virtual_hours))
        return
    measure(options.minutes, options.rate)


if __name__ == "__main__":
    main()
