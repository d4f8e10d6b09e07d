"""node/store/warm_start.py: memory after a restart."""

from __future__ import annotations

import asyncio

from edgecache.node.eviction.lru import LRU
from edgecache.node.store.arena import Arena
from edgecache.node.store.memory import MemoryStore
from edgecache.node.store.tiers import Tiers
from edgecache.node.store.warm_start import warm_memory
from edgecache.simulations.memory_directory import MemoryDirectory
from edgecache.simulations.virtual_time import in_virtual_time

from .test_disk import loaded
from .test_tiers import SIZE, payload


async def tiers_of(directory: MemoryDirectory, entries: int) -> Tiers:
    return Tiers(MemoryStore(entries * SIZE, LRU()), disk=await loaded(directory))


async def lived(directory: MemoryDirectory) -> list[bytes]:
    """Ten entries in a disk and four of them in memory; used in the order that is returned."""
    tiers = await tiers_of(directory, 4)
    for image in range(10):
        tiers.put(payload(image))
    order = [payload(image).key.packed for image in (3, 8, 1, 5)]  # 8 came later than 1: its uses are worth more
    for key in order:
        await asyncio.sleep(2)
        if tiers.get(key) is None:
            assert await tiers.get_from_disk(key) is not None
        tiers.tell_uses()
    await tiers.close()
    return order


@in_virtual_time
async def test_memory_has_again_what_was_used_last_and_evicts_it_in_the_same_order() -> None:
    directory = MemoryDirectory()
    order = await lived(directory)
    tiers = await tiers_of(directory.reopened(), 4)
    assert await warm_memory(tiers) == 4
    assert {held.key.packed for held in tiers.memory} == set(order)
    gone: list[bytes] = []
    tiers.memory.on_evict = lambda evicted: gone.append(evicted.key.packed)
    for image in range(100, 104):
        tiers.put(payload(image))
    assert gone == order
    await tiers.close()


@in_virtual_time
async def test_the_most_valuable_come_first_and_nothing_is_evicted_for_them() -> None:
    directory = MemoryDirectory()
    order = await lived(directory)
    tiers = await tiers_of(directory.reopened(), 3)
    tiers.put(payload(200))
    assert await warm_memory(tiers) == 2
    assert {held.key.packed for held in tiers.memory} == {payload(200).key.packed, order[3], order[1]}
    assert tiers.memory.evictions == 0
    await tiers.close()


@in_virtual_time
async def test_an_arena_is_filled_to_its_spare_and_the_most_valuable_stay() -> None:
    directory = MemoryDirectory()
    tiers = await tiers_of(directory, 4)
    for image in range(200):
        tiers.put(payload(image, dim=20_000))
        await asyncio.sleep(0.2)
    hot = [payload(image, dim=20_000).key.packed for image in range(100, 110)]
    for key in hot:
        assert await tiers.get_from_disk(key) is not None
        tiers.tell_uses()
        await asyncio.sleep(1)
    await tiers.close()
    memory = MemoryStore(1 << 20, LRU(), Arena(1 << 20))
    tiers = Tiers(memory, disk=await loaded(directory.reopened()))
    came = await warm_memory(tiers)
    assert came == len(memory) > 40
    assert memory.evictions == 0
    assert memory.utilisation > 0.95
    assert {*hot} <= {held.key.packed for held in memory}
    await tiers.close()


@in_virtual_time
async def test_what_was_put_anew_meanwhile_stays() -> None:
    directory = MemoryDirectory()
    await lived(directory)
    tiers = await tiers_of(directory.reopened(), 20)
    warming = asyncio.ensure_future(warm_memory(tiers))
    tiers.put(payload(5, seed=1))
    await warming
    assert tiers.get(payload(5).key.packed) == tiers.peek(payload(5).key.packed)
    held = tiers.get(payload(5).key.packed)
    assert held is not None
    assert held.checksum == payload(5, seed=1).checksum
    await tiers.close()


@in_virtual_time
async def test_without_a_disk_there_is_nothing_to_do() -> None:
    assert await warm_memory(Tiers(MemoryStore(SIZE, LRU()))) == 0
