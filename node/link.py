"""One connection to one boot of one member: dialled, asked through, lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..protocol import messages
from ..protocol.connection import Answered, Event, Opened
from ..protocol.frames import uninitialized
from .peer_protocol import PeerProtocol

if TYPE_CHECKING:
    from ..protocol.frames import Buffer
    from ..protocol.messages import Hello, Message

Address = tuple[str, int]


def shown(address: Address) -> str:
    """HOST:PORT, with an IPv6 address in brackets, as it stands in a url."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class Server(Protocol):
    """What listens."""

    address: Address

    def close(self) -> None:
        """Accept no more."""


class Datagrams(Protocol):
    """What sends datagrams, and receives them."""

    def send(self, data: bytes, address: Address) -> None:
        """Send one, if it can be sent; it may be lost."""

    def close(self) -> None:
        """No more either way."""


class Network(Protocol):
    """TCP, or a simulation of it."""

    async def connect(self, protocol_factory: Callable[[], _P], address: Address) -> _P:
        """A connection to `address`; OSError or TimeoutError."""

    async def listen(self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address) -> Server:
        """Accept connections at `address`, port 0 for a free one; OSError."""

    async def datagrams(self, receive: Callable[[bytes, Address], None], address: Address) -> Datagrams:
        """Receive datagrams at `address`, and send from there; OSError. What is no member's is dropped and counted."""


class Link:
    """One open connection to one boot of one member."""

    def __init__(self, protocol: PeerProtocol, hello: Hello) -> None:
        self.protocol = protocol
        self.hello = hello
        self.is_slow = False  # a request ran out of time, and no ping has been answered since
        self.was_closed_here = False
        self.lost: asyncio.Event = asyncio.Event()
        self.changed: asyncio.Event = asyncio.Event()
        """Set when it becomes slow, or is lost."""
        self._waiting: dict[int, asyncio.Future[Answered]] = {}

    async def ask(
        self,
        request: Message,
        timeout_s: float,
        blob: Sequence[Buffer] = (),
        blob_bytes: int = 0,
        on_broken: Callable[[Message, memoryview], None] | None = None,
    ) -> Answered | None:
        """The answer, or None: out of time, refused, or the connection is gone.

        `on_broken` hears of an answer of which only a part came, of which message and what of its blob.
        """
        loop = asyncio.get_running_loop()
        connection = self.protocol.connection
        if self.lost.is_set() or not self.protocol.is_open:
            return None
        stream = connection.ask(request, loop.time() + timeout_s, blob, blob_bytes)
        if stream is None:
            return None
        future: asyncio.Future[Answered] = loop.create_future()
        self._waiting[stream] = future
        self.protocol.flush()
        try:
            answered = await future
        except asyncio.CancelledError:
            connection.cancel(stream)
            self.protocol.flush()
            raise
        finally:
            self._waiting.pop(stream, None)
        if answered.answer is None:
            self.is_slow = True
            self.changed.set()
            if on_broken is not None and answered.begun is not None:
                on_broken(answered.begun, answered.blob)
        if answered.answer is None or isinstance(answered.answer, messages.Refused):
            return None
        return answered

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._waiting)

    def answered(self, answered: Answered) -> None:
        """Hand an answer to whoever waits for it."""
        future = self._waiting.get(answered.stream)
        if future is not None and not future.done():
            future.set_result(answered)

    def is_gone(self) -> None:
        """Nobody needs to wait any longer."""
        self.lost.set()
        self.changed.set()
        for stream, future in self._waiting.items():
            if not future.done():
                future.set_result(self.protocol.connection.broken(stream))


async def dial(
    network: Network, me: Hello, address: Address, receive_into: Callable[[int], memoryview] = uninitialized
) -> Link:
    """A connection to the node at `address`, once both have said Hello. OSError or ValueError if there is none."""
    opened: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    links: list[Link] = []

    def on_event(protocol: PeerProtocol, event: Event) -> None:
        if isinstance(event, Answered):
            links[0].answered(event)
        elif isinstance(event, Opened) and not opened.done():
            links.append(Link(protocol, event.hello))
            opened.set_result(links[0])

    def on_lost(protocol: PeerProtocol, reason: str) -> None:
        for link in links:
            link.is_gone()
        if not opened.done():
            opened.set_exception(ConnectionError(reason))
            opened.exception()  # seen, even if nobody waits any more

    protocol = await network.connect(
        lambda: PeerProtocol(me, is_dialer=True, on_event=on_event, on_lost=on_lost, receive_into=receive_into), address
    )
    try:
        return await opened
    except asyncio.CancelledError:
        protocol.abort("not wanted any more")
        raise
