"""Clients of Redis and memcached that do as little as a correct one can, so that the servers are what is compared.

Both answer with lines, some of which announce a value. Small answers are cut out of what one read brought; a value
that is not wholly there yet is received into the memory that the caller gets.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from .servers import Address

Value = bytes | memoryview

_READ_BYTES = 64 * 1024


class Cache(Protocol):
    """One connection to one server."""

    async def get(self, key: bytes) -> Value | None: ...

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[Value]: ...

    async def put(self, key: bytes, value: Value) -> None: ...

    def close(self) -> None: ...


class _LineClient(asyncio.BufferedProtocol, ABC):
    """Requests go out as they are made; answers come in the same order."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray(_READ_BYTES)
        self._view = memoryview(self._received)
        self._start = self._end = 0
        self._value: memoryview | None = None  # being received, with its "\r\n"
        self._filled = 0
        self._waiting: deque[tuple[asyncio.Future[list[Value]], int]] = deque()
        self._answer: list[Value] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(exc or ConnectionResetError())

    def close(self) -> None:
        self._transport.close()

    def _ask(self, request: bytes | list[Value], count: int) -> asyncio.Future[list[Value]]:
        """Send a request whose answer has `count` parts."""
        future: asyncio.Future[list[Value]] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, count))
        if isinstance(request, bytes):
            self._transport.write(request)
        else:
            self._transport.writelines(request)
        return future

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._value is not None:
            return self._value[self._filled :]
        if self._start:
            rest = self._end - self._start
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._value is not None:
            self._filled += nbytes
            if self._filled == len(self._value):
                value, self._value = self._value[:-2], None
                self._part(value)
            return
        self._end += nbytes
        while self._value is None and (eol := self._received.find(b"\r\n", self._start, self._end)) >= 0:
            line = self._received[self._start : eol]
            self._start = eol + 2
            size = self._line(line)
            if size is None:
                continue
            here = self._end - self._start
            if here >= size + 2:
                value_at, self._start = self._start, self._start + size + 2
                self._part(bytes(self._view[value_at : value_at + size]))
            else:
                self._value = np.empty(size + 2, np.uint8).data
                self._value[:here] = self._view[self._start : self._end]
                self._filled, self._start, self._end = here, 0, 0

    @abstractmethod
    def _line(self, line: bytearray) -> int | None:
        """Take a line in; the size of the value that follows it, if one does."""

    def _part(self, value: Value) -> None:
        self._answer.append(value)
        if len(self._answer) == self._waiting[0][1]:
            self._done()

    def _done(self) -> None:
        answer, self._answer = self._answer, []
        future = self._waiting.popleft()[0]
        if not future.done():
            future.set_result(answer)


class Redis(_LineClient):
    """RESP2: GET, MGET, SET."""

    def _line(self, line: bytearray) -> int | None:
        if line.startswith(b"$") and line != b"$-1":
            return int(line[1:])
        if not line.startswith(b"*"):
            self._part(bytes(line))
        return None

    async def get(self, key: bytes) -> Value | None:
        return (await self._ask(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key), 1))[0]

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[Value]:
        names = b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in keys])
        return await self._ask(b"*%d\r\n$4\r\nMGET\r\n%b" % (len(keys) + 1, names), len(keys))

    async def put(self, key: bytes, value: Value) -> None:
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, len(value))
        answer = await self._ask([head, value, b"\r\n"], 1)
        assert answer == [b"+OK"], answer


class Memcached(_LineClient):
    """The text protocol: get with one or many keys, set. Keys in hexadecimal digits, since they must be text."""

    def _line(self, line: bytearray) -> int | None:
        if line.startswith(b"VALUE"):
            return int(line[line.rindex(b" ") + 1 :])
        if line != b"END":
            self._answer.append(bytes(line))
        self._done()
        return None

    def _part(self, value: Value) -> None:
        self._answer.append(value)  # END ends it

    async def get(self, key: bytes) -> Value | None:
        return (await self._ask(b"get %b\r\n" % key.hex().encode(), 0))[0]

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[Value]:
        return await self._ask(b"get %b\r\n" % b" ".join([key.hex().encode() for key in keys]), 0)

    async def put(self, key: bytes, value: Value) -> None:
        answer = await self._ask([b"set %b 0 0 %d\r\n" % (key.hex().encode(), len(value)), value, b"\r\n"], 0)
        assert answer == [b"STORED"], answer


_C = TypeVar("_C", bound=_LineClient)


async def connected(kind: type[_C], address: Address) -> _C:
    """A connection to the server at `address`."""
    _, client = await asyncio.get_running_loop().create_connection(kind, *address)
    return client
