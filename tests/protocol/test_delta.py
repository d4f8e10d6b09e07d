"""A payload as its difference from another: to the byte, or not at all."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest
from edgecache.protocol import delta
from edgecache.protocol.errors import CorruptPayload
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Codec, Payload, encode, parse

ENCODER = EncoderIdentity.declared("cameras", "1")
SHAPE = (64, 192)


def frame(number: int, *, moved: float = 0.1, codec: Codec = Codec.INT8, shape: tuple[int, int] = SHAPE) -> Payload:
    """Features of one scene, each frame with noise of its own."""
    scene = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    noise = np.random.default_rng(100 + number).standard_normal(shape).astype(np.float32)
    return encode(scene + moved * noise * (number > 0), FeatureKey(bytes([number]) * 32, ENCODER), codec=codec)


@pytest.mark.parametrize("moved", [0.0, 1e-4, 0.01, 0.1])
def test_a_frame_is_its_difference_from_the_one_before_to_the_byte(moved: float) -> None:
    base, now = frame(0), frame(1, moved=moved)
    told = delta.difference(base, now)
    assert told is not None
    assert len(told) < delta.DIFFERENCE_SHARE_MAX * now.nbytes
    assert delta.applied(base, told) == bytes(now.data)


def test_where_nothing_moved_nearly_nothing_is_told() -> None:
    base, now = frame(0), frame(1, moved=0.0)
    told = delta.difference(base, now)
    assert told is not None
    assert len(told) < 0.1 * now.nbytes


@pytest.mark.parametrize(
    "base",
    [frame(0, codec=Codec.FLOAT16), frame(0, shape=(64, 191)), frame(3, moved=50.0)],
    ids=["other codec", "other shape", "other scene"],
)
def test_what_is_not_alike_is_told_as_a_whole(base: Payload) -> None:
    assert delta.difference(base, frame(1)) is None


def test_blank_features_which_rest_compressed_are_told_as_a_whole() -> None:
    blank = encode(np.ones(SHAPE, np.float32), FeatureKey(b"b" * 32, ENCODER), codec=Codec.INT8)
    assert not delta.may_be_base(blank)
    assert delta.difference(blank, blank) is None


def test_with_another_base_the_checksum_says_so() -> None:
    now = frame(1, moved=0.01)
    told = delta.difference(frame(0), now)
    assert told is not None
    with pytest.raises(CorruptPayload):
        parse(delta.applied(frame(2), told), now.key.packed)


def test_whatever_is_flipped_or_cut_makes_no_other_payload() -> None:
    base, now = frame(0), frame(1, moved=0.01)
    told = delta.difference(base, now)
    assert told is not None
    rng, unnoticed = random.Random(1), 0
    for _ in range(200):
        broken = bytearray(told)
        broken[rng.randrange(len(told))] ^= 1 << rng.randrange(8)
        with suppress(CorruptPayload):  # zstd has a bit or two that say nothing
            assert parse(delta.applied(base, broken), now.key.packed).data == now.data
            unnoticed += 1
    assert unnoticed < 3
    for size in (0, 10, 127, 128, 300, 500, len(told) - 1):
        with pytest.raises(CorruptPayload):
            parse(delta.applied(base, told[:size]), now.key.packed)


def test_it_unpacks_to_no_more_than_its_base_has() -> None:
    small, large = frame(0, shape=(64, 192)), frame(0, shape=(64, 1024))
    told = delta.difference(large, frame(1, moved=0.0, shape=(64, 1024)))
    assert told is not None
    with pytest.raises(CorruptPayload, match="at most 12288"):
        delta.applied(small, told)


def test_it_is_asked_for_on_slow_links() -> None:
    assert delta.is_worth_it(100e6 / 8)
    assert not delta.is_worth_it(1e9 / 8)
