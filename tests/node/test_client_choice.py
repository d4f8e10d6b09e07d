"""Whom the Python client asks: which node first, which next, and with what in hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from edgecache import Client, NoNodeAnswers, Refused
from edgecache.node import client_nodes
from edgecache.node.client_urls import urls_of
from edgecache.node.cluster_key import new_key, read_keys, rotate
from edgecache.protocol.errors import EncoderUnavailable, InvalidValue
from edgecache.protocol.features import Source
from edgecache.protocol.keys import EncoderIdentity

if TYPE_CHECKING:
    from tests.node.conftest import Connect, FakeNode, Serve

from .test_client import ARRAY, DIGEST, MINE, NOWHERE, PHOTO, nobody

# -- whom it asks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [NOWHERE, None])
async def test_a_dead_cluster_is_one_clear_error(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_nodes, "DEFAULT_URL", NOWHERE)
    monkeypatch.setattr("edgecache.node.discovery.find_nodes", nobody)
    async with Client(url) as cache:
        for call in (cache.encode(PHOTO), cache.get(DIGEST), cache.get_many([DIGEST]), cache.cluster()):
            with pytest.raises(NoNodeAnswers, match=NOWHERE):
                await call


async def test_without_a_url_it_takes_the_node_on_this_machine(
    serve: Serve, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_nodes, "DEFAULT_URL", str((await serve(node)).make_url("/")).rstrip("/"))
    async with Client() as cache:
        assert (await cache.encode(PHOTO)).node == "camera-1"


async def test_else_it_takes_one_that_mdns_brings(
    serve: Serve, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str((await serve(node)).make_url("/")).rstrip("/")

    async def found(timeout_s: float) -> list[tuple[str, str]]:
        return [("camera-1", url)]

    monkeypatch.setattr(client_nodes, "DEFAULT_URL", NOWHERE)
    monkeypatch.setattr("edgecache.node.discovery.find_nodes", found)
    async with Client() as cache:
        assert (await cache.encode(PHOTO)).node == "camera-1"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    new_key(path)
    return path


async def test_with_the_cluster_key_it_is_let_in_from_another_machine(
    serve: Serve, node: FakeNode, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.BaseRequest, "remote", "10.0.0.7")
    token = read_keys(key_file)[0].token
    url = str((await serve(node, tokens=[token])).make_url("/"))
    for cache in (Client(url, cluster_key=key_file), Client(url, cluster_key=str(key_file)), Client(url, token=token)):
        async with cache:
            assert (await cache.encode(PHOTO)).node == "camera-1"
    for cache in (Client(url), Client(url, token=token[:-1])):
        async with cache:
            for call in (cache.encode(PHOTO), cache.get(DIGEST), cache.has(DIGEST), cache.forget(DIGEST)):
                with pytest.raises(Refused, match="token") as refused:
                    await call
                assert refused.value.status == 401


async def test_with_a_file_of_two_keys_it_is_let_in_by_a_node_that_has_either(
    serve: Serve, node: FakeNode, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.BaseRequest, "remote", "10.0.0.7")
    rotate(key_file)
    for key in read_keys(key_file):
        url = str((await serve(node, tokens=[key.token])).make_url("/"))
        async with Client(url, cluster_key=key_file) as cache:
            assert (await cache.encode(PHOTO)).node == "camera-1"
            assert await cache.has(DIGEST) is not None
    async with Client(str((await serve(node, tokens=["another"])).make_url("/")), cluster_key=key_file) as cache:
        with pytest.raises(Refused, match="token"):
            await cache.get(DIGEST)


async def test_the_token_goes_to_the_node_that_was_named_and_not_to_whom_mdns_brings_or_it_redirects_to(
    serve: Serve, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int | None, str | None]] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        asked.append((request.url.port, request.headers.get("Authorization")))
        raise web.HTTPTemporaryRedirect(thief_url)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", redirect)
    async with TestServer(application) as named, TestServer(application) as thief:
        thief_url = str(thief.make_url("/v1/cluster"))

        async def found(timeout_s: float) -> list[tuple[str, str]]:
            return [("thief", str(thief.make_url("/")))]

        monkeypatch.setattr("edgecache.node.discovery.find_nodes", found)
        monkeypatch.setattr(client_nodes, "DEFAULT_URL", NOWHERE)
        async with Client(token="secret") as cache:
            with pytest.raises(NoNodeAnswers):
                await cache.cluster()
        async with Client(str(named.make_url("/")), token="secret") as cache:
            with pytest.raises(NoNodeAnswers, match="is no node"):
                await cache.cluster()
        assert asked == [(named.port, "Bearer secret")]


@pytest.mark.parametrize("token", ["", "two words", "line\r\nX-Header: 1", "é"])
def test_what_is_no_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Client(token=token)
    assert not token or token not in str(refused.value)


def test_a_key_and_a_token_are_one_too_many(key_file: Path) -> None:
    with pytest.raises(InvalidValue, match="which of them"):
        Client(cluster_key=key_file, token="secret")


async def test_when_its_node_dies_it_goes_on_with_another(
    connect: Connect, node: FakeNode, bare_node: FakeNode, serve: Serve
) -> None:
    bare_node.name = "kitchen"
    first = await serve(node)
    bare_node.versions.learn(EncoderIdentity.declared("mine", "1"))
    second = await serve(bare_node)
    bare_node.http = str(second.make_url("/"))
    node.other_members = [bare_node.cluster()["node"]]
    async with Client(str(first.make_url("/"))) as cache:
        await cache.put(DIGEST, ARRAY, **MINE)
        await first.close()
        assert (await cache.cluster())["node"]["name"] == "kitchen"
        assert await cache.put(DIGEST, ARRAY, **MINE) == 1
        assert await cache.has(DIGEST, **MINE)


async def test_a_node_that_cannot_encode_is_passed_over(connect: Connect, node: FakeNode, bare_node: FakeNode) -> None:
    cache = await connect(bare_node, node)
    await cache.cluster()
    bare_node.versions.learn(node.versions.resolve(None, None))
    assert (await cache.encode(PHOTO)).source is Source.ENCODER
    node.encoder.error = EncoderUnavailable("its worker died")
    with pytest.raises(Refused) as refused:
        await cache.encode(PHOTO + b"2")
    assert refused.value.status == 503


async def test_nobody_waits_twice_for_a_node_that_hangs(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_nodes, "LOOK_AFTER_S", 0.05)
    monkeypatch.setattr(client_nodes, "CONNECT_TIMEOUT_S", 0.05)
    accepted = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as cache:
        with pytest.raises(NoNodeAnswers, match=r"did not answer within 0\.[1-9] s"):
            await cache.get(DIGEST)
        with pytest.raises(NoNodeAnswers, match="hung a moment ago"):
            await cache.get(DIGEST)
    assert accepted == 2  # the question, and whether it is alive


async def test_why_no_node_answers_is_said_in_words() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"t\0\0\0\1 a peer's greeting")
        writer.close()

    async def why(url: str, timeout_s: float = 5.0) -> str:
        async with Client(url, timeout_s=timeout_s) as cache:
            with pytest.raises(NoNodeAnswers) as caught:
                await cache.get(DIGEST)
        return str(caught.value)

    assert await why("http://127.0.0.1:1") == "http://127.0.0.1:1: Connection refused"
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await why(url) == f"{url}: what answers there does not speak HTTP; is it a node's peer port?"
    assert await why("http://127.0.0.1:1", timeout_s=1e-9) == "no answer within 1e-09 s"


async def test_the_last_node_may_take_all_the_time_there_is_to_encode(
    connect: Connect, node: FakeNode, bare_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, float]] = []
    send = client_nodes.Nodes._send

    async def noted(self: Any, method: str, url: Any, headers: Any, body: Any, timeout_s: float, *others: Any) -> Any:
        given.append((method, timeout_s))
        return await send(self, method, url, headers, body, timeout_s, *others)

    monkeypatch.setattr(client_nodes.Nodes, "_send", noted)
    cache = await connect(bare_node, node, timeout_s=40.0)
    await cache.cluster()
    await cache.encode(PHOTO)
    first, last = (timeout_s for method, timeout_s in given if method == "POST")
    assert first == 20.0  # another could encode it, too, in the other half
    assert 20.0 < last <= 40.0


def test_only_urls_of_living_nodes_that_lead_somewhere_are_learnt() -> None:
    members = [
        {"http": "http://192.168.1.2:7440", "state": "alive"},
        {"http": "192.168.1.3:7440", "state": "suspect"},
        {"http": "http://192.168.1.4:7440", "state": "dead"},
        {"http": "http://127.0.0.1:7440", "state": "alive"},
        {"http": "file:///etc/passwd", "state": "alive"},
        {"http": "http://192.168.1.5:7440/path?query", "state": "alive"},
        {"http": "", "state": "alive"},
        {"state": "alive"},
    ]
    learnt = urls_of({"members": members}, "http://192.168.1.2:7440")
    assert learnt == ["http://192.168.1.2:7440", "http://192.168.1.3:7440"]
    over_tls = [{"http": "https://192.168.1.6:443", "state": "alive"}, *members]
    assert urls_of({"members": over_tls}, "https://192.168.1.2") == ["https://192.168.1.6"]
    assert urls_of({"members": [{"http": 7}]}, "http://192.168.1.2:7440") == []
    assert urls_of([], "http://192.168.1.2:7440") == []
