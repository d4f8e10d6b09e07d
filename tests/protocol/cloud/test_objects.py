"""Object stores by URL: what all of them do, on a directory and in memory, and what is said of a wrong URL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from edgecache.protocol.cloud import objects as module
from edgecache.protocol.cloud.download import download
from edgecache.protocol.cloud.objects import Objects, ObjectStoreError, checked_url, open_objects
from edgecache.protocol.errors import InvalidValue

from tests.protocol.cloud.faulty import FaultyObjects


@pytest.fixture(params=["file", "memory", "faulty"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    """Each kind must do the same: also the one that other tests put faults in."""
    if request.param == "faulty":
        yield FaultyObjects()
    else:
        yield open_objects("memory://" if request.param == "memory" else f"file://{tmp_path}/made/here")


async def listed(objects: Objects, prefix: str) -> dict[str, int]:
    return {name: size async for name, size in objects.list(prefix)}


async def test_what_is_put_is_there_until_it_is_deleted(objects: Objects) -> None:
    data = bytes(range(256)) * 1000
    await objects.put("features/a/b", data)
    assert await objects.size("features/a/b") == len(data)
    assert await download(objects, "features/a/b", bytes_max=1 << 20) == data
    assert await download(objects, "features/a/b", 1000, 1300, bytes_max=1 << 20) == data[1000:1300]
    await objects.put("features/a/b", b"newer")
    assert await download(objects, "features/a/b", bytes_max=1 << 20) == b"newer"
    await objects.delete(["features/a/b"])
    assert await objects.size("features/a/b") is None
    assert await download(objects, "features/a/b", bytes_max=1 << 20) is None


async def test_an_empty_object_is_there(objects: Objects) -> None:
    await objects.put("removed/a/b", b"")
    assert await objects.size("removed/a/b") == 0
    assert await listed(objects, "removed/a/") == {"removed/a/b": 0}
    assert await download(objects, "removed/a/b", bytes_max=0) == b""


async def test_a_prefix_lists_what_is_below_it_and_nothing_else(objects: Objects) -> None:
    for name in ("packs/a/1", "packs/a/2", "packs/ab/3", "features/a/1"):
        await objects.put(name, name.encode())
    assert await listed(objects, "packs/a/") == {"packs/a/1": 9, "packs/a/2": 9}
    assert await listed(objects, "nothing/") == {}


async def test_of_a_directory_few_calls_are_under_way_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, under_way, most = obstore.head_async, 0, 0

    async def counted(*args: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await head(*args)
        finally:
            under_way -= 1

    monkeypatch.setattr(obstore, "head_async", counted)
    objects = open_objects(f"file://{tmp_path}")
    sizes = await asyncio.gather(*(objects.size(f"features/a/{number}") for number in range(100)))
    assert sizes == 100 * [None]
    assert most == module.DIRECTORY_CALLS_MAX


async def test_many_are_deleted_at_once_whether_they_are_there_or_not(objects: Objects) -> None:
    await objects.put("features/a/1", b"1")
    await objects.put("features/a/3", b"3")
    await objects.delete(["features/a/1", "features/a/2", "features/a/3"])
    assert await listed(objects, "features/") == {}


async def test_a_large_object_goes_up_in_parts(tmp_path: Path) -> None:
    objects = open_objects(f"file://{tmp_path}")
    data = bytes(range(256)) * (module.PART_BYTES // 256 * 2 + 5)
    await objects.put("packs/a/b", data)
    assert await download(objects, "packs/a/b", bytes_max=1 << 30) == data


async def test_an_object_that_changes_between_two_reads_is_noticed(objects: Objects) -> None:
    await objects.put("features/a/b", b"first state")
    part = await objects.open("features/a/b")
    assert part is not None
    await objects.put("features/a/b", b"the second state")
    with pytest.raises(ObjectStoreError):
        await objects.open("features/a/b", 3, etag=part.etag)


async def test_an_object_store_in_the_house_may_speak_http(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, bytes] = {}

    async def answer(request: web.Request) -> web.Response:
        if request.method == "PUT":
            held[request.path] = await request.read()
            return web.Response(headers={"ETag": '"1"'})
        return web.Response(body=held[request.path]) if request.path in held else web.Response(status=404)

    server = TestServer(web.Application())
    server.app.router.add_route("*", "/{path:.*}", answer)
    await server.start_server()
    told = {
        "ENDPOINT_URL": str(server.make_url("")),
        "ACCESS_KEY_ID": "me",
        "SECRET_ACCESS_KEY": "it",
        "REGION": "here",
    }
    for name, value in told.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        objects = open_objects("s3://bucket/prefix")
        await objects.put("a", b"features")
        assert held == {"/bucket/prefix/a": b"features"}
        assert await objects.size("b") is None
    finally:
        await server.close()


async def test_a_directory_that_cannot_be_written_is_an_error_on_one_line(tmp_path: Path) -> None:
    objects = open_objects(f"file://{tmp_path}")
    (tmp_path / "features").write_text("a file where a directory should be")
    with pytest.raises(ObjectStoreError) as raised:
        await objects.put("features/a/b", b"data")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "expected s3://"),
        ("http://169.254.169.254/latest", "expected s3://"),
        ("ftp://host/dir", "expected s3://"),
        ("/a/directory", "expected s3://"),
        ("file://relative/dir", "absolute path"),
        ("file:///", "absolute path"),
        ("s3:///prefix", "expected a bucket"),
        ("s3://" + "b" * 2000, "at most 1024"),
        ("s3://bucket/\x1b[31m", "ASCII"),
        ("az://container", "Account must be specified"),
    ],
)
def test_a_wrong_url_is_refused_and_says_what_was_expected(url: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InvalidValue, match=why):
        open_objects(url)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "s3://bucket/x?secret=1", "az://c/x#secret"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidValue, match="from the environment") as raised:
        checked_url(url)
    assert "secret" not in str(raised.value)


def test_without_the_library_the_error_says_how_to_get_it_and_nothing_else_needs_it() -> None:
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "import edgecache.node.process, edgecache.protocol.cloud.download\n"
        "from edgecache.protocol.cloud.objects import open_objects\n"
        "try: open_objects('s3://bucket/x')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "obstore is not installed: pip install 'edgecache[cloud]'"
