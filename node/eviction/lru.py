"""Least recently used: the entry that was not needed for the longest time goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from .policy import NO_FACTS, Facts, Key


class LRU(Generic[Key]):
    """An ordered dictionary, oldest use first. O(1) each.

    What was used lately will be used again: true of most workloads, most of the time. It fails where more is scanned or
    looped over than fits: each entry then goes just before its turn. Every policy here is measured against it.
    """

    def __init__(self) -> None:
        self._order: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: object) -> bool:
        return key in self._order

    def hit(self, key: Key) -> None:
        """Make `key` the newest."""
        self._order.move_to_end(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in as the newest."""
        self._order[key] = None

    def evict(self) -> Key:
        """The key whose last use is longest ago."""
        return self._order.popitem(last=False)[0]

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        del self._order[key]

    def by_worth(self) -> list[Key]:
        """The keys, the newest use first."""
        return list(reversed(self._order))

    def resize(self, capacity: int) -> None:
        """Nothing hangs on it."""

    def check(self) -> None:
        """There is one structure, and it agrees with itself."""
