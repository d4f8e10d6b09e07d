"""A client of a node's HTTP face that does as little as a correct one can: one request at a time on each connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from urllib.parse import urlencode

import numpy as np
from edgecache.node.http_answers import BatchForm, Form
from edgecache.node.http_tensors import safetensors_entries

from .caches import Value
from .features import ENCODER
from .servers import Address

_QUERY = urlencode({"encoder": ENCODER.name, "version": ENCODER.version})
_HEAD_BYTES_MAX = 64 * 1024


class Http(asyncio.BufferedProtocol):
    """Gets features in one form, `application/vnd.edgecache.payload` or npy."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._transport: asyncio.Transport
        self._received = bytearray(_HEAD_BYTES_MAX)
        self._view = memoryview(self._received)
        self._end = 0
        self._body: memoryview | None = None
        self._filled = 0
        self._answer: asyncio.Future[memoryview] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError())

    def close(self) -> None:
        self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :] if self._body is None else self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._body is None:
            self._end += nbytes
            head_bytes = self._received.find(b"\r\n\r\n", 0, self._end)
            if head_bytes < 0:
                return
            head = self._received[:head_bytes].lower()
            assert head.startswith((b"http/1.1 200", b"http/1.1 201")), bytes(head)
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            self._body = np.empty(size, np.uint8).data
            self._filled = self._end - head_bytes - 4
            self._body[: self._filled] = self._view[head_bytes + 4 : self._end]
        else:
            self._filled += nbytes
        if self._filled == len(self._body):
            body, self._body, self._end = self._body, None, 0
            assert self._answer is not None
            self._answer.set_result(body)

    def _ask(self, line: str, accept: str, body: Value = b"", kind: str = "application/json") -> asyncio.Future[Value]:
        head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
        if body:
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines([f"{head}\r\n".encode(), body])
        return self._answer  # type: ignore[return-value]

    async def get(self, key: bytes) -> Value | None:
        return await self._ask(f"GET /v1/features/{key[:32].hex()}?{_QUERY}", self._form)

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[Value]:
        digests = [key[:32].hex() for key in keys]
        asked = json.dumps({"digests": digests}).encode()
        answer = await self._ask(f"POST /v1/features:batchGet?{_QUERY}", BatchForm.PAYLOADS, asked)
        _, entries = safetensors_entries(answer)  # type: ignore[arg-type]
        return [entries[digest] for digest in digests]

    async def put(self, key: bytes, value: Value) -> None:
        await self._ask(f"PUT /v1/features/{key[:32].hex()}?{_QUERY}", "*/*", value, Form.PAYLOAD)


async def connected(form: Form, address: Address) -> Http:
    """A connection to the HTTP face at `address`."""
    _, client = await asyncio.get_running_loop().create_connection(lambda: Http(form), *address)
    return client
