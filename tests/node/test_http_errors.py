"""What HTTP refuses: each with its problem details, and nothing run, allocated or told that should not be."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import EncoderUnavailable
from edgecache.protocol.keys import FeatureKey, digest_of

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode, Serve

    Client = Any  # aiohttp's TestClient

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = digest_of(PHOTO)
URL = f"/v1/features/{DIGEST.hex()}"
MINE = {"encoder": "mine", "version": "1"}
ARRAY = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)


async def problem(answer: Any, status: int) -> str:
    """The detail of `answer`, after checking that it is a problem as RFC 9457 wants it."""
    body = json.loads(await answer.read())
    assert (answer.status, body["status"]) == (status, status), body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert set(body) >= {"type", "title", "status", "detail"}
    assert body["detail"]
    detail: str = body["detail"]
    return detail


async def raw(client: Client, request: bytes, *, until: bytes = b"\r\n\r\n") -> bytes:
    """The answer's first bytes to a request that no HTTP library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.readuntil(until)
    finally:
        writer.close()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# -- 400 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digest",
    ["", "abc", "0" * 63, "0" * 65, "g" * 64, "..%2F..%2Fetc%2Fpasswd", "%00" * 64, "sha256:" + "0" * 63,
     "0" * 64 + "%0A", "md5:" + "0" * 64, "a/b", "%D9%A0" * 64],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_malformed_digest_is_400(client: Client, digest: str, method: str) -> None:
    from yarl import URL as Url

    answer = await client.request(method, Url(f"/v1/features/{digest}", encoded=True))
    assert "64 hexadecimal digits" in await problem(answer, 400)


