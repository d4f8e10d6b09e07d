"""Who may ask a node that has a cluster key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode, Serve

    Client = Any  # aiohttp's TestClient

TOKEN = "a-token_of-43-characters"
PHOTO = b"\xff\xd8\xff a photograph"
PATHS = ["/v1/cluster", "/v1/stats", "/readyz", "/metrics", "/openapi.json", "/", "/v1/nothing", "/healthz/"]


@pytest.fixture
async def client(node: FakeNode, serve: Serve) -> Any:
    """An HTTP client of a node that has a key."""
    return await serve(node, tokens=[TOKEN])


@pytest.fixture
def from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request comes from another machine."""
    monkeypatch.setattr(web.BaseRequest, "remote", "10.0.0.7")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_programs_on_this_machine_need_no_token(
    address: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.BaseRequest, "remote", address)
    assert (await client.get("/v1/cluster")).status == 200
    assert (await client.post("/v1/features", data=PHOTO)).status == 200


@pytest.mark.usefixtures("from_elsewhere")
@pytest.mark.parametrize("path", PATHS)
async def test_others_are_asked_for_it_whatever_they_want(path: str, client: Client) -> None:
    answer = await client.get(path)
    problem = await answer.json()
    assert (answer.status, problem["status"]) == (401, 401)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="edgecache"'
    assert TOKEN not in str(problem)
    assert (await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})).status in (200, 404)


@pytest.mark.usefixtures("from_elsewhere")
async def test_whether_the_node_is_alive_may_be_asked_by_anybody(client: Client) -> None:
    assert (await client.get("/healthz")).status == 200


@pytest.mark.usefixtures("from_elsewhere")
@pytest.mark.parametrize(
    "given",
    ["", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer \xff", "é"],
)
async def test_a_wrong_token_is_none(given: str, client: Client, node: FakeNode) -> None:
    answer = await client.post("/v1/features", data=PHOTO, headers={"Authorization": given})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="edgecache", error="invalid_token"'
    assert "is not the token" in (await answer.json())["detail"]
    assert not node.encoder.images


@pytest.mark.usefixtures("from_elsewhere")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_every_call(scheme: str, client: Client) -> None:
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert (await client.post("/v1/features", data=PHOTO, headers=headers)).status == 200


@pytest.mark.usefixtures("from_elsewhere")
async def test_while_a_key_is_changed_either_token_opens(node: FakeNode, serve: Serve) -> None:
    client = await serve(node, tokens=["new-token", TOKEN])
    for token, status in ((TOKEN, 200), ("new-token", 200), ("new-token," + TOKEN, 401)):
        answer = await client.get("/v1/cluster", headers={"Authorization": f"Bearer {token}"})
        assert answer.status == status


@pytest.mark.usefixtures("from_elsewhere")
async def test_two_tokens_are_none(client: Client) -> None:
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")]
    assert (await client.get("/v1/cluster", headers=headers)).status == 401


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
async def test_a_proxy_on_this_machine_does_not_ask_for_this_machine(header: str, client: Client) -> None:
    headers = {header: "10.0.0.7"}
    assert (await client.get("/v1/cluster", headers=headers)).status == 401
    headers["Authorization"] = f"Bearer {TOKEN}"
    assert (await client.get("/v1/cluster", headers=headers)).status == 200


@pytest.mark.usefixtures("from_elsewhere")
async def test_without_a_key_nobody_is_asked_for_one(node: FakeNode, serve: Serve) -> None:
    assert (await (await serve(node)).get("/v1/cluster")).status == 200


@pytest.mark.usefixtures("from_elsewhere")
async def test_the_token_is_shown_nowhere(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with caplog.at_level(logging.DEBUG):
        for path in PATHS:
            assert TOKEN not in await (await client.get(path, headers=headers)).text()
    assert TOKEN not in caplog.text
