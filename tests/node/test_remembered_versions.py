"""node/remembered_versions.py: invalidations outlive the process."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgecache.node.remembered_versions import RememberedVersions
from edgecache.node.versions import Current, Versions


def invalidated() -> Versions:
    versions = Versions()
    versions.make_current("mine", "2")
    versions.make_current("other", "7")
    return versions


def told(path: Path | None) -> dict[str, Current]:
    versions = Versions()
    RememberedVersions(path).tell(versions)
    return versions.current()


async def test_what_is_current_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    assert await RememberedVersions(path).save(invalidated())
    assert told(path) == invalidated().current()


async def test_nothing_is_written_without_news(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    remembered = RememberedVersions(path)
    assert await remembered.save(Versions())
    assert not path.exists()
    await remembered.save(invalidated())
    path.unlink()
    assert await remembered.save(invalidated())
    assert not path.exists()


async def test_newer_word_from_a_peer_wins_over_what_was_remembered(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    await RememberedVersions(path).save(invalidated())
    versions = Versions()
    versions.hear_current("mine", Current(99, "3"))
    RememberedVersions(path).tell(versions)
    assert versions.current()["mine"].version == "3"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"mine": 3}', b"\xff", b"{" * 100_000])
async def test_a_file_that_cannot_be_used_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "versions.json"
    path.write_bytes(content)
    assert told(path) == {}
    assert (tmp_path / "versions.json.corrupt").exists()
    assert "set aside" in caplog.text


async def test_what_no_node_would_say_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "versions.json"
    path.write_text('{"mine": {"counter": 9007199254740993, "version": "2"}, "other": {"counter": 1, "version": "7"}}')
    assert set(told(path)) == {"other"}
    assert "counter" in caplog.text


async def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remembered = RememberedVersions(tmp_path / "missing" / "versions.json")
    for _ in range(3):
        assert not await remembered.save(invalidated())
    assert caplog.text.count("not remembered") == 1


async def test_without_a_file_nothing_is_remembered() -> None:
    assert not await RememberedVersions(None).save(invalidated())
    assert told(None) == {}
