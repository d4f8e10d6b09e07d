"""Two connections joined in memory: what peers that break the rules do not get away with."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from edgecache.protocol.connection import (
    BLOB_BYTES_MAX,
    FRAME_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    MESSAGE_TIMEOUT_S,
    STREAMS_MAX,
    Answered,
    Asked,
    Connection,
)
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.frames import CHUNK_BYTES, DATA
from edgecache.protocol.messages import (
    Ack,
    Batch,
    BatchGet,
    Cancel,
    Found,
    Get,
    GetState,
    Member,
    Message,
    Missing,
    Put,
    Refused,
    State,
)

from tests.protocol.pairs import KEY, Pair, blob_of, by_complaint, feed, framed, hello_of

# -- the handshake -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_dialer", [True, False])
@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (framed(hello_of("x", cluster="office")), "cluster 'office': this node is in 'home'"),
        (framed(hello_of("x", protocol=2)), "protocol 2: this node speaks 1"),
        (framed(hello_of("x", protocol=-1)), "protocol -1"),
        (framed(Get(KEY), 1), "Get before Hello"),
        (framed(Found(), 1, 5, b"12345"), "Found before Hello"),
        (framed(Refused("no\r\nroom")), r"refused by the peer: 'no\\r\\nroom'"),
        (framed(DATA, 1, piece=b"1"), "DATA on stream 1"),
        (framed(hello_of("x"), 0, 9, b"123456789"), "Hello with 9 bytes of a blob of 9"),
        (framed(hello_of("x"), 0, 0, b"123"), "Hello with 3 bytes of a blob of 0"),
        (framed(99), "message of kind 99: protocol 1 has none"),
        (framed(hello_of("x")) + framed(hello_of("x")), "Hello from the"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "frame of 542393671 bytes"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), "frame of"),  # TLS
        (b"\xff" * 64, "frame of 4294967295 bytes"),
    ],
    ids=by_complaint,
)
def test_who_does_not_say_a_proper_hello_first_is_not_listened_to(is_dialer: bool, said: bytes, complaint: str) -> None:
    connection = Connection(hello_of("me"), 0.0, is_dialer=is_dialer)
    with pytest.raises(RemoteProtocolError, match=complaint):
        feed(connection, said)


def test_who_says_no_hello_is_not_waited_for() -> None:
    connection = Connection(hello_of("me"), 100.0, is_dialer=False)
    assert connection.deadline() == 100.0 + HANDSHAKE_TIMEOUT_S
    assert connection.tick(100.0 + HANDSHAKE_TIMEOUT_S - 0.01) == []
    for byte in framed(hello_of("x"))[:-1]:
        feed(connection, bytes([byte]), 104.9)  # a trickle does not help
    with pytest.raises(RemoteProtocolError, match=f"no Hello within {HANDSHAKE_TIMEOUT_S} s"):
        connection.tick(100.0 + HANDSHAKE_TIMEOUT_S)


def test_a_reason_is_cut_before_it_is_passed_on() -> None:
    pair = Pair()
    pair.dialled.refuse("because " * 20_000)
    with pytest.raises(RemoteProtocolError) as refused:
        pair.down()
    assert len(str(refused.value)) < 300


# -- the dialer's offences -----------------------------------------------------------------------------------------


def _a_node_that_was_dialled() -> Connection:
    return Pair().dialled


def _put(stream: int, blob_bytes: int, piece: bytes = b"") -> bytes:
    return framed(Put(0), stream, blob_bytes, piece)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (framed(Get(KEY), 0), "request on stream 0, which is taken"),
        (framed(Get(KEY), 1) * 2, "request on stream 1, which is taken"),
        (_put(0, 5), "request on stream 0"),
        (framed(Get(KEY), 1) + _put(1, 5, b"123"), "request on stream 1, which is taken"),
        (_put(1, 5, b"123") + framed(Get(KEY), 1), "Get on stream 1, where a blob is still arriving"),
        (_put(1, 5, b"123") + _put(1, 5, b"123"), "Put on stream 1, where a blob is still arriving"),
        (_put(1, 5, b"123456"), "Put with 6 bytes of a blob of 5"),
        (_put(1, 5, b"123") + framed(DATA, 1, piece=b"456"), "6 bytes of a blob of 5"),
        (_put(1, 5, b"123") + framed(DATA, 2, piece=b"45"), "DATA on stream 2, where no blob is arriving"),
        (_put(1, 5, b"12345") + framed(DATA, 1, piece=b"6"), "DATA on stream 1, where no blob is arriving"),
        (_put(1, 5, b"123") + framed(DATA, 1), "DATA of 0 bytes"),
        (_put(1, 5) + framed(DATA, 1), "DATA of 0 bytes"),
        (_put(1, 5) + framed(DATA, 1, piece=b"1", head=b"h"), "with a head of 1"),
        (_put(1, 5) + framed(DATA, 1, blob_bytes=5, piece=b"1"), "DATA of 1 bytes"),
        (_put(1, BLOB_BYTES_MAX + 1), f"blob of {BLOB_BYTES_MAX + 1} bytes, at most {BLOB_BYTES_MAX}"),
        (_put(1, BLOB_BYTES_MAX) + _put(2, BLOB_BYTES_MAX) + _put(3, 1), "bytes arriving at once"),
        (framed(Get(KEY), 1, 5, b"12345"), "Get with 5 bytes of a blob of 5"),
        (framed(Get(KEY), 1, 0, b"12345"), "Get with 5 bytes of a blob of 0"),
        (framed(Cancel(), 1, 0, b"1"), "Cancel with 1 bytes of a blob of 0"),
        (framed(Found(), 1), "Found from the dialling side"),
        (framed(Ack(b"", 0), 1), "Ack from the dialling side"),
        (framed(hello_of("x"), 0), "Hello from the dialling side"),
        (framed(Refused("why"), 0), "refused by the peer: 'why'"),
        (framed(99, 1), "message of kind 99"),
        (framed(Get.kind, 1, head=b"\x91\xc0"), "Get that does not decode"),
        (framed(Get.kind, 1, head=b"\x92\xc4\x00" + b"\x91" * 60_000), "Get that does not decode"),
    ],
    ids=by_complaint,
)
def test_a_dialer_that_breaks_the_rules_is_refused(said: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        feed(_a_node_that_was_dialled(), said)


def test_too_many_requests_are_refused_whether_they_arrive_or_wait_for_their_answers() -> None:
    arriving = b"".join(_put(stream, 9, b"1") for stream in range(1, STREAMS_MAX + 3))
    waiting = b"".join(framed(Get(KEY), stream) for stream in range(1, STREAMS_MAX + 3))
    for said in (arriving, waiting):
        with pytest.raises(RemoteProtocolError, match=f"more than {STREAMS_MAX} requests in flight"):
            feed(_a_node_that_was_dialled(), said)


def test_who_asks_on_and_on_and_reads_no_answer_is_refused() -> None:
    dialled = _a_node_that_was_dialled()
    for stream in range(1, STREAMS_MAX + 2):
        feed(dialled, framed(Get(KEY), stream))
        dialled.answer(stream, Found(), (bytes(100_000),), 100_000)
    with pytest.raises(RemoteProtocolError, match=f"more than {STREAMS_MAX} requests in flight"):
        feed(dialled, framed(Get(KEY), STREAMS_MAX + 2))


def test_cancelling_what_was_never_asked_does_nothing() -> None:
    dialled = _a_node_that_was_dialled()
    assert feed(dialled, b"".join(framed(Cancel(), stream) for stream in range(1000))) == []
    assert dialled.pending_bytes == 0


def test_a_trickle_within_a_frame_is_no_progress() -> None:
    dialled = _a_node_that_was_dialled()
    frame = framed(Get(KEY), 1)
    feed(dialled, frame[:1], 50.0)
    assert dialled.deadline() == 50.0 + FRAME_TIMEOUT_S
    for step in range(1, 10):
        feed(dialled, frame[step : step + 1], 50.0 + step)
    with pytest.raises(RemoteProtocolError, match=f"no more of it within {FRAME_TIMEOUT_S} s"):
        dialled.tick(50.0 + FRAME_TIMEOUT_S)


@pytest.mark.parametrize("size", [100, 60_000, 151_504, 600_000])
def test_a_payload_arrives_in_the_memory_that_its_receiver_gives_and_a_batch_does_not(size: int) -> None:
    given: list[memoryview] = []

    def give(size: int) -> memoryview:
        given.append(memoryview(bytearray(size)))
        return given[-1]

    pair, sent = Pair(receive_into=give), blob_of(1, size)
    pair.ask(Put(0), blob=sent)
    (asked,) = pair.up()
    stream = pair.ask(Get(KEY))
    pair.up()
    pair.dialled.answer(stream, Found(), (sent,), size)
    (found,) = pair.down()
    stream = pair.ask(BatchGet([KEY]))
    pair.up()
    pair.dialled.answer(stream, Batch([size]), (sent,), size)
    pair.down()
    assert isinstance(asked, Asked)
    assert isinstance(found, Answered)
    assert [bytes(memory) for memory in given] == [sent, sent]
    assert asked.blob.obj is given[0].obj
    assert found.blob.obj is given[1].obj


def test_a_blob_that_stops_halfway_is_not_waited_for() -> None:
    dialled = _a_node_that_was_dialled()
    feed(dialled, _put(1, 500, b"123"), 50.0)
    assert dialled.tick(50.0 + FRAME_TIMEOUT_S - 0.01) == []
    with pytest.raises(RemoteProtocolError, match="part of a message"):
        dialled.tick(50.0 + FRAME_TIMEOUT_S)


def test_crumbs_keep_a_blob_alive_for_a_minute_at_most_and_other_messages_do_not_prolong_it() -> None:
    dialled = _a_node_that_was_dialled()
    feed(dialled, _put(1, 500, b"123"), 50.0)
    for now in range(55, 110, 5):
        assert dialled.tick(now) == []
        feed(dialled, framed(DATA, 1, piece=b"4") + framed(Cancel(), 5), now)
    assert dialled.deadline() == 50.0 + MESSAGE_TIMEOUT_S
    with pytest.raises(RemoteProtocolError, match=f"not here whole within {MESSAGE_TIMEOUT_S} s"):
        dialled.tick(50.0 + MESSAGE_TIMEOUT_S)


def test_an_idle_connection_needs_no_waking() -> None:
    pair = Pair()
    assert pair.dialer.deadline() == pair.dialled.deadline() == float("inf")


# -- the dialled side's offences -----------------------------------------------------------------------------------


def _asked(*requests: Message) -> Connection:
    """A dialer that waits for answers on streams 1, 2, …"""
    pair = Pair()
    for request in requests:
        pair.ask(request)
    pair.up()
    return pair.dialer


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (framed(Missing(), 7), "answer on stream 7, on which nothing was asked"),
        (framed(Found(), 7, 5, b"123"), "answer on stream 7, on which nothing was asked"),
        (framed(Missing(), 0), "answer on stream 0, on which nothing was asked"),
        (framed(Missing(), 1) * 2, "answer on stream 1, on which nothing was asked"),
        (framed(Found(), 1, 5, b"123") + framed(Missing(), 1), "Missing on stream 1, where a blob is still arriving"),
        (framed(Found(), 1, 5, b"123") + framed(DATA, 1, piece=b"456"), "6 bytes of a blob of 5"),
        (framed(Found(), 1, BLOB_BYTES_MAX + 1), "blob of"),
        (framed(Refused("leaving"), 0), "refused by the peer: 'leaving'"),
        (framed(Get(KEY), 1), "Get from the dialled side"),
        (framed(Cancel(), 1), "Cancel from the dialled side"),
        (framed(hello_of("x"), 0), "Hello from the dialled side"),
    ],
    ids=by_complaint,
)
def test_a_node_that_answers_what_nobody_asked_is_refused(said: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        feed(_asked(Get(KEY), Get(KEY)), said)


def test_an_answer_of_another_kind_is_an_answer() -> None:
    """Whoever asked decides what it is worth: the connection does not know which answer belongs to which question."""
    dialer = _asked(Get(KEY), GetState())
    state = State([Member("a", "b", "c", "d", 1)], [], [])
    assert feed(dialer, framed(state, 1)) == [Answered(1, state, memoryview(b""))]
    assert feed(dialer, framed(Refused("too busy"), 2)) == [Answered(2, Refused("too busy"), memoryview(b""))]


def test_answers_larger_than_may_arrive_together_are_refused_before_anything_is_allocated() -> None:
    dialer = _asked(Get(KEY), Get(KEY), Get(KEY))
    said = [framed(Found(), stream, BLOB_BYTES_MAX) for stream in (1, 2, 3)]
    with pytest.raises(RemoteProtocolError, match="bytes arriving at once"):
        feed(dialer, b"".join(said))


@pytest.mark.parametrize("make", [_a_node_that_was_dialled, lambda: _asked(Get(KEY))])
def test_garbage_after_the_handshake_raises_nothing_but_an_offence(make: Callable[[], Connection]) -> None:
    rng = np.random.default_rng(3)
    kinds = [DATA, 1, 2, 3, 10, 11, 12, 17, 19, 31, 33, 77]
    heads = [b"\x90", b"\x91\xc4\x01a", b"\x91\x05", b"\x91\xa1a", msgspec.msgpack.encode([[], [], []]), b"\xc1", b""]
    for _ in range(400):
        connection = make()
        try:
            for _ in range(8):
                said = framed(
                    int(rng.choice(kinds)),
                    int(rng.integers(0, 4)),
                    int(rng.choice([0, 0, 3, 5, 2**32 - 1])),
                    bytes(int(rng.integers(0, 6))),
                    heads[int(rng.integers(0, len(heads)))],
                )
                feed(connection, said)
        except RemoteProtocolError:
            connection.check()


def test_a_trickle_within_a_large_frame_is_no_progress_although_it_is_received_where_it_stays() -> None:
    dialled = _a_node_that_was_dialled()
    frame = framed(Put(0), 1, CHUNK_BYTES, bytes(CHUNK_BYTES))
    feed(dialled, frame[:1000], 50.0)
    for step in range(1, 10):
        feed(dialled, frame[999 + step : 1000 + step], 50.0 + step)
    assert dialled.deadline() == 50.0 + FRAME_TIMEOUT_S
    with pytest.raises(RemoteProtocolError, match=f"no more of it within {FRAME_TIMEOUT_S} s"):
        dialled.tick(50.0 + FRAME_TIMEOUT_S)


@pytest.mark.parametrize("cut", [16, 17, 18, 20, 1000, CHUNK_BYTES // 2, CHUNK_BYTES - 9000, CHUNK_BYTES + 10])
def test_an_answer_cancelled_within_a_large_frame_is_dropped_and_what_follows_is_understood(cut: int) -> None:
    pair = Pair()
    large, small = pair.ask(Get(KEY)), pair.ask(Get(KEY))
    pair.up()
    said = framed(Found(), large, CHUNK_BYTES, blob_of(1, CHUNK_BYTES)) + framed(Found(), small, 5, b"small")
    assert feed(pair.dialer, said[:cut]) == []
    pair.dialer.cancel(large)
    assert feed(pair.dialer, said[cut:]) == [Answered(small, Found(), memoryview(b"small"))]
    assert pair.dialer._abandoned == set()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (framed(Put(0), 1, 9000, bytes(20_000))[:100], "Put with 20000 bytes of a blob of 9000"),
        (framed(Get(KEY), 1, 20_000, bytes(20_000))[:200], "Get with 20000 bytes of a blob of 20000"),
        (_put(1, 9000, b"1") + framed(DATA, 1, piece=bytes(20_000))[:100], "20001 bytes of a blob of 9000"),
        (framed(DATA, 1, piece=bytes(20_000))[:16], "DATA on stream 1, where no blob is arriving"),
        (framed(99, 1, 20_000, bytes(20_000))[:16], "message of kind 99"),
    ],
    ids=by_complaint,
)
def test_a_large_frame_that_breaks_the_rules_is_refused_before_it_is_here(said: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        feed(_a_node_that_was_dialled(), said)
