"""Removals on virtual time: what is removed does not come back, whoever was cut off, restarted or late."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from edgecache.node.address_book import AddressBook, RememberedPeer
from edgecache.node.found import Reach
from edgecache.node.remembered_removals import RememberedRemovals
from edgecache.node.removals import KEPT_S
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.virtual_time import in_virtual_time

from .test_restart import Devices

IMAGE = b"a photograph"
PEER = RememberedPeer("2" * 32, "n9", ("n9", 7441), "3" * 32)


def given(value: float, image: bytes = IMAGE) -> payloads.Payload:
    key = FeatureKey(digest_of(image), EncoderIdentity.declared("mine", "1"))
    return payloads.encode(np.full((2, 4), value, np.float32), key)


def cut(cluster: Cluster, *alone: int) -> None:
    for left in alone:
        for right in set(range(len(cluster.nodes))) - set(alone):
            cluster.network.cut(f"n{left}", f"n{right}")


def holders(cluster: Cluster, key: FeatureKey) -> list[str]:
    return [node.name for node in cluster.nodes if key.packed in node.store]


@in_virtual_time
async def test_a_removal_reaches_who_was_cut_off() -> None:
    async with Cluster(5, encoder=lambda index: None) as cluster:
        for node in cluster.nodes:
            node.store.put(given(1.0))
        cut(cluster, 3, 4)
        await asyncio.sleep(60)
        await cluster.nodes[0].lookup.forget([given(1.0).key.digest])
        assert holders(cluster, given(1.0).key) == ["n3", "n4"]
        cluster.network.heal()
        assert await cluster.until(lambda: not holders(cluster, given(1.0).key)) < 5
        await asyncio.sleep(30)
        assert holders(cluster, given(1.0).key) == []


@in_virtual_time
async def test_what_was_given_after_the_removal_stays_and_what_the_other_side_gave_before_hearing_goes() -> None:
    async with Cluster(4, encoder=lambda index: None) as cluster:
        cut(cluster, 2, 3)
        await asyncio.sleep(20)
        await cluster.nodes[0].lookup.forget([digest_of(IMAGE)])
        await cluster.nodes[0].lookup.put(given(2.0))
        await cluster.nodes[2].lookup.put(given(1.0))
        cluster.network.heal()
        await asyncio.sleep(30)
        assert {"n0", "n1"} <= set(holders(cluster, given(2.0).key))
        for node in cluster.nodes:
            found = await node.lookup.get(given(2.0).key)
            assert found is not None
            assert found.payload.array()[0, 0] == 2.0


@in_virtual_time
async def test_an_old_copy_is_not_taken_from_who_has_not_heard() -> None:
    async with Cluster(2, encoder=lambda index: None) as cluster:
        cluster.nodes[1].store.put(given(1.0))
        cluster.nodes[0].removals.make([digest_of(IMAGE)], asyncio.get_running_loop().time())
        assert await cluster.nodes[0].lookup.get(given(1.0).key) is None
        assert await cluster.nodes[0].lookup.get_many([given(1.0).key]) == {}


@in_virtual_time
async def test_who_was_down_when_it_was_removed_drops_it_from_its_disk_and_keeps_what_came_after() -> None:
    devices = Devices(3)
    async with devices.cluster as cluster:
        for node in cluster.nodes:
            node.store.put(given(1.0))
            assert await node.lookup.flush()
        await cluster.crash(2)
        await cluster.nodes[0].lookup.forget([digest_of(IMAGE)])
        node = await cluster.restart(2)
        seen = set()
        for _ in range(50):
            seen.add(await node.lookup.get(given(1.0).key, reach=Reach.LOCAL))
            await asyncio.sleep(0.1)
        assert seen == {None}, "not for a moment"
        assert holders(cluster, given(1.0).key) == []
        await node.lookup.put(given(2.0))
        assert await node.lookup.flush()
        await cluster.crash(2)
        node = await cluster.restart(2)
        await asyncio.sleep(5)
        found = await node.lookup.get(given(2.0).key, reach=Reach.LOCAL)
        assert found is not None


@pytest.mark.parametrize("off_s", [KEPT_S - 1, KEPT_S])
def test_who_was_off_for_longer_than_removals_are_remembered_trusts_nothing_that_it_held(
    monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    @in_virtual_time
    async def story() -> None:
        devices = Devices(3)
        async with devices.cluster as cluster:
            for node in cluster.nodes:
                node.store.put(given(1.0))
                assert await node.lookup.flush()
            await cluster.crash(1)
            await cluster.nodes[0].lookup.forget([digest_of(IMAGE)])
            await asyncio.sleep(20)
            for node in (cluster.nodes[0], cluster.nodes[2]):
                node.removals.tick(asyncio.get_running_loop().time() + KEPT_S)  # it is over
            monkeypatch.setattr(RememberedRemovals, "tell", lambda self, *_: setattr(self, "off_s", off_s))
            monkeypatch.setattr(AddressBook, "peers", lambda self: [PEER])
            node = await cluster.restart(1)
            await node.lasting.has_recalled.wait()
            assert (given(1.0).key.packed in node.store) == (off_s < KEPT_S)

    story()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_splits_and_removals_there_are_all_agree_in_the_end(seed: int) -> None:
    @in_virtual_time
    async def story() -> None:
        rng = random.Random(seed)
        images = [b"image %d" % number for number in range(6)]
        async with Cluster(5, seed=seed, encoder=lambda index: None) as cluster:
            last: dict[bytes, str] = {}
            for _ in range(rng.randrange(1, 4)):
                cut(cluster, *rng.sample(range(5), rng.randrange(1, 4)))
                for _ in range(12):
                    await asyncio.sleep(rng.expovariate(1 / 3))
                    node, image = rng.choice(cluster.nodes), rng.choice(images)
                    if rng.random() < 0.5:
                        await node.lookup.forget(
                            [given(0, image).key.packed if rng.random() < 0.3 else digest_of(image)]
                        )
                    else:
                        await node.lookup.put(given(rng.random(), image))
                cluster.network.heal()
                await asyncio.sleep(rng.expovariate(1 / 10))
            await asyncio.sleep(30)
            for image in images:  # one more of each, by one node that all hear
                last[image] = rng.choice(("removed", "given"))
                node = rng.choice(cluster.nodes)
                if last[image] == "removed":
                    await node.lookup.forget([digest_of(image)])
                else:
                    await node.lookup.put(given(7.0, image))
            await asyncio.sleep(5)
            assert len({node.removals.sum for node in cluster.nodes}) == 1, f"seed {seed}"
            for node in cluster.nodes:
                for image in images:
                    found = await node.lookup.get(given(0, image).key)
                    assert (found is None) == (last[image] == "removed"), f"seed {seed}"
                    assert found is None or found.payload.array()[0, 0] == 7.0, f"seed {seed}"

    story()
