"""node/sealing.py: who reads datagrams, and who cannot."""

from __future__ import annotations

import pytest
from edgecache.node.sealing import SEALED_BYTES, SENDERS_MAX, Sealing, Seals

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def test_holders_of_the_key_read_each_other() -> None:
    one, other = Sealing(KEY), Sealing(KEY)
    sealed = one.seal(b"x is dead")
    assert len(sealed) == len(b"x is dead") + SEALED_BYTES
    assert other.open(sealed) == b"x is dead"
    assert other.open(sealed) == b"x is dead"  # what is said in datagrams may come twice


def test_nothing_is_sealed_alike_twice() -> None:
    one = Sealing(KEY)
    assert one.seal(b"x") != one.seal(b"x")
    assert Sealing(KEY).seal(b"x")[:16] != Sealing(KEY).seal(b"x")[:16]


@pytest.mark.parametrize(
    "sealed",
    [b"", b"x is dead", bytes(SEALED_BYTES - 1), bytes(1400), Sealing(OTHER_KEY).seal(b"x")],
    ids=["empty", "bare", "short", "zeros", "of another key"],
)
def test_what_was_not_sealed_with_the_key_is_nothing(sealed: bytes) -> None:
    assert Sealing(KEY).open(sealed) is None


def test_any_flipped_bit_makes_it_nothing() -> None:
    sealed, other = Sealing(KEY).seal(b"x is dead"), Sealing(KEY)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        assert other.open(bytes(damaged)) is None


def test_the_keys_of_so_many_senders_are_remembered_and_strangers_push_out_nobody() -> None:
    other = Sealing(KEY)
    first = Sealing(KEY)
    assert other.open(first.seal(b"x")) == b"x"
    for number in range(SENDERS_MAX + 10):
        other.open(number.to_bytes(16, "little") + bytes(40))
    assert len(other._others) == 1
    for _ in range(SENDERS_MAX):
        other.open(Sealing(KEY).seal(b"x"))
    assert len(other._others) == SENDERS_MAX
    assert other.open(first.seal(b"y")) == b"y"


def test_while_the_key_is_changed_each_is_talked_to_with_what_it_has() -> None:
    changing, old, new = Seals([OTHER_KEY, KEY]), Seals([KEY]), Seals([OTHER_KEY])
    at_old, at_new, here = ("old", 1), ("new", 1), ("here", 1)
    for peer, address in ((old, at_old), (new, at_new)):
        both = changing.seal(b"are you there", address)
        assert sorted(peer.open(sealed, here) or b"" for sealed in both) == [b"", b"are you there"]
        assert [changing.open(sealed, address) for sealed in peer.seal(b"yes", here)] == [b"yes"]
        (one,) = changing.seal(b"good", address)
        assert peer.open(one, here) == b"good"
