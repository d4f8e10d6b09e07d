"""A real node on loopback sockets, and peers that mean it no good. Whatever they do, an honest peer is served after."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
import zstandard
from edgecache.node import inbound, peer_protocol
from edgecache.node.address_book import AddressBook
from edgecache.node.identity import Identity
from edgecache.node.link import Address, Link, dial
from edgecache.node.peer_protocol import PeerProtocol
from edgecache.node.service import Node
from edgecache.node.settings import Settings
from edgecache.node.tcp import TcpNetwork
from edgecache.protocol import connection as limits
from edgecache.protocol import payload as payloads
from edgecache.protocol.connection import Asked, Event
from edgecache.protocol.features import Source
from edgecache.protocol.frames import BODY_BYTES_MAX, DATA
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.messages import (
    MEMBERS_MAX,
    PROTOCOL_VERSION,
    Ack,
    Claim,
    CurrentVersion,
    Done,
    Encoder,
    Forget,
    Found,
    Get,
    GetState,
    Has,
    Held,
    Hello,
    Leave,
    Member,
    Message,
    Missing,
    Ping,
    Put,
    Refused,
    State,
    encode,
)
from edgecache.protocol.payload import Payload
from edgecache.simulations.cluster import ModelledEncoder

NODE_ID = "77" * 16
BOOT = "55" * 16
PATIENCE_S = 10.0  # how long a test waits for what should happen at once
IDENTITY = EncoderIdentity("theirs", "1", digest_of(b"weights"))
OTHER_IDENTITY = EncoderIdentity("theirs", "2", IDENTITY.fingerprint)


def _features(image: bytes, tokens: int = 4, dim: int = 8) -> Payload:
    rng = np.random.default_rng(int.from_bytes(digest_of(image)[:8], "little"))
    return payloads.encode(rng.standard_normal((tokens, dim), np.float32), FeatureKey(digest_of(image), IDENTITY))


HELD = _features(b"what the node holds")


async def _started(*, seeds: tuple[Address, ...] = (), encoder: ModelledEncoder | None = None) -> Node:
    settings = Settings("victim", "home", 2, 64 * 1024 * 1024, ("127.0.0.1", 0), ("127.0.0.1", 0), "127.0.0.1", seeds)
    node = Node(
        settings,
        Identity(NODE_ID, BOOT, None, 0),
        network=TcpNetwork(),
        discovery=None,
        encoder=encoder,
        address_book=AddressBook(None),
        seed="0",
    )
    await node.start()
    node.store.put(HELD)
    return node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node that holds one image's features, and still gives them to an honest peer after the test."""
    node = await _started()
    try:
        yield node
        assert await _is_served(node)
        node.store.check()
    finally:
        await node.stop()


async def _is_served(node: Node) -> bool:
    honest = await _link(node)
    got = await honest.ask(Get(HELD.key.packed), PATIENCE_S)
    honest.protocol.close()
    return got is not None and bytes(got.blob) == bytes(HELD.data)


def _hello(name: str = "stranger", **changes: Any) -> Hello:
    told: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION, "cluster": "home", "id": name, "boot": BOOT, "name": name, "peer_host": "",
        "peer_port": 0, "http_host": "", "http_port": 0, "capacity_bytes": 2**26,
    }  # fmt: skip
    return Hello(**told | changes)


async def _link(node: Node, hello: Hello | None = None) -> Link:
    """A connection that says what it should."""
    return await asyncio.wait_for(dial(TcpNetwork(), hello or _hello(), node.peer_address), PATIENCE_S)


def _frame(message: Message | int, stream: int = 1, blob: bytes = b"", head: bytes | None = None) -> bytes:
    kind = message if isinstance(message, int) else message.kind
    if head is None:
        assert isinstance(message, Message)
        head = encode(message)
    blob_bytes = 0 if kind == DATA else len(blob)
    return struct.pack("<IBBHII", len(head) + len(blob), kind, 0, len(head), stream, blob_bytes) + head + blob


def _coded(body: bytes) -> bytes:
    """A Put of 100 bytes, coded as that."""
    head = encode(Put(0))
    return struct.pack("<IBBHII", len(head) + len(body), Put.kind, 1, len(head), 1, 100) + head + body


async def _attack(node: Node, *said: bytes) -> bytes:
    """Say it on a raw socket, the second part after the handshake; what the node says until it ends the connection."""
    reader, writer = await asyncio.open_connection(*node.peer_address)
    for part in said:
        if part is not said[0]:
            await _until(lambda: any(protocol.connection.peer for protocol in node._inbound.protocols))
        writer.write(part)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


