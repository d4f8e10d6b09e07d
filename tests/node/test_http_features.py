"""Features over HTTP: what each call answers when all goes well."""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from edgecache.protocol import payload as payloads
from edgecache.protocol.conversion import Conversion
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of, format_digest
from numpy.typing import NDArray

from .conftest import OWN, FakeNode, FakeTier

if TYPE_CHECKING:
    from .conftest import Serve

    Client = Any  # aiohttp's TestClient
    Answer = Any  # aiohttp's ClientResponse

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = digest_of(PHOTO)
URL = f"/v1/features/{DIGEST.hex()}"
MINE = EncoderIdentity.declared("mine", "1")
ARRAY = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def stored(array: NDArray[np.float32] = ARRAY, encoder: EncoderIdentity = MINE) -> payloads.Payload:
    return payloads.encode(array, FeatureKey(DIGEST, encoder))


async def test_an_image_is_encoded_once_and_then_got_by_its_digest(client: Client, node: FakeNode) -> None:
    made = await client.post("/v1/features", data=PHOTO)
    again = await client.post("/v1/features", data=PHOTO)
    got = await client.get(URL)
    assert [answer.headers["EdgeCache-Source"] for answer in (made, again, got)] == ["encoder", "memory", "memory"]
    assert await made.read() == await again.read() == await got.read()
    assert node.encoder.images == [PHOTO]
    array = np.load(io.BytesIO(await got.read()))
    assert (array.dtype, array.shape, array.flags.c_contiguous) == (np.float32, (4, 8), True)


async def test_an_answer_says_what_it_is_and_whence(client: Client, node: FakeNode) -> None:
    await client.post("/v1/features", data=PHOTO)
    headers = (await client.get(URL)).headers
    assert headers["Content-Type"] == "application/x-npy"
    assert headers["EdgeCache-Digest"] == format_digest(DIGEST)
    assert headers["EdgeCache-Encoder"] == "edgecache/tiny@1"
    assert headers["EdgeCache-Node"] == "camera-1"
    assert headers["EdgeCache-Codec"] == "int8"
    assert 0.99 < float(headers["EdgeCache-Fidelity"]) <= 1
    assert headers["Server-Timing"].startswith('lookup;desc="memory";dur=')
    assert headers["ETag"].startswith('"')
    assert headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("spelling", [DIGEST.hex(), DIGEST.hex().upper(), f"sha256:{DIGEST.hex()}"])
