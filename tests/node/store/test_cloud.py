"""The cloud tier over an object store that fails on command, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from edgecache.node.breaker import BreakerState
from edgecache.node.store.cloud import MISSING_S, SLOW_S, CloudTier
from edgecache.node.store.cloud_objects import ObjectsRemote
from edgecache.node.store.cloud_queue import PUTS_BYTES_MAX, WriteQueue
from edgecache.protocol import payload as payloads
from edgecache.protocol.cloud import names
from edgecache.protocol.cloud.objects import ObjectStoreError
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.payload import Payload
from edgecache.simulations.virtual_time import in_virtual_time

from tests.protocol.cloud.faulty import FaultyObjects

ENCODER = EncoderIdentity("edgecache/tiny", "1", digest_of(b"weights"))
DECLARED = EncoderIdentity.declared("mine", "1")


def payload(image: int, encoder: EncoderIdentity = ENCODER, seed: int = 0, dim: int = 64) -> Payload:
    array = np.random.default_rng([image, seed]).standard_normal((1, dim))
    return payloads.encode(array, FeatureKey(digest_of(b"image %d" % image), encoder))


def put(tier: CloudTier, *made: Payload) -> None:
    for each in made:
        tier.put(each.key.packed, each.data)


def object_of(made: Payload) -> str:
    return names.feature(made.key.packed)


@asynccontextmanager
async def cloud(queue_bytes: int = PUTS_BYTES_MAX) -> AsyncIterator[tuple[CloudTier, FaultyObjects]]:
    objects = FaultyObjects()
    now = asyncio.get_running_loop().time
    tier = CloudTier(ObjectsRemote(objects, now), now=now, rng=random.Random(1), queue=WriteQueue(queue_bytes))
    try:
        yield tier, objects
    finally:
        await tier.close()


async def until_open(tier: CloudTier) -> None:
    for image in range(1000, 1003):
        with pytest.raises(OSError, match="the cloud"):
            await tier.get(payload(image).key.packed)
    assert tier.breaker.state is BreakerState.OPEN


# -- reading ----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_was_put_is_read_again_by_another_node() -> None:
    async with cloud() as (tier, objects):
        made = payload(1)
        put(tier, made)
        assert await tier.flush()
        assert objects.held[object_of(made)] == made.data
        now = asyncio.get_running_loop().time
        other = CloudTier(ObjectsRemote(objects, now), now=now, rng=random.Random(2), queue=WriteQueue())
        assert await other.get(made.key.packed) == made.data
        await other.close()


@in_virtual_time
async def test_a_node_that_has_heard_of_no_encoder_learns_of_those_in_the_cloud_now_and_then() -> None:
    async with cloud() as (tier, objects):
        put(tier, payload(1), payload(2, DECLARED))
        assert await tier.flush()
        await objects.put(names.encoder(digest_of(b"a lie")), names.described(ENCODER))
        await objects.put(names.encoder(digest_of(b"nonsense")), b"{")
        for told in await asyncio.gather(tier.encoders(), tier.encoders()):
            assert sorted(told, key=str) == [ENCODER, DECLARED]
        later = EncoderIdentity.declared("later", "1")
        await objects.put(names.encoder(later.digest), names.described(later))
        assert later not in await tier.encoders()  # it was asked a moment ago
        await asyncio.sleep(MISSING_S)
        assert later in await tier.encoders()


@in_virtual_time
async def test_what_waits_to_be_written_is_answered_from_where_it_waits() -> None:
    async with cloud() as (tier, objects):
        objects.is_out = True
        made = payload(1)
        put(tier, made)
        assert await tier.get(made.key.packed) == made.data
        assert tier.pays(made.key.packed, 0.001)
        tier.remove(made.key.packed)
        assert await tier.get(made.key.packed) is None
        assert not tier.pays(made.key.packed, None)


@in_virtual_time
async def test_removals_together_ask_for_few_objects_at_a_time() -> None:
    async with cloud() as (tier, objects):
        encoders = [EncoderIdentity.declared("mine", str(version)) for version in range(20)]
        made = [payload(image, encoder) for image in range(4) for encoder in encoders]
        put(tier, *made)
        assert await tier.flush()
        objects.delay_s = 0.01
        assert await tier.remove_now([digest_of(b"image %d" % image) for image in range(4)], 60.0) == len(made)
        assert not [name for name in objects.held if name.startswith(names.FEATURES)]
        assert 10 < objects.waiting_max <= 20, "of four writers"


@in_virtual_time
async def test_what_was_missing_is_not_asked_for_again_for_a_minute() -> None:
    async with cloud() as (tier, objects):
        made = payload(1)
        assert await tier.get(made.key.packed) is None
        asked = objects.count("open")
        assert await tier.get(made.key.packed) is None
        assert not tier.pays(made.key.packed, None)
        assert objects.count("open") == asked
        objects.held[object_of(made)], objects.versions[object_of(made)] = bytes(made.data), 1
        await asyncio.sleep(MISSING_S + 1)
        assert tier.pays(made.key.packed, None)
        assert await tier.get(made.key.packed) == made.data


@in_virtual_time
async def test_what_was_missing_and_is_put_here_is_there() -> None:
    async with cloud() as (tier, _):
        made = payload(1)
        assert await tier.get(made.key.packed) is None
        put(tier, made)
        await tier.flush()
        assert await tier.get(made.key.packed) == made.data


@in_virtual_time
async def test_a_cloud_that_is_out_is_left_alone_and_tried_again_by_one() -> None:
    async with cloud() as (tier, objects):
        objects.is_out = True
        await until_open(tier)
        asked = len(objects.calls)
        with pytest.raises(ObjectStoreError, match="failed too often"):
            await tier.get(payload(1).key.packed)
        assert not tier.pays(payload(1).key.packed, None)
        assert len(objects.calls) == asked
        objects.is_out = False
        await asyncio.sleep(2.0)
        assert await tier.get(payload(1).key.packed) is None
        assert not tier.is_degraded


@in_virtual_time
async def test_a_cloud_that_hangs_is_known_for_it_before_its_callers_have_all_waited_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cloud() as (tier, objects):
        objects.hangs = True
        waiting = [asyncio.ensure_future(tier.get(payload(image).key.packed)) for image in range(3)]
        await asyncio.sleep(SLOW_S + 0.1)
        assert tier.is_degraded
        assert tier.told()["state"] == "open"
        assert caplog.text.count("degraded: the cloud does not answer (no answer within 5 s)") == 1
        for each in waiting:
            with pytest.raises(ObjectStoreError):
                await each
        assert asyncio.get_running_loop().time() <= 31


@in_virtual_time
async def test_a_reader_that_goes_away_during_the_trial_leaves_it_to_the_next() -> None:
    async with cloud() as (tier, objects):
        objects.is_out = True
        await until_open(tier)
        objects.is_out, objects.delay_s = False, 1.0
        await asyncio.sleep(2.0)
        trial = asyncio.ensure_future(tier.get(payload(1).key.packed))
        await asyncio.sleep(0.1)
        assert not tier.pays(payload(2).key.packed, None)
        trial.cancel()
        await asyncio.sleep(0.1)
        assert await tier.get(payload(2).key.packed) is None


@in_virtual_time
async def test_who_can_encode_faster_than_the_cloud_answers_does_not_ask_it() -> None:
    async with cloud() as (tier, objects):
        objects.delay_s = 0.3
        for image in range(200):
            assert await tier.get(payload(image).key.packed) is None
        key = payload(1000).key.packed
        assert not tier.pays(key, instead_s=0.1)
        assert not tier.pays(key, instead_s=2.0)  # it never had anything
        assert tier.pays(key, instead_s=None)


# -- writing ----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_writes_wait_for_a_cloud_that_is_out_and_go_when_it_is_back() -> None:
    async with cloud() as (tier, objects):
        objects.is_out = True
        made = [payload(image) for image in range(20)]
        put(tier, *made)
        await asyncio.sleep(20)
        assert not await tier.flush()
        assert len(objects.calls) < 40  # the breaker, not every writer's every attempt
        objects.is_out = False
        await asyncio.sleep(60)
        assert await tier.flush()
        kept = sum(object_of(each) in objects.held for each in made)
        assert kept + tier.told()["uploads_dropped"] == len(made)
        assert kept >= 15


@in_virtual_time
async def test_an_outage_of_hours_takes_no_more_memory_than_the_queue_may() -> None:
    size = payload(0).nbytes
    async with cloud(queue_bytes=10 * size) as (tier, objects):
        objects.is_out = True
        for image in range(1000):
            put(tier, payload(image))
            await asyncio.sleep(10)
            assert tier.queued_bytes <= 10 * size
        assert tier.told()["queued"] <= 10
        assert tier.told()["uploads_dropped"] >= 990
        objects.is_out = False
        await asyncio.sleep(120)
        assert object_of(payload(999)) in objects.held  # the newest are what waits


@in_virtual_time
async def test_the_same_payload_is_not_sent_twice() -> None:
    async with cloud() as (tier, objects):
        made = payload(1, dim=20_000)
        put(tier, made)
        await tier.flush()
        put(tier, made)
        await tier.flush()
        assert objects.count("put", "features/") == 1
        assert (tier.told()["uploads"], tier.told()["uploads_skipped"]) == (1, 1)


@pytest.mark.parametrize("dim", [64, 20_000])
def test_other_features_of_the_same_key_take_the_place_of_the_older(dim: int) -> None:
    @in_virtual_time
    async def story() -> None:
        async with cloud() as (tier, objects):
            older, newer = (payload(1, DECLARED, seed, dim) for seed in (1, 2))
            put(tier, older)
            await tier.flush()
            put(tier, newer)
            await tier.flush()
            assert objects.held[object_of(newer)] == newer.data

    story()


@in_virtual_time
async def test_a_users_older_features_do_not_outlive_newer_ones_that_could_not_be_sent() -> None:
    size = payload(1, DECLARED).nbytes
    async with cloud(queue_bytes=2 * size) as (tier, objects):
        older, newer = (payload(1, DECLARED, seed) for seed in (1, 2))
        put(tier, older)
        await tier.flush()
        objects.is_out = True
        put(tier, newer, *(payload(image) for image in range(2, 8)))  # too much for the queue: `newer` is dropped
        objects.is_out = False
        await asyncio.sleep(30)
        await tier.flush()
        assert object_of(older) not in objects.held


@in_virtual_time
async def test_an_encoder_is_described_once_beside_its_features() -> None:
    async with cloud() as (tier, objects):
        put(tier, *(payload(image) for image in range(5)))
        await tier.flush()
        assert objects.held[names.encoder(ENCODER.digest)] == names.described(ENCODER)
        put(tier, payload(9))
        await tier.flush()
        assert 1 <= objects.count("put", "encoders/") <= 4  # as many as there are writers


@in_virtual_time
async def test_at_the_end_what_waits_is_written_as_far_as_the_cloud_takes_it() -> None:
    async with cloud() as (tier, objects):
        objects.delay_s = 0.1
        made = [payload(image) for image in range(8)]
        put(tier, *made)
        await tier.close()
        assert all(object_of(each) in objects.held for each in made)
        assert not tier.put(made[0].key.packed, made[0].data)


@in_virtual_time
async def test_the_end_does_not_wait_for_a_cloud_that_hangs() -> None:
    async with cloud() as (tier, objects):
        objects.hangs = True
        put(tier, payload(1))
        await asyncio.sleep(1)
        started = asyncio.get_running_loop().time()
        await tier.close()
        assert asyncio.get_running_loop().time() - started < 6


# -- removing ---------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_is_removed_now_is_counted_and_gone() -> None:
    async with cloud() as (tier, objects):
        made, of_user = payload(1), payload(1, DECLARED)
        put(tier, made, of_user, payload(2))
        await tier.flush()
        assert await tier.remove_now([made.key.packed], 1.0) == 1
        assert await tier.remove_now([made.key.packed], 1.0) == 0
        assert await tier.remove_now([made.key.digest], 1.0) == 1  # of_user
        assert [name for name in objects.held if name.startswith("features/")] == [object_of(payload(2))]


@in_virtual_time
async def test_many_removals_are_asked_for_some_at_a_time() -> None:
    async with cloud() as (tier, objects):
        objects.delay_s = 0.01
        await tier.remove_now([payload(image).key.packed for image in range(200)], 10.0)
        assert objects.count("size") == 200
        assert 1 < objects.waiting_max <= 16


@in_virtual_time
async def test_a_removal_that_the_cloud_cannot_take_now_is_not_waited_for_and_happens_later() -> None:
    async with cloud() as (tier, objects):
        made = payload(1)
        put(tier, made)
        await tier.flush()
        objects.is_out = True
        await until_open(tier)
        started = asyncio.get_running_loop().time()
        assert await tier.remove_now([made.key.packed], 1.0) == 0
        assert asyncio.get_running_loop().time() == started
        assert await tier.get(made.key.packed) is None
        objects.is_out = False
        await asyncio.sleep(60)
        assert object_of(made) not in objects.held


@in_virtual_time
async def test_an_upload_under_way_when_its_features_are_forgotten_does_not_stay() -> None:
    async with cloud() as (tier, objects):
        objects.delay_s = 1.0
        made = payload(1)
        put(tier, made)
        await asyncio.sleep(0.5)
        tier.withdraw(made.key.digest)
        await tier.flush()
        assert object_of(made) not in objects.held


@in_virtual_time
async def test_everything_of_an_encoder_can_be_removed() -> None:
    async with cloud() as (tier, objects):
        put(tier, payload(1), payload(2), payload(3, DECLARED))
        await tier.flush()
        tier.remove_encoder(ENCODER.digest)
        await tier.flush()
        left = {names.encoder(DECLARED.digest), object_of(payload(3, DECLARED))}
        assert set(objects.held) == left
