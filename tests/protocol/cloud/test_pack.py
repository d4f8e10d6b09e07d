"""Packs: what goes in is found again, and damage is noticed."""

from __future__ import annotations

import struct

import pytest
from edgecache.protocol.cloud import pack
from edgecache.protocol.cloud.pack import ENTRY_BYTES, FOOTER_BYTES, Footer, PackIndex, PackWriter
from edgecache.protocol.errors import CorruptPayload
from edgecache.protocol.keys import digest_of
from hypothesis import given
from hypothesis import strategies as st

ENCODER = digest_of(b"an encoder")
DIGESTS = st.binary(min_size=32, max_size=32)


def packed(payloads: dict[bytes, bytes]) -> bytes:
    writer = PackWriter(ENCODER)
    for digest, payload in payloads.items():
        writer.add(digest, payload)
    return bytes(writer.finish()[1])


def index_of(data: bytes) -> PackIndex:
    footer = Footer.parse(data[-FOOTER_BYTES:], len(data), ENCODER)
    return PackIndex(footer, data[footer.index_at : footer.index_at + footer.index_bytes])


@given(st.dictionaries(DIGESTS, st.binary(max_size=200), max_size=20), DIGESTS)
def test_every_payload_is_found_where_the_index_says_and_no_other(payloads: dict[bytes, bytes], other: bytes) -> None:
    data = packed(payloads)
    index = index_of(data)
    assert list(index) == sorted(payloads)
    assert len(index) == len(payloads)
    for digest, payload in payloads.items():
        start, length = index.find(digest) or (0, 0)
        assert start % 64 == 0
        assert data[start : start + length] == payload
    if other not in payloads:
        assert index.find(other) is None


def test_the_same_features_make_the_same_pack() -> None:
    writers = [PackWriter(ENCODER) for _ in range(2)]
    for writer in writers:
        writer.add(b"a" * 32, b"features")
    assert writers[0].finish() == writers[1].finish()


def test_the_first_payload_of_an_image_counts() -> None:
    writer = PackWriter(ENCODER)
    writer.add(b"a" * 32, b"first")
    writer.add(b"a" * 32, b"second")
    data = bytes(writer.finish()[1])
    assert index_of(data).find(b"a" * 32) == (64, 5)


def test_a_pack_is_full_by_bytes_or_by_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PACK_BYTES_USUAL", 1000)
    monkeypatch.setattr(pack, "ENTRIES_MAX", 3)
    by_bytes, by_entries = PackWriter(ENCODER), PackWriter(ENCODER)
    by_bytes.add(b"a" * 32, bytes(500))
    assert not by_bytes.is_full
    by_bytes.add(b"b" * 32, bytes(500))
    assert by_bytes.is_full
    for name in (b"a", b"b", b"c"):
        assert not by_entries.is_full
        by_entries.add(name * 32, b"x")
    assert by_entries.is_full


GOOD = packed({bytes([n]) * 32: bytes([n]) * 100 for n in range(5)})


@pytest.mark.parametrize("at", range(len(GOOD) - FOOTER_BYTES - 5 * ENTRY_BYTES, len(GOOD)))
def test_a_flipped_bit_in_index_or_footer_is_noticed(at: int) -> None:
    if len(GOOD) - FOOTER_BYTES + 20 <= at < len(GOOD) - FOOTER_BYTES + 24:
        return  # padding
    bad = bytearray(GOOD)
    bad[at] ^= 0x10
    with pytest.raises(CorruptPayload):
        index_of(bytes(bad))


@pytest.mark.parametrize("size", [0, 1, 63, 64, len(GOOD) - 1])
def test_a_pack_that_was_cut_is_noticed(size: int) -> None:
    with pytest.raises(CorruptPayload):
        index_of(GOOD[:size])


def test_a_pack_of_another_encoder_is_refused() -> None:
    with pytest.raises(CorruptPayload, match="of encoder"):
        Footer.parse(GOOD[-FOOTER_BYTES:], len(GOOD), digest_of(b"another"))


def test_a_footer_cannot_make_anybody_read_more_than_there_is() -> None:
    footer = bytearray(GOOD[-FOOTER_BYTES:])
    struct.pack_into("<I", footer, 16, 0xFFFFFFFF)
    with pytest.raises(CorruptPayload, match="4294967295 entries"):
        Footer.parse(bytes(footer), len(GOOD), ENCODER)


@pytest.mark.parametrize(("start", "length"), [(0, 10), (64, 1 << 30), (1 << 40, 10)])
def test_an_index_that_points_out_of_its_pack_is_refused(start: int, length: int) -> None:
    import xxhash

    entry = struct.pack("<32sQI4x", b"a" * 32, start, length & 0xFFFFFFFF)
    footer = Footer(index_at=200, entries=1, checksum=xxhash.xxh3_64_intdigest(entry))
    with pytest.raises(CorruptPayload, match=f"at {start}"):
        PackIndex(footer, entry)


def test_an_index_out_of_order_is_refused() -> None:
    import xxhash

    entries = b"".join(struct.pack("<32sQI4x", name * 32, 64, 10) for name in (b"b", b"a"))
    footer = Footer(index_at=200, entries=2, checksum=xxhash.xxh3_64_intdigest(entries))
    with pytest.raises(CorruptPayload):
        PackIndex(footer, entries)
