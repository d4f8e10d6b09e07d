"""Connections to the HTTP face that are too many, say nothing, or say what is no HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from edgecache.node import http_server
from edgecache.node.http_api import http_app

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode

    Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

QUESTION = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def dial(node: FakeNode) -> AsyncIterator[Dial]:
    """`await dial()`: a connection to a server that takes two of them."""
    runner = http_server.http_runner(http_app(node), connections_max=2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()
    await runner.cleanup()


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(QUESTION)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"}")
    return head.partition(b"\r\n")[0]


async def test_one_connection_too_many_is_told_so_and_harms_no_other(
    dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await dial(), await dial()
    assert await asked(*first) == await asked(*second) == b"HTTP/1.1 200 OK"
    third, _ = await dial()
    refusal = await third.read()
    head, _, body = refusal.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in head
    assert json.loads(body)["detail"] == "more than 2 connections"
    assert f"Content-Length: {len(body)}".encode() in head
    assert await asked(*first) == b"HTTP/1.1 200 OK"
    second[1].close()
    await second[1].wait_closed()
    assert await asked(*first) == b"HTTP/1.1 200 OK"  # by now the server has seen that too
    assert await asked(*await dial()) == b"HTTP/1.1 200 OK"
    gc.collect()
    assert "never retrieved" not in caplog.text  # of the task that answers a connection


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: loc"])
async def test_who_asks_nothing_is_let_go_in_time(dial: Dial, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "FIRST_REQUEST_TIMEOUT_S", 0.02)
    reader, writer = await dial()
    writer.write(said)
    assert await reader.read() == b""


async def test_who_has_asked_may_stay(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "FIRST_REQUEST_TIMEOUT_S", 0.02)
    patient = await dial()
    assert await asked(*patient) == b"HTTP/1.1 200 OK"
    silent, _ = await dial()
    assert await silent.read() == b""  # that time is over for both
    assert await asked(*patient) == b"HTTP/1.1 200 OK"


async def test_what_is_no_http_leaves_no_traceback(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await dial()
    with caplog.at_level(logging.DEBUG):
        writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert b" 400 " in await reader.read()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n", "Invalid method encountered: b'FOO / HTTP/1.1'"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 9000 + b"\r\n\r\n", "more than 8190 bytes"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", "Duplicate 'Host' header"),
        (b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", "Content-Length"),
    ],
)
async def test_what_is_no_http_is_told_so_as_every_other_problem(dial: Dial, said: bytes, told: str) -> None:
    reader, writer = await dial()
    writer.write(said)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert b"Content-Type: application/problem+json" in head
    assert b"X-Content-Type-Options: nosniff" in head
    assert b"aiohttp" not in head
    problem = json.loads(body)
    assert (problem["status"], problem["title"]) == (400, "Bad Request")
    assert told in problem["detail"]
    assert len(problem["detail"]) < 300


async def test_who_goes_before_all_is_sent_leaves_no_traceback(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    _, writer = await dial()
    with caplog.at_level(logging.DEBUG):
        writer.write(b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\npho")
        await writer.drain()
        other = await dial()
        for _ in range(5):  # by then the server waits for the rest
            assert await asked(*other) == b"HTTP/1.1 200 OK"
        writer.close()
        await writer.wait_closed()
        for _ in range(5):  # and by then it has seen that there is none
            assert await asked(*other) == b"HTTP/1.1 200 OK"
    assert "Traceback" not in caplog.text


async def test_who_has_gone_before_the_answer_leaves_no_traceback(
    dial: Dial, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.encoder.gate.clear()
    _, writer = await dial()
    with caplog.at_level(logging.DEBUG):
        writer.write(b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nphoto")
        await node.encoder.called.wait()
        writer.close()
        await writer.wait_closed()
        other = await dial()
        assert await asked(*other) == b"HTTP/1.1 200 OK"  # by now the server has seen that
        node.encoder.gate.set()
        for _ in range(5):  # and by then it has tried to answer
            assert await asked(*other) == b"HTTP/1.1 200 OK"
    assert "Traceback" not in caplog.text
