"""A real node on loopback sockets, and peers that mean it no good. Whatever they do, an honest peer is served after."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import AsyncIterator

import pytest
import zstandard
from edgecache.node import inbound, peer_protocol
from edgecache.node.service import Node
from edgecache.protocol import connection as limits
from edgecache.protocol.frames import BODY_BYTES_MAX, DATA
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.messages import (
    MEMBERS_MAX,
    CurrentVersion,
    Done,
    Encoder,
    Forget,
    Found,
    Get,
    Has,
    Hello,
    Leave,
    Member,
    Missing,
    Put,
    Refused,
    State,
    encode,
)

from .victim import BOOT, HELD, IDENTITY, NODE_ID, PATIENCE_S, features, frame, hello, is_served, linked, started, until

OTHER_IDENTITY = EncoderIdentity("theirs", "2", IDENTITY.fingerprint)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node that holds one image's features, and still gives them to an honest peer after the test."""
    node = await started()
    try:
        yield node
        assert await is_served(node)
        node.store.check()
    finally:
        await node.stop()


def _coded(body: bytes) -> bytes:
    """A Put of 100 bytes, coded as that."""
    head = encode(Put(0))
    return struct.pack("<IBBHII", len(head) + len(body), Put.kind, 1, len(head), 1, 100) + head + body


async def _attack(node: Node, *said: bytes) -> bytes:
    """Say it on a raw socket, the second part after the handshake; what the node says until it ends the connection."""
    reader, writer = await asyncio.open_connection(*node.peer_address)
    for part in said:
        if part is not said[0]:
            await until(lambda: any(protocol.connection.peer for protocol in node._inbound.protocols))
        writer.write(part)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


# -- before the handshake ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\x00" * 3 + b"garbage" * 500, "frame"),
        (b"GET / HTTP/1.1\r\nHost: victim\r\n\r\n", "frame of 542393671 bytes, at most"),
        (b"\xff" * 64, "frame of 4294967295 bytes, at most"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), "frame of"),
        (pickle.dumps({"a": 1}), "frame of"),
        (frame(hello(cluster="office")), "cluster 'office': this node is in 'home'"),
        (frame(hello(protocol=99)), "protocol 99: this node speaks 1"),
        (frame(hello(name="x" * 300)), "Hello that does not decode"),
        (frame(hello(peer_port=70000)), "Hello that does not decode"),
        (frame(hello(peer_host="a\r\nb")), "Hello that does not decode"),
        (frame(Get(HELD.key.packed)), "Get before Hello"),
        (frame(Refused("no" * 30_000)), "refused by the peer"),
        (frame(99, head=b"\x90"), "message of kind 99"),
        (frame(Hello.kind, head=b"\x91" * 60_000), "Hello that does not decode"),
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
    for said in (b"", frame(hello())[:-1], struct.pack("<I", 100)):
        assert b"no Hello within" in await _attack(node, said)
    assert node.stats.refused_handshakes == 3


async def test_one_byte_at_a_time_does_not_keep_a_handshake_open(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(*node.peer_address)
    heard = asyncio.ensure_future(reader.read())
    for byte in frame(hello()) * 1000:
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
    await until(lambda: node.stats.refused_handshakes == 5)
    assert caplog.text.count("closed a connection from") == 1


async def test_a_node_that_has_this_nodes_own_id_is_sent_away_and_the_newer_of_the_two_knows(node: Node) -> None:
    for boot, is_newer in (("66" * 16, False), ("44" * 16, True)):
        assert b"this node has the same id" in await _attack(node, frame(hello(id=NODE_ID, boot=boot)))
        assert node.twin.is_set() is is_newer
    assert node.membership.all() == []


async def test_nothing_is_done_for_a_twin_that_it_asks_in_the_same_breath(node: Node) -> None:
    await _attack(node, frame(hello(id=NODE_ID)) + frame(Forget([HELD.key.packed])))
    assert HELD.key.packed in node.store


# -- after the handshake -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (struct.pack("<IBBHII", 0xFFFFFFFF, 17, 0, 2, 1, 0xFFFFFFFF), "frame of 4294967295 bytes"),
        (struct.pack("<IBBHII", BODY_BYTES_MAX + 1, 17, 0, 2, 1, 0), "at most"),
        (struct.pack("<IBBHII", 2, 17, 0, 2, 1, 0xFFFFFFFF) + b"\x91\x00", "blob of 4294967295 bytes"),
        (b"\xff" * 64, "frame of"),
        (frame(77, head=b"\x90"), "message of kind 77"),
        (frame(DATA, 5, b"piece", b""), "DATA on stream 5"),
        (frame(hello()), "Hello from the dialling side"),
        (frame(Found(), 1, bytes(HELD.data)), "Found from the dialling side"),
        (frame(Get.kind, head=b"\x92\xc4\x00" + b"\x91" * 60_000), "Get that does not decode"),
        (frame(Has([b"short"])), "key of 5 bytes: 64 expected"),
        (frame(Has([bytes(64)] * 900)), "900 keys at once, at most 512"),
        (frame(Forget([bytes(31)])), "key of 31 bytes: 32 or 64 expected"),
        (frame(Forget([b""])), "key of 0 bytes"),
        (frame(Forget([bytes(65)])), "key of 65 bytes"),
        (frame(State([Member("a", "b", "", "h", 1)] * (MEMBERS_MAX + 1), [], [])), "state of 1025 members"),
        (frame(State.kind, head=b"\x93\xdd\x00\x0f\x42\x40" + b"\x90" * 60_000), "State that does not decode"),
        (frame(State([], [Encoder("a\nb", "1", bytes(32))], [])), "state: encoder name"),
        (frame(State([], [Encoder("a", "1", b"")], [])), "state: encoder fingerprint of 0 bytes"),
        (frame(State([], [], [CurrentVersion("theirs", "2", 2**63)])), "invalidation counter 9223372036854775808"),
        (frame(State([], [], [CurrentVersion("theirs", "2", -1)])), "invalidation counter -1"),
        (frame(Put(0), 1, b""), "payload of 0 bytes"),
        (frame(Put(0), 1, pickle.dumps(list(range(100)))), "payload starts with"),
        (_coded(zstandard.ZstdCompressor().compress(bytes(2**26))), "coded bytes that unpack to 67108864: at most"),
        (_coded(zstandard.ZstdCompressor().compress(bytes(2**17))), "coded bytes that unpack to 131072: at most"),
        (_coded(bytes(5000)), "5000 coded bytes that do not unpack"),
        (_coded(zstandard.ZstdCompressor().compress(bytes(HELD.data))), "Put with 240 bytes of a blob of 100"),
    ],
    ids=lambda value: value if isinstance(value, str) else "said",
)
async def test_a_peer_that_breaks_the_rules_is_told_why_and_sent_away(node: Node, said: bytes, reason: str) -> None:
    assert reason.encode() in await _attack(node, frame(hello()), said)
    assert node.stats.protocol_errors == 1
    assert len(node.store.memory) == 1
    assert HELD.key.packed in node.store


