"""What a node answers to a peer, and what it does not put up with."""

from __future__ import annotations

import numpy as np
import pytest
from edgecache.node import responder as limits
from edgecache.node.gossip import Gossip
from edgecache.node.journal import Journal
from edgecache.node.membership import Membership, State
from edgecache.node.responder import Answer, Responder
from edgecache.node.rumors import Rumors
from edgecache.node.store import tiers
from edgecache.protocol import messages, payload
from edgecache.protocol.errors import CorruptPayload, RemoteProtocolError
from edgecache.protocol.frames import HEAD_BYTES_MAX
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.messages import DID_NOT_FIT, KEYS_MAX, NOT_HERE
from edgecache.protocol.payload import Payload

from .conftest import OWN, FakeNode, FakeTier

PEER = messages.Hello(1, "home", "peer", "boot", "peer", "10.0.0.9", 7441, "", 0, 2**30)


class Room:
    """A responder, and what it answers from."""

    def __init__(self, *, is_cloud: bool = False) -> None:
        self.disk = FakeTier()
        self.node = FakeNode(disk=self.disk)
        self.store, self.stats, self.versions = self.node.store, self.node.stats, self.node.versions
        rumors = Rumors()
        self.membership = Membership(self.node.id, "boot", rumors)
        self.gossip = Gossip(self.membership, self.versions, self.node.removals, rumors)
        self.journal = Journal("boot", self.store.__contains__)
        self.store.tell_changes(self.journal.touch)
        self.heard: list[messages.State] = []
        self.heard_removed: list[messages.RemovedPart] = []
        self.responder = Responder(
            store=self.store,
            lookup=self.node.lookup,
            membership=self.membership,
            desk=self.node.desk,
            gossip=self.gossip,
            journal=self.journal,
            versions=self.versions,
            stats=self.stats,
            now=lambda: 5.0,
            heard_state=self.heard.append,
            is_cloud=is_cloud,
            heard_removed=self.heard_removed.append,
        )

    def ask(self, request: messages.Message, blob: bytes | memoryview = b"") -> Answer:
        answer = self.responder.answer(PEER, request, memoryview(blob))
        assert isinstance(answer, Answer)
        return answer

    async def ask_later(self, request: messages.Message) -> Answer:
        answer = self.responder.answer(PEER, request, memoryview(b""))
        assert not isinstance(answer, Answer)
        return await answer

    def holds(self, *images: bytes) -> list[Payload]:
        made = [features(image) for image in images]
        assert all(self.store.put(payload) for payload in made)
        return made


def features(image: bytes, encoder: EncoderIdentity = OWN) -> Payload:
    array = np.full((2, 8), float(len(image)), np.float32)
    return payload.encode(array, FeatureKey(digest_of(image), encoder))


@pytest.fixture
def room() -> Room:
    return Room()


def test_what_is_held_is_given_without_a_copy(room: Room) -> None:
    (held,) = room.holds(b"a")
    message, blob, blob_bytes = room.ask(messages.Get(held.key.packed))
    assert (message, blob_bytes) == (messages.Found(), held.nbytes)
    assert len(blob) == 1
    assert np.shares_memory(np.frombuffer(blob[0], np.uint8), np.frombuffer(held.data, np.uint8))
    assert room.stats.bytes_out == held.nbytes


def test_who_has_begun_with_the_very_same_gets_the_rest(room: Room) -> None:
    (held,) = room.holds(b"a")
    same = bytes(held.data[: payload.SAME_BYTES])
    for ask in (
        lambda begun: messages.Get(held.key.packed, 0, begun),
        lambda b: messages.Claim(held.key.packed, 5, 0, b),
    ):
        message, blob, blob_bytes = room.ask(ask(messages.Begun(100, same)))
        assert (message, blob_bytes) == (messages.Found(100), held.nbytes - 100)
        assert bytes(blob[0]) == bytes(held.data[100:])
        for begun in (messages.Begun(100, bytes(16)), messages.Begun(held.nbytes, same), messages.Begun(2**31, same)):
            answer = room.ask(ask(begun))
            assert (answer.message, answer.blob_bytes) == (messages.Found(), held.nbytes)


@pytest.mark.parametrize("key", [b"", bytes(63), bytes(64), bytes(65), b"../../etc/passwd"])
def test_what_is_not_held_is_missing(room: Room, key: bytes) -> None:
    room.holds(b"a")
    assert room.ask(messages.Get(key)) == Answer(messages.Missing())


def test_a_batch_has_a_size_for_each_key_in_the_order_asked(room: Room) -> None:
    a, b = room.holds(b"a", b"bb")
    answer = room.ask(messages.BatchGet([b.key.packed, bytes(64), a.key.packed, b.key.packed]))
    assert answer.message == messages.Batch([b.nbytes, NOT_HERE, a.nbytes, b.nbytes])
    assert list(answer.blob) == [b.data, a.data, b.data]
    assert answer.blob_bytes == room.stats.bytes_out == a.nbytes + 2 * b.nbytes


