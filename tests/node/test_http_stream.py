"""Whose requests follow on each other, as HTTP tells it."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import FakeNode

PHOTO = b"\xff\xd8\xff a photograph"


async def test_a_stream_is_what_the_query_names_or_who_asks(client: Any, node: FakeNode) -> None:
    heard: list[str] = []
    node.lookup.on_asked = lambda stream, key: heard.append(stream)
    await client.post("/v1/features?stream=gate-2", data=PHOTO)
    await client.post("/v1/features", data=PHOTO)
    await client.get(f"/v1/features/{'0' * 64}?stream=gate-2")
    assert heard == ["gate-2", "127.0.0.1", "gate-2"]


@pytest.mark.parametrize("text", ["", "x" * 65, "a%0Ab"])
async def test_a_stream_has_a_short_name(client: Any, text: str) -> None:
    answer = await client.get(f"/v1/features/{'0' * 64}?stream={text}")
    assert answer.status == 400
    assert "stream" in (await answer.json())["detail"]
