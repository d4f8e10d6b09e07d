"""Who may ask where there is a cluster key: programs on this machine, and those elsewhere that show its token."""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from .http_problems import Problem

_OPEN_PATH = "/healthz"  # says nothing but that the node is alive
# A proxy on this machine asks from loopback, whomever it asks for. Those that say so are asked for the token.
_PROXY_HEADERS = (hdrs.FORWARDED, hdrs.X_FORWARDED_FOR, hdrs.VIA, "X-Real-IP")


def token_guard(tokens: Sequence[str]) -> Middleware:
    """Middleware that answers 401 to a request from another machine without `Authorization: Bearer` and a token."""
    expected = [token.encode() for token in tokens]

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != _OPEN_PATH and not _is_local(request) and not _has_token(request, expected):
            raise _refusal(is_wrong=hdrs.AUTHORIZATION in request.headers)
        return await handler(request)

    return check


def _refusal(is_wrong: bool) -> Problem:
    """Why, also for who reads no body (RFC 6750, 3)."""
    if is_wrong:
        why, code = (
            "what came with Authorization is not the token of this node's cluster key",
            ', error="invalid_token"',
        )
    else:
        why = "this node has a cluster key: a request from another machine needs Authorization: Bearer and its token"
        code = ""
    told = f"{why}, as edgecache key token FILE prints it"
    return Problem(401, told, headers={hdrs.WWW_AUTHENTICATE: f'Bearer realm="edgecache"{code}'})


def _is_local(request: web.Request) -> bool:
    if any(name in request.headers for name in _PROXY_HEADERS):
        return False
    try:
        address = ip_address(request.remote or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _has_token(request: web.Request, expected: Sequence[bytes]) -> bool:
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(given) != 1:
        return False
    scheme, _, token = given[0].partition(" ")
    shown = token.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and any(compare_digest(shown, token) for token in expected)
