"""A real cloud node, and a cloud tier that reaches it over a WAN in memory, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from edgecache.node.address_book import AddressBook
from edgecache.node.breaker import BreakerState
from edgecache.node.identity import Identity
from edgecache.node.link import Address, dial
from edgecache.node.partials import Partials
from edgecache.node.responder import Answer
from edgecache.node.service import Node
from edgecache.node.settings import Settings
from edgecache.node.store.cloud import CloudTier
from edgecache.node.store.cloud_node import SILENCE_S, NodeRemote, cloud_cluster
from edgecache.node.store.cloud_queue import WriteQueue
from edgecache.protocol import messages
from edgecache.protocol import payload as payloads
from edgecache.protocol.cloud.objects import ObjectStoreError
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.payload import Codec, Payload
from edgecache.simulations.links import LINKS
from edgecache.simulations.network import InMemoryNetwork
from edgecache.simulations.virtual_time import in_virtual_time, run

ENCODER = EncoderIdentity("edgecache/tiny", "1", digest_of(b"weights"))
DECLARED = EncoderIdentity.declared("mine", "1")
ADDRESS: Address = ("cloud", 7441)
CLUSTER = cloud_cluster("home")


def payload(image: int, encoder: EncoderIdentity = ENCODER, seed: int = 0, dim: int = 50_000) -> Payload:
    """Features of 50 KB: large enough to be asked for before they are sent."""
    array = np.random.default_rng([image, seed]).standard_normal((1, dim))
    return payloads.encode(array, FeatureKey(digest_of(b"image %d" % image), encoder))


@dataclass
class Room:
    """An edge's remote, and the cloud node that it leads to."""

    network: InMemoryNetwork
    cloud: Node
    remote: NodeRemote

    async def put(self, made: Payload, age_s: float = 0.0, *, must_replace: bool = False) -> bool:
        return await self.remote.put(made.key.packed, made.data, age_s, must_replace=must_replace)

    @property
    def bytes_up(self) -> int:
        return self.network.host("edge").bytes_sent


async def cloud_node(network: InMemoryNetwork) -> Node:
    settings = Settings("c", CLUSTER, 2, 1 << 26, ADDRESS, ("127.0.0.1", 0), "cloud", is_cloud=True)
    book = AddressBook(None)
    node = Node(
        settings, Identity("cc" * 16, "55" * 16, None, 0), network=network.host("cloud"), discovery=None, encoder=None,
        address_book=book, seed="0",
    )  # fmt: skip
    await node.start()
    return node


def hello(cluster: str = CLUSTER, peer_port: int = 0, abilities: int = 0) -> messages.Hello:
    return messages.Hello(
        messages.PROTOCOL_VERSION, cluster, "e" * 32, "b" * 32, "e", "", peer_port, "", 0, 0, abilities
    )


@asynccontextmanager
async def room() -> AsyncIterator[Room]:
    network = InMemoryNetwork(LINKS["wan"])
    cloud = await cloud_node(network)
    remote = NodeRemote(network.host("edge"), ADDRESS, hello(), Partials())
    try:
        yield Room(network, cloud, remote)
    finally:
        await remote.close()
        await cloud.stop()


@in_virtual_time
async def test_what_one_edge_puts_there_another_gets() -> None:
    async with room() as at:
        made = payload(1)
        assert await at.put(made)
        other = NodeRemote(at.network.host("another edge"), ADDRESS, hello(), Partials())
        assert await other.has(made.key.packed)
        assert await other.get(made.key.packed) == made.data
        assert not await other.has(payload(2).key.packed)
        assert await other.get(payload(2).key.packed) is None
        await other.close()


@in_virtual_time
async def test_what_is_there_is_not_sent_again_unless_it_may_be_another() -> None:
    async with room() as at:
        assert await at.put(payload(1))
        sent = at.bytes_up
        assert not await at.put(payload(1))
        assert at.bytes_up - sent < 1000
        mine, newer = payload(1, DECLARED), payload(1, DECLARED, seed=1)
        assert await at.put(mine, must_replace=True)
        assert await at.put(newer, must_replace=True)
        assert await at.remote.get(mine.key.packed) == newer.data


@in_virtual_time
async def test_a_removal_beats_what_was_made_before_it_and_waited_for_the_uplink() -> None:
    async with room() as at:
        made = payload(1)
        await asyncio.sleep(100)
        assert await at.remote.remove([made.key.packed]) == 0
        await asyncio.sleep(10)
        assert not await at.put(made, age_s=11)
        assert await at.put(made, age_s=9)


