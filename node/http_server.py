"""The connections of the HTTP face: no more than there is room for, and none that is held without asking anything."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .http_problems import Problem, sign

# Half of what this process may open stays for peers, disk and the encoder; 10,000 idle connections would cost 50 MB.
CONNECTIONS_MAX = 1024
# Who has not sent the head of a request by then holds the connection for nothing.
FIRST_REQUEST_TIMEOUT_S = 10.0
KEEPALIVE_TIMEOUT_S = 30.0
# A node that leaves gives its open requests this long to end.
SHUTDOWN_TIMEOUT_S = 5.0
# Of what the parser says to a request that is none: it quotes what was sent.
TOLD_CHARS_MAX = 200

_log = logging.getLogger(__name__)


def http_runner(app: web.Application, connections_max: int | None = None) -> web.AppRunner:
    """A runner for `app`, to set up and give sites. It keeps no access log: the paths there hold whole digests.

    Without `connections_max`, CONNECTIONS_MAX or half of the descriptors that this process may open.
    """
    if connections_max is None:
        descriptors_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        connections_max = min(CONNECTIONS_MAX, descriptors_max // 2)
    return _Runner(app, connections_max)


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, connections_max: int) -> None:
        super().__init__(
            app,
            access_log=None,
            logger=_log,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        self._connections_max = connections_max

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self._connections_max, **self._kwargs)


class _Server(web.Server):
    """aiohttp's server as `made` for the application, that counts and times its connections."""

    def __init__(self, made: web.Server, connections_max: int, **kwargs: Any) -> None:
        super().__init__(self._answer, request_factory=made.request_factory, **kwargs)
        self._handle = made.request_handler
        self._connections_max = connections_max
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        if len(self._connections) > self._connections_max:
            transport.write(_full(self._connections_max))
            # Not at once: what answers it begins after this, and takes a connection that is gone for an error of ours.
            loop.call_soon(transport.close)
            return
        self._silent[handler] = loop.call_later(FIRST_REQUEST_TIMEOUT_S, handler.force_close)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._heard(handler)
        super().connection_lost(handler, exc)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._heard(request.protocol)
        return await self._handle(request)

    def _heard(self, handler: web.RequestHandler) -> None:
        if (timer := self._silent.pop(handler, None)) is not None:
            timer.cancel()


def _full(connections_max: int) -> bytes:
    """What one connection too many is told, without a request of its own."""
    body = Problem(503, f"more than {connections_max} connections").response().body
    assert isinstance(body, bytes)
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


class _Connection(web.RequestHandler):
    """aiohttp's, that tells who sends what is no HTTP so in the form of every other problem."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # which logs it, and raises when an answer has begun
        told = " ".join((message or "").replace("^", "").split())
        problem = Problem(status, f"no HTTP request: {told[:TOLD_CHARS_MAX]}" if told else "an error of this node")
        response = problem.response()
        sign(response)
        response.force_close()
        return response


def _is_ours(record: logging.LogRecord) -> bool:
    """False for the tracebacks that aiohttp logs when somebody sends what is no HTTP, or goes away halfway."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


_log.addFilter(_is_ours)
