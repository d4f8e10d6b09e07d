"""Whether asking the cloud can pay, for who could encode instead. Pure.

A WAN's round trip is spent on every miss. With a share p of hits, a hit after f seconds, a miss after m, and e seconds
to encode here, asking is worth it where what the hits save is more than what the misses cost:

    p · (e - f)  >  (1 - p) · m

For a camera whose encoder takes 60 ms, behind a WAN of 40 ms, that is nearly never; for one that takes 3 s it is from a
hit in 75 on. What is known fades: with nothing new for ten minutes, half of it is forgotten, so that a cloud which was
slow, or had nothing, is tried again some time.
"""

from __future__ import annotations

import math

# What is assumed of a cloud that nobody has asked: a WAN's usual round trip, and 151 KB at 20 Mbit/s after it.
HITS_UNKNOWN = 0.5
MISS_UNKNOWN_S = 0.08
HIT_UNKNOWN_S = 0.15
FADES_S = 600.0
# Of the newest in a moving average. Times change from one minute to the next, what is in the cloud does not.
_TIME_WEIGHT = 0.25
_HITS_WEIGHT = 0.05


class CloudWorth:
    """What the cloud's answers have been like."""

    def __init__(self) -> None:
        self._hits = _Fading(HITS_UNKNOWN)
        self._hit_s = _Fading(HIT_UNKNOWN_S)
        self._miss_s = _Fading(MISS_UNKNOWN_S)

    def answered(self, now: float, seconds: float, *, is_hit: bool) -> None:
        """One question was answered after `seconds`."""
        self._hits.add(now, float(is_hit), _HITS_WEIGHT)
        (self._hit_s if is_hit else self._miss_s).add(now, seconds, _TIME_WEIGHT)

    def gave_up(self, now: float, seconds: float) -> None:
        """Nobody waits any more: it would have taken longer than that."""
        for known in (self._hit_s, self._miss_s):
            if known.at(now) < seconds:
                known.add(now, seconds, _TIME_WEIGHT)

    def hit_s(self, now: float) -> float:
        """How long a hit is expected to take."""
        return self._hit_s.at(now)

    def miss_s(self, now: float) -> float:
        """How long a miss is expected to take."""
        return self._miss_s.at(now)

    def pays(self, now: float, instead_s: float, *, is_known: bool = False) -> bool:
        """Whether to ask, for who would need `instead_s` to encode; `is_known`: it is sure to be there."""
        hits = 1.0 if is_known else self._hits.at(now)
        return hits * (instead_s - self._hit_s.at(now)) > (1 - hits) * self._miss_s.at(now)


class _Fading:
    """A moving average that returns to what was assumed while nothing comes."""

    def __init__(self, unknown: float) -> None:
        self._unknown = unknown
        self._value = unknown
        self._since = 0.0

    def at(self, now: float) -> float:
        return self._unknown + (self._value - self._unknown) * math.exp2(-max(0.0, now - self._since) / FADES_S)

    def add(self, now: float, value: float, weight: float) -> None:
        before = self.at(now)
        self._value = before + weight * (value - before)
        self._since = now
