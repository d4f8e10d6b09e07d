"""Segments as files: make, load, write, read, erase. Blocking, and to be called from one thread, reads from any.

A segment file is `segment-` and eight hexadecimal digits: a page that says its number and the size of its slots, then
the slots. What cannot be read as one is set aside as `segment.corrupt`, one such file at most.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import xxhash

from .access_history import USE_BYTES_MAX, USES_MAX, unpack_history
from .directory import Directory, File
from .records import ERASED, HEADER_BYTES, Header, data_of, header_of, read_header
from .slots import SEGMENT_HEADER_BYTES, SLOT_BYTES_MIN, Place, Segment

_HEADER = struct.Struct("<8sIIQ")
_CHECKSUM = struct.Struct("<Q")
_MAGIC = b"ECSEG001"
_NAME = re.compile(r"segment-([0-9a-f]{8})", re.ASCII)
_CORRUPT = "segment.corrupt"
_PROBE = "probe"
_HISTORY, _NEW_HISTORY = "history", "history.new"
# Records smaller than a page share pages, so all of a segment is read at once; of others only the pages of headers.
_SCAN_WHOLE_SLOT_BYTES_MAX = 8192

_log = logging.getLogger(__name__)


class Write(NamedTuple):
    """A record to be written."""

    place: Place
    sequence: int
    key: bytes
    data: memoryview


class Loaded(NamedTuple):
    """A whole header found in a slot."""

    place: Place
    header: Header


class SegmentFiles:
    """The segment files of one directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._open: dict[int, tuple[Segment, File]] = {}

    # -- start --------------------------------------------------------------------------------------------------

    def load(self, capacity_bytes: int) -> tuple[list[Segment], list[Loaded]]:
        """Open what is there, the newest segments first while they fit; the rest goes. What their slots hold."""
        found: list[Loaded] = []
        held_bytes = self.set_aside_bytes()
        for name in reversed(self._directory.names()):
            match = _NAME.fullmatch(name)
            if match is None:
                if name == _PROBE:
                    self._directory.remove(name)
                continue
            try:
                segment, file = self._opened(name, int(match[1], 16))
                headers = list(_headers(segment, file))
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno != errno.EIO:
                    raise  # no permission, no descriptors: the file may be as good as ever
                self._set_aside(name, error)
                continue
            if held_bytes + segment.nbytes > capacity_bytes:  # the capacity was greater once
                self._directory.remove(name)
                continue
            held_bytes += segment.nbytes
            self._open[segment.number] = segment, file
            found.extend(headers)
        return [segment for segment, _ in self._open.values()], found

    def set_aside_bytes(self) -> int:
        """What the set-aside file takes."""
        try:
            return self._directory.size(_CORRUPT)
        except FileNotFoundError:
            return 0

    def _opened(self, name: str, number: int) -> tuple[Segment, File]:
        file = self._directory.open(name)
        page = file.read(_HEADER.size + _CHECKSUM.size, 0)
        if len(page) < _HEADER.size + _CHECKSUM.size:
            raise ValueError(f"{file.nbytes} bytes")
        magic, told_number, slot_bytes, nbytes = _HEADER.unpack_from(page)
        (checksum,) = _CHECKSUM.unpack_from(page, _HEADER.size)
        if magic != _MAGIC or xxhash.xxh3_64_intdigest(page[: _HEADER.size]) != checksum or told_number != number:
            raise ValueError("its header is not that of such a segment")
        if nbytes != file.nbytes or slot_bytes < SLOT_BYTES_MIN:
            raise ValueError(f"{file.nbytes} bytes, {nbytes} expected")
        return Segment(number, slot_bytes, nbytes), file

    def _set_aside(self, name: str, why: Exception) -> None:
        try:
            self._directory.rename(name, _CORRUPT)
        except OSError as error:
            _log.warning("%s cannot be used (%s), nor set aside (%s)", name, why, error)
        else:
            _log.warning("%s cannot be used (%s): set aside as %s", name, why, _CORRUPT)

    # -- the access history -------------------------------------------------------------------------------------

    def load_history(self) -> list[int]:
        """The uses that `save_history` has kept; none where it has not, or where it cannot be read."""
        try:
            if (nbytes := self._directory.size(_HISTORY)) > USES_MAX * USE_BYTES_MAX:
                raise ValueError(f"{nbytes} bytes, at most {USES_MAX * USE_BYTES_MAX}")
            return unpack_history(self._directory.open(_HISTORY).read(nbytes, 0))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            _log.warning("the access history cannot be used (%s): the order of evictions starts anew", error)
            return []

    def save_history(self, packed: bytes) -> None:
        """Keep the access history; after a power cut it is the old or the new. OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._directory.remove(_NEW_HISTORY)
        file = self._directory.create(_NEW_HISTORY, len(packed))
        file.write([packed], 0)
        file.sync()
        self._directory.rename(_NEW_HISTORY, _HISTORY)
        self._directory.sync()

    # -- segments -----------------------------------------------------------------------------------------------

    def create(self, segment: Segment) -> None:
        """Make the file of a new segment; after a power cut it is there, or was never written to. OSError."""
        name = _name(segment.number)
        file = self._directory.create(name, segment.nbytes)
        try:
            fields = _HEADER.pack(_MAGIC, segment.number, segment.slot_bytes, segment.nbytes)
            file.write([fields + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(fields))], 0)
            file.sync()
            self._directory.sync()
        except OSError:
            self._directory.remove(name)
            raise
        self._open[segment.number] = segment, file

    def delete(self, number: int) -> None:
        """A segment whose records are elsewhere goes, for good."""
        del self._open[number]
        self._directory.remove(_name(number))
        self._directory.sync()  # or it could be back after a power cut, with entries that were removed since

    def probe(self, nbytes: int) -> None:
        """OSError unless a file of `nbytes` can be made, written and synced now."""
        file = self._directory.create(_PROBE, nbytes)
        try:
            file.write([ERASED], 0)
            file.sync()
        finally:
            self._directory.remove(_PROBE)

    # -- records ------------------------------------------------------------------------------------------------

    def write(self, writes: Iterable[Write], erase: Iterable[Place]) -> None:
        """Put records into their slots, then wipe the headers of others. OSError."""
        for place, sequence, key, data in writes:
            segment, file = self._open[place.segment]
            file.write([header_of(key, sequence, data), data], segment.offset(place.slot))
        for place in erase:
            if (known := self._open.get(place.segment)) is not None:
                segment, file = known
                file.write([ERASED], segment.offset(place.slot))

    def read(self, place: Place, key: bytes, sequence: int, data_bytes: int) -> memoryview | None:
        """The data of a record; None when it is another's by now, or not whole. OSError."""
        known = self._open.get(place.segment)
        if known is None:
            return None
        segment, file = known
        return data_of(file.read(HEADER_BYTES + data_bytes, segment.offset(place.slot)), key, sequence)

    def sync(self, numbers: Iterable[int]) -> None:
        """Return when all that was written to these segments would survive a power cut. OSError."""
        for number in numbers:
            if (known := self._open.get(number)) is not None:
                known[1].sync()

    def close(self) -> None:
        """Let go of the files and the directory."""
        self._open.clear()
        self._directory.close()


