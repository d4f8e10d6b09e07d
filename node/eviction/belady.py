"""Belady's MIN: who knows the future evicts what is needed last. The bound for all others, offline."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Generic

from .policy import NO_FACTS, Facts, Key

_HEAP_SLACK = 64


class Belady(Generic[Key]):
    """Evicts the entry whose next use is furthest away, or never. O(log n) each.

    `future` is every use there will be, hits and admissions in order; using anything else is an error. No policy can
    have a higher hit ratio with entries of one size (R. L. Mattson et al., "Evaluation techniques for storage
    hierarchies", IBM Systems Journal 9(2), 1970); with sizes that differ it is a strong policy and no longer the
    bound, which is NP-hard to find. L. A. Belady, "A study of replacement algorithms for a virtual-storage computer",
    IBM Systems Journal 5(2), 1966.
    """

    def __init__(self, future: Sequence[Key]) -> None:
        self._future = future
        self._next_use = _next_uses(future)
        self._now = 0
        self._held: dict[Key, int] = {}  # and when it is needed next
        self._heap: list[tuple[int, int]] = []  # (-next use, the use it follows), some of them stale

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def hit(self, key: Key) -> None:
        """The next use of `key` is the one after this."""
        self._use(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Hold `key` until its next use, if it is not too far away."""
        self._use(key)

    def evict(self) -> Key:
        """The key needed last; of those never needed again the newest."""
        while True:
            next_use, since = heapq.heappop(self._heap)
            key = self._future[since]
            if self._held.get(key) == -next_use:
                del self._held[key]
                return key

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        del self._held[key]

    def resize(self, capacity: int) -> None:
        """Nothing hangs on it."""

    def check(self) -> None:
        """Assert that each entry is in the heap under its next use, and that the heap is bounded."""
        known = {(self._future[since], -next_use) for next_use, since in self._heap}
        assert known >= self._held.items()
        assert len(self._heap) <= 2 * len(self._held) + _HEAP_SLACK or not self._held

    def _use(self, key: Key) -> None:
        assert self._future[self._now] == key, f"use {self._now} was to be of {self._future[self._now]!r}, not {key!r}"
        self._held[key] = self._next_use[self._now]
        heapq.heappush(self._heap, (-self._next_use[self._now], self._now))
        self._now += 1
        if len(self._heap) > 2 * len(self._held) + _HEAP_SLACK:
            self._heap = [item for item in self._heap if self._held.get(self._future[item[1]]) == -item[0]]
            heapq.heapify(self._heap)


def _next_uses(future: Sequence[Key]) -> list[int]:
    """For each use the index of the next one of the same key; what never comes back has an index past the end."""
    never = len(future)
    following: dict[Key, int] = {}
    uses = [0] * len(future)
    for index in range(len(future) - 1, -1, -1):
        uses[index] = following.get(future[index], never + index)
        following[future[index]] = index
    return uses
