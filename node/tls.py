"""The real network where there is a cluster key, for members only: TCP with TLS 1.3, and sealed datagrams."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from .link import Address
from .refusals import Refusals
from .sealing import SealedDatagrams, Seals
from .tasks import Tasks
from .tcp import BACKLOG, UdpSocket

if TYPE_CHECKING:
    from .certificates import TlsContexts
    from .stats import Stats

_P = TypeVar("_P", bound=asyncio.BaseProtocol)

# 3 ms on two cores that have nothing else to do, and a dialer of ours gives up after 2 s (`links.DIAL_TIMEOUT_S`).
HANDSHAKE_TIMEOUT_S = 3.0
# Before the handshake anybody may knock. With so many at it, the oldest goes: honest ones are quick.
HANDSHAKES_MAX = 64
ACCEPT_AGAIN_S = 1.0  # when descriptors have run out

_UNSEALED = "it sends datagrams that were not sealed with this cluster key"
_SILENT = "it took too long over the TLS handshake"
_HUNG_UP = "it ended the TLS handshake: another cluster key, a port scan or edgecache doctor"
_NOT_TLS = "it does not speak TLS: is its node run without --cluster-key?"
_OTHER_KEY = "CERTIFICATE_VERIFY_FAILED"
_REASONS = {
    _OTHER_KEY: "its certificate was not made with this cluster key",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate",
    "UNSUPPORTED_PROTOCOL": "it speaks TLS, but not 1.3",
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "UNEXPECTED_MESSAGE": _NOT_TLS,
    "BAD_RECORD_TYPE": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "HTTP_REQUEST": "it speaks HTTP: this is the port for peers",
    "TLSV1_ALERT_UNKNOWN_CA": "it has another cluster key, or none",
    "TLSV1_ALERT_DECRYPT_ERROR": "it has another cluster key",
}

_log = logging.getLogger(__name__)


class TlsNetwork:
    """Connections between holders of one cluster key. Who is refused is counted, and told of in the log, here."""

    def __init__(self, contexts: TlsContexts, datagrams_keys: Sequence[bytes], stats: Stats) -> None:
        self._contexts = contexts
        self._datagrams_keys = datagrams_keys
        self._stats = stats
        self._refusals = Refusals()

    async def connect(self, protocol_factory: Callable[[], _P], address: Address) -> _P:
        """A connection to `address`; OSError, ConnectionRefusedError if that is no holder of the key."""
        loop = asyncio.get_running_loop()
        for key_name, context in self._contexts.clients:
            try:
                _, protocol = await loop.create_connection(
                    protocol_factory, *address,
                    ssl=context, server_hostname=key_name, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                )  # fmt: skip
                return protocol
            except ssl.SSLError as error:
                refusal = error
                if refusal.reason != _OTHER_KEY:
                    break
        self._refused(f"{address[0]}:{address[1]}", refusal)
        raise ConnectionRefusedError(_reason(refusal))

    async def listen(self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address) -> _Listener:
        """Accept connections at `address`, port 0 for a free one; OSError."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        found = await loop.getaddrinfo(*address, family=family, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = socket.create_server(found[0][4][:2], family=family, backlog=BACKLOG)
        listening.setblocking(False)
        return _Listener(listening, protocol_factory, self._contexts.server, self._refused)

    async def datagrams(self, receive: Callable[[bytes, Address], None], address: Address) -> SealedDatagrams:
        """See `link.Network.datagrams`."""
        seals = Seals(self._datagrams_keys)

        def open_and_receive(data: bytes, source: Address) -> None:
            opened = seals.open(data, source)
            if opened is None:
                self._stats.refused_datagrams += 1
                if (line := self._refusals.line(asyncio.get_running_loop().time(), source[0], _UNSEALED)) is not None:
                    _log.warning("%s", line)
                return
            receive(opened, source)

        return SealedDatagrams(await UdpSocket.opened(open_and_receive, address), seals)

    def _refused(self, host: str, error: OSError) -> None:
        self._stats.refused_handshakes += 1
        reason = _reason(error)
        if (line := self._refusals.line(asyncio.get_running_loop().time(), host, reason)) is not None:
            _log.warning("%s", line)


class _Listener:
    """Accepts, and shakes hands with many at once.

    Not `create_server`: that neither tells of a handshake that failed nor bounds how many are under way.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext,
        on_refused: Callable[[str, OSError], None],
    ) -> None:
        self.address: Address = listening.getsockname()[:2]
        self._listening = listening
        self._protocol_factory = protocol_factory
        self._context = context
        self._on_refused = on_refused
        self._handshakes: dict[socket.socket, str] = {}  # and the address at the other end, the oldest first
        self._tasks: Tasks[None] = Tasks()
        self._accepting = asyncio.ensure_future(self._accept())
        self._accepting.add_done_callback(lambda _: listening.close())

    def close(self) -> None:
        """Accept no more."""
        self._accepting.cancel()
        while self._handshakes:
            self._end_oldest()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peername = await loop.sock_accept(self._listening)
            except OSError as error:
                self._on_refused("anybody", error)
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            if len(self._handshakes) >= HANDSHAKES_MAX:
                self._on_refused(self._end_oldest(), ConnectionAbortedError("others wait"))
            self._handshakes[accepted] = peername[0]
            self._tasks.start(self._shake_hands(accepted, peername[0]))
            await asyncio.sleep(0)  # sock_accept itself does not wait while somebody knocks

    def _end_oldest(self) -> str:
        """End the oldest handshake, and return who was at it."""
        accepted = next(iter(self._handshakes))
        with contextlib.suppress(OSError):
            # Both loops take it for the other side's end; of a task that is cancelled they may keep the socket.
            accepted.shutdown(socket.SHUT_RDWR)
        return self._handshakes.pop(accepted)

    async def _shake_hands(self, accepted: socket.socket, host: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol_factory, accepted, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        except OSError as error:
            if accepted in self._handshakes:  # and was not ended here
                self._on_refused(host, error)
        finally:
            self._handshakes.pop(accepted, None)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "as many files and connections are open as may be (ulimit -n)"
    if isinstance(error, ConnectionAbortedError):
        return _SILENT  # that is what both loops make of a handshake that took too long
    if not isinstance(error, ssl.SSLError):
        return _HUNG_UP  # a dialer that finds the certificate wrong does so too: asyncio sends no alert
    return _REASONS.get(error.reason or "", (error.reason or "the TLS handshake failed").lower().replace("_", " "))
