"""Real nodes with a disk and a cloud below their memory: which step answers, for a user and for a peer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from edgecache.node.found import Found, Reach
from edgecache.node.lasting import CATCH_UP_TIMEOUT_S
from edgecache.node.service import Node
from edgecache.protocol.features import Source
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.virtual_time import in_virtual_time

from ..node.conftest import FakeTier

IMAGE = b"a photograph"


def forget_in_memory(nodes: Iterable[Node]) -> None:
    """As an eviction does it: nothing below hears of it."""
    for node in nodes:
        for held in node.store.memory:
            node.store.memory.remove(held.key.packed)


def source(found: Found | None) -> Source | None:
    return found.source if found is not None else None


class Devices:
    """A cluster of `size` nodes, each with a disk, above one cloud."""

    def __init__(self, size: int) -> None:
        self.disks = [FakeTier() for _ in range(size)]
        self.bucket = FakeTier()
        self.cluster = Cluster(size, disk=lambda index: self.disks[index], cloud=lambda index: self.bucket)


@in_virtual_time
async def test_the_disk_answers_before_the_peers() -> None:
    devices = Devices(2)
    async with devices.cluster as cluster:
        node, key = cluster.nodes[0], cluster.key(IMAGE)
        await node.lookup.get(key, IMAGE)
        forget_in_memory([node])
        assert await node.lookup.has(key) == (Source.DISK, "n0")
        assert source(await node.lookup.get(key, reach=Reach.LOCAL)) is Source.DISK
        assert source(await node.lookup.get(key)) is Source.MEMORY
        assert node.stats.hits[Source.DISK] == 1


@in_virtual_time
async def test_a_peer_is_answered_from_disk() -> None:
    devices = Devices(3)
    async with devices.cluster as cluster:
        key = cluster.key(IMAGE)
        made = await cluster.nodes[0].lookup.get(key, IMAGE)
        forget_in_memory(cluster.nodes)
        devices.disks[2].held.clear()
        for asker in cluster.nodes[2:]:
            found = await asker.lookup.get(key)
            assert found is not None
            assert made is not None
            assert found.source is Source.PEER
            assert found.payload.data == made.payload.data


@in_virtual_time
async def test_many_are_asked_of_memory_disk_peers_and_cloud_in_one_request() -> None:
    devices = Devices(2)
    images = [b"in memory", b"on disk", b"with a peer", b"in the cloud", b"nowhere"]
    async with devices.cluster as cluster:
        node, other = cluster.nodes
        keys = [cluster.key(image) for image in images]
        in_memory, on_disk, with_peer, in_cloud, _ = (key.packed for key in keys)
        for key, image in zip(keys[:4], images, strict=False):
            await node.lookup.get(key, image)
        for packed in (on_disk, with_peer, in_cloud):
            node.store.memory.remove(packed)
        for packed in (with_peer, in_cloud):
            del devices.disks[0].held[packed]
        for packed in (in_memory, on_disk, in_cloud):
            other.store.memory.remove(packed)
            del devices.disks[1].held[packed]
        found = await node.lookup.get_many(keys)
        assert [source(found.get(key)) for key in keys] == [
            Source.MEMORY, Source.DISK, Source.PEER, Source.CLOUD, None
        ]  # fmt: skip
        assert {tier: count for tier, count in node.stats.hits.items() if count} == {
            Source.MEMORY: 1, Source.DISK: 1, Source.PEER: 1, Source.CLOUD: 1
        }  # fmt: skip


@in_virtual_time
async def test_the_cloud_answers_when_nobody_near_can_and_before_the_encoder() -> None:
    devices = Devices(2)
    async with devices.cluster as cluster:
        node, key = cluster.nodes[0], cluster.key(IMAGE)
        await node.lookup.get(key, IMAGE)
        assert list(devices.bucket.held) == [key.packed]  # sent there by the one that made it
        forget_in_memory(cluster.nodes)
        for disk in devices.disks:
            disk.held.clear()
        for reach in (Reach.LOCAL, Reach.CLUSTER):
            assert await node.lookup.get(key, reach=reach) is None
        assert source(await node.lookup.get(key, IMAGE)) is Source.CLOUD
        assert node.stats.encodes == 1


@in_virtual_time
async def test_a_cloud_that_hangs_costs_an_encode_little_and_a_miss_its_timeout() -> None:
    devices = Devices(1)
    loop = asyncio.get_running_loop()
    async with devices.cluster as cluster:
        node, key = cluster.nodes[0], cluster.key(IMAGE)
        devices.bucket.gate.clear()
        started = loop.time()
        assert source(await node.lookup.get(key, IMAGE)) is Source.ENCODER
        assert loop.time() - started < 0.6
        started = loop.time()
        assert await node.lookup.get(cluster.key(b"another")) is None
        assert loop.time() - started < 5.1


@in_virtual_time
async def test_a_disk_that_hangs_costs_a_peer_half_a_second_and_its_pings_nothing() -> None:
    devices = Devices(2)
    async with devices.cluster as cluster:
        node, other = cluster.nodes
        key = cluster.key(IMAGE)
        await node.lookup.get(key, IMAGE)
        forget_in_memory([node, other])
        devices.disks[0].held.clear()
        devices.disks[1].gate.clear()
        asked = asyncio.ensure_future(node.lookup.get(key, reach=Reach.CLUSTER))
        await asyncio.sleep(10.0)
        assert cluster.has_met()
        assert await asked is None


@in_virtual_time
async def test_what_is_forgotten_is_forgotten_on_every_disk_and_in_the_cloud() -> None:
    devices = Devices(3)
    async with devices.cluster as cluster:
        key = cluster.key(IMAGE)
        await cluster.nodes[0].lookup.get(key, IMAGE)
        await cluster.nodes[1].lookup.forget([key.digest])
        assert not any(tier.held for tier in (*devices.disks, devices.bucket))
        assert await cluster.nodes[2].lookup.get(key) is None


@in_virtual_time
async def test_outdated_versions_are_forgotten_on_disk() -> None:
    devices = Devices(2)
    async with devices.cluster as cluster:
        key = cluster.key(IMAGE)
        await cluster.nodes[0].lookup.get(key, IMAGE)
        forget_in_memory(cluster.nodes)
        await cluster.nodes[0].invalidate("modelled", "2")
        await asyncio.sleep(1.0)
        assert not any(disk.held for disk in devices.disks)


@in_virtual_time
async def test_who_leaves_hands_over_what_is_on_disk_too() -> None:
    devices = Devices(3)
    async with devices.cluster as cluster:
        leaving, *staying = cluster.nodes
        await leaving.lookup.get(cluster.key(IMAGE), IMAGE)
        forget_in_memory(cluster.nodes)
        for disk in devices.disks[1:]:
            disk.held.clear()
        devices.disks[0].held[cluster.key(IMAGE).packed] = next(iter(devices.bucket.held.values()))
        await leaving.leave()
        assert all(cluster.key(IMAGE).packed in node.store for node in staying)


@in_virtual_time
async def test_a_node_without_an_encoder_knows_after_a_restart_whose_features_its_disk_has() -> None:
    encoders = [ModelledEncoder(), None]
    disks = [FakeTier(), FakeTier()]
    async with Cluster(2, encoder=lambda index: encoders[index], disk=lambda index: disks[index]) as cluster:
        await cluster.nodes[0].lookup.get(cluster.key(IMAGE), IMAGE)
        await cluster.crash(0)
        await cluster.crash(1)
        node = await cluster.restart(1)
        await asyncio.sleep(CATCH_UP_TIMEOUT_S + 0.1)
        assert node.versions.known() == [cluster.key(IMAGE).encoder]
        assert source(await node.lookup.get(cluster.key(IMAGE))) is Source.MEMORY, "which is warm again"
