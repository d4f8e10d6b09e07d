"""Two connections joined in memory: what honest peers may rely on, and what others do not get away with."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from edgecache.protocol import connection as limits
from edgecache.protocol.connection import (
    ARRIVING_BYTES_MAX,
    BLOB_BYTES_MAX,
    FRAME_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    MESSAGE_TIMEOUT_S,
    STREAMS_MAX,
    Answered,
    Asked,
    Connection,
    Event,
    Opened,
)
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.frames import CHUNK_BYTES, DATA, uninitialized
from edgecache.protocol.messages import (
    CUT,
    PROTOCOL_VERSION,
    ZSTD,
    Ack,
    Batch,
    BatchGet,
    Cancel,
    Done,
    Found,
    Get,
    GetState,
    Hello,
    Member,
    Message,
    Missing,
    Pace,
    Ping,
    Put,
    Refused,
    State,
    encode,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

KEY = bytes(64)
SIZES = st.sampled_from([0, 1, 100, 8192, 8193, CHUNK_BYTES, CHUNK_BYTES + 1, 200_000, 600_000])


def _complaint(value: object) -> str:
    """What a case is called in the list of tests: by the complaint that it earns."""
    return value if isinstance(value, str) else "said"


def _hello(name: str, *, cluster: str = "home", protocol: int = PROTOCOL_VERSION) -> Hello:
    return Hello(protocol, cluster, name, "boot", name, "", 7441, "", 7440, 2**30)


def _blob(seed: int, size: int) -> bytes:
    """Bytes that show it when a piece of them is missing, doubled or another's."""
    return ((np.arange(size) * 31 + seed * 7) % 251).astype(np.uint8).tobytes()


def _feed(connection: Connection, data: bytes, now: float = 0.0) -> list[Event]:
    events, view = [], memoryview(data)
    while view:
        buffer = connection.buffer()
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        view = view[count:]
        events += connection.received(now, count)
    connection.check()
    return events


def _out(connection: Connection, bytes_wanted: int = 2**40) -> bytes:
    return b"".join(connection.take(bytes_wanted))


def _frame(
    message: Message | int, stream: int = 0, blob_bytes: int = 0, piece: bytes = b"", head: bytes | None = None
) -> bytes:
    """A frame as a peer may forge it."""
    kind = message if isinstance(message, int) else message.kind
    if head is None:
        head = b"" if isinstance(message, int) else encode(message)
    return struct.pack("<IBBHII", len(head) + len(piece), kind, 0, len(head), stream, blob_bytes) + head + piece


class Pair:
    """A dialer and the node it dialled, with nothing between them that loses a byte."""

    def __init__(
        self,
        *,
        are_open: bool = True,
        receive_into: Callable[[int], memoryview] = uninitialized,
        abilities: int = 0,
    ) -> None:
        dialer, dialled = (msgspec.structs.replace(_hello(name), abilities=abilities) for name in ("dialer", "dialled"))
        self.dialer = Connection(dialer, 0.0, is_dialer=True, receive_into=receive_into)
        self.dialled = Connection(dialled, 0.0, is_dialer=False, receive_into=receive_into)
        if are_open:
            self.up()
            self.down()

    def up(self, now: float = 0.0) -> list[Event]:
        """Everything that the dialer has to say is heard."""
        return _feed(self.dialled, _out(self.dialer), now)

    def down(self, now: float = 0.0) -> list[Event]:
        """Everything that the dialled side has to say is heard."""
        return _feed(self.dialer, _out(self.dialled), now)

    def ask(self, request: Message, deadline: float = 1.0, blob: bytes = b"") -> int:
        stream = self.dialer.ask(request, deadline, (blob,) if blob else (), len(blob))
        assert stream is not None
        return stream


# -- coding --------------------------------------------------------------------------------------------------------


def _abled(name: str, abilities: int) -> Hello:
    return msgspec.structs.replace(_hello(name), abilities=abilities)


def _arrive_slowly(connection: Connection, wire: bytes, bytes_per_s: float, began: float) -> list[Event]:
    events, at = [], 0
    while at < len(wire):
        piece = wire[at : at + 4096]
        at += len(piece)
        events += _feed(connection, piece, began + at / bytes_per_s)
    return events


