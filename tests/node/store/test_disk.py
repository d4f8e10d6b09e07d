"""node/store/disk.py on a directory in memory and virtual time; real files are in test_disk_files.py."""

from __future__ import annotations

import asyncio
import random
from hashlib import sha512
from typing import Any

import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.node.store import disk
from edgecache.node.store.disk import DiskStore
from edgecache.node.store.threads import NoThreads
from edgecache.protocol.errors import CorruptPayload
from edgecache.simulations.memory_directory import MemoryDirectory
from edgecache.simulations.virtual_time import in_virtual_time

MIB = 1024 * 1024


def key(number: int) -> bytes:
    return sha512(b"%d" % number).digest()


def data(number: int, nbytes: int = 150_000) -> memoryview:
    return memoryview(random.Random(number).randbytes(nbytes))


def opened(directory: MemoryDirectory, capacity_bytes: int = 16 * MIB, **settings: Any) -> DiskStore:
    """A store of that directory, started."""
    store = DiskStore(
        lambda: directory,
        capacity_bytes,
        settings.pop("policy", LRU),
        threads=NoThreads(),
        entries_max=settings.pop("entries_max", 100_000),
        now=asyncio.get_running_loop().time,
        **settings,
    )
    store.start()
    return store


async def loaded(directory: MemoryDirectory, capacity_bytes: int = 16 * MIB, **settings: Any) -> DiskStore:
    store = opened(directory, capacity_bytes, **settings)
    await store.ready()
    return store


async def unrotted(store: DiskStore, name: bytes) -> memoryview | None:
    """The data of `name`, None where it is not there or has rotted."""
    try:
        return await store.get(name)
    except CorruptPayload:
        return None


async def written(store: DiskStore) -> None:
    """Let the queue run empty; nothing is synced for that."""
    while store.queued_bytes:  # noqa: ASYNC110 (what is waited for is the very thing that has no event)
        await asyncio.sleep(0.01)


@in_virtual_time
async def test_what_was_put_is_found_at_once_and_after_it_was_written() -> None:
    store = await loaded(MemoryDirectory())
    assert store.put(key(1), data(1))
    assert key(1) in store
    assert list(store) == [key(1)]
    assert await store.get(key(1)) == data(1)
    assert len(store) == 0, "not written yet"
    assert await store.flush(key(1))
    assert len(store) == 1
    assert await store.get(key(1)) == data(1)
    assert await store.get(key(2)) is None
    store.check()
    await store.close()


@in_virtual_time
async def test_a_batch_is_written_within_a_fraction_of_a_second_and_synced_within_seconds() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    store.put(key(1), data(1))
    await asyncio.sleep(disk.BATCH_S + 0.05)
    assert store.queued_bytes == 0
    assert store.stats.syncs == 0
    await asyncio.sleep(disk.SYNC_S + 0.2)
    assert store.stats.syncs == 1
    assert await loaded(directory.after_power_cut(random.Random(1))) is not None
    await store.close()


@in_virtual_time
async def test_the_last_put_of_a_key_counts() -> None:
    store = await loaded(MemoryDirectory())
    for number in (1, 2):
        store.put(key(1), data(number))
    assert store.queued_bytes == 150_000
    await store.flush()
    store.put(key(1), data(3))
    await store.flush()
    assert await store.get(key(1)) == data(3)
    assert len(store) == 1
    await asyncio.sleep(1)
    store.check()
    await store.close()


@in_virtual_time
async def test_what_was_removed_is_gone_at_once_and_for_good() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(3):
        store.put(key(number), data(number))
    await store.flush()
    store.put(key(1), data(9))  # a second record of it, the first not yet erased
    await written(store)
    assert store.remove(key(1))
    assert not store.remove(key(1))
    assert store.remove_image(key(2)[:32]) == 1
    assert key(1) not in store
    assert await store.get(key(1)) is None
    await written(store)
    await asyncio.sleep(disk.BATCH_S * 2)
    again = await loaded(directory.reopened())
    assert list(again) == [key(0)]
    await store.close()


@in_virtual_time
async def test_everything_is_there_after_kill_9() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(60):
        store.put(key(number), data(number, 1 + number % 4 * 50_000))
    await written(store)
    again = await loaded(directory.reopened())
    assert len(again) == 60
    for number in range(60):
        assert await again.get(key(number)) == data(number, 1 + number % 4 * 50_000)
    again.check()


@in_virtual_time
async def test_used_bytes_are_those_that_features_take_and_files_are_larger() -> None:
    store = await loaded(MemoryDirectory())
    assert store.used_bytes == 0
    for number in range(4):
        store.put(key(number), data(number))
    await written(store)
    assert 4 * 150_000 < store.used_bytes < 1.04 * 4 * 150_000 < store.file_bytes
    files = store.file_bytes
    for number in range(4):
        store.remove(key(number))
    await store.flush()
    assert (store.used_bytes, store.file_bytes) == (0, files)


@in_virtual_time
async def test_the_store_keeps_to_its_bytes_and_evicts_what_was_not_used() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(300):
        store.put(key(number), data(number))
        await written(store)
        store.touch(key(0))
    store.check()
    assert store.file_bytes == sum(directory.size(name) for name in directory.names()) <= 16 * MIB
    assert key(0) in store
    assert key(1) not in store
    assert len(store) * 150_000 > 0.85 * 16 * MIB, "of segments with six slots each"
    assert len(store) + store.evictions == 300
    await store.close()


