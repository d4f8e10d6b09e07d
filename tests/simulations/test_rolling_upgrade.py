"""A new version of the encoder comes to one device after another, on virtual time: nobody gets the other's features."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from edgecache.protocol.keys import FeatureKey, digest_of
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.virtual_time import in_virtual_time
from numpy.typing import NDArray

IMAGES = [b"photograph %d" % number for number in range(20)]
SIZE = 5


class Versioned(ModelledEncoder):
    """What it makes depends on its version, too."""

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        return expected(await super().encode(image), self.known.identity.version)


def expected(array: NDArray[np.float32], version: str) -> NDArray[np.float32]:
    return array * np.float32(10 ** int(version))


@pytest.mark.parametrize("seed", range(6))
def test_every_answer_is_of_the_version_that_its_node_runs_and_none_fails(seed: int) -> None:
    @in_virtual_time
    async def story() -> None:
        rng = random.Random(seed)
        answers: dict[str, int] = {}
        async with Cluster(SIZE, seed=seed, encoder=lambda index: Versioned(version="1")) as cluster:

            async def ask() -> None:
                while True:
                    await asyncio.sleep(rng.expovariate(1 / 0.02))
                    index, image = rng.randrange(SIZE), rng.choice(IMAGES)
                    if not cluster.is_running(index):
                        continue
                    node = cluster.nodes[index]
                    own = node.versions.resolve(None, None)
                    in_hand = image if rng.random() < 0.7 else None
                    found = await node.lookup.get(FeatureKey(digest_of(image), own), in_hand)
                    assert found is not None or in_hand is None
                    if found is not None:
                        version = found.payload.key.encoder.version
                        assert version == own.version
                        assert 10 ** int(version) < np.abs(found.payload.array()).max() < 6 * 10 ** int(version)
                        answers[version] = answers.get(version, 0) + 1

            asking = [asyncio.ensure_future(ask()) for _ in range(3)]
            for index in rng.sample(range(SIZE), SIZE):
                await asyncio.sleep(2)
                await (cluster.leave(index) if rng.random() < 0.7 else cluster.crash(index))
                await asyncio.sleep(rng.expovariate(1 / 2))
                cluster.encoders[index] = Versioned(version="2")
                await cluster.restart(index)
            await asyncio.sleep(2)
            await cluster.nodes[0].invalidate("modelled", "2")
            await asyncio.sleep(2)
            for task in asking:
                assert not task.done() or task.exception() is None, task.exception()
                task.cancel()
            assert min(answers["1"], answers["2"]) > 50
            held = [payload.key.encoder.version for node in cluster.nodes for payload in node.store.memory]
            assert set(held) == {"2"}

    story()
