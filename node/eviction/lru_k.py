"""LRU-K: the entry whose K-th last use is longest ago goes first."""

from __future__ import annotations

import heapq
from array import array
from typing import Generic, cast

import numpy as np
import numpy.typing as npt

from .frequency_sketch import key_digest
from .ghosts import Ghosts
from .policy import NO_FACTS, Facts, Key
from .slots import SLOT_BITS, SLOT_MASK, TIME_MAX, Slots, StampedQueue, move_back

# How long uses count as one: for so many uses of anything, as a share of the entries held. Mean hit ratio on four
# traces at three sizes: a quarter .4183, half .4191, all .4102.
CORRELATED_SHARE = 0.5

# How many evicted entries keep their history, for each one held. On the same: 2 .4206, 4 .4191; for an adaptive K 2 has
# .4337 and 4 .4350.
HISTORY_PER_ENTRY = 4

# The largest K-distances are looked up for this share of the entries at a time, and for so many at least.
RANKED_SHARE, RANKED_MIN = 1 / 16, 64

_ALL = TIME_MAX + 1


class LRUK(Generic[Key]):
    """O'Neil's LRU-K with its correlated-reference period and its retained history. O(1) each, amortised.

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

    Of each entry three things are kept in columns: its last use, the first use of the burst that this belongs to, and
    the gaps before that, in 16 bits each; a burst is closed up, as if it had been one use. `_uses` has the uses in
    their order, and is walked as their periods end: who then has fewer than K uses goes. The others are ranked, a
    sixteenth at a time: numpy finds the oldest K-th uses among a hundred thousand in less time than a heap in Python
    takes for some hundred of them. What leaves its period later and is older than the youngest that was ranked goes to
    `_late`, so the order is exact.
    """

    def __init__(
        self,
        k: int = 2,
        correlated_share: float = CORRELATED_SHARE,
        history_per_entry: float = HISTORY_PER_ENTRY,
        k_max: int | None = None,
    ) -> None:
        self._k = k
        k_max = k_max or k  # how many uses are remembered
        self._correlated_share = correlated_share
        self._history_per_entry = history_per_entry
        self._now = 0
        self._period = 0
        self._held_max = 0
        self._digests = array("Q")
        self._last = array("I")  # 0 for a free slot
        self._burst = array("I")
        self._gaps = tuple(array("H") for _ in range(k_max - 1))  # the latest first, 0 for one that never was
        self._slots: Slots[Key] = Slots(self._digests, self._last, self._burst, *self._gaps)
        self._uses = StampedQueue(self._last)
        # K-th use in the upper bits, slot in the lower, the oldest last.
        self._ranked: list[int] = []
        self._ranked_ripe = 0  # what is ranked was used no later
        self._ranked_below = 0  # what is ripe and had its K-th use before is ranked or late
        self._late: list[tuple[int, int]] = []  # a heap of K-th use, and last use with slot
        self._ghost_burst = array("I")
        self._ghost_gaps = tuple(array("H") for _ in range(k_max - 2))
        self._ghosts = Ghosts(self._ghost_burst, *self._ghost_gaps)

    def __len__(self) -> int:
        return len(self._slots.numbers)

    def __contains__(self, key: object) -> bool:
        return key in self._slots.numbers

    @property
    def k(self) -> int:
        """Which use counts."""
        return self._k

    @k.setter
    def k(self, k: int) -> None:
        """From now on the `k`-th last use counts, up to `k_max`. O(n log n)."""
        assert 1 <= k <= 1 + len(self._gaps)
        self._k = k
        self._order_anew()

    def hit(self, key: Key) -> None:
        """A use: correlated with the last one, or one that counts."""
        slot = self._slots.numbers[key]
        now = self._now = self._now + 1
        last = self._last
        gap = now - last[slot]
        if gap > self._period:
            self._remember(slot, gap)
            self._burst[slot] = now
        last[slot] = now
        self._uses.items.append(now << SLOT_BITS | slot)
        if not now & 63:
            self._bound()

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        now = self._now = self._now + 1
        slot = self._slots.add(key)
        self._digests[slot] = digest = key_digest(key)
        for gaps in self._gaps:
            gaps[slot] = 0
        if self._ghosts.sets and (place := self._ghosts.find(digest)) >= 0:
            self._ghosts.take(place)
            for column, gaps in enumerate(self._ghost_gaps):
                self._gaps[column][slot] = gaps[place]
            self._remember(slot, now - self._ghost_burst[place])
        self._last[slot] = self._burst[slot] = now
        self._period = int(self._correlated_share * len(self._slots.numbers))
        self._uses.items.append(now << SLOT_BITS | slot)
        if not now & 63:
            self._bound()

    def evict(self) -> Key:
        """The largest backward K-distance past its period; the least recently used when none is past it."""
        entries = len(self._slots.numbers)
        if entries > self._held_max:
            self._held_max = entries
            if self._gaps and self._history_per_entry:
                self._ghosts.ensure_room(self._history_per_entry * entries)
        slot = self._seldom()
        if slot < 0:
            slot = self._oldest()
        if slot < 0:
            slot = self._uses.first()
        if self._ghosts.sets:
            place = self._ghosts.put(self._digests[slot])
            self._ghost_burst[place] = self._burst[slot]
            for column, gaps in enumerate(self._ghost_gaps):
                gaps[place] = self._gaps[column][slot]
        return self._release(slot)

    def remove(self, key: Key) -> None:
        """Forget `key` and its history."""
        self._release(self._slots.numbers[key])

    def check(self) -> None:
        """Assert that whoever may go next can be found, and that void items and the history are bounded."""
        self._slots.check()
        self._ghosts.check()
        assert all(self._last[slot] == 0 for slot, key in enumerate(self._slots.keys) if key is None)
        walked = {*self._slots.numbers.values()}.difference(self._uses.live())
        assert all(self._kth_use(slot) for slot in walked)
        listed = {item & SLOT_MASK for item in self._ranked} | {item & SLOT_MASK for _, item in self._late}
        assert {slot for slot in walked if self._kth_use(slot) < self._ranked_below} <= listed
        assert len(self._ghosts) <= 1.5 * max(64, self._history_per_entry * self._held_max)
        assert len(self._uses.items) <= 2 * len(self._slots.keys) + 128
        assert self._period == int(self._correlated_share * len(self._slots))

    def _release(self, slot: int) -> Key:
        key = cast(Key, self._slots.keys[slot])
        self._slots.release(key)
        self._last[slot] = 0
        self._period = int(self._correlated_share * len(self._slots.numbers))
        return key

    def _kth_use(self, slot: int) -> int:
        """When the K-th last use was, bursts closed up; 0 if there were not so many."""
        use = self._burst[slot]
        for gaps in self._gaps[: self._k - 1]:
            gap = gaps[slot]
            if not gap:
                return 0
            use -= (gap & 0x7FF) << (gap >> 11)
        return use if use > 1 else 1

    def _remember(self, slot: int, gap: int) -> None:
        """A use that counts came `gap` after the one before. Gaps are exact below 2048, and above to 0.1 %."""
        columns = self._gaps
        if not columns:
            return
        for column in range(len(columns) - 1, 0, -1):
            columns[column][slot] = columns[column - 1][slot]
        if gap < 0x800:
            columns[0][slot] = gap
        else:
            shift = gap.bit_length() - 11
            columns[0][slot] = shift << 11 | gap >> shift

    def _seldom(self) -> int:
        """The first slot that is past its period with fewer than K uses, -1 if there is none."""
        items, at, end = self._uses.items, self._uses.at, len(self._uses.items)
        last, gaps = self._last, self._gaps[self._k - 2] if self._k > 1 else None
        stop = self._now - self._period + 1 << SLOT_BITS
        while at < end and (item := items[at]) < stop:
            slot = item & SLOT_MASK
            if last[slot] == item >> SLOT_BITS:
                if gaps is not None and not gaps[slot]:
                    self._uses.at = at
                    return slot
                if self._ranked_below and (use := self._kth_use(slot)) < self._ranked_below:
                    heapq.heappush(self._late, (use, item))
            at += 1
        self._uses.at = at
        return -1

    def _oldest(self) -> int:
        """Take out the slot with the oldest K-th use among those walked past, -1 if there is none."""
        last = self._last
        while True:
            ranked, late = self._ranked, self._late
            while ranked and not 0 < last[ranked[-1] & SLOT_MASK] <= self._ranked_ripe:
                ranked.pop()
            while late and last[late[0][1] & SLOT_MASK] != late[0][1] >> SLOT_BITS:
                heapq.heappop(late)
            if late and (not ranked or late[0][0] < ranked[-1] >> SLOT_BITS):
                return heapq.heappop(late)[1] & SLOT_MASK
            if ranked:
                return ranked.pop() & SLOT_MASK
            if self._ranked_below == _ALL:
                return -1
            self._rank()

    def _rank(self) -> None:
        """Look up who goes next among those past their period, all of whom have K uses."""
        self._ranked_ripe = max(self._now - self._period, 0)
        last = np.frombuffer(self._last, np.uint32)
        ripe = np.flatnonzero((last > 0) & (last <= self._ranked_ripe))
        uses = self._kth_uses(ripe)
        count = max(RANKED_MIN, int(len(self._slots) * RANKED_SHARE))
        self._ranked_below = _ALL
        if len(ripe) > count:
            chosen = np.argpartition(uses, count)[: count + 1]
            self._ranked_below = int(uses[chosen[-1]])
            ripe, uses = ripe[chosen[:-1]], uses[chosen[:-1]]
        order = np.lexsort((last[ripe], uses))[::-1]
        self._ranked = (uses.astype(np.uint64) << np.uint64(SLOT_BITS) | ripe.astype(np.uint64))[order].tolist()
        self._late = []

    def _kth_uses(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        uses = np.frombuffer(self._burst, np.uint32)[slots].astype(np.int64)
        is_known = np.ones(len(slots), np.bool_)
        for column in self._gaps[: self._k - 1]:
            gaps = np.frombuffer(column, np.uint16)[slots].astype(np.int64)
            is_known &= gaps > 0
            uses -= (gaps & 0x7FF) << (gaps >> 11)
        return np.where(is_known, np.maximum(uses, 1), 0)

    def _order_anew(self) -> None:
        """Forget what was ranked, and walk again past those with fewer than K uses."""
        self._ranked, self._late, self._ranked_below = [], [], 0
        last = np.frombuffer(self._last, np.uint32)
        held = np.flatnonzero(last)
        is_walked = np.ones(len(last), np.bool_)
        is_walked[self._uses.live()] = False
        is_walked &= last > 0
        self._uses.fill(held[~is_walked[held] | (self._kth_uses(held) == 0)])

    def _bound(self) -> None:
        """Every now and then: keep void items few, and times within 32 bits."""
        entries = len(self._slots.keys)
        self._uses.bound(entries)
        if len(self._late) > entries + RANKED_MIN:
            self._ranked, self._late, self._ranked_below = [], [], 0
        if self._now >= TIME_MAX - 64:
            by = self._now // 2
            self._uses.compact()
            live = np.array(self._uses.live(), np.int64)
            for times in (self._last, self._burst, self._ghost_burst):
                move_back(times, by)
            self._now -= by
            self._uses.fill(live)
            self._order_anew()
