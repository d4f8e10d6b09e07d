"""Real nodes on virtual time: what users of a cluster notice, and what they must not."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from edgecache.node.found import Found, Reach
from edgecache.node.links import LINK_IDLE_S, TOLD_S_DIALLED, TOLD_S_MIN
from edgecache.node.membership import State
from edgecache.node.service import Node
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import EncoderUnavailable, UndecodableImage
from edgecache.protocol.features import Source
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.virtual_time import in_virtual_time, run

IMAGES = [f"image {number}".encode() for number in range(40)]


async def encoded_on(node: Node, cluster: Cluster, image: bytes) -> Found:
    found = await node.lookup.get(cluster.key(image), image)
    assert found is not None
    return found


def copies(cluster: Cluster, key: FeatureKey, *, without: int | None = None) -> int:
    return sum(key.packed in node.store for index, node in enumerate(cluster.nodes) if index != without)


# -- meeting ------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_newcomer_calls_a_few_and_is_called_by_few() -> None:
    async with Cluster(60) as cluster:
        dialled = sum(node.counters()["peer_connections"] for node in cluster.nodes) // 2
        assert dialled < 60 * 12  # of the 59 others that each has met
        newcomer = await cluster.join()
        await cluster.until(cluster.has_met, 5.0)
        assert newcomer.counters()["peer_connections"] <= 12


# -- get ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_one_node_encoded_every_other_answers_by_hash() -> None:
    async with Cluster(5) as cluster:
        for image in IMAGES:
            made = await encoded_on(cluster.nodes[0], cluster, image)
            assert made.source is Source.ENCODER
            for node in cluster.nodes:
                found = await node.lookup.get(cluster.key(image))
                assert found is not None
                assert found.source in (Source.MEMORY, Source.PEER)
                assert np.array_equal(found.payload.array(), made.payload.array())
        assert [len(encoder.encoded) for encoder in cluster.encoders if encoder] == [len(IMAGES), 0, 0, 0, 0]


@in_virtual_time
async def test_an_answer_from_a_peer_is_kept_and_then_comes_from_memory() -> None:
    async with Cluster(4, copies=1) as cluster:
        key = (await encoded_on(cluster.nodes[0], cluster, IMAGES[0])).payload.key
        asker = next(node for node in cluster.nodes if key.packed not in node.store)
        first, second = await asker.lookup.get(key), await asker.lookup.get(key)
        assert first is not None
        assert second is not None
        assert (first.source, second.source) == (Source.PEER, Source.MEMORY)
        assert first.node in {node.name for node in cluster.nodes if node is not asker}
        assert asker.stats.hits == {Source.MEMORY: 1, Source.DISK: 0, Source.PEER: 1, Source.CLOUD: 0}


@in_virtual_time
async def test_what_nobody_holds_is_none_and_no_error() -> None:
    async with Cluster(3) as cluster:
        assert await cluster.nodes[0].lookup.get(cluster.key(b"never seen")) is None
        assert cluster.nodes[0].stats.misses == 1


@in_virtual_time
async def test_a_hundred_requests_for_one_image_on_one_node_encode_it_once() -> None:
    async with Cluster(3) as cluster:
        answers = await asyncio.gather(*(encoded_on(cluster.nodes[0], cluster, IMAGES[0]) for _ in range(100)))
        assert len({answer.payload.checksum for answer in answers}) == 1
        assert cluster.encoders[0] is not None
        assert len(cluster.encoders[0].encoded) == 1
        assert cluster.nodes[0].stats.coalesced == 99


@in_virtual_time
async def test_a_caller_that_gives_up_takes_the_answer_from_nobody() -> None:
    async with Cluster(2) as cluster:
        impatient = asyncio.ensure_future(encoded_on(cluster.nodes[0], cluster, IMAGES[0]))
        patient = asyncio.ensure_future(encoded_on(cluster.nodes[0], cluster, IMAGES[0]))
        await asyncio.sleep(0.01)
        impatient.cancel()
        assert (await patient).source is Source.ENCODER


@in_virtual_time
async def test_a_local_request_asks_nobody() -> None:
    async with Cluster(3, copies=1) as cluster:
        key = (await encoded_on(cluster.nodes[0], cluster, IMAGES[0])).payload.key
        asker = next(node for node in cluster.nodes if key.packed not in node.store)
        assert await asker.lookup.get(key, reach=Reach.LOCAL) is None


@in_virtual_time
async def test_features_below_the_fidelity_asked_for_are_made_again_by_a_finer_codec() -> None:
    async with Cluster(2) as cluster:
        coarse = await encoded_on(cluster.nodes[0], cluster, IMAGES[0])
        key = coarse.payload.key
        assert await cluster.nodes[1].lookup.get(key, min_fidelity=0.9999999) is None
        fine = await cluster.nodes[1].lookup.get(key, IMAGES[0], min_fidelity=0.9999999)
        assert fine is not None
        assert coarse.payload.fidelity < 0.9999999 <= fine.payload.fidelity


@in_virtual_time
async def test_a_batch_comes_from_all_holders_and_lacks_only_what_nobody_holds() -> None:
    async with Cluster(5, copies=1) as cluster:
        for number, image in enumerate(IMAGES):
            await encoded_on(cluster.nodes[number % 5], cluster, image)
        asked = [cluster.key(image) for image in IMAGES] + [cluster.key(b"never seen")]
        newcomer = await cluster.join()
        await cluster.until(cluster.has_met)
        found = await newcomer.lookup.get_many(asked)
        assert set(found) == set(asked[:-1])
        for key, answer in found.items():
            assert answer.payload.key == key


@in_virtual_time
async def test_a_batch_passes_over_coarser_copies_to_those_that_are_true_enough() -> None:
    async with Cluster(3, copies=1) as cluster:
        coarse = await encoded_on(cluster.nodes[0], cluster, IMAGES[0])
        key = coarse.payload.key
        owner = next(node for node in cluster.nodes if node.id == node.ring().holders(key.packed)[0])
        asker = next(node for node in cluster.nodes if node is not owner)
        assert await asker.lookup.get(key) is not None
        fine = await owner.lookup.get(key, IMAGES[0], min_fidelity=0.9999999, reach=Reach.LOCAL)
        assert fine is not None
        assert key in await asker.lookup.get_many([key], min_fidelity=0.9)
        many = await asker.lookup.get_many([key], min_fidelity=0.9999999)
        assert many[key].payload.fidelity == fine.payload.fidelity > coarse.payload.fidelity


@in_virtual_time
async def test_an_encoder_that_a_user_declares_is_known_to_all_before_its_features_are_acknowledged() -> None:
    async with Cluster(5) as cluster:
        mine = EncoderIdentity.declared("mine", "1")
        await cluster.nodes[0].introduce(mine)
        assert all(node.versions.resolve("mine", None) == mine for node in cluster.nodes)
        sent = cluster.nodes[0].counters()["bytes_out"]
        await cluster.nodes[0].introduce(mine)  # what is no news is not told again
        assert cluster.nodes[0].counters()["bytes_out"] == sent


@pytest.mark.parametrize(("idle_s", "limit_s"), [(1, TOLD_S_MIN), (2 * LINK_IDLE_S, TOLD_S_DIALLED)])
def test_a_member_that_hangs_is_told_of_a_new_encoder_behind_its_acknowledgement(idle_s: float, limit_s: float) -> None:
    async def story() -> None:
        async with Cluster(5) as cluster:
            await asyncio.sleep(idle_s)  # after long idleness there is no connection any more
            cluster.network.freeze("n1")
            began = asyncio.get_running_loop().time()
            mine = EncoderIdentity.declared("mine", "1")
            await cluster.nodes[0].introduce(mine)
            assert 0.8 * limit_s < asyncio.get_running_loop().time() - began < 1.2 * limit_s
            assert [mine in node.versions.known() for node in cluster.nodes] == [True, False, True, True, True]
            cluster.network.thaw("n1")
            await asyncio.sleep(0.1)
            assert mine in cluster.nodes[1].versions.known()

    run(story())


# -- bad images, broken encoders ------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_bad_image_is_the_callers_error_and_spoils_nothing() -> None:
    async with Cluster(2) as cluster:
        with pytest.raises(UndecodableImage):
            await cluster.nodes[0].lookup.get(cluster.key(b""), b"")
        assert (await encoded_on(cluster.nodes[0], cluster, IMAGES[0])).source is Source.ENCODER


@in_virtual_time
async def test_a_node_without_an_encoder_serves_what_others_made_and_says_what_it_cannot() -> None:
    async with Cluster(3, encoder=lambda index: ModelledEncoder() if index == 0 else None) as cluster:
        await encoded_on(cluster.nodes[0], cluster, IMAGES[0])
        found = await cluster.nodes[1].lookup.get(cluster.key(IMAGES[0]), IMAGES[0])
        assert found is not None
        assert found.source is not Source.ENCODER
        with pytest.raises(EncoderUnavailable, match="does not run"):
            await cluster.nodes[1].lookup.get(cluster.key(IMAGES[1]), IMAGES[1])


# -- put, forget, invalidate ----------------------------------------------------------------------------------------


def made_elsewhere(image: bytes, value: float, version: str = "1") -> payloads.Payload:
    key = FeatureKey(digest_of(image), EncoderIdentity.declared("mine", version))
    return payloads.encode(np.full((2, 4), value, np.float32), key)


@in_virtual_time
async def test_features_of_a_users_own_encoder_are_shared_without_any_encoder() -> None:
    async with Cluster(4, encoder=lambda index: None) as cluster:
        given = made_elsewhere(IMAGES[0], 1.5)
        assert (await cluster.nodes[0].lookup.put(given)).copies >= 2
        await asyncio.sleep(3)
        for node in cluster.nodes:
            assert node.versions.resolve(None, None) == given.key.encoder
            found = await node.lookup.get(given.key)
            assert found is not None
            assert np.array_equal(found.payload.array(), given.array())


@in_virtual_time
async def test_features_put_again_replace_the_old_ones_on_every_node() -> None:
    async with Cluster(4, encoder=lambda index: None) as cluster:
        old, new = made_elsewhere(IMAGES[0], 1.0), made_elsewhere(IMAGES[0], 2.0)
        await cluster.nodes[0].lookup.put(old)
        for node in cluster.nodes:
            await node.lookup.get(old.key)  # everybody has a copy now
        await asyncio.sleep(0.1)
        await cluster.nodes[3].lookup.put(new)
        for node in cluster.nodes:
            found = await node.lookup.get(new.key)
            assert found is not None
            assert found.payload.array()[0, 0] == 2.0


@in_virtual_time
async def test_what_is_forgotten_on_one_node_is_gone_on_every_node() -> None:
    async with Cluster(4) as cluster:
        key = (await encoded_on(cluster.nodes[0], cluster, IMAGES[0])).payload.key
        for node in cluster.nodes:
            await node.lookup.get(key)
        await asyncio.sleep(0.1)
        assert await cluster.nodes[2].lookup.forget([key.digest]) == 4
        assert [await node.lookup.get(key) for node in cluster.nodes] == [None] * 4


@in_virtual_time
async def test_an_image_forgotten_while_it_is_encoded_is_answered_and_not_kept() -> None:
    async with Cluster(3) as cluster:
        encoding = asyncio.ensure_future(encoded_on(cluster.nodes[0], cluster, IMAGES[0]))
        await asyncio.sleep(0.03)
        await cluster.nodes[1].lookup.forget([digest_of(IMAGES[0])])
        key = (await encoding).payload.key
        assert copies(cluster, key) == 0


@in_virtual_time
async def test_an_invalidation_reaches_every_node_and_older_features_are_gone() -> None:
    async with Cluster(5, encoder=lambda index: None) as cluster:
        old = made_elsewhere(IMAGES[0], 1.0)
        await cluster.nodes[0].lookup.put(old)
        await cluster.nodes[1].invalidate("mine", "2")
        assert copies(cluster, old.key) == 0
        for node in cluster.nodes:
            assert not node.versions.is_current(old.key.encoder)
        assert (await cluster.nodes[2].lookup.put(old)).copies == 0  # a late put of the old version
        assert (await cluster.nodes[2].lookup.put(made_elsewhere(IMAGES[0], 2.0, "2"))).copies >= 2


@in_virtual_time
async def test_an_invalidation_reaches_who_was_cut_off_once_it_is_back() -> None:
    async with Cluster(3, encoder=lambda index: None) as cluster:
        old = made_elsewhere(IMAGES[0], 1.0)
        for node in cluster.nodes:
            await node.lookup.put(old)
        cluster.network.cut("n0", "n2")
        cluster.network.cut("n1", "n2")
        await cluster.nodes[0].invalidate("mine", "2")
        await asyncio.sleep(20)
        assert cluster.nodes[2].versions.is_current(old.key.encoder)
        cluster.network.heal()
        took_s = await cluster.until(lambda: not cluster.nodes[2].versions.is_current(old.key.encoder))
        assert took_s < 10
        assert copies(cluster, old.key) == 0


# -- what happens to devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_after_a_kill_every_acknowledged_feature_is_answered_by_every_node_within_a_second(seed: int) -> None:
    @in_virtual_time
    async def story() -> None:
        async with Cluster(5, seed=seed) as cluster:
            made = [await encoded_on(cluster.nodes[0], cluster, image) for image in IMAGES]
            await cluster.crash(0)
            loop = asyncio.get_running_loop()
            for node in cluster.nodes[1:]:
                for answer in made:
                    asked_at = loop.time()
                    found = await node.lookup.get(answer.payload.key)
                    assert found is not None, f"seed {seed}"
                    assert np.array_equal(found.payload.array(), answer.payload.array())
                    assert loop.time() - asked_at < 1.0, f"seed {seed}"

    story()


@in_virtual_time
async def test_a_member_that_hangs_costs_a_hedge_and_is_soon_not_waited_for() -> None:
    async with Cluster(4) as cluster:
        made = [await encoded_on(cluster.nodes[0], cluster, image) for image in IMAGES]
        cluster.network.freeze("n1")
        loop = asyncio.get_running_loop()
        for answer in made:
            asked_at = loop.time()
            assert await cluster.nodes[2].lookup.get(answer.payload.key) is not None
            assert loop.time() - asked_at < 0.1
        frozen = cluster.nodes[2].membership.get(cluster.nodes[1].id)
        assert frozen is not None
        await cluster.until(lambda: frozen.state is State.DEAD, 12)
        cluster.network.thaw("n1")
        await cluster.until(cluster.has_met, 30)


@in_virtual_time
async def test_a_put_passes_over_a_member_that_hangs_and_still_leaves_two_copies_elsewhere() -> None:
    async with Cluster(5) as cluster:
        cluster.network.freeze("n1")
        for image in IMAGES[:10]:
            key = (await encoded_on(cluster.nodes[0], cluster, image)).payload.key
            await cluster.until(lambda key=key: copies(cluster, key, without=1) >= 2, 1.0)  # type: ignore[misc]


@in_virtual_time
async def test_who_leaves_hands_over_what_would_be_lost() -> None:
    async with Cluster(4, copies=1) as cluster:
        made = [await encoded_on(cluster.nodes[0], cluster, image) for image in IMAGES]
        for leaving in (0, 1):
            await cluster.nodes[leaving].leave()
            await asyncio.sleep(1)
        assert [m.state for m in cluster.nodes[3].membership.all()].count(State.LEFT) == 2
        for answer in made:
            assert await cluster.nodes[3].lookup.get(answer.payload.key) is not None


@in_virtual_time
async def test_who_restarts_is_back_within_seconds_under_its_id() -> None:
    async with Cluster(3) as cluster:
        await cluster.crash(1)
        await asyncio.sleep(0.5)
        await cluster.restart(1)
        assert await cluster.until(cluster.has_met) < 5
        assert len(cluster.nodes[0].membership.all()) == 2


@in_virtual_time
async def test_two_halves_find_each_other_again() -> None:
    async with Cluster(5) as cluster:
        for left in ("n0", "n1"):
            for right in ("n2", "n3", "n4"):
                cluster.network.cut(left, right)
        await asyncio.sleep(60)
        assert len(cluster.nodes[0].membership.in_ring()) == 1
        assert len(cluster.nodes[4].membership.in_ring()) == 2
        for node in cluster.nodes:  # both halves serve
            assert await encoded_on(node, cluster, node.name.encode()) is not None
        cluster.network.heal()
        assert await cluster.until(cluster.has_met) < 15


@in_virtual_time
async def test_members_are_met_through_others_where_nobody_is_announced() -> None:
    async with Cluster(1) as cluster:
        for _ in range(3):
            await cluster.join(discovery=False, seeds=[("n0", 7441)])
        assert await cluster.until(cluster.has_met) < 5


@in_virtual_time
async def test_the_newer_of_two_nodes_with_one_id_is_told_and_the_older_is_not() -> None:
    async with Cluster(2) as cluster:
        clone = await cluster.join(node_id=cluster.nodes[0].id)
        await cluster.until(clone.twin.is_set)
        assert not cluster.nodes[0].twin.is_set()


@in_virtual_time
async def test_another_cluster_is_not_talked_to() -> None:
    async with Cluster(2) as cluster:
        stranger = await cluster.join(cluster="another")
        await asyncio.sleep(5)
        assert stranger.membership.all() == []
        assert len(cluster.nodes[0].membership.all()) == 1
        assert cluster.nodes[0].stats.refused_handshakes > 0


def test_the_same_seed_gives_the_same_run() -> None:
    def bytes_of(seed: int) -> tuple[int, float]:
        traffic: list[tuple[int, float]] = []

        @in_virtual_time
        async def story() -> None:
            async with Cluster(5, seed=seed) as cluster:
                for number, image in enumerate(IMAGES):
                    await encoded_on(cluster.nodes[number % 5], cluster, image)
                await cluster.crash(2)
                await asyncio.sleep(10)
                traffic.append((cluster.network.bytes_sent, asyncio.get_running_loop().time()))

        story()
        return traffic[0]

    assert bytes_of(1) == bytes_of(1)
    assert bytes_of(1) != bytes_of(2)


@in_virtual_time
async def test_features_of_another_shape_than_the_encoder_makes_are_not_taken_from_a_peer() -> None:
    async with Cluster(2) as cluster:
        key = cluster.key(IMAGES[0])
        wrong = payloads.encode(np.ones((3, 3), np.float32), key)
        cluster.nodes[1].store.put(wrong)
        assert await cluster.nodes[0].lookup.get(key) is None
        assert not cluster.nodes[0].lookup.accept(wrong, age_s=0.0)
