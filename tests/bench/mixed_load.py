"""Two real nodes under mixed load for long: do their memory and their descriptors stay what they are?

    python -m tests.bench.mixed_load [--minutes 60] [--rate 20]

Each has 48 MiB of memory, 128 MiB of disk and one directory as the cloud of both. Requests come at a steady rate: most
ask for features by Zipf, of four sizes from 1 to 591 KB, and put what nobody has; others ask for many at once, go away
in the middle of an answer, forget, wait for the disk, make another version current, or are nonsense. Exit status 1 if
a process takes more than 1.1 × its memory tier and a fixed base, or if either grew from the third quarter to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import mean

import aiohttp
import numpy as np
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Codec

from tests.system.nodes import Nodes, RunningNode

from .report import Table

MIB = 1 << 20
MEMORY_MIB, DISK_MIB = 48, 128
# A node that has done nothing yet takes 67 MiB, the cloud's client included; up to 32 MiB wait to be written to disk,
# and as many for the cloud.
BASE_MIB = 128
SHAPES = ((1, 768), (16, 384), (196, 768), (577, 1024))  # 1, 6, 151 and 591 KB
IMAGES = 4000
ZIPF = 0.8
WORKERS = 8
SAMPLE_EVERY_S = 5.0
WINDOWS = 8
GROWTH_MAX = 1.02  # of the mean over the last quarter against that of the third; the first half fills tables and pools
DESCRIPTORS_MORE_MAX = 8  # as many connections as one worker opens and leaves while a sample is taken
PAYLOAD = {"Content-Type": "application/vnd.edgecache.payload"}
ACCEPT = {"Accept": PAYLOAD["Content-Type"]}
NOISE = np.random.default_rng(0).standard_normal((577, 1024), np.float32)


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    at: float
    resident_bytes: int
    descriptors: int
    threads: int
    used_bytes: int
    pinned_bytes: int


@dataclass(slots=True)
class Watched:
    """A node, and what was seen of it."""

    node: RunningNode
    samples: list[Sample] = field(default_factory=list)

    async def sample(self, session: aiohttp.ClientSession, at: float) -> None:
        process = Path(f"/proc/{self.node.process.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        async with session.get(f"{self.node.url}/v1/stats") as answer:
            stats = await answer.json()
        self.samples.append(
            Sample(
                at,
                1024 * int(status["VmRSS"].split()[0]),
                len(os.listdir(process / "fd")),
                int(status["Threads"]),
                stats["used_bytes"],
                stats["pinned_bytes"],
            )
        )


class Load:
    """What is asked of the nodes; the seed decides in which order."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self._session = session
        self._urls = urls
        self._rng = random.Random(1)
        self._weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, IMAGES + 1)))
        self._version = 1

    async def ask(self) -> None:
        """One request, or two."""
        kinds = {"get": 70, "head": 5, "many": 5, "gone": 5, "forget": 4, "durable": 4, "alone": 4, "nonsense": 3}
        [kind] = self._rng.choices(list(kinds), list(kinds.values()))
        self.asked[kind] += 1
        url = self._rng.choice(self._urls)
        digest, body_of = self._image()
        path = f"{url}/v1/features/{digest.hex()}?encoder=mine"
        match kind:
            case "get" | "alone":
                async with self._session.get(path, headers=ACCEPT | _closing(kind)) as answer:
                    await answer.read()
                    source = answer.headers.get("EdgeCache-Source", "nobody")
                self.answered[source] += 1
                if answer.status == 404:
                    await self._put(f"{path}&version=1", body_of)
            case "head":
                async with self._session.head(path):
                    pass
            case "many":
                digests = [self._image()[0].hex() for _ in range(32)]
                body = {"digests": digests}
                async with self._session.post(f"{url}/v1/features:batchGet?encoder=mine", json=body) as answer:
                    await answer.read()
            case "gone":
                async with self._session.get(path, headers=ACCEPT) as answer:
                    await answer.content.read(100)
                    answer.close()  # the rest is not wanted
            case "forget":
                async with self._session.delete(path):
                    pass
            case "durable":
                await self._put(f"{path}&version=1&durable=true", body_of)
            case "nonsense":
                async with self._session.put(f"{url}/v1/features/{digest.hex()[:9]}", data=b"\0" * 5000) as answer:
                    assert answer.status == 400

    async def make_another_version_current(self) -> None:
        """Of an encoder whose features are small, so that what is seen of memory is not this."""
        self._version += 1
        url = self._rng.choice(self._urls)
        encoder = EncoderIdentity.declared("other", str(self._version))
        async with self._session.post(
            f"{url}/v1/invalidations", json={"encoder": "other", "version": str(self._version)}
        ) as answer:
            assert answer.status == 200, await answer.text()
        for image in range(64):
            key = FeatureKey(sha256(b"%d" % image).digest(), encoder)
            body = bytes(payloads.encode(NOISE[:1, :768], key, codec=Codec.INT8).data)
            path = f"{url}/v1/features/{key.digest.hex()}?encoder=other&version={self._version}"
            async with self._session.put(path, data=body, headers=PAYLOAD) as answer:
                await answer.read()

    def _image(self) -> tuple[bytes, FeatureKey]:
        image = bisect(self._weights, self._rng.random() * self._weights[-1])
        digest = sha256(b"%d" % image).digest()
        return digest, FeatureKey(digest, EncoderIdentity.declared("mine", "1"))

    async def _put(self, path: str, key: FeatureKey) -> None:
        tokens, dim = SHAPES[key.digest[0] % len(SHAPES)]
        body = bytes(payloads.encode(NOISE[:tokens, :dim], key, codec=Codec.INT8).data)
        async with self._session.put(path, data=body, headers=PAYLOAD) as answer:
            await answer.read()
            self.answered[f"put {answer.status}"] += 1


