"""Downloads over lines that break, on virtual time."""

from __future__ import annotations

import random

import pytest
from edgecache.protocol.cloud import download as module
from edgecache.protocol.cloud.download import download
from edgecache.protocol.cloud.objects import ObjectStoreError

from tests.protocol.cloud.faulty import FaultyObjects

NAME = "features/a/b"
DATA = random.Random(1).randbytes(10_500)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


@pytest.fixture
async def objects() -> FaultyObjects:
    made = FaultyObjects()
    await made.put(NAME, DATA)
    made.calls.clear()
    return made


async def test_a_broken_download_goes_on_where_it_broke(objects: FaultyObjects) -> None:
    objects.breaks_after = [4000, 3000, 2000]
    assert await download(objects, NAME, bytes_max=1 << 20) == DATA
    assert objects.count("open") == 4  # 4000, 3000, 2000, and the 1500 that are left


async def test_so_does_that_of_a_range(objects: FaultyObjects) -> None:
    objects.breaks_after = [1000, 1000]
    assert await download(objects, NAME, 2000, 7000, bytes_max=1 << 20) == DATA[2000:7000]


async def test_many_breaks_do_no_harm_while_something_comes(objects: FaultyObjects) -> None:
    objects.breaks_after = [1000] * 10
    assert await download(objects, NAME, bytes_max=1 << 20) == DATA


async def test_it_ends_when_nothing_comes_any_more(objects: FaultyObjects) -> None:
    objects.breaks_after = [4000, 0, 0, 0]
    with pytest.raises(ObjectStoreError, match="connection reset"):
        await download(objects, NAME, bytes_max=1 << 20)
    assert objects.count("open") == 1 + module.ATTEMPTS_MAX - 1


async def test_a_store_that_hangs_is_given_up(objects: FaultyObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.01)
    objects.hangs = True
    with pytest.raises(ObjectStoreError, match=r"nothing came for 0\.01 s"):
        await download(objects, NAME, bytes_max=1 << 20)
    assert objects.count("open") == module.ATTEMPTS_MAX


async def test_two_states_of_an_object_are_never_mixed(objects: FaultyObjects) -> None:
    newer = random.Random(2).randbytes(8000)
    objects.breaks_after = [4000]
    original = objects.open

    async def open_then_change(*arguments: object) -> object:
        part = await original(*arguments)  # type: ignore[arg-type]
        if objects.versions[NAME] == 1:
            await objects.put(NAME, newer)
        return part

    objects.open = open_then_change  # type: ignore[method-assign, assignment]
    assert await download(objects, NAME, bytes_max=1 << 20) == newer


async def test_an_object_larger_than_wanted_is_not_read(objects: FaultyObjects) -> None:
    with pytest.raises(ObjectStoreError, match="10500 bytes, at most 10000"):
        await download(objects, NAME, bytes_max=10_000)
    assert objects.count("open") == 1
