"""The client without await: the same answers, from any thread."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp.test_utils import unused_port
from edgecache import Client, NoNodeAnswers, SyncClient
from edgecache.protocol.features import Source
from edgecache.protocol.keys import digest_of

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode, Serve

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = digest_of(PHOTO)
NOWHERE = f"http://127.0.0.1:{unused_port()}"
MINE: Any = {"encoder": "mine", "version": "1"}


def test_it_has_every_call_of_the_asynchronous_one_with_the_same_arguments() -> None:
    for name, call in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_") or name == "__init__":
            assert inspect.signature(call) == inspect.signature(getattr(SyncClient, name)), name


async def test_it_answers_as_the_asynchronous_one_does(node: FakeNode, serve: Serve) -> None:
    url = str((await serve(node)).make_url("/"))

    def story() -> None:
        with SyncClient(url) as cache:
            made = cache.encode(PHOTO)
            assert made.source is Source.ENCODER
            got = cache.get(DIGEST)
            assert got is not None
            assert np.array_equal(got.array, made.array)
            assert list(cache.get_many([DIGEST.hex()])) == [DIGEST.hex()]
            assert cache.has(DIGEST)
            assert cache.put(DIGEST, made.array, **MINE) == 1
            assert cache.invalidate("mine", "2") == 1
            assert cache.forget(DIGEST)
            assert cache.get(DIGEST) is None
            assert cache.cluster()["node"]["name"] == "camera-1"
            assert cache.stats()["encodes"] == 1

    await asyncio.to_thread(story)


async def test_threads_may_share_one(node: FakeNode, serve: Serve) -> None:
    url = str((await serve(node)).make_url("/"))

    def story() -> list[Source]:
        with SyncClient(url) as cache, ThreadPoolExecutor(8) as threads:
            images = [PHOTO + bytes([number]) for number in range(8)]
            list(threads.map(cache.encode, images))
            return [features.source for features in threads.map(cache.encode, images)]

    assert await asyncio.to_thread(story) == [Source.MEMORY] * 8


def test_a_dead_cluster_is_the_same_error_or_the_users_own_encoder() -> None:
    with SyncClient(NOWHERE) as cache, pytest.raises(NoNodeAnswers):
        cache.get(DIGEST)
    with SyncClient(NOWHERE, encode=lambda image: np.ones((2, 3))) as cache:
        assert cache.encode(PHOTO).array.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_when_it_is_closed_its_thread_has_ended() -> None:
    cache = SyncClient(NOWHERE)
    assert cache._thread in threading.enumerate()
    cache.close()
    cache.close()
    assert cache._thread not in threading.enumerate()
    with pytest.raises(RuntimeError, match="closed"):
        cache.get(DIGEST)


def test_who_waits_while_another_thread_closes_it_is_told_so() -> None:
    began = threading.Event()

    async def forever(image: Any) -> Any:
        began.set()
        await asyncio.sleep(3600)

    cache = SyncClient(NOWHERE)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(cache.encode, PHOTO, encode=forever)
        assert began.wait(10)
        cache.close()
        with pytest.raises(RuntimeError, match="closed by another thread"):
            waiting.result(10)


def test_its_own_encoder_cannot_wait_for_it() -> None:
    with SyncClient(NOWHERE) as cache:

        async def ask(image: Any) -> Any:
            with pytest.raises(RuntimeError, match="plain function"):
                cache.get(DIGEST)
            with pytest.raises(RuntimeError, match="cannot be closed"):
                cache.close()
            return np.ones((1, 2))

        assert cache.encode(PHOTO, encode=ask).array.shape == (1, 2)


async def test_a_forked_process_goes_on_with_connections_of_its_own(node: FakeNode, serve: Serve) -> None:
    url = str((await serve(node)).make_url("/"))
    story = f"""
import os, signal
from edgecache import SyncClient
with SyncClient({url!r}) as cache:
    assert cache.encode({PHOTO!r}).array.shape[0] > 0
    if (child := os.fork()) == 0:
        signal.alarm(20)
        os._exit(0 if cache.has({DIGEST!r}) and cache.get({DIGEST!r}) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cache.has({DIGEST!r})
"""
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", story)
    assert await ended.wait() == 0
