"""Fetching ahead: by a real node below requests, and on the edge-vision workload."""

from __future__ import annotations

import asyncio

import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.policy import NO_FACTS, Facts
from edgecache.node.prefetch import Forecast, Prefetcher
from edgecache.protocol.features import Source
from edgecache.protocol.payload import Payload
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.prefetching import run
from edgecache.simulations.virtual_time import in_virtual_time
from edgecache.simulations.workloads.edge_vision import EdgeVision

from ..node.conftest import FakeTier

TOUR = [b"view %d" % view for view in range(30)]


async def toured(cluster: Cluster) -> list[Source]:
    """A camera's round on node 0, a view a second; who answered."""
    sources = []
    for image in TOUR:
        found = await cluster.nodes[0].lookup.get(cluster.key(image), image, stream="camera")
        assert found is not None
        sources.append(found.source)
        await asyncio.sleep(1)
    return sources


@in_virtual_time
async def test_memory_is_told_of_the_stream_and_of_the_hour_on_the_nodes_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Cluster(1) as cluster:
        memory, heard = cluster.nodes[0].store.memory, []
        put = memory.put

        def hear(payload: Payload, facts: Facts = NO_FACTS) -> bool:
            heard.append((facts.stream, facts.hour))
            return put(payload, facts)

        monkeypatch.setattr(memory, "put", hear)
        for image, stream in ((b"one", "gate"), (b"two", "yard")):
            await cluster.nodes[0].lookup.get(cluster.key(image), image, stream=stream)
            await asyncio.sleep(3600)
    (gate, first), (yard, second) = heard
    assert (gate, yard) == (0, 1)
    assert first is not None
    assert second == (first + 1) % 24


def forget_in_memory(cluster: Cluster) -> None:
    store = cluster.nodes[0].store
    for held in store.memory:
        store.memory.remove(held.key.packed)


@in_virtual_time
async def test_a_tour_is_fetched_ahead_from_disk() -> None:
    disk = FakeTier()
    async with Cluster(1, disk=lambda index: disk) as cluster:
        for _ in range(3):
            await toured(cluster)
            forget_in_memory(cluster)
        assert (await toured(cluster)).count(Source.MEMORY) >= 27
        told = cluster.nodes[0].counters()["prefetch"]["sequence"]
        assert told["used"] >= 27
        assert told["pays"]


@in_virtual_time
async def test_a_tour_is_fetched_ahead_from_the_peers_that_should_have_it() -> None:
    async with Cluster(3) as cluster:
        for _ in range(3):
            await toured(cluster)
            forget_in_memory(cluster)
        sources = await toured(cluster)
        assert sources.count(Source.MEMORY) >= 27
        assert cluster.nodes[0].stats.encodes == len(TOUR)


@in_virtual_time
async def test_what_was_forgotten_is_not_fetched_ahead() -> None:
    disk = FakeTier()
    async with Cluster(1, disk=lambda index: disk) as cluster:
        for _ in range(3):
            await toured(cluster)
        node, gone = cluster.nodes[0], cluster.key(TOUR[5])
        await node.lookup.forget([gone.packed])
        forget_in_memory(cluster)
        for image in TOUR[:5]:
            await node.lookup.get(cluster.key(image), stream="camera")
            await asyncio.sleep(1)
        assert gone.packed not in node.store


@in_virtual_time
async def test_a_request_does_not_wait_for_what_is_fetched_ahead() -> None:
    disk = FakeTier()
    async with Cluster(1, disk=lambda index: disk, encoder=lambda index: ModelledEncoder(encode_s=0.0)) as cluster:
        for _ in range(3):
            await toured(cluster)
        node, loop = cluster.nodes[0], asyncio.get_running_loop()
        first = cluster.key(TOUR[0])
        for held in node.store.memory:
            if held.key.packed != first.packed:
                node.store.memory.remove(held.key.packed)
        disk.gate.clear()
        started = loop.time()
        assert await node.lookup.get(first, stream="camera") is not None
        assert loop.time() == started
        await asyncio.sleep(0.01)
        assert disk.reading > 0, "the next views are on their way"
        disk.gate.set()


@in_virtual_time
async def test_what_comes_into_memory_just_after_it_was_asked_is_found_there() -> None:
    disk = FakeTier()
    async with Cluster(1, disk=lambda index: disk) as cluster:
        node, key = cluster.nodes[0], cluster.key(TOUR[0])
        made = await node.lookup.get(key, TOUR[0])
        assert made is not None
        node.store.memory.remove(key.packed)
        asked = asyncio.ensure_future(node.lookup.get(key))
        asyncio.get_running_loop().call_soon(node.store.memory.put, made.payload)  # before its search begins
        found = await asked
        assert found is not None
        assert found.source is Source.MEMORY


def test_on_the_edge_vision_workload_prefetch_adds_to_what_eviction_can_do() -> None:
    looks = list(EdgeVision(days=1, cameras=2).looks(7))
    capacity = sum({look.key: look.size for look in looks}.values()) // 5
    alone = run(looks, capacity, LRU())
    ahead = run(looks, capacity, LRU(), Prefetcher(capacity))
    assert ahead.hit_ratio > alone.hit_ratio + 0.02
    for forecast in Forecast:
        assert 0 < ahead.by_prefetch[forecast] <= ahead.issued[forecast]