# -- before the handshake ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\x00" * 3 + b"garbage" * 500, "frame"),
        (b"GET / HTTP/1.1\r\nHost: victim\r\n\r\n", "frame of 542393671 bytes, at most"),
        (b"\xff" * 64, "frame of 4294967295 bytes, at most"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), "frame of"),
        (pickle.dumps({"a": 1}), "frame of"),
        (_frame(_hello(cluster="office")), "cluster 'office': this node is in 'home'"),
        (_frame(_hello(protocol=99)), "protocol 99: this node speaks 1"),
        (_frame(_hello(name="x" * 300)), "Hello that does not decode"),
        (_frame(_hello(peer_port=70000)), "Hello that does not decode"),
        (_frame(_hello(peer_host="a\r\nb")), "Hello that does not decode"),
        (_frame(Get(HELD.key.packed)), "Get before Hello"),
        (_frame(Refused("no" * 30_000)), "refused by the peer"),
        (_frame(99, head=b"\x90"), "message of kind 99"),
        (_frame(Hello.kind, head=b"\x91" * 60_000), "Hello that does not decode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "said",
)
async def test_who_does_not_shake_hands_is_told_why_and_sent_away(node: Node, said: bytes, reason: str) -> None:
    assert reason.encode() in await _attack(node, said)
    assert node.stats.refused_handshakes == 1
    assert node.stats.protocol_errors == 0


async def test_who_says_nothing_or_stops_halfway_is_sent_away_in_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_S", 0.05)
    for said in (b"", _frame(_hello())[:-1], struct.pack("<I", 100)):
        assert b"no Hello within" in await _attack(node, said)
    assert node.stats.refused_handshakes == 3


async def test_one_byte_at_a_time_does_not_keep_a_handshake_open(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(*node.peer_address)
    heard = asyncio.ensure_future(reader.read())
    for byte in _frame(_hello()) * 1000:
        if heard.done():
            break
        writer.write(bytes([byte]))
        await asyncio.wait([heard], timeout=0.02)
    await asyncio.wait([heard])  # what it was told is lost where a further byte met the end of the connection
    heard.exception()
    assert "no Hello within" in caplog.text
    writer.close()


async def test_who_comes_again_and_again_with_tls_is_counted_and_fills_no_log(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        assert b"speaks TLS" in await _attack(node, b"\x16\x03\x01\x02" + bytes(600))
    await _until(lambda: node.stats.refused_handshakes == 5)
    assert caplog.text.count("closed a connection from") == 1


async def test_a_node_that_has_this_nodes_own_id_is_sent_away_and_the_newer_of_the_two_knows(node: Node) -> None:
    for boot, is_newer in (("66" * 16, False), ("44" * 16, True)):
        assert b"this node has the same id" in await _attack(node, _frame(_hello(id=NODE_ID, boot=boot)))
        assert node.twin.is_set() is is_newer
    assert node.membership.all() == []


async def test_nothing_is_done_for_a_twin_that_it_asks_in_the_same_breath(node: Node) -> None:
    await _attack(node, _frame(_hello(id=NODE_ID)) + _frame(Forget([HELD.key.packed])))
    assert HELD.key.packed in node.store


# -- after the handshake -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (struct.pack("<IBBHII", 0xFFFFFFFF, 17, 0, 2, 1, 0xFFFFFFFF), "frame of 4294967295 bytes"),
        (struct.pack("<IBBHII", BODY_BYTES_MAX + 1, 17, 0, 2, 1, 0), "at most"),
        (struct.pack("<IBBHII", 2, 17, 0, 2, 1, 0xFFFFFFFF) + b"\x91\x00", "blob of 4294967295 bytes"),
        (b"\xff" * 64, "frame of"),
        (_frame(77, head=b"\x90"), "message of kind 77"),
        (_frame(DATA, 5, b"piece", b""), "DATA on stream 5"),
        (_frame(_hello()), "Hello from the dialling side"),
        (_frame(Found(), 1, bytes(HELD.data)), "Found from the dialling side"),
        (_frame(Get.kind, head=b"\x92\xc4\x00" + b"\x91" * 60_000), "Get that does not decode"),
        (_frame(Has([b"short"])), "key of 5 bytes: 64 expected"),
        (_frame(Has([bytes(64)] * 900)), "900 keys at once, at most 512"),
        (_frame(Forget([bytes(31)])), "key of 31 bytes: 32 or 64 expected"),
        (_frame(Forget([b""])), "key of 0 bytes"),
        (_frame(Forget([bytes(65)])), "key of 65 bytes"),
        (_frame(State([Member("a", "b", "", "h", 1)] * (MEMBERS_MAX + 1), [], [])), "state of 1025 members"),
        (_frame(State.kind, head=b"\x93\xdd\x00\x0f\x42\x40" + b"\x90" * 60_000), "State that does not decode"),
        (_frame(State([], [Encoder("a\nb", "1", bytes(32))], [])), "state: encoder name"),
        (_frame(State([], [Encoder("a", "1", b"")], [])), "state: encoder fingerprint of 0 bytes"),
        (_frame(State([], [], [CurrentVersion("theirs", "2", 2**63)])), "invalidation counter 9223372036854775808"),
        (_frame(State([], [], [CurrentVersion("theirs", "2", -1)])), "invalidation counter -1"),
        (_frame(Put(0), 1, b""), "payload of 0 bytes"),
        (_frame(Put(0), 1, pickle.dumps(list(range(100)))), "payload starts with"),
        (_coded(zstandard.ZstdCompressor().compress(bytes(2**26))), "coded bytes that unpack to 67108864: at most"),
        (_coded(zstandard.ZstdCompressor().compress(bytes(2**17))), "coded bytes that unpack to 131072: at most"),
        (_coded(bytes(5000)), "5000 coded bytes that do not unpack"),
        (_coded(zstandard.ZstdCompressor().compress(bytes(HELD.data))), "Put with 240 bytes of a blob of 100"),
    ],
    ids=lambda value: value if isinstance(value, str) else "said",
)
async def test_a_peer_that_breaks_the_rules_is_told_why_and_sent_away(node: Node, said: bytes, reason: str) -> None:
    assert reason.encode() in await _attack(node, _frame(_hello()), said)
    assert node.stats.protocol_errors == 1
    assert len(node.store.memory) == 1
    assert HELD.key.packed in node.store


