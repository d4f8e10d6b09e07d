"""node/remembered_removals.py: what was removed is known after a restart."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import msgspec
import pytest
from edgecache.node.remembered_removals import SAVE_EVERY_S, SIGN_OF_LIFE_S, RememberedRemovals
from edgecache.node.removals import KEPT_S, Removals
from edgecache.protocol.keys import EncoderIdentity, FeatureKey

KEY = FeatureKey(b"i" * 32, EncoderIdentity.declared("mine", "1"))
OTHER = FeatureKey(b"j" * 32, EncoderIdentity.declared("mine", "1"))


def fresh() -> Removals:
    return Removals(random.Random(1))


def save(path: Path | None, removals: Removals, now: float, wall: float) -> None:
    asyncio.run(RememberedRemovals(path, lambda: wall).save(removals, now))


def known(path: Path | None, wall: float, now: float = 5.0) -> Removals:
    removals = fresh()
    RememberedRemovals(path, lambda: wall).tell(removals, now)
    removals.check()
    return removals


def test_what_was_removed_is_known_after_a_restart_and_as_old_as_it_is(tmp_path: Path) -> None:
    path, before = tmp_path / "removals", fresh()
    stamp = before.make([KEY.digest, OTHER.packed], 100.0)
    save(path, before, now=200.0, wall=1000.0)
    after = known(path, wall=1300.0)
    assert after.known(KEY) == after.known(OTHER) == stamp
    assert [round(5.0 - removal.since) for removal in after.all()] == [400, 400]
    assert len(known(path, wall=1000.0 + KEPT_S)) == 0
    assert [round(5.0 - removal.since) for removal in known(path, wall=0.0).all()] == [100, 100]  # no clock to go by


def test_news_are_written_and_not_too_often_and_without_any_a_sign_of_life(tmp_path: Path) -> None:
    async def story() -> None:
        path, removals, wall = tmp_path / "removals", fresh(), 0.0
        remembered = RememberedRemovals(path, lambda: wall)

        async def is_written(now: float, *, at_once: bool = False) -> bool:
            path.unlink(missing_ok=True)
            await remembered.save(removals, now, at_once=at_once)
            return path.exists()

        assert await is_written(0.0)
        assert not await is_written(100.0)
        removals.make([KEY.digest], 101.0)
        assert await is_written(101.0)
        removals.make([OTHER.digest], 102.0)
        assert not await is_written(102.0)
        assert await is_written(101.0 + SAVE_EVERY_S)
        removals.make([OTHER.packed], 113.0)
        assert await is_written(113.0, at_once=True)
        assert not await is_written(112.0 + SIGN_OF_LIFE_S)
        assert await is_written(113.0 + SIGN_OF_LIFE_S)
        assert len(known(path, wall=0.0)) == 3
        assert RememberedRemovals(path, lambda: 500.0).off_s == 500.0

    asyncio.run(story())


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x82\xa8saved_at\x01\xa8removals\x93"])
def test_a_file_that_cannot_be_used_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "removals"
    path.write_bytes(content)
    assert len(known(path, wall=0.0)) == 0
    assert (tmp_path / "removals.corrupt").read_bytes() == content


def test_what_no_node_would_say_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "removals"
    told = {"saved_at": 0.0, "removals": [[b"short", 1, 0.0], [bytes(32), 2**60, 0.0], [KEY.packed, 7, -5.0]]}
    path.write_bytes(msgspec.msgpack.encode(told))
    assert known(path, wall=0.0).names() == [KEY.packed]


def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        removals, remembered = fresh(), RememberedRemovals(tmp_path / "missing" / "removals", lambda: 0.0)
        removals.make([KEY.digest], 1.0)
        with caplog.at_level(logging.WARNING):
            for now in (1.0, 20.0, 40.0):
                await remembered.save(removals, now)
        assert caplog.text.count("removals are not remembered") == 1

    asyncio.run(story())
    assert len(known(None, wall=0.0)) == 0
