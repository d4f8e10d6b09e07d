"""Bodies that HTTP refuses: too large, too slow, of another type, or not what they say."""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import ImageTooLarge, UndecodableImage, UnsupportedImage
from edgecache.protocol.keys import EncoderIdentity, FeatureKey

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode, Serve

    Client = Any  # aiohttp's TestClient

from .test_http_errors import ARRAY, DIGEST, MINE, PHOTO, URL, npy, problem, raw

# -- 413 --------------------------------------------------------------------------------------------------------


async def test_a_body_said_to_be_too_large_is_refused_unread(client: Client) -> None:
    request = b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2147483648\r\n\r\n"
    assert (await raw(client, request)).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_asks_first_is_not_even_sent(client: Client) -> None:
    head = b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: "
    assert (await raw(client, head + b"2147483648\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
    assert (await raw(client, head + b"10\r\n\r\n")).startswith(b"HTTP/1.1 100 ")


async def test_a_chunked_body_over_the_limit_leaves_memory_flat(node: FakeNode, serve: Serve) -> None:
    limit = 1 << 20
    client = await serve(node, body_bytes_max=limit)

    async def endless() -> Any:
        for _ in range(64):
            yield bytes(limit)

    tracemalloc.start()
    try:
        answer = await client.post("/v1/features", data=endless())
        assert str(limit) in await problem(answer, 413)
        assert tracemalloc.get_traced_memory()[1] < 16 * limit
    finally:
        tracemalloc.stop()
    assert node.encoder.images == []


@pytest.mark.parametrize("path", ["/v1/features:batchGet", "/v1/invalidations"])
async def test_json_has_a_limit_of_its_own(client: Client, path: str) -> None:
    answer = await client.post(path, data=b" " * 300_000, headers={"Content-Type": "application/json"})
    assert "262144" in await problem(answer, 413)


async def test_a_batch_over_its_limit_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecache.node.http_answers.BATCH_BYTES_MAX", 127)
    await client.post("/v1/features", data=PHOTO)  # 4 × 8 float32 are 128 bytes
    answer = await client.post("/v1/features:batchGet", json={"digests": [DIGEST.hex()]})
    assert "at most 127" in await problem(answer, 413)


async def test_bodies_that_find_no_room_are_told_to_come_again(
    node: FakeNode, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecache.node.http_bodies.ROOM_TIMEOUT_S", 0.01)
    client = await serve(node, body_bytes_max=len(PHOTO), bodies_bytes_max=len(PHOTO))
    node.encoder.gate.clear()
    first = asyncio.create_task(client.post("/v1/features", data=PHOTO))
    await node.encoder.called.wait()
    second = await client.post("/v1/features", data=PHOTO)
    assert second.headers["Retry-After"] == "1"
    assert f"no room for a body of {len(PHOTO)} bytes beside the {len(PHOTO)}" in await problem(second, 429)
    node.encoder.gate.set()
    assert (await first).status == 200


# -- 408, 415, 422 ----------------------------------------------------------------------------------------------


async def test_a_body_that_does_not_come_ends_in_408(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecache.node.http_bodies.BODY_TIMEOUT_S", 0.01)
    request = b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx"
    assert (await raw(client, request)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("body", [b"zz\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n"])
async def test_malformed_chunks_are_400(client: Client, body: bytes) -> None:
    head = b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 400 " in await raw(client, head + body)


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/json",
        "application/pdf",
        "image/gif",
        "image/svg+xml",
        "multipart/form-data; boundary=x",
        "???",
    ],
)
async def test_a_declared_type_that_is_no_image_is_415(client: Client, kind: str) -> None:
    await problem(await client.post("/v1/features", data=PHOTO, headers={"Content-Type": kind}), 415)


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream", "application/x-www-form-urlencoded"]
)
async def test_other_types_leave_it_to_the_bytes(client: Client, kind: str) -> None:
    assert (await client.post("/v1/features", data=PHOTO, headers={"Content-Type": kind})).status == 200


@pytest.mark.parametrize("image", [b"GIF89a...", b"II*\0...", b"%PDF-1.7", b"\0\0\0\x20ftypavif"])
async def test_another_image_format_is_415_without_asking_anyone(client: Client, node: FakeNode, image: bytes) -> None:
    await problem(await client.post("/v1/features", data=image), 415)
    assert (node.encoder.images, node.stats.requests) == ([], 0)


async def test_an_empty_body_is_no_image(client: Client) -> None:
    await problem(await client.post("/v1/features", data=b""), 422)


async def test_a_compressed_body_is_415(client: Client) -> None:
    answer = await client.post("/v1/features", data=PHOTO, headers={"Content-Encoding": "gzip"})
    await problem(answer, 415)


@pytest.mark.parametrize(
    ("error", "status"),
    [(UnsupportedImage("GIF"), 415), (UndecodableImage("cut off"), 422), (ImageTooLarge("pixels"), 413)],
)
async def test_what_the_encoder_says_of_an_image_is_told(
    client: Client, node: FakeNode, error: Exception, status: int
) -> None:
    node.encoder.error = error
    assert await problem(await client.post("/v1/features", data=PHOTO), status) == str(error)


def npy_of(header: str, values: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + values


HOSTILE_NPY = {
    "pickle": npy(np.array([{"a": 1}, None], dtype=object)),
    "bare pickle": pickle.dumps([1, 2]),
    "object type": npy_of("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", b"cos\nsystem\n(S'true'\ntR."),
    "structured type": npy_of("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1), }", bytes(4)),
    "integers": npy(np.ones((2, 2), np.int64)),
    "bomb": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (50000, 50000), }", bytes(16)),
    "overflow": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }"),
    "negative": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }", bytes(16)),
    "true": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }", bytes(16)),
    "endless number": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (0x" + "f" * 4000 + ", 1), }"),
    "many axes": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 64 + "), }", bytes(4)),
    "call": npy_of("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1, 1), }", bytes(4)),
    "deep": npy_of("(" * 4000),
    "signs": npy_of("-" * 4000),
    "long header": npy_of(" " * 60_000),
    "header cut": npy(ARRAY)[:40],
    "only magic": b"\x93NUMPY",
    "version 9": b"\x93NUMPY\x09\x00" + npy(ARRAY)[8:],
    "values cut": npy(ARRAY)[:-1],
    "values too many": npy(ARRAY) + b"\0",
    "no dimensions": npy(np.float32(1)),
    "one dimension": npy(np.ones(8, np.float32)),
    "three dimensions": npy(np.ones((1, 2, 3), np.float32)),
    "empty": npy(np.ones((0, 8), np.float32)),
    "nan": npy(np.full((2, 2), np.nan, np.float32)),
    "infinity in float64": npy(np.full((2, 2), 1e300)),
    "no bytes": b"",
}


