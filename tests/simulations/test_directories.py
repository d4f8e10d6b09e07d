"""Real nodes that tell each other what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from edgecache.node.journal import TOLD_MAX
from edgecache.node.service import Node
from edgecache.protocol import messages
from edgecache.protocol import payload as payloads
from edgecache.protocol.features import Source
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.payload import Payload
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.links import LINKS
from edgecache.simulations.virtual_time import run

MINE = EncoderIdentity.declared("mine", "1")
LOSSY = replace(LINKS["lan"], name="lossy", loss=0.1)


def _features(number: int) -> Payload:
    return payloads.encode(np.full((1, 4), 1.0, np.float32), FeatureKey(digest_of(b"%d" % number), MINE))


def _hold(node: Node, numbers: range) -> None:
    assert all(node.store.put(_features(number)) for number in numbers)


def test_what_a_node_holds_the_others_know_after_two_rounds_of_probes() -> None:
    async def day() -> None:
        async with Cluster(5) as cluster:
            await asyncio.sleep(25.0)
            _hold(cluster.nodes[0], range(20))
            _hold(cluster.nodes[1], range(10, 400))  # more than a datagram holds
            assert await cluster.until(cluster.has_told, 9.0) > 0.1
            key = _features(15).key.packed
            assert sorted(cluster.nodes[4].directory.holders(key)) == sorted(n.id for n in cluster.nodes[:2])
            cluster.nodes[0].store.remove(key)
            _hold(cluster.nodes[0], range(1000, 1000 + TOLD_MAX + 1))
            await cluster.until(cluster.has_told, 9.0)
            assert cluster.nodes[4].directory.holders(key) == [cluster.nodes[1].id]

    run(day())


def test_nodes_that_have_just_met_know_soon_what_each_holds() -> None:
    async def day() -> None:
        async with Cluster(50) as cluster:  # a round of probes takes 49 s

            def all_have_told() -> bool:
                nodes = cluster.nodes
                return all(node.directory.has(other.id) for node in nodes for other in nodes if node is not other)

            await cluster.until(all_have_told, 12.0)
            await cluster.crash(7)
            await asyncio.sleep(15.0)
            await cluster.restart(7)
            await cluster.until(all_have_told, 12.0)

    run(day())


def test_it_is_told_through_lost_datagrams_restarts_and_splits() -> None:
    async def day() -> None:
        async with Cluster(6, link=lambda index: LOSSY) as cluster:
            for index, node in enumerate(cluster.nodes):
                _hold(node, range(100 * index, 100 * index + 150))
            await cluster.until(cluster.has_told, 60.0)
            await cluster.crash(0)
            await asyncio.sleep(15.0)
            assert all(cluster.nodes[0].id not in node.directory.holders(_features(3).key.packed)
                       for node in cluster.nodes[1:])  # fmt: skip
            await cluster.restart(0)
            _hold(cluster.nodes[0], range(7, 300))
            for name in ("n0", "n1"):
                for other in ("n2", "n3", "n4", "n5"):
                    cluster.network.cut(name, other)
            await asyncio.sleep(20.0)
            cluster.network.heal()
            await cluster.until(cluster.has_met, 60.0)
            await cluster.until(cluster.has_told, 60.0)

    run(day())


def test_nothing_that_happens_costs_an_idle_node_more_than_a_few_bytes() -> None:
    async def day() -> None:
        async with Cluster(8) as cluster:
            _hold(cluster.nodes[0], range(100))
            await asyncio.sleep(25.0)  # and what of it belongs to others was brought there
            await cluster.until(cluster.has_told, 30.0)
            before = cluster.network.bytes_sent
            await asyncio.sleep(100.0)
            assert (cluster.network.bytes_sent - before) / 800 < 200

    run(day())


def _asked_of(cluster: Cluster) -> list[tuple[str, str]]:
    """Which node answers which question for features, from now on."""
    asked: list[tuple[str, str]] = []
    for node in cluster.nodes:
        answer = node.responder.answer

        def answering(
            peer: messages.Hello,
            request: messages.Message,
            blob: memoryview,
            answer: Callable[..., Any] = answer,
            name: str = node.name,
        ) -> Any:
            asked.append((name, type(request).__name__))
            return answer(peer, request, blob)

        node.responder.answer = answering  # type: ignore[method-assign]
    return asked


def test_a_copy_anywhere_is_found_by_its_holders_word_and_a_wrong_word_costs_one_hop() -> None:
    async def day() -> None:
        async with Cluster(6, copies=1, encoder=lambda index: None) as cluster:
            held = next(
                made
                for made in map(_features, range(1000))
                if cluster.nodes[0]._neighbourhood.holders(made.key.packed) == [cluster.nodes[1].id]
            )
            for index in (2, 3):
                assert cluster.nodes[index].store.put(held)
            await cluster.until(cluster.has_told, 30.0)
            asked = _asked_of(cluster)
            found = await cluster.nodes[0].lookup.get(held.key)
            assert found is not None
            assert found.node in ("n2", "n3")
            assert asked == [("n1", "Get"), (found.node, "Get")]
            assert await cluster.nodes[4].lookup.has(held.key) is not None

            # Both lose it, and one who has not heard of that yet asks: each says so, and nobody else is asked.
            for index in (0, 2, 3):
                cluster.nodes[index].store.remove(held.key.packed)
            asked.clear()
            assert await cluster.nodes[4].lookup.get(held.key) is None
            assert sorted(asked)[:1] + sorted(asked)[-2:] == [("n1", "Get"), ("n2", "Get"), ("n3", "Get")]
            asked.clear()
            assert await cluster.nodes[4].lookup.get(held.key) is None
            assert asked == [("n1", "Get")]
            await cluster.until(cluster.has_told, 30.0)

    run(day())


def test_who_has_just_come_asks_whoever_has_not_told_it_yet() -> None:
    async def day() -> None:
        async with Cluster(5, copies=1, encoder=lambda index: None) as cluster:
            made = [_features(number) for number in range(200)]
            held = next(m for m in made if cluster.nodes[0]._neighbourhood.holders(m.key.packed)
                        == [cluster.nodes[1].id])  # fmt: skip
            assert cluster.nodes[2].store.put(held)
            newcomer = await cluster.join()
            await cluster.until(lambda: len(newcomer.membership.in_ring()) == 5)
            found = await newcomer.lookup.get_many([m.key for m in made])
            assert [(m.source, m.node) for m in found.values()] == [(Source.PEER, "n2")]
            await cluster.until(lambda: not newcomer._peers.untold(), 30.0)

    run(day())