async def test_a_frame_that_stops_halfway_is_given_up_and_nothing_is_stored(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_TIMEOUT_S", 0.05)
    put = _frame(Put(0), 1, bytes(_features(b"another").data))
    assert b"part of a message, and no more of it" in await _attack(node, _frame(_hello()), put[:-1])
    opening = struct.pack("<IBBHII", 2 + 9, Put.kind, 0, 2, 1, 500_000) + encode(Put(0)) + bytes(9)
    assert b"part of a message, and no more of it" in await _attack(node, _frame(_hello()), opening)
    assert len(node.store.memory) == 1
    assert node.stats.protocol_errors == 2


async def test_one_byte_at_a_time_does_not_keep_a_frame_open(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "FRAME_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(*node.peer_address)
    writer.write(_frame(_hello()))
    heard = asyncio.ensure_future(reader.read())
    for byte in _frame(Put(0), 1, bytes(_features(b"another").data)):
        if heard.done():
            break
        writer.write(bytes([byte]))
        await asyncio.wait([heard], timeout=0.02)
    await asyncio.wait([heard])
    heard.exception()
    assert "no more of it within" in caplog.text
    writer.close()


async def test_a_put_with_any_flipped_bit_is_rejected_and_counted(node: Node) -> None:
    whole = bytes(_features(b"another").data)
    bits = [0, 33, 64, 130, 160, 200, 260, 330, 700, 1500, 8 * len(whole) - 1]
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert await _attack(node, _frame(_hello()), _frame(Put(0), 1, bytes(damaged)))
    assert node.stats.rejected_payloads == node.stats.protocol_errors == len(bits)
    assert len(node.store.memory) == 1


async def test_a_put_answers_for_its_own_key_and_for_no_other(node: Node) -> None:
    link = await _link(node)
    put, other = _features(b"another"), _features(b"a third")
    done = await link.ask(Put(0), PATIENCE_S, (put.data,), put.nbytes)
    assert done is not None
    assert done.answer == Done(1)
    by_another = FeatureKey(put.key.digest, OTHER_IDENTITY)
    for key, answer in ((put.key, Found()), (other.key, Missing()), (by_another, Missing())):
        got = await link.ask(Get(key.packed), PATIENCE_S)
        assert got is not None
        assert got.answer == answer
    for wrong in (b"", b"../../etc/passwd", put.key.packed[:63], put.key.packed + b"\0", put.key.digest):
        got = await link.ask(Get(wrong), PATIENCE_S)
        assert got is not None
        assert got.answer == Missing()
    link.protocol.close()


async def test_an_invalidation_replayed_or_old_changes_nothing(node: Node) -> None:
    link = await _link(node)
    node.versions.make_current("theirs", "1")
    node.versions.make_current("theirs", "1")
    for counter in (1, 2):
        said = await link.ask(State([], [], [CurrentVersion("theirs", "0", counter)]), PATIENCE_S)
        assert said is not None
        assert said.answer == Done(1)
    assert node.versions.is_current(IDENTITY)
    assert HELD.key.packed in node.store
    link.protocol.close()


async def test_members_told_of_are_those_that_could_be_reached(node: Node) -> None:
    link = await _link(node)
    told = [
        Member("ghost", BOOT, "\x1b[2J", "127.0.0.1", 1),
        Member("nameless", BOOT, "", "", 1),
        Member("portless", BOOT, "", "127.0.0.1", 0),
        Member("odd", BOOT, "", "x" * 255, 1),
        Member(NODE_ID, BOOT, "", "127.0.0.1", 2),
    ]
    said = await link.ask(State(told, [], []), PATIENCE_S)
    assert said is not None
    assert said.answer == Done(1)
    assert [member.id for member in node.membership.all()] == ["ghost", "odd"]
    link.protocol.close()


async def test_a_goodbye_in_the_name_of_a_stranger_changes_nothing(node: Node) -> None:
    link = await _link(node)
    assert await link.ask(Leave(), PATIENCE_S) is not None
    assert node.membership.all() == []
    link.protocol.close()


# -- many, and those that do not read ------------------------------------------------------------------------------


async def test_connections_have_a_cap_and_those_within_it_are_served(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "INBOUND_MAX", 3)
    links = [await _link(node) for _ in range(3)]
    for _ in range(5):
        assert b"more than 3 connections" in await _attack(node, _frame(_hello()))
    for link in links:
        got = await link.ask(Get(HELD.key.packed), PATIENCE_S)
        assert got is not None
        assert got.answer == Found()
        link.protocol.close()
    await _until(lambda: node.counters()["peer_connections"] == 0)


async def test_a_peer_that_asks_and_asks_and_reads_nothing_is_not_listened_to_and_others_are_served(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_protocol, "PENDING_BYTES_MAX", 8 * 1024 * 1024)
    large = _features(b"large", 400, 1000)
    node.store.put(large)
    _, writer = await asyncio.open_connection(*node.peer_address)
    writer.write(_frame(_hello()))
    for stream in range(1, 1000):
        writer.write(_frame(Get(large.key.packed), stream))
    await _until(lambda: any(not protocol._may_read for protocol in node._inbound.protocols))
    (deaf,) = node._inbound.protocols
    assert deaf._transport is not None
    assert deaf._transport.get_write_buffer_size() < 2 * 1024 * 1024
    assert await _is_served(node)
    deaf.close("enough")
    # Although the other side takes nothing of what it was sent.
    await _until(lambda: deaf not in node._inbound.protocols)
    writer.close()


# -- members that answer wrong -------------------------------------------------------------------------------------


class Neighbour:
    """A member that the node dials, and what it answers to a Get or Claim."""

    def __init__(self, name: str, gives: Callable[[bytes], tuple[Message, Sequence[bytes]]]) -> None:
        self.id = name
        self.gets: list[bytes] = []
        self.closed = 0
        self._gives = gives
        self._port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> Address:
        def protocol() -> PeerProtocol:
            me = _hello(self.id, peer_port=self._port)
            return PeerProtocol(me, is_dialer=False, on_event=self._on_event, on_lost=self._on_lost)

        self._server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return "127.0.0.1", self._port

    def _on_event(self, protocol: PeerProtocol, event: Event) -> None:
        if not isinstance(event, Asked):
            return
        answer: Message
        blob: Sequence[bytes] = ()
        match event.request:
            case Get() | Claim():
                self.gets.append(event.request.key)
                answer, blob = self._gives(event.request.key)
            case Has():
                answer = Held(b"\1" * len(event.request.keys))
            case Ping():
                answer = Ack(bytes(16), 0)
            case GetState():
                answer = State([], [], [])
            case _:
                answer = Done(1)
        protocol.connection.answer(event.stream, answer, blob, sum(map(len, blob)))

    def _on_lost(self, protocol: PeerProtocol, reason: str) -> None:
        self.closed += 1

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()


WANTED = _features(b"wanted")
_TRUTH = bytes(WANTED.data)
_FLIPPED = _TRUTH[:-1] + bytes([_TRUTH[-1] ^ 1])
LIES: dict[str, tuple[Message, Sequence[bytes]]] = {
    "the features of another image": (Found(), [bytes(_features(b"unwanted").data)]),
    "features with a flipped bit": (Found(), [_FLIPPED]),
    "half of the features": (Found(), [_TRUTH[: len(_TRUTH) // 2]]),
    "a pickle": (Found(), [pickle.dumps(list(range(1000)))]),
    "nothing": (Found(), []),
}


def _asked_first(node: Node, liar: str) -> FeatureKey:
    """A key for which the node asks `liar` before any other."""
    keys = (FeatureKey(digest_of(struct.pack("<I", number)), IDENTITY) for number in range(10_000))
    return next(key for key in keys if node.lookup._neighbourhood.holders(key.packed)[:1] == [liar])


@pytest.mark.parametrize("lie", LIES)
async def test_after_a_lie_the_next_holder_is_asked_and_the_liar_is_counted_and_cut_off(lie: str) -> None:
    truth: dict[bytes, bytes] = {}
    liar = Neighbour("liar", lambda key: LIES[lie])
    honest = Neighbour("honest", lambda key: (Found(), [truth[key]]))
    node = await _started(seeds=(await liar.start(), await honest.start()))
    try:
        await _until(lambda: set(node._links.nodes()) == {"liar", "honest"})
        key = _asked_first(node, "liar")
        right = payloads.encode(np.full((2, 3), 7.5, np.float32), key)
        truth[key.packed] = bytes(right.data)
        found = await node.lookup.get(key)
        assert liar.gets == [key.packed]
        assert found is not None
        assert (found.source, found.node) == (Source.PEER, "honest")
        assert np.array_equal(found.payload.array(), right.array())
        assert (node.stats.rejected_payloads, node.stats.protocol_errors) == (1, 1)
        await _until(lambda: liar.closed == 1)
        assert honest.closed == 0
        assert await _is_served(node)
    finally:
        await node.stop()
        liar.stop()
        honest.stop()


async def test_with_liars_alone_features_are_a_miss_and_an_image_is_encoded() -> None:
    encoder = ModelledEncoder(encode_s=0.0)
    liar = Neighbour("liar", lambda key: LIES["the features of another image"])
    node = await _started(seeds=(await liar.start(),), encoder=encoder)
    try:
        await _until(lambda: node._links.nodes() == ["liar"])
        image = b"a photograph"
        assert await node.lookup.get(FeatureKey(digest_of(image), IDENTITY)) is None
        await _until(lambda: liar.closed == 1)
        await _until(lambda: node._links.nodes() == ["liar"])  # dialled again, and given another chance
        key = FeatureKey(digest_of(image), encoder.known.identity)
        found = await node.lookup.get(key, image)
        assert found is not None
        assert found.source is Source.ENCODER
        right = payloads.encode(await encoder.encode(image), key)
        assert np.array_equal(found.payload.array(), right.array())
        assert node.stats.rejected_payloads == 2
    finally:
        await node.stop()
        liar.stop()


async def test_an_answer_of_the_wrong_kind_is_none() -> None:
    answers: list[tuple[Message, Sequence[bytes]]] = [
        (Done(1), []), (Refused("no\r\n"), []), (State([], [], []), []), (Held(b"\1"), []),
    ]  # fmt: skip
    odd = Neighbour("odd", lambda key: answers.pop())
    node = await _started(seeds=(await odd.start(),))
    try:
        await _until(lambda: node._links.nodes() == ["odd"])
        while answers:
            assert await node._peers.get("odd", WANTED.key.packed, PATIENCE_S) is None
        assert odd.closed == 0
    finally:
        await node.stop()
        odd.stop()


async def test_a_large_answer_that_never_ends_costs_no_more_than_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = encode(Found())
    begun = struct.pack("<IBBHII", len(head) + 9, Found.kind, 0, len(head), 0, 50_000_000) + head + bytes(9)
    asked = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_frame(_hello("slow", peer_port=port), 0))
        while header := await reader.read(16):
            if len(header) < 16:
                break
            size, kind, _, _, stream, _ = struct.unpack("<IBBHII", header)
            await reader.readexactly(size)
            if kind == Get.kind:
                writer.write(begun[:8] + struct.pack("<I", stream) + begun[12:])
                asked.set()
            elif kind == Ping.kind:
                writer.write(_frame(Ack(bytes(16), 0), stream))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    node = await _started(seeds=(("127.0.0.1", port),))
    try:
        await _until(lambda: node._links.nodes() == ["slow"])
        assert await node._peers.get("slow", WANTED.key.packed, 0.2) is None
        assert asked.is_set()
        link = node._links.link("slow")
        assert link is not None
        assert link.protocol.connection._arriving_bytes == 0
        assert await _is_served(node)
    finally:
        await node.stop()
        server.close()