@pytest.mark.parametrize("body", HOSTILE_NPY.values(), ids=HOSTILE_NPY.keys())
@pytest.mark.parametrize("kind", ["application/x-npy", "application/octet-stream"])
async def test_a_hostile_npy_is_422(client: Client, node: FakeNode, kind: str, body: bytes) -> None:
    answer = await client.put(URL, data=body, params=MINE, headers={"Content-Type": kind})
    await problem(answer, 422)
    assert len(node.store.memory) == 0


def safetensors_of(header: object, values: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def tensor(dtype: str, shape: list[int], nbytes: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]}


HOSTILE_SAFETENSORS = {
    "header of 4 EiB": struct.pack("<Q", 2**62) + b"{}",
    "header of 100 MB": struct.pack("<Q", 100_000_000) + b"{}",
    "cut": safetensors_of({"features": tensor("F32", [1, 4], 16)}, bytes(15)),
    "bomb": safetensors_of({"features": tensor("F32", [2**32, 2**32], 16)}, bytes(16)),
    "integers": safetensors_of({"features": tensor("I8", [1, 4], 4)}, bytes(4)),
    "two": safetensors_of({"a": tensor("F32", [0], 0), "b": tensor("F32", [0], 0)}),
    "none": safetensors_of({}),
    "no json": struct.pack("<Q", 8) + b"{nojson}",
    "one dimension": safetensors_of({"features": tensor("F32", [4], 16)}, bytes(16)),
    "bfloat16 nan": safetensors_of({"features": tensor("BF16", [1, 1], 2)}, b"\xff\xff"),
}


@pytest.mark.parametrize("body", HOSTILE_SAFETENSORS.values(), ids=HOSTILE_SAFETENSORS.keys())
async def test_a_hostile_safetensors_is_422(client: Client, node: FakeNode, body: bytes) -> None:
    headers = {"Content-Type": "application/vnd.safetensors"}
    await problem(await client.put(URL, data=body, params=MINE, headers=headers), 422)
    assert len(node.store.memory) == 0


def stored(digest: bytes, encoder: EncoderIdentity) -> bytearray:
    return bytearray(payloads.encode(ARRAY, FeatureKey(digest, encoder)).data)


@pytest.mark.parametrize(
    "encoder",
    [EncoderIdentity.declared("yours", "1"), EncoderIdentity("mine", "1", b"w" * 32)],
    ids=["another name", "other weights"],
)
async def test_a_payload_of_another_encoder_is_422(client: Client, node: FakeNode, encoder: EncoderIdentity) -> None:
    node.versions.learn(EncoderIdentity.declared("mine", "1"))
    answer = await client.put(URL, data=bytes(stored(DIGEST, encoder)), params=MINE)
    await problem(answer, 422)


async def test_a_payload_of_another_image_or_damaged_is_422(client: Client, node: FakeNode) -> None:
    mine = EncoderIdentity.declared("mine", "1")
    damaged = stored(DIGEST, mine)
    damaged[-1] ^= 1
    for data in (stored(bytes(32), mine), damaged, damaged[:50]):
        await problem(await client.put(URL, data=bytes(data), params=MINE), 422)
    assert len(node.store.memory) == 0


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "image/png", "multipart/form-data; boundary=x"])
async def test_a_tensor_of_another_type_is_415(client: Client, kind: str) -> None:
    await problem(await client.put(URL, data=npy(ARRAY), params=MINE, headers={"Content-Type": kind}), 415)
