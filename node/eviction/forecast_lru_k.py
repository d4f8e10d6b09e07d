"""LRU-K's history, ranked by a learnt forecast: what is least likely to be used again soon goes first."""

from __future__ import annotations

import math
from array import array
from collections import deque
from typing import Generic, NamedTuple, cast

import numpy as np

from .policy import NO_FACTS, Facts, Key
from .use_forecast import Floats, Ints, UseForecast

# The question asked of the forecast: is there a use within so many turnovers (as many uses as entries are held)? Mean
# hit ratio on four traces at three sizes: .7 .4408, 1 .4409; 3 is lower by .009 than 1.5 on six of these cells.
HORIZON_TURNOVERS = 1.0

# The uses of so many evicted entries are remembered, for each one held. Mean hit ratio as above: 1 .4335, 2 .4370, 4
# .4409.
HISTORY_PER_ENTRY = 4

# A ranking of all entries serves this share of them as victims. Where few are held it serves more: ranking 70 entries
# takes 0.1 ms, as long as ranking 1000.
RANKED_SHARE = 1 / 16
RANKED_MIN, RANKED_SHARE_MAX = 32, 1 / 4

# At most so many entries are ranked at once, of more a part in turn: it keeps whoever waits waiting for some
# milliseconds.
RANKING_MAX = 8192

# At each ranking so many entries are remembered, to learn from when the horizon has passed.
SAMPLE_MIN, SAMPLE_SHARE, SAMPLE_MAX = 32, 1 / 16, 256

# So many rankings wait for their horizon at most; 100,000 entries have about 200.
SAMPLES_MAX = 1024

RATE_TURNOVERS = 2.0  # over which the rate of use fades


class _Sample(NamedTuple):
    asked_at: int
    slots: Ints
    owners: Ints
    features: Ints


