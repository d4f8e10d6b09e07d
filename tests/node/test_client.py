"""The Python client against real HTTP: what it returns, whom it asks next, and what it never believes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from edgecache import Client, NoNodeAnswers, Refused
from edgecache.node import client_nodes
from edgecache.node.cluster_key import new_key, read_keys, rotate
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import EncoderUnavailable, InvalidValue
from edgecache.protocol.features import Source
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of, format_digest

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode, Serve

    Connect = Callable[..., Awaitable[Client]]

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = digest_of(PHOTO)
ARRAY = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
MINE: Any = {"encoder": "mine", "version": "1"}
NOWHERE = "http://127.0.0.1:1"  # a port that is given to nothing


def mine(image: Any) -> Any:
    return ARRAY


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """`await connect(*nodes, **options)`: a client of the first, whose members are the others."""
    clients: list[Client] = []

    async def start(*nodes: FakeNode, **options: Any) -> Client:
        urls = [str((await serve(node)).make_url("/")).rstrip("/") for node in nodes]
        for node, url in zip(nodes, urls, strict=True):
            node.http = url
        nodes[0].other_members = [node.cluster()["node"] for node in nodes[1:]]
        clients.append(Client(urls[0], **options))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()


# -- what it returns --------------------------------------------------------------------------------------------


async def test_an_image_is_encoded_once_and_then_got_by_its_digest(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node)
    made = await cache.encode(PHOTO)
    assert (made.source, made.node, made.codec) == (Source.ENCODER, "camera-1", "int8")
    assert (made.array.dtype.name, made.array.shape, made.array.flags.writeable) == ("float32", (4, 8), False)
    assert made.key == FeatureKey(DIGEST, node.versions.resolve(None, None))
    for digest in (DIGEST, DIGEST.hex(), format_digest(DIGEST)):
        got = await cache.get(digest)
        assert got is not None
        assert got.source is Source.MEMORY
        assert np.array_equal(got.array, made.array)
    assert node.encoder.images == [PHOTO]


async def test_a_large_image_is_not_sent_when_somebody_has_its_features(node: FakeNode, serve: Serve) -> None:
    image = PHOTO + bytes(2_000_000)
    async with Client(str((await serve(node)).make_url("/"))) as cache:
        assert (await cache.encode(image)).source is Source.ENCODER
    async with Client(str((await serve(node, body_bytes_max=10)).make_url("/"))) as cache:
        assert (await cache.encode(image)).source is Source.MEMORY
        with pytest.raises(Refused, match="at most 10"):
            await cache.encode(image + b"2")


async def test_a_miss_is_none(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node)
    assert await cache.get(DIGEST) is None
    assert await cache.get(DIGEST, **MINE) is None
    assert await cache.get_many([DIGEST.hex()]) == {}
    assert not await cache.has(DIGEST)
    assert not await cache.forget(DIGEST)


async def test_features_made_elsewhere_are_put_and_forgotten(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node)
    assert await cache.put(DIGEST.hex(), ARRAY, **MINE) == 1
    got = await cache.get(DIGEST, **MINE)
    assert got is not None
    assert str(got.key.encoder) == "mine@1"
    np.testing.assert_allclose(got.array, ARRAY, atol=0.01)
    assert await cache.has(DIGEST, **MINE)
    assert await cache.forget(DIGEST)
    assert not await cache.has(DIGEST, **MINE)


async def test_one_vector_is_one_token(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node)
    await cache.put(DIGEST, [1.0, -1.0, 1.0], **MINE)
    got = await cache.get(DIGEST, **MINE)
    assert got is not None
    assert got.array.tolist() == [[1.0, -1.0, 1.0]]


async def test_many_come_by_the_digests_as_they_were_given(
    connect: Connect, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecache.node.client.BATCH_DIGESTS_MAX", 2)
    cache = await connect(node)
    images = [PHOTO + bytes([number]) for number in range(5)]
    made = {format_digest(digest_of(image)): await cache.encode(image) for image in images}
    asked = [*made, "00" * 32, digest_of(images[0]).hex()]
    many = await cache.get_many(asked)
    assert list(many) == [*made, digest_of(images[0]).hex()]
    assert all(np.array_equal(many[digest].array, made[digest].array) for digest in made)
    assert {(features.source, features.node) for features in many.values()} == {(Source.MEMORY, "camera-1")}
    assert list(await cache.get_many([digest_of(images[1])])) == [digest_of(images[1])]


async def test_a_batch_too_large_for_one_answer_comes_in_halves(
    connect: Connect, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await connect(node)
    images = [PHOTO + bytes([number]) for number in range(5)]
    sizes = [node.store.used_bytes for image in images if await cache.encode(image)]
    monkeypatch.setattr("edgecache.node.http_answers.BATCH_BYTES_MAX", 2 * sizes[0])
    assert len(await cache.get_many([digest_of(image) for image in images])) == 5


async def test_min_fidelity_is_asked_for(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node)
    assert (await cache.encode(PHOTO)).fidelity < 1
    assert await cache.get(DIGEST, min_fidelity=1.0) is None
    assert (await cache.encode(PHOTO, min_fidelity=1.0)).fidelity == 1.0


async def test_an_invalidation_leaves_older_features_behind(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node)
    await cache.put(DIGEST, ARRAY, **MINE)
    assert await cache.invalidate("mine", "2") == 1
    with pytest.raises(Refused, match="2 is current") as refused:
        await cache.get(DIGEST, **MINE)
    assert refused.value.status == 409


async def test_the_cluster_and_the_counters(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node)
    assert (await cache.cluster())["node"]["name"] == "camera-1"
    assert (await cache.stats())["requests"] == 0


# -- its own encoder --------------------------------------------------------------------------------------------


async def test_what_nobody_has_is_encoded_here_and_put_back(connect: Connect, node: FakeNode) -> None:
    seen: list[Any] = []

    def encode(image: Any) -> Any:
        seen.append(image)
        return ARRAY

    cache = await connect(node, encode=encode, **MINE)
    made = await cache.encode(PHOTO)
    assert (made.source, made.fidelity, str(made.key.encoder)) == (Source.ENCODER, 1.0, "mine@1")
    assert np.array_equal(made.array, ARRAY)
    assert not made.array.flags.writeable
    again = await cache.encode(PHOTO)
    assert again.source is Source.MEMORY
    assert seen == [PHOTO]
    assert node.encoder.images == []


async def test_the_encoder_may_be_a_coroutine_function_given_to_the_call(connect: Connect, node: FakeNode) -> None:
    async def encode(image: Any) -> Any:
        return ARRAY[0]

    cache = await connect(node)
    made = await cache.encode(PHOTO, encode=encode, **MINE)
    assert made.array.shape == (1, 8)
    assert await cache.has(DIGEST, **MINE)


async def test_without_names_what_is_encoded_here_stays_here(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node, encode=mine)
    assert (await cache.encode(PHOTO)).source is Source.ENCODER
    assert len(node.store.memory) == 0


@pytest.mark.parametrize("url", [NOWHERE, None])
async def test_with_an_encoder_of_its_own_a_dead_cluster_raises_nothing(
    url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_nodes, "DEFAULT_URL", NOWHERE)
    monkeypatch.setattr("edgecache.node.discovery.find_nodes", nobody)
    async with Client(url, encode=mine, **MINE) as cache:
        made = await cache.encode(PHOTO)
        assert np.array_equal(made.array, ARRAY)
        assert await cache.get(DIGEST) is None
        assert await cache.get_many([DIGEST]) == {}
        assert await cache.put(DIGEST, ARRAY) == 0
        assert not await cache.has(DIGEST)


async def test_a_version_left_behind_is_encoded_here_all_the_same(connect: Connect, node: FakeNode) -> None:
    cache = await connect(node, encode=mine, **MINE)
    await cache.invalidate("mine", "2")
    assert np.array_equal((await cache.encode(PHOTO)).array, ARRAY)


async def test_what_the_encoder_raises_is_the_callers(connect: Connect, node: FakeNode) -> None:
    def encode(image: Any) -> Any:
        raise ZeroDivisionError

    cache = await connect(node, encode=encode)
    with pytest.raises(ZeroDivisionError):
        await cache.encode(PHOTO)


# -- whom it asks -----------------------------------------------------------------------------------------------


async def nobody(timeout_s: float) -> list[tuple[str, str]]:
    return []


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
    monkeypatch.setattr(client_nodes, "QUESTION_TIMEOUT_S", 0.05)
    accepted = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as cache:
        with pytest.raises(NoNodeAnswers, match=r"did not answer within 0\.1 s|did not answer within 0\.0 s"):
            await cache.get(DIGEST)
        with pytest.raises(NoNodeAnswers, match="hung a moment ago"):
            await cache.get(DIGEST)
    assert accepted == 1


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

    async def noted(self: Any, method: str, url: Any, headers: Any, body: Any, timeout_s: float, most: int) -> Any:
        given.append((method, timeout_s))
        return await send(self, method, url, headers, body, timeout_s, most)

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
    learnt = client_nodes._urls_of({"members": members}, "http://192.168.1.2:7440")
    assert learnt == ["http://192.168.1.2:7440", "http://192.168.1.3:7440"]
    over_tls = [{"http": "https://192.168.1.6:443", "state": "alive"}, *members]
    assert client_nodes._urls_of({"members": over_tls}, "https://192.168.1.2") == ["https://192.168.1.6"]
    assert client_nodes._urls_of({"members": [{"http": 7}]}, "http://192.168.1.2:7440") == []
    assert client_nodes._urls_of([], "http://192.168.1.2:7440") == []


# -- what it never believes -------------------------------------------------------------------------------------


def stored(digest: bytes = DIGEST, encoder: EncoderIdentity | None = None) -> bytearray:
    key = FeatureKey(digest, encoder or EncoderIdentity.declared("mine", "1"))
    return bytearray(payloads.encode(ARRAY, key).data)


def flipped(data: bytearray) -> bytearray:
    data[-1] ^= 1
    return data


@pytest.mark.parametrize(
    "body",
    [
        stored(bytes(32)),
        stored(encoder=EncoderIdentity.declared("yours", "1")),
        flipped(stored()),
        stored()[:60],
        b"",
        b"{}",
    ],
    ids=["another image", "another encoder", "flipped bit", "cut", "empty", "json"],
)
async def test_a_wrong_answer_is_no_answer(body: bytes) -> None:
    async def lie(request: web.Request) -> web.Response:
        return web.Response(body=bytes(body), headers={"EdgeCache-Source": "memory", "EdgeCache-Node": "liar"})

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", lie)
    async with TestServer(app) as server, Client(str(server.make_url("/"))) as cache:
        for call in (cache.get(DIGEST, **MINE), cache.encode(PHOTO, **MINE), cache.get_many([DIGEST], **MINE)):
            with pytest.raises(NoNodeAnswers):
                await call
        made = await cache.encode(PHOTO, encode=mine, **MINE)
        assert np.array_equal(made.array, ARRAY)


async def test_an_endless_answer_is_cut_off() -> None:
    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 20))

    app = web.Application()
    app.router.add_get("/v1/cluster", pour)
    async with TestServer(app) as server, Client(str(server.make_url("/"))) as cache:
        with pytest.raises(NoNodeAnswers, match="more than"):
            await cache.cluster()


# -- what it is given -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["", "nonsense", "file:///etc/passwd", "http://", "http://host/path", "http://host:99999"]
)
def test_a_url_that_leads_to_no_node_is_refused(url: str) -> None:
    with pytest.raises(InvalidValue, match="http://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("digest", ["abc", b"abc", "../../etc/passwd", 7])
async def test_a_malformed_digest_is_refused_before_anything_is_sent(digest: Any) -> None:
    async with Client(NOWHERE) as cache:
        with pytest.raises(InvalidValue, match="64 hexadecimal digits"):
            await cache.get(digest)


async def test_a_name_that_cannot_be_one_is_refused(connect: Connect) -> None:
    with pytest.raises(InvalidValue, match="encoder name"):
        Client(NOWHERE, encoder="a\r\nb")
    async with Client(NOWHERE) as cache:
        with pytest.raises(InvalidValue, match="min_fidelity 2"):
            await cache.get(DIGEST, min_fidelity=2)


@pytest.mark.parametrize("array", ["text", [[1.0], [1.0, 2.0]], np.ones((1, 2, 3)), None])
async def test_what_is_no_tensor_is_refused(connect: Connect, node: FakeNode, array: Any) -> None:
    cache = await connect(node)
    with pytest.raises((InvalidValue, Refused)):
        await cache.put(DIGEST, array, **MINE)


async def test_a_missing_file_is_the_callers_error(tmp_path: Path) -> None:
    async with Client(NOWHERE) as cache:
        with pytest.raises(FileNotFoundError):
            await cache.encode(tmp_path / "missing.jpg")


def test_importing_edgecache_stays_light() -> None:
    import subprocess
    import sys

    loaded = "import sys, edgecache; print([name for name in ('numpy', 'aiohttp') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"
