"""Connections that peers dialled: each is greeted, and answered as the responder says; those that fell silent close."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..protocol import messages
from ..protocol.connection import Asked, Event, Opened
from .links import LINK_IDLE_S
from .peer_protocol import PENDING_BYTES_MAX, PeerProtocol
from .refusals import Refusals
from .responder import Answer
from .tasks import Tasks

if TYPE_CHECKING:
    from ..protocol.messages import Hello
    from .responder import Responder
    from .ring import NodeId
    from .stats import Stats

INBOUND_MAX = 512  # one of each peer, and room for those that are about to be closed
INBOUND_IDLE_S = 2 * LINK_IDLE_S  # the dialer closes them before that, if it is still there
TIDY_S = INBOUND_IDLE_S / 20

_log = logging.getLogger(__name__)


class Inbound:
    """Every connection that this node did not dial itself."""

    def __init__(
        self,
        *,
        hello: Callable[[], Hello],
        responder: Responder,
        stats: Stats,
        receive_into: Callable[[int], memoryview],
        on_greeted: Callable[[PeerProtocol, Hello], None],
        on_leave: Callable[[NodeId], None],
        on_lost: Callable[[NodeId], None],
    ) -> None:
        """`on_greeted` hears of every handshake and may close it; `on_lost` of the ends of those that were greeted."""
        self.protocols: dict[PeerProtocol, None] = {}  # the oldest first, and closed in that order
        self._hello = hello
        self._responder = responder
        self._stats = stats
        self._receive_into = receive_into
        self._on_greeted = on_greeted
        self._on_leave = on_leave
        self._on_gone = on_lost
        self._refusals = Refusals()
        self._answering: Tasks[None] = Tasks()
        self._tidy_at = 0.0

    def protocol(self) -> PeerProtocol:
        """For one more connection."""
        return PeerProtocol(
            self._hello(),
            is_dialer=False,
            on_event=self._on_event,
            on_lost=self._on_lost,
            on_made=self._on_made,
            receive_into=self._receive_into,
        )

    def tidy(self, now: float) -> None:
        """Close what has been silent for long; looks each half minute, however often it is called."""
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_S
        for protocol in [p for p in self.protocols if now - p.connection.heard_at > INBOUND_IDLE_S]:
            protocol.close("silent for too long")

    async def stop(self) -> None:
        """Answer nobody any more; the connections stay until `close`."""
        await self._answering.close()

    def close(self) -> None:
        """End them all."""
        for protocol in tuple(self.protocols):
            protocol.close()

    # -- the life of one ----------------------------------------------------------------------------------------

    def _on_made(self, protocol: PeerProtocol) -> None:
        self.protocols[protocol] = None
        if len(self.protocols) > INBOUND_MAX:
            protocol.close(f"more than {INBOUND_MAX} connections")

    def _on_event(self, protocol: PeerProtocol, event: Event) -> None:
        peer = protocol.connection.peer
        assert peer is not None
        if isinstance(event, Opened):
            self._on_greeted(protocol, peer)
        elif isinstance(event, Asked):
            answer = self._responder.answer(peer, event.request, event.blob)
            if not isinstance(answer, Answer):
                self._answer_later(protocol, event.stream, answer)
                return
            protocol.connection.answer(event.stream, answer.message, answer.blob, answer.blob_bytes)
            if isinstance(event.request, messages.Leave):
                self._on_leave(peer.id)

    def _answer_later(self, protocol: PeerProtocol, stream: int, answer: Coroutine[Any, Any, Answer]) -> None:
        """Answer when the disk has been read; who does not take what it asked for gets nothing read."""

        async def later() -> None:
            message, blob, blob_bytes = await answer
            protocol.connection.answer(stream, message, blob, blob_bytes)
            protocol.flush()

        if protocol.connection.pending_bytes > PENDING_BYTES_MAX:
            answer.close()
            protocol.connection.answer(stream, messages.Missing())
            return
        self._answering.start(later())

    def _on_lost(self, protocol: PeerProtocol, reason: str) -> None:
        self.protocols.pop(protocol, None)
        if (peer := protocol.connection.peer) is not None:
            self._on_gone(peer.id)
        if protocol.was_offended:
            if protocol.was_opened:
                self._stats.protocol_errors += 1
            else:
                self._stats.refused_handshakes += 1
            now = asyncio.get_running_loop().time()
            line = self._refusals.line(now, protocol.remote_host, reason, "closed a connection from")
            if line is not None:
                _log.warning("%s", line)
