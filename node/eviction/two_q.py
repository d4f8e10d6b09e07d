"""2Q: a newcomer proves itself in a queue of its own before it may stay."""

from __future__ import annotations

from typing import Generic

from .policy import NO_FACTS, Facts, Key
from .sized_queue import SizedQueue

# The paper's own advice (section 3.2): a quarter of the room for newcomers, and remembered keys worth half of it.
IN_SHARE = 0.25
OUT_SHARE = 0.5


class TwoQ(Generic[Key]):
    """Newcomers pass through a FIFO; only what is asked for again after it left enters the LRU. O(1) each.

    LRU-2's idea at LRU's price. Uses in quick succession happen while the entry is still in the FIFO and count for
    nothing, as with LRU-2's correlated period. What leaves the FIFO leaves its key behind (`_out`); a use while the key
    is remembered is the second one that proves worth. A scan therefore disturbs the FIFO alone.

    T. Johnson, D. Shasha, "2Q: a low overhead high performance buffer management replacement algorithm", VLDB 1994, the
    full version of section 3.2: A1in, A1out and Am are `_in`, `_out` and `_main`.
    """

    def __init__(self, capacity: int) -> None:
        self._in: SizedQueue[Key] = SizedQueue()
        self._out: SizedQueue[Key] = SizedQueue()
        self._main: SizedQueue[Key] = SizedQueue()
        self.resize(capacity)

    def __len__(self) -> int:
        return len(self._in) + len(self._main)

    def __contains__(self, key: object) -> bool:
        return key in self._main or key in self._in

    def hit(self, key: Key) -> None:
        """Renew what has proved itself; a newcomer's uses do not count."""
        if key in self._main:
            self._main.renew(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """To the newcomers, or to the proven if it was here not long ago."""
        if key in self._out:
            self._out.take(key)
            self._main.push(key, size)
        else:
            self._in.push(key, size)

    def evict(self) -> Key:
        """The oldest newcomer while they have more than their share, else the least recently used."""
        if self._main and self._in.size <= self._in_max:
            return self._main.pop()[0]
        key, size = self._in.pop()
        self._out.push(key, size)
        self._out.trim(self._out_max)
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        (self._main if key in self._main else self._in).take(key)

    def resize(self, capacity: int) -> None:
        """New shares; the next evictions bring the queues to them."""
        self._in_max = IN_SHARE * capacity
        self._out_max = OUT_SHARE * capacity
        self._out.trim(self._out_max)

    def check(self) -> None:
        """Assert that no key is in two queues, and that the remembered ones are bounded."""
        assert len({*self._in, *self._main, *self._out}) == len(self._in) + len(self._main) + len(self._out)
        assert self._out.size <= self._out_max
        for queue in (self._in, self._main, self._out):
            queue.check()
