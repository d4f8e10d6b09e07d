"""What an entry is worth: how often it is used, how unlike the others it is, and what making it again takes."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .feature_sketch import BITS
from .policy import Facts, Key
from .slots import Slots
from .use_forecast import quarter_octave

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

# Of frequency, uniqueness and cost to begin with; each stays within these bounds.
WEIGHTS = (0.5, 0.3, 0.2)
WEIGHT_MIN, WEIGHT_MAX = 0.05, 0.9
LEARNING_RATE = 0.5

# Uses of so many turnovers ago count a third.
FREQUENCY_TURNOVERS = 2.0

# A sketch is looked up by so many of its parts, of so many bits: two of cosine .95 agree in one of them in 92 % of the
# cases, of .9 in 76 %, of .5 in 10 %.
PARTS, PART_BITS = 6, 10

SAMPLED, SAMPLES_MAX = 64, 256


class _Sample(NamedTuple):
    asked_at: int
    keys: list[object]
    terms: Floats


class Importance(Generic[Key]):
    """α · frequency + β · uniqueness + γ · cost, with weights learnt from the hits that they earn. O(1) an entry.

    Frequency is the sum of the remembered uses, each faded by its age. Uniqueness is 1 − the cosine to the nearest of
    the entries that were there when this one came, by their sketches; the nearest is looked for among those that agree
    in a part of the sketch (P. Indyk, R. Motwani, "Approximate nearest neighbors", STOC 1998), where the newest of each
    part is known. If that one is gone, its successor in its slot is as unlike as any other. Cost is the milliseconds
    that the entry took to make times the bytes that would have to be moved. Each is put between 0 and 1 as x / (x +
    the mean); what nobody told counts as one half.

    The weights follow the hits: of some entries the terms are remembered, and a turnover later it is looked up who was
    used. A use is worth what the entry costs, in means of all. The weight of a term grows by as much as those who were
    used had more of it than the others (multiplicative weights: Y. Freund, R. Schapire, JCSS 55, 1997). So cost earns
    its weight by saving time, and frequency and uniqueness by telling who is used.

    13 bytes an entry, and 24 KiB for the parts.
    """

    def __init__(self, slots: Slots[Key], last: array[int]) -> None:
        self.weights = np.array(WEIGHTS)
        self._slots = slots
        self._last = last
        self._costs = array("B")  # by quarter octaves, 0 for none known
        self._sketches = array("Q")  # 0 for none known
        self._nearest = array("I")  # its slot + 1, 0 for none
        self._parts = tuple(array("I", bytes(4 << PART_BITS)) for _ in range(PARTS))  # slot + 1 of the newest
        self._usual = 0.0
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        for column in (self._costs, self._sketches, self._nearest):
            column.frombytes(bytes(column.itemsize * len(slots.keys)))
        slots.columns += (self._costs, self._sketches, self._nearest)

    def admitted(self, slot: int, size: int, facts: Facts) -> None:
        """The entry in `slot` is new."""
        self._costs[slot] = quarter_octave(int(1000 * facts.cost_ms * size)) if facts.cost_ms else 0
        self._sketches[slot] = facts.sketch or 0
        self._nearest[slot] = self._find_nearest(slot, facts.sketch) if facts.sketch else 0

    def of(self, slots: Ints, uses: list[Ints], now: int, turnover: int, last_use: Callable[[Key], int]) -> Floats:
        """How many times as important as usual each is; `uses` are its remembered uses, 0 for one that never was.

        `last_use` tells when an entry, held or gone, was used last, as far as is known.
        """
        terms = self._terms(slots, uses, now, turnover)
        self._learn(now, turnover, last_use)
        stride = max(1, len(slots) // SAMPLED)
        keys = [self._slots.keys[slot] for slot in slots[::stride].tolist()]
        self._samples.append(_Sample(now, [*keys], terms[:, ::stride].copy()))
        importance = np.asarray(self.weights @ terms)
        share = len(slots) / turnover  # that these are of all
        self._usual += share * (float(importance.mean()) - self._usual) if self._usual else float(importance.mean())
        return importance / self._usual

    def check(self) -> None:
        """Assert that the weights are weights."""
        assert abs(self.weights.sum() - 1) < 1e-9
        assert len(self._samples) <= SAMPLES_MAX

    def _terms(self, slots: Ints, uses: list[Ints], now: int, turnover: int) -> Floats:
        """(3, entries), each from 0 to 1."""
        frequencies = np.zeros(len(slots))
        for use in uses:
            frequencies += np.where(use > 0, np.exp((use - now) / (FREQUENCY_TURNOVERS * turnover)), 0)
        codes = np.frombuffer(self._costs, np.uint8)[slots].astype(np.float64)
        costs = np.where(codes > 0, np.exp2(codes / 4), 0)
        sketches = np.frombuffer(self._sketches, np.uint64)
        nearest = np.frombuffer(self._nearest, np.uint32)[slots].astype(np.int64)
        apart = _differing(sketches[slots], sketches[np.maximum(nearest - 1, 0)])
        unique = np.where(nearest > 0, 1 - np.maximum(0, np.cos(math.pi / BITS * apart)), 1)
        unique = np.where(sketches[slots] > 0, unique, 0.5)
        return np.stack([_squashed(frequencies), unique, _squashed(costs)])

    def _find_nearest(self, slot: int, sketch: int) -> int:
        """The slot + 1 of the most similar of those that agree in a part; it is the newest of its parts from now on."""
        nearest, least = 0, BITS + 1
        for part, table in enumerate(self._parts):
            at = sketch >> part * PART_BITS & (1 << PART_BITS) - 1
            other = table[at]
            table[at] = slot + 1
            if other and other != slot + 1 and self._last[other - 1]:
                apart = (self._sketches[other - 1] ^ sketch).bit_count()
                if apart < least:
                    nearest, least = other, apart
        return nearest

    def _learn(self, now: int, turnover: int, last_use: Callable[[Key], int]) -> None:
        """From the oldest sample, if a turnover has passed since."""
        if not self._samples or self._samples[0].asked_at + turnover > now:
            return
        asked_at, keys, terms = self._samples.popleft()
        was_used = np.array([last_use(cast(Key, key)) > asked_at for key in keys])
        # The third term is x / (x + mean), so this is x / mean; 1 where no cost is known.
        worth = terms[2] / np.maximum(1 - terms[2], 1e-3)
        if was_used.any():
            earned = np.average(terms[:, was_used], axis=1, weights=worth[was_used] + 1e-9) - terms.mean(axis=1)
            weights = np.clip(self.weights * np.exp(LEARNING_RATE * earned), WEIGHT_MIN, WEIGHT_MAX)
            self.weights = weights / weights.sum()


def _squashed(values: Floats) -> Floats:
    """x / (x + the mean of those known), one half for what is not known."""
    known = values > 0
    if not known.any():
        return np.full(len(values), 0.5)
    return np.where(known, values / (values + values[known].mean()), 0.5)


def _differing(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> Ints:
    """How many bits differ."""
    octets = np.bitwise_xor(one, other).view(np.uint8).reshape(-1, 8)
    return np.asarray(_ONES[octets].sum(axis=1))


_ONES = np.array([bits.bit_count() for bits in range(256)], np.int64)
