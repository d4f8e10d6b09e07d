"""For every image and every path, be it memory, a peer or the encoder, the array is the same."""

from __future__ import annotations

import asyncio

import numpy as np
from edgecache.node.found import Found
from edgecache.protocol import payload
from edgecache.protocol.features import Source
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.virtual_time import run
from hypothesis import given, settings
from hypothesis import strategies as st

NODES = 4
IMAGES = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4, unique=True)
QUESTIONS = st.lists(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@settings(max_examples=40)
@given(
    images=IMAGES, questions=QUESTIONS, shape=st.tuples(st.integers(1, 5), st.integers(1, 70)), seed=st.integers(0, 99)
)
def test_for_every_image_and_path_the_array_is_the_same(
    images: list[bytes], questions: list[tuple[int, int, bool, bool]], shape: tuple[int, int], seed: int
) -> None:
    """A question: which node is asked, for which image, with the image in hand or not, and whether it is waited for."""

    async def story() -> None:
        async with Cluster(NODES, seed=seed, encoder=lambda index: ModelledEncoder(tokens=shape[0], dim=shape[1])) as c:
            reference = ModelledEncoder(encode_s=0.0, tokens=shape[0], dim=shape[1])
            right = {image: payload.encode(await reference.encode(image), c.key(image)) for image in images}
            pending: list[tuple[bytes, asyncio.Task[Found | None]]] = []
            for node, index, has_image, is_waited_for in questions:
                image = images[index % len(images)]
                asked = c.nodes[node].lookup.get(c.key(image), image if has_image else None)
                pending.append((image, asyncio.ensure_future(asked)))
                if is_waited_for:
                    await pending[-1][1]
            for image, task in pending:
                if (found := await task) is not None:
                    assert found.payload.data == right[image].data
                    assert np.array_equal(found.payload.array(), right[image].array())
                    assert found.features().key == c.key(image)
            for member in c.nodes:  # and whatever is left anywhere is right as well
                for held in member.store.memory:
                    assert held.data == next(p.data for p in right.values() if p.key == held.key)

    run(story())


def test_each_path_is_among_them() -> None:
    async def story() -> list[tuple[Source, bytes]]:
        async with Cluster(NODES) as cluster:
            key = cluster.key(b"a photograph")
            holders = cluster.nodes[0].lookup._neighbourhood.ring().holders(key.packed)
            asker = next(node for node in cluster.nodes if node.id not in holders)
            holder = next(node for node in cluster.nodes if node.id in holders)
            answers = []
            for node, image in ((asker, b"a photograph"), (asker, None), (holder, None)):
                found = await node.lookup.get(key, image)
                assert found is not None
                answers.append((found.source, found.payload.array().tobytes()))
            other = next(node for node in cluster.nodes if node.id not in holders and node is not asker)
            found = await other.lookup.get(key)
            assert found is not None
            answers.append((found.source, found.payload.array().tobytes()))
            return answers

    answers = run(story())
    assert [source for source, _ in answers] == [Source.ENCODER, Source.MEMORY, Source.MEMORY, Source.PEER]
    assert len({array for _, array in answers}) == 1
