"""Adaptive LRU-K: LRU-K whose K follows what would have been hit lately."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .frequency_sketch import key_digest
from .importance import Importance
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

# An entry with fewer than K uses goes before all others, unless it is so many times as important as the usual one.
SPARED_FROM = 1.25


class AdaptiveLRUK(LRUK[Key]):
    """LRU-K, with K between 1 and 5 by the hits of five small shadows. O(log n) each, amortised.

    Which use to count depends on the workload. With K = 1, LRU with a little patience, a change of scene is followed
    at once. With K = 5 an entry must have been asked for again and again, and a scan of anything goes by. So five
    shadows run on a sample of the keys, LRU-K for each K (`shadow.py`). Once per turnover the K with the most hits, old
    ones faded, takes over.

    The K-th last use alone is the order, not Σ 1/age over all K. Choosing by that sum among the 4 or 16 entries that
    LRU-K would evict next moved no hit ratio of twelve by more than .002 but one, and their mean by less than .0001;
    as the only order the sum is nearly its youngest term, and behaves like LRU.

    Where it is told what entries cost or what their features are like, the age of the K-th use is divided by importance
    (`importance.py`), so that what is dear or one of a kind stays longer. Without such facts nothing of that runs.
    """

    wants_sketches = True

    def __init__(self, capacity: int) -> None:
        super().__init__(K_FIRST, CORRELATED_SHARE, k_max=K_MAX)
        makers = [partial(_of_k, k) for k in range(1, K_MAX + 1)]
        self._shadows: Shadows[Key] = Shadows(capacity, makers, SHADOW_ENTRIES)
        self._turnover_at = 0
        self._importance: Importance[Key] | None = None  # before the first fact

    def hit(self, key: Key) -> None:
        """A use; the shadows hear of it if it is in their sample."""
        super().hit(key)
        if key in self._shadows.known:
            self._shadows.use(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        super().admit(key, size, facts)
        if self._importance is None and (facts.cost_ms is not None or facts.sketch is not None):
            self._importance = Importance(self._slots, self._last)
            self._order_anew()
        if self._importance is not None:
            self._importance.admitted(self._slots.numbers[key], size, facts)
        self._shadows.admit(key, size, facts)

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
        if self._importance is not None:
            self._importance.check()

    def told(self) -> dict[str, Any]:
        """The K of now, and what share of the uses of late the best K's shadow answered and its own did not.

        Once there are facts, also the weights of frequency, uniqueness and cost.
        """
        hits, uses = self._shadows.hits, self._shadows.uses
        regret = (max(hits) - hits[self.k - 1]) / uses if uses else 0.0
        told = {"k": self.k, "regret": regret}
        return told if self._importance is None else told | {"importance": self._importance.weights.round(3).tolist()}

    def _choose_k(self) -> None:
        """Once per turnover."""
        self._shadows.start()
        self._turnover_at = self._now + len(self)
        hits = self._shadows.hits
        best = max(range(1, K_MAX + 1), key=lambda k: hits[k - 1])
        if hits[best - 1] > hits[self.k - 1]:
            self.k = best
        self._shadows.fade(FADING_PER_TURNOVER)

    def _kth_uses(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where facts were told: as if the age of the K-th use were as many times less as the entry is more important.

        One with fewer uses that is important enough to be spared counts as if the K-th use were the oldest here.
        """
        kth_uses = super()._kth_uses(slots)
        if self._importance is None or not len(slots):
            return kth_uses
        relative = self._importance.of(slots, self._remembered(slots), self._now, len(self), self._last_use)
        is_known = kth_uses > 0
        ages = self._now + 1 - kth_uses
        oldest = int(ages[is_known].max()) if is_known.any() else len(self)
        virtual = np.clip(self._now + 1 - np.where(is_known, ages, oldest) / relative, 1, self._now)
        return np.where(is_known | (relative > SPARED_FROM), virtual.astype(np.int64), 0)

    def _last_use(self, key: Key) -> int:
        """When `key` was used last; of one that is gone, when its last burst began, and 0 if that is forgotten."""
        slot = self._slots.numbers.get(key)
        if slot is not None:
            return self._last[slot]
        place = self._ghosts.find(key_digest(key)) if self._ghosts.sets else -1
        return self._ghost_burst[place] if place >= 0 else 0

    def _remembered(self, slots: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """The last uses of each, bursts closed up, the latest first; 0 for one that never was."""
        use = np.frombuffer(self._burst, np.uint32)[slots].astype(np.int64)
        uses = [use]
        for column in self._gaps:
            gaps = np.frombuffer(column, np.uint16)[slots].astype(np.int64)
            use = np.where((gaps > 0) & (use > 0), np.maximum(use - ((gaps & 0x7FF) << (gaps >> 11)), 1), 0)
            uses.append(use)
        return uses

    def _check_order(self) -> None:
        if self._importance is None:
            super()._check_order()

    def _turn_back(self) -> None:
        before = self._now
        super()._turn_back()
        self._turnover_at -= before - self._now


def _of_k(k: int, capacity: int) -> EvictionPolicy[Any]:
    return LRUK(k, CORRELATED_SHARE)
