"""Numbers for the entries of a policy, so that what it knows of each lies in arrays and not in objects."""

from __future__ import annotations

from array import array
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from .policy import Key

# Times are uses counted from 1, in 32 bits; 0 stands for never. Once they are used up, all of them move back by half:
# an entry that was not used in two thousand million uses is as old as one gets.
TIME_MAX = (1 << 32) - 1
SLOT_BITS = 32
SLOT_MASK = (1 << SLOT_BITS) - 1

_NOBODY: Any = None  # the key of a free slot

# What has at most so many void items beyond twice the entries is not worth compacting.
_VOID_MAX = 64


class Slots(Generic[Key]):
    """Each key has a slot, and each slot a place in every column. O(1) each.

    A record per entry, as an object with its numbers, takes some 250 bytes in Python; here an entry costs a place in
    one dictionary, an integer, and what its columns are wide.
    """

    __slots__ = ("_added_max", "_free", "columns", "keys", "numbers")

    def __init__(self, *columns: array[int] | array[float]) -> None:
        self.numbers: dict[Key, int] = {}
        self.keys: list[Key] = []
        self.columns = columns  # what else belongs to a slot may be added while there is none
        self._free: list[int] = []
        self._added_max = 0  # until `numbers` is made anew

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, key: Key) -> int:
        """A slot for `key`; its columns are the caller's to set."""
        free, numbers = self._free, self.numbers
        if free:
            slot = free.pop()
            self.keys[slot] = key
        else:
            slot = len(self.keys)
            self.keys.append(key)
            for column in self.columns:
                column.append(0)
        numbers[key] = slot
        self._added_max -= 1
        if self._added_max < 0:
            # A dictionary in which keys come and go grows to three times what it holds; a copy has the size it needs.
            self._added_max = len(numbers) >> 1
            self.numbers = numbers.copy()
        return slot

    def release(self, key: Key) -> int:
        """Take the slot from `key`."""
        slot = self.numbers.pop(key)
        self.keys[slot] = _NOBODY
        self._free.append(slot)
        return slot

    def check(self) -> None:
        """Assert that keys and slots agree."""
        assert all(self.keys[slot] == key for key, slot in self.numbers.items())
        assert len(self.numbers) + len(self._free) == len(self.keys)
        assert all(self.keys[slot] is None for slot in self._free)
        assert all(len(column) == len(self.keys) for column in self.columns)


class StampedQueue:
    """Slots in the order in which they were stamped; a slot that is stamped anew leaves a void item behind.

    So nothing is ever moved: 8 bytes an item, and at most twice as many items as entries. `stamps` is the column that
    says when each slot was stamped last, 0 if it is free.
    """

    __slots__ = ("at", "items", "stamps")

    def __init__(self, stamps: array[int]) -> None:
        self.items = array("Q")
        self.at = 0  # what lies before was taken out
        self.stamps = stamps

    def push(self, stamp: int, slot: int) -> None:
        """`slot`, stamped `stamp`, is the last; `bound` must follow in time."""
        self.items.append(stamp << SLOT_BITS | slot)

    def first(self) -> int:
        """The slot whose turn it is, -1 if there is none; it stays where it is. Amortised O(1)."""
        items, stamps, at, end = self.items, self.stamps, self.at, len(self.items)
        slot = -1
        while at < end:
            item = items[at]
            if stamps[item & SLOT_MASK] == item >> SLOT_BITS:
                slot = item & SLOT_MASK
                break
            at += 1
        self.at = at
        return slot

    def bound(self, entries: int) -> None:
        """Drop what is void or was taken out, if that is much. O(items) then, and amortised O(1)."""
        if len(self.items) > 2 * entries + _VOID_MAX:
            self.compact()

    def compact(self) -> None:
        """Drop what is void or was taken out."""
        items = np.frombuffer(self.items, np.uint64)[self.at :]
        slots = (items & np.uint64(SLOT_MASK)).astype(np.int64)
        is_live = np.frombuffer(self.stamps, np.uint32)[slots] == items >> np.uint64(SLOT_BITS)
        self.items = array("Q", items[is_live].tobytes())
        self.at = 0

    def fill(self, slots: npt.NDArray[np.int64]) -> None:
        """Hold `slots`, in the order of their stamps, and nothing else."""
        stamps = np.frombuffer(self.stamps, np.uint32)[slots].astype(np.uint64)
        items = np.sort(stamps << np.uint64(SLOT_BITS) | slots.astype(np.uint64))
        self.items = array("Q", items.tobytes())
        self.at = 0

    def live(self) -> list[int]:
        """The slots in order; for `check` and whoever looks at all of them."""
        pairs = ((item & SLOT_MASK, item >> SLOT_BITS) for item in self.items[self.at :])
        return [slot for slot, stamp in pairs if self.stamps[slot] == stamp]


def move_back(times: array[int], by: int) -> None:
    """Every time in `times` is `by` earlier, but not before 1; what never was stays so."""
    values = np.frombuffer(times, np.uint32)
    moved = np.where(values > by, values - np.uint32(by), np.minimum(values, 1)).astype(np.uint32)
    del values  # an array cannot change while it is looked at
    times[:] = array("I", moved.tobytes())