async def test_a_path_that_climbs_is_400_as_it_stands(client: Client) -> None:
    answer = await raw(client, b"GET /v1/features/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("source=near", "local, cluster, any"),
        ("min_fidelity=1.1", "from 0 to 1"),
        ("min_fidelity=-0.1", "from 0 to 1"),
        ("min_fidelity=nan", "from 0 to 1"),
        ("min_fidelity=", "from 0 to 1"),
        ("min_fidelity=1e999", "from 0 to 1"),
        ("min_fidelity=e-1", "from 0 to 1"),
        ("timeout_ms=0", "1 to 600000"),
        ("timeout_ms=600001", "1 to 600000"),
        ("timeout_ms=1.5", "1 to 600000"),
        ("timeout_ms=" + "9" * 5000, "1 to 600000"),
        ("encoder=", "1 to 200 visible ASCII characters"),
        ("encoder=a%0D%0AX-Evil:1&version=1", "1 to 200 visible ASCII characters"),
        ("encoder=mine&version=%00", "1 to 64 visible ASCII characters"),
        ("encoder=mine&encoder=yours", "2 times"),
        ("url=http%3A%2F%2F169.254.169.254%2F", "expected encoder, version"),
        ("url=file%3A%2F%2F%2Fetc%2Fpasswd", "expected encoder, version"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_query_out_of_its_limits_is_400(client: Client, query: str, named: str, method: str) -> None:
    from yarl import URL as Url

    url = Url(f"{URL}?{query}", encoded=True)
    answer = await client.request(method, url, data=b"x" if method == "PUT" else None)
    assert named in await problem(answer, 400)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b'{"digests": []}', b'{"digests": "abc"}', b'{"digests": [1]}',
     b'{"digests": ["abc"]}', b'{"url": "http://169.254.169.254/"}', b'{"digests": ["http://example.com/a.jpg"]}',
     b'{"digests": ["\xff"]}', b"[" * 100_000, b'{"digests": ' + json.dumps(["0" * 64] * 1025).encode() + b"}"],
    ids=lambda body: body[:24],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/features:batchGet", "/v1/invalidations"])
async def test_a_body_that_is_not_the_json_expected_is_400(client: Client, path: str, body: bytes) -> None:
    answer = await client.post(path, data=body, headers={"Content-Type": "application/json"})
    await problem(answer, 400)


async def test_too_many_digests_name_the_limit(client: Client) -> None:
    answer = await client.post("/v1/features:batchGet", json={"digests": ["0" * 64] * 1025})
    assert "1024" in await problem(answer, 400)


@pytest.mark.parametrize(
    "body",
    [
        {"encoder": "a", "digests": ["0" * 64]},
        {"version": "1"},
        {"encoder": "a b", "version": "1"},
        {"encoder": "unheard"},
    ],
)
async def test_an_invalidation_names_an_encoder_or_digests(client: Client, body: dict[str, Any]) -> None:
    await problem(await client.post("/v1/invalidations", json=body), 404 if body == {"encoder": "unheard"} else 400)


async def test_a_put_needs_to_know_whose_features_it_brings(bare_node: FakeNode, serve: Serve) -> None:
    client = await serve(bare_node)
    assert "encoder=NAME" in await problem(await client.put(URL, data=npy(ARRAY)), 400)
    assert "version=V" in await problem(await client.put(URL, data=npy(ARRAY), params={"encoder": "mine"}), 400)


# -- 403 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7440", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:port", "[::1",
     "[evil]", "", "camera-1:99999", "a@localhost"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", URL, "/nowhere"])
async def test_a_foreign_host_is_refused(client: Client, host: str, path: str) -> None:
    await problem(await client.get(path, headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:7440", "127.0.0.1:80", "192.168.1.7", "[::1]:7440", "[fe80::1]", "camera-1", "kiosk-3",
     "Camera-1.local:7440"],
)  # fmt: skip
async def test_this_machine_is_known_by_its_addresses_and_names(client: Client, host: str) -> None:
    assert (await client.get("/healthz", headers={"Host": host})).status == 200


async def test_further_host_names_can_be_allowed(node: FakeNode, serve: Serve) -> None:
    client = await serve(node, host_names=["cache.example"])
    assert (await client.get("/healthz", headers={"Host": "cache.example"})).status == 200


@pytest.mark.parametrize("host_lines", [b"", b"Host: localhost\r\nHost: evil.example\r\n"], ids=["none", "two"])
async def test_a_request_has_one_host(client: Client, host_lines: bytes) -> None:
    answer = await raw(client, b"GET /healthz HTTP/1.1\r\n" + host_lines + b"\r\n")
    assert b" 400 " in answer


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost:7440", "http://localhost:1", "file://"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/stats"),
        ("POST", "/v1/features"),
        ("PUT", URL),
        ("DELETE", URL),
        ("OPTIONS", URL),
        ("POST", "/v1/invalidations"),
    ],
)
async def test_other_sites_pages_are_refused(client: Client, origin: str, method: str, path: str) -> None:
    headers = {"Host": "localhost:7440", "Origin": origin}
    answer = await client.request(method, path, headers=headers, data=b"{}" if method != "GET" else None)
    await problem(answer, 403)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_a_page_of_this_very_node_may_ask(client: Client) -> None:
    headers = {"Host": "localhost:7440", "Origin": "http://localhost:7440"}
    assert (await client.post("/v1/features", data=PHOTO, headers=headers)).status == 200


