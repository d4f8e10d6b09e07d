"""A client of a node by the peer protocol: the node's own PeerProtocol and Link, as one node asks another."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import accumulate

from edgecache.node.link import Link, dial
from edgecache.node.tcp import TcpNetwork
from edgecache.protocol import messages

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
    me = messages.Hello(
        messages.PROTOCOL_VERSION, "default", secrets.token_hex(16), secrets.token_hex(8), "bench", "", 0, "", 0, 0
    )
    return Peer(await dial(TcpNetwork(), me, address))
