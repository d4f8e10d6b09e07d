"""First in, first out: the entry that has been here for the longest time goes first, used or not."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from .policy import NO_FACTS, Facts, Key


class FIFO(Generic[Key]):
    """The plainest order there is, and the yardstick for all that remember uses. O(1) each, nothing to do on a hit."""

    def __init__(self) -> None:
        self._queue: OrderedDict[Key, None] = OrderedDict()  # a dict would walk over what was deleted at its front

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, key: object) -> bool:
        return key in self._queue

    def hit(self, key: Key) -> None:
        """Nothing: only the arrival counts."""

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """`key` goes last."""
        self._queue[key] = None

    def evict(self) -> Key:
        """The oldest."""
        return self._queue.popitem(last=False)[0]

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        del self._queue[key]

    def resize(self, capacity: int) -> None:
        """Nothing hangs on it."""

    def check(self) -> None:
        """There is one structure, and it agrees with itself."""
