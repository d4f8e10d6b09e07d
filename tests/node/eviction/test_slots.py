"""node/eviction/slots.py: slots are used again, and a queue skips what was stamped anew."""

from __future__ import annotations

import random
from array import array

import numpy as np
from edgecache.node.eviction.slots import SLOT_BITS, Slots, StampedQueue, move_back


def test_a_slot_that_was_released_is_used_again() -> None:
    column = array("I")
    slots: Slots[str] = Slots(column)
    first, second = slots.add("a"), slots.add("b")
    slots.release("a")
    slots.check()
    assert slots.add("c") == first != second
    assert slots.keys[first] == "c"
    assert len(column) == len(slots) == 2


def test_the_dictionary_stays_as_small_as_what_it_holds() -> None:
    slots: Slots[int] = Slots()
    for key in range(1000):
        slots.add(key)
    fresh = slots.numbers.copy().__sizeof__()
    for key in range(1000, 20_000):
        slots.release(key - 1000)
        slots.add(key)
    slots.check()
    assert slots.numbers.__sizeof__() <= 2 * fresh


def queue_of(stamps: array[int], pushes: list[tuple[int, int]]) -> StampedQueue:
    queue = StampedQueue(stamps)
    for stamp, slot in pushes:
        stamps[slot] = stamp
        queue.push(stamp, slot)
    return queue


def test_the_first_is_the_one_that_was_stamped_longest_ago() -> None:
    stamps = array("I", [0, 0, 0])
    queue = queue_of(stamps, [(1, 0), (2, 1), (3, 2), (4, 0)])
    assert queue.first() == 1
    stamps[1] = 0  # a free slot
    assert queue.first() == 2
    assert queue.live() == [2, 0]


def test_compacting_and_filling_change_no_order() -> None:
    rng = random.Random(1)
    stamps = array("I", bytes(400))
    queue = queue_of(stamps, [(stamp, rng.randrange(100)) for stamp in range(1, 1000)])
    order = queue.live()
    queue.bound(100)
    assert queue.live() == order
    assert len(queue.items) == len(order)
    queue.fill(np.array(sorted(order)))
    assert queue.live() == order


def test_an_empty_queue_has_no_first() -> None:
    assert StampedQueue(array("I")).first() == -1
    assert SLOT_BITS == 32


def test_times_move_back_but_what_never_was_stays_so() -> None:
    times = array("I", [0, 1, 50, 100, 150])
    move_back(times, 100)
    assert times.tolist() == [0, 1, 1, 1, 50]
