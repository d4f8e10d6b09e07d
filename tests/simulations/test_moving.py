"""Real nodes whose keys move when members come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from edgecache.node import moving as limits
from edgecache.node.service import Node
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.payload import Payload
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.virtual_time import run

MINE = EncoderIdentity.declared("mine", "1")
NUMBERS = range(300)


def _features(number: int) -> Payload:
    return payloads.encode(np.full((1, 4), 1.0, np.float32), FeatureKey(digest_of(b"%d" % number), MINE))


MADE = [_features(number) for number in NUMBERS]


def _cluster(size: int, copies: int) -> Cluster:
    return Cluster(size, copies=copies, encoder=lambda index: None)


async def _put_all(cluster: Cluster) -> None:
    for number, made in enumerate(MADE):
        await cluster.nodes[number % len(cluster.nodes)].lookup.put(made)


def _running(cluster: Cluster) -> list[int]:
    return [index for index in range(len(cluster.nodes)) if cluster.is_running(index)]


def _is_placed(cluster: Cluster) -> bool:
    """Whether every key is on all of its holders, and everybody is done."""
    nodes = {cluster.nodes[index].id: cluster.nodes[index] for index in _running(cluster)}
    ring = next(iter(nodes.values())).ring()
    return all(node.moving.is_done for node in nodes.values()) and all(
        holder in nodes and made.key.packed in nodes[holder].store
        for made in MADE
        for holder in ring.holders(made.key.packed)
    )


async def _settled_holders(cluster: Cluster, made: Payload) -> list[Node]:
    """Whose `made` is, once no key moves any more."""
    await cluster.until(lambda: all(node.moving.is_done for node in cluster.nodes), 60.0)
    nodes = {node.id: node for node in cluster.nodes}
    return [nodes[holder] for holder in cluster.nodes[0].ring().holders(made.key.packed)]


async def _ask_all_the_while(cluster: Cluster, asked_on: Sequence[int]) -> None:
    """Every key is found, whoever is asked, however often; what is asked for is not kept, so as not to help."""
    number = 0
    while True:
        node = cluster.nodes[asked_on[number % len(asked_on)]]
        made = MADE[number % len(MADE)]
        if made.key.packed not in node.store:
            found = await node.lookup._search_many.find([made.key], asyncio.get_running_loop().time() + 2.0)
            assert found, f"{made.key} was not found by {node.name}"
        number += 7
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("copies", [1, 2])
def test_who_joins_gets_its_share_and_every_key_is_found_all_the_while(copies: int) -> None:
    async def day() -> None:
        async with _cluster(4, copies) as cluster:
            await asyncio.sleep(2 * limits.SETTLED_S)
            await _put_all(cluster)
            asking = asyncio.ensure_future(_ask_all_the_while(cluster, range(4)))
            newcomer = await cluster.join()
            await cluster.until(cluster.has_met)
            asking_newcomer = asyncio.ensure_future(_ask_all_the_while(cluster, [4]))
            assert await cluster.until(lambda: _is_placed(cluster), 120.0) > limits.SETTLED_S / 2
            moved = sum(node.stats.moved for node in cluster.nodes)
            share = sum(newcomer.id in newcomer.ring().holders(made.key.packed) for made in MADE)
            assert moved == share <= 1.3 * len(MADE) * copies / 5
            for task in (asking, asking_newcomer):
                assert not task.done() or task.result()
                task.cancel()

    run(day())


def test_after_a_death_there_are_two_copies_again_and_after_a_second_one_nothing_is_lost() -> None:
    async def day() -> None:
        async with _cluster(5, 2) as cluster:
            await asyncio.sleep(2 * limits.SETTLED_S)
            await _put_all(cluster)
            await cluster.crash(0)
            await cluster.until(cluster.has_met)
            await cluster.until(lambda: _is_placed(cluster), 120.0)
            await cluster.crash(1)
            await cluster.until(cluster.has_met)
            for made in MADE:
                assert await cluster.nodes[2].lookup.get(made.key) is not None

    run(day())


def test_members_that_change_while_keys_move_begin_it_anew_without_sending_anything_twice() -> None:
    async def day() -> None:
        async with _cluster(3, 2) as cluster:
            await asyncio.sleep(2 * limits.SETTLED_S)
            await _put_all(cluster)
            await cluster.join()
            await cluster.until(lambda: any(node.stats.moved > 0 for node in cluster.nodes), 60.0)
            assert not _is_placed(cluster)
            await cluster.join()
            await cluster.until(lambda: _is_placed(cluster), 120.0)
            ring = cluster.nodes[0].ring()
            new = sum(
                holder in (cluster.nodes[3].id, cluster.nodes[4].id)
                for made in MADE
                for holder in ring.holders(made.key.packed)
            )
            assert sum(node.stats.moved for node in cluster.nodes) <= new + 100  # what was brought to the ring between

    run(day())


def test_who_starts_anew_gets_back_what_only_its_memory_had_and_nothing_else_moves() -> None:
    async def day() -> None:
        async with _cluster(4, 2) as cluster:
            await asyncio.sleep(2 * limits.SETTLED_S)
            await _put_all(cluster)
            await cluster.crash(0)
            await asyncio.sleep(2.0)
            restarted = await cluster.restart(0)
            await cluster.until(lambda: _is_placed(cluster), 60.0)
            await asyncio.sleep(10.0)
            theirs = sum(restarted.id in restarted.ring().holders(made.key.packed) for made in MADE)
            assert sum(node.stats.moved for node in cluster.nodes) == theirs

    run(day())


@pytest.mark.parametrize("maker_dies", [False, True])
def test_who_was_away_too_shortly_for_keys_to_move_is_brought_what_was_put_meanwhile(maker_dies: bool) -> None:
    async def day() -> None:
        async with _cluster(4, 2) as cluster:
            await asyncio.sleep(2 * limits.SETTLED_S)
            *others, away = cluster.nodes
            for node in others:
                cluster.network.cut(away.name, node.name)
            await cluster.until(lambda: all(away.id not in node.ring().nodes for node in others), limits.SETTLED_S)
            for made in MADE:
                await others[0].lookup.put(made)
            assert not len(away.store.memory)
            if maker_dies:  # those that stood in for the one that was away remain
                await cluster.crash(0)
                await cluster.restart(0)
            cluster.network.heal()
            await cluster.until(lambda: all(away.id in node.ring().nodes for node in others[1:]), limits.SETTLED_S)
            await cluster.until(lambda: _is_placed(cluster), 120.0)

    run(day())


@pytest.mark.parametrize("is_owner_silent", [False, True])
def test_a_copy_that_is_owed_is_brought_although_who_owes_it_has_forgotten_its_own(is_owner_silent: bool) -> None:
    """As when the same was put in both halves of a split, and each half's put reaches the other after its end."""

    async def story() -> None:
        async with _cluster(5, 2) as cluster:
            made = MADE[0]
            owner, replica = await _settled_holders(cluster, made)
            others = [node for node in cluster.nodes if node not in (owner, replica)]
            cluster.network.freeze(replica.name)
            await others[0].lookup.put(made)
            for node in others:
                node.lookup.forget_here([made.key.packed])
            cluster.network.thaw(replica.name)
            if is_owner_silent:  # as long as it takes to try once: who does not answer may have it
                cluster.network.slow_down(owner.name, 2 * limits.ASK_TIMEOUT_S)
                await asyncio.sleep(2 * limits.OWED_EVERY_S)
                assert made.key.packed not in replica.store
                cluster.network.slow_down(owner.name, 0.0)
            await cluster.until(lambda: made.key.packed in replica.store, 60.0)
            assert made.key.packed in owner.store
            await cluster.until(lambda: all(node.moving.is_done for node in cluster.nodes), 60.0)

    run(story())