def test_a_batch_says_what_to_ask_for_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = room.holds(b"a", b"bb", b"ccc")
    monkeypatch.setattr(limits, "BLOB_BYTES_MAX", a.nbytes + b.nbytes)
    answer = room.ask(messages.BatchGet([a.key.packed, b.key.packed, c.key.packed]))
    assert answer.message == messages.Batch([a.nbytes, b.nbytes, DID_NOT_FIT])


async def test_what_is_on_disk_alone_is_given_later(room: Room) -> None:
    (held,) = room.holds(b"a")
    room.store.memory.remove(held.key.packed)
    answer = await room.ask_later(messages.Get(held.key.packed))
    assert (answer.message, bytes(answer.blob[0])) == (messages.Found(), bytes(held.data))
    assert room.ask(messages.Get(held.key.packed)).message == messages.Found()  # it has moved up
    assert len(room.disk.reads) == 1


async def test_what_the_disk_cannot_give_is_missing(room: Room) -> None:
    (held,) = room.holds(b"a")
    room.store.memory.remove(held.key.packed)
    room.disk.error = OSError(5, "Input/output error")
    assert await room.ask_later(messages.Get(held.key.packed)) == Answer(messages.Missing())


async def test_a_batch_is_read_from_disk_where_memory_has_it_not(room: Room) -> None:
    a, b, c = room.holds(b"a", b"bb", b"ccc")
    room.store.memory.remove(b.key.packed)
    answer = await room.ask_later(messages.BatchGet([a.key.packed, b.key.packed, bytes(64), c.key.packed]))
    assert answer.message == messages.Batch([a.nbytes, b.nbytes, NOT_HERE, c.nbytes])
    assert [bytes(part) for part in answer.blob] == [bytes(p.data) for p in (a, b, c)]
    assert room.disk.reads == [b.key.packed]


