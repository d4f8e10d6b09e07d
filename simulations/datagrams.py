"""Datagrams in memory: late, lost with the share of packets that the links lose, and in no certain order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..node.link import Address
from .virtual_time import running_loop

if TYPE_CHECKING:
    from .network import Host

IP_HEADERS_BYTES = 28
# What Linux keeps for a process that does not read: 208 KB, in which a small datagram counts for about 800 bytes.
UNREAD_MAX = 256


class InMemoryDatagrams:
    """One host's socket (`link.Datagrams`)."""

    def __init__(self, host: Host, port: int, receive: Callable[[bytes, Address], None], rng: random.Random) -> None:
        self._host = host
        self._network = host.network
        self._loop = running_loop()
        self._address: Address = (host.name, port)
        self._receive = receive
        self._rng = rng
        self._unread: list[tuple[bytes, Address]] = []

    def send(self, data: bytes, address: Address) -> None:
        """Send one; on a cut, to nobody, or with bad luck it is lost without a word."""
        network, source = self._network, self._host
        if source.sockets.get(self._address[1]) is not self:
            return
        if not network.is_whole and network.is_frozen(source.name):
            return
        size = len(data)
        network.bytes_sent += size
        source.bytes_sent += size
        source.datagrams_sent += 1
        target = network.hosts.get(address[0]) or network.host(address[0])
        at = source.access.carry_packet(self._loop.time(), size + IP_HEADERS_BYTES, target.access, self._rng)
        if at is not None:
            self._loop.post_at(at, self._arrive, data, target, address[1])

    def _arrive(self, data: bytes, target: Host, port: int) -> None:
        socket = target.sockets.get(port)
        if socket is None:
            return
        network = self._network
        if not network.is_whole:
            if network.is_cut(self._host.name, target.name):
                return
            if network.is_frozen(target.name):
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
