"""Faults of a network and its devices on virtual time, one at a time (docs/trust.md names the row of each)."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from edgecache.node.membership import State
from edgecache.protocol import payload as payloads
from edgecache.protocol.features import Source
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.links import LINKS
from edgecache.simulations.virtual_time import in_virtual_time

IMAGE = b"a photograph"


def large(version: str = "1") -> payloads.Payload:
    """12 MB: a tenth of a second on the simulated LAN."""
    key = FeatureKey(digest_of(IMAGE), EncoderIdentity.declared("mine", version))
    array = np.random.default_rng(1).standard_normal((3000, 1000), dtype=np.float32)
    return payloads.encode(array, key, codec=payloads.Codec.FLOAT32)


@pytest.mark.parametrize("seed", range(4))
def test_a_holder_killed_while_it_sends_costs_time_and_no_error(seed: int) -> None:
    @in_virtual_time
    async def story() -> None:
        async with Cluster(4, seed=seed, encoder=lambda index: None) as cluster:
            given = large()
            await cluster.nodes[0].lookup.put(given)
            await asyncio.sleep(1)
            holders = [index for index in range(4) if given.key.packed in cluster.nodes[index].store]
            asker = next(index for index in range(4) if index not in holders)
            asking = asyncio.ensure_future(cluster.nodes[asker].lookup.get(given.key))
            await asyncio.sleep(0.03)
            assert not asking.done()
            first = next(index for index in holders if cluster.nodes[index].stats.bytes_out)  # it is sending
            await cluster.crash(first)
            found = await asking
            assert found is not None
            assert found.source is Source.PEER
            assert found.node != f"n{first}"
            assert found.payload.data == given.data

    story()


@in_virtual_time
async def test_the_last_holder_killed_while_it_sends_leaves_it_to_the_encoder() -> None:
    made = ModelledEncoder(tokens=2000, dim=1000)
    async with Cluster(2, copies=1, encoder=lambda index: made) as cluster:
        key = cluster.key(IMAGE)
        found = await cluster.nodes[1].lookup.get(key, IMAGE)
        assert found is not None
        for node in cluster.nodes:
            if node.name != "n1":
                node.store.remove(key.packed)
        cluster.nodes[1].store.put(found.payload)
        asking = asyncio.ensure_future(cluster.nodes[0].lookup.get(key, IMAGE))
        await asyncio.sleep(0.005)
        await cluster.crash(1)
        again = await asking
        assert again is not None
        assert again.payload.data == found.payload.data


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_of_one_direction_declares_nobody_dead_and_nobody_flaps(seed: int) -> None:
    @in_virtual_time
    async def story() -> None:
        async with Cluster(5, seed=seed) as cluster:
            await asyncio.sleep(5)
            cluster.network.cut_one_way("n0", "n1")
            seen: set[State] = set()
            turns = 0
            before = {node.name: node.membership.version for node in cluster.nodes}
            for _ in range(600):
                await asyncio.sleep(0.1)
                for node in cluster.nodes:
                    seen |= {member.state for member in node.membership.all()}
            turns = sum(node.membership.version - before[node.name] for node in cluster.nodes)
            assert State.DEAD not in seen
            assert turns == 0, "the ring did not change"
            made = await cluster.nodes[0].lookup.get(cluster.key(IMAGE), IMAGE)
            assert made is not None
            for node in cluster.nodes:
                assert await node.lookup.get(cluster.key(IMAGE)) is not None

    story()


@in_virtual_time
async def test_what_was_under_way_when_its_version_became_outdated_is_not_kept() -> None:
    async with Cluster(3) as cluster:
        key = cluster.key(IMAGE)
        encoding = asyncio.ensure_future(cluster.nodes[0].lookup.get(key, IMAGE))
        await asyncio.sleep(0.03)
        await cluster.nodes[1].invalidate("modelled", "2")
        await encoding
        await asyncio.sleep(2)
        assert not any(key.packed in node.store for node in cluster.nodes)


@in_virtual_time
async def test_an_answer_of_a_peer_that_came_after_its_version_was_outdated_is_not_kept() -> None:
    async with Cluster(3, copies=1, encoder=lambda index: None) as cluster:
        given = large()
        await cluster.nodes[0].lookup.put(given)
        asker = next(node for node in cluster.nodes if given.key.packed not in node.store)
        asking = asyncio.ensure_future(asker.lookup.get(given.key))
        await asyncio.sleep(0.03)
        assert not asking.done()
        await asker.invalidate("mine", "2")
        await asking
        assert not any(given.key.packed in node.store for node in cluster.nodes)


@in_virtual_time
async def test_a_lossy_link_costs_no_feature_and_no_member() -> None:
    from dataclasses import replace

    lossy = replace(LINKS["lan"], loss=0.05)
    async with Cluster(4, link=lambda index: lossy) as cluster:
        for number in range(50):
            image = b"photograph %d" % number
            assert await cluster.nodes[number % 4].lookup.get(cluster.key(image), image) is not None
        await asyncio.sleep(60)
        for number in range(50):
            for node in cluster.nodes:
                assert await node.lookup.get(cluster.key(b"photograph %d" % number)) is not None
        assert all(member.state is State.ALIVE for node in cluster.nodes for member in node.membership.all())
