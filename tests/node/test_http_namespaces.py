"""A namespace over HTTP: who has its secret finds its features in every way there is, and nobody else in any."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from edgecache import Client as Cache
from edgecache import SyncClient
from edgecache.protocol.features import Source
from edgecache.protocol.keys import digest_of, format_digest
from edgecache.protocol.namespaces import Namespace

if TYPE_CHECKING:
    from .conftest import FakeNode, Serve

    Client = Any  # aiohttp's TestClient

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = digest_of(PHOTO)
URL = f"/v1/features/{DIGEST.hex()}"
SECRET = "the-secret-of-camera-1"
OURS = {"EdgeCache-Namespace": SECRET}
STRANGERS = [{}, {"EdgeCache-Namespace": "the-secret-of-camera-2"}]
ARRAY = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
MINE: Any = {"encoder": "mine", "version": "1"}


async def batch(client: Client, headers: dict[str, str]) -> list[str]:
    """Which images a batch get brings."""
    answer = await client.post("/v1/features:batchGet", json={"digests": [DIGEST.hex()]}, headers=headers)
    body = await answer.read()
    head = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return [name for name in head if name != "__metadata__"]


async def test_its_features_are_found_in_every_way_with_the_secret(client: Client, node: FakeNode) -> None:
    made = await client.post("/v1/features", data=PHOTO, headers=OURS)
    got = await client.get(URL, headers=OURS)
    assert (made.status, got.status) == (200, 200)
    assert [answer.headers["EdgeCache-Source"] for answer in (made, got)] == ["encoder", "memory"]
    assert {answer.headers["EdgeCache-Digest"] for answer in (made, got)} == {format_digest(DIGEST)}
    assert "EdgeCache-Namespace" in got.headers["Vary"]
    assert (await client.head(URL, headers=OURS)).status == 200
    assert await batch(client, OURS) == [DIGEST.hex()]
    assert node.encoder.images == [PHOTO]


async def test_a_stranger_finds_and_forgets_nothing(client: Client, node: FakeNode) -> None:
    await client.post("/v1/features", data=PHOTO, headers=OURS)
    for headers in STRANGERS:
        missed = await client.get(URL, headers=headers)
        assert missed.status == 404
        assert format_digest(DIGEST) in (await missed.json())["detail"]
        assert (await client.head(URL, headers=headers)).status == 404
        assert await batch(client, headers) == []
        assert (await client.delete(URL, headers=headers)).status == 404
        forgotten = await client.post("/v1/invalidations", json={"digests": [DIGEST.hex()]}, headers=headers)
        assert (await forgotten.json())["forgotten"] == 0
    # That the image is encoded for them says that nobody has shown it to their part of the cluster: no more.
    for headers in STRANGERS:
        made = await client.post("/v1/features", data=PHOTO, headers=headers)
        assert made.headers["EdgeCache-Source"] == "encoder"
    assert node.encoder.images == [PHOTO] * 3
    assert (await client.get(URL, headers=OURS)).status == 200


async def test_the_owner_forgets_his_own_alone(client: Client) -> None:
    for headers in (OURS, {}):
        await client.post("/v1/features", data=PHOTO, headers=headers)
    assert (await client.delete(URL, headers=OURS)).status == 204
    assert (await client.get(URL, headers=OURS)).status == 404
    assert (await client.get(URL)).status == 200


async def test_what_is_kept_names_no_image(client: Client, node: FakeNode) -> None:
    file = io.BytesIO()
    np.save(file, ARRAY)
    put = await client.put(URL, data=file.getvalue(), params=MINE, headers=OURS)
    assert put.status == 201
    assert (await put.json())["digest"] == put.headers["EdgeCache-Digest"] == format_digest(DIGEST)
    headers = OURS | {"Accept": "application/vnd.edgecache.payload"}
    payload = await (await client.get(URL, params=MINE, headers=headers)).read()
    assert Namespace(SECRET).salted(DIGEST) in payload
    assert DIGEST not in payload
    # As it came it can be put again, into its namespace and into no other.
    told = {"Content-Type": "application/vnd.edgecache.payload"}
    assert (await client.put(URL, data=payload, headers=OURS | told)).status == 201
    assert (await client.put(URL, data=payload, headers=told)).status == 422


@pytest.mark.parametrize("headers", [[("EdgeCache-Namespace", "short")], [*OURS.items(), *OURS.items()]])
async def test_a_malformed_namespace_is_400_and_not_repeated(client: Client, headers: list[tuple[str, str]]) -> None:
    answer = await client.get(URL, headers=headers)
    assert answer.status == 400
    detail = (await answer.json())["detail"]
    assert "expected 16 to 128" in detail or "given 2 times" in detail
    assert headers[0][1] not in detail


async def test_a_client_with_the_secret_sees_the_image_it_asked_for(node: FakeNode, serve: Serve) -> None:
    url = str((await serve(node)).make_url("/"))
    async with Cache(url, namespace=SECRET) as ours, Cache(url) as stranger:
        made = await ours.encode(PHOTO)
        assert made.key.digest == DIGEST
        got = await ours.get(DIGEST)
        assert got is not None
        assert (got.key.digest, got.source) == (DIGEST, Source.MEMORY)
        assert list(await ours.get_many([DIGEST])) == [DIGEST]
        assert await ours.put(DIGEST, ARRAY, **MINE) == 1
        assert await ours.has(DIGEST, **MINE)
        assert await stranger.get(DIGEST) is None
        assert await stranger.get_many([DIGEST]) == {}
        assert not await stranger.has(DIGEST, **MINE)
        assert not await stranger.forget(DIGEST)
        assert await ours.forget(DIGEST)
        assert await ours.get(DIGEST) is None


def test_the_client_without_await_takes_a_namespace_too() -> None:
    with SyncClient(namespace=SECRET), pytest.raises(ValueError, match="namespace of 5 characters"):
        SyncClient(namespace="short")
