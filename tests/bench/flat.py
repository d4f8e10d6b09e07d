"""Measures whether real nodes stay as large as they are: memory and descriptors over an hour of steady use.

    python -m tests.bench.flat [--minutes N] [--rate N]

Three processes with 16 MiB of memory and 32 MiB of disk, more features than fit, gets by hash on all, removals and
invalidations; each request is a connection of its own.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np

from tests.system.nodes import Nodes, RunningNode

WARM_SHARE = 0.1
SAMPLES = 20


def _sizes(node: RunningNode) -> tuple[int, int]:
    """Resident KiB and open descriptors."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    rss = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(rss.split()[1]), len(os.listdir(f"/proc/{node.process.pid}/fd"))


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


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flat", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second (default: 30)")
    options = parser.parse_args()
    measure(options.minutes, options.rate)


if __name__ == "__main__":
    main()
