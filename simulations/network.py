"""A network in memory: hosts, the links they hang on, and what can happen to them.

Gives a node what TCP gives it: ordered bytes between two protocols, refused and hanging connections, broken ones, and
a sender that is told to pause; and what UDP gives it (`datagrams.py`). Everything happens by the running loop's clock,
so on virtual time it is repeatable.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from ..node.link import Address
from .datagrams import InMemoryDatagrams
from .links import LINKS, Access, Channel, Link, Path
from .transport import InMemoryTransport

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class InMemoryNetwork:
    """Every host and what lies between them."""

    def __init__(self, link: Link = LINKS["lan"], *, seed: object = 0) -> None:
        """`link`: what hosts hang on that name no other."""
        self.bytes_sent = 0
        self._link = link
        self.seed = seed
        self.hosts: dict[str, Host] = {}
        self._channels: dict[str, Channel] = {}
        self._cut: set[tuple[str, str]] = set()
        self._frozen: set[str] = set()
        self._held: dict[tuple[str, str], deque[Callable[[], None]]] = {}
        self.is_whole = True

    def host(self, name: str, link: Link | None = None) -> Host:
        """The host of that name, made if there is none."""
        if name not in self.hosts:
            self.hosts[name] = Host(self, name, self._access(link or self._link))
        return self.hosts[name]

    def path(self, source: str, target: str) -> Path:
        """The way from one host to the other, for one of their connections."""
        return Path(self.host(source).access, self.host(target).access, self.host(source).rng)

    def _access(self, link: Link) -> Access:
        if not link.is_shared:
            return Access(link)
        channel = self._channels.setdefault(link.name, Channel(link.down_bytes_per_s))
        return Access(link, channel)

    # -- what can happen ----------------------------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """Nothing passes between `a` and `b`; what is sent waits, as TCP would send it again."""
        self._cut |= {(a, b), (b, a)}
        self.is_whole = False

    def cut_one_way(self, source: str, target: str) -> None:
        """Nothing passes from `source` to `target`; the other way it does."""
        self._cut.add((source, target))
        self.is_whole = False

    def heal(self) -> None:
        """Everything passes again."""
        self._cut.clear()
        self._release()

    def freeze(self, host: str) -> None:
        """`host` still accepts connections, but its process neither reads nor writes: SIGSTOP."""
        self._frozen.add(host)
        self.is_whole = False

    def thaw(self, host: str) -> None:
        """SIGCONT."""
        self._frozen.discard(host)
        self._release()
        for socket in tuple(self.host(host).sockets.values()):
            socket.read()

    def slow_down(self, host: str, extra_delay_s: float) -> None:
        """Everything to and from `host` takes so much longer; 0 for as long as before."""
        self.host(host).access.extra_delay_s = extra_delay_s

    def crash(self, host: str) -> None:
        """The process on `host` is gone: its connections break, its ports refuse."""
        self.host(host).crash()

    # -- what hosts and connections ask -------------------------------------------------------------------------

    def passes(self, source: str, target: str) -> bool:
        """Whether bytes get from one host to the other now."""
        return (source, target) not in self._cut and not self._frozen & {source, target}

    def deliver(self, source: str, target: str, action: Callable[[], None]) -> None:
        """Do `action` now, or once bytes pass from `source` to `target` again, in order."""
        if self.is_whole:
            action()
            return
        held = self._held.setdefault((source, target), deque())
        if held or not self.passes(source, target):
            held.append(action)
        else:
            action()

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing passes from one host to the other."""
        return (source, target) in self._cut

    def is_frozen(self, host: str) -> bool:
        """Whether its process is stopped."""
        return host in self._frozen

    def listener(self, address: Address) -> Callable[[], asyncio.BaseProtocol] | None:
        """What accepts connections there."""
        host = self.hosts.get(address[0])
        return host.listeners.get(address[1]) if host is not None else None

    def _release(self) -> None:
        for (source, target), held in self._held.items():
            while held and self.passes(source, target):
                held.popleft()()
        self.is_whole = not (self._cut or self._frozen or any(self._held.values()))


class Host:
    """One device's network (`link.Network`)."""

    def __init__(self, network: InMemoryNetwork, name: str, access: Access) -> None:
        self.network = network
        self.name = name
        self.access = access
        self.bytes_sent = 0
        self.bytes_received = 0
        self.listeners: dict[int, Callable[[], asyncio.BaseProtocol]] = {}
        self.transports: dict[int, InMemoryTransport] = {}
        self.sockets: dict[int, InMemoryDatagrams] = {}
        self.datagrams_sent = 0
        self.rng = random.Random(f"{network.seed}:{name}")
        """Of all that it sends on connections."""
        self._free_ports = itertools.count(49152)

    async def connect(self, protocol_factory: Callable[[], _P], address: Address) -> _P:
        """A connection to `address`: after a round trip, refused after one, or never."""
        loop = asyncio.get_running_loop()
        network = self.network
        there, back = network.path(self.name, address[0]), network.path(address[0], self.name)
        await asyncio.sleep(back.carry(there.carry(loop.time(), 0), 0) - loop.time())
        if not (network.is_whole or network.is_frozen(address[0])):  # the kernel of a stopped process accepts
            reachable: asyncio.Future[None] = loop.create_future()

            def arrive() -> None:
                if not reachable.done():
                    reachable.set_result(None)

            network.deliver(self.name, address[0], arrive)
            await reachable
        accept = network.listener(address)
        if accept is None:
            raise ConnectionRefusedError(f"nothing listens at {address[0]}:{address[1]}")
        near, far = protocol_factory(), accept()
        ours = InMemoryTransport(self, network.host(address[0]), there, near)
        theirs = InMemoryTransport(network.host(address[0]), self, back, far)
        ours.other, theirs.other = theirs, ours
        far.connection_made(theirs)
        near.connection_made(ours)
        return near

    async def listen(self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address) -> Listener:
        """Accept connections at `address`, port 0 for a free one."""
        port = address[1] or next(self._free_ports)
        if port in self.listeners:
            raise OSError(98, f"port {port} of {self.name} is in use")
        self.listeners[port] = protocol_factory
        return Listener(self, port)

    async def datagrams(self, receive: Callable[[bytes, Address], None], address: Address) -> InMemoryDatagrams:
        """Receive datagrams at `address`, and send from there."""
        rng = random.Random(f"{self.network.seed}:{self.name}:datagrams")
        self.sockets[address[1]] = InMemoryDatagrams(self, address[1], receive, rng)
        return self.sockets[address[1]]

    def crash(self) -> None:
        """Break everything at once."""
        self.listeners.clear()
        self.sockets.clear()
        for transport in tuple(self.transports.values()):
            transport.abort()


class Listener:
    """What accepts connections on a port of a host."""

    def __init__(self, host: Host, port: int) -> None:
        self._host = host
        self.address: Address = (host.name, port)

    def close(self) -> None:
        """Accept no more."""
        self._host.listeners.pop(self.address[1], None)
