"""LRU-K's history, ranked by a learnt forecast: what is least likely to be used again soon goes first."""

from __future__ import annotations

import math
from array import array
from collections import deque
from typing import Generic, NamedTuple, cast

import numpy as np

from .frequency_sketch import key_digest
from .ghosts import Ghosts
from .policy import NO_FACTS, Facts, Key
from .slots import TIME_MAX, Slots, move_back
from .use_forecast import STREAM_BINS, Bins, Floats, Ints, UseForecast, quarter_octave

# The question asked of the forecast: is there a use within so many turnovers (as many uses as entries are held)? Mean
# hit ratio on four traces at three sizes: .7 .4408, 1 .4409; 3 is lower by .009 than 1.5 on six of these cells.
HORIZON_TURNOVERS = 1.0

# The uses of so many evicted entries are remembered, for each one held. Mean hit ratio as above: 1 .4335, 2 .4370, 4
# .4409.
HISTORY_PER_ENTRY = 4

# A ranking of entries serves this share of them as victims. Where few are held it serves more: ranking 70 entries
# takes as long as ranking 500.
RANKED_SHARE = 1 / 16
RANKED_MIN, RANKED_SHARE_MAX = 32, 1 / 4

# At most so many entries are ranked at once, of more a part in turn: nobody waits longer than that takes.
RANKING_MAX = 2048

# At each ranking so many entries are remembered, to learn from when the horizon has passed.
SAMPLE_MIN, SAMPLE_SHARE = 64, 1 / 32

# So many rankings wait for their horizon at most; 100,000 entries have some hundreds.
SAMPLES_MAX = 4096
LEARNT_AT_ONCE_MAX = 4

# The uses to be expected of an entry are divided by this power of its size: room is for small ones first. On the
# edge-vision workload, whose sizes differ by eight, with seeds 0 and 2: 0 .6958, 1/2 .7035 mean hit ratio; with seeds 1
# and 2: 1/2 .7004, 3/4 .6951. Among entries of one size it changes nothing.
SIZE_WEIGHT = 0.5

RATE_TURNOVERS = 2.0  # over which the rate of use fades
_RATE_UNIT = 256  # rates are kept in 16 bits
_BYTE_MAX, _SHORT_MAX = 255, 65535


class _Sample(NamedTuple):
    asked_at: int
    keys: list[object]
    bins: Bins


