"""ARC: recency and frequency share the room, and the ghosts of what each lost say who should have more."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from .policy import NO_FACTS, Facts, Key


class ARC(Generic[Key]):
    """Two LRU lists, entries seen once and entries seen again, and a border that moves by itself. O(1) each.

    Each list leaves ghosts: the keys it lost last. A miss that finds its key among the ghosts of a list says that this
    list was too short, and moves the border `_recent_target` in its favour, faster when that list's ghosts are fewer.
    A scan fills the first list and its ghosts with what never returns, and so moves nothing.

    N. Megiddo, D. Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003, figure 4; T1, B1, T2, B2 and
    p are `_recent`, `_recent_ghosts`, `_frequent`, `_frequent_ghosts` and `_recent_target`. The store makes room
    before it says for whom, so the border moves one eviction later than in the figure, and the figure's tie for a key
    of B2 (|T1| = p) is not broken: neither moves a hit ratio on the traces by more than a tenth of a point.

    The lists are dictionaries of sizes with their sums beside them, and not `SizedQueue`s: a call for each step made
    a request half as dear again.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._recent_target = 0.0
        # By key the size, the least recently used first; and the sums of the sizes.
        self._recent: OrderedDict[Key, int] = OrderedDict()
        self._frequent: OrderedDict[Key, int] = OrderedDict()
        self._recent_ghosts: OrderedDict[Key, int] = OrderedDict()
        self._frequent_ghosts: OrderedDict[Key, int] = OrderedDict()
        self._recent_size = self._frequent_size = 0
        self._recent_ghosts_size = self._frequent_ghosts_size = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._frequent)

    def __contains__(self, key: object) -> bool:
        return key in self._frequent or key in self._recent

    def hit(self, key: Key) -> None:
        """A second use makes an entry a frequent one."""
        frequent = self._frequent
        if key in frequent:
            frequent.move_to_end(key)
        else:
            frequent[key] = size = self._recent.pop(key)
            self._recent_size -= size
            self._frequent_size += size

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in; if it is a ghost, the list that lost it gets more room."""
        if key in self._recent_ghosts:
            recent, frequent = self._recent_ghosts_size, self._frequent_ghosts_size
            self._recent_ghosts_size -= self._recent_ghosts.pop(key)
            self._recent_target = min(self._recent_target + size * max(1.0, frequent / recent), float(self._capacity))
            self._frequent[key] = size
            self._frequent_size += size
        elif key in self._frequent_ghosts:
            recent, frequent = self._recent_ghosts_size, self._frequent_ghosts_size
            self._frequent_ghosts_size -= self._frequent_ghosts.pop(key)
            self._recent_target = max(self._recent_target - size * max(1.0, recent / frequent), 0.0)
            self._frequent[key] = size
            self._frequent_size += size
        else:
            self._recent[key] = size
            self._recent_size += size
        self._bound_ghosts()

    def evict(self) -> Key:
        """The least recently used of the list that has more than its share; as a ghost it counts as it did."""
        is_over = self._recent_size + self._frequent_size > self._capacity
        if self._recent and (self._recent_size > self._recent_target or not self._frequent):
            key, size = self._recent.popitem(False)
            self._recent_ghosts[key] = size
            self._recent_size -= size
            self._recent_ghosts_size += size
        else:
            key, size = self._frequent.popitem(False)
            self._frequent_ghosts[key] = size
            self._frequent_size -= size
            self._frequent_ghosts_size += size
        if is_over:  # the capacity has just shrunk
            self._bound_ghosts()
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        if key in self._frequent:
            self._frequent_size -= self._frequent.pop(key)
        else:
            self._recent_size -= self._recent.pop(key)

    def resize(self, capacity: int) -> None:
        """Keep ghosts, and the border, within the new capacity."""
        self._capacity = capacity
        self._recent_target = min(self._recent_target, float(capacity))
        self._bound_ghosts()

    def check(self) -> None:
        """Assert that no key is in two lists, that the sums are the sums, and the paper's bounds on the ghosts."""
        lists = (self._recent, self._recent_ghosts, self._frequent, self._frequent_ghosts)
        sizes = (self._recent_size, self._recent_ghosts_size, self._frequent_size, self._frequent_ghosts_size)
        assert len({key for entries in lists for key in entries}) == sum(len(entries) for entries in lists)
        assert [sum(entries.values()) for entries in lists] == [*sizes]
        assert 0.0 <= self._recent_target <= self._capacity
        assert not self._recent_ghosts or self._recent_size + self._recent_ghosts_size <= self._capacity
        assert not self._frequent_ghosts or sum(sizes) <= 2 * self._capacity

    def _bound_ghosts(self) -> None:
        """Entries and ghosts of the first list are worth one capacity, all together two."""
        over = self._recent_size + self._recent_ghosts_size - self._capacity
        while over > 0 and self._recent_ghosts:
            size = self._recent_ghosts.popitem(False)[1]
            self._recent_ghosts_size -= size
            over -= size
        over = self._recent_size + self._recent_ghosts_size + self._frequent_size + self._frequent_ghosts_size
        over -= 2 * self._capacity
        while over > 0 and self._frequent_ghosts:
            size = self._frequent_ghosts.popitem(False)[1]
            self._frequent_ghosts_size -= size
            over -= size
