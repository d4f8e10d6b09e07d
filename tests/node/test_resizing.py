"""node/resizing.py: a store follows its readings and its user, on virtual time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.node.pressure import Bound, Reading
from edgecache.node.resizing import Resizing
from edgecache.node.store.arena import Arena
from edgecache.node.store.memory import MemoryStore
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Payload
from edgecache.simulations.virtual_time import in_virtual_time

MIB = 1 << 20
MINE = EncoderIdentity.declared("mine", "1")
VALUES = np.random.default_rng(0).standard_normal((100, 200))


def payload(image: int) -> Payload:
    return payloads.encode(VALUES, FeatureKey(image.to_bytes(32), MINE))


class Device:
    """16 MiB of memory, of which a store was given 8, and others have some."""

    def __init__(self) -> None:
        self.memory = MemoryStore(8 * MIB, LRU(), Arena(8 * MIB))
        self.others_bytes = 2 * MIB
        self.resizing = Resizing(self.memory, self.reading)
        self._images = 0

    def reading(self) -> Reading:
        return Reading([Bound(16 * MIB, self.others_bytes + self.memory.resident_bytes)])

    def fill(self, count: int = 500) -> None:
        for _ in range(count):
            self._images += 1
            self.memory.put(payload(self._images))


@in_virtual_time
async def test_a_store_shrinks_while_others_need_memory_and_grows_back() -> None:
    device = Device()
    watching = asyncio.ensure_future(device.resizing.watch())
    device.fill()
    before, evicted = device.memory.used_bytes, device.memory.evicted["capacity"]
    assert before > 7 * MIB
    device.others_bytes = 12 * MIB
    await asyncio.sleep(3)
    assert device.others_bytes + device.memory.resident_bytes <= 0.9 * 16 * MIB
    assert device.memory.used_bytes > 2 * MIB
    assert device.memory.evicted["pressure"] > 100
    assert device.memory.evicted["capacity"] == evicted
    device.fill()  # nothing that is put meanwhile makes it larger
    assert device.others_bytes + device.memory.resident_bytes <= 0.9 * 16 * MIB
    device.others_bytes = 2 * MIB
    await asyncio.sleep(30)
    device.fill()
    assert device.memory.used_bytes > 7 * MIB
    device.memory.check()
    watching.cancel()


@in_virtual_time
async def test_what_is_being_sent_is_given_back_when_it_has_gone() -> None:
    device = Device()
    watching = asyncio.ensure_future(device.resizing.watch())
    device.fill()
    being_sent = [held.data for held in device.memory][:100]
    device.others_bytes = 15 * MIB
    await asyncio.sleep(3)
    pinned = device.memory.pinned_bytes
    assert pinned > MIB
    assert device.memory.resident_bytes > MIB
    being_sent.clear()
    await asyncio.sleep(1)
    assert device.memory.resident_bytes <= 8 * MIB // 10
    watching.cancel()


@in_virtual_time
async def test_a_user_changes_the_capacity() -> None:
    device = Device()
    device.fill()
    heard: list[int] = []
    device.resizing.on_resized = heard.append
    await device.resizing.give(4 * MIB)
    assert heard == [4 * MIB]
    assert device.memory.resident_bytes <= 4 * MIB
    assert device.memory.evicted["resized"] > 100
    await device.resizing.give(12 * MIB)
    device.fill(1000)
    assert device.memory.used_bytes > 11 * MIB
    with pytest.raises(InvalidValue, match=f"memory of {17 * MIB} bytes: between 1250 and {16 * MIB}"):
        await device.resizing.give(17 * MIB)
    assert device.memory.capacity_bytes == 12 * MIB


@in_virtual_time
async def test_others_have_their_turn_while_it_shrinks() -> None:
    device = Device()
    device.fill()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await device.resizing.give(MIB)
    counting.cancel()
    assert turns > 4
