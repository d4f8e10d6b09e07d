"""node/store/access_history.py: which entries were used lately, over a restart."""

from __future__ import annotations

import random

import pytest
from edgecache.node.store.access_history import USE_BYTES_MAX, USES_MAX, AccessHistory, unpack_history


def test_uses_come_back_in_order() -> None:
    uses = [5, 3, 2**60, 1, 5]
    assert unpack_history(AccessHistory(uses).packed()) == uses
    assert unpack_history(AccessHistory().packed()) == []


def test_only_the_last_uses_are_kept() -> None:
    assert list(AccessHistory(range(10), uses_max=3)) == [7, 8, 9]
    assert AccessHistory(uses_max=2 * USES_MAX).uses_max == USES_MAX


def test_when_it_is_full_the_oldest_eighth_goes() -> None:
    history = AccessHistory(range(16), uses_max=16)
    history.used(16, now=1.0)
    assert list(history) == list(range(2, 17))


def test_an_entry_used_a_thousand_times_a_second_counts_once_in_it() -> None:
    history = AccessHistory()
    for now in range(2500):
        history.used(1, now / 1000)
    history.used(2, 2.4)
    assert list(history) == [1, 1, 1, 2]


def test_it_is_packed_small() -> None:
    rng = random.Random(1)
    uses = [rng.randrange(7000) for _ in range(50_000)]
    assert len(AccessHistory(uses).packed()) < 3.5 * len(uses)
    worst = [rng.getrandbits(62) for _ in range(10_000)]
    assert len(AccessHistory(worst).packed()) <= USE_BYTES_MAX * len(worst)


def test_what_is_used_often_and_lately_is_worth_most() -> None:
    worth = AccessHistory([1, 2, 2, 1, 3, 4, 2]).worth()
    assert sorted(worth, key=lambda sequence: -worth[sequence]) == [2, 4, 3, 1]


@pytest.mark.parametrize("at", [0, 8, 15, 16, 20, -1])
def test_a_damaged_history_is_refused(at: int) -> None:
    packed = bytearray(AccessHistory(range(100)).packed())
    packed[at] ^= 4
    with pytest.raises(ValueError, match="access history"):
        unpack_history(bytes(packed))


def test_a_history_cut_short_is_refused() -> None:
    packed = AccessHistory(range(100)).packed()
    for length in range(0, len(packed), 5):
        with pytest.raises(ValueError, match="access history"):
            unpack_history(packed[:length])
