"""node/journal.py: a node's own list of keys, and what it tells of it."""

from __future__ import annotations

import pytest
from edgecache.node import journal as limits
from edgecache.node.journal import LOG_MAX, TOLD_MAX, TOUCHED_MAX, Journal, boot_of
from edgecache.protocol import datagrams, fingerprints, messages


class Shelf:
    """A journal, and what is really held."""

    def __init__(self, boot: str = "boot") -> None:
        self.held: set[bytes] = set()
        self.journal = Journal(boot, self.held.__contains__)

    def put(self, *numbers: int) -> int:
        for number in numbers:
            self.held.add(key(number))
            self.journal.touch(key(number))
        return self.journal.settle()

    def remove(self, *numbers: int) -> int:
        for number in numbers:
            self.held.discard(key(number))
            self.journal.touch(key(number))
        return self.journal.settle()


def key(number: int) -> bytes:
    return b"%064d" % number


def listed(*numbers: int) -> bytes:
    return fingerprints.listed([fingerprints.fingerprint(key(number)) for number in numbers])


def test_who_knows_a_version_is_told_what_changed_since() -> None:
    shelf = Shelf()
    before = shelf.put(1, 2)
    after = shelf.remove(1)
    shelf.put(3)
    assert after == before + 1
    assert shelf.journal.changes(before) == datagrams.Changes(before, listed(3), listed(1))
    assert shelf.journal.changes(shelf.journal.settle()) is None
    shelf.journal.check()


def test_what_came_and_went_again_is_told_as_gone() -> None:
    shelf = Shelf()
    before = shelf.put(1)
    shelf.put(2)
    shelf.remove(2)
    assert shelf.journal.changes(before) == datagrams.Changes(before, b"", listed(2))


def test_what_is_touched_and_has_not_changed_is_no_change() -> None:
    shelf = Shelf()
    before = shelf.put(1)
    assert shelf.put(1) == shelf.remove(7) == before
    shelf.held.discard(key(1))  # and nobody has said so
    shelf.journal.missed(key(7))
    assert shelf.journal.settle() == before
    shelf.journal.missed(key(1))  # until somebody asked in vain
    shelf.put(1)
    shelf.remove(1)
    assert shelf.journal.settle() == before + 3


def test_who_knows_nothing_is_told_all_in_a_datagram_if_it_is_little() -> None:
    shelf = Shelf()
    shelf.put(*range(TOLD_MAX))
    told = shelf.journal.changes(0)
    assert told is not None
    assert (told.since, len(told.added), told.removed) == (0, messages.CHANGES_BYTES_MAX, b"")
    other_boot = Shelf("another").put(*range(5))
    assert shelf.journal.changes(other_boot) == told
    shelf.put(TOLD_MAX)
    assert shelf.journal.changes(0) is None


def test_what_is_told_over_tcp_is_the_changes_or_all_whichever_is_shorter() -> None:
    shelf = Shelf()
    before = shelf.put(*range(1000))
    after = shelf.put(*range(1000, 1200))
    keys, blob = shelf.journal.told(before)
    assert (keys, len(blob)) == (messages.Keys(before, after, 200, 0), 800)
    shelf.put(*range(1200, 3500))
    keys, blob = shelf.journal.told(before)
    assert (keys.since, keys.added, keys.removed) == (0, 3500, 0)
    assert list(fingerprints.unpack(3500, blob)) == sorted(fingerprints.fingerprint(key(n)) for n in range(3500))
    assert shelf.journal.told(0) == (keys, blob) == shelf.journal.told(2**62)


def test_a_whole_list_is_made_anew_only_after_a_sixteenth_of_it_has_changed() -> None:
    shelf = Shelf()
    version = shelf.put(*range(3200))
    assert shelf.journal.told(0)[0].until == version
    shelf.put(*range(3200, 3300))
    assert shelf.journal.told(0)[0].until == version  # the rest is told as changes
    assert shelf.journal.told(version)[0].added == 100
    assert shelf.put(*range(3300, 3500)) == shelf.journal.told(0)[0].until


def test_who_missed_more_than_is_remembered_is_told_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_MAX", 64)
    shelf = Shelf()
    before = shelf.put(*range(100))
    shelf.remove(*range(40))
    assert shelf.journal.told(before)[0].removed == 40
    shelf.put(*range(100, 150))
    assert shelf.journal.told(before)[0].since == 0
    shelf.journal.check()


def test_what_is_remembered_is_bounded() -> None:
    shelf = Shelf()
    for round_ in range(2 * LOG_MAX // 1000):
        (shelf.put if round_ % 2 == 0 else shelf.remove)(*range(1000))
    shelf.journal.check()
    for number in range(TOUCHED_MAX + 1):
        shelf.journal.touch(key(number))
    assert len(shelf.journal._touched) < TOUCHED_MAX


def test_no_more_keys_are_told_than_others_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "HOLDINGS_MAX", 10)
    shelf = Shelf()
    shelf.put(*range(20))
    assert len(shelf.journal) == 10


def test_versions_of_two_boots_are_never_taken_for_each_other() -> None:
    one, other = Shelf("one"), Shelf("other")
    one.put(*range(300))
    version = other.put(*range(200))
    assert boot_of(version) != boot_of(one.journal.settle())
    assert one.journal.told(version)[0].since == 0
    assert version < 2**63
