"""asyncio <-> Connection, on the loops that a node runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from edgecache.node.peer_protocol import PeerProtocol
from edgecache.protocol.connection import Answered, Event, Opened
from edgecache.protocol.messages import PROTOCOL_VERSION, Get, Hello


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


def _hello(name: str) -> Hello:
    return Hello(PROTOCOL_VERSION, "test", name, "boot", name, "", 0, "", 0, 0)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, _uvloop])
def test_requests_that_nobody_answers_end_in_time(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        opened, ended = asyncio.Event(), asyncio.Event()
        events: list[Answered] = []

        def heard(protocol: PeerProtocol, event: Event) -> None:
            if isinstance(event, Opened):
                opened.set()
            elif isinstance(event, Answered):
                events.append(event)
                if len(events) == 3:
                    ended.set()

        def ignore(protocol: PeerProtocol, event: object) -> None: ...

        def end(name: str, is_dialer: bool) -> PeerProtocol:
            on_event = heard if is_dialer else ignore
            return PeerProtocol(_hello(name), is_dialer=is_dialer, on_event=on_event, on_lost=ignore)

        server = await loop.create_server(lambda: end("b", False), "127.0.0.1", 0)
        try:
            _, protocol = await loop.create_connection(lambda: end("a", True), *server.sockets[0].getsockname())
            await opened.wait()
            for wait_s in (0.05, -1.0, 0.0):  # uvloop's call_at gives another kind of handle for what is due already
                protocol.connection.ask(Get(bytes(64)), loop.time() + wait_s)
                protocol.flush()
            await asyncio.wait_for(ended.wait(), 5)
            protocol.abort("the test is over")
        finally:
            server.close()
        assert sorted(answered.stream for answered in events) == [1, 2, 3]
        assert all(answered.answer is None for answered in events)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())
