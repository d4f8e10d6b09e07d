"""The real network: TCP (`link.Network`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from .link import Address

_P = TypeVar("_P", bound=asyncio.BaseProtocol)

# A large backlog only hides that descriptors have run out, and then asyncio logs thousands of tracebacks a second.
BACKLOG = 64


class TcpNetwork:
    """Connections by the running loop."""

    async def connect(self, protocol_factory: Callable[[], _P], address: Address) -> _P:
        """A connection to `address`; OSError."""
        _, protocol = await asyncio.get_running_loop().create_connection(protocol_factory, *address)
        return protocol

    async def listen(self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address) -> _Listener:
        """Accept connections at `address`, port 0 for a free one; OSError."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol_factory, *address, backlog=BACKLOG, reuse_address=True)
        return _Listener(server)


class _Listener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.address: Address = server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        self._server.close()
