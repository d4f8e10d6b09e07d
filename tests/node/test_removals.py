"""node/removals.py: which features a removal is about, whoever hears of it when."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from edgecache.node import removals as limits
from edgecache.node.removals import KEPT_S, PARTS, Removals
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import STAMP_MAX, Payload

KEY = FeatureKey(b"i" * 32, EncoderIdentity.declared("mine", "1"))
OTHER = FeatureKey(b"j" * 32, EncoderIdentity.declared("mine", "1"))


def node(name: str) -> Removals:
    return Removals(random.Random(name))


def made(knows: int, key: FeatureKey = KEY) -> Payload:
    return payloads.encode(np.ones((1, 4), np.float32), key).knowing(knows)


@pytest.mark.parametrize("name", [KEY.packed, KEY.digest])
def test_a_removal_is_about_what_was_made_before_it_and_not_about_what_is_made_after(name: bytes) -> None:
    here = node("a")
    before = made(here.known(KEY))
    here.make([name], 10.0)
    after = made(here.known(KEY))
    assert not here.allows(before)
    assert here.allows(after)
    assert here.allows(made(0, OTHER))


def test_who_hears_late_keeps_what_was_made_after_it_whatever_comes_first() -> None:
    one, late = node("a"), node("b")
    before = made(0)
    stamp = one.make([KEY.digest], 10.0)
    after = made(one.known(KEY))
    assert late.allows(before)
    assert late.allows(after)
    assert late.hear(KEY.digest, stamp, 5, 100.0)
    assert not late.allows(before)
    assert late.allows(after)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_hearing_does_not_matter(order: tuple[int, ...]) -> None:
    said = [(KEY.packed, 3), (KEY.packed, 7), (KEY.digest, 5)]
    here = node("a")
    for index in order:
        here.hear(*said[index], 0, 1.0)
    assert here.known(KEY) == 7
    assert here.sum == _all_in_order(said).sum
    assert here.sums() == _all_in_order(said).sums()
    here.check()


def _all_in_order(said: list[tuple[bytes, int]]) -> Removals:
    here = node("b")
    for name, stamp in said:
        here.hear(name, stamp, 0, 1.0)
    return here


def test_an_old_removal_heard_again_is_no_news() -> None:
    here = node("a")
    assert here.hear(KEY.packed, 7, 0, 1.0)
    assert not here.hear(KEY.packed, 7, 0, 1.0)
    assert not here.hear(KEY.packed, 6, 0, 1.0)
    assert not here.hear(OTHER.packed, 6, KEPT_S, 1.0)


@pytest.mark.parametrize("stamp", [0, -1, STAMP_MAX + 1, 2**63])
def test_a_stamp_that_no_node_gives_is_refused(stamp: int) -> None:
    with pytest.raises(InvalidValue, match="stamp"):
        node("a").hear(KEY.packed, stamp, 0, 1.0)
    with pytest.raises(InvalidValue, match="stamp"):
        node("a").take_over([KEY.packed], stamp, 1.0)


def test_nobody_counts_beyond_what_others_believe() -> None:
    here = node("a")
    here.hear(KEY.packed, STAMP_MAX, 0, 1.0)
    assert here.make([OTHER.packed], 2.0) == STAMP_MAX


def test_a_member_that_has_counted_further_gives_a_removal_a_stamp_that_counts() -> None:
    restarted, other = node("a"), node("b")
    other.hear(KEY.digest, 2**40, 0, 1.0)
    again = made(2**40)  # given again after that removal
    stamp = restarted.make([KEY.digest], 2.0)
    taken = other.take_over([KEY.digest], stamp, 2.0)
    assert taken > 2**40
    assert not other.allows(again)
    assert other.take_over([KEY.digest], taken, 2.0) == taken  # the same once more


def test_a_removal_that_came_as_a_rumor_first_is_the_same_removal() -> None:
    one, other = node("a"), node("b")
    stamp = one.make([KEY.digest, OTHER.packed], 1.0)
    other.hear(KEY.digest, stamp, 0, 1.0)
    assert other.take_over([KEY.digest, OTHER.packed], stamp, 1.0) == stamp
    assert other.sum == one.sum


def test_what_a_kept_payload_knew_counts_too() -> None:
    here = node("a")
    here.saw(made(2**40))
    assert here.make([KEY.packed], 1.0) == 2**40 + 1


def test_removals_end_by_age_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEPT_MAX", 10)
    here = node("a")
    here.make([bytes([number]) * 32 for number in range(15)], 0.0)
    assert len(here) == 10
    here.hear(KEY.digest, 2**30, KEPT_S / 2, 0.0)
    here.check()
    here.tick(KEPT_S / 2 + 1)  # what was heard late is older than what was heard before it
    assert here.known(KEY) == 0
    assert len(here) == 9
    here.check()
    here.tick(KEPT_S + 1)
    assert here.sum == 0
    assert len(here) == 0
    assert here.sums() == bytes(8 * PARTS)
    assert here.allows(made(0))


def test_of_too_many_every_node_keeps_the_same_whatever_it_heard_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEPT_MAX", 10)
    said = [(bytes([number]) * 32, 1 + number) for number in range(40)]
    digests = set()
    for seed in range(5):
        here = node("a")
        for name, stamp in random.Random(seed).sample(said, len(said)):
            here.hear(name, stamp, 0, 1.0)
            here.check()
        assert sorted(removal.stamp for removal in here.all()) == list(range(31, 41))
        digests.add(here.sum)
    assert len(digests) == 1


def test_parts_that_differ_are_named_and_exchanged() -> None:
    one, other = node("a"), node("b")
    one.make([KEY.digest], 0.0)
    other.make([OTHER.digest], 0.0)
    differing = one.differing(other.sums())
    assert differing == sorted({KEY.digest[0] % PARTS, OTHER.digest[0] % PARTS})
    for number in differing:
        for removal in one.part(number, 10):
            other.hear(removal.name, removal.stamp, 0, 1.0)
        for removal in other.part(number, 10):
            one.hear(removal.name, removal.stamp, 0, 1.0)
    assert one.differing(other.sums()) == []
    assert one.sum == other.sum


def test_news_are_told_once_and_only_so_many() -> None:
    here = node("a")
    here.make([number.to_bytes(32, "big") for number in range(limits.UNTOLD_MAX + 5)], 0.0)
    assert len(here.untold()) == limits.UNTOLD_MAX
    assert here.untold() == []
