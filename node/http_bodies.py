"""How a request's body comes in: within its limit and in time, however it is sent, and not too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from aiohttp import hdrs, web

from .http_problems import Problem

# A 4K photograph as PNG has 10-25 MB.
BODY_BYTES_MAX = 32 * 1024 * 1024
# 1,024 digests of 71 characters take 76 kB.
JSON_BYTES_MAX = 256 * 1024
# What all bodies together may hold. Who comes later waits for room, with its bytes still on the sender's side.
BODIES_BYTES_MAX = 8 * BODY_BYTES_MAX
ROOM_TIMEOUT_S = 5.0
# 32 MiB in this time are 4.5 Mbit/s; one byte a second ends here too.
BODY_TIMEOUT_S = 60.0

# Nothing said (curl --data-binary says the form's type, urllib too): the bytes themselves will tell.
UNSPECIFIC_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})

_JSON_TYPES = UNSPECIFIC_TYPES | {"application/json"}
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Bodies:
    """Reads bodies of up to `bytes_max` bytes; all that are held at one time have at most `together_max`."""

    def __init__(self, bytes_max: int = BODY_BYTES_MAX, together_max: int = BODIES_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._room = self._room_max = max(together_max, bytes_max)
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body of `request`, whose room is taken until the block ends.

        Problem 413 before anything is read where Content-Length says enough, 429 when there is no room in time, 408
        when the body takes too long, and 415 for a compressed one.
        """
        check_length(request, self.bytes_max)
        length = self.bytes_max if request.content_length is None else request.content_length
        await self._take(length)
        try:
            yield await _read(request, self.bytes_max)
        finally:
            async with self._freed:
                self._room += length
                self._freed.notify_all()

    async def _take(self, length: int) -> None:
        try:
            async with asyncio.timeout(ROOM_TIMEOUT_S), self._freed:
                await self._freed.wait_for(lambda: self._room >= length)
                self._room -= length
        except TimeoutError:
            held = self._room_max - self._room
            detail = f"no room for a body of {length} bytes beside the {held} that are held, at most {self._room_max}"
            raise Problem(429, detail, headers={"Retry-After": "1"}) from None


async def read_json(request: web.Request, shape: type[_Struct]) -> _Struct:
    """The JSON body of `request` as a `shape`; Problem 400 says what does not fit it, 415 and 413 as for any body."""
    if content_type(request) not in _JSON_TYPES:
        raise Problem(415, f"Content-Type {content_type(request)!a}: expected application/json")
    check_length(request, JSON_BYTES_MAX)
    body = await _read(request, JSON_BYTES_MAX)
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"body: {error}") from None


def content_type(request: web.Request) -> str:
    """The media type that the body is said to be, in lower case without its parameters; empty when nothing is said."""
    return request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()


def check_length(request: web.Request, bytes_max: int) -> None:
    """Raise Problem 413 when the body is said to have more than `bytes_max` bytes, 415 when it is compressed."""
    if request.content_length is not None and request.content_length > bytes_max:
        raise Problem(413, f"body of {request.content_length} bytes, at most {bytes_max}")
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if coding != "identity":  # the digest is of the bytes as they are sent
        raise Problem(415, f"Content-Encoding {coding!a}: send the bytes as they are")


def expecting(bytes_max: int) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """What answers `Expect: 100-continue`, which curl sends before a large body: go on, or do not even start."""

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            return Problem(417, "Expect: only 100-continue is understood").response()
        try:
            check_length(request, bytes_max)
        except Problem as problem:
            return problem.response()
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # aiohttp: that was not yet the answer
        return None

    return answer


async def _read(request: web.Request, bytes_max: int) -> bytes:
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S) as timeout:
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > bytes_max:
                    raise Problem(413, f"body of more than {bytes_max} bytes")
                chunks.append(chunk)
    except TimeoutError:
        if not timeout.expired():
            raise
        raise Problem(
            408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s", headers={"Connection": "close"}
        ) from None
    return b"".join(chunks)
