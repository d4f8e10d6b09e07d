"""Datagrams in memory: late, lost with the share of packets that the links lose, and in no certain order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..node.link import Address

if TYPE_CHECKING:
    from .network import Host

IP_HEADERS_BYTES = 28
# What Linux keeps for a process that does not read: 208 KB, in which a small datagram counts for about 800 bytes.
UNREAD_MAX = 256


class InMemoryDatagrams:
    """One host's socket (`link.Datagrams`)."""

    def __init__(self, host: Host, port: int, receive: Callable[[bytes, Address], None], rng: random.Random) -> None:
        self._host = host
        self._address: Address = (host.name, port)
        self._receive = receive
        self._rng = rng
        self._unread: list[tuple[bytes, Address]] = []

    def send(self, data: bytes, address: Address) -> None:
        """Send one; on a cut, to nobody, or with bad luck it is lost without a word."""
        network, source = self._host.network, self._host
        if network.is_frozen(source.name) or self._host.sockets.get(self._address[1]) is not self:
            return
        network.bytes_sent += len(data)
        source.bytes_sent += len(data)
        source.datagrams_sent += 1
        target = network.host(address[0])
        links = source.access.link, target.access.link
        if self._rng.random() < 1 - (1 - links[0].loss) * (1 - links[1].loss):
            return
        loop = asyncio.get_running_loop()
        now, size = loop.time(), len(data) + IP_HEADERS_BYTES
        at = max(source.access.up.carry(now, size), target.access.down.carry(now, size))
        at += source.access.extra_delay_s + target.access.extra_delay_s
        for link in links:
            at += link.delay_s
            if link.jitter_s:
                at += self._rng.expovariate(1 / link.jitter_s)
        loop.call_at(at, self._arrive, data, target, address[1])

    def _arrive(self, data: bytes, target: Host, port: int) -> None:
        socket = target.sockets.get(port)
        if socket is None or self._host.network.is_cut(self._host.name, target.name):
            return
        if self._host.network.is_frozen(target.name):
            if len(socket._unread) < UNREAD_MAX:
                socket._unread.append((data, self._address))
            return
        target.bytes_received += len(data)
        socket._receive(data, self._address)

    def read(self) -> None:
        """What came while the process was stopped."""
        unread, self._unread = self._unread, []
        for data, address in unread:
            self._receive(data, address)

    def close(self) -> None:
        """No more either way."""
        if self._host.sockets.get(self._address[1]) is self:
            del self._host.sockets[self._address[1]]
