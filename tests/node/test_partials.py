"""What is kept of transfers that broke, how much of it, and for how long."""

from __future__ import annotations

import random

import pytest
from edgecache.node.partials import PARTIAL_BYTES_MIN, PARTIAL_S, Partials
from edgecache.protocol.connection import BLOB_BYTES_MAX
from edgecache.protocol.messages import Begun

KEY, OTHER = bytes(64), b"\1" * 64
WHOLE = random.Random(0).randbytes(5 * PARTIAL_BYTES_MIN)
MIN = PARTIAL_BYTES_MIN


def test_what_came_is_told_and_the_rest_makes_it_whole() -> None:
    partials = Partials()
    assert partials.begun(0, KEY) is None
    partials.keep(0, KEY, 0, memoryview(WHOLE)[: 2 * MIN])
    assert partials.begun(1, KEY) == Begun(2 * MIN, WHOLE[:16])
    assert partials.begun(1, OTHER) is None
    assert partials.whole(KEY, 2 * MIN, WHOLE[2 * MIN :]) == WHOLE
    partials.forget(KEY)
    assert partials.begun(1, KEY) is None


def test_a_transfer_that_breaks_again_has_got_further() -> None:
    partials = Partials()
    partials.keep(0, KEY, 0, WHOLE[:MIN])
    partials.keep(0, KEY, MIN, WHOLE[MIN : 3 * MIN])
    assert partials.begun(0, KEY) == Begun(3 * MIN, WHOLE[:16])
    partials.keep(0, KEY, MIN, WHOLE[MIN : 2 * MIN])  # another was slower
    assert partials.begun(0, KEY) == Begun(3 * MIN, WHOLE[:16])
    assert partials.whole(KEY, 3 * MIN, WHOLE[3 * MIN :]) == WHOLE
    partials.check()


def test_another_payload_under_the_key_replaces_what_there_was() -> None:
    partials, newer = Partials(), WHOLE[::-1]
    partials.keep(0, KEY, 0, WHOLE[: 3 * MIN])
    partials.keep(0, KEY, 0, newer[:MIN])
    assert partials.begun(0, KEY) == Begun(MIN, newer[:16])
    partials.check()


def test_a_whole_answer_is_taken_as_it_is() -> None:
    assert Partials().whole(KEY, 0, WHOLE) is WHOLE


@pytest.mark.parametrize("start", [1, MIN + 1, 2**32 - 1])
def test_the_rest_of_what_was_not_told_of_is_nothing(start: int) -> None:
    partials = Partials()
    assert partials.whole(KEY, start, b"rest") is None
    partials.keep(0, KEY, 0, WHOLE[:MIN])
    assert (partials.whole(KEY, start, b"rest") is None) == (start > MIN)
    assert partials.whole(KEY, MIN, memoryview(WHOLE)[:MIN]) is not None
    partials.keep(0, KEY, start, WHOLE[:MIN])
    partials.check()


def test_together_they_are_no_larger_than_a_payload_may_be() -> None:
    partials = Partials()
    partials.keep(0, KEY, 0, WHOLE[:MIN])
    assert partials.whole(KEY, MIN, memoryview(bytes(BLOB_BYTES_MAX - MIN + 1))) is None


def test_little_is_not_worth_keeping() -> None:
    partials = Partials()
    partials.keep(0, KEY, 0, WHOLE[: MIN - 1])
    assert len(partials) == 0


def test_they_are_bounded_and_the_oldest_go_first() -> None:
    partials = Partials(bytes_max=3 * MIN)
    for at, key in enumerate((b"a" * 64, b"b" * 64, b"c" * 64)):
        partials.keep(at, key, 0, WHOLE[: MIN + at])
    partials.check()
    assert partials.begun(3, b"a" * 64) is None
    assert partials.begun(3, b"c" * 64) is not None
    partials.keep(4, KEY, 0, WHOLE)  # larger than all that may be
    assert len(partials) == 2
    assert len(Partials.beside(memory_bytes=8 * MIN)._partials) == 0
    assert Partials.beside(memory_bytes=8 * MIN)._bytes_max == MIN


def test_what_nobody_asked_for_again_is_forgotten() -> None:
    partials = Partials()
    partials.keep(0, KEY, 0, WHOLE[:MIN])
    partials.keep(1, OTHER, 0, WHOLE[:MIN])
    assert partials.begun(PARTIAL_S + 0.5, KEY) is None
    assert partials.begun(PARTIAL_S + 0.5, OTHER) is not None
    assert partials.begun(PARTIAL_S + 2, OTHER) is None
    assert partials.nbytes == 0