@pytest.mark.parametrize("abilities", [ZSTD, ZSTD | 64])
def test_what_comes_slowly_is_coded_from_then_on_in_both_directions(abilities: int) -> None:
    pair = Pair(are_open=False, abilities=abilities)
    pair.up()
    pair.down()
    payload = np.random.default_rng(0).integers(0, 32, 150_000, np.uint8).tobytes()
    sizes = []
    for now in range(4):
        stream = pair.ask(Put(0), deadline=99.0, blob=payload)
        wire = _out(pair.dialer)
        assert _arrive_slowly(pair.dialled, wire, 1e6, now) == [Asked(stream, Put(0), memoryview(payload))]
        pair.dialled.answer(stream, Found(), (payload,), len(payload))
        answer = _out(pair.dialled)
        assert _arrive_slowly(pair.dialer, answer, 1e6, now + 0.5) == [Answered(stream, Found(), memoryview(payload))]
        sizes.append((len(wire), len(answer)))
    assert sizes[0][0] > len(payload)
    assert all(size < 0.7 * len(payload) for size in sizes[-1])


@pytest.mark.parametrize(("mine", "theirs"), [(ZSTD, 0), (0, ZSTD), (ZSTD, 64), (0, 0)])
def test_a_peer_that_does_not_know_coding_is_sent_nothing_coded_and_nothing_of_it(mine: int, theirs: int) -> None:
    pair = Pair(are_open=False)
    pair.dialer = Connection(_abled("dialer", mine), 0.0, is_dialer=True)
    pair.dialled = Connection(_abled("dialled", theirs), 0.0, is_dialer=False)
    pair.up()
    pair.down()
    payload = bytes(300_000)
    for now in range(3):
        stream = pair.ask(Put(0), deadline=99.0, blob=payload)
        wire = _out(pair.dialer)
        assert len(wire) > len(payload)
        _arrive_slowly(pair.dialled, wire, 1e6, now)
        assert pair.dialled.pending_bytes == 0
        pair.dialled.answer(stream, Done(1))
        pair.down(now + 0.5)


def test_a_peer_that_may_not_code_has_no_pace_to_speak_of() -> None:
    pair = Pair()
    with pytest.raises(RemoteProtocolError, match="Pace from the dialled side"):
        _feed(pair.dialer, _frame(Pace(1)))
    with pytest.raises(RemoteProtocolError, match="Pace from the dialling side"):
        _feed(pair.dialled, _frame(Pace(1)))


# -- honest peers --------------------------------------------------------------------------------------------------


def test_each_side_learns_who_the_other_is() -> None:
    pair = Pair(are_open=False)
    assert pair.dialer.peer is None
    assert pair.up() == [Opened(_hello("dialer"))]
    assert pair.down() == [Opened(_hello("dialled"))]
    assert pair.dialer.peer == _hello("dialled")


def test_a_request_is_asked_and_answered() -> None:
    pair = Pair()
    stream = pair.ask(Get(KEY))
    assert pair.up() == [Asked(stream, Get(KEY), memoryview(b""))]
    pair.dialled.answer(stream, Found(), (b"pay", b"load"), 7)
    assert pair.down() == [Answered(stream, Found(), memoryview(b"payload"))]
    assert pair.dialer.requests_in_flight == pair.dialled.requests_in_flight == 0


def test_answers_may_come_in_any_order() -> None:
    pair = Pair()
    streams = [pair.ask(Get(KEY)) for _ in range(5)]
    pair.up()
    for stream in (streams[3], streams[0], streams[4]):
        pair.dialled.answer(stream, Done(stream))
    nothing = memoryview(b"")
    assert pair.down() == [Answered(stream, Done(stream), nothing) for stream in (4, 1, 5)]
    assert pair.dialer.requests_in_flight == 2


def test_blobs_are_handed_out_read_only_and_outlive_the_buffer() -> None:
    pair = Pair()
    blobs = [_blob(1, 500), _blob(2, 500_000)]
    for blob in blobs:
        pair.ask(Put(0), blob=blob)
    asked = [event for event in pair.up() if isinstance(event, Asked)]
    for _ in range(50):
        pair.ask(Ping(bytes(16), 0))
    pair.up()
    assert [bytes(event.blob) for event in asked] == blobs
    assert all(event.blob.readonly for event in asked)


def test_a_request_out_of_time_gets_an_empty_answer_and_its_late_answer_is_dropped() -> None:
    pair = Pair()
    late, later = pair.ask(Get(KEY), 1.0), pair.ask(Get(KEY), 2.0)
    pair.up()
    for stream in (late, later):
        pair.dialled.answer(stream, Found(), (_blob(stream, 300_000),), 300_000)
    assert pair.dialer.deadline() == 1.0
    assert pair.dialer.tick(0.9) == []
    assert pair.dialer.tick(1.0) == [Answered(late, None, memoryview(b""))]
    assert pair.down() == [Answered(later, Found(), memoryview(_blob(later, 300_000)))]
    assert pair.up() == []
    assert pair.ask(Get(KEY)) == 3
    assert len(pair.up()) == 1


