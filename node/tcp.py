"""The real network: TCP and UDP (`link.Network`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
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

    async def datagrams(self, receive: Callable[[bytes, Address], None], address: Address) -> UdpSocket:
        """See `link.Network.datagrams`; without a cluster key everybody is heard."""
        return await UdpSocket.opened(receive, address)


class _Listener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.address: Address = server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        self._server.close()


class UdpSocket(asyncio.DatagramProtocol):
    """Sends and receives datagrams (`link.Datagrams`)."""

    def __init__(self, receive: Callable[[bytes, Address], None]) -> None:
        self._receive = receive
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def opened(cls, receive: Callable[[bytes, Address], None], address: Address) -> UdpSocket:
        """A socket at `address`; OSError."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(lambda: cls(receive), local_addr=address)
        protocol._transport = transport
        return protocol

    def send(self, data: bytes, address: Address) -> None:
        """Send one, unless `address` is a name: to look that up would take time."""
        if self._transport is not None and not self._transport.is_closing() and _is_numeric(address[0]):
            self._transport.sendto(data, address)

    def close(self) -> None:
        """No more either way."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """What asyncio calls."""
        self._receive(data, (addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """Nobody there, no route, a full queue: lost, as a datagram may be."""


@lru_cache(1024)
def _is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
