"""ARC: recency and frequency share the room, and the ghosts of what each lost say who should have more."""

from __future__ import annotations

from typing import Generic

from .policy import NO_FACTS, Facts, Key
from .sized_queue import SizedQueue


class ARC(Generic[Key]):
    """Two LRU lists, entries seen once and entries seen again, and a border that moves by itself. O(1) each.

    Each list leaves ghosts: the keys it lost last. A miss that finds its key among the ghosts of a list says that this
    list was too short, and moves the border `_recent_target` in its favour, faster when that list's ghosts are fewer.
    A scan fills the first list and its ghosts with what never returns, and so moves nothing.

    N. Megiddo, D. Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003, figure 4; T1, B1, T2, B2 and
    p are `_recent`, `_recent_ghosts`, `_frequent`, `_frequent_ghosts` and `_recent_target`. The store makes room
    before it says for whom, so the border moves one eviction later than in the figure, and the figure's tie for a key
    of B2 (|T1| = p) is not broken: neither moves a hit ratio on the traces by more than a tenth of a point.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._recent_target = 0.0
        self._recent: SizedQueue[Key] = SizedQueue()
        self._recent_ghosts: SizedQueue[Key] = SizedQueue()
        self._frequent: SizedQueue[Key] = SizedQueue()
        self._frequent_ghosts: SizedQueue[Key] = SizedQueue()

    def __len__(self) -> int:
        return len(self._recent) + len(self._frequent)

    def __contains__(self, key: object) -> bool:
        return key in self._frequent or key in self._recent

    def hit(self, key: Key) -> None:
        """A second use makes an entry a frequent one."""
        if key in self._frequent:
            self._frequent.renew(key)
        else:
            self._frequent.push(key, self._recent.take(key))

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in; if it is a ghost, the list that lost it gets more room."""
        recent, frequent = self._recent_ghosts.size, self._frequent_ghosts.size
        if key in self._recent_ghosts:
            self._recent_ghosts.take(key)
            self._recent_target = min(self._recent_target + size * max(1.0, frequent / recent), float(self._capacity))
            self._frequent.push(key, size)
        elif key in self._frequent_ghosts:
            self._frequent_ghosts.take(key)
            self._recent_target = max(self._recent_target - size * max(1.0, recent / frequent), 0.0)
            self._frequent.push(key, size)
        else:
            self._recent.push(key, size)
        self._bound_ghosts()

    def evict(self) -> Key:
        """The least recently used of the list that has more than its share."""
        if self._recent and (self._recent.size > self._recent_target or not self._frequent):
            key, size = self._recent.pop()
            self._recent_ghosts.push(key, size)
        else:
            key, size = self._frequent.pop()
            self._frequent_ghosts.push(key, size)
        self._bound_ghosts()
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        (self._frequent if key in self._frequent else self._recent).take(key)

    def check(self) -> None:
        """Assert that no key is in two lists, and the paper's bounds on the ghosts."""
        queues = (self._recent, self._recent_ghosts, self._frequent, self._frequent_ghosts)
        assert len({key for queue in queues for key in queue}) == sum(len(queue) for queue in queues)
        assert 0.0 <= self._recent_target <= self._capacity
        assert not self._recent_ghosts or self._recent.size + self._recent_ghosts.size <= self._capacity
        assert not self._frequent_ghosts or sum(queue.size for queue in queues) <= 2 * self._capacity
        for queue in queues:
            queue.check()

    def _bound_ghosts(self) -> None:
        """Entries and ghosts of the first list are worth one capacity, all together two."""
        self._recent_ghosts.trim(max(0, self._capacity - self._recent.size))
        others = self._recent.size + self._recent_ghosts.size + self._frequent.size
        self._frequent_ghosts.trim(max(0, 2 * self._capacity - others))
