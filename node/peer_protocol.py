"""asyncio <-> Connection: bytes in, events out, and no more written than the socket takes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from ..protocol.connection import BLOB_BYTES_MAX, Connection, Event, Opened
from ..protocol.errors import RemoteProtocolError
from ..protocol.frames import uninitialized

if TYPE_CHECKING:
    from ..protocol.messages import Hello

# What the transport may hold: enough to keep a fast link busy, and all that a small answer ever waits behind.
WRITE_BYTES = 512 * 1024
# A peer that asks faster than it reads is not read from while so much waits for it. Its pings wait as well then, so
# this has room for a few answers of the largest kind; they are the store's own bytes, not copies.
PENDING_BYTES_MAX = 4 * BLOB_BYTES_MAX
# What a closed connection has to take the last words; a peer that reads nothing would keep it for good.
CLOSE_TIMEOUT_S = 1.0


class PeerProtocol(asyncio.BufferedProtocol):
    """Feeds one Connection from a transport and empties it into the transport. `on_event` says what came of it.

    `on_made` hears when it is connected, over TLS once the certificates are checked. Then the other side's certificate
    names the node that it must be.
    """

    def __init__(
        self,
        me: Hello,
        *,
        is_dialer: bool,
        on_event: Callable[[PeerProtocol, Event], None],
        on_lost: Callable[[PeerProtocol, str], None],
        on_made: Callable[[PeerProtocol], None] | None = None,
        receive_into: Callable[[int], memoryview] = uninitialized,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.connection = Connection(me, self._loop.time(), is_dialer=is_dialer, receive_into=receive_into)
        self._is_dialer = is_dialer
        self._on_event = on_event
        self._on_lost = on_lost
        self._on_made = on_made
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at = math.inf
        self._may_write = True
        self._may_read = True
        self._is_dispatching = False
        self._end = ""
        self.was_opened = False
        """Whether the other side has said who it is, and may be that."""
        self.was_offended = False
        """Whether it ended because the other side broke the rules."""

    @property
    def remote_host(self) -> str:
        """The address of the other side."""
        peername = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peername[0]) if peername else "?"

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self, reason: str = "") -> None:
        """End the connection, after what the transport still takes, and `reason` if there is one."""
        if self._transport is None or self._transport.is_closing():
            return
        self._end = self._end or reason
        if reason:
            self.connection.refuse(reason)
        self._write(self._transport)
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    def abort(self, reason: str) -> None:
        """End the connection at once."""
        self._end = self._end or reason
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Hand what waits to the transport, as far as it takes it. Called after each use of `connection`."""
        if self._is_dispatching or self._transport is None or self._transport.is_closing():
            return
        pending_bytes = self._write(self._transport)
        if pending_bytes > PENDING_BYTES_MAX and self._may_read and not self._is_dialer:
            # Never the dialer: two sides that wait for each other to read would wait for good.
            self._may_read = False
            self._transport.pause_reading()
        elif not self._may_read and pending_bytes <= PENDING_BYTES_MAX // 2:
            self._may_read = True
            self._transport.resume_reading()
        self._schedule()

    # -- what asyncio calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected; our Hello goes out."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport.set_write_buffer_limits(high=WRITE_BYTES)
        if self._on_made is not None:
            self._on_made(self)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio receives to."""
        return self.connection.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        try:
            self._dispatch(self.connection.received(self._loop.time(), nbytes))
        except RemoteProtocolError as error:
            self._offended(error)

    def eof_received(self) -> bool:
        """The other side has ended it."""
        return False

    def pause_writing(self) -> None:
        """The transport is full."""
        self._may_write = False

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._may_write = True
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over, whoever ended it."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_lost(self, self._end or (str(exc) if exc else "closed by the peer"))

    # -- inside -------------------------------------------------------------------------------------------------

    def _write(self, transport: asyncio.Transport) -> int:
        """How many bytes wait still."""
        connection = self.connection
        while (pending_bytes := connection.pending_bytes) and self._may_write:
            *buffers, last = connection.take(WRITE_BYTES)
            if buffers:
                transport.writelines(buffers)
            transport.write(last)  # asyncio's writelines tells nobody that it is full, from Python 3.12 on; write does
        return pending_bytes

    def _dispatch(self, events: Sequence[Event]) -> None:
        self._is_dispatching = True  # answers to one read go out together
        try:
            for event in events:
                if self.is_open:
                    if isinstance(event, Opened):
                        self._check_id(event.hello.id)
                    self._on_event(self, event)
        finally:
            self._is_dispatching = False
        self.flush()

    def _check_id(self, claimed: str) -> None:
        assert self._transport is not None
        certificate = self._transport.get_extra_info("peercert")  # None where there is no TLS
        if certificate is not None and (("commonName", claimed),) not in certificate.get("subject", ()):
            raise RemoteProtocolError(f"node {claimed!r}: its certificate is another node's")
        self.was_opened = True

    def _schedule(self) -> None:
        # A timer that is early only asks again. Its time is kept here: uvloop gives no TimerHandle for one that is due.
        if (deadline := self.connection.deadline()) >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(deadline, self._tick), deadline

    def _tick(self) -> None:
        self._timer, self._timer_at = None, math.inf
        try:
            self._dispatch(self.connection.tick(self._loop.time()))
        except RemoteProtocolError as error:
            self._offended(error)

    def _offended(self, error: RemoteProtocolError) -> None:
        self.was_offended = True
        self.close(str(error))
