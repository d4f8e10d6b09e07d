"""Which slot of which segment holds which entry on disk. Pure: places and sizes, no files.

A segment is a file of equal slots, allocated whole when it is made: a node whose segments exist cannot run out of disk,
an entry is written once and where it stays, and what it leaves free fits the next of its size. Features of one encoder
all have one size, so a slot wastes little (3 % at most, for each size is rounded up to a 32nd of a power of two).

The known weakness of slabs is that their sizes outlive their use. Here a segment is emptied, by moving what it holds
into free slots of its kind, as soon as those can take it and another size needs room (`to_drain`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

_PAGE_BYTES = 4096
SEGMENT_HEADER_BYTES = _PAGE_BYTES
SEGMENT_BYTES_MIN = 256 * 1024
SEGMENTS_USUAL = 256  # each is a descriptor, and at worst one for each size of entry is nearly empty
SLOTS_USUAL_MIN = 8
SEGMENT_SHARE_MAX = 32  # for so many slots, a segment may take a 32nd of the store
SLOT_BYTES_MIN = 256
_STEPS = 32
# Before anything is evicted, a slot this much too large will do: sizes that vary a little share their segments.
_LARGER = 9 / 8


class Place(NamedTuple):
    """A slot: the number of its segment, and its number there."""

    segment: int
    slot: int


class Segment(NamedTuple):
    """What a segment file says of itself."""

    number: int
    slot_bytes: int
    nbytes: int

    @property
    def slots(self) -> int:
        """How many slots it has."""
        return (self.nbytes - SEGMENT_HEADER_BYTES) // self.slot_bytes

    def offset(self, slot: int) -> int:
        """Where in the file a slot starts."""
        return SEGMENT_HEADER_BYTES + slot * self.slot_bytes


@dataclass(slots=True)
class _Occupied:
    shape: Segment
    keys: list[bytes | None]
    free: list[int]

    @property
    def used(self) -> int:
        return len(self.keys) - len(self.free)


def slot_bytes_for(record_bytes: int) -> int:
    """The size of the slots that a record of so many bytes goes into."""
    if record_bytes <= SLOT_BYTES_MIN:
        return SLOT_BYTES_MIN
    step = (1 << (record_bytes - 1).bit_length()) // (2 * _STEPS)
    return -(-record_bytes // step) * step


def segment_bytes_for(capacity_bytes: int) -> int:
    """The usual size of a segment in a store of `capacity_bytes`."""
    return max(SEGMENT_BYTES_MIN, capacity_bytes // SEGMENTS_USUAL)


class Slots:
    """The segments of one store. `held_bytes`, the size of all its files, is kept to `capacity_bytes`.

    `occupied_bytes` of that are the slots that hold something.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self.occupied_bytes = 0
        self._segment_bytes = segment_bytes_for(capacity_bytes)
        self._segments: dict[int, _Occupied] = {}
        self._with_room: dict[int, dict[int, None]] = {}  # slot bytes -> numbers of segments with a free slot, in order
        self._next = 0

    # -- segments -----------------------------------------------------------------------------------------------

    def segments(self) -> list[Segment]:
        """Every segment, oldest first."""
        return [self._segments[number].shape for number in sorted(self._segments)]

    def shape(self, number: int) -> Segment:
        """The segment of that number."""
        return self._segments[number].shape

    def add(self, shape: Segment) -> None:
        """A segment exists, all its slots free."""
        self._segments[shape.number] = _Occupied(shape, [None] * shape.slots, list(range(shape.slots))[::-1])
        self._with_room.setdefault(shape.slot_bytes, {})[shape.number] = None
        self.held_bytes += shape.nbytes
        self._next = max(self._next, shape.number + 1)

    def lose(self, number: int) -> list[bytes]:
        """A segment is gone; the keys that were in it."""
        segment = self._segments.pop(number)
        self._with_room[segment.shape.slot_bytes].pop(number, None)
        self.held_bytes -= segment.shape.nbytes
        self.occupied_bytes -= segment.used * segment.shape.slot_bytes
        return [key for key in segment.keys if key is not None]

    def next_segment(self, slot_bytes: int, taken_bytes: int = 0) -> Segment | None:
        """The segment to make for slots of that size; None when there is no room. `taken_bytes` lie in other files."""
        few = min(SLOTS_USUAL_MIN, self.capacity_bytes // SEGMENT_SHARE_MAX // slot_bytes)
        slots = max(self._segment_bytes // slot_bytes, few, 1)
        nbytes = SEGMENT_HEADER_BYTES + -(-slots * slot_bytes // _PAGE_BYTES) * _PAGE_BYTES
        if self.held_bytes + taken_bytes + nbytes > self.capacity_bytes:
            return None
        return Segment(self._next, slot_bytes, nbytes)

    def skip(self, number: int) -> None:
        """Something that is no segment has the name of the segment of that number."""
        self._next = max(self._next, number + 1)

    def to_drain(self, slot_bytes: int, without: Container[int] = ()) -> int | None:
        """The segment of another slot size that other segments of its size can take in, the emptiest; None if none."""
        best: tuple[int, int] | None = None
        for size, numbers in self._with_room.items():
            if size == slot_bytes or not numbers:
                continue
            room = sum(len(self._segments[number].free) for number in numbers)
            used, number = min((self._segments[number].used, number) for number in numbers)
            if (
                number not in without
                and used <= room - len(self._segments[number].free)
                and (best is None or (used, number) < best)
            ):
                best = used, number
        return None if best is None else best[1]

    # -- slots --------------------------------------------------------------------------------------------------

    def take(self, slot_bytes: int, key: bytes, *, without: int | None = None) -> Place | None:
        """A free slot of that size, taken for `key`; None when there is none outside the segment `without`."""
        for number in self._with_room.get(slot_bytes, ()):
            if number != without:
                place = Place(number, self._segments[number].free[-1])
                self.occupy(place, key)
                return place
        return None

    def take_larger(self, slot_bytes: int, key: bytes) -> Place | None:
        """A free slot a little larger than that, taken for `key`; None when there is none."""
        sizes = [size for size, numbers in self._with_room.items() if numbers and slot_bytes < size]
        if not sizes or min(sizes) > slot_bytes * _LARGER:
            return None
        return self.take(min(sizes), key)

    def occupy(self, place: Place, key: bytes) -> None:
        """A slot that was free holds `key`."""
        segment = self._segments[place.segment]
        assert segment.keys[place.slot] is None, place
        if segment.free[-1] == place.slot:
            segment.free.pop()
        else:  # only while a store is loaded
            segment.free.remove(place.slot)
        segment.keys[place.slot] = key
        self.occupied_bytes += segment.shape.slot_bytes
        if not segment.free:
            self._with_room[segment.shape.slot_bytes].pop(place.segment, None)

    def free(self, place: Place) -> None:
        """A slot holds nothing any more. One in a segment that is gone is no news."""
        segment = self._segments.get(place.segment)
        if segment is None:
            return
        assert segment.keys[place.slot] is not None, place
        segment.keys[place.slot] = None
        self.occupied_bytes -= segment.shape.slot_bytes
        segment.free.append(place.slot)
        self._with_room[segment.shape.slot_bytes][place.segment] = None

    def occupants(self, number: int) -> Iterator[tuple[Place, bytes]]:
        """What a segment holds."""
        for slot, key in enumerate(tuple(self._segments[number].keys)):
            if key is not None:
                yield Place(number, slot), key

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        assert self.held_bytes == sum(segment.shape.nbytes for segment in self._segments.values())
        assert self.occupied_bytes == sum(it.used * it.shape.slot_bytes for it in self._segments.values())
        for number, segment in self._segments.items():
            assert sorted(segment.free) == [slot for slot, key in enumerate(segment.keys) if key is None]
            assert (number in self._with_room[segment.shape.slot_bytes]) == bool(segment.free)
