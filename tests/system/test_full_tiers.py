"""A node that is fed three times what its memory and its disk hold, above a directory as its cloud."""

from __future__ import annotations

import http.client
import random
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Codec

from tests.system.nodes import Nodes, RunningNode, until

MIB = 1 << 20
# Beside 1.1 × the memory tier: the interpreter and the cloud's client, 67 MiB before anything is done, and what waits
# to be written, up to 32 MiB for the disk and as much for the cloud.
BASE_MIB = 128
SHAPES = ((196, 768), (577, 1024))
NOISE = np.random.default_rng(0).standard_normal((577, 1024), np.float32)
ENCODER = EncoderIdentity.declared("mine", "1")
PAYLOAD = "application/vnd.edgecache.payload"


def body(image: int) -> bytes:
    """The payload of an image's features, no other image's."""
    tokens, dim = SHAPES[image % 2]
    NOISE[0, 0] = image % 1000 / 1000
    return bytes(payloads.encode(NOISE[:tokens, :dim], FeatureKey(digest(image), ENCODER), codec=Codec.INT8).data)


def digest(image: int) -> bytes:
    return sha256(b"%d" % image).digest()


class Asking:
    """One connection to a node."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        split = urlsplit(node.url)
        self._connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=60)

    def put(self, image: int) -> int:
        """How many bytes were kept."""
        data = body(image)
        self._connection.request("PUT", self._path(image), data, {"Content-Type": PAYLOAD})
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status == 201
        return len(data)

    def get(self, image: int) -> str:
        """Where its features came from; they are those of this image."""
        self._connection.request("GET", self._path(image), headers={"Accept": PAYLOAD})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status == 404:
            return "nobody"
        assert data == body(image)
        return answer.headers["EdgeCache-Source"]

    @staticmethod
    def _path(image: int) -> str:
        return f"/v1/features/{digest(image).hex()}?encoder=mine&version=1&stream=none{image}"


def resident_mib(node: RunningNode) -> float:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def on_disk_bytes(directory: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in directory.rglob("*"))


def fed_and_restarted(nodes: Nodes, memory_mib: int, disk_mib: int, fed_mib: int) -> None:
    directory = nodes.directory / "node"
    flags = (
        "--memory", f"{memory_mib}MiB", "--disk", f"{disk_mib}MiB", "--cloud", f"file://{nodes.directory}/cloud",
        "--data-dir", str(directory), "--no-mdns", "--no-encoder",
    )  # fmt: skip
    node = nodes.start(*flags)
    asking, images, fed, most_mib = Asking(node), 0, 0, 0.0

    def stats() -> dict[str, dict[str, dict[str, int]]]:
        told: dict[str, dict[str, dict[str, int]]] = node.get("/v1/stats").json()
        return told

    def uploaded() -> bool:
        return stats()["tiers"]["cloud"]["queued_bytes"] < MIB

    while fed < fed_mib * MIB:
        fed += asking.put(images)
        images += 1
        if images % (memory_mib // 8) == 0:
            most_mib = max(most_mib, resident_mib(node))
            until(uploaded, "uploaded")  # where an uplink is too slow the oldest are dropped, which is not asked here
    limit_mib = 1.1 * memory_mib + BASE_MIB
    assert most_mib <= limit_mib

    told = node.get("/v1/stats").json()
    disk = told["tiers"]["disk"]
    assert told["used_bytes"] <= told["capacity_bytes"] == memory_mib * MIB
    assert told["utilisation"] > (0.97 if memory_mib > 64 else 0.94)  # in a small store, the room for an entry is 4 %
    assert disk["used_bytes"] <= disk["capacity_bytes"] == disk_mib * MIB
    assert on_disk_bytes(directory) <= disk_mib * MIB + MIB

    rng = random.Random(1)
    asked = [rng.randrange(images) for _ in range(200)]
    sources = Counter(asking.get(image) for image in asked)
    assert sources["nobody"] == 0
    assert all(sources[tier] > 0 for tier in ("memory", "disk", "cloud")), sources

    # What is asked for again and again before the restart is answered from here after it.
    hot = [rng.randrange(images) for _ in range(memory_mib // 2)]
    for _ in range(4):
        before = Counter(asking.get(image) for image in hot)
        time.sleep(1.1)  # the disk is told of uses each second, and several in one are one
    assert node.terminate() == 0
    node = nodes.start(*flags)
    until(lambda: "features are back in memory" in node.log.read_text(), "a warm memory")
    asking = Asking(node)
    after = Counter(asking.get(image) for image in hot)
    local_before, local_after = (counted["memory"] + counted["disk"] for counted in (before, after))
    assert local_after >= 0.95 * local_before
    assert after["memory"] > 0.5 * before["memory"]
    print(
        f"\n{memory_mib} MiB of memory, {disk_mib} of disk, fed {fed / MIB:.0f} MiB in {images} features: RSS at most "
        f"{most_mib:.0f} MiB (limit {limit_mib:.0f}), memory {100 * told['utilisation']:.1f} % full, "
        f"{on_disk_bytes(directory) / MIB:.1f} MiB on disk, {disk['items']} features there; of 200 at random "
        f"{dict(sources)}; {len(hot)} hot ones before the restart {dict(before)}, after it {dict(after)}"
    )


def test_a_node_fed_three_times_what_it_holds_keeps_its_limits_and_answers_from_every_tier(nodes: Nodes) -> None:
    fed_and_restarted(nodes, memory_mib=16, disk_mib=64, fed_mib=192)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_same_with_three_gibibytes(nodes: Nodes) -> None:
    fed_and_restarted(nodes, memory_mib=256, disk_mib=1024, fed_mib=3072)
