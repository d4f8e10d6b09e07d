"""node/store/extents.py: whose bytes are whose, and which pages are there."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from edgecache.node.store.extents import BLOCK_BYTES, PAGE_BYTES, Extents, rounded

PLENTY = 1 << 40


class Room:
    """Extents, and which pages were given back."""

    def __init__(self, pages: int) -> None:
        self.given_back: list[tuple[int, int]] = []
        self.extents = Extents(pages * PAGE_BYTES, lambda start, size: self.given_back.append((start, size)))

    def allocate(self, size: int, resident_max: int = PLENTY) -> int:
        start = self.extents.allocate(size, resident_max)
        assert start is not None
        return start


def test_what_is_allocated_lies_apart_and_makes_its_pages_resident() -> None:
    room = Room(16)
    starts = [room.allocate(3000) for _ in range(4)]
    assert all(b - a >= 3000 and a % 64 == 0 for a, b in pairwise(starts))
    assert room.extents.live_bytes == 4 * rounded(3000)
    assert room.extents.resident_bytes == 3 * PAGE_BYTES  # 4 × 3,008 bytes side by side
    room.extents.check()


def test_the_next_of_the_same_size_lies_where_the_last_one_was_and_costs_no_page() -> None:
    room = Room(1024)
    starts = [room.allocate(20_000) for _ in range(8)]
    resident = room.extents.resident_bytes
    room.extents.free(starts[3])
    room.extents.free(starts[5])
    assert room.allocate(20_000, resident) == starts[5]
    assert room.allocate(20_000, resident) == starts[3]
    assert room.extents.allocate(20_000, resident) is None
    assert room.given_back == []


def test_neighbours_that_are_free_become_one_hole() -> None:
    room = Room(10)
    starts = [room.allocate(PAGE_BYTES) for _ in range(10)]
    assert room.extents.allocate(64, PLENTY) is None
    for at in (2, 4, 3):
        room.extents.free(starts[at])
    assert room.allocate(3 * PAGE_BYTES) == starts[2]
    room.extents.check()


def test_the_smallest_hole_that_fits_is_taken() -> None:
    room = Room(40)
    sizes = [4, 1, 2, 1, 8, 1]
    starts = [room.allocate(pages * PAGE_BYTES) for pages in sizes]
    for at in (0, 2, 4):
        room.extents.free(starts[at])
    assert room.allocate(2 * PAGE_BYTES - 100) == starts[2]
    assert room.allocate(3 * PAGE_BYTES) == starts[0]


def test_where_pages_are_short_those_of_other_holes_are_given_back() -> None:
    room = Room(64)
    small = [room.allocate(2 * PAGE_BYTES) for _ in range(8)]
    for start in small[::2]:
        room.extents.free(start)
    resident = room.extents.resident_bytes
    large = room.allocate(6 * PAGE_BYTES, resident)  # fits into none of the holes, and the limit has no room for it
    assert large >= 16 * PAGE_BYTES
    assert room.extents.resident_bytes <= resident
    assert sum(size for _, size in room.given_back) == 6 * PAGE_BYTES
    room.extents.check()


def test_a_page_that_something_lives_on_is_never_given_back() -> None:
    room = Room(8)
    starts = [room.allocate(PAGE_BYTES // 2) for _ in range(16)]
    for start in starts[1::2]:
        room.extents.free(start)
    room.extents.trim(0)
    assert room.given_back == []
    assert room.extents.allocate(PAGE_BYTES, PLENTY) is None
    for start in starts[0:8:2]:
        room.extents.free(start)
    room.extents.trim(0)
    assert room.given_back == [(0, 4 * PAGE_BYTES)]
    assert room.extents.resident_bytes == 4 * PAGE_BYTES


def test_no_more_is_given_back_than_is_asked_for() -> None:
    room = Room(64)
    room.extents.free(room.allocate(20 * PAGE_BYTES))
    room.extents.trim(15 * PAGE_BYTES)
    assert room.extents.resident_bytes == 15 * PAGE_BYTES
    assert room.allocate(20 * PAGE_BYTES) == 0
    assert room.extents.resident_bytes == 20 * PAGE_BYTES
    room.extents.check()


def test_what_is_moved_lies_side_by_side_whatever_holes_there_are() -> None:
    room = Room(64)
    starts = [room.allocate(2048) for _ in range(16)]
    for start in starts[::2]:
        room.extents.free(start)
    moved = [room.extents.allocate(2048, PLENTY, from_largest=True) for _ in range(4)]
    assert moved == [8 * PAGE_BYTES + at * 2048 for at in range(4)]


@pytest.mark.parametrize("seed", range(8))
def test_the_books_balance_whatever_is_done(seed: int) -> None:
    """Live bytes never overlap, and a page is resident whenever something lives on it, by a model byte for byte."""
    rng = random.Random(seed)
    pages, resident_max = 96, 40 * PAGE_BYTES
    is_there = [False] * pages

    def give_back(start: int, size: int) -> None:
        assert start % PAGE_BYTES == size % PAGE_BYTES == 0
        for page in range(start // PAGE_BYTES, (start + size) // PAGE_BYTES):
            is_there[page] = False

    extents = Extents(pages * PAGE_BYTES, give_back)
    owners = bytearray(pages * PAGE_BYTES // 64)
    live: dict[int, int] = {}
    for _ in range(1500):
        if live and rng.random() < 0.45:
            start = rng.choice(sorted(live))
            extents.free(start)
            size = live.pop(start)
            owners[start // 64 : (start + size) // 64] = bytes(size // 64)
        elif rng.random() < 0.1:
            extents.trim(rng.randrange(resident_max))
        else:
            wanted = rng.choice([200, 2000, 2000, 9000, 60_000])
            got = extents.allocate(wanted, resident_max, from_largest=rng.random() < 0.2)
            if got is not None:
                size = rounded(wanted)
                assert not any(owners[got // 64 : (got + size) // 64])
                owners[got // 64 : (got + size) // 64] = b"\1" * (size // 64)
                live[got] = size
                for page in range(got // PAGE_BYTES, -(-(got + size) // PAGE_BYTES)):
                    is_there[page] = True
        assert extents.resident_bytes == sum(is_there) * PAGE_BYTES <= resident_max
        assert extents.live_bytes == sum(live.values())
        if rng.random() < 0.1:
            extents.check()
    extents.check()


def test_the_blocks_that_little_is_live_in_are_named_and_what_begins_in_them() -> None:
    room = Room(64)
    dense = [room.allocate(1024) for _ in range(64)]  # one block, full
    sparse = [room.allocate(1024) for _ in range(64)]
    kept = sparse[::8]
    for start in sparse:
        if start not in kept:
            room.extents.free(start)
    large = room.allocate(20 * PAGE_BYTES)  # from the end of that block on
    assert room.extents.sparse_blocks() == [BLOCK_BYTES]
    assert room.extents.starts_in(BLOCK_BYTES) == [*kept, large]
    assert room.extents.starts_in(0) == dense
    assert room.extents.starts_in(2 * BLOCK_BYTES) == []
    room.extents.check()
