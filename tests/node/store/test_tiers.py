"""node/store/tiers.py: what moves up, what moves down, and what becomes of everything that goes wrong below."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.node.store import lower_tier
from edgecache.node.store import tiers as limits
from edgecache.node.store.arena import Arena
from edgecache.node.store.lower_tier import READS_MAX
from edgecache.node.store.memory import ENTRY_OVERHEAD_BYTES, MemoryStore
from edgecache.node.store.tiers import Tiers
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Payload

from ..conftest import FakeTier

MINE, OTHER = EncoderIdentity.declared("mine", "1"), EncoderIdentity.declared("other", "1")


def payload(image: int, dim: int = 64, encoder: EncoderIdentity = MINE, seed: int = 0) -> Payload:
    key = FeatureKey(image.to_bytes(32), encoder)
    return payloads.encode(np.random.default_rng([image, seed]).standard_normal((1, dim)), key)


SIZE = payload(0).nbytes + ENTRY_OVERHEAD_BYTES


class Room:
    """Tiers with room for some payloads in memory, above a disk and a cloud that a test commands."""

    def __init__(self, entries: int = 2) -> None:
        self.disk, self.cloud = FakeTier(), FakeTier()
        self.unwanted: set[bytes] = set()
        self.tiers = Tiers(
            MemoryStore(entries * SIZE, LRU()),
            disk=self.disk,
            cloud=self.cloud,
            is_wanted=lambda payload: payload.key.packed not in self.unwanted,
        )
        assert self.tiers.disk is not None
        assert self.tiers.cloud is not None
        self.on_disk, self.in_cloud = self.tiers.disk.counters, self.tiers.cloud.counters

    def on_disk_alone(self, image: int) -> Payload:
        made = payload(image)
        self.disk.held[made.key.packed] = bytes(made.data)
        return made

    def in_cloud_alone(self, image: int) -> Payload:
        made = payload(image)
        self.cloud.held[made.key.packed] = bytes(made.data)
        return made


@pytest.fixture
async def room() -> Room:
    return Room()


# -- up ---------------------------------------------------------------------------------------------------------


async def test_memory_answers_at_once_and_nothing_below_is_asked(room: Room) -> None:
    made = payload(1)
    assert room.tiers.put(made)
    assert room.tiers.get(made.key.packed) is made
    assert room.disk.reads == room.cloud.reads == []


async def test_a_hit_on_disk_moves_up_to_memory(room: Room) -> None:
    made = room.on_disk_alone(1)
    key = made.key.packed
    assert room.tiers.get(key) is None
    assert key in room.tiers
    found = await room.tiers.get_from_disk(key)
    assert found is not None
    assert found.data == made.data
    assert room.tiers.get(key) is found
    assert (room.on_disk.hits, room.on_disk.puts, room.on_disk.bytes_out) == (1, 0, made.nbytes)


async def test_a_hit_in_the_cloud_moves_up_to_memory_and_disk(room: Room) -> None:
    made = room.in_cloud_alone(1)
    key = made.key.packed
    assert key not in room.tiers
    assert await room.tiers.get_from_cloud(key) is room.tiers.get(key)
    assert room.disk.held[key] == bytes(made.data)
    assert (room.in_cloud.hits, room.in_cloud.puts, room.on_disk.puts) == (1, 0, 1)


async def test_the_disk_is_told_of_uses_in_memory_some_at_a_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "USES_TOLD_MAX", 1)
    keys = [payload(image).key.packed for image in (1, 2)]
    for image in (1, 2):
        room.tiers.put(payload(image))
    for key in (keys[1], keys[0], keys[1], payload(3).key.packed):
        room.tiers.get(key)
    assert room.disk.touched == []
    for _ in range(3):
        room.tiers.tell_uses()
    assert room.disk.touched == [keys[1], keys[0]], "once each, however often they were used since"


async def test_a_disk_that_may_be_out_of_date_answers_nothing(room: Room) -> None:
    key = room.on_disk_alone(1).key.packed
    room.tiers.is_disk_open = False
    assert not room.tiers.is_on_disk(key)
    assert key not in room.tiers
    assert await room.tiers.get_from_disk(key) is None
    room.tiers.put(payload(2))
    room.tiers.is_disk_open = True
    assert await room.tiers.get_from_disk(key) is not None
    assert payload(2).key.packed in room.disk.held, "it was written to all the while"


async def test_what_no_tier_has_is_a_miss(room: Room) -> None:
    key = payload(1).key.packed
    assert await room.tiers.get_from_disk(key) is None
    assert room.disk.reads == []  # its index says so
    assert await room.tiers.get_from_cloud(key) is None
    assert room.in_cloud.misses == 1


async def test_who_asks_for_the_same_shares_one_read(room: Room) -> None:
    key = room.on_disk_alone(1).key.packed
    room.disk.gate.clear()
    asked = [asyncio.ensure_future(room.tiers.get_from_disk(key)) for _ in range(5)]
    await asyncio.sleep(0)
    room.disk.gate.set()
    found = await asyncio.gather(*asked)
    assert found[0] is not None
    assert all(here is found[0] for here in found)
    assert room.disk.reads == [key]
    assert room.on_disk.hits == 1


async def test_a_waiter_that_gives_up_takes_the_read_from_nobody(room: Room) -> None:
    key = room.on_disk_alone(1).key.packed
    room.disk.gate.clear()
    first, second = (asyncio.ensure_future(room.tiers.get_from_disk(key)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    room.disk.gate.set()
    assert await second is not None


# -- down -------------------------------------------------------------------------------------------------------


async def test_what_comes_goes_to_disk_behind_and_to_the_cloud_if_it_is_new(room: Room) -> None:
    new, from_a_peer = payload(1), payload(2)
    assert room.tiers.put(new, is_new=True)
    assert room.tiers.put(from_a_peer)
    assert room.disk.held.keys() == {new.key.packed, from_a_peer.key.packed}
    assert room.cloud.held.keys() == {new.key.packed}
    assert (room.on_disk.puts, room.in_cloud.puts, room.on_disk.bytes_in) == (2, 1, new.nbytes + from_a_peer.nbytes)


async def test_what_memory_evicts_is_still_on_disk(room: Room) -> None:
    made = [payload(image) for image in range(4)]
    for each in made:
        room.tiers.put(each)
    assert room.tiers.get(made[0].key.packed) is None
    assert await room.tiers.get_from_disk(made[0].key.packed) is not None
    assert room.on_disk.demotions == 0  # it was there already


async def test_what_memory_alone_has_is_demoted_at_the_end(room: Room) -> None:
    one, two = payload(1), payload(2)
    for made in (one, two):
        room.tiers.put(made)
    room.disk.held.pop(one.key.packed)
    await room.tiers.demote_all(1.0)
    assert room.disk.held.keys() == {one.key.packed, two.key.packed}
    assert room.on_disk.demotions == 1
    assert room.disk.touched == [one.key.packed]
    await Tiers(room.tiers.memory).demote_all(1.0)  # without a disk there is nothing to do


async def test_what_the_disk_loses_for_what_is_demoted_at_the_end_is_demoted_again() -> None:
    made = {each.key.packed: each for each in map(payload, range(4))}
    first, *_ = made

    class FullTier(FakeTier):
        """Once, `first` goes for something else."""

        def put(self, key: bytes, data: memoryview) -> bool:
            if key != first and not self.evictions:
                self.evictions = int(self.held.pop(first, None) is not None)
            return super().put(key, data)

    disk = FullTier()
    tiers = Tiers(MemoryStore(4 * SIZE, LRU()), disk=disk)
    for each in made.values():
        tiers.memory.put(each)
    await tiers.demote_all(1.0)
    assert disk.evictions == 1
    assert disk.held == {key: bytes(each.data) for key, each in made.items()}


async def test_what_the_disk_has_lost_is_demoted_when_memory_evicts_it(room: Room) -> None:
    made = [payload(image) for image in range(3)]
    room.tiers.put(made[0])
    del room.disk.held[made[0].key.packed]
    for each in made[1:]:
        room.tiers.put(each)
    assert room.disk.held[made[0].key.packed] == bytes(made[0].data)
    assert room.on_disk.demotions == 1


async def test_what_waits_to_be_demoted_takes_no_room_in_memory() -> None:
    taken: list[memoryview] = []

    class SlowTier(FakeTier):
        """Writes nothing."""

        def put(self, key: bytes, data: memoryview) -> bool:
            taken.append(data)
            return True

    large = [payload(image, dim=40_000) for image in range(40)]
    memory = MemoryStore(20 * large[0].nbytes, LRU(), Arena(20 * large[0].nbytes))
    tiers = Tiers(memory, disk=SlowTier())
    for each in large:
        tiers.put(each)
    assert len(taken) > 40
    assert memory.pinned_bytes == 0
    assert len(memory) >= 18


async def test_the_same_payload_again_is_a_use_and_is_not_written_again(room: Room) -> None:
    one, two = payload(1), payload(2)
    room.tiers.put(one)
    room.tiers.put(two)
    assert room.tiers.put(payload(1))
    room.tiers.put(payload(3))
    assert room.tiers.get(one.key.packed) is one  # so the other one went
    assert room.tiers.get(two.key.packed) is None
    assert room.on_disk.puts == 3


async def test_another_payload_under_the_key_replaces_it_everywhere(room: Room) -> None:
    room.tiers.put(payload(1), is_new=True)
    newer = payload(1, seed=1)
    room.tiers.put(newer, is_new=True)
    for held in (room.disk.held, room.cloud.held):
        assert held[newer.key.packed] == bytes(newer.data)


async def test_what_does_not_fit_into_memory_is_kept_on_disk(room: Room) -> None:
    small, large = payload(1), payload(1, dim=4096)
    room.tiers.put(small)
    assert room.tiers.put(large)
    assert room.tiers.get(large.key.packed) is None
    found = await room.tiers.get_from_disk(large.key.packed)
    assert found is not None
    assert found.data == large.data


async def test_bytes_waiting_to_be_written_have_a_bound(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = payload(1), payload(1, seed=1)
    room.tiers.put(older)
    monkeypatch.setattr(limits, "QUEUED_BYTES_MAX", 1000)
    room.disk.queued_bytes = room.cloud.queued_bytes = 500
    assert room.tiers.put(newer)  # memory has it
    assert room.on_disk.dropped == 1
    assert newer.key.packed not in room.disk.held  # above all not the older one


async def test_a_disk_that_takes_nothing_leaves_memory_working(room: Room) -> None:
    room.disk.takes = False
    made = payload(1)
    assert room.tiers.put(made)
    assert room.tiers.get(made.key.packed) is made
    assert room.on_disk.dropped == 1
    assert not room.tiers.put(payload(2, dim=4096))


# -- what goes wrong --------------------------------------------------------------------------------------------


async def test_damaged_bytes_are_a_miss_and_removed(room: Room) -> None:
    for tier, read, counters in (
        (room.disk, room.tiers.get_from_disk, room.on_disk),
        (room.cloud, room.tiers.get_from_cloud, room.in_cloud),
    ):
        made = payload(1)
        tier.held[made.key.packed] = bytes(made.data)[:-1] + b"\xff"
        assert await read(made.key.packed) is None
        assert made.key.packed not in tier.held
        assert (counters.corrupt, counters.hits) == (1, 0)


async def test_the_payload_of_another_key_is_damaged_too(room: Room) -> None:
    asked, other = payload(1), payload(2)
    room.disk.held[asked.key.packed] = bytes(other.data)
    assert await room.tiers.get_from_disk(asked.key.packed) is None
    assert asked.key.packed not in room.disk.held
    assert room.on_disk.corrupt == 1


async def test_an_error_below_is_a_miss(room: Room) -> None:
    key = room.on_disk_alone(1).key.packed
    room.disk.error = OSError(5, "Input/output error")
    assert await room.tiers.get_from_disk(key) is None
    assert room.on_disk.failures == 1
    room.disk.error = None
    assert await room.tiers.get_from_disk(key) is not None


async def test_a_tier_that_hangs_is_not_waited_for(room: Room) -> None:
    keys = [room.on_disk_alone(image).key.packed for image in range(2 * READS_MAX)]
    room.disk.gate.clear()
    assert await asyncio.gather(*(room.tiers.get_from_disk(key, timeout_s=0.01) for key in keys)) == [None] * len(keys)
    assert room.on_disk.late == len(keys)
    assert room.disk.reading_max == READS_MAX
    in_cloud = room.in_cloud_alone(100)
    assert await room.tiers.get_from_cloud(in_cloud.key.packed) is not None  # it has places of its own
    room.disk.gate.set()


async def test_beyond_the_reads_that_may_wait_the_answer_is_no(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_tier, "READS_WAITING_MAX", 3)
    keys = [room.on_disk_alone(image).key.packed for image in range(4)]
    room.disk.gate.clear()
    asked = [asyncio.ensure_future(room.tiers.get_from_disk(key)) for key in keys]
    assert await asked[3] is None
    assert room.on_disk.shed == 1
    room.disk.gate.set()
    assert None not in await asyncio.gather(*asked[:3])


@pytest.mark.parametrize("is_image", [False, True])
async def test_what_is_forgotten_while_it_is_read_stays_forgotten(room: Room, is_image: bool) -> None:
    for tier, read in ((room.disk, room.tiers.get_from_disk), (room.cloud, room.tiers.get_from_cloud)):
        made = payload(1)
        tier.held[made.key.packed] = bytes(made.data)
        tier.gate.clear()
        asked = asyncio.ensure_future(read(made.key.packed))
        await asyncio.sleep(0.001)
        if is_image:
            room.tiers.remove_image(made.key.digest)
        else:
            room.tiers.remove(made.key.packed)
        tier.gate.set()
        assert await asked is None
        assert made.key.packed not in room.tiers


async def test_what_is_replaced_while_it_is_read_is_not_brought_back(room: Room) -> None:
    older, newer = room.on_disk_alone(1), payload(1, seed=1)
    room.disk.gate.clear()
    asked = asyncio.ensure_future(room.tiers.get_from_disk(older.key.packed))
    await asyncio.sleep(0.001)
    room.tiers.put(newer)
    room.disk.gate.set()
    assert await asked is None
    assert room.tiers.get(older.key.packed) is newer


async def test_what_is_not_wanted_any_more_is_a_miss_and_removed(room: Room) -> None:
    key = room.on_disk_alone(1).key.packed
    room.unwanted.add(key)
    assert await room.tiers.get_from_disk(key) is None
    assert key not in room.tiers


# -- out --------------------------------------------------------------------------------------------------------


async def test_a_key_is_forgotten_on_this_device_and_counts_once(room: Room) -> None:
    made = payload(1)
    room.tiers.put(made)
    assert room.tiers.remove(made.key.packed)
    assert not room.tiers.remove(made.key.packed)
    assert not room.disk.held


async def test_what_is_in_the_cloud_is_removed_by_the_node_that_was_told_and_withdrawn_by_the_others(
    room: Room,
) -> None:
    made = payload(1)
    room.tiers.put(made, is_new=True)
    room.tiers.remove(made.key.packed)
    assert room.cloud.withdrawn == [made.key.packed]
    assert made.key.packed in room.cloud.held
    assert await room.tiers.remove_from_cloud([made.key.digest], 1.0) == 1
    assert not room.cloud.held


async def test_the_cloud_is_not_asked_where_that_does_not_pay(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    key = room.in_cloud_alone(1).key.packed
    monkeypatch.setattr(room.cloud, "pays", lambda key, instead_s: instead_s is None)
    assert await room.tiers.get_from_cloud(key, instead_s=0.01) is None
    assert room.cloud.reads == []
    assert await room.tiers.get_from_cloud(key) is not None


async def test_damaged_bytes_in_the_cloud_are_removed_for_everybody(room: Room) -> None:
    made = room.in_cloud_alone(1)
    room.cloud.held[made.key.packed] = bytes(made.data)[:-1] + b"?"
    assert await room.tiers.get_from_cloud(made.key.packed) is None
    assert (room.in_cloud.corrupt, room.cloud.held) == (1, {})


async def test_an_image_is_forgotten_in_every_tier_whichever_encoder_it_was(room: Room) -> None:
    in_memory, on_disk, kept = payload(1), payload(1, encoder=OTHER), payload(2)
    room.disk.held[on_disk.key.packed] = bytes(on_disk.data)
    room.tiers.put(in_memory)
    room.tiers.put(kept)
    assert set(room.tiers.keys_of_image(in_memory.key.digest)) == {in_memory.key.packed, on_disk.key.packed}
    assert room.tiers.remove_image(in_memory.key.digest) == 2
    assert room.tiers.keys() == [kept.key.packed]
    assert in_memory.key.digest in room.cloud.withdrawn


async def test_what_is_outdated_is_forgotten_on_disk_too(room: Room) -> None:
    old, current = payload(1, encoder=OTHER), payload(2)
    room.disk.held[old.key.packed] = bytes(old.data)
    room.tiers.put(current)
    room.tiers.put(payload(3, encoder=OTHER))
    assert room.tiers.remove_outdated(lambda identity: identity == MINE, [MINE, OTHER]) == 2
    assert room.tiers.keys() == [current.key.packed]


# -- all of it --------------------------------------------------------------------------------------------------


async def test_what_is_durable_is_said_of_the_disk_alone(room: Room) -> None:
    made = payload(1)
    assert not await Tiers(MemoryStore(SIZE, LRU())).flush()
    room.tiers.put(made)
    assert await room.tiers.flush(made.key.packed)
    assert not await room.tiers.flush(payload(2).key.packed)
    room.disk.is_durable = False
    assert not await room.tiers.flush(made.key.packed)


async def test_a_payload_is_read_for_another_node_without_moving_up(room: Room) -> None:
    made = room.on_disk_alone(1)
    read = await room.tiers.read(made.key.packed)
    assert read is not None
    assert read.data == made.data
    assert room.tiers.peek(made.key.packed) is None


async def test_the_encoders_of_what_is_on_disk_are_told_once_each(room: Room) -> None:
    for made in (payload(1), payload(2), payload(3, encoder=OTHER)):
        room.disk.held[made.key.packed] = bytes(made.data)
    damaged = payload(0, encoder=OTHER)
    room.disk.held = {damaged.key.packed: b"damaged", **room.disk.held}
    assert {identity async for identity in room.tiers.encoders()} == {MINE, OTHER}


async def test_closing_ends_reads_and_tiers(room: Room) -> None:
    key = room.on_disk_alone(1).key.packed
    room.disk.gate.clear()
    asked = asyncio.ensure_future(room.tiers.get_from_disk(key))
    await asyncio.sleep(0.001)
    await room.tiers.close()
    assert await asked is None
    assert room.disk.is_closed
    assert room.cloud.is_closed
