"""A network in memory: hosts, links with delay and bandwidth, and what can happen to them.

Gives a node what TCP gives it: ordered bytes between two protocols, refused and hanging connections, broken ones, and
a sender that is told to pause. Everything happens by the running loop's clock, so on virtual time it is repeatable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..node.link import Address
from ..node.sightings import Announcement, Sighting

_P = TypeVar("_P", bound=asyncio.BaseProtocol)

LAN_DELAY_S = 0.0003
LAN_BYTES_PER_S = 117e6  # 1 Gbit/s less its framing


class InMemoryNetwork:
    """Every host and what lies between them."""

    def __init__(self, delay_s: float = LAN_DELAY_S, bytes_per_s: float = LAN_BYTES_PER_S) -> None:
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.bytes_sent = 0
        self._hosts: dict[str, Host] = {}
        self._cut: set[tuple[str, str]] = set()
        self._frozen: set[str] = set()
        self._held: dict[str, deque[Callable[[], None]]] = {}

    def host(self, name: str) -> Host:
        """The host of that name, made if there is none."""
        return self._hosts.setdefault(name, Host(self, name))

    def cut(self, a: str, b: str) -> None:
        """Nothing passes between `a` and `b`; what is sent waits, as TCP would send it again."""
        self._cut |= {(a, b), (b, a)}

    def heal(self) -> None:
        """Everything passes again."""
        self._cut.clear()
        self._release()

    def freeze(self, host: str) -> None:
        """`host` still accepts connections, but its process neither reads nor writes: SIGSTOP."""
        self._frozen.add(host)

    def thaw(self, host: str) -> None:
        """SIGCONT."""
        self._frozen.discard(host)
        self._release()

    def crash(self, host: str) -> None:
        """The process on `host` is gone: its connections break, its ports refuse."""
        self.host(host).crash()

    def passes(self, source: str, target: str) -> bool:
        """Whether bytes get from one host to the other now."""
        return (source, target) not in self._cut and not self._frozen & {source, target}

    def deliver(self, source: str, target: str, action: Callable[[], None]) -> None:
        """Do `action` now, or once bytes pass from `source` to `target` again, in order."""
        held = self._held.setdefault(f"{source}>{target}", deque())
        if held or not self.passes(source, target):
            held.append(action)
        else:
            action()

    def is_frozen(self, host: str) -> bool:
        """Whether its process is stopped."""
        return host in self._frozen

    def listener(self, address: Address) -> Callable[[], asyncio.BaseProtocol] | None:
        """What accepts connections there."""
        host = self._hosts.get(address[0])
        return host.listeners.get(address[1]) if host is not None else None

    def _release(self) -> None:
        for route, held in self._held.items():
            source, target = route.split(">")
            while held and self.passes(source, target):
                held.popleft()()


class Host:
    """One device's network (`link.Network`)."""

    def __init__(self, network: InMemoryNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.listeners: dict[int, Callable[[], asyncio.BaseProtocol]] = {}
        self.transports: set[_Transport] = set()
        self._free_ports = itertools.count(49152)

    async def connect(self, protocol_factory: Callable[[], _P], address: Address) -> _P:
        """A connection to `address`: after a round trip, refused after one, or never."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(2 * self.network.delay_s)
        reachable: asyncio.Future[None] = loop.create_future()

        def arrive() -> None:
            if not reachable.done():
                reachable.set_result(None)

        if self.network.is_frozen(address[0]):
            arrive()  # the kernel of a stopped process accepts
        else:
            self.network.deliver(self.name, address[0], arrive)
        await reachable
        accept = self.network.listener(address)
        if accept is None:
            raise ConnectionRefusedError(f"nothing listens at {address[0]}:{address[1]}")
        near, far = protocol_factory(), accept()
        ours = _Transport(self, address[0], near)
        theirs = _Transport(self.network.host(address[0]), self.name, far)
        ours.other, theirs.other = theirs, ours
        far.connection_made(theirs)
        near.connection_made(ours)
        return near

    async def listen(self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address) -> _Listener:
        """Accept connections at `address`, port 0 for a free one."""
        port = address[1] or next(self._free_ports)
        if port in self.listeners:
            raise OSError(98, f"port {port} of {self.name} is in use")
        self.listeners[port] = protocol_factory
        return _Listener(self, port)

    def crash(self) -> None:
        """Break everything at once."""
        self.listeners.clear()
        for transport in sorted(self.transports, key=lambda t: t.number):
            transport.abort()


class _Listener:
    def __init__(self, host: Host, port: int) -> None:
        self._host = host
        self.address: Address = (host.name, port)

    def close(self) -> None:
        self._host.listeners.pop(self.address[1], None)


class _Transport(asyncio.Transport):
    """One end of a connection."""

    _numbers = itertools.count()

    def __init__(self, host: Host, remote: str, protocol: asyncio.BaseProtocol) -> None:
        super().__init__({"peername": (remote, 0)})
        self.number = next(self._numbers)
        self.other: _Transport
        self._host = host
        self._remote = remote
        self._protocol = cast(asyncio.BufferedProtocol, protocol)
        self._loop = asyncio.get_running_loop()
        self._free_at = 0.0  # when the link has carried all that was written
        self._in_flight = 0
        self._high = 64 * 1024
        self._is_paused = False
        self._is_reading = True
        self._unread: deque[bytes] = deque()
        self._is_closing = False
        self._is_over = False
        host.transports.add(self)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: Any) -> None:
        self._send(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self._send(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        while self._unread and self._is_reading:
            self._give(self._unread.popleft())

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._at_arrival(0, self.other._ended)
            self._loop.call_soon(self._over, None)

    def abort(self) -> None:
        if not self._is_over:
            self._is_closing = True
            self._at_arrival(0, lambda: self.other._broken(ConnectionResetError("connection reset by peer")))
            self._loop.call_soon(self._over, None)

    def _send(self, data: bytes) -> None:
        if self._is_closing or not data:
            return
        self._host.network.bytes_sent += len(data)
        self._in_flight += len(data)
        self._at_arrival(len(data), lambda: self.other._receive(data))
        if self._in_flight > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def _at_arrival(self, size: int, action: Callable[[], None]) -> None:
        network = self._host.network
        self._free_at = max(self._free_at, self._loop.time()) + size / network.bytes_per_s
        self._loop.call_at(self._free_at + network.delay_s, network.deliver, self._host.name, self._remote, action)

    def _was_read(self, size: int) -> None:
        self._in_flight -= size
        if self._is_paused and self._in_flight <= self._high // 4 and not self._is_over:
            self._is_paused = False
            self._protocol.resume_writing()

    def _receive(self, data: bytes) -> None:
        if self._is_over or self._is_closing:
            return
        if self._is_reading:
            self._give(data)
        else:
            self._unread.append(data)

    def _give(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._is_closing:
            buffer = memoryview(self._protocol.get_buffer(len(view)))
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            view = view[count:]
            self._protocol.buffer_updated(count)
        self.other._was_read(len(data))

    def _ended(self) -> None:
        if not self._is_over:
            self._protocol.eof_received()
            self.close()

    def _broken(self, error: Exception) -> None:
        self._is_closing = True
        self._over(error)

    def _over(self, error: Exception | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._host.transports.discard(self)
            self._protocol.connection_lost(error)


class InMemoryDiscovery:
    """What mDNS does for nodes on one LAN (`sightings.Discovery`): each hears of all others a second later."""

    DELAY_S = 1.0

    def __init__(self, lan: Lan, host: str) -> None:
        self._lan = lan
        self._host = host

    async def start(self, me: Announcement, found: Callable[[Sighting], None]) -> None:
        """Announce `me`, and hear the others."""
        self._lan.join(Sighting(me.id, me.boot, me.name, (self._host, me.peer_port)), found)

    async def stop(self) -> None:
        """Say goodbye."""
        self._lan.leave(self._host)


class Lan:
    """Who announces itself to whom."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Sighting, Callable[[Sighting], None]]] = {}

    def join(self, me: Sighting, found: Callable[[Sighting], None]) -> None:
        """`me` is heard by all others, and hears them."""
        loop = asyncio.get_running_loop()
        for other, tell in self._heard.values():
            loop.call_later(InMemoryDiscovery.DELAY_S, found, other)
            loop.call_later(InMemoryDiscovery.DELAY_S, tell, me)
        self._heard[me.address[0]] = (me, found)

    def leave(self, host: str) -> None:
        """Nobody hears of `host` any more."""
        self._heard.pop(host, None)
