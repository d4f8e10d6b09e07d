"""Who may ask at all: programs that name this machine, and pages that this very node served.

A browser sends its user's requests to a node on loopback for any web page. Two things give such a request away. With
DNS rebinding the page's own name leads to this machine, so the Host header names a stranger. Otherwise the Origin
header does, which a browser adds to every request across origins that could change something. Neither is answered, and
no CORS header ever invites one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from .http_problems import Problem

_LOCAL_NAME = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)


def guard(names: Iterable[str]) -> Middleware:
    """Middleware that refuses requests for a host other than this machine, and those from another site's pages.

    `names`: what this node is called beside the machine's own names; each is known with `.local` after it, too.
    """
    known = known_hosts(names)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1:
            raise Problem(400, f"{len(hosts)} Host headers: expected one")
        host = hosts[0].lower()
        if not is_known(host, known):
            raise Problem(403, f"Host {host[:80]!a} is not this node: ask by address, or by a name of this machine")
        for origin in request.headers.getall(hdrs.ORIGIN, []):
            if origin.lower() != f"{request.scheme}://{host}":
                raise Problem(403, "requests of other sites' pages are refused")
        return await handler(request)

    return check


def known_hosts(names: Iterable[str]) -> frozenset[str]:
    """Every name, in lower case, that this machine and a node called `names` go by."""
    machine = socket.gethostname()
    known = {"localhost", machine, machine.partition(".")[0], *names}
    return frozenset(form for name in known if name for form in (name.lower(), f"{name.lower()}.local"))


def is_known(host: str, known: frozenset[str]) -> bool:
    """Whether `host`, a Host header in lower case, may mean this machine.

    An address always does: it cannot be rebound. So may a name without a dot, which is the local network's to give: no
    page comes from a site of such a name.
    """
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not _is_port(port[1:] if port[0] == ":" else "")):
            return False
        return _is_address(name)
    name, colon, port = host.partition(":")
    if colon and not _is_port(port):
        return False
    return _is_address(name) or name.removesuffix(".") in known or (_LOCAL_NAME.fullmatch(name) is not None)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) < 65536


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
