"""Transfers that break between real nodes: nothing that has come is sent again, whoever sends the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from edgecache.node.peers import Peers
from edgecache.node.responder import Answer
from edgecache.node.service import Node
from edgecache.protocol import messages
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.payload import Codec, Payload
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.links import LINKS
from edgecache.simulations.virtual_time import in_virtual_time

ENCODER = EncoderIdentity("large", "1", digest_of(b"weights"))


def made(image: int, rows: int = 1000) -> Payload:
    """4 MB of float32: 0.4 s of a WAN."""
    array = np.random.default_rng(image).standard_normal((rows, 1000), np.float32)
    return payloads.encode(array, FeatureKey(digest_of(b"%d" % image), ENCODER), codec=Codec.FLOAT32)


@asynccontextmanager
async def three(*held: Payload) -> AsyncIterator[tuple[Cluster, Peers, Node, Node]]:
    """An asker's peers, and two nodes that hold the same."""
    async with Cluster(3, link=lambda index: LINKS["wan"]) as cluster:
        asker, first, second = cluster.nodes
        for each in held:
            first.store.put(each)
            second.store.put(each)
        yield cluster, asker._peers, first, second


def sent(cluster: Cluster, index: int) -> int:
    return cluster.network.host(f"n{index}").bytes_sent


@in_virtual_time
async def test_a_transfer_goes_on_at_another_holder_when_the_first_dies() -> None:
    large = made(1)
    async with three(large) as (cluster, peers, first, second):
        before = sent(cluster, 1), sent(cluster, 2)
        getting = asyncio.ensure_future(peers.get(first.id, large.key.packed, 10.0))
        await asyncio.sleep(0.5)
        await cluster.crash(1)
        assert await getting is None
        got = sent(cluster, 1) - before[0]
        assert large.nbytes / 4 < got < large.nbytes
        reply = await peers.get(second.id, large.key.packed, 10.0)
        assert reply is not None
        assert reply.payload is not None
        assert reply.payload.data == large.data
        assert got + sent(cluster, 2) - before[1] < 1.35 * large.nbytes  # what was on its way is lost
        assert len(peers._partials) == 0


@in_virtual_time
async def test_a_transfer_that_has_run_out_of_time_goes_on_when_it_is_asked_for_again() -> None:
    large = made(1)
    async with three(large) as (_, peers, first, second):
        assert await peers.get(first.id, large.key.packed, 0.4) is None
        assert peers._partials.nbytes > large.nbytes / 8
        for _ in range(4):
            reply = await peers.get(second.id, large.key.packed, 0.35)
            if reply is not None:
                break
        assert reply is not None
        assert reply.payload is not None
        assert reply.payload.data == large.data


@in_virtual_time
async def test_a_beginning_that_was_a_lie_costs_one_more_question_and_nobody_their_connection() -> None:
    large = made(1)
    async with three(large) as (_, peers, first, _):
        key = large.key.packed
        peers._partials.keep(asyncio.get_running_loop().time(), key, 0, bytes(large.data[:16]) + bytes(500_000))
        reply = await peers.get(first.id, key, 10.0)
        assert reply is not None
        assert reply.payload is not None
        assert reply.payload.data == large.data
        assert (peers._stats.rejected_payloads, peers._stats.protocol_errors) == (1, 0)
        peers._partials.keep(asyncio.get_running_loop().time(), key, 0, bytes(500_000))  # of another payload
        reply = await peers.get(first.id, key, 10.0)
        assert reply is not None
        assert reply.payload is not None
        assert peers._stats.rejected_payloads == 1


@in_virtual_time
async def test_two_holders_that_both_send_the_rest_are_both_right() -> None:
    large = made(1)
    async with three(large) as (_, peers, first, second):
        peers._partials.keep(asyncio.get_running_loop().time(), large.key.packed, 0, large.data[:1_000_000])
        replies = await asyncio.gather(*(peers.get(node.id, large.key.packed, 10.0) for node in (first, second)))
        assert all(reply is not None and reply.payload is not None for reply in replies)
        assert (peers._stats.rejected_payloads, peers._stats.protocol_errors) == (0, 0)


@in_virtual_time
async def test_the_rest_of_what_nobody_has_begun_ends_the_connection() -> None:
    large = made(1)
    async with three(large) as (_, peers, first, _):
        answer = Answer(messages.Found(7), (large.data,), large.nbytes)
        first.responder._found = lambda *asked: answer  # type: ignore[method-assign]
        assert await peers.get(first.id, large.key.packed, 10.0) is None
        assert peers._stats.protocol_errors == 1


@in_virtual_time
async def test_of_a_batch_that_breaks_what_has_come_whole_is_kept() -> None:
    several = [made(image, rows=250) for image in range(8)]  # 1 MB each
    keys = [each.key.packed for each in several]
    async with three(*several) as (cluster, peers, first, second):
        getting = asyncio.ensure_future(peers.get_many(first.id, keys, 10.0))
        await asyncio.sleep(0.8)
        await cluster.crash(1)
        found = await getting
        assert found is not None
        assert 1 <= len(found) < 8
        assert all(found[each.key.packed].data == each.data for each in several if each.key.packed in found)
        assert len(peers._partials) == 1  # and of the next, its beginning
        rest = await peers.get_many(second.id, [key for key in keys if key not in found], 10.0)
        assert rest is not None
        assert len(found) + len(rest) == 8
