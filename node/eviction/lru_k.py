"""LRU-K: the entry whose K-th last use is longest ago goes first."""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import Generic, TypeAlias

from .policy import NO_FACTS, Facts, Key

# How long uses count as one: for so many uses of anything, as a share of the entries held. Mean hit ratio on four
# traces at three sizes: a quarter .4183, half .4191, all .4102.
CORRELATED_SHARE = 0.5

# How many evicted entries keep their history, for each one held. On the same: 2 .4206, 4 .4191; for an adaptive K 2 has
# .4337 and 4 .4350.
HISTORY_PER_ENTRY = 4

# Stale items are dropped when they outnumber the entries by this many.
_STALE_MAX = 64

# K-th last use, last use, key. No two have the same last use, so keys are never compared.
_Ripe: TypeAlias = tuple[int, int, Key]


class _Record:
    """The uses of one entry: `uses[0]` is the last uncorrelated one, 0 stands for never."""

    __slots__ = ("last", "uses")

    def __init__(self, k: int, now: int) -> None:
        self.last = now
        self.uses = [now] + [0] * (k - 1)


class LRUK(Generic[Key]):
    """O'Neil's LRU-K with its correlated-reference period and its retained history. O(log n) each.

    One use says little: a scan uses everything once. The time of the K-th last use says how often an entry is used
    *and* how lately, so LRU-K evicts the largest backward K-distance; entries with fewer than K uses have an infinite
    one and go first, the least recently used of them leading.

    Two parts of the paper are often left out, and without them it is no better than LRU:

    - The *correlated-reference period*. Uses in quick succession are one event (a frame encoded, shown, sent).
      They count as one use, and an entry may not be evicted before the period since its last use is over. Without it a
      newcomer, having one use, goes at once, and never gets the second use that would save it.
    - The *retained history*. An entry comes back after its eviction with the uses it had; otherwise everything that
      returns less often than the cache turns over looks new forever.

    E. J. O'Neil, P. E. O'Neil, G. Weikum, "The LRU-K page replacement algorithm for database disk buffering", SIGMOD
    1993, section 2.1 and figure 2.1. Time is counted in uses. The paper's period is in seconds; here it is a share of
    the entries held, so that it means the same for every size, and the history is bounded by number rather than by
    time.

    Entries in their period wait in `_young`, in the order of their last use. From there those with K uses go into a
    heap, and those with fewer into `_seldom`, where they are in the right order by themselves. A use makes an item
    stale (its last use is no longer the record's) instead of looking for it.
    """

    def __init__(
        self,
        k: int = 2,
        correlated_share: float = CORRELATED_SHARE,
        history_per_entry: float = HISTORY_PER_ENTRY,
        k_max: int | None = None,
    ) -> None:
        self._k = k
        self._k_max = k_max or k  # how many uses are remembered
        self._correlated_share = correlated_share
        self._history_per_entry = history_per_entry
        self._now = 0
        self._held_max = 0
        self._held: dict[Key, _Record] = {}
        self._young: OrderedDict[Key, None] = OrderedDict()
        self._heap: list[_Ripe[Key]] = []
        self._seldom: deque[_Ripe[Key]] = deque()
        self._evicted: OrderedDict[Key, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    @property
    def k(self) -> int:
        """Which use counts."""
        return self._k

    @k.setter
    def k(self, k: int) -> None:
        """From now on the `k`-th last use counts, up to `k_max`. O(n)."""
        assert 1 <= k <= self._k_max
        self._k = k
        self._order_anew()

    def hit(self, key: Key) -> None:
        """A use: correlated with the last one, or one that counts."""
        self._now += 1
        record = self._held[key]
        if self._now - record.last > self._correlated_share * len(self._held):
            period = record.last - record.uses[0]  # the burst is closed up, as if it had been one use
            record.uses = [self._now] + [use + period if use else 0 for use in record.uses[:-1]]
        record.last = self._now
        self._young[key] = None
        self._young.move_to_end(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        self._now += 1
        record = self._evicted.pop(key, None)
        if record is None:
            record = _Record(self._k_max, self._now)
        else:
            record.uses = [self._now, *record.uses[:-1]]
            record.last = self._now
        self._held[key] = record
        self._young[key] = None
        self._held_max = max(self._held_max, len(self._held))

    def evict(self) -> Key:
        """The largest backward K-distance past its period; the least recently used when none is past it."""
        self._ripen()
        key = self._ripest()
        if key is None:
            key = self._young.popitem(last=False)[0]
        self._evicted[key] = self._held.pop(key)
        while len(self._evicted) > self._history_per_entry * self._held_max:
            self._evicted.popitem(last=False)
        return key

    def remove(self, key: Key) -> None:
        """Forget `key` and its history."""
        del self._held[key]
        self._young.pop(key, None)
        self._bound_ripe()

    def check(self) -> None:
        """Assert that each entry is young or ripe, and that stale items and the history are bounded."""
        items = [*self._heap, *self._seldom]
        ripe = {key for _, last, key in items if key in self._held and self._held[key].last == last}
        assert not ripe & set(self._young)
        assert ripe | set(self._young) == set(self._held)
        assert not set(self._evicted) & set(self._held)
        assert len(self._evicted) <= self._history_per_entry * self._held_max
        assert len(items) <= 2 * len(self._held) + _STALE_MAX
        assert list(self._seldom) == sorted(self._seldom)

    def _ripen(self) -> None:
        """Move what is past its period from the young to the ripe."""
        ripe_until = self._now - self._correlated_share * len(self._held)
        while self._young:
            key = next(iter(self._young))
            record = self._held[key]
            if record.last > ripe_until:
                break
            del self._young[key]
            item = (record.uses[self._k - 1], record.last, key)
            if item[0]:
                heapq.heappush(self._heap, item)
            else:
                self._seldom.append(item)
        self._bound_ripe()

    def _ripest(self) -> Key | None:
        """Take out the one that goes, if any is past its period."""
        while self._seldom or self._heap:
            item = self._seldom.popleft() if self._seldom else heapq.heappop(self._heap)
            record = self._held.get(item[2])
            if record is not None and record.last == item[1]:
                return item[2]
        return None

    def _bound_ripe(self) -> None:
        if len(self._heap) + len(self._seldom) > 2 * len(self._held) + _STALE_MAX:
            self._order_anew()

    def _order_anew(self) -> None:
        """Drop the stale items, and sort the others by K-th last use."""
        items: list[_Ripe[Key]] = []
        for _, last, key in (*self._seldom, *self._heap):
            record = self._held.get(key)
            if record is not None and record.last == last:
                items.append((record.uses[self._k - 1], last, key))
        self._heap = [item for item in items if item[0]]
        self._seldom = deque(sorted(item for item in items if not item[0]))
        heapq.heapify(self._heap)