def newest(found: Iterable[Loaded], files: SegmentFiles) -> tuple[list[Loaded], list[Place]]:
    """Of records of one key the newest that is whole, oldest first; and the places of the others.

    There are two where a record was replaced or moved and the power went before the old one was erased.
    """
    kept: dict[bytes, Loaded] = {}
    stale: list[Place] = []
    for loaded in sorted(found, key=lambda loaded: (loaded.header.sequence, loaded.place)):
        key, sequence, data_bytes, _ = loaded.header
        older = kept.get(key)
        if older is None:
            kept[key] = loaded
        elif files.read(loaded.place, key, sequence, data_bytes) is not None:
            stale.append(older.place)
            kept[key] = loaded
        else:  # its header had reached the disk, and not all of its data
            stale.append(loaded.place)
    return sorted(kept.values(), key=lambda loaded: loaded.header.sequence), stale


def is_full(error: OSError) -> bool:
    """Whether the disk, or this user's share of it, is full: what is there can still be used."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _headers(segment: Segment, file: File) -> Iterator[Loaded]:
    if segment.slot_bytes <= _SCAN_WHOLE_SLOT_BYTES_MAX:
        whole = memoryview(file.read(segment.nbytes, 0))
        pieces = (whole[segment.offset(slot) :][:HEADER_BYTES] for slot in range(segment.slots))
    else:
        pieces = (memoryview(file.read(HEADER_BYTES, segment.offset(slot))) for slot in range(segment.slots))
    for slot, piece in enumerate(pieces):
        header = read_header(piece)
        if header is not None and header.data_bytes <= segment.slot_bytes - HEADER_BYTES:
            yield Loaded(Place(segment.number, slot), header)


def _name(number: int) -> str:
    return f"segment-{number:08x}"


assert _HEADER.size + _CHECKSUM.size <= SEGMENT_HEADER_BYTES