@in_virtual_time
async def test_slots_of_a_size_that_is_no_longer_wanted_make_room_for_another() -> None:
    store = await loaded(MemoryDirectory())
    for number in range(110):
        store.put(key(number), data(number))
        await written(store)
    for number in range(1000, 13_000):
        store.put(key(number), data(number, 964))
        if number % 500 == 0:
            await written(store)
    await store.flush()
    store.check()
    small = sum(key(number) in store for number in range(1000, 13_000))
    assert small > 11_000
    for number in range(12_500, 13_000):
        assert await store.get(key(number)) == data(number, 964)
    await store.close()


@in_virtual_time
async def test_what_is_moved_to_make_room_stays_what_it_was() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(90):
        store.put(key(number), data(number))
    await store.flush()
    for number in range(90):
        if number % 6:  # one is left in each segment
            store.remove(key(number))
    await store.flush()
    for number in range(200, 212):
        store.put(key(number), data(number, MIB))
    await store.flush()
    assert store.stats.moved > 0
    store.check()
    for number in range(0, 90, 6):
        assert await store.get(key(number)) == data(number)
    again = await loaded(directory.reopened())
    for number in range(0, 90, 6):
        assert await again.get(key(number)) == data(number)
    await store.close()


@pytest.mark.parametrize("seed", range(1, 4))
@in_virtual_time
async def test_what_is_here_at_the_end_is_here_after_a_restart_whatever_was_moved(seed: int) -> None:
    rng = random.Random(seed)
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(200):
        store.put(key(number), data(number, rng.choice((150_000, 591_000))))
        for _ in range(3):
            store.touch(key(rng.randrange(number + 1)))
        if rng.random() < 0.2:
            await store.flush()
    await store.flush()
    here = {each: bytes(await store.get(each) or b"") for each in store}
    assert all(here.values())
    await store.close()
    assert store.stats.moved > 0

    store = await loaded(directory)
    assert {each: bytes(await store.get(each) or b"") for each in store} == here
    await store.close()


@in_virtual_time
async def test_an_entry_may_take_a_quarter_of_the_store_and_no_more() -> None:
    store = await loaded(MemoryDirectory())
    assert store.put(key(1), memoryview(bytes(3 * MIB)))
    assert not store.put(key(2), memoryview(bytes(5 * MIB)))
    assert await store.flush(key(1))
    assert not await store.flush(key(2))
    await store.close()


@in_virtual_time
async def test_only_so_many_entries_are_kept_in_mind() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory, entries_max=20)
    for number in range(50):
        store.put(key(number), data(number, 500))
        await written(store)
    assert list(store) == [key(number) for number in range(30, 50)]
    store.check()
    await store.close()
    again = await loaded(directory.reopened(), entries_max=5)
    assert list(again) == [key(number) for number in range(45, 50)]
    await again.close()


@in_virtual_time
async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "QUEUE_BYTES_MAX", 500_000)
    store = await loaded(MemoryDirectory())
    accepted = [store.put(key(number), data(number)) for number in range(5)]
    assert accepted == [True, True, True, False, False]
    assert store.stats.dropped == 2
    await written(store)
    assert store.put(key(9), data(9))
    await store.close()


# -- restarts ---------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_order_of_evictions_survives_a_restart() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(80):
        store.put(key(number), data(number))
        await written(store)
    rng = random.Random(3)
    for number in rng.choices(range(80), k=200):
        await asyncio.sleep(1.1)
        store.touch(key(number))
    await store.close()
    again = await loaded(directory.reopened())
    order = []
    for which in (store, again):
        gone = []
        while which._index.entries:
            before = list(which._index.entries)
            which._index.evict()
            gone += [one for one in before if one not in which._index.entries]
        order.append(gone)
    assert order[0] == order[1]


@in_virtual_time
async def test_the_history_is_kept_from_time_to_time_without_a_clean_end() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(5):
        store.put(key(number), data(number))
    await store.flush()
    await asyncio.sleep(2)
    store.touch(key(0))
    await asyncio.sleep(disk.SAVE_HISTORY_S + 1)
    again = await loaded(directory.reopened())
    assert again.by_worth()[0] == key(0)
    await store.close()


@in_virtual_time
async def test_a_damaged_history_costs_the_order_and_nothing_else() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    store.put(key(1), data(1))
    await store.close()
    directory.open("history").content[20] ^= 1
    again = await loaded(directory.reopened())
    assert await again.get(key(1)) == data(1)
    assert again.trouble is None


@in_virtual_time
async def test_a_smaller_capacity_than_before_keeps_the_newest_segments() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory, 32 * MIB)
    for number in range(150):
        store.put(key(number), data(number))
        await written(store)
    await store.close()
    again = await loaded(directory.reopened(), 16 * MIB)
    again.check()
    assert key(149) in again
    assert key(0) not in again
    await again.close()


@in_virtual_time
async def test_a_segment_that_cannot_be_read_as_one_is_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in range(12):  # three in a segment
        store.put(key(number), data(number))
    await store.close()
    directory.open("segment-00000000").content[3] ^= 1
    directory = directory.reopened()
    again = await loaded(directory)
    assert "segment-00000000 cannot be used" in caplog.text
    assert "segment.corrupt" in directory.names()
    assert len(again) == 9
    assert again.file_bytes > 12 * 150_000, "what is set aside counts"
    again.put(key(99), data(99))
    assert await again.flush(key(99))
    again.check()
    await again.close()
