"""Adaptive LRU-K: LRU-K whose K follows what would have been hit lately."""

from __future__ import annotations

from functools import partial
from typing import Any

from .lru_k import LRUK
from .policy import NO_FACTS, EvictionPolicy, Facts, Key
from .shadow import Shadows

K_FIRST = 2
K_MAX = 5

# Beside other K's a shorter period than LRU-2's own pays: on four traces at three sizes, half the entries .4327, a
# quarter .4350, 15 % .4345, a tenth .4342 mean hit ratio.
CORRELATED_SHARE = 0.25

# Shadows hold about this many entries each; what they hear of is a sample of the keys. 256 do as well as 2048 (.4327
# and .4322 mean hit ratio), for a third of the time.
SHADOW_ENTRIES = 256

# Hits of a turnover ago (as many uses as entries are held) count this much. .5 to .95 differ by .0029 at most.
FADING_PER_TURNOVER = 0.8


class AdaptiveLRUK(LRUK[Key]):
    """LRU-K, with K between 1 and 5 by the hits of five small shadows. O(log n) each, amortised.

    Which use to count depends on the workload. With K = 1, LRU with a little patience, a change of scene is followed
    at once. With K = 5 an entry must have been asked for again and again, and a scan of anything goes by. So five
    shadows run on a sample of the keys, LRU-K for each K (`shadow.py`). Once per turnover the K with the most hits, old
    ones faded, takes over.

    The K-th last use alone is the order, not Σ 1/age over all K. Choosing by that sum among the 4 or 16 entries that
    LRU-K would evict next moved no hit ratio of twelve by more than .002 but one, and their mean by less than .0001;
    as the only order the sum is nearly its youngest term, and behaves like LRU.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(K_FIRST, CORRELATED_SHARE, k_max=K_MAX)
        makers = [partial(_of_k, k) for k in range(1, K_MAX + 1)]
        self._shadows: Shadows[Key] = Shadows(capacity, makers, SHADOW_ENTRIES)
        self._turnover_at = 0

    def hit(self, key: Key) -> None:
        """A use; the shadows hear of it if it is in their sample."""
        super().hit(key)
        size = self._shadows.sizes.get(key)
        if size is not None:
            self._shadows.use(key, size)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        super().admit(key, size, facts)
        self._shadows.admit(key, size)

    def evict(self) -> Key:
        """What LRU-K evicts by the K of now."""
        if self._now >= self._turnover_at:
            self._choose_k()
        key = super().evict()
        self._shadows.evicted(key)
        return key

    def remove(self, key: Key) -> None:
        """Forget `key` and its history, and let the shadows forget it."""
        super().remove(key)
        self._shadows.remove(key)

    def resize(self, capacity: int) -> None:
        """The shadows' capacity follows."""
        self._shadows.resize(capacity)

    def check(self) -> None:
        """Assert the same as for LRU-K, and that the shadows are small."""
        super().check()
        self._shadows.check()

    def told(self) -> dict[str, float]:
        """The K of now, and what share of the uses of late the best K's shadow answered and its own did not."""
        hits, uses = self._shadows.hits, self._shadows.uses
        regret = (max(hits) - hits[self.k - 1]) / uses if uses else 0.0
        return {"k": self.k, "regret": regret}

    def _choose_k(self) -> None:
        """Once per turnover."""
        self._shadows.start(lambda key: self._last[self._slots.numbers[key]])
        self._turnover_at = self._now + len(self)
        hits = self._shadows.hits
        best = max(range(1, K_MAX + 1), key=lambda k: hits[k - 1])
        if hits[best - 1] > hits[self.k - 1]:
            self.k = best
        self._shadows.fade(FADING_PER_TURNOVER)

    def _turn_back(self) -> None:
        before = self._now
        super()._turn_back()
        self._turnover_at -= before - self._now


def _of_k(k: int, capacity: int) -> EvictionPolicy[Any]:
    return LRUK(k, CORRELATED_SHARE)
