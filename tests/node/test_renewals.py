"""node/renewals.py: images that wait for an idle encoder."""

from __future__ import annotations

import pytest
from edgecache.node import renewals as limits
from edgecache.node.renewals import Renewals
from edgecache.protocol.keys import EncoderIdentity, FeatureKey

A, B, C, D, E, F = (
    FeatureKey(name * 32, EncoderIdentity.declared("mine", "2")) for name in (b"a", b"b", b"c", b"d", b"e", b"f")
)


def test_the_image_asked_for_last_is_encoded_first() -> None:
    renewals = Renewals()
    for key in (A, B, C, B):
        renewals.add(key, b"image " + key.digest[:1])
    assert [renewals.take() for _ in range(4)] == [
        (B, b"image b"), (C, b"image c"), (A, b"image a"), None
    ]  # fmt: skip
    renewals.check()


def test_what_is_encoded_at_once_waits_no_longer() -> None:
    renewals = Renewals()
    renewals.add(A, b"image a")
    assert A in renewals
    assert renewals.pop(A) == b"image a"
    assert renewals.pop(A) is None
    assert renewals.take() is None
    renewals.check()


def test_images_are_bounded_in_number_and_bytes_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMAGES_MAX", 3)
    monkeypatch.setattr(limits, "BYTES_MAX", 20)
    renewals = Renewals()
    for key in (A, B, C, D):
        renewals.add(key, bytes(5))
    assert len(renewals) == 3
    assert A not in renewals
    renewals.add(E, bytes(11))
    assert [key in renewals for key in (B, C, D, E)] == [False, False, True, True]
    renewals.add(F, bytes(21))
    assert F not in renewals
    renewals.check()
