"""Copies to be brought later: each a few times, and not too many."""

from __future__ import annotations

from edgecache.node.owed import OWED_MAX, TRIES_MAX, Owed


def test_what_is_owed_is_due_until_it_is_settled() -> None:
    owed = Owed()
    for node in ("a", "b", "a"):
        owed.add(node, b"key")
    assert owed.take() == [("a", b"key"), ("b", b"key")]
    owed.settled("a", b"key")
    assert owed.take() == [("b", b"key")]


def test_nobody_is_tried_for_ever() -> None:
    owed = Owed()
    owed.add("a", b"key")
    assert [len(owed.take()) for _ in range(TRIES_MAX + 1)] == [1] * TRIES_MAX + [0]


def test_it_is_bounded() -> None:
    owed = Owed()
    for number in range(OWED_MAX + 10):
        owed.add("a", b"%d" % number)
    assert len(owed) == OWED_MAX
    assert owed.take()[-1] == ("a", b"%d" % (OWED_MAX + 9))
