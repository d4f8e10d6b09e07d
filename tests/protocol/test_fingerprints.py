"""protocol/fingerprints.py: sets of keys in few bytes."""

from __future__ import annotations

from array import array

import pytest
from edgecache.protocol import fingerprints
from edgecache.protocol.errors import RemoteProtocolError
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.integers(0, 2**32 - 1)


@given(st.sets(VALUES, max_size=300))
def test_a_set_survives_its_journey(values: set[int]) -> None:
    held = array("I", sorted(values))
    packed = fingerprints.pack(held)
    assert len(packed) == fingerprints.packed_bytes(len(held))
    assert fingerprints.unpack(len(held), packed) == held


@pytest.mark.parametrize("values", [[], [0], [2**32 - 1], [0, 2**32 - 1], range(1000), range(2**32 - 1000, 2**32)])
def test_the_ends_of_the_range_are_values_like_others(values: list[int]) -> None:
    held = array("I", values)
    assert fingerprints.unpack(len(held), fingerprints.pack(held)) == held


def test_50000_keys_take_less_than_2_bytes_and_a_half_each() -> None:
    assert 18 < 8 * fingerprints.packed_bytes(50_000) / 50_000 < 18.5
    assert fingerprints.packed_bytes(262_144) < 600_000


@given(st.integers(0, 300), st.binary(max_size=700))
def test_garbage_is_refused_or_is_a_set(count: int, data: bytes) -> None:
    try:
        held = fingerprints.unpack(count, data)
    except RemoteProtocolError:
        return
    assert sorted(set(held)) == list(held)
    assert len(held) == count


@given(st.sets(VALUES, min_size=1, max_size=50), st.data())
def test_damage_is_refused_or_is_another_set(values: set[int], data: st.DataObject) -> None:
    packed = bytearray(fingerprints.pack(array("I", sorted(values))))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        held = fingerprints.unpack(len(values), bytes(packed))
    except RemoteProtocolError:
        return
    assert sorted(set(held)) == list(held)


@pytest.mark.parametrize(("count", "size"), [(2**31, 8), (-1, 0), (1, 0), (0, 1), (2**40, 1), (50_000, 114_438)])
def test_a_count_that_the_bytes_do_not_bear_out_is_refused_before_anything_is_made(count: int, size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{count} fingerprints in {size} bytes"):
        fingerprints.unpack(count, bytes(size))


def test_a_list_of_half_a_fingerprint_is_refused() -> None:
    assert fingerprints.from_list(fingerprints.listed([7, 2**32 - 1])) == [7, 2**32 - 1]
    with pytest.raises(RemoteProtocolError, match="of 5 bytes"):
        fingerprints.from_list(bytes(5))
