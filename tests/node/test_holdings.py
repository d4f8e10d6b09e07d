"""node/holdings.py: a set of fingerprints, and a set it is."""

from __future__ import annotations

from array import array

from edgecache.node.holdings import Holdings
from hypothesis import given
from hypothesis import strategies as st

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=600)


@given(st.sets(st.integers(0, 400), max_size=300), STEPS)
def test_it_answers_as_a_set_does(first: set[int], steps: list[tuple[bool, int]]) -> None:
    held, expected = Holdings(), set(first)
    held.replace(array("I", sorted(first)))
    for is_added, fingerprint in steps:
        changes = (fingerprint in expected) is not is_added
        assert (held.add(fingerprint) if is_added else held.discard(fingerprint)) is changes
        (expected.add if is_added else expected.discard)(fingerprint)
    held.check()
    assert len(held) == len(expected)
    assert [value for value in range(401) if value in held] == sorted(expected)
    assert list(held.fingerprints()) == sorted(expected)
    held.check()


def test_a_long_list_answers_as_a_short_one_does() -> None:
    held, expected = Holdings(), set(range(0, 60_000, 3))
    held.replace(array("I", sorted(expected)))
    for fingerprint in range(0, 3_000):
        is_added = fingerprint % 2 == 0
        assert (held.add if is_added else held.discard)(fingerprint) is ((fingerprint in expected) is not is_added)
        (expected.add if is_added else expected.discard)(fingerprint)
        assert (fingerprint in held) is is_added
    held.check()
    assert list(held.fingerprints()) == sorted(expected)


@given(st.sets(st.integers(0, 400), max_size=300), st.lists(st.tuples(*2 * [st.lists(st.integers(0, 400))])))
def test_changes_together_are_those_of_a_set(first: set[int], steps: list[tuple[list[int], list[int]]]) -> None:
    held, expected = Holdings(), set(first)
    held.replace(array("I", sorted(first)))
    for added, removed in steps:
        before = len(expected)
        expected = (expected | set(added)) - set(removed)
        assert held.update(added, removed) == len(expected) - before
    held.check()
    assert list(held.fingerprints()) == sorted(expected)


def test_many_changes_at_once_are_what_they_are_one_by_one() -> None:
    held = Holdings()
    held.update(range(0, 10_000, 2), ())
    held.update(range(1, 100, 2), range(0, 100, 2))
    held.check()
    assert list(held.fingerprints())[:52] == [*range(1, 100, 2), 100, 102]
