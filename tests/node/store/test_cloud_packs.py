"""node/store/cloud_packs.py behind the cloud tier: many payloads in one object."""

from __future__ import annotations

import asyncio
import random

from edgecache.node.store.cloud import CloudTier
from edgecache.node.store.cloud_objects import ObjectsRemote
from edgecache.node.store.cloud_queue import WriteQueue
from edgecache.protocol.cloud import names
from edgecache.protocol.cloud.pack import PackWriter
from edgecache.protocol.payload import Payload
from edgecache.simulations.virtual_time import in_virtual_time

from tests.protocol.cloud.faulty import FaultyObjects

from .test_cloud import ENCODER, cloud, payload, put

# -- packs ------------------------------------------------------------------------------------------------------


async def packed(objects: FaultyObjects, *made: Payload) -> str:
    writer = PackWriter(ENCODER.digest)
    for each in made:
        writer.add(each.key.digest, each.data)
    digest, data = writer.finish()
    await objects.put(names.pack(ENCODER.digest, digest), data)
    return names.pack(ENCODER.digest, digest)


@in_virtual_time
async def test_features_are_read_out_of_packs_by_range() -> None:
    async with cloud() as (tier, objects):
        made = [payload(image) for image in range(1000)]
        await packed(objects, *made[:500])
        await packed(objects, *made[500:])
        for each in (made[0], made[499], made[999]):
            assert await tier.get(each.key.packed) == each.data
        asked = len(objects.calls)
        assert await tier.get(made[7].key.packed) == made[7].data
        assert len(objects.calls) == asked + 1  # one range, for the index is known
        assert tier.pays(made[8].key.packed, instead_s=0.2)


@in_virtual_time
async def test_what_is_removed_does_not_come_back_out_of_a_pack_on_any_node() -> None:
    async with cloud() as (tier, objects):
        made = [payload(image) for image in range(3)]
        await packed(objects, *made)
        await objects.put(names.encoder(ENCODER.digest), names.described(ENCODER))
        assert await tier.remove_now([made[1].key.digest], 5.0) == 1
        now = asyncio.get_running_loop().time
        other = CloudTier(ObjectsRemote(objects, now), now=now, rng=random.Random(2), queue=WriteQueue())
        for node in (tier, other):
            assert await node.get(made[1].key.packed) is None
            assert await node.get(made[2].key.packed) == made[2].data
        put(other, made[1])  # made anew
        await other.flush()
        assert await other.get(made[1].key.packed) == made[1].data
        await other.close()


@in_virtual_time
async def test_a_damaged_pack_and_a_stranger_among_the_packs_are_passed_over() -> None:
    async with cloud() as (tier, objects):
        made = [payload(image) for image in range(3)]
        good, bad = await packed(objects, made[0]), await packed(objects, made[1])
        objects.held[bad] = objects.held[bad][:-100] + bytes(100)
        await objects.put(f"packs/{ENCODER.digest.hex()}/README", b"hello")
        await objects.put(names.pack(ENCODER.digest, bytes(32)), b"short")
        assert await tier.get(made[0].key.packed) == made[0].data
        assert await tier.get(made[1].key.packed) is None
        assert good in objects.held


@in_virtual_time
async def test_a_pack_that_was_deleted_is_forgotten_and_its_features_are_missing() -> None:
    async with cloud() as (tier, objects):
        made = [payload(image) for image in range(2)]
        name = await packed(objects, *made)
        assert await tier.get(made[0].key.packed) == made[0].data
        del objects.held[name]
        assert await tier.get(made[1].key.packed) is None
        assert await tier.get(made[0].key.packed) is None


@in_virtual_time
async def test_a_new_pack_is_found_after_a_while_without_anybody_waiting() -> None:
    async with cloud() as (tier, objects):
        made = [payload(image) for image in range(2)]
        await packed(objects, made[0])
        assert await tier.get(made[0].key.packed) == made[0].data
        await packed(objects, made[1])
        await asyncio.sleep(301)
        assert await tier.get(made[0].key.packed) == made[0].data  # begins to look again behind
        await asyncio.sleep(1)
        assert await tier.get(made[1].key.packed) == made[1].data
