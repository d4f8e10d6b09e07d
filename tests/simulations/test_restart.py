"""Real nodes with real disk tiers on virtual time: what a node that comes back knows, and what it must not answer."""

from __future__ import annotations

import asyncio

from edgecache.node.found import Found, Reach
from edgecache.node.lasting import CATCH_UP_TIMEOUT_S
from edgecache.node.service import Node
from edgecache.node.store.disk import DiskStore
from edgecache.protocol.features import Source
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.memory_directory import MemoryDirectory
from edgecache.simulations.virtual_time import in_virtual_time

from ..node.store.test_disk import opened

IMAGES = [b"photograph %d" % number for number in range(20)]


class Devices:
    """A cluster of nodes whose disks outlive them."""

    def __init__(self, size: int, versions: tuple[str, ...] = ("1",)) -> None:
        self.directories = [MemoryDirectory() for _ in range(size)]
        self.cluster = Cluster(size, disk=self._disk, encoder=lambda index: ModelledEncoder(version=versions[0]))

    def _disk(self, index: int) -> DiskStore:
        self.directories[index] = self.directories[index].reopened()
        return opened(self.directories[index])


def source(found: Found | None) -> Source | None:
    return found.source if found is not None else None


async def encoded(cluster: Cluster, node: Node) -> None:
    for image in IMAGES:
        await node.lookup.get(cluster.key(image), image)


@in_virtual_time
async def test_a_node_alone_has_everything_back_in_memory() -> None:
    devices = Devices(1)
    async with devices.cluster as cluster:
        await encoded(cluster, cluster.nodes[0])
        await asyncio.sleep(1)  # the last batch
        await cluster.crash(0)
        node = await cluster.restart(0)
        await asyncio.sleep(CATCH_UP_TIMEOUT_S + 1)
        for image in IMAGES:
            assert source(await node.lookup.get(cluster.key(image), reach=Reach.LOCAL)) is Source.MEMORY
        assert node.stats.encodes == 0


@in_virtual_time
async def test_an_invalidation_that_a_node_slept_through_wins() -> None:
    devices = Devices(3)
    async with devices.cluster as cluster:
        await encoded(cluster, cluster.nodes[0])
        await asyncio.sleep(1)
        await cluster.crash(0)
        await cluster.nodes[1].invalidate("modelled", "2")
        node = await cluster.restart(0)
        seen: set[Source | None] = set()
        for _ in range(40):
            seen |= {source(await node.lookup.get(cluster.key(image), reach=Reach.LOCAL)) for image in IMAGES}
            await asyncio.sleep(0.1)
        assert seen == {None}, "not for a moment"
        assert node.store.disk is not None
        assert len(node.store.disk.tier) == 0


@in_virtual_time
async def test_a_disk_answers_soon_where_there_is_nobody_to_ask() -> None:
    devices = Devices(2)
    async with devices.cluster as cluster:
        await encoded(cluster, cluster.nodes[0])
        await asyncio.sleep(1)
        await cluster.crash(0)
        await cluster.crash(1)
        node = await cluster.restart(0)
        await asyncio.sleep(CATCH_UP_TIMEOUT_S + 0.5)
        assert source(await node.lookup.get(cluster.key(IMAGES[0]), reach=Reach.LOCAL)) is not None


@in_virtual_time
async def test_what_was_forgotten_before_the_crash_stays_forgotten() -> None:
    devices = Devices(1)
    async with devices.cluster as cluster:
        node = cluster.nodes[0]
        await encoded(cluster, node)
        await node.lookup.forget([cluster.key(IMAGES[0]).digest])
        await asyncio.sleep(1)
        await cluster.crash(0)
        node = await cluster.restart(0)
        await asyncio.sleep(CATCH_UP_TIMEOUT_S + 1)
        assert await node.lookup.get(cluster.key(IMAGES[0]), reach=Reach.LOCAL) is None
        assert await node.lookup.get(cluster.key(IMAGES[1]), reach=Reach.LOCAL) is not None


@in_virtual_time
async def test_a_disk_in_trouble_is_shown_and_the_node_goes_on() -> None:
    devices = Devices(1)
    async with devices.cluster as cluster:
        node = cluster.nodes[0]
        devices.directories[0].error = 30  # EROFS
        await encoded(cluster, node)
        await asyncio.sleep(1)
        is_serving, parts = node.is_serving()
        assert is_serving
        assert parts["disk"].startswith("degraded: ")
        assert "Read-only file system" in parts["disk"]
        for image in IMAGES:
            assert source(await node.lookup.get(cluster.key(image))) is Source.MEMORY
        devices.directories[0].error = None
        await asyncio.sleep(60)
        assert node.is_serving()[1]["disk"] == "ok"


@in_virtual_time
async def test_what_has_rotted_on_disk_is_counted_and_encoded_anew() -> None:
    devices = Devices(1)
    async with devices.cluster as cluster:
        await encoded(cluster, cluster.nodes[0])
        await asyncio.sleep(1)
        await cluster.crash(0)
        for name in devices.directories[0].names():
            if name.startswith("segment-"):
                content = devices.directories[0].open(name).content
                for start in range(4096 + 200, len(content), 4096):  # the data of some records, and no header
                    content[start] ^= 16
        node = await cluster.restart(0)
        await asyncio.sleep(CATCH_UP_TIMEOUT_S + 1)
        told = node.counters()["tiers"]["disk"]
        found = [await node.lookup.get(cluster.key(image)) for image in IMAGES]
        assert found.count(None) == told["corrupt"] == len(IMAGES) - told["items"] > 0
        lost = IMAGES[found.index(None)]
        assert source(await node.lookup.get(cluster.key(lost), lost)) is Source.ENCODER
