"""A client's way to the cluster where things are not as they should be: no node, a hanging one, another event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from edgecache import Client, InvalidValue, NoNodeAnswers, Refused
from edgecache.node import client_nodes
from edgecache.node.client import ASK_FIRST_BYTES
from edgecache.protocol.errors import EdgeCacheError
from edgecache.protocol.keys import digest_of

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = digest_of(PHOTO)
MINE: Any = {"encoder": "mine", "version": "1"}
HTML = b"Content-Type: text/html\r\nContent-Length: 5\r\n\r\n"
JSON = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
ALIVE = b"HTTP/1.1 200 OK\r\n" + JSON % (19, b'{"status": "alive"}')
NO_FEATURES = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\nContent-Length: 0\r\n\r\n"

Respond = Callable[[bytes], Awaitable[bytes]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Its head; the body is left behind."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().splitlines():
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return head


@asynccontextmanager
async def server(respond: Respond) -> AsyncIterator[str]:
    """The url of something that gives `respond(head)` to each request, whatever that is."""
    under_way: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(await respond(await read_request(reader)))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.append(asyncio.ensure_future(talk(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def always(response: bytes) -> Respond:
    async def respond(head: bytes) -> bytes:
        return response if not head.startswith(b"HEAD") else response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    return respond


async def hang(head: bytes) -> bytes:
    await asyncio.sleep(3600)
    return b""


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\n" + HTML + b"hello",
        b"HTTP/1.1 404 Not Found\r\n" + HTML + b"hello",
        b"HTTP/1.1 502 Bad Gateway\r\n" + HTML + b"hello",
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\n" + HTML + b"hello",
        *(b"HTTP/1.1 200 OK\r\n" + JSON % (len(json), json) for json in (b"{}", b"[]", b"null", b'{"copies": NaN}')),
        *(b"HTTP/1.1 200 OK\r\n" + JSON % (len(json), json) for json in (b'{"node": 5}', b'{"forgotten": "x"}')),
    ],
)
async def test_what_is_no_node_does_not_answer_for_one(response: bytes) -> None:
    async with server(always(response)) as url, Client(url) as cache:
        for call in (
            cache.get(DIGEST), cache.get_many([DIGEST]), cache.has(DIGEST), cache.forget(DIGEST), cache.encode(PHOTO),
            cache.put(DIGEST, np.ones((2, 3)), **MINE), cache.invalidate("mine"), cache.cluster(), cache.stats(),
            cache.members(),
        ):  # fmt: skip
            with pytest.raises(NoNodeAnswers, match=url):
                await call


async def within(seconds: float, call: Awaitable[Any]) -> Any:
    """What `call` returns, or the error that it ends with; no later than some time after its deadline."""
    begun = time.monotonic()
    try:
        return await call
    except EdgeCacheError as error:
        return error
    finally:
        assert time.monotonic() - begun < seconds + 0.5


async def test_a_node_that_hangs_when_asked_for_the_others_does_not_keep_an_answer_back() -> None:
    async def respond(head: bytes) -> bytes:
        return await hang(head) if b"/v1/cluster" in head else NO_FEATURES

    async with server(respond) as url, Client(url, timeout_s=0.1) as cache:
        assert await within(0.1, cache.get(DIGEST)) is None


async def test_a_node_that_hangs_while_one_is_looked_for_keeps_nobody_beyond_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches = 0

    async def nobody(timeout_s: float) -> list[tuple[str, str]]:
        nonlocal searches
        searches += 1
        return []

    monkeypatch.setattr("edgecache.node.discovery.find_nodes", nobody)
    monkeypatch.setattr(client_nodes, "CONNECT_TIMEOUT_S", 0.2)
    async with server(hang) as url:
        monkeypatch.setattr(client_nodes, "DEFAULT_URL", url)
        async with Client(timeout_s=0.1) as cache:
            ends = await asyncio.gather(*(within(0.1, cache.get(DIGEST)) for _ in range(20)))
            assert {type(end) for end in ends} == {NoNodeAnswers}
        async with Client(timeout_s=5.0) as cache:
            ends = await asyncio.gather(*(within(0.4, cache.get(DIGEST)) for _ in range(20)))
            assert {type(end) for end in ends} == {NoNodeAnswers}
            assert type(await within(0.0, cache.get(DIGEST))) is NoNodeAnswers  # nobody waits twice
    assert searches <= 2


@pytest.mark.parametrize(("code", "told"), [(b"", "is needed"), (b', error="invalid_token"', "is another")])
async def test_a_wrong_token_and_none_are_told_apart_also_without_a_body(code: bytes, told: str) -> None:
    refusal = NO_FEATURES.replace(
        b"404 Not Found\r\n", b'401 Unauthorized\r\nWWW-Authenticate: Bearer realm="edgecache"%b\r\n' % code
    )
    async with server(always(refusal)) as url, Client(url) as cache:
        with pytest.raises(Refused, match=told):
            await cache.has(DIGEST)


async def test_two_tokens_share_one_deadline() -> None:
    async def refuse(head: bytes) -> bytes:
        await asyncio.sleep(0.3)
        return NO_FEATURES.replace(b"404 Not Found", b"401 Unauthorized")

    async with server(refuse) as url:
        nodes = client_nodes.Nodes(url, 0.4, ["former", "new"])
        assert type(await within(0.4, nodes.ask("GET", "/", lambda answer: answer))) is NoNodeAnswers
        await nodes.close()


def test_a_client_says_that_it_belongs_to_another_event_loop() -> None:
    async def get(cache: Client) -> Any:
        return await cache.get(DIGEST)

    async def story() -> None:
        async with server(always(NO_FEATURES)) as url:
            cache = Client(url)
            assert await get(cache) is None
            with pytest.raises(RuntimeError, match="belongs to the event loop"):
                await asyncio.to_thread(asyncio.run, get(cache))
            assert await get(cache) is None
            await cache.close()

    asyncio.run(story())


async def test_calls_that_wait_for_each_other_are_no_sign_of_a_node_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_nodes, "ENCODES_MAX", 2)
    monkeypatch.setattr(client_nodes, "LOOK_AFTER_S", 0.05)
    under_way, most = 0, 0

    async def respond(head: bytes) -> bytes:
        nonlocal under_way, most
        if b"/healthz" in head:
            return ALIVE
        if not head.startswith(b"POST"):
            return NO_FEATURES
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        under_way -= 1
        return NO_FEATURES

    photos = [PHOTO + bytes([number]) + bytes(ASK_FIRST_BYTES) for number in range(20)]
    async with server(respond) as url, Client(url) as cache:
        encodes = [asyncio.ensure_future(cache.encode(photo)) for photo in photos]
        await asyncio.sleep(0.1)
        assert await within(0.1, cache.get(DIGEST)) is None  # a question need not wait for them
        ends = await asyncio.gather(*encodes, return_exceptions=True)
    assert {type(end) for end in ends} == {Refused}  # which is this server's answer, and not that it hangs
    assert most == 2


async def test_who_is_in_a_hurry_is_told_what_was_before_it_and_takes_no_node_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_nodes, "ENCODES_MAX", 1)

    async def respond(head: bytes) -> bytes:
        if b"/healthz" in head:
            return ALIVE
        return await hang(head) if head.startswith(b"POST") else NO_FEATURES

    async with server(respond) as url, Client(url, timeout_s=0.1) as cache:
        first, second = await asyncio.gather(cache.encode(PHOTO), cache.encode(PHOTO + b"2"), return_exceptions=True)
        assert "did not answer within 0.1 s" in str(first)
        assert str(second) == "no answer within 0.1 s, all behind others of this client"
        assert await cache.get(DIGEST) is None


@pytest.mark.parametrize("method", ["HEAD", "POST"])
@pytest.mark.parametrize("looks", [3, 100])
async def test_who_is_slow_is_waited_for_while_it_says_that_it_is_alive(
    method: str, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_nodes, "LOOK_AFTER_S", 0.05)
    monkeypatch.setattr(client_nodes, "CONNECT_TIMEOUT_S", 0.3)
    looked = 0

    async def respond(head: bytes) -> bytes:
        nonlocal looked
        if b"/healthz" in head:
            looked += 1
            return ALIVE if looked <= looks else await hang(head)
        if head.startswith(method.encode()):  # it waits for a slow cloud, or for its encoder
            await asyncio.sleep(0.3 if looks == 100 else 3600)
        return NO_FEATURES

    async with server(respond) as url, Client(url) as cache:
        end = await within(1.0, cache.has(DIGEST) if method == "HEAD" else cache.encode(PHOTO))
        if looks == 100:
            assert end is False if method == "HEAD" else type(end) is Refused
            assert await cache.has(DIGEST) is False
        else:
            assert "did not answer within" in str(end)
            assert "hung a moment ago" in str(await within(0.0, cache.has(DIGEST)))


async def test_a_connection_that_has_outlived_its_node_costs_no_answer() -> None:
    requests = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        for response in (NO_FEATURES, b""):
            await read_request(reader)
            requests += 1
            writer.write(response)
        writer.close()

    listening = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    async with listening, Client(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}") as cache:
        for _ in range(2):
            assert await cache.get_many([DIGEST]) == {}
    assert requests == 3


def test_a_password_in_a_url_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidValue, match="token") as refused:
        Client("http://me:secret@127.0.0.1:7440")
    assert "secret" not in str(refused.value)