def test_a_cancelled_request_gets_no_event_and_its_stream_is_free_again() -> None:
    pair = Pair()
    stream = pair.ask(Get(KEY))
    pair.up()
    pair.dialer.cancel(stream)
    pair.dialer.cancel(stream)
    assert pair.up() == []
    assert pair.dialled.requests_in_flight == 0
    pair.dialled.answer(stream, Found())  # too late, and nothing is sent
    assert pair.down() == []
    assert pair.dialer._abandoned == set()


def test_a_large_put_that_was_not_begun_is_never_sent() -> None:
    pair = Pair()
    stream = pair.ask(Put(0), blob=_blob(0, 500_000))
    pair.dialer.cancel(stream)
    assert _out(pair.dialer) == b""
    assert pair.dialer._abandoned == set()


def test_a_put_cancelled_halfway_arrives_whole_and_its_answer_is_dropped() -> None:
    pair = Pair()
    stream = pair.ask(Put(0), blob=_blob(0, 500_000))
    assert _feed(pair.dialled, _out(pair.dialer, 1)) == []
    pair.dialer.cancel(stream)
    (asked,) = pair.up()
    assert isinstance(asked, Asked)
    pair.dialled.answer(asked.stream, Done(1))
    assert pair.down() == []
    assert pair.dialer._abandoned == set()


def test_an_answer_cancelled_before_it_was_begun_is_not_sent() -> None:
    pair = Pair()
    stream = pair.ask(Get(KEY))
    pair.up()
    pair.dialled.answer(stream, Found(), (_blob(0, 500_000),), 500_000)
    pair.dialer.cancel(stream)
    pair.up()
    assert len(wire := _out(pair.dialled)) < 100
    assert _feed(pair.dialer, wire) == []
    assert pair.dialer._abandoned == set()


def test_an_answer_cancelled_halfway_costs_no_memory_any_more() -> None:
    pair = Pair()
    stream = pair.ask(Get(KEY))
    pair.up()
    pair.dialled.answer(stream, Found(), (_blob(0, 500_000),), 500_000)
    _feed(pair.dialer, _out(pair.dialled, 1))
    assert pair.dialer._arriving_bytes == 500_000
    pair.dialer.cancel(stream)
    assert pair.dialer._arriving_bytes == 0
    assert pair.up() == pair.down() == []
    assert pair.dialer._abandoned == set()


def test_an_answer_cancelled_halfway_is_broken_off_where_both_sides_know_how() -> None:
    pair = Pair(abilities=CUT)
    stream, other = pair.ask(Get(KEY)), pair.ask(Get(KEY))
    pair.up()
    for each in (stream, other):
        pair.dialled.answer(each, Found(), (_blob(each, 5_000_000),), 5_000_000)
    _feed(pair.dialer, _out(pair.dialled, 3 * CHUNK_BYTES))
    pair.dialer.cancel(stream)
    pair.up()
    wire = _out(pair.dialled)
    assert len(wire) < 5_000_000
    assert _feed(pair.dialer, wire) == [Answered(other, Found(), memoryview(_blob(other, 5_000_000)))]
    assert pair.dialer._abandoned == set()
    assert not pair.dialer._arriving
    assert pair.dialled._writer._underway_bytes == pair.dialled.pending_bytes == 0


def test_an_answer_that_was_not_cancelled_is_not_broken_off() -> None:
    pair = Pair(abilities=CUT)
    stream = pair.ask(Get(KEY))
    pair.up()
    pair.dialled.answer(stream, Found(), (_blob(0, 500_000),), 500_000)
    _feed(pair.dialer, _out(pair.dialled, 1))
    with pytest.raises(RemoteProtocolError, match=f"Refused on stream {stream}, where a blob is still arriving"):
        _feed(pair.dialer, _frame(Refused("no"), stream))


def test_what_has_come_of_an_answer_that_is_out_of_time_is_told() -> None:
    pair = Pair()
    stream = pair.ask(Get(KEY), deadline=1.0)
    pair.up()
    blob = _blob(0, 900_000)
    pair.dialled.answer(stream, Found(7), (blob,), len(blob))
    wire = _out(pair.dialled)
    _feed(pair.dialer, wire[:200_000])
    (event,) = pair.dialer.tick(1.0)
    assert isinstance(event, Answered)
    assert (event.answer, event.begun) == (None, Found(7))
    assert 190_000 < len(event.blob) < 200_000
    assert event.blob == blob[: len(event.blob)]
    assert _feed(pair.dialer, wire[200_000:]) == []


