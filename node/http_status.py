"""The calls about the node itself: is it alive, what has it counted, who else is there; and the pages that show it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from .http_problems import Problem
from .openapi import document

if TYPE_CHECKING:
    from .face import NodeFace
    from .metrics import Metrics

# How the state of a part begins that does not do its work.
DEGRADED = "degraded"

_DASHBOARD = Path(__file__).with_name("dashboard.html").read_text(encoding="utf-8")


class StatusApi:
    """Handlers of everything that is not about features, on one node."""

    def __init__(self, node: NodeFace, metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics
        self._openapi = document()

    def routes(self) -> list[web.RouteDef]:
        """Where each handler is found."""
        return [
            web.get("/v1/cluster", self.cluster),
            web.get("/v1/stats", self.stats),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self._metrics.page),
            web.get("/openapi.json", self.openapi),
            web.get("/", self.dashboard),
        ]

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/cluster: this node, the members, the ring."""
        return _fresh(self._node.cluster())

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/stats: what this node has counted since it started."""
        return _fresh(self._node.counters())

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """GET /healthz: 200 for as long as the event loop turns."""
        return _fresh({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """GET /readyz: 200 when requests should be sent here, else 503; and how each part is.

        `degraded` is a node that serves, but not as well as it should: its disk or its cloud is out of order.
        """
        is_serving, parts = self._node.is_serving()
        if not is_serving:
            raise Problem(503, "not serving", headers={"Retry-After": "1"}, more={"parts": dict(parts)})
        is_degraded = any(state.startswith(DEGRADED) for state in parts.values())
        return _fresh({"status": DEGRADED if is_degraded else "serving", "parts": dict(parts)})

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        """GET /openapi.json: all of this for programs."""
        return web.json_response(self._openapi)

    async def dashboard(self, request: web.Request) -> web.StreamResponse:
        """GET /: the dashboard, one page that loads nothing but /v1/cluster and /v1/stats."""
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", hdrs.CACHE_CONTROL: "no-cache"}
        return web.Response(text=_DASHBOARD, content_type="text/html", headers=headers)


def _fresh(body: object) -> web.Response:
    return web.json_response(body, headers={hdrs.CACHE_CONTROL: "no-store"})


def _content_policy(page: str) -> str:
    """What the page may do: run its own script and style, known by their digests, and ask this node. Nothing else."""

    def digests(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts
        )

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_POLICY = _content_policy(_DASHBOARD)
