"""Real nodes on virtual time: what a user of a cluster would notice."""

from __future__ import annotations

from edgecache.protocol.features import Source
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.virtual_time import run


async def _story() -> None:
    async with Cluster(3) as cluster:
        a, b, c = cluster.nodes
        image = b"a photograph"
        key = cluster.key(image)
        made = await a.lookup.get(key, image)
        assert made is not None
        assert made.source is Source.ENCODER
        for node in (b, c):
            found = await node.lookup.get(key)
            assert found is not None
            print(node.name, found.source, found.node)
            assert (found.payload.array() == made.payload.array()).all()


def test_story() -> None:
    run(_story())