async def test_no_more_of_a_batch_is_read_from_disk_than_an_answer_takes(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = room.holds(*(bytes(size) for size in range(1, 6)))
    for payload_ in held:
        room.store.memory.remove(payload_.key.packed)
    monkeypatch.setattr(limits, "READS_TOGETHER", 1)
    monkeypatch.setattr(limits, "BLOB_BYTES_MAX", 2 * held[0].nbytes)
    answer = await room.ask_later(messages.BatchGet([payload_.key.packed for payload_ in held]))
    assert answer.message == messages.Batch([held[0].nbytes, held[1].nbytes, *[DID_NOT_FIT] * 3])
    assert len(room.disk.reads) == 3


def test_held_has_a_flag_for_each_key(room: Room) -> None:
    held, on_disk = room.holds(b"a", b"bb")
    room.store.memory.remove(on_disk.key.packed)
    asked = messages.Has([bytes(64), held.key.packed, on_disk.key.packed])
    assert room.ask(asked) == Answer(messages.Held(b"\0\1\1"))


def test_a_put_is_kept_and_its_encoder_learnt(room: Room) -> None:
    theirs = EncoderIdentity("theirs", "3", bytes(32))
    given = features(b"a", theirs)
    assert room.ask(messages.Put(10), given.data) == Answer(messages.Done(1))
    held = room.store.peek(given.key.packed)
    assert held is not None
    assert held.data == given.data
    assert theirs in room.versions.known()
    assert room.stats.bytes_in == given.nbytes


def test_a_put_that_was_made_before_it_was_forgotten_is_not_kept(room: Room) -> None:
    given = features(b"a")
    room.ask(messages.Forget([given.key.digest]))
    assert room.ask(messages.Put(60_000), given.data) == Answer(messages.Done(0))
    assert len(room.store.memory) == 0


def test_a_put_of_an_outdated_version_is_not_kept(room: Room) -> None:
    given = features(b"a", EncoderIdentity("theirs", "1", bytes(32)))
    room.versions.make_current("theirs", "2")
    assert room.ask(messages.Put(0), given.data) == Answer(messages.Done(0))


@pytest.mark.parametrize("age_ms", [-(2**63), 2**63])
def test_a_put_of_an_absurd_age_does_no_harm(room: Room, age_ms: int) -> None:
    assert room.ask(messages.Put(age_ms), features(b"a").data) == Answer(messages.Done(1))
    room.store.check()


def test_a_damaged_put_is_counted_and_refused(room: Room) -> None:
    damaged = bytes(features(b"a").data)[:-1] + b"\xff"
    with pytest.raises(CorruptPayload, match="checksum"):
        room.ask(messages.Put(0), damaged)
    assert room.stats.rejected_payloads == 1
    assert len(room.store.memory) == 0


def test_keys_and_images_are_forgotten(room: Room) -> None:
    a, b, _ = room.holds(b"a", b"bb", b"ccc")
    by_another = features(b"bb", EncoderIdentity("theirs", "1", bytes(32)))
    room.store.put(by_another)
    assert room.ask(messages.Forget([a.key.packed, b.key.digest, bytes(32)])) == Answer(messages.Done(3))
    assert len(room.store.memory) == 1


async def test_all_of_an_encoder_is_forgotten(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "REMOVED_TOGETHER", 1)
    theirs = EncoderIdentity("theirs", "1", bytes(32))
    kept, _ = room.holds(b"a", b"bb")
    for image in (b"a", b"bb", b"ccc"):
        room.store.put(features(image, theirs))
    room.store.memory.remove(features(b"ccc", theirs).key.packed)  # on disk alone
    request = messages.Forget([features(b"bb").key.packed], [theirs.digest])
    assert await room.ask_later(request) == Answer(messages.Done(4))
    assert room.store.keys() == [kept.key.packed]


@pytest.mark.parametrize("encoder", [b"", bytes(31), bytes(64)])
def test_encoders_of_another_length_are_refused(room: Room, encoder: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"key of {len(encoder)} bytes: 32 expected"):
        room.ask(messages.Forget([], [encoder]))


@pytest.mark.parametrize("request_", [messages.GetKeys(0), messages.State([], [], []), messages.Leave()])
def test_a_cloud_node_hears_of_no_members(request_: messages.Message) -> None:
    room = Room(is_cloud=True)
    with pytest.raises(RemoteProtocolError, match="this is a cloud node, which has no members"):
        room.ask(request_)
    assert room.ask(messages.Has([bytes(64)])) == Answer(messages.Held(b"\0"))


@pytest.mark.parametrize("name", [b"", bytes(31), bytes(33), bytes(63), bytes(65)])
def test_names_of_another_length_are_refused(room: Room, name: bytes) -> None:
    for request in (messages.BatchGet([name]), messages.Has([name]), messages.Forget([bytes(64), name])):
        with pytest.raises(RemoteProtocolError, match=f"key of {len(name)} bytes"):
            room.ask(request)
    with pytest.raises(RemoteProtocolError, match="key of 32 bytes: 64 expected"):
        room.ask(messages.Has([bytes(32)]))


def test_more_names_than_may_be_are_refused(room: Room) -> None:
    names = [bytes(64)] * (KEYS_MAX + 1)
    for request in (messages.BatchGet(names), messages.Has(names), messages.Forget(names)):
        with pytest.raises(RemoteProtocolError, match=f"{KEYS_MAX + 1} keys at once, at most {KEYS_MAX}"):
            room.ask(request)


def test_a_ping_is_answered_with_what_this_node_knows_and_holds(room: Room) -> None:
    room.holds(b"a")
    assert room.ask(messages.Ping(bytes(16), 0)) == Answer(messages.Ack(room.gossip.digest(), room.store.used_bytes))


def test_a_state_is_told_and_taken_in(room: Room) -> None:
    told = room.ask(messages.GetState()).message
    assert told == messages.State([], [messages.Encoder(OWN.name, OWN.version, OWN.fingerprint)], [])
    assert isinstance(told, messages.State)
    assert room.ask(told) == Answer(messages.Done(1))
    assert room.heard == [told]


def test_a_state_of_many_members_with_long_names_fits_a_message(room: Room) -> None:
    for number in range(256):
        hello = messages.Hello(1, "home", f"{number:064}", "b" * 64, "ä" * 255, "h" * 255, 7441, "", 0, 1)
        assert room.membership.met(0.0, hello, (hello.peer_host, hello.peer_port), ("", 0))
    state = room.ask(messages.GetState()).message
    assert isinstance(state, messages.State)
    assert len(state.members) > 60
    assert len(messages.encode(state)) <= HEAD_BYTES_MAX
    assert messages.decode(state.kind, messages.encode(state)) == state


def test_who_says_goodbye_has_left(room: Room) -> None:
    room.membership.met(0.0, PEER, ("10.0.0.9", 7441), ("10.0.0.9", 0))
    assert room.ask(messages.Leave()) == Answer(messages.Done(1))
    member = room.membership.get("peer")
    assert member is not None
    assert member.state is State.LEFT


@pytest.mark.parametrize("message", [messages.Found(), messages.Cancel(), messages.Refused("no"), PEER])
def test_what_is_not_a_request_is_refused(room: Room, message: messages.Message) -> None:
    with pytest.raises(RemoteProtocolError, match="is not a request"):
        room.ask(message)