@in_virtual_time
async def test_keys_images_and_encoders_are_removed_and_counted() -> None:
    async with room() as at:
        for made in (payload(1), payload(1, DECLARED), payload(2), payload(3, DECLARED), payload(4)):
            await at.put(made)
        assert await at.remote.remove([payload(4).key.packed, payload(9).key.packed]) == 1
        assert await at.remote.remove_image(digest_of(b"image 1")) == 2
        assert await at.remote.remove_encoder(DECLARED.digest) == 1
        assert at.cloud.store.keys() == [payload(2).key.packed]


@in_virtual_time
async def test_it_tells_of_the_encoders_whose_features_it_was_given_and_has_not_been_told_to_forget() -> None:
    async with room() as at:
        assert await at.remote.encoders() == []
        await at.put(payload(1))
        await at.put(payload(1, DECLARED))
        assert await at.remote.encoders() == [ENCODER, DECLARED]
        await at.remote.remove_encoder(ENCODER.digest)
        assert await at.remote.encoders() == [DECLARED]


@in_virtual_time
async def test_a_cloud_node_that_tells_of_what_is_no_encoder_is_not_believed() -> None:
    async with room() as at:
        told = [messages.Encoder("a@b", "1", bytes(32))]
        at.cloud.responder.answer = lambda *_: Answer(messages.State([], told, []))  # type: ignore[method-assign]
        with pytest.raises(ObjectStoreError, match="State is no answer to what was asked"):
            await at.remote.encoders()
        told[:] = [messages.Encoder("a", str(number), bytes(32)) for number in range(messages.ENCODERS_MAX + 1)]
        with pytest.raises(ObjectStoreError, match="State is no answer to what was asked"):
            await at.remote.encoders()


@in_virtual_time
async def test_all_requests_share_one_connection_which_is_dialled_again_when_it_breaks() -> None:
    async with room() as at:
        await asyncio.gather(*(at.put(payload(image)) for image in range(8)))
        assert len(at.cloud._inbound.protocols) == 1
        for protocol in tuple(at.cloud._inbound.protocols):
            protocol.abort("for the test")
        await asyncio.sleep(1)
        assert await at.remote.has(payload(1).key.packed)
        assert len(at.cloud._inbound.protocols) == 1


@in_virtual_time
async def test_a_cloud_node_that_is_not_there_is_an_error_and_found_when_it_is_back() -> None:
    async with room() as at:
        await at.put(payload(1))
        await at.cloud.stop()
        at.network.crash("cloud")
        await asyncio.sleep(1)
        with pytest.raises(ObjectStoreError, match="no cloud node at cloud:7441: nothing listens"):
            await at.remote.get(payload(1).key.packed)
        again = await cloud_node(at.network)
        assert await at.remote.get(payload(1).key.packed) is None
        await again.stop()


@in_virtual_time
async def test_a_connection_that_has_gone_silent_is_given_up_and_dialled_again() -> None:
    async with room() as at:
        await at.put(payload(1))
        at.network.freeze("cloud")
        began = asyncio.get_running_loop().time()
        with pytest.raises(ObjectStoreError, match="no answer from the cloud node"):
            await at.remote.get(payload(1).key.packed)
        assert SILENCE_S <= asyncio.get_running_loop().time() - began < SILENCE_S + 1
        at.network.thaw("cloud")
        assert await at.remote.get(payload(1).key.packed) == payload(1).data


