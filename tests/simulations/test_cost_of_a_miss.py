"""What memory's policy hears of each entry: how long it took to come by, which is what a miss will take."""

from __future__ import annotations

import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.policy import NO_FACTS, Facts
from edgecache.node.store.memory import MemoryStore
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.modelled import DeviceEncoder, FeatureModel
from edgecache.simulations.virtual_time import in_virtual_time

MINE = EncoderIdentity.declared("mine", "1")


class Heard(LRU[bytes]):
    """LRU that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[bytes, Facts] = {}

    def admit(self, key: bytes, size: int = 1, facts: Facts = NO_FACTS) -> None:
        self.facts[key] = facts
        super().admit(key, size, facts)


@in_virtual_time
async def test_what_was_encoded_cost_its_encoding_and_what_a_peer_had_its_way_here() -> None:
    heard = [Heard(), Heard(), Heard()]
    model = FeatureModel(4, 16)
    async with Cluster(
        3,
        copies=1,
        encoder=lambda index: DeviceEncoder(model, 0.06),
        memory=lambda index: MemoryStore(1 << 20, heard[index]),
    ) as cluster:
        image = next(
            image
            for image in (b"%d" % number for number in range(100))
            if cluster.nodes[0].id in cluster.nodes[0].ring().holders(cluster.key(image).packed)
        )
        key = cluster.key(image)
        await cluster.nodes[0].lookup.get(key, image)
        assert heard[0].facts[key.packed].cost_ms == pytest.approx(60, abs=1)
        await cluster.nodes[1].lookup.get(key)
        cost_ms = heard[1].facts[key.packed].cost_ms
        assert cost_ms is not None
        assert 0 < cost_ms < 10

        # What a user gives has cost its user something, and nobody here knows what.
        given = FeatureKey(key.digest, MINE)
        await cluster.nodes[0].lookup.put(payloads.encode(model.array(key.digest), given))
        costs = [told.facts[given.packed].cost_ms for told in heard if given.packed in told.facts]
        assert costs
        assert set(costs) == {None}