# -- 404, 405, 409 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [URL, f"{URL}?encoder=unheard-of&version=1", "/v1/nothing", "/favicon.ico", "/v1"])
async def test_what_is_not_there_is_404(client: Client, path: str) -> None:
    await problem(await client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PATCH", URL, "DELETE, GET, HEAD, PUT"), ("GET", "/v1/features", "POST"), ("POST", "/v1/cluster", "GET, HEAD"),
     ("OPTIONS", "/v1/features", "POST")],
)  # fmt: skip
async def test_another_method_is_405_and_names_those_there_are(
    client: Client, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    await problem(answer, 405)
    assert answer.headers["Allow"] == allowed


async def test_another_version_than_the_current_is_409(client: Client) -> None:
    answer = await client.get(URL, params={"encoder": "edgecache/tiny", "version": "0"})
    assert "1 is current" in await problem(answer, 409)


# -- 5xx --------------------------------------------------------------------------------------------------------


async def test_an_encoder_that_cannot_answer_is_503(client: Client, node: FakeNode) -> None:
    node.encoder.error = EncoderUnavailable("its worker died", retry_after_s=2.5)
    answer = await client.post("/v1/features", data=PHOTO)
    assert answer.headers["Retry-After"] == "3"
    assert await problem(answer, 503) == "its worker died"


async def test_a_node_without_an_encoder_says_so(bare_node: FakeNode, serve: Serve) -> None:
    client = await serve(bare_node)
    for _ in ("no encoder is known", "one is known, of a user"):
        answer = await client.post("/v1/features", data=PHOTO + b"2")
        assert answer.headers["Retry-After"] == "60"
        await problem(answer, 503)
        await client.put(URL, data=npy(ARRAY), params=MINE)
    assert (await client.post("/v1/features", data=PHOTO)).status == 200
    await problem(await client.post("/v1/features", data=PHOTO, params={"encoder": "unheard-of", "version": "1"}), 404)


async def test_what_its_own_encoder_makes_is_never_passed_off_as_anothers(client: Client, node: FakeNode) -> None:
    await client.put(URL, data=npy(ARRAY), params=MINE)
    await problem(await client.post("/v1/features", data=PHOTO + b"2", params=MINE), 503)
    assert node.encoder.images == []


async def test_the_model_is_known_as_soon_as_it_is_loaded(bare_node: FakeNode, node: FakeNode, serve: Serve) -> None:
    bare_node.own = node.own  # loaded a moment ago: `versions` has not been told yet
    client = await serve(bare_node)
    assert "edgecache/tiny@1" in await problem(await client.get(URL), 404)


async def test_hits_go_on_while_the_nodes_own_encoder_fails_to_load(client: Client, node: FakeNode) -> None:
    node.own_error = EncoderUnavailable("the model cannot be read")
    assert (await client.put(URL, data=npy(ARRAY), params=MINE)).status == 201
    assert (await client.get(URL, params=MINE)).status == 200
    await problem(await client.get(URL), 503)


async def test_past_timeout_ms_it_is_504(client: Client, node: FakeNode) -> None:
    node.encoder.gate.clear()
    answer = await client.post("/v1/features", data=PHOTO, params={"timeout_ms": "10"})
    assert "10 ms" in await problem(answer, 504)
    node.encoder.gate.set()


async def test_a_tensor_that_nobody_has_room_for_is_507(serve: Serve, node: FakeNode) -> None:
    client = await serve(node)
    node.store.memory.capacity_bytes = 100
    await problem(await client.put(URL, data=npy(ARRAY), params=MINE), 507)


async def test_our_own_errors_are_logged_and_not_told(
    client: Client, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.encoder.error = RuntimeError("secret internals")
    with caplog.at_level(logging.ERROR):
        detail = await problem(await client.post("/v1/features", data=PHOTO), 500)
    assert "secret" not in detail
    assert "secret internals" in caplog.text
    node.versions.resolve = None  # type: ignore[assignment,method-assign]
    caplog.clear()
    await problem(await client.get(URL), 500)
    assert DIGEST.hex()[:8] in caplog.text
    assert DIGEST.hex()[:9] not in caplog.text


async def test_an_encoder_that_makes_nan_is_our_error_not_the_callers(
    client: Client, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def encode(image: bytes) -> Any:
        return np.full((4, 8), np.nan, np.float32)

    monkeypatch.setattr(node.encoder, "encode", encode)
    await problem(await client.post("/v1/features", data=PHOTO), 500)


async def test_no_name_can_add_a_header(client: Client, node: FakeNode) -> None:
    key = FeatureKey(DIGEST, node.versions.resolve(None, None))
    node.peers.held["kitchen\r\nX-Evil: ü"] = {key.packed: payloads.encode(ARRAY, key)}
    answer = await client.get(URL)
    assert answer.headers["EdgeCache-Node"] == "the kitchen%0D%0AX-Evil: %C3%BC"