class ForecastLRUK(Generic[Key]):
    """Evicts by the forecast of `UseForecast`. O(1) for a use and, amortised, for an eviction, learning included.

    Each key has a slot in a few arrays: the last four uses (as the last time and three gaps), how many there were, and
    their rate. It keeps the slot after its eviction, until the history is full. Scoring one entry in Python costs as
    much as scoring a hundred in numpy, so all entries are ranked at once, and the worst sixteenth of them are the next
    victims, but for those that are used meanwhile.

    The answers to learn from are its own past: some entries of each ranking are kept with their facts, and when the
    horizon is over their slots tell whether a use came, whether they were still held or not.
    """

    def __init__(self) -> None:
        self._now = 0
        self._held_count = 0
        self._held_max = 0
        self._slots: dict[Key, int] = {}
        self._free: list[int] = []
        self._keys: list[Key | None] = []
        self._is_held = array("b")
        self._owners = array("q")  # how many keys had the slot before
        self._last_uses = array("q")
        self._gaps = (array("q"), array("q"), array("q"))
        self._counts = array("q")
        self._rates = array("d")
        self._victims: list[int] = []  # the next one last
        self._ranked_at = 0
        self._forecast = UseForecast()
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._rankings = 0

    def __len__(self) -> int:
        return self._held_count

    def __contains__(self, key: object) -> bool:
        slot = self._slots.get(cast(Key, key))
        return slot is not None and bool(self._is_held[slot])

    def hit(self, key: Key) -> None:
        """A use."""
        self._now += 1
        self._use(self._slots[key])

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, with the history it left behind."""
        self._now += 1
        slot = self._slots.get(key)
        if slot is None:
            slot = self._new_slot(key)
        else:
            self._use(slot)
        self._is_held[slot] = 1
        self._held_count += 1
        self._held_max = max(self._held_max, self._held_count)

    def evict(self) -> Key:
        """The next of the last ranking that was not used since."""
        while True:
            while self._victims:
                slot = self._victims.pop()
                if self._is_held[slot] and self._last_uses[slot] <= self._ranked_at:
                    self._is_held[slot] = 0
                    self._held_count -= 1
                    key = self._keys[slot]
                    assert key is not None
                    return key
            self._learn()
            self._rank()

    def remove(self, key: Key) -> None:
        """Forget `key` and its history."""
        slot = self._slots[key]
        self._is_held[slot] = 0
        self._held_count -= 1
        self._release(slot)

    def check(self) -> None:
        """Assert that slots and keys agree, and that the history is bounded."""
        assert self._held_count == sum(self._is_held)
        assert all(self._keys[slot] == key for key, slot in self._slots.items())
        assert len(self._slots) + len(self._free) == len(self._keys)
        assert len(self._keys) <= max(1, (1 + HISTORY_PER_ENTRY) * self._held_max)

    def _use(self, slot: int) -> None:
        gap = self._now - self._last_uses[slot]
        first, second, third = self._gaps
        third[slot] = second[slot]
        second[slot] = first[slot]
        first[slot] = gap
        self._last_uses[slot] = self._now
        self._counts[slot] += 1
        self._rates[slot] = 1.0 + self._rates[slot] * math.exp(-gap / (RATE_TURNOVERS * self._held_max))

    def _new_slot(self, key: Key) -> int:
        if not self._free:
            if len(self._keys) < (1 + HISTORY_PER_ENTRY) * self._held_max or not self._keys:
                self._free.append(self._grow())
            else:
                self._forget_oldest()
        slot = self._free.pop()
        self._slots[key] = slot
        self._keys[slot] = key
        self._last_uses[slot] = self._now
        self._counts[slot] = 1
        self._rates[slot] = 1.0
        for gaps in self._gaps:
            gaps[slot] = 0
        return slot

    def _grow(self) -> int:
        self._keys.append(None)
        for column in (self._is_held, self._owners, self._last_uses, *self._gaps, self._counts):
            column.append(0)
        self._rates.append(0.0)
        return len(self._keys) - 1

    def _forget_oldest(self) -> None:
        """Free the slots of the sixteenth of the history that was not used for longest."""
        gone = np.flatnonzero(np.frombuffer(self._is_held, np.int8) == 0)
        last_uses = np.frombuffer(self._last_uses, np.int64)[gone]
        count = max(1, len(gone) // 16)
        for slot in gone[np.argpartition(last_uses, count - 1)[:count]].tolist():
            self._release(slot)

    def _release(self, slot: int) -> None:
        key = self._keys[slot]
        assert key is not None
        del self._slots[key]
        self._keys[slot] = None
        self._owners[slot] += 1
        self._free.append(slot)

    def _rank(self) -> None:
        """Choose the next victims, worst first, and remember some entries to learn from."""
        held = np.flatnonzero(np.frombuffer(self._is_held, np.int8))
        parts = math.ceil(len(held) / RANKING_MAX)
        held = held[self._rankings % parts :: parts]
        features = self._features(held)
        scores = self._forecast.score(features)
        count = max(len(held) * RANKED_SHARE, min(RANKED_MIN, len(held) * RANKED_SHARE_MAX), 1)
        worst = np.argpartition(scores, min(int(count), len(held)) - 1)[: int(count)]
        last_uses = np.frombuffer(self._last_uses, np.int64)[held[worst]]
        worst = worst[np.lexsort((last_uses, scores[worst]))]
        self._victims = held[worst][::-1].tolist()
        self._ranked_at = self._now

        stride = max(1, round(len(held) / min(max(SAMPLE_MIN, len(held) * SAMPLE_SHARE), SAMPLE_MAX)))
        sampled = slice(self._rankings % stride, None, stride)
        owners = np.frombuffer(self._owners, np.int64)[held[sampled]]
        self._samples.append(_Sample(self._now, held[sampled], owners, features[:, sampled]))
        self._rankings += 1

    def _learn(self) -> None:
        """From the samples whose horizon is over."""
        horizon = int(HORIZON_TURNOVERS * self._held_count)
        while self._samples and self._samples[0].asked_at + horizon <= self._now:
            sample = self._samples.popleft()
            is_same = np.frombuffer(self._owners, np.int64)[sample.slots] == sample.owners
            was_used = np.frombuffer(self._last_uses, np.int64)[sample.slots] > sample.asked_at
            self._forecast.learn(sample.features, is_same & was_used)

    def _features(self, slots: Ints) -> Ints:
        ages: Ints = self._now + 1 - np.frombuffer(self._last_uses, np.int64)[slots]
        first, second, third = (np.frombuffer(gaps, np.int64)[slots] for gaps in self._gaps)
        fading: Floats = np.exp(-ages / (RATE_TURNOVERS * self._held_max))
        rates = np.frombuffer(self._rates, np.float64)[slots] * fading
        counts = np.frombuffer(self._counts, np.int64)[slots]
        return self._forecast.features(ages, (first, second, third), counts, rates, self._held_count)
