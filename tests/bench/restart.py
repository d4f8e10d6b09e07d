"""A real node under Zipf requests, stopped and started again: its hit ratio before and after, and what the disk holds.

    python -m tests.bench.restart [--kill] [--seconds 60]

One client asks for features of 151 KB by hash, as fast as it gets them, and puts what the node has not. `--kill` ends
the node by SIGKILL instead of SIGTERM. A hit is an answer from memory or disk.
"""

from __future__ import annotations

import argparse
import bisect
import http.client
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey

from .report import Table, seconds

IMAGES = 3000
ZIPF = 0.9
MEMORY, DISK = "64MiB", "256MiB"
WARM_UP_REQUESTS = 20_000
NODE = "from edgecache.node.cli import node_main; raise SystemExit(node_main())"
PAYLOAD = "application/vnd.edgecache.payload"
ENCODER = EncoderIdentity.declared("bench", "1")
VALUES = np.random.default_rng(0).standard_normal((196, 768), np.float32)


class Workload:
    """Requests whose popularity is Zipf's, to one node over one connection."""

    def __init__(self) -> None:
        self._rng = random.Random(1)
        self._weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, IMAGES + 1)))

    def run(self, url: str, *, requests: int = sys.maxsize, for_s: float = 1e9) -> tuple[Counter[str], list[float]]:
        """Ask; how many answers came from where, and how long each took."""
        split = urlsplit(url)
        connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=30)
        sources: Counter[str] = Counter()
        took: list[float] = []
        ends = time.monotonic() + for_s
        while sources.total() < requests and time.monotonic() < ends:
            digest = sha256(b"%d" % bisect.bisect(self._weights, self._rng.random() * self._weights[-1])).digest()
            path = f"/v1/features/{digest.hex()}?encoder=bench&version=1"
            started = time.perf_counter()
            connection.request("GET", path, headers={"Accept": PAYLOAD})
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - started)
            sources[answer.headers.get("EdgeCache-Source", "miss")] += 1
            if answer.status == 404:
                VALUES[0, :8] = np.frombuffer(digest, "<f4").clip(-1, 1)
                body = bytes(payloads.encode(np.nan_to_num(VALUES), FeatureKey(digest, ENCODER)).data)
                connection.request("PUT", path, body, {"Content-Type": PAYLOAD})
                connection.getresponse().read()
        connection.close()
        return sources, took


def started(directory: Path) -> tuple[subprocess.Popen[str], str, float]:
    """A node on that data directory, where it serves, and after how many seconds."""
    began = time.monotonic()
    flags = ["--listen", "127.0.0.1:0", "--data-dir", str(directory), "--memory", MEMORY, "--disk", DISK]
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, *flags, "--no-mdns", "--no-encoder"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, line.partition(" ready at ")[2].split()[0], time.monotonic() - began


def row(what: str, sources: Counter[str], took: list[float]) -> list[str]:
    total = sources.total()
    hits = sources["memory"] + sources["disk"]
    percentiles = np.percentile(took, [50, 99])
    return [
        what, f"{hits / total:.4f}", f"{sources['memory'] / total:.4f}", f"{sources['disk'] / total:.4f}",
        str(total), seconds(percentiles[0]), seconds(percentiles[1]),
    ]  # fmt: skip


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restart", description=__doc__)
    parser.add_argument("--kill", action="store_true", help="SIGKILL instead of SIGTERM")
    parser.add_argument("--seconds", type=float, default=60.0, help="before and after (default: 60)")
    options = parser.parse_args()
    workload = Workload()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "node"
        process, url, _ = started(directory)
        workload.run(url, requests=WARM_UP_REQUESTS)
        rows.append(row("before", *workload.run(url, for_s=options.seconds)))
        process.kill() if options.kill else process.terminate()
        process.communicate()
        process, url, ready_s = started(directory)
        rows.append(row("the first second after", *workload.run(url, for_s=1.0)))
        rows.append(row("the rest of the first minute", *workload.run(url, for_s=max(0.0, options.seconds - 1))))
        rows.append(row("10 s after that", *workload.run(url, for_s=10.0)))
        held = sum(file.stat().st_blocks * 512 for file in (directory / "features").iterdir())
        process.terminate()
        process.communicate()
    how = "SIGKILL" if options.kill else "SIGTERM"
    headings = ["", "hit ratio", "memory", "disk", "requests", "median", "p99"]
    title = (
        f"{IMAGES} images of 151 KB, Zipf {ZIPF}; {MEMORY} of memory, {DISK} of disk; {how}, ready in {ready_s:.1f} s"
    )
    print(Table(title, headings, rows).markdown())
    print(f"{held / 1024**2:.1f} MiB on disk as `du` counts; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
