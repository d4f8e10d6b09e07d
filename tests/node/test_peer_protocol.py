"""asyncio <-> Connection, on the loops that a node runs on and on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from edgecache.node import peer_protocol
from edgecache.node.link import Address, Link, Network, dial
from edgecache.node.peer_protocol import WRITE_BYTES, PeerProtocol
from edgecache.node.tcp import TcpNetwork
from edgecache.protocol.connection import Asked, Event
from edgecache.protocol.frames import CHUNK_BYTES
from edgecache.protocol.messages import PROTOCOL_VERSION, Found, Get, Hello, Message, Put
from edgecache.simulations.links import LINKS
from edgecache.simulations.network import InMemoryNetwork
from edgecache.simulations.virtual_time import in_virtual_time

MB = 1024 * 1024


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, _uvloop])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def _hello(name: str) -> Hello:
    return Hello(PROTOCOL_VERSION, "test", name, "boot", name, "", 0, "", 0, 0)


class Answering:
    """The dialled side. A Get of a key that starts with "big" is answered with 10 MB, any other with `bytes_each`."""

    def __init__(self, bytes_each: int = 100, *, is_silent: bool = False) -> None:
        self.protocols: list[PeerProtocol] = []
        self.asked: list[Message] = []
        self.lost: list[str] = []
        self.pending_bytes_most = 0
        self._bytes_each = bytes_each
        self._is_silent = is_silent

    async def start(self, network: Network, address: Address) -> Address:
        return (await network.listen(self._protocol, address)).address

    def _protocol(self) -> PeerProtocol:
        protocol = PeerProtocol(_hello("b"), is_dialer=False, on_event=self._on_event, on_lost=self._on_lost)
        self.protocols.append(protocol)
        return protocol

    def _on_event(self, protocol: PeerProtocol, event: Event) -> None:
        if isinstance(event, Asked):
            self.asked.append(event.request)
            if isinstance(event.request, Get) and event.request.key == b"wrong":
                protocol.close("a key of 5 bytes")
                return
            if not self._is_silent:
                is_big = isinstance(event.request, Get) and event.request.key.startswith(b"big")
                blob = bytes(10 * MB if is_big else self._bytes_each)
                protocol.connection.answer(event.stream, Found(), (blob,), len(blob))
                self.pending_bytes_most = max(self.pending_bytes_most, protocol.connection.pending_bytes)

    def _on_lost(self, protocol: PeerProtocol, reason: str) -> None:
        self.lost.append(reason)


async def _dial(network: Network, address: Address) -> Link:
    return await dial(network, _hello("a"), address)


# -- on virtual time -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_small_answer_is_not_stuck_behind_large_ones() -> None:
    network, answering = InMemoryNetwork(), Answering()
    link = await _dial(network.host("a"), await answering.start(network.host("b"), ("b", 1)))
    loop = asyncio.get_running_loop()
    large = [asyncio.ensure_future(link.ask(Get(b"big"), 60)) for _ in range(8)]  # 0.7 s of a gigabit
    await asyncio.sleep(0.1)
    for _ in range(5):
        asked_at = loop.time()
        answered = await link.ask(Get(b"small"), 60)
        assert answered is not None
        assert len(answered.blob) == 100
        # Behind it are what the transport holds and a chunk of whose turn it is, and no 80 MB.
        assert loop.time() - asked_at < 3 * (WRITE_BYTES + CHUNK_BYTES) / LINKS["lan"].up_bytes_per_s
    assert not any(task.done() for task in large)
    for task in large:
        answered = await task
        assert answered is not None
        assert len(answered.blob) == 10 * MB


@in_virtual_time
async def test_two_sides_that_send_each_other_much_at_once_do_not_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_protocol, "PENDING_BYTES_MAX", 8 * MB)
    network, answering = InMemoryNetwork(), Answering(bytes_each=1 * MB)
    link = await _dial(network.host("a"), await answering.start(network.host("b"), ("b", 1)))
    given = bytes(1 * MB)
    asking = [link.ask(Get(b"key"), 60) for _ in range(60)]
    asking += [link.ask(Put(0), 60, (given,), len(given)) for _ in range(60)]
    answers = await asyncio.gather(*asking)
    assert all(answered is not None and len(answered.blob) == 1 * MB for answered in answers)
    assert not link.protocol.connection.requests_in_flight


@in_virtual_time
async def test_a_peer_that_reads_nothing_is_not_read_from_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_protocol, "PENDING_BYTES_MAX", 8 * MB)
    network, answering = InMemoryNetwork(), Answering(bytes_each=1 * MB)
    address = await answering.start(network.host("b"), ("b", 1))
    deaf, honest = await _dial(network.host("deaf"), address), await _dial(network.host("a"), address)
    assert deaf.protocol._transport is not None
    deaf.protocol._transport.pause_reading()
    asking = []
    for _ in range(100):
        asking.append(asyncio.ensure_future(deaf.ask(Get(b"key"), 60)))
        await asyncio.sleep(0.02)
    assert not answering.protocols[0]._may_read
    assert len(answering.asked) < 12
    assert await honest.ask(Get(b"key"), 1) is not None
    deaf.protocol._transport.resume_reading()
    assert all(answered is not None for answered in await asyncio.gather(*asking))
    assert answering.protocols[0]._may_read


@in_virtual_time
async def test_a_connection_that_is_closed_ends_although_the_other_side_reads_nothing() -> None:
    network, answering = InMemoryNetwork(), Answering(bytes_each=1 * MB)
    link = await _dial(network.host("a"), await answering.start(network.host("b"), ("b", 1)))
    asking = asyncio.ensure_future(link.ask(Get(b"key"), 60))
    await asyncio.sleep(0.005)
    network.cut("a", "b")
    answering.protocols[0].close("enough")
    await asyncio.sleep(peer_protocol.CLOSE_TIMEOUT_S + 0.1)
    assert answering.lost == ["enough"]
    assert answering.protocols[0]._timer is None or answering.protocols[0]._timer.cancelled()
    asking.cancel()


@in_virtual_time
async def test_the_reason_is_told_also_when_it_is_found_while_an_event_is_handled() -> None:
    network, answering = InMemoryNetwork(), Answering()
    link = await _dial(network.host("a"), await answering.start(network.host("b"), ("b", 1)))
    assert await link.ask(Get(b"wrong"), 60) is None
    assert answering.lost == ["a key of 5 bytes"]
    assert link.lost.is_set()
    assert link.protocol._end == "refused by the peer: 'a key of 5 bytes'"


@in_virtual_time
async def test_nothing_that_came_with_an_offence_is_done_after_it() -> None:
    network, answering = InMemoryNetwork(), Answering()
    link = await _dial(network.host("a"), await answering.start(network.host("b"), ("b", 1)))
    now = asyncio.get_running_loop().time()
    for key in (b"first", b"wrong", b"after"):
        link.protocol.connection.ask(Get(key), now + 60)
    link.protocol.flush()
    await link.lost.wait()
    assert answering.asked == [Get(b"first"), Get(b"wrong")]


@in_virtual_time
async def test_a_caller_that_gives_up_leaves_nothing_behind() -> None:
    network, answering = InMemoryNetwork(), Answering(is_silent=True)
    link = await _dial(network.host("a"), await answering.start(network.host("b"), ("b", 1)))
    asking = [asyncio.ensure_future(link.ask(Get(b"key"), 60)) for _ in range(100)]
    await asyncio.sleep(0.1)
    for task in asking:
        task.cancel()
    await asyncio.sleep(0.1)
    connection = link.protocol.connection
    assert connection.requests_in_flight == answering.protocols[0].connection.requests_in_flight == 0
    assert connection._abandoned == set()


@in_virtual_time
async def test_a_peer_that_stops_halfway_through_an_answer_costs_no_more_than_the_deadline() -> None:
    network, answering = InMemoryNetwork(), Answering()
    link = await _dial(network.host("a"), await answering.start(network.host("b"), ("b", 1)))
    asking = asyncio.ensure_future(link.ask(Get(b"big"), 0.5))
    await asyncio.sleep(0.02)
    network.cut("a", "b")
    asked_at = asyncio.get_running_loop().time()
    assert await asking is None
    assert asyncio.get_running_loop().time() - asked_at == pytest.approx(0.48, abs=0.01)
    assert link.protocol.connection._arriving_bytes == 0
    await link.lost.wait()  # and a connection on which nothing comes any more, halfway through, is given up


# -- on real sockets -----------------------------------------------------------------------------------------------


@LOOPS
def test_requests_that_nobody_answers_end_in_time(new_loop: NewLoop) -> None:
    async def story() -> None:
        answering = Answering(is_silent=True)
        link = await _dial(TcpNetwork(), await answering.start(TcpNetwork(), ("127.0.0.1", 0)))
        # uvloop's call_at gives another kind of handle for what is due already
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(link.ask(Get(bytes(64)), wait_s) for wait_s in (0.05, -1.0, 0.0)))
        assert answers == [None, None, None]
        link.protocol.abort("the test is over")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


@LOOPS
def test_much_in_both_directions_arrives_whole_while_small_answers_pass(new_loop: NewLoop) -> None:
    async def story() -> None:
        answering = Answering()
        link = await _dial(TcpNetwork(), await answering.start(TcpNetwork(), ("127.0.0.1", 0)))
        given = bytes(3 * MB)
        large = [asyncio.ensure_future(link.ask(Get(b"big"), 30)) for _ in range(4)]
        large += [asyncio.ensure_future(link.ask(Put(0), 30, (given,), len(given))) for _ in range(4)]
        small = [await link.ask(Get(b"key"), 30) for _ in range(20)]
        assert all(answered is not None and len(answered.blob) == 100 for answered in small)
        assert sorted(len(a.blob) for a in await asyncio.gather(*large) if a is not None) == 4 * [100] + 4 * [10 * MB]
        link.protocol.close()
        await link.lost.wait()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


@LOOPS
def test_a_peer_that_reads_nothing_costs_a_bounded_amount_of_memory_and_its_connection_can_be_ended(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_protocol, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(peer_protocol, "PENDING_BYTES_MAX", 8 * MB)

    async def story() -> None:
        answering = Answering(bytes_each=1 * MB)
        address = await answering.start(TcpNetwork(), ("127.0.0.1", 0))
        deaf, honest = await _dial(TcpNetwork(), address), await _dial(TcpNetwork(), address)
        deaf.protocol._transport.pause_reading()  # type: ignore[union-attr]
        asking = [asyncio.ensure_future(deaf.ask(Get(b"key"), 60)) for _ in range(200)]
        async with asyncio.timeout(10):
            while answering.pending_bytes_most <= 8 * MB:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            assert await honest.ask(Get(b"key"), 10) is not None
            end = answering.protocols[0]
            assert not end._may_read
            assert end._transport is not None
            assert end._transport.get_write_buffer_size() < 2 * (WRITE_BYTES + CHUNK_BYTES)
            end.close("enough")
            while not answering.lost:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert answering.lost == ["enough"]
        assert end.remote_host in ("127.0.0.1", "?")
        deaf.protocol.abort("the test is over")
        assert await asyncio.gather(*asking) == [None] * 200
        honest.protocol.abort("the test is over")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())
