"""Two connections joined in memory: what honest peers may rely on."""

from __future__ import annotations

import struct

import pytest
from edgecache.protocol import connection as limits
from edgecache.protocol.connection import (
    ARRIVING_BYTES_MAX,
    BLOB_BYTES_MAX,
    STREAMS_MAX,
    Answered,
    Asked,
    Connection,
    Event,
    Opened,
)
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.frames import CHUNK_BYTES
from edgecache.protocol.messages import (
    CUT,
    Done,
    Found,
    Get,
    Message,
    Missing,
    Ping,
    Put,
    Refused,
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

from tests.protocol.pairs import KEY, SIZES, Pair, abled, blob_of, feed, framed, hello_of, taken

# -- honest peers --------------------------------------------------------------------------------------------------


def test_each_side_learns_who_the_other_is() -> None:
    pair = Pair(are_open=False)
    assert pair.dialer.peer is None
    assert pair.up() == [Opened(hello_of("dialer"))]
    assert pair.down() == [Opened(hello_of("dialled"))]
    assert pair.dialer.peer == hello_of("dialled")


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
    blobs = [blob_of(1, 500), blob_of(2, 500_000)]
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
        pair.dialled.answer(stream, Found(), (blob_of(stream, 300_000),), 300_000)
    assert pair.dialer.deadline() == 1.0
    assert pair.dialer.tick(0.9) == []
    assert pair.dialer.tick(1.0) == [Answered(late, None, memoryview(b""))]
    assert pair.down() == [Answered(later, Found(), memoryview(blob_of(later, 300_000)))]
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
    stream = pair.ask(Put(0), blob=blob_of(0, 500_000))
    pair.dialer.cancel(stream)
    assert taken(pair.dialer) == b""
    assert pair.dialer._abandoned == set()


def test_a_put_cancelled_halfway_arrives_whole_and_its_answer_is_dropped() -> None:
    pair = Pair()
    stream = pair.ask(Put(0), blob=blob_of(0, 500_000))
    assert feed(pair.dialled, taken(pair.dialer, 1)) == []
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
    pair.dialled.answer(stream, Found(), (blob_of(0, 500_000),), 500_000)
    pair.dialer.cancel(stream)
    pair.up()
    assert len(wire := taken(pair.dialled)) < 100
    assert feed(pair.dialer, wire) == []
    assert pair.dialer._abandoned == set()


def test_an_answer_cancelled_halfway_costs_no_memory_any_more() -> None:
    pair = Pair()
    stream = pair.ask(Get(KEY))
    pair.up()
    pair.dialled.answer(stream, Found(), (blob_of(0, 500_000),), 500_000)
    feed(pair.dialer, taken(pair.dialled, 1))
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
        pair.dialled.answer(each, Found(), (blob_of(each, 5_000_000),), 5_000_000)
    feed(pair.dialer, taken(pair.dialled, 3 * CHUNK_BYTES))
    pair.dialer.cancel(stream)
    pair.up()
    wire = taken(pair.dialled)
    assert len(wire) < 5_000_000
    assert feed(pair.dialer, wire) == [Answered(other, Found(), memoryview(blob_of(other, 5_000_000)))]
    assert pair.dialer._abandoned == set()
    assert not pair.dialer._arriving
    assert pair.dialled._writer._underway_bytes == pair.dialled.pending_bytes == 0


def test_an_answer_that_was_not_cancelled_is_not_broken_off() -> None:
    pair = Pair(abilities=CUT)
    stream = pair.ask(Get(KEY))
    pair.up()
    pair.dialled.answer(stream, Found(), (blob_of(0, 500_000),), 500_000)
    feed(pair.dialer, taken(pair.dialled, 1))
    with pytest.raises(RemoteProtocolError, match=f"Refused on stream {stream}, where a blob is still arriving"):
        feed(pair.dialer, framed(Refused("no"), stream))


def test_what_has_come_of_an_answer_that_is_out_of_time_is_told() -> None:
    pair = Pair()
    stream = pair.ask(Get(KEY), deadline=1.0)
    pair.up()
    blob = blob_of(0, 900_000)
    pair.dialled.answer(stream, Found(7), (blob,), len(blob))
    wire = taken(pair.dialled)
    feed(pair.dialer, wire[:200_000])
    (event,) = pair.dialer.tick(1.0)
    assert isinstance(event, Answered)
    assert (event.answer, event.begun) == (None, Found(7))
    assert 190_000 < len(event.blob) < 200_000
    assert event.blob == blob[: len(event.blob)]
    assert feed(pair.dialer, wire[200_000:]) == []


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
    wire = taken(pair.dialer)
    (opened, *asked) = feed(pair.dialled, wire)
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
        pair.ask(Put(index), blob=blob_of(index, 400_000))
    asked = [event for event in pair.up() if isinstance(event, Asked)]
    assert sorted(bytes(event.blob) for event in asked) == sorted(blob_of(index, 400_000) for index in range(20))
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
        self.dialer = Connection(abled("dialer", self.abilities), 0.0, is_dialer=True)
        self.dialled = Connection(abled("dialled", self.abilities), 0.0, is_dialer=False)
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
            blob = blob_of(number, size) if number % 2 else b""
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
        blob = self.given[stream] = blob_of(stream + 5, size)
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
        wire += taken(self.dialled if receiver is self.dialer else self.dialer, take)
        data = bytes(wire[:carry])
        del wire[:carry]
        for event in feed(receiver, data, self.now):
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