class ForecastLRUK(Generic[Key]):
    """Evicts by the forecast of `UseForecast`. O(1) for a use and, amortised, for an eviction, learning included.

    Of each entry the columns hold the last use, the three gaps before it by their quarter octaves, how many uses there
    were, and their rate: 10 bytes, and as much of four times as many that were evicted; and of those held the size, and
    what `Facts` said of cost, stream and hour, in a byte each. Scoring one entry in Python
    costs as much as scoring a hundred in numpy, so some thousand are ranked at once, and the worst sixteenth of them
    are the next victims, but for those that are used meanwhile.

    All of that is done on the event loop: 1.5 ms for each 128 evictions at 100,000 entries, 2.9 µs of each request
    (`tests/bench/eviction.py`). A thread would have to copy what it reads, and a run would depend on when it comes.

    The answers to learn from are its own past: some entries of each ranking are kept with their facts, and when the
    horizon is over it is looked up whether a use came, whether they were still held or not.
    """

    def __init__(self, forecast: UseForecast | None = None) -> None:
        """With a `forecast` of somebody else's, who teaches it, learn nothing."""
        self._forecast = UseForecast() if forecast is None else forecast
        self._learns = forecast is None
        self._now = 0
        self._held_max = 1
        self._last = array("I")  # 0 for a free slot
        self._gaps = (array("B"), array("B"), array("B"))
        self._counts = array("B")
        self._rates = array("H")
        self._sizes = array("B")  # by quarter octaves
        self._costs = array("B")  # of microseconds, by quarter octaves; 0 for none known
        self._streams = array("B")  # 0 for none known
        self._hours = array("B")  # of the day when it came, from 1; 0 for none known
        facts = (self._sizes, self._costs, self._streams, self._hours)
        self._slots: Slots[Key] = Slots(self._last, *self._gaps, self._counts, self._rates, *facts)
        self._hour = 0  # that was heard last
        self._size = -1  # of the last newcomer
        self._size_code = 0
        self._has_facts = False
        self._ghost_last = array("I")
        self._ghost_facts = tuple(array(column.typecode) for column in self._facts)
        self._ghosts = Ghosts(self._ghost_last, *self._ghost_facts)
        self._victims: list[int] = []  # the next one last
        self._ranked_at = 0
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._rankings = 0

    @property
    def _facts(self) -> tuple[array[int], ...]:
        return (*self._gaps, self._counts, self._rates)

    def __len__(self) -> int:
        return len(self._slots.numbers)

    def __contains__(self, key: object) -> bool:
        return key in self._slots.numbers

    def hit(self, key: Key) -> None:
        """A use."""
        now = self._now = self._now + 1
        slot = self._slots.numbers[key]
        self._count(slot, now - self._last[slot])
        self._last[slot] = now
        if now >= TIME_MAX:
            self._turn_back()

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        self._take_in(key, size, facts)

    def evict(self) -> Key:
        """The next of the last ranking that was not used since."""
        return self._release(self._least_likely())

    def remove(self, key: Key) -> None:
        """Forget `key` and its history."""
        self._last[self._slots.release(key)] = 0

    def resize(self, capacity: int) -> None:
        """Nothing hangs on it: all times go by the entries."""

    def check(self) -> None:
        """Assert that slots and keys agree, and that the history is bounded."""
        self._slots.check()
        self._ghosts.check()
        assert all((self._last[slot] > 0) == (key is not None) for slot, key in enumerate(self._slots.keys))
        assert len(self._ghosts) <= 1.5 * max(64, HISTORY_PER_ENTRY * self._held_max)
        assert len(self._samples) <= SAMPLES_MAX

    def _take_in(self, key: Key, size: int, facts: Facts) -> tuple[int, int]:
        """The slot of `key`, which is new, and how long ago its last use was, 0 if none is known."""
        now = self._now = self._now + 1
        slot = self._slots.add(key)
        gap = 0
        if self._ghosts.sets and (place := self._ghosts.find(key_digest(key))) >= 0:
            self._ghosts.take(place)
            for column, remembered in zip(self._facts, self._ghost_facts, strict=True):
                column[slot] = remembered[place]
            gap = now - self._ghost_last[place]
            self._count(slot, gap)
        else:
            for column in self._gaps:
                column[slot] = 0
            self._counts[slot] = 1
            self._rates[slot] = _RATE_UNIT
        self._last[slot] = now
        if size != self._size:
            self._size_code = quarter_octave(size)
            self._has_facts |= self._size >= 0
            self._size = size
        self._sizes[slot] = self._size_code
        if facts is not NO_FACTS:
            self._hear(slot, facts)
        elif self._has_facts:
            self._costs[slot] = self._streams[slot] = self._hours[slot] = 0
        if now >= TIME_MAX:
            self._turn_back()
        return slot, gap

    def _hear(self, slot: int, facts: Facts) -> None:
        self._has_facts = True
        cost_ms, _, stream, hour = facts
        self._costs[slot] = quarter_octave(int(1000 * cost_ms)) if cost_ms else 0
        self._streams[slot] = 0 if stream is None else stream % (STREAM_BINS - 1) + 1
        if hour is None:
            self._hours[slot] = 0
        else:
            self._hour = self._hours[slot] = hour + 1

    def _count(self, slot: int, gap: int) -> None:
        """A use of `slot` came `gap` after the one before."""
        first, second, third = self._gaps
        third[slot] = second[slot]
        second[slot] = first[slot]
        first[slot] = quarter_octave(gap)
        if self._counts[slot] < _BYTE_MAX:
            self._counts[slot] += 1
        rate = _RATE_UNIT + self._rates[slot] * math.exp(-gap / (RATE_TURNOVERS * self._held_max))
        self._rates[slot] = min(int(rate), _SHORT_MAX)

    def _release(self, slot: int) -> Key:
        """The key in `slot` is held no longer, and remembered."""
        key = self._slots.keys[slot]
        entries = len(self._slots.numbers)
        if entries > self._held_max or not self._ghosts.sets:
            self._held_max = max(self._held_max, entries)
            self._ghosts.ensure_room(HISTORY_PER_ENTRY * self._held_max)
        place = self._ghosts.put(key_digest(key))
        self._ghost_last[place] = self._last[slot]
        for column, remembered in zip(self._facts, self._ghost_facts, strict=True):
            remembered[place] = column[slot]
        self._slots.release(key)
        self._last[slot] = 0
        return key

    def _least_likely(self) -> int:
        """The slot that goes by the forecast."""
        while True:
            while self._victims:
                slot = self._victims.pop()
                if 0 < self._last[slot] <= self._ranked_at:
                    return slot
            self._study()

    def _study(self) -> None:
        """Learn from what is over, and rank anew."""
        self._learn()
        self._rank()

    def _rank(self) -> None:
        """Choose the next victims, worst first, and remember some entries to learn from."""
        self._held_max = max(self._held_max, len(self._slots))
        held = self._some()
        bins = self._bins(held)
        scores = self._forecast.score(bins)
        sizes = np.frombuffer(self._sizes, np.uint8)[held] * (math.log(2) / 4)
        scores = -np.logaddexp(0, -scores) - SIZE_WEIGHT * sizes  # of the uses, the logarithm
        count = max(len(held) * RANKED_SHARE, min(RANKED_MIN, len(held) * RANKED_SHARE_MAX), 1)
        worst = np.argpartition(scores, min(int(count), len(held)) - 1)[: int(count)]
        worst = worst[np.lexsort((np.frombuffer(self._last, np.uint32)[held[worst]], scores[worst]))]
        self._victims = held[worst][::-1].tolist()
        self._ranked_at = self._now
        if self._learns:
            self._sample(held, bins)
        self._rankings += 1

    def _some(self) -> Ints:
        """The slots of all entries, or of a part of them in turn."""
        slots = len(self._slots.keys)
        parts = math.ceil(len(self._slots) / RANKING_MAX)
        for part in range(self._rankings, self._rankings + parts):
            some = np.arange(part % parts, slots, parts)
            some = some[np.frombuffer(self._last, np.uint32)[some] > 0]
            if len(some):
                return some
        raise AssertionError("there is no entry")

    def _sample(self, held: Ints, bins: Bins) -> None:
        stride = max(1, round(len(held) / max(SAMPLE_MIN, len(held) * SAMPLE_SHARE)))
        sampled = slice(self._rankings % stride, None, stride)
        keys = self._slots.keys
        self._samples.append(
            _Sample(self._now, [keys[slot] for slot in held[sampled].tolist()], bins[:, sampled].copy())
        )

    def _learn(self) -> None:
        """From samples whose horizon is over, a few at a time."""
        horizon = int(HORIZON_TURNOVERS * len(self._slots))
        for _ in range(LEARNT_AT_ONCE_MAX):
            if not self._samples or self._samples[0].asked_at + horizon > self._now:
                break
            sample = self._samples.popleft()
            last_uses = np.array([self._last_use(cast(Key, key)) for key in sample.keys], np.int64)
            self._forecast.learn(sample.bins, last_uses > sample.asked_at)

    def _last_use(self, key: Key) -> int:
        slot = self._slots.numbers.get(key)
        if slot is not None:
            return self._last[slot]
        place = self._ghosts.find(key_digest(key))
        return self._ghost_last[place] if place >= 0 else 0

    def _bins(self, slots: Ints) -> Bins:
        ages: Ints = self._now + 1 - np.frombuffer(self._last, np.uint32)[slots].astype(np.int64)
        first, second, third = (np.frombuffer(gaps, np.uint8)[slots] for gaps in self._gaps)
        fading: Floats = np.exp(-ages / (RATE_TURNOVERS * self._held_max))
        rates = np.frombuffer(self._rates, np.uint16)[slots] * fading / _RATE_UNIT
        counts = np.frombuffer(self._counts, np.uint8)[slots]
        facts: tuple[Bins, ...] = ()
        if self._has_facts:
            sizes, costs, streams, hours = (
                np.frombuffer(column, np.uint8)[slots]
                for column in (self._sizes, self._costs, self._streams, self._hours)
            )
            # An hour ago is 2: what came in this hour is told apart from what nobody knows of.
            since = np.where(hours > 0, (24 + self._hour - hours.astype(np.int64)) % 24 + 1, 0).astype(np.uint8)
            facts = (sizes, costs, streams, since)
        return self._forecast.bins(ages, (first, second, third), counts, rates, len(self._slots), facts)

    def _age_past(self, worth: float) -> None:
        """How often entries were used counts only so much from now on. O(n), in numpy."""
        for rates in (self._rates, self._ghost_facts[-1]):
            column = np.frombuffer(rates, np.uint16)
            column[:] = (column * worth).astype(np.uint16)
        self._victims = []

    def _turn_back(self) -> None:
        """Times are used up: move all of them back."""
        by = self._now // 2
        for times in (self._last, self._ghost_last):
            move_back(times, by)
        self._now -= by
        self._victims = []
        self._samples.clear()