def _closing(kind: str) -> dict[str, str]:
    return {"Connection": "close"} if kind == "alone" else {}


async def run(nodes: Nodes, minutes: float, rate: float) -> int:
    """Ask, look, print; the exit status."""
    cloud = f"file://{nodes.directory}/cloud"
    flags = ("--memory", f"{MEMORY_MIB}MiB", "--disk", f"{DISK_MIB}MiB", "--cloud", cloud, "--no-mdns", "--no-encoder")
    first = nodes.start(*flags, "--peer-listen", "127.0.0.1:0")
    second = nodes.start(*flags, "--peer-listen", "127.0.0.1:0", "--seed", first.peer)
    first.until_members(2)
    watched = [Watched(first), Watched(second)]
    ends = time.monotonic() + 60 * minutes
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session, aiohttp.ClientSession(timeout=timeout) as looking:
        load = Load(session, [first.url, second.url])
        started = time.monotonic()
        turns = itertools.count()

        async def work() -> None:
            while (due := started + next(turns) / rate) < ends:
                await asyncio.sleep(due - time.monotonic())
                try:
                    await load.ask()
                except (aiohttp.ClientError, TimeoutError) as error:
                    load.answered[type(error).__name__] += 1

        async def look() -> None:
            looks = itertools.count(1)
            while time.monotonic() < ends:
                await asyncio.gather(*(one.sample(looking, time.monotonic()) for one in watched))
                if next(looks) % 24 == 0:
                    await load.make_another_version_current()
                await asyncio.sleep(SAMPLE_EVERY_S)

        await asyncio.gather(*(work() for _ in range(WORKERS)), look())
        took_s = time.monotonic() - started
    print(f"asked in {took_s / 60:.0f} minutes: {dict(load.asked)}; answered: {dict(load.answered)}")
    verdicts = [told(number, one.samples) for number, one in enumerate(watched, start=1)]
    print(f"load when it ended: {os.getloadavg()[0]:.1f}")
    return 0 if all(verdicts) else 1


def told(number: int, samples: list[Sample]) -> bool:
    """Print what one node took; whether that is as it should be."""
    size = max(1, len(samples) // WINDOWS)
    windows = [samples[at : at + size] for at in range(0, size * WINDOWS, size)]
    rows = [
        [
            f"{(window[0].at - samples[0].at) / 60:.1f} to {(window[-1].at - samples[0].at) / 60:.1f} min",
            f"{mean(s.resident_bytes for s in window) / MIB:.1f}", f"{max(s.resident_bytes for s in window) / MIB:.1f}",
            f"{mean(s.used_bytes for s in window) / MIB:.1f}", f"{max(s.pinned_bytes for s in window) / MIB:.2f}",
            f"{mean(s.descriptors for s in window):.1f}", str(max(s.descriptors for s in window)),
            str(max(s.threads for s in window)),
        ]
        for window in windows if window
    ]  # fmt: skip
    headings = ["", "RSS, mean MiB", "most", "features, mean MiB", "pinned, most MiB", "descriptors, mean", "most"]
    print(Table(f"node {number}", [*headings, "threads"], rows).markdown())
    quarter = max(1, len(samples) // 4)
    earlier, last = samples[-2 * quarter : -quarter], samples[-quarter:]
    limit = 1.1 * MEMORY_MIB + BASE_MIB
    most = max(s.resident_bytes for s in samples) / MIB
    grew = mean(s.resident_bytes for s in last) / mean(s.resident_bytes for s in earlier)
    more = max(s.descriptors for s in last) - max(s.descriptors for s in earlier)
    print(f"RSS at most {most:.1f} MiB of {limit:.1f}; last quarter / third {grew:.4f}; descriptors {more:+d}\n")
    return most <= limit and grew <= GROWTH_MAX and more <= DESCRIPTORS_MORE_MAX


def main() -> None:
    """Start the nodes, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mixed_load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second (default: 20)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        nodes = Nodes(Path(directory))
        try:
            status = asyncio.run(run(nodes, options.minutes, options.rate))
        finally:
            nodes.kill_all()
    sys.exit(status)


if __name__ == "__main__":
    main()
