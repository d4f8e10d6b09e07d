"""Too many requests at once: 503, and when to come back."""

from __future__ import annotations

import asyncio
from typing import Any

from .conftest import FakeNode, Serve
from .test_http_errors import PHOTO, URL, problem


async def test_who_comes_when_enough_are_being_answered_is_told_when_to_come_back(node: FakeNode, serve: Serve) -> None:
    client: Any = await serve(node, in_flight_max=1)
    node.encoder.gate.clear()
    encoding = asyncio.ensure_future(client.post("/v1/features", data=PHOTO))
    await asyncio.wait_for(node.encoder.called.wait(), 10)
    shed = await client.get(URL)
    assert "1 requests are being answered, at most 1" in await problem(shed, 503)
    assert shed.headers["Retry-After"] == "1"
    for path in ("/healthz", "/metrics", "/v1/stats"):
        assert (await client.get(path)).status == 200
    node.encoder.gate.set()
    assert (await encoding).status == 200
    assert (await client.get(URL)).status == 200
