"""node/tombstones.py: what was forgotten stays forgotten."""

from __future__ import annotations

from edgecache.node.tombstones import KEPT_MAX, KEPT_S, Tombstones
from edgecache.protocol.keys import EncoderIdentity, FeatureKey

KEY = FeatureKey(b"i" * 32, EncoderIdentity.declared("mine", "1"))


def test_features_made_before_they_were_forgotten_are_forbidden_and_later_ones_are_not() -> None:
    for name in (KEY.packed, KEY.digest):
        tombstones = Tombstones()
        tombstones.add(name, now=10.0)
        assert tombstones.forbids(KEY, started=9.9)
        assert not tombstones.forbids(KEY, started=10.1)


def test_other_images_are_not_forbidden() -> None:
    tombstones = Tombstones()
    tombstones.add(b"j" * 32, now=10.0)
    assert not tombstones.forbids(KEY, started=0.0)


def test_tombstones_are_bounded_in_time_and_number() -> None:
    tombstones = Tombstones()
    tombstones.add(b"old", now=0.0)
    for number in range(KEPT_MAX + 10):
        tombstones.add(number.to_bytes(4), now=KEPT_S + 1)
    assert len(tombstones) == KEPT_MAX
