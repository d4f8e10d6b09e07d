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
        self._small: OrderedDict[Key, int] = OrderedDict()  # the size, and in the lowest two bits the uses
        self._main: OrderedDict[Key, int] = OrderedDict()
        self._small_size = 0
        self._main_size = 0
        self._held_max = 0
        self._ghosts_ever = 0  # in sizes: a ghost is one while it and all after it are no more than their share
        self._ghost_since = array("Q")
        self._ghosts = Ghosts(self._ghost_since)  # none before the first eviction
        self.resize(capacity)

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
        ghosts = self._ghosts
        if not ghosts.sets:
            is_proven = self._small_size >= self._small_max
        elif (place := ghosts.find(key_digest(key))) >= 0:
            ghosts.take(place)
            is_proven = self._ghosts_ever - self._ghost_since[place] <= self._ghosts_max
        else:
            is_proven = False
        if is_proven:
            self._main[key] = size << _USES_BITS
            self._main_size += size
        else:
            self._small[key] = size << _USES_BITS
            self._small_size += size

    def evict(self) -> Key:
        """The end of the small queue while the main one has its share at most, else the end of the main one."""
        small, main = self._small, self._main
        held = len(small) + len(main)
        if held > self._held_max:
            self._held_max = held
            self._ghosts.ensure_room(_PLACES_PER_GHOST * GHOST_SHARE * held)
        while True:
            if small and (self._main_size <= self._main_max or not main):
                key, value = small.popitem(False)
                size = value >> _USES_BITS
                self._small_size -= size
                if value & USES_MAX < USES_TO_MOVE:
                    self._ghost_since[self._ghosts.put(key_digest(key))] = self._ghosts_ever
                    self._ghosts_ever += size
                    return key
                main[key] = size << _USES_BITS  # without the uses: those were for the move
                self._main_size += size
            else:
                key, value = main.popitem(False)
                if not value & USES_MAX:
                    self._main_size -= value >> _USES_BITS
                    return key
                main[key] = value - 1

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        if key in self._main:
            self._main_size -= self._main.pop(key) >> _USES_BITS
        else:
            self._small_size -= self._small.pop(key) >> _USES_BITS

    def resize(self, capacity: int) -> None:
        """New shares; the next evictions bring the queues to them."""
        self._small_max = SMALL_SHARE * capacity
        self._main_max = capacity - self._small_max
        self._ghosts_max = GHOST_SHARE * capacity

    def check(self) -> None:
        """Assert that no key is in both queues, that their sizes are the sums, and that the ghosts' places agree."""
        assert not self._small.keys() & self._main.keys()
        assert self._small_size == sum(value >> _USES_BITS for value in self._small.values())
        assert self._main_size == sum(value >> _USES_BITS for value in self._main.values())
        self._ghosts.check()
