"""node/store/records.py: a record proves whose it is and that it is whole."""

from __future__ import annotations

import random

import pytest
from edgecache.node.store.records import ERASED, HEADER_BYTES, Header, data_of, header_of, read_header

KEY = bytes(range(64))
DATA = b"features" * 20


def record() -> bytes:
    return header_of(KEY, 7, memoryview(DATA)) + DATA


def test_a_record_gives_its_data_back() -> None:
    header = read_header(record())
    assert header is not None
    assert (header.key, header.sequence, header.data_bytes) == (KEY, 7, len(DATA))
    assert bytes(data_of(record(), KEY, 7) or b"") == DATA


@pytest.mark.parametrize("at", range(HEADER_BYTES + len(DATA)))
def test_any_flipped_bit_is_noticed(at: int) -> None:
    damaged = bytearray(record())
    damaged[at] ^= 1 << random.Random(at).randrange(8)
    assert data_of(bytes(damaged), KEY, 7) is None


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + len(DATA) - 1])
def test_a_record_cut_short_is_none(length: int) -> None:
    assert data_of(record()[:length], KEY, 7) is None


def test_a_record_of_another_key_or_an_older_one_is_none() -> None:
    assert data_of(record(), bytes(64), 7) is None
    assert data_of(record(), KEY, 8) is None


def test_an_erased_slot_holds_nothing() -> None:
    assert read_header(ERASED) is None
    assert isinstance(read_header(record()), Header)
