from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest
from edgecache.node import address_book
from edgecache.node.address_book import PEERS_MAX, AddressBook, RememberedPeer


def peer(number: int, host: str = "10.0.0.1") -> RememberedPeer:
    return RememberedPeer(f"{number:032x}", f"camera-{number}", (host, 7441), f"{number:032x}")


async def test_peers_outlive_the_node_the_last_met_first(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "peers.json")
    for number in (1, 2, 1):
        book.remember(peer(number))
    assert await book.save()
    assert AddressBook(tmp_path / "peers.json").peers() == [peer(1), peer(2)]


def test_a_peer_that_moved_is_remembered_where_it_is_now(tmp_path: Path) -> None:
    book = AddressBook(None)
    book.remember(peer(1))
    book.remember(peer(1, "10.0.0.2"))
    assert book.peers() == [peer(1, "10.0.0.2")]


def test_the_book_has_room_for_so_many() -> None:
    book = AddressBook(None)
    for number in range(PEERS_MAX + 5):
        book.remember(peer(number))
    assert len(book.peers()) == PEERS_MAX
    assert book.peers()[-1] == peer(5)


async def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    book = AddressBook(path)
    book.remember(peer(1))
    assert await book.save()
    before = path.stat().st_ino
    book.remember(peer(1))
    assert await book.save()
    assert path.stat().st_ino == before


async def test_saves_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "peers.json")
    saves = []
    for number in range(5):
        book.remember(peer(number))
        saves.append(asyncio.create_task(book.save()))
    assert all(await asyncio.gather(*saves))
    assert len(AddressBook(tmp_path / "peers.json").peers()) == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b'{"peers": 3}',
        b'{"peers": [{"id": "", "name": "", "address": ["10.0.0.1", 7441], "boot": ""}]}',
        b'{"peers": [{"id": "a", "name": "", "address": ["10.0.0.1", 0], "boot": ""}]}',
        b'{"peers": [{"id": "a", "name": "a\\nb", "address": ["10.0.0.1", 7441], "boot": ""}]}',
        b'{"peers": [{"id": "a", "name": "", "address": ["10.0.0.1"], "boot": ""}]}',
        b" " * (address_book.FILE_BYTES_MAX + 1),
    ],
)
async def test_a_book_that_cannot_be_read_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    book = AddressBook(path)
    assert book.peers() == []
    assert path.with_name("peers.json.corrupt").read_bytes() == content
    book.remember(peer(1))
    assert await book.save()
    assert AddressBook(path).peers() == [peer(1)]


async def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text('{"peers": []}')
    path = tmp_path / "peers.json"
    path.symlink_to(elsewhere)
    book = AddressBook(path)
    book.remember(peer(1))
    assert await book.save()
    assert elsewhere.read_text() == '{"peers": []}'
    assert AddressBook(path).peers() == [peer(1)]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_a_disk_that_takes_nothing_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    book = AddressBook(tmp_path / "peers.json")
    book.remember(peer(1))
    with monkeypatch.context() as broken:

        def refuse(path: Path, content: bytes) -> None:
            raise OSError(code, "no")

        broken.setattr(address_book, "replace_small_file", refuse)
        assert not await book.save()
        assert not await book.save()
    assert len(caplog.records) == 1
    assert await book.save()


async def test_a_book_without_a_file_is_never_saved() -> None:
    book = AddressBook(None)
    book.remember(peer(1))
    assert not await book.save()