def test_abandoned_streams_are_counted_off_however_long_it_goes_on() -> None:
    pair = Pair()
    for turn in range(5 * STREAMS_MAX):
        stream = pair.ask(Get(KEY), deadline=turn + 0.5)
        if turn % 3:
            pair.up()
            pair.dialled.answer(stream, Missing())
        if turn % 2:
            pair.dialer.cancel(stream)
        else:
            assert pair.dialer.tick(turn + 0.5) == [Answered(stream, None, memoryview(b""))]
        if turn % 100 == 0:
            pair.up()
            pair.down()
    pair.up()
    pair.down()
    assert pair.dialer._abandoned == set()
    assert pair.dialer.requests_in_flight == pair.dialled.requests_in_flight == 0


def test_no_more_is_asked_than_may_be_in_flight_also_of_a_peer_that_answers_nothing() -> None:
    pair = Pair()
    for _ in range(STREAMS_MAX):
        pair.ask(Get(KEY), 1.0)
    assert pair.dialer.ask(Get(KEY), 1.0) is None
    assert len(pair.dialer.tick(1.0)) == STREAMS_MAX
    assert pair.dialer.ask(Get(KEY), 2.0) is None  # the late answers may still come
    assert len(pair.up()) == STREAMS_MAX
    assert pair.dialled.requests_in_flight == 0
    assert pair.down() == []
    assert pair.dialer.ask(Get(KEY), 2.0) is not None


def test_as_many_as_may_be_in_flight_can_be_asked_at_once_and_answered_at_once() -> None:
    pair = Pair(are_open=False)
    streams = [pair.ask(Get(KEY)) for _ in range(STREAMS_MAX)]
    wire = _out(pair.dialer)
    (opened, *asked) = _feed(pair.dialled, wire)
    assert isinstance(opened, Opened)
    assert [event.stream for event in asked if isinstance(event, Asked)] == streams
    for stream in streams:
        pair.dialled.answer(stream, Found(), (bytes(9000),), 9000)
    assert len(pair.down()) == 1 + STREAMS_MAX


def test_stream_numbers_begin_anew_and_pass_over_those_in_flight() -> None:
    pair = Pair()
    assert [pair.ask(Get(KEY)) for _ in range(3)] == [1, 2, 3]
    pair.dialer.cancel(2)  # abandoned until its answer has come
    pair.dialer._next_stream = 0xFFFFFFFF
    assert [pair.ask(Get(KEY)) for _ in range(3)] == [0xFFFFFFFF, 4, 5]
    for event in pair.up():
        assert isinstance(event, Asked)
        pair.dialled.answer(event.stream, Done(event.stream % 1000))
    answers = {event.stream: event.answer for event in pair.down() if isinstance(event, Answered)}
    assert answers == {stream: Done(stream % 1000) for stream in (1, 3, 0xFFFFFFFF, 4, 5)}


def test_however_much_is_asked_for_at_once_honest_peers_never_exceed_what_may_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ARRIVING_BYTES_MAX", 1_000_000)
    pair = Pair()
    for index in range(20):
        pair.ask(Put(index), blob=_blob(index, 400_000))
    asked = [event for event in pair.up() if isinstance(event, Asked)]
    assert sorted(bytes(event.blob) for event in asked) == sorted(_blob(index, 400_000) for index in range(20))
    for event in asked:
        pair.dialled.answer(event.stream, Found(), (event.blob,), len(event.blob))
    assert len(pair.down()) == 20


def test_the_rooms_of_both_sides_agree() -> None:
    assert ARRIVING_BYTES_MAX >= BLOB_BYTES_MAX