async def test_a_frame_that_stops_halfway_is_given_up_and_nothing_is_stored(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_TIMEOUT_S", 0.05)
    put = frame(Put(0), 1, bytes(features(b"another").data))
    assert b"part of a message, and no more of it" in await _attack(node, frame(hello()), put[:-1])
    opening = struct.pack("<IBBHII", 2 + 9, Put.kind, 0, 2, 1, 500_000) + encode(Put(0)) + bytes(9)
    assert b"part of a message, and no more of it" in await _attack(node, frame(hello()), opening)
    assert len(node.store.memory) == 1
    assert node.stats.protocol_errors == 2


async def test_one_byte_at_a_time_does_not_keep_a_frame_open(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "FRAME_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(*node.peer_address)
    writer.write(frame(hello()))
    heard = asyncio.ensure_future(reader.read())
    for byte in frame(Put(0), 1, bytes(features(b"another").data)):
        if heard.done():
            break
        writer.write(bytes([byte]))
        await asyncio.wait([heard], timeout=0.02)
    await asyncio.wait([heard])
    heard.exception()
    assert "no more of it within" in caplog.text
    writer.close()


async def test_a_put_with_any_flipped_bit_is_rejected_and_counted(node: Node) -> None:
    whole = bytes(features(b"another").data)
    bits = [0, 33, 64, 130, 160, 200, 260, 330, 700, 1500, 8 * len(whole) - 1]
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert await _attack(node, frame(hello()), frame(Put(0), 1, bytes(damaged)))
    assert node.stats.rejected_payloads == node.stats.protocol_errors == len(bits)
    assert len(node.store.memory) == 1


async def test_a_put_answers_for_its_own_key_and_for_no_other(node: Node) -> None:
    link = await linked(node)
    put, other = features(b"another"), features(b"a third")
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
    link = await linked(node)
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
    link = await linked(node)
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
    link = await linked(node)
    assert await link.ask(Leave(), PATIENCE_S) is not None
    assert node.membership.all() == []
    link.protocol.close()


# -- many, and those that do not read ------------------------------------------------------------------------------


async def test_connections_have_a_cap_and_those_within_it_are_served(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "INBOUND_MAX", 3)
    links = [await linked(node) for _ in range(3)]
    for _ in range(5):
        assert b"more than 3 connections" in await _attack(node, frame(hello()))
    for link in links:
        got = await link.ask(Get(HELD.key.packed), PATIENCE_S)
        assert got is not None
        assert got.answer == Found()
        link.protocol.close()
    await until(lambda: node.counters()["peer_connections"] == 0)


async def test_a_peer_that_asks_and_asks_and_reads_nothing_is_not_listened_to_and_others_are_served(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_protocol, "PENDING_BYTES_MAX", 8 * 1024 * 1024)
    large = features(b"large", 400, 1000)
    node.store.put(large)
    _, writer = await asyncio.open_connection(*node.peer_address)
    writer.write(frame(hello()))
    for stream in range(1, 1000):
        writer.write(frame(Get(large.key.packed), stream))
    await until(lambda: any(not protocol._may_read for protocol in node._inbound.protocols))
    (deaf,) = node._inbound.protocols
    assert deaf._transport is not None
    assert deaf._transport.get_write_buffer_size() < 2 * 1024 * 1024
    assert await is_served(node)
    deaf.close("enough")
    # Although the other side takes nothing of what it was sent.
    await until(lambda: deaf not in node._inbound.protocols)
    writer.close()
