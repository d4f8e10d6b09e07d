"""Many payloads of one encoder as one object, each of them readable alone by a range.

Ten thousand small objects cost ten thousand requests to write and to list; a pack costs one. Layout, little-endian:

     0  magic "ECPK"   4  format version u32   8  zeros
    64  payloads, each at a multiple of 64
     …  index: 48 bytes an entry, by ascending digest: image digest 32, start u64, bytes u32, zeros 4
   -64  magic "ECPX"   4  format version u32   8  start of the index u64   16  entries u32   20  zeros 4
        24  checksum of the index u64: xxh3    32  digest of the encoder's identity 32

The index is at the end, so that a pack is written from front to back and is there whole or not at all. It says where a
payload lies and nothing else: a payload read from there still has to be the one that was asked for.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import xxhash

from ..errors import CorruptPayload
from ..keys import DIGEST_BYTES
from ..payload import PAYLOAD_BYTES_MAX

FORMAT_VERSION = 1
ENTRIES_MAX = 65_536
# What a writer that is interrupted loses at most; 440 features of 151 KB, read as one object in 5 s at 100 Mbit/s.
PACK_BYTES_USUAL = 64 * 1024 * 1024
PACK_BYTES_MAX = PACK_BYTES_USUAL + PAYLOAD_BYTES_MAX + (1 << 20)
FOOTER_BYTES = 64
ENTRY_BYTES = 48

_HEAD = struct.Struct("<4sI56x")
_ENTRY = struct.Struct("<32sQI4x")
_FOOTER = struct.Struct("<4sIQI4xQ32s")
_MAGIC, _FOOTER_MAGIC = b"ECPK", b"ECPX"
_ALIGNMENT = 64


class PackWriter:
    """Collects payloads in memory; `finish` gives the whole object."""

    def __init__(self, encoder: bytes) -> None:
        """`encoder`: the digest of the identity that all of them are of."""
        self.encoder = encoder
        self._data = bytearray(_HEAD.pack(_MAGIC, FORMAT_VERSION))
        self._entries: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """Whether it is time for another one."""
        return len(self._data) >= PACK_BYTES_USUAL or len(self._entries) >= ENTRIES_MAX

    def add(self, digest: bytes, payload: bytes | memoryview) -> None:
        """The features of the image `digest`; the first that are given for it count."""
        if digest in self._entries:
            return
        self._entries[digest] = (len(self._data), len(payload))
        self._data += payload
        self._data += bytes(-len(self._data) % _ALIGNMENT)

    def finish(self) -> tuple[bytes, bytearray]:
        """The pack's own digest, that of its index, and the object's bytes."""
        index = b"".join(_ENTRY.pack(digest, *self._entries[digest]) for digest in sorted(self._entries))
        start = len(self._data)
        checksum = xxhash.xxh3_64_intdigest(index)
        self._data += index
        self._data += _FOOTER.pack(_FOOTER_MAGIC, FORMAT_VERSION, start, len(self._entries), checksum, self.encoder)
        return sha256(index).digest(), self._data


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of a pack: where its index is."""

    index_at: int
    entries: int
    checksum: int

    @property
    def index_bytes(self) -> int:
        """How long the index is."""
        return self.entries * ENTRY_BYTES

    @classmethod
    def parse(cls, tail: bytes | memoryview, size: int, encoder: bytes) -> Footer:
        """What the last FOOTER_BYTES of a pack of `size` bytes say; CorruptPayload when it is no pack of `encoder`."""
        if len(tail) != FOOTER_BYTES:
            raise CorruptPayload(f"pack of {size} bytes: its footer alone has {FOOTER_BYTES}")
        magic, version, start, entries, checksum, whose = _FOOTER.unpack(tail)
        if magic != _FOOTER_MAGIC or version != FORMAT_VERSION:
            raise CorruptPayload(f"pack ends with {magic!r} version {version}, expected version {FORMAT_VERSION}")
        if whose != encoder:
            raise CorruptPayload(f"pack of encoder {whose.hex()[:8]}…, expected {encoder.hex()[:8]}…")
        if entries > ENTRIES_MAX or start + entries * ENTRY_BYTES + FOOTER_BYTES != size:
            raise CorruptPayload(f"pack of {size} bytes, its footer says {start} + {entries} entries")
        return cls(start, entries, checksum)


class PackIndex:
    """Where each payload of a pack lies. 48 bytes an entry: the index as it was read, searched where it is."""

    def __init__(self, footer: Footer, index: bytes | bytearray | memoryview) -> None:
        """CorruptPayload when `index` is not what the footer says, or points outside of the pack."""
        view = memoryview(index).toreadonly()
        if len(view) != footer.index_bytes or xxhash.xxh3_64_intdigest(view) != footer.checksum:
            raise CorruptPayload("index of a pack does not match its checksum")
        self._view = view
        last = b""
        for digest, start, length in _ENTRY.iter_unpack(view):
            if digest <= last or start < _HEAD.size or length > PAYLOAD_BYTES_MAX or start + length > footer.index_at:
                raise CorruptPayload(f"index of a pack: entry of {length} bytes at {start}")
            last = digest

    def __len__(self) -> int:
        return len(self._view) // ENTRY_BYTES

    def __iter__(self) -> Iterator[bytes]:
        """The image digests, ascending."""
        return (digest for digest, _, _ in _ENTRY.iter_unpack(self._view))

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return len(self._view)

    def find(self, digest: bytes) -> tuple[int, int] | None:
        """Start and length of the payload of the image `digest`."""
        at = bisect_left(range(len(self)), digest, key=self._digest) * ENTRY_BYTES
        if at == len(self._view):
            return None
        found, start, length = _ENTRY.unpack_from(self._view, at)
        return (start, length) if found == digest else None

    def _digest(self, entry: int) -> bytes:
        return bytes(self._view[entry * ENTRY_BYTES : entry * ENTRY_BYTES + DIGEST_BYTES])


assert _HEAD.size == _FOOTER.size == FOOTER_BYTES == _ALIGNMENT
assert _ENTRY.size == ENTRY_BYTES