@in_virtual_time
async def test_a_slow_uplink_is_not_silence() -> None:
    network = InMemoryNetwork(LINKS["4g"])
    cloud = await cloud_node(network)
    remote = NodeRemote(network.host("edge"), ADDRESS, hello(), Partials())
    large = payload(1, dim=12_000_000 // 200 // 64 * 64)
    puts = [payload(image, dim=large.dim) for image in range(150)]  # 9 MB: 9 s of the uplink
    await asyncio.gather(*(remote.put(made.key.packed, made.data, 0.0, must_replace=True) for made in puts))
    assert asyncio.get_running_loop().time() > SILENCE_S
    assert len(cloud.store.memory) == 150
    await remote.close()
    await cloud.stop()


@pytest.mark.parametrize("is_coded", [False, True])
def test_over_a_slow_uplink_features_travel_coded_both_ways_where_both_sides_know_how(is_coded: bool) -> None:
    async def story() -> None:
        network = InMemoryNetwork(LINKS["4g"])
        cloud = await cloud_node(network)
        remote = NodeRemote(
            network.host("edge"), ADDRESS, hello(abilities=messages.ZSTD if is_coded else 0), Partials()
        )
        made = [payload(image, dim=60_000) for image in range(20)]  # Gaussian: 6.7 bits of each byte
        for each in made:
            assert await remote.put(each.key.packed, each.data, 0.0, must_replace=True)
            assert await remote.get(each.key.packed) == each.data
        sent, came = network.host("edge").bytes_sent, network.host("edge").bytes_received
        whole = sum(each.nbytes for each in made)
        assert (sent < 0.9 * whole, came < 0.9 * whole) == (is_coded, is_coded)
        await remote.close()
        await cloud.stop()

    run(story())


def large(image: int) -> Payload:
    """Features of 4 MB: 0.4 s of a WAN's downlink."""
    array = np.random.default_rng(image).standard_normal((1000, 1000), np.float32)
    return payloads.encode(array, FeatureKey(digest_of(b"image %d" % image), ENCODER), codec=Codec.FLOAT32)


@in_virtual_time
async def test_a_download_that_breaks_goes_on_where_it_broke() -> None:
    async with room() as at:
        made = large(1)
        at.cloud.store.put(made)
        getting = asyncio.ensure_future(at.remote.get(made.key.packed))
        await asyncio.sleep(0.3)
        for protocol in tuple(at.cloud._inbound.protocols):
            protocol.abort("for the test")
        with pytest.raises(ObjectStoreError, match="no answer"):
            await getting
        assert at.network.host("cloud").bytes_sent > made.nbytes / 4
        assert await at.remote.get(made.key.packed) == made.data
        assert at.network.host("cloud").bytes_sent < 1.02 * made.nbytes


@in_virtual_time
async def test_a_beginning_that_does_not_belong_to_what_is_there_is_thrown_away() -> None:
    async with room() as at:
        made = large(1)
        at.cloud.store.put(made)
        wrong = bytes(made.data[:1000]) + bytes(200_000)
        at.remote._partials.keep(0.0, made.key.packed, 0, wrong)
        assert await at.remote.get(made.key.packed) == made.data
        other = large(2)
        at.remote._partials.keep(0.0, made.key.packed, 0, other.data[:200_000])
        assert await at.remote.get(made.key.packed) == made.data
        assert len(at.remote._partials) == 0


@in_virtual_time
async def test_what_is_no_answer_ends_the_connection() -> None:
    async with room() as at:
        at.cloud.responder.answer = lambda *_: _done()  # type: ignore[method-assign]
        for question in (at.remote.get(bytes(64)), at.remote.has(bytes(64))):
            with pytest.raises(ObjectStoreError, match="Done is no answer to what was asked"):
                await question


async def _done() -> Answer:
    return Answer(messages.Done(1))


@in_virtual_time
async def test_a_node_of_the_cluster_itself_is_turned_away_by_its_name() -> None:
    async with room() as at:
        remote = NodeRemote(at.network.host("lost"), ADDRESS, hello("home"), Partials())
        with pytest.raises(ObjectStoreError, match=r"cluster 'home( \(cloud\))?': this node is in 'home"):
            await remote.has(bytes(64))
        await remote.close()


@in_virtual_time
async def test_who_wants_to_be_a_member_is_turned_away() -> None:
    async with room() as at:
        link = await dial(at.network.host("member"), hello(peer_port=7441), ADDRESS)
        await asyncio.wait_for(link.lost.wait(), 5)
        await asyncio.sleep(10)
        assert not at.cloud.membership.in_ring_ids
        assert not at.network.host("cloud").datagrams_sent
        assert not at.network.host("cloud").sockets


@in_virtual_time
async def test_the_cloud_tier_lives_with_its_cloud_node_being_out() -> None:
    async with room() as at:
        now = asyncio.get_running_loop().time
        tier = CloudTier(at.remote, now=now, rng=random.Random(1), queue=WriteQueue())
        at.network.freeze("cloud")
        made = payload(1)
        tier.put(made.key.packed, made.data)
        for image in range(10, 13):
            with pytest.raises(OSError, match="the cloud"):
                await tier.get(payload(image).key.packed)
        assert tier.breaker.state is not BreakerState.CLOSED
        assert await tier.get(made.key.packed) == made.data  # from where it waits
        at.network.thaw("cloud")
        await asyncio.sleep(120)
        assert (tier.uploads, tier.is_degraded) == (1, False)
        assert at.cloud.store.keys() == [made.key.packed]
        await tier.close()