def test_who_stands_in_for_a_silent_holder_keeps_what_is_put_and_brings_it_when_its_maker_is_gone() -> None:
    async def story() -> None:
        async with _cluster(5, 2) as cluster:
            made = MADE[0]
            owner, replica = await _settled_holders(cluster, made)
            others = [index for index, node in enumerate(cluster.nodes) if node not in (owner, replica)]
            cluster.network.freeze(replica.name)
            stored = await cluster.nodes[others[0]].lookup.put(made)
            assert stored.copies == 3  # the maker, the owner, and who stands in, though it was told to forget
            await cluster.crash(others[0])
            await cluster.restart(others[0])
            cluster.network.thaw(replica.name)
            await cluster.until(lambda: made.key.packed in replica.store, 60.0)

    run(story())


def test_a_copy_stays_owed_to_who_is_held_for_dead_and_is_back_before_keys_move() -> None:
    async def story() -> None:
        async with _cluster(5, 2) as cluster:
            made = MADE[0]
            owner, replica = await _settled_holders(cluster, made)
            others = [node for node in cluster.nodes if node is not replica]
            cluster.network.freeze(replica.name)
            await next(node for node in others if node is not owner).lookup.put(made)
            await cluster.until(lambda: all(replica.id not in node.ring().nodes for node in others), 20.0)
            for node in others:
                await node.moving._pay()  # it may be at it while the members change
            cluster.network.thaw(replica.name)
            await cluster.until(lambda: made.key.packed in replica.store, 60.0)
            await cluster.until(lambda: all(node.moving.is_done for node in cluster.nodes), 60.0)

    run(story())


def test_it_is_no_faster_than_it_may_be_and_the_most_valuable_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BYTES_PER_S", 1000)

    async def day() -> None:
        async with Cluster(1, encoder=lambda index: None) as cluster:
            await asyncio.sleep(2 * limits.SETTLED_S)
            await _put_all(cluster)
            wanted = [MADE[number] for number in (250, 3, 120)]
            for made in wanted:
                assert await cluster.nodes[0].lookup.get(made.key) is not None
            newcomer = await cluster.join()
            await cluster.until(lambda: cluster.nodes[0].stats.moved >= 3, 60.0)
            assert sorted(held.key.packed for held in newcomer.store.memory)[:3] == sorted(
                made.key.packed for made in wanted
            )
            before, began = cluster.nodes[0].stats.moved, asyncio.get_running_loop().time()
            await asyncio.sleep(20.0)
            moved = cluster.nodes[0].stats.moved - before
            assert 20 < moved * MADE[0].nbytes / (asyncio.get_running_loop().time() - began) < 1100

    run(day())
