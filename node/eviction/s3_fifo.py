"""S3-FIFO: a small queue sifts the newcomers, a main one keeps the rest, and ghosts come back proven."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from .policy import NO_FACTS, Facts, Key
from .sized_queue import SizedQueue

# The paper's parameters (section 4): a tenth for newcomers, ghosts worth the main queue, two uses to be moved over.
SMALL_SHARE = 0.1
GHOST_SHARE = 0.9
USES_TO_MOVE = 2
USES_MAX = 3


class _Entry:
    __slots__ = ("is_main", "size", "uses")

    def __init__(self, size: int, is_main: bool) -> None:
        self.size = size
        self.is_main = is_main
        self.uses = 0


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
        self._entries: dict[Key, _Entry] = {}
        self._small: OrderedDict[Key, None] = OrderedDict()
        self._main: OrderedDict[Key, None] = OrderedDict()
        self._small_size = 0
        self._main_size = 0
        self._ghosts: SizedQueue[Key] = SizedQueue()
        self._has_evicted = False

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def hit(self, key: Key) -> None:
        """Count a use, up to three."""
        entry = self._entries[key]
        if entry.uses < USES_MAX:
            entry.uses += 1

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """To the small queue, or to the main one if it was here not long ago."""
        is_main = key in self._ghosts
        if is_main:
            self._ghosts.take(key)
        elif not self._has_evicted and self._small_size >= self._small_max:
            is_main = True
        self._entries[key] = _Entry(size, is_main)
        self._put(key, size, is_main)

    def evict(self) -> Key:
        """The end of the small queue while the main one has its share at most, else the end of the main one."""
        self._has_evicted = True
        while True:
            if self._small and (self._main_size <= self._capacity - self._small_max or not self._main):
                key, _ = self._small.popitem(last=False)
                entry = self._entries[key]
                self._small_size -= entry.size
                if entry.uses < USES_TO_MOVE:
                    self._ghosts.push(key, entry.size)
                    self._ghosts.trim(GHOST_SHARE * self._capacity)
                    del self._entries[key]
                    return key
                entry.uses = 0  # those were for the move
            else:
                key, _ = self._main.popitem(last=False)
                entry = self._entries[key]
                self._main_size -= entry.size
                if entry.uses == 0:
                    del self._entries[key]
                    return key
                entry.uses -= 1
            entry.is_main = True
            self._put(key, entry.size, is_main=True)

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        entry = self._entries.pop(key)
        if entry.is_main:
            del self._main[key]
            self._main_size -= entry.size
        else:
            del self._small[key]
            self._small_size -= entry.size

    def check(self) -> None:
        """Assert that each entry is in the queue it names, and that ghosts are bounded and not held."""
        assert self._small.keys() == {key for key, entry in self._entries.items() if not entry.is_main}
        assert self._main.keys() == {key for key, entry in self._entries.items() if entry.is_main}
        assert self._small_size == sum(self._entries[key].size for key in self._small)
        assert self._main_size == sum(self._entries[key].size for key in self._main)
        assert all(0 <= entry.uses <= USES_MAX for entry in self._entries.values())
        assert not {*self._ghosts} & self._entries.keys()
        assert self._ghosts.size <= GHOST_SHARE * self._capacity
        self._ghosts.check()

    def _put(self, key: Key, size: int, is_main: bool) -> None:
        if is_main:
            self._main[key] = None
            self._main_size += size
        else:
            self._small[key] = None
            self._small_size += size
