"""LRU-K: the entry whose K-th last use is longest ago goes first."""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from typing import Generic

import numpy as np
import numpy.typing as npt

from .frequency_sketch import key_digest, key_digests
from .ghosts import Ghosts
from .policy import NO_FACTS, Facts, Key
from .slots import SLOT_BITS, SLOT_MASK, TIME_MAX, Slots, move_back

# How long uses count as one: for so many uses of anything, as a share of the entries held. Mean hit ratio on four
# traces at three sizes: a quarter .4183, half .4191, all .4102.
CORRELATED_SHARE = 0.5

# How many evicted entries keep their history, for each one held. On the same: 2 .4206, 4 .4191; for an adaptive K 2 has
# .4337 and 4 .4350.
HISTORY_PER_ENTRY = 4

# The largest K-distances are looked up for this share of the entries at a time, and for so many at least.
RANKED_SHARE, RANKED_MIN = 1 / 16, 64

# Whose period is over is looked up so many times in a period, but not more often than after so many uses.
LOOKS_PER_PERIOD, LOOK_MIN = 32, 16

LINE_MAX = 1024  # so many of them are unpacked at a time
GONE_MAX = 4096  # so many wait to be filed at most
MANY_MIN = 32  # fewer are cheaper one by one than by numpy
_UNKNOWN = 0xFFFF  # a gap for which the ghosts were not asked yet