class Conversation(RuleBasedStateMachine):
    """A dialer asks, cancels and runs out of time; the other side answers in any order; bytes come in any pieces."""

    abilities = 0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.dialer = Connection(_abled("dialer", self.abilities), 0.0, is_dialer=True)
        self.dialled = Connection(_abled("dialled", self.abilities), 0.0, is_dialer=False)
        self.waiting: dict[int, int] = {}  # stream -> what it asked for, in the eyes of the dialer
        self.asked: dict[int, int] = {}  # in the eyes of the dialled side
        self.said: dict[int, bytes] = {}  # stream -> the blob of its request
        self.given: dict[int, bytes] = {}  # stream -> the blob of its answer
        self.wire: dict[Connection, bytearray] = {self.dialer: bytearray(), self.dialled: bytearray()}  # to whom

    @initialize(order=st.booleans())
    def meet(self, order: bool) -> None:
        for connection in (self.dialer, self.dialled) if order else (self.dialled, self.dialer):
            self.carry(connection, 2**30, 2**30)

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=6), timeout_s=st.floats(-0.1, 3.0))
    def ask(self, sizes: list[int], timeout_s: float) -> None:
        for size in sizes:
            number = len(self.said)
            blob = _blob(number, size) if number % 2 else b""
            request: Message = Put(number) if number % 2 else Get(struct.pack("<Q", number))
            stream = self.dialer.ask(request, self.now + timeout_s, (blob,) if blob else (), len(blob))
            assert stream is not None
            assert stream not in self.said
            self.waiting[stream] = number
            self.said[stream] = blob

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.waiting)))
        self.dialer.cancel(stream)
        del self.waiting[stream]

    @precondition(lambda self: self.dialer._arriving.keys() & self.waiting.keys())
    @rule()
    def cancel_what_is_half_here(self) -> None:
        stream = min(self.dialer._arriving.keys() & self.waiting.keys())
        self.dialer.cancel(stream)
        del self.waiting[stream]

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), size=SIZES)
    def answer(self, data: st.DataObject, size: int) -> None:
        stream = data.draw(st.sampled_from(sorted(self.asked)))
        self.asked.pop(stream)
        blob = self.given[stream] = _blob(stream + 5, size)
        cut = size // 3
        self.dialled.answer(stream, Found(), (blob[:cut], blob[cut:]), size)

    @rule(
        to_dialer=st.booleans(), take=st.integers(1, 400_000), carry=st.sampled_from([1, 16, 17, 1000, 70_000, 2**30])
    )
    def deliver(self, to_dialer: bool, take: int, carry: int) -> None:
        self.carry(self.dialer if to_dialer else self.dialled, take, carry)

    @rule(seconds=st.floats(0.0, 0.15))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for event in self.dialer.tick(self.now):
            assert isinstance(event, Answered)
            assert event.answer is None
            del self.waiting[event.stream]
        assert self.dialled.tick(self.now) == []
        assert self.dialer.deadline() > self.now

    def carry(self, receiver: Connection, take: int, carry: int) -> None:
        """Take bytes from the sender, and let `carry` of what is under way arrive."""
        wire = self.wire[receiver]
        wire += _out(self.dialled if receiver is self.dialer else self.dialer, take)
        data = bytes(wire[:carry])
        del wire[:carry]
        for event in _feed(receiver, data, self.now):
            self.heard(event)

    def heard(self, event: Event) -> None:
        if isinstance(event, Asked):
            assert isinstance(event.request, Put | Get)
            assert bytes(event.blob) == self.said[event.stream]
            assert event.stream not in self.asked
            self.asked[event.stream] = event.stream
        elif isinstance(event, Answered):
            assert event.answer == Found()
            assert bytes(event.blob) == self.given[event.stream]
            del self.waiting[event.stream]  # exactly once, and never after it was cancelled

    @invariant()
    def both_know_what_they_do(self) -> None:
        self.dialer.check()
        self.dialled.check()
        assert self.dialer.requests_in_flight == len(self.waiting)

    def teardown(self) -> None:
        for _ in range(3):
            self.carry(self.dialled, 2**30, 2**30)
            for stream in self.asked:
                self.given[stream] = b""
                self.dialled.answer(stream, Found())
            self.asked.clear()
            self.carry(self.dialer, 2**30, 2**30)
        assert not self.waiting
        assert not self.dialer._abandoned
        assert self.dialer.pending_bytes == self.dialled.pending_bytes == 0
        assert self.dialer.requests_in_flight == self.dialled.requests_in_flight == 0
        for connection in (self.dialer, self.dialled):
            assert not connection._is_mid_message


class BrokenOff(Conversation):
    """The same between peers that break off what was cancelled."""

    abilities = CUT


