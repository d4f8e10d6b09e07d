"""node/store/disk.py where bits rot, the disk fails or fills up, or the power goes."""

from __future__ import annotations

import asyncio
import errno
import logging
import random

import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.node.store import disk
from edgecache.node.store.disk import DiskStore
from edgecache.node.store.threads import NoThreads
from edgecache.protocol.errors import CorruptPayload
from edgecache.simulations.memory_directory import MemoryDirectory
from edgecache.simulations.virtual_time import in_virtual_time

from .test_disk import MIB, data, key, loaded, unrotted, written

# -- the disk fails ---------------------------------------------------------------------------------------------


def spoiled(directory: MemoryDirectory, offset: int) -> None:
    directory.open("segment-00000000").content[offset] ^= 16


@in_virtual_time
@pytest.mark.parametrize("offset", [4096 + 10, 4096 + 50, 4096 + 100, 4096 + 150_000])
async def test_a_flipped_bit_is_a_miss_and_the_entry_is_gone(offset: int) -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    store.put(key(1), data(1))
    await store.flush()
    spoiled(directory, offset)
    with pytest.raises(CorruptPayload):
        await store.get(key(1))
    assert store.stats.corrupt == 1
    assert key(1) not in store
    await store.flush()
    assert len(store) == 0
    assert len(await loaded(directory.reopened())) == 0
    await store.close()


@in_virtual_time
async def test_a_bad_block_is_a_miss_and_another_error_is_told() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    for number in (1, 2):
        store.put(key(number), data(number))
    await store.flush()
    directory.read_error = errno.EIO
    with pytest.raises(CorruptPayload):
        await store.get(key(1))
    directory.read_error = errno.ENOMEM
    with pytest.raises(OSError, match="memory"):
        await store.get(key(2))
    directory.read_error = None
    assert await store.get(key(2)) == data(2)
    await store.close()


@in_virtual_time
async def test_on_a_full_disk_new_entries_take_the_place_of_old_ones(caplog: pytest.LogCaptureFixture) -> None:
    directory = MemoryDirectory()
    directory.free_bytes = 3 * MIB + 5000
    store = await loaded(directory)
    for number in range(40):
        store.put(key(number), data(number))
        await written(store)
    assert store.trouble is not None
    assert "cannot grow: No space left on device" in store.trouble
    assert len(store) == 18, "three segments"
    assert await store.get(key(39)) == data(39)
    store.check()
    directory.free_bytes = 100 * MIB
    await asyncio.sleep(disk.RETRY_S + 1)
    assert store.trouble is None
    assert "works again" in caplog.text
    for number in range(40, 80):
        store.put(key(number), data(number))
        await written(store)
    assert len(store) == 58
    await store.close()


@in_virtual_time
async def test_a_full_disk_without_a_single_segment_takes_nothing_and_says_so() -> None:
    directory = MemoryDirectory()
    directory.free_bytes = 1000
    store = await loaded(directory)
    store.put(key(1), data(1))
    assert not await store.flush(key(1))
    assert store.trouble is not None
    assert await store.get(key(1)) is None
    store.check()
    await store.close()


@in_virtual_time
async def test_a_disk_turned_read_only_still_answers_and_is_written_to_again_later() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    store.put(key(1), data(1))
    store.put(key(2), data(2))
    await store.flush()
    directory.error = errno.EROFS
    store.put(key(3), data(3))
    store.remove(key(2))
    assert not await store.flush(key(3))
    assert store.trouble is not None
    assert "Read-only file system" in store.trouble
    assert not store.put(key(4), data(4)), "memory only"
    assert await store.get(key(1)) == data(1)
    assert await store.get(key(2)) is None
    store.check()
    directory.error = None
    await asyncio.sleep(disk.RETRY_S + 1)
    assert store.trouble is None
    store.put(key(4), data(4))
    assert await store.flush(key(4))
    assert sorted(await loaded(directory.reopened())) == sorted([key(1), key(4)]), "the removal was not forgotten"
    await store.close()


@in_virtual_time
async def test_what_could_not_be_synced_is_not_trusted() -> None:
    directory = MemoryDirectory()
    store = await loaded(directory)
    store.put(key(1), data(1))
    await written(store)
    directory.error = errno.EIO
    assert not await store.flush(key(1))
    assert key(1) not in store
    store.check()
    await store.close()


@in_virtual_time
async def test_a_directory_that_cannot_be_opened_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    directory = MemoryDirectory()
    failing = True

    def open_directory() -> MemoryDirectory:
        if failing:
            raise PermissionError(errno.EACCES, "Permission denied")
        return directory

    store = DiskStore(
        open_directory, 16 * MIB, LRU, threads=NoThreads(), entries_max=10, now=asyncio.get_running_loop().time
    )
    store.start()
    await store.ready()
    assert store.trouble == "the disk store cannot be opened: Permission denied"
    assert not store.put(key(1), data(1))
    assert not await store.flush()
    failing = False
    await asyncio.sleep(disk.RETRY_S + 1)
    assert store.trouble is None
    assert store.put(key(1), data(1))
    assert await store.flush(key(1))
    await store.close()


@in_virtual_time
async def test_trouble_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    directory = MemoryDirectory()
    directory.free_bytes = 0
    store = await loaded(directory)
    for number in range(20):
        store.put(key(number), data(number))
        await written(store)
    await asyncio.sleep(100)
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    await store.close()


# -- power cuts -------------------------------------------------------------------------------------------------


@in_virtual_time
@pytest.mark.parametrize("seed", range(30))
async def test_after_a_power_cut_what_was_synced_is_there_and_nothing_is_wrong(seed: int) -> None:
    """Puts, replacements, removals, evictions and moves; the cut comes anywhere."""
    rng = random.Random(seed)
    directory = MemoryDirectory()
    store = await loaded(directory)
    put: dict[bytes, set[bytes]] = {}  # everything ever put under a key
    owed: dict[bytes, set[bytes]] = {}  # of a key that a flush has made durable: that, or what was put since
    for step in range(rng.randrange(40, 160)):
        name = key(rng.randrange(60))
        what = rng.random()
        if what < 0.75:
            content = data(seed * 1000 + step, rng.choice((964, 150_000, 151_504)))
            store.put(name, content)
            put.setdefault(name, set()).add(bytes(content))
            if name in owed:
                owed[name].add(bytes(content))
        elif what < 0.8:
            store.remove(name)
            owed.pop(name, None)
        elif what < 0.95:
            await asyncio.sleep(rng.choice((0.01, 0.15, 2.5)))
        else:
            await store.flush()
            owed = {held: {bytes(found)} for held in store if (found := await store.get(held)) is not None}
    again = await loaded(directory.after_power_cut(rng))
    assert again.trouble is None
    again.check()
    for name, versions in put.items():
        found = await unrotted(again, name)
        assert found is None or bytes(found) in versions, "never torn, never another key's"
        if name in owed and not store.evictions:
            assert found is not None
            assert bytes(found) in owed[name]
    await store.close()
