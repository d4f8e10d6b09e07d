"""Adaptive LRU-K: LRU-K whose K follows what would have been hit lately."""

from __future__ import annotations

from array import array

from .lru_k import LRUK
from .policy import NO_FACTS, Facts, Key
from .shadow import Shadow

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
    shadows run, LRU-K for each K, on a sample of the keys: those whose digest ends in some zero bits, and a capacity
    as many times smaller (C. Waldspurger et al., "Efficient MRC construction with SHARDS", FAST 2015: a sample by key
    keeps the reuse distances, scaled). Once per turnover the K with the most hits, old ones faded, takes over.

    The K-th last use alone is the order, not Σ 1/age over all K. Choosing by that sum among the 4 or 16 entries that
    LRU-K would evict next moved no hit ratio of twelve by more than .002 but one, and their mean by less than .0001;
    as the only order the sum is nearly its youngest term, and behaves like LRU.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(K_FIRST, CORRELATED_SHARE, k_max=K_MAX)
        self._capacity = capacity
        self._sizes = array("Q")
        self._slots.columns += (self._sizes,)
        self._shadows: list[Shadow[Key]] = []  # of K = 1, 2, ...; none before the first eviction
        self._sample_mask = 0
        self._sampled_entries_max = 0
        self._turnover_at = 0

    def hit(self, key: Key) -> None:
        """A use; the shadows hear of it if it is in their sample."""
        super().hit(key)
        if self._shadows:
            self._use_in_shadows(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        super().admit(key, size, facts)
        self._sizes[self._slots.numbers[key]] = size
        if self._shadows:
            self._use_in_shadows(key)

    def evict(self) -> Key:
        """What LRU-K evicts by the K of now."""
        if len(self) > self._sampled_entries_max:
            self._start_shadows()
        return super().evict()

    def remove(self, key: Key) -> None:
        """Forget `key` and its history, and let the shadows forget it."""
        super().remove(key)
        for shadow in self._shadows:
            shadow.remove(key)

    def check(self) -> None:
        """Assert the same as for LRU-K, and that the shadows are small."""
        super().check()
        for shadow in self._shadows:
            shadow.check()

    def told(self) -> dict[str, int]:
        """The K of now."""
        return {"k": self.k}

    def _start_shadows(self) -> None:
        """Begin anew with a sample that suits the number of entries; it serves until there are four times as many."""
        shift = max(0, (len(self) // SHADOW_ENTRIES).bit_length() - 1)
        self._sample_mask = (1 << shift) - 1
        self._sampled_entries_max = 4 * len(self)
        capacity = max(1, self._capacity >> shift)
        self._shadows = [Shadow(LRUK(k, CORRELATED_SHARE), capacity) for k in range(1, K_MAX + 1)]
        self._turnover_at = self._now + len(self)

    def _use_in_shadows(self, key: Key) -> None:
        slot = self._slots.numbers[key]
        if not self._digests[slot] & self._sample_mask:
            for shadow in self._shadows:
                shadow.use(key, self._sizes[slot])
        if self._now >= self._turnover_at:
            self._turnover_at = self._now + len(self)
            best = max(range(1, K_MAX + 1), key=lambda k: self._shadows[k - 1].hits)
            if best != self.k:
                self.k = best
            for shadow in self._shadows:
                shadow.hits *= FADING_PER_TURNOVER
