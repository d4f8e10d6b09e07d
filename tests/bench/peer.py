"""A client of a node by the peer protocol: the node's own PeerProtocol and Link, as one node asks another."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from itertools import accumulate

from edgecache.node.links import Link
from edgecache.node.peer_protocol import PeerProtocol
from edgecache.protocol import messages
from edgecache.protocol.connection import Answered, Event, Opened

from .caches import Value
from .servers import Address

TIMEOUT_S = 10.0


class Peer:
    """Asks one node. Payloads are not checked here, as Redis's values are not: see the codec's table for what it costs.

    The Link has what a node needs beside: a deadline for each request, cancellation, limits on all that arrives.
    """

    def __init__(self, link: Link) -> None:
        self.link = link

    async def get(self, key: bytes) -> Value | None:
        answered = await self.link.ask(messages.Get(key), TIMEOUT_S)
        assert answered is not None
        return answered.blob if isinstance(answered.answer, messages.Found) else None

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[Value]:
        answered = await self.link.ask(messages.BatchGet(list(keys)), TIMEOUT_S)
        assert answered is not None
        assert isinstance(answered.answer, messages.Batch)
        sizes, blob = answered.answer.sizes, answered.blob
        # Copied, as `node.peers` does and as the other clients' values are: one that is kept keeps no others in memory.
        return [bytes(blob[end - size : end]) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    async def put(self, key: bytes, value: Value) -> None:
        answered = await self.link.ask(messages.Put(0), TIMEOUT_S, (value,), len(value))
        assert answered is not None
        assert answered.answer == messages.Done(1)

    def close(self) -> None:
        self.link.protocol.close()


async def connected(address: Address) -> Peer:
    """A connection to the node at `address`, as a peer that listens nowhere."""
    opened: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()

    def on_event(protocol: PeerProtocol, event: Event) -> None:
        if isinstance(event, Opened):
            opened.set_result(Peer(Link(protocol, event.hello)))
        elif isinstance(event, Answered):
            opened.result().link.answered(event)

    def on_lost(protocol: PeerProtocol, reason: str) -> None:
        if opened.done():
            opened.result().link.is_gone()
        else:
            opened.set_exception(ConnectionError(reason))

    me = messages.Hello(
        messages.PROTOCOL_VERSION, "default", secrets.token_hex(16), secrets.token_hex(8), "bench", "", 0, "", 0, 0
    )
    await asyncio.get_running_loop().create_connection(
        lambda: PeerProtocol(me, is_dialer=True, on_event=on_event, on_lost=on_lost), *address
    )
    return await opened
