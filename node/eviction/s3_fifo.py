"""S3-FIFO: a small queue sifts the newcomers, a main one keeps the rest, and ghosts come back proven."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Generic

from .frequency_sketch import key_digest
from .ghosts import Ghosts
from .policy import NO_FACTS, Facts, Key

# The paper's parameters (section 4): a tenth for newcomers, ghosts worth the main queue, two uses to be moved over.
SMALL_SHARE = 0.1
GHOST_SHARE = 0.9
USES_TO_MOVE = 2
USES_MAX = 3


# A ghost in a full set of `Ghosts` goes before its time: of so many places for each ghost, 0.4 % are lost.
_PLACES_PER_GHOST = 4

_USES_BITS = 2


class S3FIFO(Generic[Key]):
    """Three FIFO queues: small, main and ghosts. O(1) each, amortised; a hit adds one to a counter.

    Most entries are used once while they are held ("one-hit wonders": 72 % at a tenth of the working set, the paper's
    median). So newcomers get a tenth of the room: what was not used twice by the time it reaches the end goes, and
    leaves its key among the ghosts. What returns as a ghost starts in the main queue, where each pass of the end costs
    one of at most three uses.

    J. Yang, Y. Zhang, Z. Qiu, Y. Yue, K. V. Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023,
    algorithm 1. As in the authors' libCacheSim, newcomers go to the main queue until the first eviction once the small
    one has its share, and the uses that moved an entry over are spent (keeping them costs up to 0.6 points of hit
    ratio).
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._small_max = SMALL_SHARE * capacity
        self._small: OrderedDict[Key, int] = OrderedDict()  # the size, and in the lowest two bits the uses
        self._main: OrderedDict[Key, int] = OrderedDict()
        self._small_size = 0
        self._main_size = 0
        self._held_max = 0
        self._has_evicted = False
        self._ghosts_ever = 0  # in sizes: a ghost is one while it and all after it are no more than their share
        self._ghost_since = array("Q")
        self._ghosts = Ghosts(self._ghost_since)

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __contains__(self, key: object) -> bool:
        return key in self._main or key in self._small

    def hit(self, key: Key) -> None:
        """Count a use, up to three."""
        queue = self._main if key in self._main else self._small
        value = queue[key]
        if value & USES_MAX < USES_MAX:
            queue[key] = value + 1

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """To the small queue, or to the main one if it was here not long ago."""
        if self._is_ghost(key) or (not self._has_evicted and self._small_size >= self._small_max):
            self._main[key] = size << _USES_BITS
            self._main_size += size
        else:
            self._small[key] = size << _USES_BITS
            self._small_size += size

    def evict(self) -> Key:
        """The end of the small queue while the main one has its share at most, else the end of the main one."""
        self._has_evicted = True
        if len(self) > self._held_max:
            self._held_max = len(self)
            self._ghosts.ensure_room(_PLACES_PER_GHOST * GHOST_SHARE * self._held_max)
        while True:
            if self._small and (self._main_size <= self._capacity - self._small_max or not self._main):
                key, value = self._small.popitem(last=False)
                size = value >> _USES_BITS
                self._small_size -= size
                if value & USES_MAX < USES_TO_MOVE:
                    self._ghost_since[self._ghosts.put(key_digest(key))] = self._ghosts_ever
                    self._ghosts_ever += size
                    return key
                self._main[key] = size << _USES_BITS  # without the uses: those were for the move
                self._main_size += size
            else:
                key, value = self._main.popitem(last=False)
                if not value & USES_MAX:
                    self._main_size -= value >> _USES_BITS
                    return key
                self._main[key] = value - 1

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        if key in self._main:
            self._main_size -= self._main.pop(key) >> _USES_BITS
        else:
            self._small_size -= self._small.pop(key) >> _USES_BITS

    def check(self) -> None:
        """Assert that no key is in both queues, that their sizes are the sums, and that the ghosts' places agree."""
        assert not self._small.keys() & self._main.keys()
        assert self._small_size == sum(value >> _USES_BITS for value in self._small.values())
        assert self._main_size == sum(value >> _USES_BITS for value in self._main.values())
        self._ghosts.check()

    def _is_ghost(self, key: Key) -> bool:
        if not self._has_evicted:
            return False
        place = self._ghosts.find(key_digest(key))
        if place < 0:
            return False
        self._ghosts.take(place)
        return self._ghosts_ever - self._ghost_since[place] <= GHOST_SHARE * self._capacity