async def test_a_digest_may_be_spelt_as_sha256sum_does(client: Client, spelling: str) -> None:
    await client.post("/v1/features", data=PHOTO)
    assert (await client.get(f"/v1/features/{spelling}")).status == 200


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/x-npy"),
        ("*/*", "application/x-npy"),
        ("application/*;q=0.2", "application/x-npy"),
        ("application/vnd.safetensors", "application/vnd.safetensors"),
        ("Application/VND.safetensors; q=1.0", "application/vnd.safetensors"),
        ("application/x-npy;q=0.1, application/vnd.edgecache.payload", "application/vnd.edgecache.payload"),
        ("application/x-npy;q=0, */*;q=0.5", "application/vnd.safetensors"),
        ("text/html, application/vnd.safetensors;q=0.9, */*;q=0.8", "application/vnd.safetensors"),
    ],
)
async def test_the_form_is_the_one_that_accept_likes_best(client: Client, accept: str | None, expected: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = await client.post("/v1/features", data=PHOTO, headers=headers)
    assert (answer.status, answer.headers["Content-Type"]) == (200, expected)


@pytest.mark.parametrize(
    "accept", ["text/html", "application/x-npy;q=0", "*/*;q=0", "image/*", "application/x-npy;q=x"]
)
async def test_without_a_form_that_accept_allows_it_is_406(client: Client, accept: str) -> None:
    answer = await client.post("/v1/features", data=PHOTO, headers={"Accept": accept})
    assert answer.status == 406
    assert "application/x-npy" in (await answer.json())["detail"]


async def test_every_form_tells_the_same_array(client: Client) -> None:
    from safetensors.numpy import load

    made = await client.post("/v1/features", data=PHOTO)
    array = np.load(io.BytesIO(await made.read()))
    tensors = await client.get(URL, headers={"Accept": "application/vnd.safetensors"})
    payload = await client.get(URL, headers={"Accept": "application/vnd.edgecache.payload"})
    assert np.array_equal(load(await tensors.read())["features"], array)
    assert np.array_equal(payloads.parse(await payload.read()).array(), array)
    assert len({answer.headers["ETag"] for answer in (made, tensors, payload)}) == 3


async def test_who_has_the_features_is_told_304(client: Client) -> None:
    tag = (await client.post("/v1/features", data=PHOTO)).headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await client.get(URL, headers={"If-None-Match": known})
        assert (answer.status, answer.headers["ETag"], await answer.read()) == (304, tag, b"")
    assert (await client.get(URL, headers={"If-None-Match": '"other"'})).status == 200
    other_form = {"If-None-Match": tag, "Accept": "application/vnd.safetensors"}
    assert (await client.get(URL, headers=other_form)).status == 200


async def test_features_of_a_peer_say_whose_they_are(client: Client, node: FakeNode) -> None:
    payload = stored(encoder=node.versions.resolve(None, None))
    node.peers.held["kitchen"] = {payload.key.packed: payload}
    answer = await client.get(URL)
    assert (answer.headers["EdgeCache-Source"], answer.headers["EdgeCache-Node"]) == ("peer", "the kitchen")


async def test_source_local_does_not_ask_the_peers(client: Client, node: FakeNode) -> None:
    payload = stored(encoder=node.versions.resolve(None, None))
    node.peers.held["kitchen"] = {payload.key.packed: payload}
    assert (await client.get(URL, params={"source": "local"})).status == 404
    assert (await client.get(URL, params={"source": "cluster"})).status == 200


async def test_min_fidelity_passes_over_a_coarser_copy(client: Client, node: FakeNode) -> None:
    await client.post("/v1/features", data=PHOTO)
    for method in ("GET", "HEAD"):
        missed = await client.request(method, URL, params={"min_fidelity": "1"})
        assert missed.status == 404
        assert method == "HEAD" or "fidelity of at least 1" in await missed.text()
        for coarser in ("0.9", ".9", "9e-1", str(0.00001)):  # which is 1e-05
            assert (await client.request(method, URL, params={"min_fidelity": coarser})).status == 200
    better = await client.post("/v1/features", data=PHOTO, params={"min_fidelity": "1"})
    assert (better.status, better.headers["EdgeCache-Codec"]) == (200, "float32")


async def test_head_says_whether_they_are_there_and_moves_nothing(client: Client, node: FakeNode) -> None:
    assert (await client.head(URL)).status == 404
    await client.post("/v1/features", data=PHOTO)
    head, got = await client.head(URL), await client.get(URL)
    assert head.status == 200
    timing = 'lookup;desc="memory";dur='
    assert all(answer.headers["Server-Timing"].startswith(timing) for answer in (head, got))
    assert _lasting(head) == _lasting(got)
    assert (await client.head(URL, headers={"If-None-Match": got.headers["ETag"]})).status == 304
    payload = stored(encoder=node.versions.resolve(None, None))
    node.lookup.forget_here([DIGEST])
    node.peers.held["kitchen"] = {payload.key.packed: payload}
    head = await client.head(URL)
    assert len(node.store.memory) == 0
    got = await client.get(URL)
    assert head.headers["EdgeCache-Node"] == "the kitchen"
    assert head.headers["Server-Timing"].startswith('lookup;desc="peer";dur=')
    only_features_tell = {"Etag", "EdgeCache-Codec", "EdgeCache-Fidelity", "Content-Length"}
    assert _lasting(head) == {name: value for name, value in _lasting(got).items() if name not in only_features_tell}


def _lasting(answer: Answer) -> dict[str, str]:
    """The headers of an answer that do not change with time."""
    return {name: value for name, value in answer.headers.items() if name not in ("Date", "Server-Timing")}


# -- put --------------------------------------------------------------------------------------------------------


def tensors(**arrays: NDArray[Any]) -> bytes:
    from safetensors.numpy import save

    data: bytes = save(arrays)
    return data


def bfloat16(array: NDArray[np.float32]) -> bytes:
    values = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps(
        {"features": {"dtype": "BF16", "shape": array.shape, "data_offsets": [0, len(values)]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + values


EXACT = np.array([[1, -1, 1], [0.5, 0.5, -0.5]], np.float32)  # INT8 and bfloat16 keep these as they are


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "sniffed"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-npy", npy(EXACT)),
        ("application/x-npy", npy(EXACT.astype(np.float64))),
        ("application/x-npy", npy(EXACT.astype(np.float16))),
        ("application/x-npy", npy(EXACT.astype(">f4"))),
        ("application/x-npy", npy(np.asfortranarray(EXACT))),
        ("application/vnd.safetensors", tensors(features=EXACT)),
        ("application/vnd.safetensors", tensors(features=EXACT, other=ARRAY)),
        ("application/vnd.safetensors", tensors(anything=EXACT)),
        ("application/vnd.safetensors", tensors(features=EXACT.astype(np.float64))),
        ("application/vnd.safetensors", bfloat16(EXACT)),
        ("application/vnd.edgecache.payload", bytes(stored(EXACT).data)),
    ],
)
async def test_features_made_elsewhere_are_kept(client: Client, kind: str, body: bytes, declared: bool) -> None:
    headers = {"Content-Type": kind if declared else "application/octet-stream"}
    query = {"encoder": "mine", "version": "1"}
    answer = await client.put(URL, data=body, params=query, headers=headers)
    told = await answer.json()
    assert answer.status == 201
    assert (told["digest"], told["tokens"], told["dim"], told["copies"]) == (format_digest(DIGEST), 2, 3, 1)
    assert answer.headers["EdgeCache-Encoder"] == "mine@1"
    assert answer.headers["EdgeCache-Copies"] == "1"
    got = await client.get(answer.headers["Location"])
    assert got.headers["EdgeCache-Encoder"] == "mine@1"
    assert np.array_equal(np.load(io.BytesIO(await got.read())), EXACT)


async def test_a_put_is_known_to_the_node_from_then_on(bare_node: FakeNode, serve: Serve) -> None:
    client = await serve(bare_node)
    await client.put(URL, data=npy(EXACT), params={"encoder": "mine", "version": "1"})
    assert (await client.get(URL)).status == 200  # the only encoder that this node has heard of


async def test_a_put_waits_to_hear_of_the_nodes_own_encoder(client: Client, node: FakeNode) -> None:
    answer = await client.put(URL, data=npy(EXACT), params={"encoder": "edgecache/tiny", "version": "1"})
    assert answer.status == 201
    assert (await client.get(URL)).status == 200


# -- forget -----------------------------------------------------------------------------------------------------


async def test_durable_waits_for_this_nodes_disk_and_says_when_that_cannot_be_had(serve: Serve) -> None:
    disk = FakeTier()
    client = await serve(FakeNode(disk=disk))
    query = "?encoder=mine&version=1&durable=true"
    assert (await client.put(URL + query, data=npy(ARRAY))).status == 201
    assert (await client.post("/v1/features?durable=true", data=PHOTO)).status == 200
    assert len(disk.held) == 2
    disk.held.clear()  # evicted there, and still in memory
    assert (await client.post("/v1/features?durable=true", data=PHOTO)).status == 200
    assert len(disk.held) == 1
    disk.is_durable = False
    for answer in (
        await client.put(URL + query, data=npy(ARRAY)),
        await client.post("/v1/features?durable=true", data=PHOTO),
        await client.delete(URL + query),
    ):
        assert answer.status == 507
        assert "disk" in (await answer.json())["detail"]


@pytest.mark.parametrize("text", ["1", "yes", "", "True"])
async def test_durable_is_true_or_false(client: Client, text: str) -> None:
    answer = await client.put(f"{URL}?encoder=mine&version=1&durable={text}", data=npy(ARRAY))
    assert answer.status == 400
    assert "expected true or false" in (await answer.json())["detail"]


async def test_a_question_is_not_durable(client: Client) -> None:
    answer = await client.get(f"{URL}?durable=true")
    assert answer.status == 400
    assert "durable" in (await answer.json())["detail"]


async def test_delete_forgets_every_encoders_features_or_just_ones(client: Client) -> None:
    await client.post("/v1/features", data=PHOTO)
    for name in ("mine", "yours"):
        await client.put(URL, data=npy(EXACT), params={"encoder": name, "version": "1"})
    one = await client.delete(URL, params={"encoder": "mine", "version": "1"})
    assert (one.status, await one.read()) == (204, b"")
    assert (await client.get(URL, params={"encoder": "mine"})).status == 404
    assert (await client.get(URL, params={"encoder": "yours"})).status == 200
    assert (await client.delete(URL)).status == 204
    assert (await client.get(URL)).status == 404
    assert (await client.delete(URL)).status == 404


async def test_an_invalidation_leaves_older_versions_behind(client: Client) -> None:
    await client.put(URL, data=npy(EXACT), params={"encoder": "mine", "version": "1"})
    answer = await client.post("/v1/invalidations", json={"encoder": "mine", "version": "2"})
    assert await answer.json() == {"encoder": "mine", "version": "2", "forgotten": 1}
    assert (await client.get(URL, params={"encoder": "mine", "version": "1"})).status == 409
    put = await client.put(URL, data=npy(EXACT), params={"encoder": "mine", "version": "1"})
    assert put.status == 409


async def test_a_version_that_is_a_number_means_its_digits(client: Client) -> None:
    answer = await client.post("/v1/invalidations", json={"encoder": "mine", "version": 2})
    assert await answer.json() == {"encoder": "mine", "version": "2", "forgotten": 0}


async def test_an_invalidation_without_a_version_keeps_the_one_there_is(client: Client) -> None:
    answer = await client.post("/v1/invalidations", json={"encoder": "edgecache/tiny"})
    assert (await answer.json())["version"] == "1"


async def test_images_can_be_forgotten_by_their_digests(client: Client) -> None:
    await client.post("/v1/features", data=PHOTO)
    answer = await client.post("/v1/invalidations", json={"digests": [DIGEST.hex(), "00" * 32]})
    assert await answer.json() == {"digests": 2, "forgotten": 1}
    assert (await client.get(URL)).status == 404


# -- many at once -----------------------------------------------------------------------------------------------


async def test_a_batch_names_each_tensor_as_the_caller_did(client: Client) -> None:
    from safetensors.numpy import load

    for image in (PHOTO, PHOTO + b"2"):
        await client.post("/v1/features", data=image)
    second = format_digest(digest_of(PHOTO + b"2"))
    asked = [DIGEST.hex().upper(), second, "00" * 32, DIGEST.hex().upper()]
    answer = await client.post("/v1/features:batchGet", json={"digests": asked})
    body = await answer.read()
    header = msgspec.json.decode(body[8 : 8 + int.from_bytes(body[:8], "little")])
    assert answer.headers["Content-Type"] == "application/vnd.safetensors"
    assert set(load(body)) == {DIGEST.hex().upper(), second}
    assert json.loads(header["__metadata__"]["missing"]) == ["00" * 32]
    assert header["__metadata__"]["encoder"] == "edgecache/tiny@1"
    assert header[second]["dtype"] == "F32"


async def test_a_batch_of_payloads_holds_them_as_they_are_stored(client: Client) -> None:
    from safetensors.numpy import load

    await client.post("/v1/features", data=PHOTO)
    accept = {"Accept": "application/vnd.edgecache.payloads"}
    answer = await client.post("/v1/features:batchGet", json={"digests": [DIGEST.hex()]}, headers=accept)
    (data,) = load(await answer.read()).values()
    assert payloads.parse(data.tobytes()).key.digest == DIGEST


async def test_a_batch_that_nobody_holds_is_an_empty_file(client: Client) -> None:
    from safetensors.numpy import load

    answer = await client.post("/v1/features:batchGet", json={"digests": ["00" * 32]})
    assert (answer.status, load(await answer.read())) == (200, {})


async def test_what_old_features_were_converted_to_says_so(serve: Serve) -> None:
    old, width = EncoderIdentity(OWN.name, "0", bytes(32)), ARRAY.shape[1]
    weight, bias = 2 * np.eye(width, dtype=np.float32), np.zeros(width, np.float32)
    node = FakeNode(conversions=[Conversion(old, OWN, weight, bias, 0.97, 0.99, 20)])
    node.versions.use(OWN, ARRAY.shape)
    node.store.put(stored(ARRAY, old))
    client = await serve(node)
    answer = await client.get(URL)
    assert answer.status == 200
    assert answer.headers["EdgeCache-Converted-From"] == "edgecache/tiny@0"
    assert answer.headers["EdgeCache-Encoder"] == "edgecache/tiny@1"
    assert 0.9 < float(answer.headers["EdgeCache-Fidelity"]) <= 0.97
    assert np.allclose(np.load(io.BytesIO(await answer.read())), 2 * ARRAY, atol=0.1)
    assert (await client.get(URL, params={"min_fidelity": "0.98"})).status == 404
    batch = await client.post("/v1/features:batchGet", json={"digests": [DIGEST.hex()]})
    assert b"missing" in await batch.read()
    assert (await (await client.get("/v1/stats")).json())["converted"] == 1
    made = await client.post("/v1/features", data=PHOTO, params={"min_fidelity": "0.98"})
    assert "EdgeCache-Converted-From" not in made.headers
