"""SIEVE: a hand sweeps a queue that never moves, and takes what was not used since it last passed."""

from __future__ import annotations

from typing import Generic

from .policy import NO_FACTS, Facts, Key


class _Entry(Generic[Key]):
    __slots__ = ("is_used", "key", "newer", "older")

    def __init__(self, key: Key | None) -> None:
        self.key = key
        self.is_used = False
        self.newer: _Entry[Key] = self
        self.older: _Entry[Key] = self


class Sieve(Generic[Key]):
    """One FIFO queue, one bit an entry, and a hand. O(1) each, amortised; a hit sets a bit.

    The hand goes from old to new. An entry whose bit is set loses the bit and keeps its place; one without goes. Second
    chances elsewhere (CLOCK) put the survivor among the newest; here survivors gather at the old end, which the hand
    reaches only after it has been over all newcomers: those are sifted quickly, and the proven are left in peace.

    Y. Zhang, J. Yang, Y. Yue, Y. Vigfusson, K. V. Rashmi, "SIEVE is simpler than LRU: an efficient turn-key eviction
    algorithm for web caches", NSDI 2024, algorithm 1.
    """

    def __init__(self) -> None:
        self._ends: _Entry[Key] = _Entry(None)  # `newer` of it is the oldest entry, `older` the newest
        self._hand = self._ends
        self._entries: dict[Key, _Entry[Key]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def hit(self, key: Key) -> None:
        """Set its bit."""
        self._entries[key].is_used = True

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """The newest, its bit not set."""
        entry = _Entry(key)
        newest = self._ends.older
        entry.older, entry.newer = newest, self._ends
        newest.newer = self._ends.older = entry
        self._entries[key] = entry

    def evict(self) -> Key:
        """The first entry without its bit from the hand on, which begins again at the oldest after the newest."""
        entry = self._hand
        while entry.key is None or entry.is_used:
            entry.is_used = False
            entry = entry.newer
        self._hand = entry
        self.remove(entry.key)
        return entry.key

    def remove(self, key: Key) -> None:
        """Take `key` out of the queue; the hand steps on if it was there."""
        entry = self._entries.pop(key)
        entry.older.newer, entry.newer.older = entry.newer, entry.older
        if self._hand is entry:
            self._hand = entry.newer

    def resize(self, capacity: int) -> None:
        """Nothing hangs on it."""

    def check(self) -> None:
        """Assert that the queue holds each key once, and that the hand is on it."""
        held, entry, is_hand_seen = 0, self._ends.newer, self._hand is self._ends
        while entry.key is not None:
            assert self._entries[entry.key] is entry
            assert entry.newer.older is entry
            is_hand_seen |= entry is self._hand
            held += 1
            entry = entry.newer
        assert held == len(self._entries)
        assert is_hand_seen
