"""Predictive LRU-K: the learnt forecast, and two policies that stand ready for when nothing can be learnt."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from .forecast_lru_k import ForecastLRUK
from .frequency_sketch import key_digest
from .lru import LRU
from .policy import NO_FACTS, EvictionPolicy, Facts, Key
from .s3_fifo import S3FIFO, SMALL_SHARE, USES_MAX, USES_TO_MOVE
from .scene_change import SceneChange
from .shadow import Shadows
from .slots import StampedQueue, move_back

# Shadows hold between so many entries and twice as many; what they hear of is a sample of the keys.
SHADOW_ENTRIES = 1024

# Hits of a turnover ago (as many uses as entries are held) count this much.
FADING_PER_TURNOVER = 0.9

# Another expert leads only while it has so many times the forecast's hits: a lead changes what is held only by and by,
# so each change costs. Mean hit ratio on four traces at three sizes, fading .8: 1 .4354, 1.03 .4368, 1.08 .4376, 1.15
# .4390; with 1.08 and fading .9 .4390. On a fifth trace, looked at afterwards, the last is the best of these.
LEAD = 1.08

# After a change of scene, a use that was counted before is worth this much.
PAST_WORTH = 0.5

OLDEST_MIN = 64

# Who returns after less than so many turnovers was one of S3-FIFO's ghosts, near enough.
_GHOST_TURNOVERS = 2.0

FORECAST, RECENCY, QUEUES = range(3)
NAMES = ("forecast", "lru", "s3-fifo")
_MAIN = USES_MAX + 1  # in an entry's flags, above its uses


class PredictiveLRUK(ForecastLRUK[Key]):
    """Evicts by the currently best of three experts. O(1) each, amortised, learning included.

    A forecast errs where the past does not tell: at the start, after a change of scene, on a workload without pattern.
    So it is one of three experts, with LRU for recency and S3-FIFO for popularity. The order of each is kept up for the
    entries held, which costs some 15 bytes for each: a change of leader changes who goes next, and throws nothing away.

    What each expert is worth now, three shadows say (`shadow.py`), in which nobody but one expert decides. The
    forecast's shadow asks the model that the store itself teaches. Their hits, old ones faded, are compared once per
    turnover. When what is asked for becomes another (`scene_change.py`), uses counted before are halved.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._leader = FORECAST
        self._oldest: list[int] = []  # by their last use, the oldest last
        self._oldest_at = 0  # when they were looked up
        self._flags = array("B")
        self._queued = array("I")  # when it came into its queue, 0 for a free slot
        self._slots.columns += (self._flags, self._queued)
        self._small = StampedQueue(self._queued)
        self._main = StampedQueue(self._queued)
        self._main_count = 0
        experts: Sequence[Callable[[int], EvictionPolicy[Key]]]
        experts = (lambda capacity: ForecastLRUK(self._forecast), lambda capacity: LRU(), S3FIFO)
        self._shadows: Shadows[Key] = Shadows(capacity, experts, SHADOW_ENTRIES)
        self._turnover_at = 0
        self._scenes = SceneChange()

    def hit(self, key: Key) -> None:
        """A use, of which the experts hear."""
        super().hit(key)
        slot = self._slots.numbers[key]
        flags = self._flags[slot]
        if flags & USES_MAX < USES_MAX:
            self._flags[slot] = flags + 1
        if key in self._shadows.known:
            self._shadows.use(key)
            self._look_for_change(key)
        if not self._now & 63:
            self._bound()

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        slot, gap = self._take_in(key, size, facts)
        self._queued[slot] = self._now
        flags = 0
        if 0 < gap <= _GHOST_TURNOVERS * len(self._slots.numbers):
            flags = _MAIN
            self._main_count += 1
            self._main.push(self._now, slot)
        else:
            self._small.push(self._now, slot)
        self._flags[slot] = flags
        self._shadows.admit(key, size, facts)
        if key in self._shadows.known:
            self._look_for_change(key)
        if not self._now & 63:
            self._bound()

    def evict(self) -> Key:
        """Whom the leader would let go."""
        if self._now >= self._turnover_at:
            self._choose_leader()
        if self._leader == FORECAST:
            slot = self._least_likely()
        else:
            slot = self._least_recent() if self._leader == RECENCY else self._end_of_queues()
            if self._victims:
                self._victims.pop()  # the forecast goes on learning at its pace
            else:
                self._study()
        self._unlist(slot)
        key = self._release(slot)
        self._shadows.evicted(key)
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`, here and with the experts."""
        self._unlist(self._slots.numbers[key])
        super().remove(key)
        self._shadows.remove(key)

    def resize(self, capacity: int) -> None:
        """The shadows' capacity follows."""
        self._shadows.resize(capacity)

    def told(self) -> dict[str, float | str]:
        """Who leads, and what share of the uses of late the best expert's shadow answered and the leader's did not."""
        hits, uses = self._shadows.hits, self._shadows.uses
        regret = (max(hits) - hits[self._leader]) / uses if uses else 0.0
        return {"leader": NAMES[self._leader], "regret": regret, "scene_changes": self._scenes.changes}

    def by_worth(self) -> list[Key]:
        """The keys, the newest use first, but those last that are to go next."""
        going = {slot: None for slot in reversed(self._victims) if 0 < self._last[slot] <= self._ranked_at}
        slots = [slot for slot in self._by_last_use(len(self)) if slot not in going]
        return [self._slots.keys[slot] for slot in (*reversed(slots), *reversed(going))]

    def check(self) -> None:
        """Assert that each entry has its place in every order, and that void items are bounded."""
        super().check()
        held = sorted(self._slots.numbers.values())
        assert sorted(self._small.live() + self._main.live()) == held
        assert self._main_count == len(self._main.live())
        assert all(bool(self._flags[slot] & _MAIN) for slot in self._main.live())
        assert self._shadows.known.keys() <= self._slots.numbers.keys()
        for queue in (self._small, self._main):
            assert len(queue.items) <= 2 * len(self._slots.keys) + 128
        self._shadows.check()

    def _unlist(self, slot: int) -> None:
        """The entry in `slot` goes: it has no place in a queue any more."""
        self._queued[slot] = 0
        if self._flags[slot] & _MAIN:
            self._main_count -= 1

    def _least_recent(self) -> int:
        """Whom LRU lets go. The oldest sixteenth is looked up at a time; whoever is used meanwhile is none of them."""
        while True:
            while self._oldest:
                slot = self._oldest.pop()
                if 0 < self._last[slot] <= self._oldest_at:
                    return slot
            self._oldest = self._by_last_use(max(OLDEST_MIN, len(self) // 16))[::-1]
            self._oldest_at = self._now

    def _by_last_use(self, count: int) -> list[int]:
        """So many slots, the least recently used first."""
        last = np.frombuffer(self._last, np.uint32)
        held = np.flatnonzero(last)
        if len(held) > count:
            held = held[np.argpartition(last[held], count)[:count]]
        slots: list[int] = held[np.argsort(last[held])].tolist()
        return slots

    def _end_of_queues(self) -> int:
        """Whom S3-FIFO lets go; see `s3_fifo.py`."""
        flags, queued, main_share = self._flags, self._queued, (1 - SMALL_SHARE) * len(self._slots.numbers)
        while True:
            slot = self._small.first() if self._main_count <= main_share else -1
            if slot >= 0:
                if flags[slot] & USES_MAX < USES_TO_MOVE:
                    return slot
                self._small.at += 1
                flags[slot] = _MAIN
                self._main_count += 1
            elif (slot := self._main.first()) >= 0:
                if not flags[slot] & USES_MAX:
                    return slot
                self._main.at += 1
                flags[slot] -= 1
            else:
                return self._small.first()
            queued[slot] = self._now
            self._main.push(self._now, slot)

    def _choose_leader(self) -> None:
        """Once per turnover."""
        self._shadows.start()
        self._turnover_at = self._now + len(self)
        hits = self._shadows.hits
        challenger = RECENCY if hits[RECENCY] > hits[QUEUES] else QUEUES
        self._leader = challenger if hits[challenger] > LEAD * hits[FORECAST] else FORECAST
        self._shadows.fade(FADING_PER_TURNOVER)

    def _look_for_change(self, key: Key) -> None:
        """`key`, which is in the sample, was used: is that a use of another scene?"""
        if self._scenes.used(key_digest(key)):
            self._age_past(PAST_WORTH)

    def _bound(self) -> None:
        """Every now and then: keep void items few."""
        for queue in (self._small, self._main):
            queue.bound(len(self._slots.keys))

    def _turn_back(self) -> None:
        queues = (self._small, self._main)
        lives = [np.array(queue.live(), np.int64) for queue in queues]
        before = self._now
        super()._turn_back()
        self._oldest = []
        move_back(self._queued, before - self._now)
        for queue, live in zip(queues, lives, strict=True):
            queue.fill(live)
        self._turnover_at = self._now + len(self)
