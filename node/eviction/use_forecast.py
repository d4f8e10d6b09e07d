"""Will an entry be used within the next turnover? A small model that learns it from what happened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Bins: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float64]

# Times are binned by half octaves, from 1/64 of a turnover to 100 of them; the last bin is for a gap that never was.
TIME_BINS = 28
COUNT_BINS = 12
RATE_BINS = 28

# Of what may be known of an entry besides: its size by half octaves, its cost by octaves, who asked for it, and how
# many hours ago it came. Each has 0 for what is not known.
SIZE_BINS, COST_BINS, STREAM_BINS, HOUR_BINS = 128, 32, 33, 25
_BINS_PER_OCTAVE = 2
_RATE_BINS_PER_OCTAVE = 3
_SHORTEST = 64.0

# Adagrad's first step. Mean hit ratio of the forecast alone on four traces at three sizes: .03 .4412, .05 .4409; on six
# of these cells .1 has .4274 and .3 .4201.
LEARNING_RATE = 0.05


class UseForecast:
    """Logistic regression on binned facts and on pairs of them: a sum of one weight from each of some tables.

    The facts of an entry are the age of its last use, the three gaps before that, how many uses are known, and their
    rate faded over two turnovers. No weight is told what it means, so a gap may speak for an entry at one age and
    against it at another: a frame that comes back every minute is worth keeping after 50 seconds, and no longer after
    70. The pairs (age and last gap, age and count, last two gaps, age and rate) let the model say that.

    Where sizes differ or facts are told, there are seven tables more: size, cost, stream and the hours since it came,
    and the first, third and fourth of these with the age. On the edge-vision workload, which tells size, stream and
    hour, the hit ratio with seed 0 is .7205 with them and .7150 without.

    Learnt online with a step per weight that shrinks as evidence gathers (J. Duchi, E. Hazan, Y. Singer, "Adaptive
    subgradient methods for online learning and stochastic optimization", JMLR 12, 2011). Asking for a use within a
    horizon, and not for the time of the next, is the relaxation of Z. Song et al., "Learning relaxed Belady for content
    distribution network caching", NSDI 2020: which of two entries beyond the horizon goes first hardly matters.
    """

    def __init__(self) -> None:
        time, count, rate = TIME_BINS, COUNT_BINS, RATE_BINS
        widths = [time, time, time, time, count, rate, time * time, time * count, time * time, time * rate]
        facts = (SIZE_BINS, COST_BINS, STREAM_BINS, HOUR_BINS)
        widths += [*facts, time * SIZE_BINS, time * STREAM_BINS, time * HOUR_BINS]
        self._starts = np.concatenate(([0], np.cumsum(widths[:-1])))[:, None]
        self._weights = np.zeros(sum(widths))
        self._evidence = np.ones(sum(widths))

    def bins(
        self,
        ages: Ints,
        gaps: tuple[Bins, Bins, Bins],
        counts: Bins,
        rates: Floats,
        turnover: int,
        facts: Sequence[Bins] = (),
    ) -> Bins:
        """What the forecast goes by: (6, entries), or (10, entries) with facts. Ages in uses, gaps in quarter octaves.

        The `facts`, if any, are the sizes and the costs in quarter octaves, the streams, and the hours since it came.
        """
        logs = _BINS_PER_OCTAVE * np.log2(np.maximum(ages, 1) * (_SHORTEST / turnover))
        age = np.clip(logs.astype(np.int64) + 4, 0, TIME_BINS - 2)
        codes = np.arange(256)
        shift = math.floor(2 * _BINS_PER_OCTAVE * math.log2(_SHORTEST / turnover)) - 1
        of_code = np.clip(((codes + shift) // 2) + 4, 0, TIME_BINS - 2)
        of_code[0] = TIME_BINS - 1
        doubled = (2 * np.log2(np.maximum(codes, 1))).astype(np.int64)
        of_count = np.minimum(np.where(codes <= 4, codes, doubled), COUNT_BINS - 1)
        rate_log = (_RATE_BINS_PER_OCTAVE * np.log2(rates + 1e-3)).astype(np.int64)
        rate = np.clip(rate_log + RATE_BINS // 2 - 2, 0, RATE_BINS - 1)
        rows = [age, *(of_code[gap] for gap in gaps), of_count[counts], rate]
        if facts:
            size, cost, stream, hours = facts
            rows += [size >> 1, np.minimum(cost >> 2, COST_BINS - 1), stream, hours]
        return np.stack(rows).astype(np.uint8)

    def score(self, bins: Bins) -> Floats:
        """The log-odds of a use within the horizon: (entries,)."""
        return np.asarray(self._weights[self._places(bins)].sum(axis=0))

    def learn(self, bins: Bins, was_used: npt.NDArray[np.bool_]) -> None:
        """Take a step towards what happened to each entry."""
        places = self._places(bins)
        errors = 1 / (1 + np.exp(-self._weights[places].sum(axis=0))) - was_used
        sums = np.bincount(places.ravel(), np.tile(errors, len(places)), len(self._weights))
        touched = np.flatnonzero(sums)
        gradient = sums[touched]
        self._evidence[touched] += gradient * gradient
        self._weights[touched] -= LEARNING_RATE * gradient / np.sqrt(self._evidence[touched])

    def _places(self, bins: Bins) -> Ints:
        """The weight of each table that speaks for each entry: (tables, entries)."""
        age, last, second, third, count, rate, *facts = bins.astype(np.int64)
        places = [
            *(age, last, second, third, count, rate),
            age * TIME_BINS + last,
            age * COUNT_BINS + count,
            last * TIME_BINS + second,
            age * RATE_BINS + rate,
        ]
        if facts:
            size, _, stream, hours = facts
            places += [*facts, age * SIZE_BINS + size, age * STREAM_BINS + stream, age * HOUR_BINS + hours]
        return np.stack(places) + self._starts[: len(places)]


def quarter_octave(number: int) -> int:
    """In which quarter octave `number` is, in a byte; 0 for 0."""
    return min((number * number * number * number).bit_length(), 255)
