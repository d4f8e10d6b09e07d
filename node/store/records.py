"""An entry on disk: 96 bytes of header, then the data. Each record proves by itself whose it is and that it is whole.

Little-endian:  0 magic "ECR1"   4 data bytes u32   8 sequence u64   16 xxh3 of the data u64   24 packed key 64
               88 xxh3 of bytes 0 to 88

A slot whose header does not check out holds nothing: erased, torn by a power cut, or rotten. So there is no index on
disk that could disagree with what lies there.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import xxhash

from ...protocol.keys import PACKED_KEY_BYTES

HEADER_BYTES = 96
ERASED = bytes(HEADER_BYTES)

_HEADER = struct.Struct("<4sIQQ64s")
_CHECKSUM = struct.Struct("<Q")
_MAGIC = b"ECR1"


class Header(NamedTuple):
    """What a record says of itself; of two records of one key the higher `sequence` is the newer."""

    key: bytes
    sequence: int
    data_bytes: int
    checksum: int


def header_of(key: bytes, sequence: int, data: memoryview) -> bytes:
    """The header to write before `data`."""
    fields = _HEADER.pack(_MAGIC, len(data), sequence, xxhash.xxh3_64_intdigest(data), key)
    return fields + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(fields))


def read_header(record: bytes | memoryview) -> Header | None:
    """The header that `record` starts with; None where there is none, or not a whole one."""
    if len(record) < HEADER_BYTES:
        return None
    magic, data_bytes, sequence, checksum, key = _HEADER.unpack_from(record)
    (expected,) = _CHECKSUM.unpack_from(record, _HEADER.size)
    if magic != _MAGIC or xxhash.xxh3_64_intdigest(record[: _HEADER.size]) != expected:
        return None
    return Header(key, sequence, data_bytes, checksum)


def data_of(record: bytes, key: bytes, sequence: int) -> memoryview | None:
    """The data of a whole `record`; None unless it is that of `key` and `sequence`, to the last bit."""
    header = read_header(record)
    if header is None or header.key != key or header.sequence != sequence:
        return None
    data = memoryview(record)[HEADER_BYTES:]
    if len(data) != header.data_bytes or xxhash.xxh3_64_intdigest(data) != header.checksum:
        return None
    return data


assert _HEADER.size + _CHECKSUM.size == HEADER_BYTES
assert PACKED_KEY_BYTES == 64
