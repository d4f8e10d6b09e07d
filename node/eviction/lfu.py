"""Least frequently used: the entry with the fewest uses since it came goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from .policy import NO_FACTS, Facts, Key


class _Rank(Generic[Key]):
    """The entries with the same count of uses, least recently used first; a link in the chain of counts."""

    __slots__ = ("above", "below", "keys", "uses")

    def __init__(self, uses: int) -> None:
        self.uses = uses
        self.keys: OrderedDict[Key, None] = OrderedDict()
        self.above: _Rank[Key] = self
        self.below: _Rank[Key] = self


class LFU(Generic[Key]):
    """A chain of ranks, one for each count of uses that occurs; a use moves an entry one rank up. O(1) each.

    After K. Shah, A. Mitra, D. Matani, "An O(1) algorithm for implementing the LFU cache eviction scheme" (2010). The
    count starts anew when an entry comes back ("in-cache LFU"), and among equals the least recently used goes.

    It never forgets: what was popular last week outlives what is popular now, and a newcomer has one chance before the
    next newcomer. Its hit ratio on the traces is the lowest of all; it is here because the others' essays refer to it.
    """

    def __init__(self) -> None:
        self._ends: _Rank[Key] = _Rank(0)  # both ends of the chain, and never holds a key
        self._rank: dict[Key, _Rank[Key]] = {}

    def __len__(self) -> int:
        return len(self._rank)

    def __contains__(self, key: object) -> bool:
        return key in self._rank

    def hit(self, key: Key) -> None:
        """One rank up."""
        rank = self._rank[key]
        self._place(key, rank.uses + 1, rank)
        self._leave(key, rank)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """`key` begins with the use that brought it."""
        self._place(key, 1, self._ends)

    def evict(self) -> Key:
        """The least recently used of the lowest rank."""
        rank = self._ends.above
        key = next(iter(rank.keys))
        del self._rank[key]
        self._leave(key, rank)
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        self._leave(key, self._rank.pop(key))

    def resize(self, capacity: int) -> None:
        """Nothing hangs on it."""

    def check(self) -> None:
        """Assert that the chain ascends, has no empty rank, and holds each key once, where the index says."""
        held, rank = 0, self._ends.above
        while rank is not self._ends:
            assert rank.keys
            assert rank.uses > rank.below.uses
            assert rank.above.below is rank
            assert all(self._rank[key] is rank for key in rank.keys)
            held += len(rank.keys)
            rank = rank.above
        assert held == len(self._rank)

    def _place(self, key: Key, uses: int, below: _Rank[Key]) -> None:
        rank = below.above
        if rank.uses != uses:
            rank = _Rank(uses)
            rank.below, rank.above = below, below.above
            below.above.below = rank
            below.above = rank
        rank.keys[key] = None
        self._rank[key] = rank

    def _leave(self, key: Key, rank: _Rank[Key]) -> None:
        del rank.keys[key]
        if not rank.keys:
            rank.below.above, rank.above.below = rank.above, rank.below
