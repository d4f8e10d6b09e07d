"""node/streams.py: each stream has a number, and with it what it asks for reaches the eviction policy."""

from __future__ import annotations

from typing import Any

from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.policy import NO_FACTS, Facts
from edgecache.node.streams import STREAMS_MAX, Streams
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import FeatureKey, digest_of
from edgecache.protocol.payload import Payload

from .conftest import OWN, FakeNode, FakeTier, Serve, features_of

HOUR = 9  # that of a `FakeNode`


class Hearing(LRU[bytes]):
    """LRU that remembers what it was told of each entry."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[bytes, Facts] = {}

    def admit(self, key: bytes, size: int = 1, facts: Facts = NO_FACTS) -> None:
        super().admit(key, size, facts)
        self.heard[key] = facts


def stored(image: bytes) -> Payload:
    return payloads.encode(features_of(image), FeatureKey(digest_of(image), OWN))


def url(image: bytes) -> str:
    return f"/v1/features/{digest_of(image).hex()}"


def test_a_stream_keeps_its_number_and_no_other_has_it() -> None:
    streams = Streams()
    numbers = [streams.number(f"camera {n}") for n in range(STREAMS_MAX)]
    assert sorted(numbers) == list(range(STREAMS_MAX))
    assert [streams.number(f"camera {n}") for n in range(STREAMS_MAX)] == numbers


def test_a_new_stream_takes_the_number_of_the_one_that_was_silent_for_longest() -> None:
    streams = Streams()
    numbers = {n: streams.number(f"camera {n}") for n in range(STREAMS_MAX)}
    streams.number("camera 0")
    assert streams.number("another") == numbers[1]
    assert streams.number("camera 0") == numbers[0]


async def test_the_policy_hears_which_stream_asked_in_which_hour_wherever_the_features_come_from(serve: Serve) -> None:
    policy = Hearing()
    node = FakeNode(policy=policy, disk=FakeTier(), cloud=FakeTier())
    assert node.store.disk is not None
    assert node.store.cloud is not None
    made = {image: stored(image) for image in (b"on disk", b"in the cloud", b"at a peer", b"in a batch")}
    for image, tier in (
        (b"on disk", node.store.disk),
        (b"in the cloud", node.store.cloud),
        (b"in a batch", node.store.disk),
    ):
        tier.tier.put(made[image].key.packed, made[image].data)
    node.peers.held = {"neighbour": {made[b"at a peer"].key.packed: made[b"at a peer"]}}
    client: Any = await serve(node)
    await client.post("/v1/features?stream=gate", data=b"\xff\xd8\xff encoded")
    await client.get(f"{url(b'on disk')}?stream=yard")
    await client.get(f"{url(b'in the cloud')}?stream=gate")
    await client.get(f"{url(b'at a peer')}?stream=yard")
    await client.post("/v1/features:batchGet?stream=gate", json={"digests": [digest_of(b"in a batch").hex()]})
    npy = {"Content-Type": "application/vnd.edgecache.payload"}
    await client.put(f"{url(b'uploaded')}?stream=yard", data=bytes(stored(b"uploaded").data), headers=npy)

    def heard(image: bytes) -> tuple[int | None, int | None, bool]:
        facts = policy.heard[FeatureKey(digest_of(image), OWN).packed]
        return facts.stream, facts.hour, facts.cost_ms is not None

    gate, yard = 0, 1
    assert heard(b"\xff\xd8\xff encoded") == (gate, HOUR, True)
    assert heard(b"on disk") == (yard, HOUR, True)
    assert heard(b"in the cloud") == (gate, HOUR, True)
    assert heard(b"at a peer") == (yard, HOUR, True)
    assert heard(b"in a batch") == (gate, HOUR, True)
    assert heard(b"uploaded") == (yard, HOUR, False)


async def test_of_what_a_peer_puts_here_only_the_hour_is_known() -> None:
    policy = Hearing()
    node = FakeNode(policy=policy)
    assert node.lookup.accept(stored(b"brought"), age_s=0.0)
    assert list(policy.heard.values()) == [Facts(hour=HOUR)]