@pytest.mark.parametrize("conversation", [Conversation, BrokenOff])
def test_whatever_happens_between_two_honest_peers_every_request_ends_once_with_its_own_answer(
    conversation: type[Conversation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ARRIVING_BYTES_MAX", 1_500_000)
    run_state_machine_as_test(conversation, settings=settings(max_examples=100, stateful_step_count=40))


# -- the handshake -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_dialer", [True, False])
@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (_frame(_hello("x", cluster="office")), "cluster 'office': this node is in 'home'"),
        (_frame(_hello("x", protocol=2)), "protocol 2: this node speaks 1"),
        (_frame(_hello("x", protocol=-1)), "protocol -1"),
        (_frame(Get(KEY), 1), "Get before Hello"),
        (_frame(Found(), 1, 5, b"12345"), "Found before Hello"),
        (_frame(Refused("no\r\nroom")), r"refused by the peer: 'no\\r\\nroom'"),
        (_frame(DATA, 1, piece=b"1"), "DATA on stream 1"),
        (_frame(_hello("x"), 0, 9, b"123456789"), "Hello with 9 bytes of a blob of 9"),
        (_frame(_hello("x"), 0, 0, b"123"), "Hello with 3 bytes of a blob of 0"),
        (_frame(99), "message of kind 99: protocol 1 has none"),
        (_frame(_hello("x")) + _frame(_hello("x")), "Hello from the"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "frame of 542393671 bytes"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), "frame of"),  # TLS
        (b"\xff" * 64, "frame of 4294967295 bytes"),
    ],
    ids=_complaint,
)
def test_who_does_not_say_a_proper_hello_first_is_not_listened_to(is_dialer: bool, said: bytes, complaint: str) -> None:
    connection = Connection(_hello("me"), 0.0, is_dialer=is_dialer)
    with pytest.raises(RemoteProtocolError, match=complaint):
        _feed(connection, said)


