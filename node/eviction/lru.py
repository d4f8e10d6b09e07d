"""Least recently used: the entry that was not needed for the longest time goes first."""

from __future__ import annotations

from collections import OrderedDict


class LRU:
    """An ordered dictionary, oldest use first. O(1) each."""

    def __init__(self) -> None:
        self._order: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def hit(self, key: bytes) -> None:
        """Make `key` the newest."""
        self._order.move_to_end(key)

    def admit(self, key: bytes, size_bytes: int) -> None:
        """Take `key` in as the newest."""
        self._order[key] = None

    def victim(self) -> bytes:
        """The key whose last use is longest ago."""
        return next(iter(self._order))

    def remove(self, key: bytes) -> None:
        """Forget `key`."""
        del self._order[key]
