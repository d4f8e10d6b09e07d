"""One end of a connection in memory: what asyncio's TCP transport is to a protocol, without a socket."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from .virtual_time import running_loop

if TYPE_CHECKING:
    from .links import Path
    from .network import Host

_numbers = itertools.count()


class InMemoryTransport(asyncio.Transport):
    """Hands what is written to the other end, by reference, when the path has carried it.

    So a buffer must stay as it is once it was written, which the nodes' buffers do: they are payloads and frames.
    """

    def __init__(self, host: Host, remote: Host, path: Path, protocol: asyncio.BaseProtocol) -> None:
        super().__init__({"peername": (remote.name, 0)})
        self.number = next(_numbers)
        self.other: InMemoryTransport
        self._host = host
        self._remote = remote
        self._path = path
        self._protocol = cast(asyncio.BufferedProtocol, protocol)
        self._loop = running_loop()
        self._network = host.network
        self._underway: deque[Callable[[], None] | Any] = deque()  # buffers, and how it ends
        self._in_flight = 0
        self._high = 64 * 1024
        self._is_paused = False
        self._is_reading = True
        self._unread: list[Any] = []  # seldom anything
        self._is_closing = False
        self._is_over = False
        host.transports[self.number] = self

    # -- what a protocol calls ----------------------------------------------------------------------------------

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """How much may be under way before the protocol is told to pause."""
        self._high = 64 * 1024 if high is None else high

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._is_closing

    def write(self, data: Any) -> None:
        """Send a buffer, which must not change any more."""
        if self._is_closing or not data:
            return
        size = len(data)
        self._network.bytes_sent += size
        self._host.bytes_sent += size
        self._in_flight += size
        self._underway.append(data)
        self._loop.post_at(self._path.carry(self._loop.time(), size), self._arrive)
        if self._in_flight > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Send buffers in their order."""
        for data in list_of_data:
            self.write(data)

    def pause_reading(self) -> None:
        """Give the protocol nothing for now."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Give it what came meanwhile, and what comes."""
        self._is_reading = True
        while self._unread and self._is_reading:
            self._give(self._unread.pop(0))

    def close(self) -> None:
        """End the connection after what was written."""
        if not self._is_closing:
            self._is_closing = True
            self._last(self.other._ended)
            self._loop.call_soon(self._over, None)

    def abort(self) -> None:
        """End it at once."""
        if not self._is_over:
            self._is_closing = True
            self._last(lambda: self.other._broken(ConnectionResetError("connection reset by peer")))
            self._loop.call_soon(self._over, None)

    # -- on the way, and at the other end -----------------------------------------------------------------------

    def _last(self, action: Callable[[], None]) -> None:
        self._underway.append(action)
        self._loop.post_at(self._path.carry(self._loop.time(), 0), self._arrive)

    def _arrive(self) -> None:
        item = self._underway.popleft()
        if not callable(item):
            if self._network.is_whole:
                self.other._receive(item)
                return
            item = functools.partial(self.other._receive, item)
        self._network.deliver(self._host.name, self._remote.name, item)

    def _receive(self, data: Any) -> None:
        if self._is_over or self._is_closing:
            return
        self._host.bytes_received += len(data)
        if self._is_reading:
            self._give(data)
        else:
            self._unread.append(data)

    def _give(self, data: Any) -> None:
        size = len(data)
        buffer = cast(memoryview, self._protocol.get_buffer(size))
        if len(buffer) >= size:  # the usual case
            buffer[:size] = data
            self._protocol.buffer_updated(size)
        else:
            view = memoryview(data)
            while view and not self._is_closing:
                buffer = memoryview(self._protocol.get_buffer(len(view)))
                count = min(len(buffer), len(view))
                buffer[:count] = view[:count]
                view = view[count:]
                self._protocol.buffer_updated(count)
        self.other._was_read(size)

    def _was_read(self, size: int) -> None:
        self._in_flight -= size
        if self._is_paused and self._in_flight <= self._high // 4 and not self._is_over:
            self._is_paused = False
            self._protocol.resume_writing()

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
            self._host.transports.pop(self.number, None)
            self._protocol.connection_lost(error)