def test_who_says_no_hello_is_not_waited_for() -> None:
    connection = Connection(_hello("me"), 100.0, is_dialer=False)
    assert connection.deadline() == 100.0 + HANDSHAKE_TIMEOUT_S
    assert connection.tick(100.0 + HANDSHAKE_TIMEOUT_S - 0.01) == []
    for byte in _frame(_hello("x"))[:-1]:
        _feed(connection, bytes([byte]), 104.9)  # a trickle does not help
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
    return _frame(Put(0), stream, blob_bytes, piece)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (_frame(Get(KEY), 0), "request on stream 0, which is taken"),
        (_frame(Get(KEY), 1) * 2, "request on stream 1, which is taken"),
        (_put(0, 5), "request on stream 0"),
        (_frame(Get(KEY), 1) + _put(1, 5, b"123"), "request on stream 1, which is taken"),
        (_put(1, 5, b"123") + _frame(Get(KEY), 1), "Get on stream 1, where a blob is still arriving"),
        (_put(1, 5, b"123") + _put(1, 5, b"123"), "Put on stream 1, where a blob is still arriving"),
        (_put(1, 5, b"123456"), "Put with 6 bytes of a blob of 5"),
        (_put(1, 5, b"123") + _frame(DATA, 1, piece=b"456"), "6 bytes of a blob of 5"),
        (_put(1, 5, b"123") + _frame(DATA, 2, piece=b"45"), "DATA on stream 2, where no blob is arriving"),
        (_put(1, 5, b"12345") + _frame(DATA, 1, piece=b"6"), "DATA on stream 1, where no blob is arriving"),
        (_put(1, 5, b"123") + _frame(DATA, 1), "DATA of 0 bytes"),
        (_put(1, 5) + _frame(DATA, 1), "DATA of 0 bytes"),
        (_put(1, 5) + _frame(DATA, 1, piece=b"1", head=b"h"), "with a head of 1"),
        (_put(1, 5) + _frame(DATA, 1, blob_bytes=5, piece=b"1"), "DATA of 1 bytes"),
        (_put(1, BLOB_BYTES_MAX + 1), f"blob of {BLOB_BYTES_MAX + 1} bytes, at most {BLOB_BYTES_MAX}"),
        (_put(1, BLOB_BYTES_MAX) + _put(2, BLOB_BYTES_MAX) + _put(3, 1), "bytes arriving at once"),
        (_frame(Get(KEY), 1, 5, b"12345"), "Get with 5 bytes of a blob of 5"),
        (_frame(Get(KEY), 1, 0, b"12345"), "Get with 5 bytes of a blob of 0"),
        (_frame(Cancel(), 1, 0, b"1"), "Cancel with 1 bytes of a blob of 0"),
        (_frame(Found(), 1), "Found from the dialling side"),
        (_frame(Ack(b"", 0), 1), "Ack from the dialling side"),
        (_frame(_hello("x"), 0), "Hello from the dialling side"),
        (_frame(Refused("why"), 0), "refused by the peer: 'why'"),
        (_frame(99, 1), "message of kind 99"),
        (_frame(Get.kind, 1, head=b"\x91\xc0"), "Get that does not decode"),
        (_frame(Get.kind, 1, head=b"\x92\xc4\x00" + b"\x91" * 60_000), "Get that does not decode"),
    ],
    ids=_complaint,
)
def test_a_dialer_that_breaks_the_rules_is_refused(said: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        _feed(_a_node_that_was_dialled(), said)


def test_too_many_requests_are_refused_whether_they_arrive_or_wait_for_their_answers() -> None:
    arriving = b"".join(_put(stream, 9, b"1") for stream in range(1, STREAMS_MAX + 3))
    waiting = b"".join(_frame(Get(KEY), stream) for stream in range(1, STREAMS_MAX + 3))
    for said in (arriving, waiting):
        with pytest.raises(RemoteProtocolError, match=f"more than {STREAMS_MAX} requests in flight"):
            _feed(_a_node_that_was_dialled(), said)


def test_who_asks_on_and_on_and_reads_no_answer_is_refused() -> None:
    dialled = _a_node_that_was_dialled()
    for stream in range(1, STREAMS_MAX + 2):
        _feed(dialled, _frame(Get(KEY), stream))
        dialled.answer(stream, Found(), (bytes(100_000),), 100_000)
    with pytest.raises(RemoteProtocolError, match=f"more than {STREAMS_MAX} requests in flight"):
        _feed(dialled, _frame(Get(KEY), STREAMS_MAX + 2))


def test_cancelling_what_was_never_asked_does_nothing() -> None:
    dialled = _a_node_that_was_dialled()
    assert _feed(dialled, b"".join(_frame(Cancel(), stream) for stream in range(1000))) == []
    assert dialled.pending_bytes == 0


def test_a_trickle_within_a_frame_is_no_progress() -> None:
    dialled = _a_node_that_was_dialled()
    frame = _frame(Get(KEY), 1)
    _feed(dialled, frame[:1], 50.0)
    assert dialled.deadline() == 50.0 + FRAME_TIMEOUT_S
    for step in range(1, 10):
        _feed(dialled, frame[step : step + 1], 50.0 + step)
    with pytest.raises(RemoteProtocolError, match=f"no more of it within {FRAME_TIMEOUT_S} s"):
        dialled.tick(50.0 + FRAME_TIMEOUT_S)


@pytest.mark.parametrize("size", [100, 60_000, 151_504, 600_000])
def test_a_payload_arrives_in_the_memory_that_its_receiver_gives_and_a_batch_does_not(size: int) -> None:
    given: list[memoryview] = []

    def give(size: int) -> memoryview:
        given.append(memoryview(bytearray(size)))
        return given[-1]

    pair, sent = Pair(receive_into=give), _blob(1, size)
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
    _feed(dialled, _put(1, 500, b"123"), 50.0)
    assert dialled.tick(50.0 + FRAME_TIMEOUT_S - 0.01) == []
    with pytest.raises(RemoteProtocolError, match="part of a message"):
        dialled.tick(50.0 + FRAME_TIMEOUT_S)


def test_crumbs_keep_a_blob_alive_for_a_minute_at_most_and_other_messages_do_not_prolong_it() -> None:
    dialled = _a_node_that_was_dialled()
    _feed(dialled, _put(1, 500, b"123"), 50.0)
    for now in range(55, 110, 5):
        assert dialled.tick(now) == []
        _feed(dialled, _frame(DATA, 1, piece=b"4") + _frame(Cancel(), 5), now)
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
        (_frame(Missing(), 7), "answer on stream 7, on which nothing was asked"),
        (_frame(Found(), 7, 5, b"123"), "answer on stream 7, on which nothing was asked"),
        (_frame(Missing(), 0), "answer on stream 0, on which nothing was asked"),
        (_frame(Missing(), 1) * 2, "answer on stream 1, on which nothing was asked"),
        (_frame(Found(), 1, 5, b"123") + _frame(Missing(), 1), "Missing on stream 1, where a blob is still arriving"),
        (_frame(Found(), 1, 5, b"123") + _frame(DATA, 1, piece=b"456"), "6 bytes of a blob of 5"),
        (_frame(Found(), 1, BLOB_BYTES_MAX + 1), "blob of"),
        (_frame(Refused("leaving"), 0), "refused by the peer: 'leaving'"),
        (_frame(Get(KEY), 1), "Get from the dialled side"),
        (_frame(Cancel(), 1), "Cancel from the dialled side"),
        (_frame(_hello("x"), 0), "Hello from the dialled side"),
    ],
    ids=_complaint,
)
def test_a_node_that_answers_what_nobody_asked_is_refused(said: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        _feed(_asked(Get(KEY), Get(KEY)), said)


def test_an_answer_of_another_kind_is_an_answer() -> None:
    """Whoever asked decides what it is worth: the connection does not know which answer belongs to which question."""
    dialer = _asked(Get(KEY), GetState())
    state = State([Member("a", "b", "c", "d", 1)], [], [])
    assert _feed(dialer, _frame(state, 1)) == [Answered(1, state, memoryview(b""))]
    assert _feed(dialer, _frame(Refused("too busy"), 2)) == [Answered(2, Refused("too busy"), memoryview(b""))]


def test_answers_larger_than_may_arrive_together_are_refused_before_anything_is_allocated() -> None:
    dialer = _asked(Get(KEY), Get(KEY), Get(KEY))
    said = [_frame(Found(), stream, BLOB_BYTES_MAX) for stream in (1, 2, 3)]
    with pytest.raises(RemoteProtocolError, match="bytes arriving at once"):
        _feed(dialer, b"".join(said))


@pytest.mark.parametrize("make", [_a_node_that_was_dialled, lambda: _asked(Get(KEY))])
def test_garbage_after_the_handshake_raises_nothing_but_an_offence(make: Callable[[], Connection]) -> None:
    rng = np.random.default_rng(3)
    kinds = [DATA, 1, 2, 3, 10, 11, 12, 17, 19, 31, 33, 77]
    heads = [b"\x90", b"\x91\xc4\x01a", b"\x91\x05", b"\x91\xa1a", msgspec.msgpack.encode([[], [], []]), b"\xc1", b""]
    for _ in range(400):
        connection = make()
        try:
            for _ in range(8):
                said = _frame(
                    int(rng.choice(kinds)),
                    int(rng.integers(0, 4)),
                    int(rng.choice([0, 0, 3, 5, 2**32 - 1])),
                    bytes(int(rng.integers(0, 6))),
                    heads[int(rng.integers(0, len(heads)))],
                )
                _feed(connection, said)
        except RemoteProtocolError:
            connection.check()


def test_a_trickle_within_a_large_frame_is_no_progress_although_it_is_received_where_it_stays() -> None:
    dialled = _a_node_that_was_dialled()
    frame = _frame(Put(0), 1, CHUNK_BYTES, bytes(CHUNK_BYTES))
    _feed(dialled, frame[:1000], 50.0)
    for step in range(1, 10):
        _feed(dialled, frame[999 + step : 1000 + step], 50.0 + step)
    assert dialled.deadline() == 50.0 + FRAME_TIMEOUT_S
    with pytest.raises(RemoteProtocolError, match=f"no more of it within {FRAME_TIMEOUT_S} s"):
        dialled.tick(50.0 + FRAME_TIMEOUT_S)


@pytest.mark.parametrize("cut", [16, 17, 18, 20, 1000, CHUNK_BYTES // 2, CHUNK_BYTES - 9000, CHUNK_BYTES + 10])
def test_an_answer_cancelled_within_a_large_frame_is_dropped_and_what_follows_is_understood(cut: int) -> None:
    pair = Pair()
    large, small = pair.ask(Get(KEY)), pair.ask(Get(KEY))
    pair.up()
    said = _frame(Found(), large, CHUNK_BYTES, _blob(1, CHUNK_BYTES)) + _frame(Found(), small, 5, b"small")
    assert _feed(pair.dialer, said[:cut]) == []
    pair.dialer.cancel(large)
    assert _feed(pair.dialer, said[cut:]) == [Answered(small, Found(), memoryview(b"small"))]
    assert pair.dialer._abandoned == set()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (_frame(Put(0), 1, 9000, bytes(20_000))[:100], "Put with 20000 bytes of a blob of 9000"),
        (_frame(Get(KEY), 1, 20_000, bytes(20_000))[:200], "Get with 20000 bytes of a blob of 20000"),
        (_put(1, 9000, b"1") + _frame(DATA, 1, piece=bytes(20_000))[:100], "20001 bytes of a blob of 9000"),
        (_frame(DATA, 1, piece=bytes(20_000))[:16], "DATA on stream 1, where no blob is arriving"),
        (_frame(99, 1, 20_000, bytes(20_000))[:16], "message of kind 99"),
    ],
    ids=_complaint,
)
def test_a_large_frame_that_breaks_the_rules_is_refused_before_it_is_here(said: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        _feed(_a_node_that_was_dialled(), said)
