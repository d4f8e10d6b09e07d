"""node/store/slots.py: places and sizes, no files."""

from __future__ import annotations

import random

import pytest
from edgecache.node.store.slots import (
    SEGMENT_BYTES_MIN,
    SEGMENT_HEADER_BYTES,
    Place,
    Segment,
    Slots,
    segment_bytes_for,
    slot_bytes_for,
)

MIB = 1024 * 1024


@pytest.mark.parametrize("record_bytes", [1, 255, 256, 257, 1060, 4096, 151_600, 151_601, MIB, 64 * MIB])
def test_a_slot_holds_its_record_and_wastes_a_32nd_at_most(record_bytes: int) -> None:
    slot_bytes = slot_bytes_for(record_bytes)
    assert record_bytes <= slot_bytes
    assert slot_bytes == 256 or slot_bytes < record_bytes * (1 + 1 / 32) + 1


def test_a_segment_is_a_256th_of_the_store_and_256_kib_at_least() -> None:
    assert segment_bytes_for(4096 * MIB) == 16 * MIB
    assert segment_bytes_for(16 * MIB) == SEGMENT_BYTES_MIN


def test_a_segment_has_eight_slots_where_the_store_is_not_too_small_for_that() -> None:
    for capacity_bytes, slot_bytes, slots in ((64 * MIB, 155_648, 8), (64 * MIB, MIB, 2), (4096 * MIB, 155_648, 107)):
        segment = Slots(capacity_bytes).next_segment(slot_bytes)
        assert segment is not None
        assert segment.slots == slots
        assert segment.nbytes == SEGMENT_HEADER_BYTES + slots * slot_bytes, "nothing is left over"


def test_segments_are_made_while_they_fit() -> None:
    slots = Slots(3 * 260 * 1024)
    for number in range(3):
        segment = slots.next_segment(4096)
        assert segment == Segment(number, 4096, 260 * 1024)
        slots.add(segment)
    assert slots.held_bytes == slots.capacity_bytes
    assert slots.next_segment(4096) is None


def test_what_lies_in_other_files_counts() -> None:
    slots = Slots(520 * 1024)
    assert slots.next_segment(4096, taken_bytes=260 * 1024) is not None
    assert slots.next_segment(4096, taken_bytes=260 * 1024 + 1) is None


def test_a_record_larger_than_a_segment_has_one_of_its_own() -> None:
    segment = Slots(16 * MIB).next_segment(3 * MIB)
    assert segment == Segment(0, 3 * MIB, 3 * MIB + SEGMENT_HEADER_BYTES)
    assert segment.slots == 1


def test_a_slot_a_little_too_large_will_do_before_anything_is_evicted() -> None:
    slots = Slots(MIB)
    slots.add(Segment(0, 4096, MIB))
    assert slots.take_larger(3600, b"far too small") is None
    assert slots.take_larger(4096, b"not larger") is None
    assert slots.take_larger(3700, b"key") == Place(0, 0)


def test_a_freed_slot_is_taken_again() -> None:
    slots = Slots(MIB)
    slots.add(Segment(0, 256 * 1024, MIB))  # three slots, for the header takes a page
    places = [slots.take(256 * 1024, b"%d" % n) for n in range(4)]
    assert places[:3] == [Place(0, 0), Place(0, 1), Place(0, 2)]
    assert places[3] is None
    slots.free(Place(0, 1))
    assert slots.take(256 * 1024, b"again") == Place(0, 1)


def test_a_segment_is_drained_once_others_of_its_size_can_take_it_in() -> None:
    slots = Slots(2 * MIB)
    for number in range(2):
        slots.add(Segment(number, 256 * 1024, MIB))
    places = [slots.take(256 * 1024, b"%d" % n) for n in range(6)]
    for place in places[:2]:
        assert place is not None
        slots.free(place)
    assert slots.to_drain(1024) is None  # one entry is left in segment 0, and segment 1 is full
    slots.free(Place(1, 0))
    assert slots.to_drain(1024) == 0
    assert slots.to_drain(256 * 1024) is None, "its own size has no use for that"
    assert slots.to_drain(1024, without={0}) is None


def test_the_bookkeeping_holds_whatever_is_done() -> None:
    rng = random.Random(1)
    slots = Slots(8 * MIB)
    held: list[Place] = []
    for step in range(3000):
        size = rng.choice((1024, 65536, 98304))
        if rng.random() < 0.55:
            place = slots.take(size, b"%d" % step)
            if place is not None:
                held.append(place)
            elif (segment := slots.next_segment(size)) is not None:
                slots.add(segment)
        elif held:
            slots.free(held.pop(rng.randrange(len(held))))
        if step % 100 == 0:
            slots.check()
    for number in [segment.number for segment in slots.segments()]:
        slots.lose(number)
    assert slots.held_bytes == 0
