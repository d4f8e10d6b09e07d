"""The Python client against real HTTP: what it returns, whom it asks next, and what it never believes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from edgecache import Client, NoNodeAnswers, Refused
from edgecache.node import client_nodes
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.features import Source
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of, format_digest

if TYPE_CHECKING:
    from tests.node.conftest import Connect, FakeNode, Serve

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = digest_of(PHOTO)
ARRAY = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
MINE: Any = {"encoder": "mine", "version": "1"}
NOWHERE = "http://127.0.0.1:1"  # a port that is given to nothing


def mine(image: Any) -> Any:
    return ARRAY


async def nobody(timeout_s: float) -> list[tuple[str, str]]:
    return []


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
