"""node/rumors.py: what is told, how often, and in which order."""

from __future__ import annotations

from edgecache.node.rumors import RUMOR_BYTES_MAX, RUMORS_MAX, Rumors


def test_a_rumor_is_told_as_often_as_the_cluster_is_large_and_then_no_more() -> None:
    for members, times in ((5, 4), (50, 8), (200, 12)):
        rumors = Rumors()
        rumors.add("x", b"x is dead")
        told = 0
        while rumors.take(1000, members):
            told += 1
        assert (told, len(rumors)) == (times, 0)


def test_what_was_told_least_goes_first_and_what_does_not_fit_waits() -> None:
    rumors = Rumors()
    rumors.add("old", b"o" * 100)
    rumors.take(1000, 200)
    rumors.add("new", b"n" * 100)
    rumors.add("large", b"l" * 150)
    assert rumors.take(200, 200) == [b"n" * 100, b"o" * 100]
    assert rumors.take(200, 200) == [b"l" * 150]
    rumors.check()


def test_a_later_rumor_about_one_subject_replaces_the_earlier() -> None:
    rumors = Rumors()
    rumors.add("x", b"x is suspected")
    rumors.take(1000, 5)
    rumors.add("x", b"x is alive")
    assert rumors.take(1000, 5) == [b"x is alive"]
    rumors.drop("x")
    assert rumors.take(1000, 5) == []
    rumors.check()


def test_where_there_are_too_many_the_best_known_goes() -> None:
    rumors = Rumors()
    for number in range(RUMORS_MAX):
        rumors.add(f"{number}", b"%d" % number)
    rumors.take(1, 200)
    rumors.add("one more", b"one more")
    assert len(rumors) == RUMORS_MAX
    assert b"one more" in rumors.take(100_000, 200)
    assert b"0" not in rumors.take(100_000, 200)
    rumors.check()


def test_a_rumor_that_no_datagram_holds_is_not_kept() -> None:
    rumors = Rumors()
    rumors.add("x", bytes(RUMOR_BYTES_MAX + 1))
    assert len(rumors) == 0
