"""No more requests at once than this node can answer soon: the others are told to come back.

A node that takes on everything answers nobody in time. What waits for the encoder has its own bound there
(`encoder/worker.py`), as have bodies (`http_bodies.py`); this one is for all that asks for features.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from .http_problems import Problem

# A hit takes 0.4 ms of this process: behind so many others it is there within a fifth of a second.
IN_FLIGHT_MAX = 512
RETRY_AFTER_S = 1
# Looking after a node must go on when it has too much to do.
_ALWAYS = ("/healthz", "/readyz", "/metrics", "/v1/stats", "/v1/cluster")


def shedding(in_flight_max: int = IN_FLIGHT_MAX) -> Middleware:
    """Middleware that answers 503 with Retry-After while `in_flight_max` requests are being answered."""
    in_flight = 0

    @web.middleware
    async def shed(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal in_flight
        if request.path in _ALWAYS:
            return await handler(request)
        if in_flight >= in_flight_max:
            detail = f"{in_flight} requests are being answered, at most {in_flight_max}"
            raise Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_S)})
        in_flight += 1
        try:
            return await handler(request)
        finally:
            in_flight -= 1

    return shed