ALL_RANKED = TIME_MAX + 1


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
    the gaps before that, in 16 bits each; a burst is closed up, as if it had been one use. Nothing is moved when an
    entry is used. Now and then numpy looks up in all the columns at once whose period is over: so a period may last for
    a thirty-second more. Only then are those who are gone filed among the ghosts, and the newcomers' histories asked
    for; neither is needed before, and many at once cost a third of one by one. Those with fewer than K uses stand in a
    line from then on. The others are ranked, a sixteenth at a time: numpy finds the oldest K-th uses among a hundred
    thousand in less time than a heap in Python takes for some hundred of them. What leaves its period later and is
    older than the youngest that was ranked goes to `_late`, so but for the looks the order is exact.
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
        self._history_per_entry = history_per_entry if self._k_max > 1 else 0
        self._now = 0
        self._period = 0
        self._held_max = 0
        self._last = array("I")  # 0 for a free slot
        self._burst = array("I")
        # The latest first, 0 for one that never was; then those behind it mean nothing.
        self._gaps = tuple(array("H") for _ in range(max(1, self._k_max - 1)))
        self._slots: Slots[Key] = Slots(self._last, self._burst, *self._gaps)
        self._looked = 0  # whoever was used no later was looked at
        self._look_at = 0
        # Who had fewer than K uses when it was looked at: slots and last uses, the oldest last; and who comes after.
        self._line: tuple[list[int], list[int]] = ([], [])
        self._seldom: deque[tuple[array[int], array[int]]] = deque()
        self._ranked: tuple[list[int], list[int], list[int]] = ([], [], [])  # slots, last uses, K-th uses
        self._ranked_below = 0  # who was looked at and had its K-th use before is ranked or late
        self._late: list[tuple[int, int]] = []  # a heap of K-th use, and last use with slot
        self._ghost_burst = array("I")
        self._ghost_gaps = tuple(array("H") for _ in range(self._k_max - 2))
        self._ghosts = Ghosts(self._ghost_burst, *self._ghost_gaps)
        # Who has gone since the last look, not filed yet: keys, bursts, gaps.
        self._gone: list[Key] = []
        self._gone_burst: list[int] = []
        self._gone_gaps: tuple[list[int], ...] = tuple([] for _ in self._ghost_gaps)

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
        last[slot] = now
        if gap > self._period:
            self._period = int(self._correlated_share * len(self._slots))  # as it is while the store fills
            if gap > self._period:
                if self._gaps[0][slot] == _UNKNOWN:
                    self._recall([slot])
                self._remember(slot, gap)
                self._burst[slot] = now
        if now >= TIME_MAX:
            self._turn_back()

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        now = self._now = self._now + 1
        slot = self._slots.add(key)
        self._last[slot] = self._burst[slot] = now
        self._gaps[0][slot] = _UNKNOWN
        if now >= TIME_MAX:
            self._turn_back()

    def evict(self) -> Key:
        """The largest backward K-distance past its period; the least recently used when none is past it."""
        if self._now >= self._look_at or len(self._gone) >= GONE_MAX:
            self._look()
        last = self._last
        line, stamps = self._line
        while line:
            slot = line.pop()
            if last[slot] == stamps.pop():
                break
        else:
            slot = self._next()
        last[slot] = 0
        key = self._slots.keys[slot]
        self._slots.release(key)
        self._gone.append(key)
        self._gone_burst.append(self._burst[slot])
        if self._gone_gaps:
            for gaps, column in zip(self._gone_gaps, self._gaps, strict=False):
                gaps.append(column[slot])
        return key

    def remove(self, key: Key) -> None:
        """Forget `key` and its history."""
        self._last[self._slots.release(key)] = 0

    def resize(self, capacity: int) -> None:
        """Nothing hangs on it: the period goes by the entries, and the history by the most there were."""

    def check(self) -> None:
        """Assert that whoever may go next can be found, and that the history is bounded."""
        self._slots.check()
        self._ghosts.check()
        self._check_order()
        assert all(self._last[slot] == 0 for slot, key in enumerate(self._slots.keys) if key is None)
        unknown = [slot for slot in self._slots.numbers.values() if self._gaps[0][slot] == _UNKNOWN]
        assert all(self._last[slot] > self._looked for slot in unknown)
        assert len(self._ghosts) <= 1.5 * max(64, self._history_per_entry * self._held_max)
        assert len(self._gone) <= GONE_MAX
        assert {len(rows) for rows in (self._gone_burst, *self._gone_gaps)} == {len(self._gone)}
        assert sum(len(slots) for slots, _ in self._seldom) <= 3 * len(self._slots.keys)
        assert len(self._late) <= len(self._slots.keys) + RANKED_MIN

    def _check_order(self) -> None:
        held = np.array([*self._slots.numbers.values()], np.int64)
        uses = dict(zip(held.tolist(), self._kth_uses(held).tolist(), strict=True))
        seen = {slot for slot in uses if self._last[slot] <= self._looked}
        lines = [self._line, *self._seldom]
        in_line = {slot for line in lines for slot, last in zip(*line, strict=True) if self._last[slot] == last}
        assert {slot for slot in seen if not uses[slot]} == in_line
        listed = {*self._ranked[0]} | {item & SLOT_MASK for _, item in self._late}
        assert {slot for slot in seen if 0 < uses[slot] < self._ranked_below} <= listed

    def _remember(self, slot: int, gap: int) -> None:
        """A use that counts came `gap` after the one before. Gaps are exact below 2048, and above to 0.1 %."""
        columns = self._gaps
        for column in range(len(columns) - 1, 0, -1):
            columns[column][slot] = columns[column - 1][slot]
        if gap < 0x800:
            columns[0][slot] = gap
        else:
            shift = gap.bit_length() - 11
            columns[0][slot] = shift << 11 | gap >> shift

    def _next(self) -> int:
        """The slot of whoever goes, when those of `_line` are gone."""
        last = self._last
        while self._seldom:
            slots, last_uses = self._seldom.popleft()
            line, stamps = self._line = slots.tolist(), last_uses.tolist()
            while line:
                slot = line.pop()
                if last[slot] == stamps.pop():
                    return slot
        slot = self._oldest()
        if slot < 0 and self._now - self._period > self._looked:
            self._look()
            return self._next()
        return slot if slot >= 0 else self._least_recent()

    def _look(self) -> None:
        """Look at those whose period has ended since the last look."""
        entries = len(self._slots)
        self._period = int(self._correlated_share * entries)
        self._look_at = self._now + max(self._period // LOOKS_PER_PERIOD, min(LOOK_MIN, entries // 8))
        self._file()
        ripe = self._now - self._period
        if ripe > self._looked:
            last = np.frombuffer(self._last, np.uint32)
            ended = np.flatnonzero((last > self._looked) & (last <= ripe))
            self._looked = ripe
            self._recall(ended[np.frombuffer(self._gaps[0], np.uint16)[ended] == _UNKNOWN].tolist())
            self._line_up(ended)
            self._bound()

    def _line_up(self, ended: npt.NDArray[np.int64]) -> None:
        """The periods of these are over: any of them may go."""
        last = np.frombuffer(self._last, np.uint32)
        uses = self._kth_uses(ended)
        is_seldom = uses == 0
        seldom = ended[is_seldom]
        if len(seldom):
            seldom = seldom[np.argsort(last[seldom])[::-1]]
            for at in range(len(seldom), 0, -LINE_MAX):
                part = seldom[max(0, at - LINE_MAX) : at]
                self._seldom.append((_column(part), _column(last[part])))
        for at in np.flatnonzero(~is_seldom & (uses < self._ranked_below)).tolist():
            slot = int(ended[at])
            heapq.heappush(self._late, (int(uses[at]), self._last[slot] << SLOT_BITS | slot))

    def _file(self) -> None:
        """Those who have gone become ghosts."""
        entries = max(len(self._slots), len(self._gone))
        if entries > self._held_max:
            self._held_max = entries
            if self._history_per_entry:
                self._ghosts.ensure_room(self._history_per_entry * entries)
        if self._ghosts.sets:
            self._put_ghosts()
        self._gone.clear()
        self._gone_burst.clear()
        for gaps in self._gone_gaps:
            gaps.clear()

    def _put_ghosts(self) -> None:
        if len(self._gone) < MANY_MIN:
            for at, key in enumerate(self._gone):
                place = self._ghosts.put(key_digest(key))
                self._ghost_burst[place] = self._gone_burst[at]
                for remembered, gaps in zip(self._ghost_gaps, self._gone_gaps, strict=True):
                    remembered[place] = gaps[at]
            return
        places = self._ghosts.put_many(key_digests(self._gone))
        np.frombuffer(self._ghost_burst, np.uint32)[places] = self._gone_burst
        for remembered, gaps in zip(self._ghost_gaps, self._gone_gaps, strict=True):
            np.frombuffer(remembered, np.uint16)[places] = gaps

    def _recall(self, slots: list[int]) -> None:
        """Ask the ghosts for what these did before they came."""
        self._file()
        ghosts, keys = self._ghosts, self._slots.keys
        for slot in slots:
            self._gaps[0][slot] = 0
        if not ghosts.sets:
            return
        if len(slots) < MANY_MIN:
            places = [ghosts.find(key_digest(keys[slot])) for slot in slots]
        else:
            places = ghosts.find_many(key_digests([keys[slot] for slot in slots])).tolist()
        for slot, place in zip(slots, places, strict=True):
            # A ghost that left after this one came is a stranger's.
            if place >= 0 and (gap := self._burst[slot] - self._ghost_burst[place]) > 0:
                ghosts.take(place)
                for column, gaps in zip(self._gaps, self._ghost_gaps, strict=False):
                    column[slot] = gaps[place]
                self._remember(slot, gap)

    def _oldest(self) -> int:
        """Take out the slot with the oldest K-th use among those looked at, -1 if there is none."""
        last = self._last
        while True:
            (slots, stamps, uses), late = self._ranked, self._late
            while slots and last[slots[-1]] != stamps[-1]:
                slots.pop()
                stamps.pop()
                uses.pop()
            while late and last[late[0][1] & SLOT_MASK] != late[0][1] >> SLOT_BITS:
                heapq.heappop(late)
            if late and (not slots or late[0][0] < uses[-1]):
                return heapq.heappop(late)[1] & SLOT_MASK
            if slots:
                stamps.pop()
                uses.pop()
                return slots.pop()
            if self._ranked_below == ALL_RANKED:
                return -1
            self._rank()

    def _rank(self) -> None:
        """Find who goes next among those looked at, all of whom have K uses."""
        last = np.frombuffer(self._last, np.uint32)
        seen = np.flatnonzero((last > 0) & (last <= self._looked))
        uses = self._kth_uses(seen)
        count = max(RANKED_MIN, int(len(self._slots) * RANKED_SHARE))
        self._ranked_below = ALL_RANKED
        if len(seen) > count:
            chosen = np.argpartition(uses, count)[: count + 1]
            self._ranked_below = int(uses[chosen[-1]])
            seen, uses = seen[chosen[:-1]], uses[chosen[:-1]]
        order = np.lexsort((last[seen], uses))[::-1]
        self._ranked = seen[order].tolist(), last[seen[order]].tolist(), uses[order].tolist()
        self._late = []

    def _kth_uses(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """When the K-th last use of each was, bursts closed up; 0 if there were not so many."""
        uses = np.frombuffer(self._burst, np.uint32)[slots].astype(np.int64)
        is_known = np.ones(len(slots), np.bool_)
        for column in self._gaps[: self._k - 1]:
            gaps = np.frombuffer(column, np.uint16)[slots].astype(np.int64)
            is_known &= gaps > 0
            uses -= (gaps & 0x7FF) << (gaps >> 11)
        return np.where(is_known, np.maximum(uses, 1), 0)

    def _least_recent(self) -> int:
        """The slot that was used longest ago."""
        last = np.frombuffer(self._last, np.uint32)
        held = np.flatnonzero(last)
        return int(held[np.argmin(last[held])])

    def _order_anew(self) -> None:
        """Forget who was looked at, and look again when somebody has to go."""
        self._line, self._ranked = ([], []), ([], [], [])
        self._late, self._ranked_below = [], 0
        self._seldom.clear()
        self._looked = self._look_at = 0

    def _bound(self) -> None:
        """Those in line who were used since are many: look again at all."""
        entries = len(self._slots.keys)
        if sum(len(slots) for slots, _ in self._seldom) > 2 * entries or len(self._late) > entries:
            self._order_anew()
            self._look()

    def _turn_back(self) -> None:
        """Times are used up: move all of them back."""
        self._file()
        by = self._now // 2
        for times in (self._last, self._burst, self._ghost_burst):
            move_back(times, by)
        self._now -= by
        self._order_anew()


def _column(values: npt.NDArray[np.int64] | npt.NDArray[np.uint32]) -> array[int]:
    return array("I", values.astype(np.uint32).tobytes())
