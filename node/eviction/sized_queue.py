"""A queue of keys that knows the sum of their sizes: what most policies are made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic

from .policy import Key


class SizedQueue(Generic[Key]):
    """Keys with sizes, oldest first. O(1) each."""

    __slots__ = ("_sizes", "size")

    def __init__(self) -> None:
        self._sizes: OrderedDict[Key, int] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def __iter__(self) -> Iterator[Key]:
        return iter(self._sizes)

    def push(self, key: Key, size: int) -> None:
        """Add `key`, which is not here, as the newest."""
        self._sizes[key] = size
        self.size += size

    def renew(self, key: Key) -> None:
        """Make `key` the newest."""
        self._sizes.move_to_end(key)

    def pop(self) -> tuple[Key, int]:
        """Take the oldest out."""
        key, size = self._sizes.popitem(last=False)
        self.size -= size
        return key, size

    def take(self, key: Key) -> int:
        """Take `key` out, and say its size."""
        size = self._sizes.pop(key)
        self.size -= size
        return size

    def trim(self, size_max: float) -> None:
        """Drop the oldest until the rest is no larger than `size_max`."""
        while self.size > size_max:
            self.pop()

    def check(self) -> None:
        """Assert that the sum is the sum."""
        assert self.size == sum(self._sizes.values()), (self.size, sum(self._sizes.values()))
